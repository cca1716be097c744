"""`headrace serve`: what is wrong with its options is said in one line, before any model is looked for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from in_process import Headrace

from headrace.server.stored.folder import Folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host", "no.invalid"), "not an address"),
        (("--tls-cert", "{file}", "--tls-key", "{file}"), "cannot be used"),
        (("--tls-cert", "{file}"), "go together"),
        (("--otlp-endpoint", "nonsense"), "expected a URL"),
        (("--store", "{folder}"), "another server's"),
        (("--api-key-file", "{file}"), "has no keys"),
        (("--api-key", "a b"), "printable ASCII"),
        (("--admin-key", "ä"), "printable ASCII"),
        (("--cors-origin", "example.org"), "no origin"),
        (("--cors-origin", "https://example.org/"), "no origin"),
        (("--cors-origin", "https://Example.org"), "no origin"),
        (("--cors-origin", "https://example.org:443"), "no origin"),
        (("--cors-origin", "https://"), "no origin"),
        (("--allowed-host", "example.org:8000"), "no name of a host"),
        (("--allowed-host", "https://example.org"), "no name of a host"),
        (("--stall-timeout", "nan"), "is no number"),
        (("--shutdown-timeout", "-1"), "not in the range"),
        (("--port", "{taken}"), "in use"),
    ],
)
def test_wrong_options(headrace: Headrace, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    file, folder = tmp_path / "empty", tmp_path / "store"
    file.write_text("")
    held = Folder(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"file": file, "folder": folder, "taken": taken.getsockname()[1]}
        done = headrace("serve", "no-such-model", "--port", "0", *(option.format(**names) for option in options))
    held.close()
    assert done.code != 0
    assert words in done.err
    assert len(done.err.splitlines()) == 1


def test_right_options_leave_nothing_behind(headrace: Headrace, tmp_path: Path) -> None:
    origins = (
        "*",
        "null",
        "https://example.org",
        "http://127.0.0.1:3000",
        "http://[::1]:3000",
        "chrome-extension://aBc",
    )
    options = [word for origin in origins for word in ("--cors-origin", origin)]
    options += ["--allowed-host", "example.org", "--store", str(tmp_path / "store")]
    done = headrace("serve", "no-such-model", "--port", "0", *options)
    assert "no model 'no-such-model'" in done.err
    Folder(tmp_path / "store").close()
