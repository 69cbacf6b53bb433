"""The two OpenAPI documents as they are committed, read as a client generator or a newcomer would read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from tests.paths import ROOT

DOCUMENTS: dict[str, dict[str, Any]] = {
    name: json.loads((ROOT / "docs" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("allocator", "prior")
}
FROZEN = {
    "allocator": {
        *("create_run", "runs", "get_run", "patch_run", "finish_run", "heartbeat", "plan", "baselines", "decide"),
        *("open_groups", "observe_groups", "close_groups"),
        *("budget", "usage", "entries", "reservation", "changes"),
        *("create_team", "list_teams", "show_team", "rename_team", "close_team", "reopen_team"),
        *("show_budget", "set_budget", "create_key", "list_keys", "rotate_key", "revoke_key"),
        *("show_usage", "list_changes"),
        *("livez", "healthz", "readyz"),
    },
    "prior": {"values", "register_prompts", "add_evidence", "policies", "policy", "livez", "healthz", "readyz"},
}
"""Operation ids: generated clients name their methods by them, so a change here breaks somebody's code."""
SCHEMAS = [(name, schema) for name, document in DOCUMENTS.items() for schema in document["components"]["schemas"]]


def operations(name: str) -> Iterator[dict[str, Any]]:
    for methods in DOCUMENTS[name]["paths"].values():
        yield from methods.values()


@pytest.mark.parametrize(("name", "schema"), SCHEMAS)
def test_every_schema_has_an_example_that_it_accepts(name: str, schema: str) -> None:
    """An example stands on each schema, and is valid by the document alone; so is each body shown with an operation."""
    document = DOCUMENTS[name]
    examples = document["components"]["schemas"][schema]["examples"]
    assert examples, schema
    validator = jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}, validate_formats=True
    )
    for example in examples:
        validator.validate(example)
    for operation in operations(name):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if content["schema"].get("$ref", "").endswith(f"/{schema}"):
                assert content["examples"], operation["operationId"]
                for shown in content["examples"].values():
                    validator.validate(shown["value"])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_example_that_is_wrong_would_be_noticed(name: str) -> None:
    """The validator above does look into the schemas that it was given."""
    schema = {"$ref": "#/components/schemas/Problem", "components": DOCUMENTS[name]["components"]}
    assert not jsonschema_rs.Draft202012Validator(schema).is_valid({"title": "no status"})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_operation_ids_are_unique_and_stay(name: str) -> None:
    """Snake case, each once, and those of the list."""
    names = [operation["operationId"] for operation in operations(name)]
    assert len(names) == len(set(names))
    assert set(names) == FROZEN[name]
    assert all(one == one.lower() and one.isidentifier() for one in names)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_part_is_described(name: str) -> None:
    """Operations, parameters, answers and schemas say what they are, none in the framework's words for nothing."""
    for operation in operations(name):
        at = operation["operationId"]
        assert operation["summary"], at
        assert operation["description"], at
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), f"{at}: {parameter['name']}"
        for status, answer in operation["responses"].items():
            assert answer["description"], f"{at}: {status}"
            assert answer["description"] != "Successful Response", f"{at}: {status}"
    for schema, found in DOCUMENTS[name]["components"]["schemas"].items():
        assert found.get("description"), schema


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_example_of_each_error_is_a_problem_of_its_status(name: str) -> None:
    """Every error that an operation may answer is shown as one of that status, valid by the schema."""
    components = DOCUMENTS[name]["components"]
    validator = jsonschema_rs.Draft202012Validator(
        {"$ref": "#/components/schemas/Problem", "components": components}, validate_formats=True
    )
    shown = set()
    for operation in operations(name):
        for status, answer in operation["responses"].items():
            for example in answer["content"].get("application/problem+json", {}).get("examples", {}).values():
                value = components["examples"][example["$ref"].rpartition("/")[2]]["value"]
                validator.validate(value)
                assert value["status"] == int(status)
                shown.add(status)
    assert {"401", "404", "422", "429", "503"} <= shown
