"""The page in a real Chromium: by keyboard alone, in light and dark, on a phone, while the ledger moves.

One allocator on a socket and one browser serve the whole file; each test signs in by itself. What the browser asked for,
and what it refused to run, is on record from the first page to the last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest
from pydantic import SecretStr

from services.allocator.app import create_app
from services.allocator.dashboard import routes
from services.allocator.settings import Settings
from tests.allocator.databases import fresh_sqlite
from tests.dashboard.chromium import MISSING, Page, browser, executable
from tests.dashboard.scene import steps
from tests.served import served

pytestmark = [pytest.mark.services, pytest.mark.skipif(executable() is None, reason=MISSING)]
EVIL = "<img src=x onerror=alert(1)>"
PHONE, DESKTOP = (360, 740), (1280, 800)
POLL_MS = 250
"""Pause between two looks of the page here, so that no test waits for long."""
SIGNED_IN = "document.getElementById('board') !== null"


class Stage(NamedTuple):
    """The page, where it is, and the team's key."""

    page: Page
    url: str
    key: str

    def send(self, requests: list[tuple[str, dict[str, object]]]) -> None:
        """Carry out requests of a trainer."""
        with httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}) as trainer:
            for path, body in requests:
                trainer.post(path, json=body).raise_for_status()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A browser before a new allocator's page, in which one run has drawn something."""
    folder = tmp_path_factory.mktemp("allocator")
    settings = Settings(data=folder, database_url=SecretStr(fresh_sqlite(folder)))
    quicker = pytest.MonkeyPatch.context()
    with quicker as patch, served(create_app(settings)) as url, browser(tmp_path_factory.mktemp("chromium")) as page:
        patch.setattr(routes, "POLL_MS", POLL_MS)
        stage = Stage(page, url, (folder / "team.key").read_text().strip())
        stage.send(steps("first", ["g1", "g2"], name=EVIL, policy=EVIL))
        yield stage


@pytest.fixture
def stage(opened: Stage) -> Stage:
    """The same, signed in, at the top of the page, in a window of a desk."""
    opened.page.look(*DESKTOP)
    opened.page.call("Network.clearBrowserCookies")
    opened.page.open(f"{opened.url}/dashboard")
    opened.page.until("document.activeElement.id === 'key'")
    opened.page.write(opened.key)
    opened.page.press("Enter")
    opened.page.until(f"document.readyState === 'complete' && {SIGNED_IN}")
    return opened


def focused(page: Page) -> str:
    """The words of what has the focus."""
    return str(page.value("document.activeElement.textContent.trim()"))


