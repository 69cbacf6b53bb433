"""Exports are whole or absent; publishing keeps its order, always resumes, and says which server did not follow."""

from __future__ import annotations

import ast
from pathlib import Path

import httpx
import pytest

from tests.trainer.fake_vllm import FakeVllm
from trainer.errors import WeightUpdateFailed
from trainer.rollouts.pool import Patience, ServerPool
from trainer.servers import EXTENSION
from trainer.types import Sample
from trainer.weights.check import check_logprobs
from trainer.weights.exports import STABLE, export_directory, prune, require_stable
from trainer.weights.filesystem import FilesystemPublisher
from trainer.weights.gloo import PREFIX

QUICK = Patience(attempts=2, deadline_s=5.0, pause_s=0.001, look_s=60.0)
UPDATE = ["/update_weight_version", "/start_weight_update", "/update_weights", "/finish_weight_update"]


def export(root: Path, version: int) -> Path:
    with export_directory(root, version) as directory:
        (directory / "model.safetensors").touch()
    return root / f"v{version}"


def names_in(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_an_export_appears_whole(tmp_path: Path) -> None:
    with export_directory(tmp_path, 3) as directory:
        (directory / "model.safetensors").write_text("old")
        assert not (tmp_path / "v3").exists()
    require_stable(tmp_path / "v3")
    assert [path.name for path in tmp_path.iterdir()] == ["v3"]


def test_an_export_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    export(tmp_path, 3)
    with pytest.raises(ZeroDivisionError), export_directory(tmp_path, 3):
        _ = 1 / 0
    require_stable(tmp_path / "v3")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("missing", [STABLE, "model.safetensors"])
def test_half_an_export_is_refused(tmp_path: Path, missing: str) -> None:
    directory = export(tmp_path, 1)
    (directory / missing).unlink()
    with pytest.raises(WeightUpdateFailed, match="not a complete export"):
        require_stable(directory)


def test_pruning_keeps_the_newest_and_what_is_not_ours(tmp_path: Path) -> None:
    for version in (2, 9, 10):
        export(tmp_path, version)
    (tmp_path / ".v4.draft").mkdir()
    (tmp_path / "notes").mkdir()
    prune(tmp_path, keep=2)
    assert names_in(tmp_path) == {"v9", "v10", "notes"}


def test_the_server_side_knows_the_same_names() -> None:
    """The extension runs where this package is not installed, so it repeats the names and imports nothing of ours."""
    tree = ast.parse(EXTENSION.read_text())
    names = {
        ast.unparse(node.targets[0]): node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    assert (names["STABLE"], names["PREFIX"]) == (STABLE, PREFIX)
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in modules if module.startswith(("trainer", "rollout_budget"))]


async def test_publishing_keeps_its_order(tmp_path: Path) -> None:
    fake = FakeVllm()
    fake.reset_refusals = 2
    pool = ServerPool([fake.client()], QUICK)
    directory = export(tmp_path, 4)
    await FilesystemPublisher(pool).publish(directory, 4)
    steps = [path for path in fake.paths if path not in {"/health", "/weight_info"}]
    assert steps == ["/pause", *UPDATE, *["/reset_prefix_cache"] * 3, "/resume"]
    assert (fake.version, fake.weights, fake.paused) == ("4", str(directory), False)
    await pool.close()


async def test_publishing_the_same_version_again_changes_nothing(tmp_path: Path) -> None:
    fake = FakeVllm(version="4")
    pool = ServerPool([fake.client()], QUICK)
    await FilesystemPublisher(pool).publish(export(tmp_path, 4), 4)
    assert fake.weights is None
    assert not fake.paused
    await pool.close()


@pytest.mark.parametrize("step", UPDATE)
async def test_a_server_is_resumed_whatever_fails_and_shows_neither_version(tmp_path: Path, step: str) -> None:
    fake = FakeVllm(version="3")
    fake.failures[step] = [500] * 10
    pool = ServerPool([fake.client()], QUICK)
    with pytest.raises(WeightUpdateFailed, match="no server reached version 4"):
        await FilesystemPublisher(pool).publish(export(tmp_path, 4), 4)
    assert not fake.paused
    assert fake.paths.index("/abort_requests") < fake.paths.index("/resume")
    assert fake.version == ("3" if step == "/update_weight_version" else "loading-4")
    assert pool.in_service == 0
    await pool.close()


async def test_one_hiccup_of_an_update_is_mended_at_once(tmp_path: Path) -> None:
    fake = FakeVllm(version="3")
    fake.failures["/update_weights"] = [500]
    fake.updating = True  # of a trainer that died
    pool = ServerPool([fake.client()], QUICK)
    await FilesystemPublisher(pool).publish(export(tmp_path, 4), 4)
    assert (fake.version, pool.in_service) == ("4", 1)
    await pool.close()


async def test_a_server_that_does_not_follow_is_left_out_and_caught_up_later(tmp_path: Path) -> None:
    good, bad = FakeVllm(), FakeVllm()
    bad.failures["/pause"] = [httpx.ConnectError("gone")]
    bad.failures["/resume"] = [httpx.ConnectError("gone")] * 3
    pool = ServerPool([good.client("http://good"), bad.client("http://bad")], QUICK)
    publisher = FilesystemPublisher(pool)
    await publisher.publish(export(tmp_path, 4), 4)
    assert (good.version, bad.version, pool.in_service) == ("4", "0", 1)
    await publisher.publish(export(tmp_path, 5), 5)
    assert (good.version, bad.version, pool.in_service) == ("5", "5", 2)
    await pool.close()


async def test_an_incomplete_export_reaches_no_server(tmp_path: Path) -> None:
    fake = FakeVllm()
    pool = ServerPool([fake.client()], QUICK)
    with pytest.raises(WeightUpdateFailed, match="not a complete export"):
        await FilesystemPublisher(pool).publish(tmp_path, 4)
    assert not fake.paths
    await pool.close()


async def test_old_exports_go_when_new_ones_are_served(tmp_path: Path) -> None:
    pool = ServerPool([FakeVllm().client()], QUICK)
    for version in range(1, 5):
        await FilesystemPublisher(pool).publish(export(tmp_path, version), version)
    assert names_in(tmp_path) == {"v3", "v4"}
    await pool.close()


@pytest.mark.parametrize("own", [-1.002, float("nan")])
def test_the_check_fails_loudly_beyond_its_tolerance(own: float) -> None:
    sample = Sample((5, 1), (-1.0, -2.0), "5", "stop", 4)
    assert check_logprobs([((2,), sample)], lambda _: [[-1.0005, -2.0]], tolerance=1e-3) == pytest.approx(5e-4)
    with pytest.raises(WeightUpdateFailed, match="not the same weights"):
        check_logprobs([((2,), sample)], lambda _: [[own, -2.0]], tolerance=1e-3)
