"""The application class of both services, and its OpenAPI document as it is committed."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI

from services.kit import problems


class Application(FastAPI):
    """An application whose document says that errors are problem+json and nothing else."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, without the second form that the framework adds to every modelled error."""
        document = super().openapi()
        for operation in (one for methods in document["paths"].values() for one in methods.values()):
            for answer in operation["responses"].values():
                if problems.MEDIA_TYPE in answer.get("content", {}):
                    answer["content"].pop("application/json", None)
        return document


def document(app: FastAPI) -> str:
    """Return the document of `app` as it is committed under `docs/api`."""
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"
