"""A real headless Chromium, driven over its DevTools protocol by the WebSocket client that the services bring along.

Owns the process, its profile folder and one page. Input is what a person's would be: keys pressed, one at a time. What
the browser asked for is on record (`requested`).
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no Chromium on PATH: run `make tools`, or install one"
WAIT_S = 20.0
"""Longest wait for anything the browser is to do: a busy machine starts one in five seconds."""
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32}


def executable() -> str | None:
    """Return a Chromium of this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One page. Every wait is for a signal of the browser or a condition in the page, and ends after `WAIT_S`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._loads = 0
        self.requested: list[str] = []
        self.said: list[str] = []
        """Errors and warnings of the console, a refused script or style among them."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command; return its answer."""
        sent = next(self._ids)
        self._socket.send(json.dumps({"id": sent, "method": method, "params": params}))
        while True:
            message = self._next()
            if message.get("id") == sent:
                assert "error" not in message, (method, message["error"])
                answer: dict[str, Any] = message["result"]
                return answer

    def open(self, url: str) -> None:
        """Go to an address; return once the page has loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self) -> None:
        """Load the page anew; return once the browser says that it has. Needs no script in the page."""
        before = self._loads
        self.call("Page.reload")
        while self._loads == before:
            self._next()

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is, as JSON."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true; a page that is being replaced meanwhile is asked again."""
        ends = time.monotonic() + WAIT_S
        wait = (
            f"new Promise(done => {{ const look = () => ({condition}) ? done(true) : setTimeout(look, 30); look() }})"
        )
        while time.monotonic() < ends:
            try:
                if self.value(wait):
                    return
            except AssertionError as gone:
                if "context" not in str(gone) and "navigated" not in str(gone):
                    raise
        raise AssertionError(f"never true within {WAIT_S:g} s: {condition}")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key and let it go."""
        code = KEYS[key]
        text = {"Enter": "\r", "Space": " "}.get(key, "")
        common = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        modifiers = 8 if shift else 0
        down = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=down, text=text, modifiers=modifiers, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **common)

    def write(self, text: str) -> None:
        """Type a text where the focus is."""
        self.call("Input.insertText", text=text)

    def look(self, width: int, height: int, *, scheme: str = "light", scale: float = 1.0) -> None:
        """Set the window's size, in CSS pixels, its pixels per CSS pixel, and the colours that its owner prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, height: int | None = None) -> bytes:
        """Return the page as a PNG, `height` CSS pixels of it from the top; all of it when None."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        answer = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(timeout=WAIT_S))
        params = message.get("params", {})
        self._loads += message.get("method") == "Page.loadEventFired"
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        if message.get("method") == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.said.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        if message.get("method") == "Runtime.exceptionThrown":
            self.said.append(str(params["exceptionDetails"]))
        return message


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Run a Chromium with a profile of its own in `folder`, and give its page."""
    found = executable()
    assert found, MISSING
    arguments = [
        found, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run",
        "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
        "--disable-extensions", "--disable-sync", "--no-default-browser-check", "--hide-scrollbars",
        *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank",
    ]  # fmt: skip
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
        try:
            with connect(_address(folder, process), max_size=None) as socket:
                yield Page(socket)
        except ConnectionClosed as error:
            raise AssertionError(f"Chromium went away: {(folder / 'chromium.log').read_text()[-2000:]}") from error
        finally:
            process.terminate()
            process.wait(WAIT_S)


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Return where the page listens, once Chromium has written its port."""
    port, ends = folder / "DevToolsActivePort", time.monotonic() + WAIT_S
    while time.monotonic() < ends:
        assert process.poll() is None, (folder / "chromium.log").read_text()[-2000:]
        lines = port.read_text().splitlines() if port.exists() else []
        if len(lines) == 2:
            pages = httpx.get(f"http://127.0.0.1:{lines[0]}/json/list").json()
            found = [page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"]
            if found:
                return str(found[0])
        time.sleep(0.02)
    raise AssertionError(f"Chromium did not start within {WAIT_S:g} s")
