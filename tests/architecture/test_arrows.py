"""The house's arrows point one way: `trainer -> rollout_budget <- services`, and services speak HTTP to each other."""

from __future__ import annotations

import pytest

from tests.architecture.sources import Source, sources, within

FORBIDDEN = {
    "rollout_budget": ("services", "trainer", "benchmarks", "scripts", "tests"),
    "services": ("trainer", "benchmarks", "scripts", "tests"),
    "services.kit": ("services.prior_api", "services.allocator"),
    "services.prior_api": ("services.allocator",),
    "services.allocator": ("services.prior_api",),
    "trainer": ("services", "benchmarks", "scripts", "tests"),
    "benchmarks": ("tests",),
    "scripts": ("trainer", "benchmarks", "tests"),
}
"""What files of a package must not import. Tests and benchmarks may import anything; nothing else imports `trainer`."""

HEAVY = (
    "torch", "transformers", "vllm", "fastapi", "starlette", "uvicorn", "sqlalchemy", "sqlite3", "psycopg", "aiosqlite",
    "alembic", "prometheus_client", "structlog", "scipy", "sklearn",
)  # fmt: skip
"""No file of `rollout_budget` may import these, not even inside a function, but for `BRIDGES`."""
BRIDGES = ("rollout_budget.integrations", "rollout_budget.replay.formats")
"""Where another trainer's package, or the library that its logs were written with, is the subject."""


def forbidden_to(source: Source) -> list[str]:
    """The packages that a file must not import."""
    rooms = [packages for room, packages in FORBIDDEN.items() if within(source.name, room)]
    core = within(source.name, "rollout_budget")
    bridge = any(within(source.name, room) for room in BRIDGES)
    heavy = HEAVY if core and not bridge else ()
    asked_for = ("rollout_budget.integrations",) if core and not within(source.name, BRIDGES[0]) else ()
    return [*asked_for, *(package for packages in rooms for package in packages), *heavy]


def test_arrows_point_one_way() -> None:
    wrong = [
        f"{source.name} imports {name}"
        for source in sources()
        for name in source.imports()
        if any(within(name, package) for package in forbidden_to(source))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import services.kit.http as http", {"services.kit.http"}),
        ("def f():\n    from trainer import loop", {"trainer.loop"}),
        ("if TYPE_CHECKING:\n    from a.b import c, d", {"a.b.c", "a.b.d"}),
    ],
)
def test_imports_are_found_wherever_they_hide(text: str, found: set[str]) -> None:
    """The lint above would be worth nothing if a function or a condition hid an import from it."""
    source = sources()[0]
    assert set(Source(source.path, "any", text).imports()) == found
