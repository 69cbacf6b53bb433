"""The application class of both services, and its OpenAPI document as it is committed.

Owns what every document of ours says beyond what the framework finds: an example on each schema, what an answer is, and
that errors are problem+json and nothing else. `/docs` shows the document (`swagger`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI

from services.kit import problems, swagger
from services.kit.examples import HEALTH, PROBLEM, collected

_REFERENCE = "#/components/schemas/"
_UNSAID = "Successful Response"
"""What the framework says of an answer of which nothing was said."""


class Application(FastAPI):
    """An application with one document and one page for it.

    Args:
        examples: one example per schema of the document, by the schema's name.
        options: of `FastAPI`.
    """

    def __init__(self, *, examples: Mapping[str, Any], **options: Any) -> None:
        super().__init__(docs_url=None, redoc_url=None, **options)
        self._examples = {**examples, **collected(PROBLEM, HEALTH)}
        swagger.install(self)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas: dict[str, Any] = document["components"]["schemas"]
            for name, schema in schemas.items():
                if name in self._examples:
                    schema["examples"] = [self._examples[name]]
            document["components"]["examples"] = problems.examples()
            for answer in _answers(document):
                if problems.MEDIA_TYPE in answer.get("content", {}):
                    answer["content"].pop("application/json", None)
                if answer["description"] == _UNSAID:
                    answer["description"] = _told(answer, schemas)
        return super().openapi()


def document(app: FastAPI) -> str:
    """Return the document of `app` as it is committed under `docs/api`."""
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


def _answers(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        for operation in methods.values():
            yield from operation["responses"].values()


def _told(answer: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """Return what an answer's schema says of itself, in one line."""
    name = answer["content"]["application/json"]["schema"]["$ref"].removeprefix(_REFERENCE)
    return str(schemas[name]["description"]).partition("\n\n")[0].replace("\n", " ")
