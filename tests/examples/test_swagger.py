"""`/docs` of both services: Swagger UI from the service itself, without a key and without a network."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from services.allocator.app import create_app as create_allocator
from services.allocator.settings import Settings as AllocatorSettings
from services.prior_api.app import create_app as create_prior
from services.prior_api.settings import Settings as PriorSettings
from tests.dashboard.chromium import MISSING, browser, executable
from tests.prior_api.fakes import FakeEncoder
from tests.served import served

LONG = SecretStr("0123456789abcdef0123456789abcdef")


def allocator(folder: Path) -> FastAPI:
    return create_allocator(AllocatorSettings(data=folder))


def production(_folder: Path) -> FastAPI:
    url = SecretStr("postgresql://nobody@127.0.0.1:1/none")  # never asked: the page is of the process alone
    return create_allocator(AllocatorSettings(mode="production", database_url=url, pepper=LONG, admin_key=LONG))


def prior(folder: Path) -> FastAPI:
    return create_prior(PriorSettings(data=folder), encoder=FakeEncoder())


SERVICES = pytest.mark.parametrize("service", [allocator, production, prior])
Service = Callable[[Path], FastAPI]


class Addresses(HTMLParser):
    """Every address that a page names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found += [value for name in ("src", "href", "action") if (value := values.get(name))]
        self.inline += (tag == "script" and "src" not in values) or any(name.startswith("on") for name in values)


@SERVICES
async def test_the_page_and_all_it_names_come_from_the_service(service: Service, tmp_path: Path) -> None:
    """Right types, nothing inline, no other host, and a policy under which a browser would load none."""
    types = {"js": "text/javascript", "css": "text/css", "png": "image/png", "json": "application/json"}
    transport = httpx.ASGITransport(app=service(tmp_path))
    async with httpx.AsyncClient(base_url="http://service", transport=transport) as http:
        page = await http.get("/docs")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = dict(part.partition(" ")[::2] for part in page.headers["content-security-policy"].split("; "))
        assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
        assert "://" not in page.headers["content-security-policy"]
        named = Addresses(page.text)
        assert named.inline == 0
        assert len(named.found) == 5
        for address in named.found:
            assert re.fullmatch(r"(docs/)?[a-z.-]+", address), address  # relative: never another host
            asset = await http.get(f"/{address}")
            assert asset.status_code == 200, address
            assert asset.headers["content-type"].partition(";")[0] == types[address.rpartition(".")[2]]
            if address.endswith("css"):
                assert not re.search(r"@import|url\(['\"]?(https?:)?//", asset.text)
            if address.endswith("start.js"):
                assert "//" not in asset.text
                assert "validatorUrl: null" in asset.text
        missing = await http.get("/docs/other.js")
        assert (missing.status_code, missing.json()["code"]) == (404, "not-found")
        assert (await http.get("/redoc")).status_code == 404
        document = (await http.get("/openapi.json")).json()
        assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert not [path for path in document["paths"] if path.startswith("/docs")]


CLICK = """(text => {{
  const found = [...document.querySelectorAll("button")].find(one => one.offsetParent && one.innerText.trim() === text);
  found?.click(); return !!found
}})({!r})"""


@pytest.mark.services
@pytest.mark.skipif(executable() is None, reason=MISSING)
def test_a_person_authorizes_and_calls_in_a_browser(tmp_path: Path) -> None:
    """Chromium: the key goes in under "Authorize", a call is answered, and nobody but the service is asked anything."""
    for folder in (tmp_path / "allocator", tmp_path / "chromium"):
        folder.mkdir()
    with served(allocator(tmp_path / "allocator")) as url, browser(tmp_path / "chromium") as page:
        page.open(f"{url}/docs#/budgets/budget")
        page.until("document.querySelectorAll('.opblock-summary-path').length > 20")
        page.until(CLICK.format("Authorize"))
        page.until("document.querySelector('.auth-container input')?.focus() === undefined")
        page.write((tmp_path / "allocator" / "team.key").read_text().strip())
        page.until("document.querySelector('.auth-container input').value.startsWith('rb_')")
        page.value("document.querySelector('.auth-btn-wrapper .authorize').click()")
        page.until(CLICK.format("Close"))
        page.until(CLICK.format("Execute"))
        page.until(
            "document.querySelector('.live-responses-table .response .response-col_status')?.innerText.startsWith('200')"
        )
        assert '"team": "default"' in page.value("document.querySelector('.live-responses-table').innerText")
        assert f"{url}/v1/budget" in page.requested
        assert not [one for one in page.requested if not one.startswith((f"{url}/", "data:"))]
        assert not page.said
