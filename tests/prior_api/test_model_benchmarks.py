"""The benchmarks of models run, small, on a CPU."""

from __future__ import annotations

import pytest

from benchmarks.prior import stack
from tests.paths import outcomes_folder


def test_the_stack_prints_a_line_for_each_batch_size(capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights from a folder through the service's own encoder; the device is named."""
    assert stack.main(["--device", "cpu", "--tiny", "--sizes", "1", "3", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("CPU")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["prompts", "1", "3"]
    assert all(float(row[3]) > 0 for row in rows[1:])


def test_the_ways_to_encode_agree_where_they_should(capsys: pytest.CaptureFixture[str]) -> None:
    """On real prompts: sorting changes nothing, bfloat16 less than 1e-3 of a cosine."""
    from benchmarks.prior import encoders  # noqa: PLC0415  skipped without the outcomes

    assert encoders.main(["--data", str(outcomes_folder()), "--prompts", "12", "--rounds", "1"]) == 0
    lowest = {
        cells[1].strip(): float(cells[4])
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("| float32", "| bfloat16"))
        for cells in [line.split("|")]
    }
    assert lowest["float32, texts as they come, 32 at a time"] > 1 - 1e-5
    assert lowest["bfloat16"] > 1 - 1e-3
