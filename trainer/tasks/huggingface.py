"""Data sets of the Hugging Face hub by name, or the same from a local folder.

Reads with the `datasets` library (extra `trainer-data`): parquet, JSON and CSV files, or a folder of `save_to_disk`. Names
of well-known sets bring their columns and their usual prompt (`trainer.tasks.presets`); any other set is told them by the
options. Rows are read once, when the task is built; what cannot be used is left out and counted (`trainer.tasks.rows`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError
from trainer.tasks.presets import ANSWER_FORMS, PLAIN_TEMPLATE, PRESETS, Preset, level_of
from trainer.tasks.rows import Columns, Row, RowReader, RowTask, Sets, split, value_of, without
from trainer.types import Problem

BATCH_ROWS = 1000
"""Rows decoded at a time: fewer cost more per row, more are no faster."""


@dataclass(frozen=True)
class HuggingFace(RowTask):
    """The task. Held-out problems come from another set, else from another split, else are a share chosen by key.

    Attributes:
        dataset: a preset's name, a name on the hub, or a local folder.
        path: a local folder to read `dataset` from, in the layout that it has on the hub.
        subset, split: configuration and split of the training rows.
        held_out_dataset: another set to measure on, as `dataset`; its own split and columns if it is a preset.
        held_out_path: a local folder to read that set from; without `held_out_dataset`, of the same layout as `dataset`.
        held_out_split: split of the held-out rows.
        held_out_share: share of the rows held out where nothing above says which, in [0, 1).
        prompt_field: text, or a list of chat messages, whose texts are joined.
        answer_field: the answer, or a text that holds it.
        answer_form: `plain`, `after_hashes` (GSM8K) or `boxed` (MATH).
        key_field: a stable id; without it the key is a hash of the prompt.
        level_field: a difficulty: 3, "3" or "Level 3".
        template: what is asked; `{prompt}` stands for the field's text.

    Options that are None follow the preset, if there is one.
    """

    dataset: str
    path: str | None = None
    subset: str | None = None
    split: str | None = None
    held_out_dataset: str | None = None
    held_out_path: str | None = None
    held_out_split: str | None = None
    held_out_share: float = 0.1
    prompt_field: str | None = None
    answer_field: str | None = None
    answer_form: str | None = None
    key_field: str | None = None
    level_field: str | None = None
    template: str | None = None
    name: str = field(default="huggingface", init=False)

    def __post_init__(self) -> None:
        if self.answer_form is not None and self.answer_form not in ANSWER_FORMS:
            raise ConfigError(
                f"task.huggingface.answer_form: {self.answer_form!r} is none of {', '.join(ANSWER_FORMS)}"
            )
        if self.template is not None and "{prompt}" not in self.template:
            raise ConfigError("task.huggingface.template: {prompt} must stand where the prompt goes")
        self.require_usable(f"dataset: {self.dataset}", "all rows are held out")

    @cached_property
    def _sets(self) -> Sets:
        left_out: Counter[str] = Counter()
        own = self._told(_preset(self.dataset))
        problems = self._read(own, self.path, left_out)
        other = self._other(own)
        if other is None:
            return *split(problems, self.held_out_share), left_out
        held_out = self._read(other, self.held_out_path or (None if self.held_out_dataset else self.path), left_out)
        return without(problems, held_out), held_out, left_out

    def _told(self, preset: Preset) -> Preset:
        """Return the preset with what the options say instead."""
        said_so = {
            name: getattr(self, name)
            for name in ("subset", "split", "prompt_field", "answer_field", "answer_form", "level_field", "template")
            if getattr(self, name) is not None
        }
        return replace(preset, **said_so)

    def _other(self, own: Preset) -> Preset | None:
        """Return where held-out rows are; None where they are a share of the training rows."""
        if self.held_out_dataset is not None:
            preset = PRESETS.get(self.held_out_dataset)
            other = preset or replace(
                own, dataset=self.held_out_dataset, subset=None, split=own.held_out_split or "test"
            )
            return replace(other, split=self.held_out_split or other.split)
        chosen = self.held_out_split or own.held_out_split
        if self.held_out_path is not None:
            return replace(own, split=chosen or own.split)
        return replace(own, split=chosen) if chosen else None

    def _read(self, source: Preset, path: str | None, left_out: Counter[str]) -> tuple[Problem, ...]:
        reader = RowReader(
            Columns(
                source.prompt_field,
                source.answer_field,
                self.key_field if source.dataset == _preset(self.dataset).dataset else None,
                source.level_field,
            ),
            prompt_of=partial(_filled, source.template),
            answer_of=ANSWER_FORMS[source.answer_form],
            level_of=level_of,
            strict=False,
            left_out=left_out,
        )
        return reader.read(_rows(source, path))


def _preset(name: str) -> Preset:
    """Return the preset of this name, or plain columns for any other set."""
    return PRESETS.get(name) or Preset(name, "prompt", "answer", template=PLAIN_TEMPLATE)


def _filled(template: str, prompt: str) -> str:
    """Put the prompt into the template: no `str.format`, since both may hold other braces."""
    return template.replace("{prompt}", prompt)


def _rows(source: Preset, path: str | None) -> Iterator[Row]:
    """Yield each row of a split with its place; prompt and answer as text, empty where the set has none."""
    place = path or source.dataset
    for number, row in enumerate(_batched(_load(source, path))):
        where = f"{place} {source.split} row {number}"
        yield where, {**row, **{name: _plain(row, name, where) for name in (source.prompt_field, source.answer_field)}}


def _batched(rows: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a loaded split, decoded many at a time: DAPO's set repeats itself to 1.8 million."""
    for batch in rows.iter(batch_size=BATCH_ROWS):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _plain(row: Mapping[str, Any], name: str, where: str) -> Any:
    value = value_of(row, name, where)
    if value is None:
        return ""
    if not isinstance(value, list):
        return value
    if not all(isinstance(item, Mapping) and isinstance(item.get("content"), str) for item in value):
        raise ConfigError(
            f"{where}: field {name!r} must be text or a list of messages with content, found {value!r:.80}"
        )
    return "\n\n".join(item["content"] for item in value)


