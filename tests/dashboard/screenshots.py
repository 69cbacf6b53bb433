"""`python -m tests.dashboard.screenshots`: the pictures of docs/dashboard-page.md, under the demo's load on real services.

Starts an allocator in a scratch folder, lets the demo's five runs work for a while, signs in by the form and takes two
pictures: light on a desk, dark on a phone. `--url` and `--admin-key-file` take them of a service that runs already.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import SecretStr

from services.allocator.app import create_app
from services.allocator.settings import Settings
from tests.allocator.databases import fresh_sqlite
from tests.dashboard.chromium import Page, browser
from tests.paths import ROOT
from tests.served import served

DOCS: Final = ROOT / "docs"
COLOURS: Final = 256
"""Colours of a picture: flat surfaces and smoothed letters need no more, and a file is half as large."""


class Picture(NamedTuple):
    """A file and the window it shows, in CSS pixels; `height` of the page are shown, from the top."""

    file: str
    width: int
    height: int
    scheme: str
    scale: float


PICTURES: Final = (
    Picture("dashboard-light.png", 1_200, 1_760, "light", 1.25),
    Picture("dashboard-dark-phone.png", 360, 1_500, "dark", 2.0),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the pictures; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.dashboard.screenshots", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long the load runs before (default 180)")
    parser.add_argument("--url", help="of an allocator that runs already, under load")
    parser.add_argument("--admin-key-file", type=Path, help="its admin key")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        if options.url:
            _take(options.url, options.admin_key_file.read_text().strip(), Path(scratch))
        else:
            with _loaded(Path(scratch), options.seconds) as (url, key):
                _take(url, key, Path(scratch))
    return 0


@contextmanager
def _loaded(folder: Path, seconds: float) -> Iterator[tuple[str, str]]:
    """Run an allocator and let the demo work on it; give its address and admin key while the load goes on."""
    settings = Settings(data=folder, database_url=SecretStr(fresh_sqlite(folder)))
    with served(create_app(settings)) as url:
        file = folder / "admin.key"
        command = ["-m", "rollout_budget.cli", "demo", "--url", url, "--key-file", str(file), "--stamp", "a"]
        load = [sys.executable, *command]
        with subprocess.Popen(load) as demo:
            try:
                demo.wait(seconds)
                raise SystemExit("the demo ended early: see what it said above")
            except subprocess.TimeoutExpired:
                yield url, file.read_text().strip()
            finally:
                demo.terminate()


def _take(url: str, key: str, scratch: Path) -> None:
    profile = scratch / "chromium"
    profile.mkdir()
    with browser(profile) as page:
        page.open(f"{url}/dashboard")
        page.until("document.activeElement.id === 'key'")
        page.write(key)
        page.press("Enter")
        page.until("document.readyState === 'complete' && document.getElementById('board') !== null")
        page.value("document.activeElement.blur()")
        for one in PICTURES:
            _one(page, one)


def _one(page: Page, one: Picture) -> None:
    page.look(one.width, 900, scheme=one.scheme, scale=one.scale)
    page.until(f"innerWidth === {one.width} && document.getAnimations().length === 0")
    path = DOCS / one.file
    path.write_bytes(_fewer_colours(page.picture(one.height)))
    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB\n")


def _fewer_colours(png: bytes) -> bytes:
    """Return a PNG with a palette."""
    import io  # noqa: PLC0415  as below

    from PIL import Image  # noqa: PLC0415  comes with matplotlib; only this script needs it

    with Image.open(io.BytesIO(png)) as picture:
        out = io.BytesIO()
        picture.convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE).save(
            out, "png", optimize=True
        )
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
