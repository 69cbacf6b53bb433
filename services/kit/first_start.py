"""`python -m services.kit.first_start FILE...`: a random secret in each file that is not there yet, for a stack's first start.

Owns nothing beyond the files: what is there stays as it is, so a restart keeps every secret. Files are readable by every
user who sees their folder, because each stands alone in a folder (a volume) that only its readers are given, under users
of their own. Nothing of a secret is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from services.kit.keys import ensure_file

FILE_MODE = 0o444
"""Nobody writes, who sees the folder reads."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.kit.first_start", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    for path in parser.parse_args(arguments).files:
        before = path.exists()
        try:
            ensure_file(path)
            path.chmod(FILE_MODE)
        except (OSError, ValueError) as error:
            sys.stderr.write(f"services.kit.first_start: {error}; its folder must be one that this user may write to\n")
            return 2
        sys.stderr.write(f"{path}: {'kept' if before else 'made'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
