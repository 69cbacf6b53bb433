"""Writes what the Helm chart says of the services' settings, and the table of its values, from the code and the schema.

    python scripts/chart.py           # write
    python scripts/chart.py --check   # exit 1 if they are not what would be written

Owns two parts of files under `deploy/helm/rollout-budget`: in `values.schema.json` the properties of `allocator.settings`,
`prior.settings` and `prior.gpu.settings`, and in `README.md` what follows the heading of the table. The rest is by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from services.allocator.settings import Settings as AllocatorSettings
from services.kit.configuration import ServiceSettings
from services.prior_api.settings import Settings as PriorSettings

CHART = Path(__file__).resolve().parents[1] / "deploy/helm/rollout-budget"
SETTINGS: tuple[tuple[tuple[str, ...], type[ServiceSettings]], ...] = (
    (("allocator", "settings"), AllocatorSettings),
    (("prior", "settings"), PriorSettings),
    (("prior", "gpu", "settings"), PriorSettings),
)
BY_THE_CHART = frozenset({"mode", "port", "data", "prior_url"})
"""Settings that the chart sets itself. It sets secrets too, and the values have no place for any."""
HEADING = "## Values\n"
Json = dict[str, Any]


def schema() -> str:
    """Return `values.schema.json` as it should be."""
    document: Json = json.loads((CHART / "values.schema.json").read_text())
    for path, settings in SETTINGS:
        place = document
        for name in path:
            place = place["properties"][name]
        place.pop("propertyNames", None)
        place["additionalProperties"] = False
        place["properties"] = settable(settings)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def settable(settings: type[ServiceSettings]) -> Json:
    """Return a JSON schema for each setting that values may give."""
    document = settings.model_json_schema()
    known = document.get("$defs", {})
    return {
        name: _inlined(one, known)
        for name, one in sorted(document["properties"].items())
        if name not in BY_THE_CHART and '"writeOnly"' not in json.dumps(one)
    }


def readme() -> str:
    """Return `README.md` as it should be."""
    before, _, _ = (CHART / "README.md").read_text().partition(HEADING)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = [f"| `{name}` | `{default}` | {meaning} |" for name, default, meaning in _rows(json.loads(schema()), values)]
    return "\n".join([before + HEADING, "| value | default | meaning |", "|---|---|---|", *rows, ""])


def main(arguments: list[str]) -> int:
    """Write, or with `--check` compare; return the exit status."""
    status = 0
    for name, wanted in (("values.schema.json", schema()), ("README.md", readme())):
        file = CHART / name
        if file.read_text() == wanted:
            continue
        if "--check" in arguments:
            sys.stderr.write(f"{file.relative_to(CHART.parents[2])} is not up to date: run python scripts/chart.py\n")
            status = 1
        else:
            file.write_text(wanted)
    return status


def _inlined(part: Any, known: Mapping[str, Any]) -> Any:
    """Return a schema without references and titles, on one line where it was a docstring on several."""
    if isinstance(part, list):
        return [_inlined(one, known) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inlined(known[part["$ref"].rsplit("/", 1)[-1]] | {k: v for k, v in part.items() if k != "$ref"}, known)
    return {
        name: " ".join(one.split()) if name == "description" else _inlined(one, known)
        for name, one in part.items()
        if name != "title"
    }


def _rows(part: Json, values: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield path, default and meaning of every value; a map of settings or of Kubernetes' own fields is one value."""
    for name, one in part["properties"].items():
        if name not in values:
            continue
        place = f"{path}{name}"
        if "properties" in one and name != "settings":
            yield from _rows(one, values[name], f"{place}.")
        else:
            yield place, json.dumps(values[name], ensure_ascii=False).replace("|", "\\|"), one["description"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
