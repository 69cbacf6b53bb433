"""`python -m services.prior_api`: serves the prior service with settings from the environment.

`--help` lists the settings, `--openapi` prints the OpenAPI document; `docs/api/prior.json` is that output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from services.prior_api.settings import Settings

NO_HUB = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""The weights come with a package; no hub is ever asked, and the tokenizer keeps to the encoder's thread."""


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m services.prior_api",
        description="Serves the prior service. Settings come from the environment:",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--openapi", action="store_true", help="print the OpenAPI document and leave")
    arguments = parser.parse_args()
    if arguments.openapi:
        sys.stdout.write(openapi())
        return
    os.environ.update(NO_HUB)
    from services.kit import logs, serve  # noqa: PLC0415  --help answers without loading the service
    from services.prior_api.app import create_app  # noqa: PLC0415

    logs.configure()
    settings = Settings()
    serve.run(create_app(settings), host=settings.host, port=settings.port)


def openapi() -> str:
    """Return the OpenAPI document as it is committed."""
    from services.prior_api.app import create_app  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        document = create_app(Settings(data=Path(folder))).openapi()
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _settings_help() -> str:
    prefix = Settings.model_config["env_prefix"]
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        lines.append(f"  {prefix}{name.upper()}  (default: {default})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