def test_everything_is_reached_by_keyboard(stage: Stage) -> None:
    """Skip link first, then everything in the order it is seen, each with a visible ring; Enter and Space work them."""
    page = stage.page
    reached = []
    for _ in range(8):
        page.press("Tab")
        reached.append(focused(page))
        ring = page.value("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid", reached
    wanted = ["Skip to the budgets", "Budgets", "Runs", "Decisions", "Ledger", "Pause", "Sign out"]
    assert reached[:7] == wanted
    assert reached[7].startswith("The last ")
    page.press("Enter")
    page.until("document.querySelector('details').open")
    while focused(page) != "Pause":
        page.press("Tab", shift=True)
    page.press("Space")
    page.until("document.getElementById('state').textContent === 'paused'")
    assert page.value("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.press("Tab")
    page.press("Enter")
    page.until("location.pathname === '/dashboard/login'")


def test_the_skip_link_leads_past_the_header(stage: Stage) -> None:
    """It shows itself when it has the focus, and the next Tab goes on below."""
    stage.page.press("Tab")
    assert stage.page.value("document.activeElement.getBoundingClientRect().left") == 0
    stage.page.press("Enter")
    stage.page.until("document.activeElement.id === 'main'")
    stage.page.press("Tab")
    assert stage.page.value("document.getElementById('main').contains(document.activeElement)")


def test_the_page_moves_with_the_ledger(stage: Stage) -> None:
    """Groups closed through the API show up by themselves; what was open stays open, and the focus where it was."""
    page = stage.page
    page.value("document.querySelector('details').open = true; document.querySelector('summary').focus()")
    assert not page.value("document.body.textContent.includes('moving-run')")
    stage.send(steps("moving-run", ["live-group"]))
    page.until("document.getElementById('runs').textContent.includes('moving-run')")
    page.until("document.getElementById('latest').textContent.includes('live-group')")
    assert page.value("document.querySelector('details').open")
    assert page.value("document.activeElement.tagName") == "SUMMARY"
    assert page.value("document.getElementById('state').textContent") == "live"


def test_a_session_that_ends_leads_back_to_the_form(stage: Stage) -> None:
    """An open page finds out at its next look, by itself."""
    stage.page.call("Network.clearBrowserCookies")
    stage.page.until("location.pathname === '/dashboard/login'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(stage: Stage, scheme: str) -> None:
    """At 360 pixels nothing is wider than the window, and the colours are those of the scheme that was asked for."""
    stage.page.look(*PHONE, scheme=scheme)
    stage.page.value("document.querySelector('details').open = true")
    assert stage.page.value("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    outside = """[...document.querySelectorAll('main *')].filter(one => {
        const box = one.getBoundingClientRect();
        return box.width && !one.closest('thead') && (box.right > innerWidth + 1 || box.left < -1);
    }).map(one => one.outerHTML.slice(0, 80))"""
    assert stage.page.value(outside) == []
    ground = stage.page.value("getComputedStyle(document.body).backgroundColor")
    brightness = sum(json.loads(ground.replace("rgb(", "[").replace(")", "]")))
    assert brightness > 600 if scheme == "light" else brightness < 100


def test_a_table_stays_a_table_for_those_who_hear_it(stage: Stage) -> None:
    """On a phone rows look like cards; the accessibility tree still has tables, named, with headers."""
    stage.page.look(*PHONE)
    nodes = stage.page.call("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    for role in ("table", "row", "columnheader", "rowheader", "cell", "main", "navigation"):
        assert role in roles
    names = [node["name"]["value"] for node in nodes if node["role"]["value"] in {"table", "image"} and "name" in node]
    assert any(name.startswith("Rollouts of each run") for name in names)
    assert any("rollouts in the last hour" in name for name in names)


def test_it_works_without_scripts(stage: Stage) -> None:
    """All figures are there, and a link takes the place of live updates."""
    stage.page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        stage.page.reload()
        shown = "[...document.querySelectorAll('.tools button, .tools a')].filter(one => !one.hidden)"
        assert stage.page.value(f"{shown}.map(one => one.textContent)") == ["Reload", "Sign out"]
        assert stage.page.value("document.getElementById('runs').textContent.includes('first')")
    finally:
        stage.page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_names_stay_text_and_nothing_comes_from_elsewhere(stage: Stage) -> None:
    """A policy that is a picture with a script shows as its own letters; every request went to the allocator itself.

    And the policy of the page was never in the way of the page: the console has nothing refused to tell.
    """
    page = stage.page
    assert page.value("document.getElementById('runs').textContent.includes('onerror=alert(1)')")
    assert page.value("document.querySelectorAll('main img, main script').length") == 0
    assert page.requested
    assert [url for url in page.requested if not url.startswith(f"{stage.url}/dashboard")] == []
    assert [line for line in page.said if "401" not in line] == []


def test_the_pages_own_policy_is_enforced(stage: Stage) -> None:
    """A script that somebody did get into the page would not run, and could tell nobody anything."""
    page = stage.page
    said, asked = len(page.said), len(page.requested)
    page.value("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran=1\">')")
    page.value("(s => { s.textContent = 'window.ran = 1'; document.body.append(s) })(document.createElement('script'))")
    answer = page.value("fetch('https://elsewhere.example/').then(() => 'went', () => 'refused')")
    page.until("true")
    assert answer == "refused"
    assert page.value("window.ran === undefined")
    assert any("Content Security Policy" in line for line in page.said[said:])
    del page.said[said:], page.requested[asked:]  # what this test made it say and ask is no other test's
