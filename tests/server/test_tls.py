"""HTTPS with a certificate of our own making."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from click import ClickException
from fake_llm import FakeLLM

from headrace.cli.load.run import served_model
from headrace.cli.scrape import fetch
from headrace.errors import ConfigError
from headrace.server.run import make_server
from headrace.server.settings import ServerSettings


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl's command line")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    names = ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return certificate, key


def test_answers_come_encrypted(serve: Callable[..., str], pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    base = serve(FakeLLM(), tls_certificate=certificate, tls_key=key).replace("http://", "https://")
    trusting = ssl.create_default_context(cafile=str(certificate))
    body = {"model": "fake", "prompt": "x", "max_tokens": 5, "stream": True}
    with httpx.Client(verify=trusting, base_url=base) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.post("/v1/completions", json=body).text.endswith("data: [DONE]\n\n")
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{base}/health")
    for ask in (lambda: fetch(f"{base}/metrics", None), lambda: served_model(base)):
        with pytest.raises((ClickException, ConfigError), match=r"certificate that is not trusted .* SSL_CERT_FILE"):
            ask()
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{base.replace('https', 'http')}/health")


def test_files_that_are_no_pair(pair: tuple[Path, Path]) -> None:
    certificate, _ = pair
    with pytest.raises(ConfigError, match="cannot be used"):
        make_server(FakeLLM(), "fake", ServerSettings(tls_certificate=certificate, tls_key=certificate))  # type: ignore[arg-type]
