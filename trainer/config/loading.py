"""Reading a configuration: a TOML file over the defaults, overrides over both, and what is wrong in one line."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from trainer.config.sections import Config
from trainer.errors import ConfigError

RECIPES = Path(__file__).parents[1] / "recipes"
"""One TOML file a method: what it changes of the defaults, so that a comparison is one flag."""


def recipes() -> dict[str, str]:
    """Return the methods by name, each with the first sentence of its file."""
    found = {}
    for path in sorted(RECIPES.glob("*.toml")):
        comment = [line.removeprefix("#").strip() for line in path.read_text().split("\n[", 1)[0].splitlines()]
        found[path.stem] = " ".join(comment)
    return found


def load(path: Path | str | None = None, overrides: Sequence[str] = (), recipe: str | None = None) -> Config:
    """Read a recipe over the defaults, a TOML file over it and overrides over all.

    Args:
        path: a TOML file; None takes the defaults.
        overrides: `section.field=value` with a TOML value (`learner.lr=1e-3`, `task.arithmetic.levels=[1, 2]`); what is no TOML
            value is taken as a string.
        recipe: name of a method (`recipes`); None takes the defaults, which are this project's own.

    Raises:
        ConfigError: in one line, which field cannot be used and what to write instead.
    """
    data = {} if recipe is None else _recipe(recipe)
    if path is not None:
        data = _over(data, _read(Path(path)))
    for override in overrides:
        _apply(data, override)
    return parse(data)


def with_recipe(config: Config, name: str) -> Config:
    """Return a configuration as a method: its allocator's rules are those of the recipe alone, where it is stays.

    Raises:
        ConfigError: as `load`.
    """
    data = config.model_dump(
        mode="json", exclude={"allocator": set(type(config.allocator).model_fields) - {"url", "key_file"}}
    )
    return parse(_over(data, _recipe(name)))


def parse(data: Mapping[str, Any]) -> Config:
    """Check nested settings and return them with every default filled in.

    Raises:
        ConfigError: as `load`.
    """
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _read(path: Path) -> dict[str, Any]:
    """Read TOML, written by hand, or JSON, written by a launcher."""
    try:
        text = path.read_text(encoding="utf-8")
        data: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    return data


def _recipe(name: str) -> dict[str, Any]:
    known = recipes()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise ConfigError(f"recipe {name!r}: there is none of that name; {hint}")
    return _read(RECIPES / f"{name}.toml")


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with others on top."""
    merged = dict(below)
    for name, value in above.items():
        inner = merged.get(name)
        merged[name] = _over(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _apply(data: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    *sections, field = name.strip().split(".")
    if not separator or not sections or not all(sections) or not field:
        raise ConfigError(f"{override!r} is no override; write section.field=value, for example learner.lr=1e-3")
    for section in sections:
        inner = data.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{name.strip()}: {section!r} is a value, not a section")
        data = inner
    data[field] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: ValidationError) -> str:
    """Turn the first of pydantic's complaints into one line: field, complaint, what to write instead."""
    errors = error.errors(include_url=False, include_context=False)
    first, more = errors[0], len(errors) - 1
    place = [str(part) for part in first["loc"] if part not in {"int", "constrained-int"}]
    names = [part for part in place if not part.startswith("literal[")]
    field, tail = ".".join(names), f" (and {more} more)" if more else ""
    if first["type"] == "extra_forbidden":
        return f"{field}: there is no such field; {_nearest(names)}{tail}"
    complaint = first["msg"].removeprefix("Value error, ")
    if not names or first["type"] == "value_error":
        return f"{field + ': ' if field else ''}{complaint}{tail}"
    return (
        f"{field} = {first['input']!r}: {complaint[:1].lower()}{complaint[1:]}; the default is {_default(names)}{tail}"
    )


def _nearest(names: Sequence[str]) -> str:
    model: type[BaseModel] = Config
    for name in names[:-1]:
        model = _section(model, name) or model
    close = difflib.get_close_matches(names[-1], model.model_fields, n=1, cutoff=0.4)
    known = ", ".join(model.model_fields)
    return f"did you mean {'.'.join([*names[:-1], close[0]])}?" if close else f"known here: {known}"


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _default(names: Sequence[str]) -> str:
    value: Any = Config()
    for name in names:
        value = getattr(value, name, None)
    return repr(value) if not isinstance(value, Path) else repr(str(value))
