"""A hub on localhost that speaks what huggingface_hub 1.x and 2.x ask of the real one, and can misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".gguf")


@dataclass
class Repository:
    files: dict[str, bytes]
    commit: str = "c" * 40
    branches: tuple[str, ...] = ("main",)
    error: tuple[int, str] | None = None
    """HTTP status and X-Error-Code that every request gets"""


@dataclass
class FakeHub:
    repositories: dict[str, Repository] = field(default_factory=dict)
    cut_after: int | None = None
    """Break the connection after this many bytes of a file's body, once per request"""
    hang_after: int | None = None
    """Stop sending after this many bytes and hold the connection"""
    corrupt: bool = False
    ignore_ranges: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, Range header)"""
    authorizations: list[str | None] = field(default_factory=list)

    def __enter__(self) -> FakeHub:
        hub = self
        self.release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda request, address: None  # clients that break off are part of the tests
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def downloads(self) -> list[tuple[str, str | None]]:
        """(file, Range) of every GET for a file."""
        return [
            (path.split("/resolve/")[1].split("/", 1)[1], bytes_range)
            for method, path, bytes_range in self.requests
            if method == "GET" and "/resolve/" in path
        ]

    def answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        self.requests.append((request.command, path, request.headers.get("Range")))
        self.authorizations.append(request.headers.get("Authorization"))
        parts = path.removeprefix("/api/models").strip("/").split("/")
        repository = self.repositories.get("/".join(parts[:2]))
        if repository is None:
            return self._error(request, 404, "RepoNotFound")
        if repository.error is not None:
            return self._error(request, *repository.error)
        revision = parts[3] if len(parts) > 3 else "main"
        if revision not in (*repository.branches, repository.commit):
            return self._error(request, 404, "RevisionNotFound")
        if path.startswith("/api/models"):
            body = _tree(repository) if "tree" in parts[2:3] else _info("/".join(parts[:2]), repository)
            return self._send(request, json.dumps(body).encode(), {"Content-Type": "application/json"}, with_body)
        return self._send_file(request, repository, "/".join(parts[4:]), with_body)

    def _send_file(self, request: BaseHTTPRequestHandler, repository: Repository, name: str, with_body: bool) -> None:
        if name not in repository.files:
            return self._error(request, 404, "EntryNotFound")
        data = repository.files[name]
        etag = _etag(name, data)
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if name.endswith(LFS_SUFFIXES):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            if self.corrupt:
                data = data[:-1] + b"?"
        status = 200
        bytes_range = request.headers.get("Range")
        if bytes_range and not self.ignore_ranges:
            start = int(bytes_range.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        return self._send(request, data, headers, with_body, status)

    def _send(self, request, data: bytes, headers: dict[str, str], with_body: bool, status: int = 200) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        if not with_body:
            return
        large = len(data) > 1000
        if large and self.cut_after is not None and len(data) > self.cut_after:
            request.wfile.write(data[: self.cut_after])
            request.close_connection = True
            return
        if large and self.hang_after is not None and len(data) > self.hang_after:
            request.wfile.write(data[: self.hang_after])
            request.wfile.flush()
            self.release.wait(120)  # longer than anybody waits here
            request.close_connection = True
            return
        request.wfile.write(data)

    def _error(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self._send(request, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, request.command != "HEAD", status)


def _etag(name: str, data: bytes) -> str:
    return (hashlib.sha256 if name.endswith(LFS_SUFFIXES) else hashlib.sha1)(data).hexdigest()


def _info(repository_id: str, repository: Repository) -> dict[str, object]:
    siblings = []
    for name, data in repository.files.items():
        sibling: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
        if name.endswith(LFS_SUFFIXES):
            sibling["lfs"] = {"sha256": _etag(name, data), "size": len(data), "pointerSize": 130}
        siblings.append(sibling)
    return {
        "id": repository_id,
        "_id": "0",
        "sha": repository.commit,
        "private": False,
        "siblings": siblings,
        "tags": [],
    }


def _tree(repository: Repository) -> list[dict[str, object]]:
    entries = []
    for name, data in repository.files.items():
        entry: dict[str, object] = {
            "type": "file",
            "path": name,
            "size": len(data),
            "oid": hashlib.sha1(data).hexdigest(),
        }
        if name.endswith(LFS_SUFFIXES):
            entry["lfs"] = {"oid": _etag(name, data), "size": len(data), "pointerSize": 130}
        else:
            entry["oid"] = _etag(name, data)
        entries.append(entry)
    return entries
