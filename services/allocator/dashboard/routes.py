"""Routes of the page: sign in, look, sign out. Not part of the REST contract, and in no document of it.

Every answer forbids scripts, styles and pictures of anywhere else, being framed, and being kept. What a request asks for
is checked before its body is read; a body has 4 KiB and ten seconds.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Query, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import ClientDisconnect

from rollout_budget.errors import NotFound, RolloutBudgetError, Unauthorized
from rollout_budget.wire.common import Identifier
from services.allocator.dashboard import sessions
from services.allocator.dashboard.reading import Picture, picture
from services.allocator.dashboard.views import Board, Counters, board
from services.allocator.dashboard.visitors import PREFIX, Visitor, from_elsewhere, visitor
from services.allocator.endpoints.parts import Parts
from services.allocator.service import Service

POLL_MS = 4_000
"""Pause between two looks of an open page: a human's idea of live, and a thousandth of what one process answers."""
TEAMS_PER_PAGE = 12
"""Teams that an admin sees at once; the rest is a page further."""
FORM_BYTES = 4_096
FORM_S = 10.0
"""What a sign-in form has to be smaller and sooner than: it is one key."""
LOGIN = f"{PREFIX}/login"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with `no-referrer`, a browser would hide whose form a POST is
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HERE = Path(__file__).parent
_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ASSETS: Final = {
    "page.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_FILES: Final = {name: (_HERE / "static" / name).read_bytes() for name in ASSETS}

router = APIRouter(prefix=PREFIX, include_in_schema=False)
TeamAsked = Annotated[Identifier | None, Query()]


@router.get("")
async def dashboard(request: Request, parts: Parts, team: TeamAsked = None, after: TeamAsked = None) -> Response:
    """The whole page; whoever has not signed in is sent to do so."""
    who = await visitor(request)
    if who is None:
        return _to(LOGIN)
    return await _shown("page.html", request, parts, who, team=team, after=after)


@router.get("/live")
async def live(request: Request, parts: Parts, team: TeamAsked = None, after: TeamAsked = None) -> Response:
    """What changes on it, for a page that is open; 401 once the session has ended."""
    who = await visitor(request)
    if who is None:
        return _answer("", status=Unauthorized.status)
    return await _shown("board.html", request, parts, who, team=team, after=after)


@router.get("/login")
async def login(request: Request) -> Response:
    """The form that takes a key."""
    return _to(PREFIX) if await visitor(request) else _page("login.html", fault="")


@router.post("/login")
async def sign_in(request: Request, parts: Parts) -> Response:
    """Begin a session for a key of scope `read`, `team` or `admin`."""
    if from_elsewhere(request.headers):
        return _page("login.html", status=403, fault="That form came from another site. Sign in here.")
    form = await _form(request)
    if form is None:
        return _page("login.html", status=413, fault="That is too long, or too slow, to be a key.")
    try:
        identity = await parts.door.identify(form.get("key", [""])[0].strip())
    except Unauthorized:
        return _page("login.html", status=401, fault="No key of this service: unknown, expired or revoked.")
    answer = _to(PREFIX)
    _keep(answer, request, parts, sessions.begin(identity.key_id, identity.team, time.time()))
    return answer


@router.get("/logout")
async def no_logout() -> Response:
    """Where a reloaded address of the form leads; a link from elsewhere signs nobody out."""
    return _to(PREFIX)


@router.post("/logout")
async def sign_out(request: Request) -> Response:
    """End the session in this browser."""
    if from_elsewhere(request.headers):
        return _answer("That form came from another site.", status=403, media_type="text/plain")
    answer = _to(LOGIN)
    answer.delete_cookie(sessions.COOKIE, path=PREFIX, httponly=True, samesite="strict")
    return answer


@router.get("/{asset}")
async def static(asset: str) -> Response:
    """A file of the page."""
    if asset not in ASSETS:
        raise NotFound("the dashboard has no such page; it is at /dashboard")
    return Response(_FILES[asset], media_type=ASSETS[asset], headers=HEADERS)


async def _shown(
    template: str, request: Request, parts: Service, who: Visitor, *, team: str | None, after: str | None
) -> Response:
    """Render what this visitor may see, and renew the session where it is due."""
    try:
        teams, following = await _teams(parts, who, team, after)
        found = await _read(parts, request, who, teams)
    except RolloutBudgetError as error:
        return _page("error.html", status=error.status, fault=str(error))
    here = urlencode({name: value for name, value in (("team", team), ("after", after)) if value})
    answer = _page(
        template,
        board=_board(parts, found, who),
        admin=who.is_admin,
        one=None if who.is_admin and team is None else teams[0],
        after=after,
        following=following,
        live=f"{PREFIX}/live" + (f"?{here}" if here else ""),
        here=PREFIX + (f"?{here}" if here else ""),
        poll_ms=POLL_MS,
    )
    later = sessions.renewed(who.session, time.time())
    if later is not None:
        _keep(answer, request, parts, later)
    return answer


async def _teams(parts: Service, who: Visitor, team: str | None, after: str | None) -> tuple[list[str], str | None]:
    """Return the teams to show, and after which one the next page starts.

    Raises:
        NotFound: there is no such team, or it is another's: the two are answered alike.
    """
    if not who.is_admin:
        if team not in {None, who.identity.team}:
            raise NotFound(f"no team {team!r}")
        return [who.identity.team], None
    async with parts.reading() as directory:
        if team is not None:
            return [(await directory.team(team)).team], None
        page = await directory.teams(after or "", TEAMS_PER_PAGE)
    return [one.team for one in page.teams], page.next


async def _read(parts: Service, request: Request, who: Visitor, teams: list[str]) -> Picture:
    spending, offset_s = request.app.state.dashboard.spending, parts.store.clock_offset_s()
    if not who.is_admin:
        async with parts.store.reading(who.identity.team) as connection:  # behind the second wall
            return await picture(connection, offset_s, teams, spending)
    async with parts.database.snapshot() as connection:
        return await picture(connection, offset_s, teams, spending)


def _board(parts: Service, found: Picture, who: Visitor) -> Board:
    violations = (
        _counted(parts, "rollout_budget_invariant_violations_total") if who.is_admin else 0
    )  # they name no team
    counters = Counters(
        violations=violations,
        waiting=_counted(parts, "rollout_budget_queue_requests"),
        has_prior_service=parts.settings.prior_url is not None,
    )
    return board(found, counters)


def _counted(parts: Service, name: str) -> int:
    """Return one figure of `/metrics`, without collecting all the others."""
    found = parts.metrics.registry.restricted_registry([name]).collect()
    return int(sum(sample.value for metric in found for sample in metric.samples if sample.name == name))


async def _form(request: Request) -> dict[str, list[str]] | None:
    """Return the fields of a form; None of one that is too long or does not come."""
    read = b""
    try:
        async with asyncio.timeout(FORM_S):
            async for part in request.stream():
                read += part
                if len(read) > FORM_BYTES:
                    return None
    except (TimeoutError, ClientDisconnect):
        return None
    return parse_qs(read.decode("ascii", "replace"))


def _keep(answer: Response, request: Request, parts: Service, session: sessions.Session) -> None:
    said = request.headers.get("x-forwarded-proto", "").partition(",")[
        0
    ]  # the first proxy's word where there are several
    secure = "https" in {request.url.scheme, said.strip()}
    answer.set_cookie(
        sessions.COOKIE,
        sessions.write(session, parts.door.seal),
        max_age=max(0, session.ends - int(time.time())),
        path=PREFIX,
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def _page(template: str, *, status: int = 200, **values: Any) -> Response:
    return _answer(_TEMPLATES.get_template(template).render(**values), status=status)


def _answer(content: str, *, status: int, media_type: str = "text/html") -> Response:
    return Response(content, status, HEADERS, f"{media_type}; charset=utf-8")


def _to(path: str) -> Response:
    return Response(status_code=303, headers={**HEADERS, "Location": path})
