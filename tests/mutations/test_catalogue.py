"""The catalogue of mutations stays in step with the code, and its command tells a survivor from a failure."""

from __future__ import annotations

import pytest

from tests.mutations.__main__ import DOCUMENT
from tests.mutations.catalogue import CATALOGUE, Mutation
from tests.paths import ROOT

GUARANTEES = {f"G{number:02d}" for number in range(1, 25)}


@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda one: f"{one.guarantee} {one.what}")
def test_every_mutation_still_finds_its_source(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text()
    assert mutation.applied(source) != source


def test_every_guarantee_has_a_mutation() -> None:
    assert {mutation.guarantee for mutation in CATALOGUE} == GUARANTEES


def test_the_document_holds_a_row_per_mutation() -> None:
    """The table was written by the command, from all mutations, and none survived."""
    document = DOCUMENT.read_text()
    for mutation in CATALOGUE:
        assert f"| {mutation.guarantee} | `{mutation.file}` | {mutation.what} |" in document
    assert "it survived" not in document
