"""`python -m scripts.dashboards`: write the dashboards as JSON; `--check` says instead which of them are out of step."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from scripts.dashboards import budget, decisions, prior, service

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"
BOARDS = {module.__name__.rpartition(".")[2]: module.make for module in (budget, decisions, prior, service)}


def rendered() -> dict[Path, str]:
    """Return every file of the folder with its text."""
    made = {name: make().build() for name, make in BOARDS.items()}
    return {
        FOLDER / f"{name}.json": json.dumps(board, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"
        for name, board in made.items()
    }


def stale() -> list[str]:
    """Return the names of files that are missing, differ, or are made by nothing here."""
    files = rendered()
    differ = [path.name for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    return sorted([*differ, *(path.name for path in FOLDER.glob("*.json") if path not in files)])


def main() -> int:
    """Write or check; return the exit code."""
    if "--check" in sys.argv[1:]:
        found = stale()
        if found:
            sys.stderr.write(f"out of step: {', '.join(found)}; run `python -m scripts.dashboards`\n")
        return 1 if found else 0
    for path, text in rendered().items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