def _load(source: Preset, path: str | None) -> Any:
    """Return the rows of a split.

    Raises:
        ConfigError: the library is missing, the hub cannot be reached, or there is no such set, subset or split.
    """
    try:
        import datasets  # noqa: PLC0415 - a second of imports, and an extra that other tasks do without
    except ImportError as error:
        raise ConfigError(
            "task.huggingface needs the datasets library: pip install 'rollout-budget[trainer-data]'"
        ) from error
    place = str(Path(path).expanduser()) if path is not None else source.dataset
    if (path is not None or place.startswith(("/", ".", "~"))) and not Path(place).is_dir():
        raise ConfigError(f"task.huggingface: there is no folder {place}")
    datasets.disable_progress_bars()
    try:
        if Path(place, "dataset_dict.json").is_file() or Path(place, "state.json").is_file():
            saved = datasets.load_from_disk(place)
            return saved[source.split] if isinstance(saved, datasets.DatasetDict) else saved
        subset = source.subset
        if path is not None and subset not in datasets.get_dataset_config_names(place):
            subset = None  # a folder with one subset's files alone
        return datasets.load_dataset(place, subset, split=source.split)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(_advice(place, source.split, error)) from error


def _advice(place: str, split_name: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    message = f"task.huggingface: cannot read split {split_name!r} of {place}: {reason}"
    if isinstance(error, ConnectionError):
        return (
            f"{message}; without a hub, set task.huggingface.path to a folder with its files (HF_HUB_OFFLINE=1 uses what"
            " was fetched before, and asks no network)"
        )
    return message
