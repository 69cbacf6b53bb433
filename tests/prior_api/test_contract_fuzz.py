"""G20 by fuzzing: whatever is sent to whatever route, no 5xx, and every answer is one that the document describes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from pydantic import SecretStr
from schemathesis.checks import positive_data_acceptance

from services.prior_api.__main__ import openapi
from services.prior_api.app import create_app
from services.prior_api.settings import Settings
from tests.prior_api.conftest import SERVICE
from tests.prior_api.fakes import FakeEncoder
from tests.served import served

EXAMPLES = 15
"""Random requests per route, beside the systematic ones: seconds in all."""
TOO_STRICT = [
    positive_data_acceptance,  # the schema cannot say that successes are at most trials, or that a key has another text
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service with one key that may speak for any team."""
    secret = SecretStr(SERVICE)
    folder = tmp_path_factory.mktemp("fuzz")
    strangers = 1e6  # the fuzzer sends many wrong keys at once: here they are told so, not to come back later
    settings = Settings(data=folder, service_keys=[secret], unknown_keys_per_s=strangers)
    app = create_app(settings, encoder=FakeEncoder())
    with served(app) as address:
        yield address


schema = schemathesis.openapi.from_dict(json.loads(openapi()))


@schema.parametrize()  # type: ignore[untyped-decorator]  # its plugin has no types
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_g20_every_answer_is_as_documented(case: schemathesis.Case, url: str) -> None:
    """Status, content type and schema of every answer stand in the document; none is 5xx."""
    case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {SERVICE}"}, excluded_checks=TOO_STRICT)
