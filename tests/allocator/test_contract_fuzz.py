"""G20 by fuzzing: whatever is sent to whatever route, no 5xx, and every answer is one that the document describes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from pydantic import SecretStr
from schemathesis.checks import positive_data_acceptance

from services.allocator.__main__ import openapi
from services.allocator.app import create_app
from services.allocator.settings import Settings
from tests.allocator.databases import fresh_sqlite
from tests.served import served

EXAMPLES = 10
"""Random requests per route, beside the systematic ones: seconds in all."""
TOO_STRICT = [
    positive_data_acceptance,  # the schema cannot say that an outcome lies in its run's range, or that a key is unused
]


@dataclass(frozen=True, slots=True)
class Served:
    """A service on a socket, with its two keys."""

    url: str
    team: str
    admin: str


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The service in its embedded mode."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    strangers = 1e6  # the fuzzer sends many wrong keys at once: here they are told so, not to come back later
    settings = Settings(data=folder, database_url=SecretStr(fresh_sqlite(folder)), unknown_keys_per_s=strangers)
    with served(create_app(settings)) as url:
        yield Served(url, *((folder / name).read_text().strip() for name in ("team.key", "admin.key")))


schema = schemathesis.openapi.from_dict(json.loads(openapi()))


@schema.parametrize()  # type: ignore[untyped-decorator]  # its plugin has no types
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_g20_every_answer_is_as_documented(case: schemathesis.Case, service: Served) -> None:
    """Status, content type and schema of every answer stand in the document; none is 5xx."""
    token = service.admin if "/admin/" in case.path else service.team
    headers = {"Authorization": f"Bearer {token}"}
    case.call_and_validate(base_url=service.url, headers=headers, excluded_checks=TOO_STRICT)
