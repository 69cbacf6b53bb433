"""`/docs`: the OpenAPI document as Swagger UI, from this process alone, so that it works without any network.

Scripts and styles are those of the package `fastapi-swagger`; the page and what starts it are here. Addresses are
relative: the page works behind a proxy's path too. The browser is told to load, and to talk to, nothing but this
service. A key typed under "Authorize" stays in the page's memory and is gone with it. The page needs no key, in
production neither: what it shows is the document, which is public.
"""

from __future__ import annotations

import html
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated, NamedTuple

from fastapi import FastAPI, Path, Response
from starlette.exceptions import HTTPException

BUNDLE = resources.files("fastapi_swagger.resources")
"""Where the package keeps the files of Swagger UI."""
DIRECTIVES = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",  # its arrows and locks are pictures in the style sheet
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
HEADERS = {
    "Content-Security-Policy": "; ".join(DIRECTIVES),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
CACHED = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
"""An hour: the files change with a release only, and after one nobody sees the old ones for longer."""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" type="image/png" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"><noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> does not.</noscript></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  queryConfigEnabled: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""
"""`validatorUrl`: left alone, Swagger UI would ask a server of its own to check documents of public addresses."""


class Asset(NamedTuple):
    """A file of the page, and its type."""

    content: Traversable | bytes
    media_type: str


ASSETS = {
    "swagger-ui-bundle.js": Asset(BUNDLE / "swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": Asset(BUNDLE / "swagger-ui.css", "text/css"),
    "favicon.png": Asset(BUNDLE / "favicon-32x32.png", "image/png"),
    "start.js": Asset(START.encode(), "text/javascript"),
}


@cache
def _content(asset: Asset) -> bytes:
    """Return a file's bytes, read once: the largest has 1.5 MB, and whoever asks for it needs no key."""
    return asset.content if isinstance(asset.content, bytes) else asset.content.read_bytes()


def install(app: FastAPI) -> None:
    """Add the page and its files to the operational routes, which need no key and wait for nobody."""
    page = PAGE.format(title=html.escape(app.title))

    async def docs() -> Response:
        return Response(page, media_type="text/html", headers=HEADERS)

    def docs_asset(name: Annotated[str, Path()]) -> Response:
        asset = ASSETS.get(name)
        if asset is None:
            raise HTTPException(404)
        return Response(_content(asset), media_type=asset.media_type, headers=CACHED)

    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/docs/{name}", docs_asset, include_in_schema=False)
