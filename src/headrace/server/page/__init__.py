"""The page at `/`: chat, schemas, tools and live charts, in plain HTML, CSS and JavaScript modules.

It is open without a key because it holds no data: what it shows, it asks of the API like any client, with the key that
its user types in. All files are read once, when the server starts; no path of a request reaches the file system.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from headrace.server.dialects.base import Answer, Dialect, Incoming, Route, Served
from headrace.server.dialects.openai import render_failure

_FOLDER = Path(__file__).parent
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Suffixes of the files that are served"""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # nothing can become markup or code
    )
)
_HEADERS = {
    "cache-control": "no-cache",  # kept, and asked for again with its etag
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "vary": "accept",
    "x-content-type-options": "nosniff",
}


def dialect() -> Dialect:
    """GET / of a browser, and GET /page/FILE for what it loads."""
    files = [path for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES and path.name != "index.html"]
    return Dialect(
        name="page",
        routes=(
            _route("/", _FOLDER / "index.html"),
            *(_route(f"/page/{path.name}", path) for path in files),
        ),
        render_failure=render_failure,
    )


def _route(path: str, file: Path) -> Route:
    body, media_type = file.read_bytes(), _TYPES[file.suffix]
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**_HEADERS, "etag": etag}

    def give(incoming: Incoming, _: Served) -> Answer:
        known = incoming.headers.get("if-none-match", "")
        if etag in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Answer(status=304, media_type=media_type, headers=headers)
        return Answer(body=body, media_type=media_type, headers=headers)

    claims = _is_browser if path == "/" else None
    return Route(method="GET", path=path, parse=give, claims=claims, is_open=True)


def _is_browser(incoming: Incoming) -> bool:
    """Whether it would rather have a page than what other clients find at `/`."""
    return "text/html" in incoming.headers.get("accept", "")
