"""The configuration: defaults and their explanations agree, mistakes are answered in one useful line, no torch."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from trainer.config import DEFAULTS_FILE, Config, load, parse, recipes
from trainer.errors import ConfigError


def _fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, (*path, name))
        else:
            yield path, name


def _drop_none(value: Any) -> Any:
    return {k: _drop_none(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def test_defaults_file_equals_the_models_defaults() -> None:
    """The TOML file states exactly what the code does; fields without a default are left out of it."""
    assert tomllib.loads(DEFAULTS_FILE.read_text()) == _drop_none(Config().model_dump(mode="json"))


def test_every_field_is_explained_under_its_section() -> None:
    """Each field has a line of its own, in its section, with a comment."""
    explained: set[tuple[tuple[str, ...], str]] = set()
    section: tuple[str, ...] = ()
    for line in DEFAULTS_FILE.read_text().splitlines():
        if header := re.match(r"\[([a-z_.]+)\]", line):
            section = tuple(header[1].split("."))
        elif field := re.match(r"(?:# )?([a-z_]+) = [^#]+# \S.+", line):
            explained.add((section, field[1]))
    assert explained == set(_fields(Config))


def test_overrides_win_over_the_file_and_read_as_toml(tmp_path: Path) -> None:
    """Numbers, lists, booleans and bare words all work on the command line."""
    path = tmp_path / "run.toml"
    path.write_text("[learner]\nlr = 1e-5\nepochs = 3\n")
    config = load(
        path,
        ["learner.lr=1e-3", "task.arithmetic.levels=[3, 4]", "allocator.k_init=auto", "logging.tensorboard=true"],
    )
    assert (config.learner.lr, config.learner.epochs) == (1e-3, 3)
    assert config.task.arithmetic.levels == [3, 4]
    assert config.task.options["levels"] == [3, 4]
    assert config.allocator.k_init == "auto"
    assert config.logging.tensorboard is True


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("learner.learning_rate=1", "learner.learning_rate: there is no such field; did you mean learner."),
        ("learner.lr=-1", "learner.lr = -1: input should be greater than 0; the default is 0.0002"),
        ("allocator.estimator=ppo", "allocator.estimator = 'ppo': input should be 'group_mean'"),
        ("allocator.k_init=32", "k_init (32) must not exceed k_max (16)"),
        ("allocator.k_init=some", "allocator.k_init = 'some'"),
        ("task.name=jsonl", 'name = "jsonl" needs task.jsonl.path'),
        ("optimizer.lr=1", "optimizer: there is no such field"),
        ("lr=1", "write section.field=value, for example learner.lr=1e-3"),
        ("learner.lr", "write section.field=value"),
        ("run.seed.x=1", "run.seed = {'x': 1}: input should be a valid integer; the default is 0"),
        ("run.rollouts=0", "run.rollouts = 0: input should be greater than or equal to 1; the default is 20000"),
        ("allocator.pacing_steps=0", "allocator.pacing_steps = 0: input should be greater than or equal to 1"),
        ("allocator.pacing_steps=9", "allocator.pacing_steps needs rollouts.prompts_per_step"),
        ("policy.demo.kv_heads=3", "heads (4) must be a multiple of kv_heads (3)"),
    ],
)
def test_a_mistake_is_answered_in_one_line(override: str, told: str) -> None:
    """The message names the field and what to write instead."""
    with pytest.raises(ConfigError) as caught:
        load(None, [override])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_an_end_is_refused() -> None:
    """Neither steps nor rollouts: said so."""
    with pytest.raises(ConfigError, match="a run needs an end"):
        parse({"run": {"rollouts": None}})


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"price": 0.1}, "^allocator: price and pacing_steps both set the price; leave one of them out$"),
        ({"stopping": "fixed"}, "^allocator: pacing sets a price, .* use one of posterior_variance, osla$"),
    ],
)
def test_pacing_goes_with_no_price_by_hand_and_a_rule_that_has_one(other: dict[str, object], told: str) -> None:
    """The message says what to leave out or to take instead."""
    with pytest.raises(ConfigError, match=told):
        parse({"allocator": {"pacing_steps": 9, **other}, "rollouts": {"prompts_per_step": 4}})


def test_pacing_without_a_budget_is_refused() -> None:
    """There is nothing to spread."""
    run = {"rollouts": None, "steps": 9}
    with pytest.raises(ConfigError, match=r"set run\.rollouts$"):
        parse({"run": run, "allocator": {"pacing_steps": 9}, "rollouts": {"prompts_per_step": 4}})


def test_an_unreadable_file_is_a_config_error(tmp_path: Path) -> None:
    """A missing file and a file that is no TOML are told apart."""
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[learner\n")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        load(broken)


def test_method_names_itself_after_its_rules() -> None:
    """Tables call a run by its name, or by estimator, rule and sizes."""
    assert load(None, ["run.name=ours"]).method == "ours"
    fixed = ["allocator.estimator=group_mean", "allocator.stopping=fixed", "allocator.k_init=16"]
    assert load(None, fixed).method == "group_mean, fixed, 16"


def test_the_command_line_needs_no_torch() -> None:
    """Reading a configuration and asking for help imports neither torch nor transformers."""
    code = (
        "import sys, trainer, trainer.config, trainer.cli;"
        "bad = {'torch', 'transformers', 'matplotlib', 'tensorboard'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_recipe_lies_under_the_file_and_overrides_over_both(tmp_path: Path) -> None:
    """Each layer changes what it names and nothing else."""
    path = tmp_path / "run.toml"
    path.write_text("[allocator]\nk_max = 8\nk_init = 8\n")
    config = load(path, ["learner.lr=1e-3"], "grpo")
    assert (config.allocator.estimator, config.allocator.k_max) == ("group_mean", 8)
    assert (config.learner.advantage_scale, config.learner.lr) == ("group_std", 1e-3)
    assert config.rollouts == Config().rollouts


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_is_a_method_of_its_own(name: str) -> None:
    """It can be read, says what it is, and differs from all others in what decides about rollouts or their advantages."""
    config = load(recipe=name)
    assert len(recipes()[name]) > 60
    others = [load(recipe=other) for other in recipes() if other != name]
    assert all(
        (config.allocator, config.rollouts, config.learner) != (o.allocator, o.rollouts, o.learner) for o in others
    )
    assert config.run.name


def test_our_recipe_is_the_default() -> None:
    """Who names no recipe gets it."""
    ours = load(recipe="rollout_budget")
    assert ours.model_copy(update={"run": Config().run}) == Config()


def test_a_recipe_that_is_not_there_is_told_with_its_neighbours() -> None:
    """The nearest name, or all."""
    with pytest.raises(ConfigError, match="did you mean grpo"):
        load(recipe="gpro")
    with pytest.raises(ConfigError, match="there are dapo, dr_grpo"):
        load(recipe="xyz")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["learner.lora.rank=8"], r'set weights\.backend = "lora"'),
        (["weights.backend=lora"], r"set learner\.lora\.rank"),
        (["learner.advantage_scale=group_std"], "needs a baseline from the group itself"),
        (["rollouts.urls=['http://a', 'http://b']", "rollouts.weights=[1]"], "1 numbers for 2 urls"),
    ],
)
def test_settings_that_contradict_each_other_are_told(overrides: list[str], told: str) -> None:
    """Each says what to write instead."""
    with pytest.raises(ConfigError, match=told):
        load(None, overrides)
