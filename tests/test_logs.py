"""Log lines, for people and for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from headrace.logs import LogSettings, set_up

logger = logging.getLogger("headrace.test")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    set_up(LogSettings())


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogSettings(format="json", level="info"))
    logger.info("a\nb %s", "ü", extra={"facts": {"tokens": 3}})
    logger.debug("not this")
    try:
        raise ValueError("x\ny")
    except ValueError as error:
        logger.error("it failed", exc_info=error)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["message"] == "a\nb ü"
    assert (first["level"], first["logger"], first["tokens"]) == ("info", "headrace.test", 3)
    assert first["time"].endswith("Z")
    assert "ValueError: x\ny" in second["traceback"]


def test_text_keeps_a_message_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogSettings())
    logger.warning("a\n\x1b[31mb")
    logger.info("not this")
    assert capsys.readouterr().err == "headrace: a\\x0a\\x1b[31mb\n"


def test_set_up_again_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        set_up(LogSettings())
    logger.warning("once")
    logging.getLogger("uvicorn.error").warning("and here")
    assert capsys.readouterr().err == "headrace: once\nheadrace: and here\n"
