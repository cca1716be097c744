"""`headrace serve --log-format json`: every line is an object, also when its engine dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import httpx
import psutil

LONG = {"model": "stories", "prompt": "Once upon", "max_tokens": 400, "n": 8, "ignore_eos": True, "stream": True}


def test_every_line_is_json_also_of_a_death() -> None:
    command = [sys.executable, "-m", "headrace", "serve", "stories", "--port", "0", "--log-format", "json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines: list[dict[str, Any]] = []

    def until(key: str, value: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            lines.append(json.loads(process.stderr.readline()))
            if lines[-1].get(key) == value:
                return lines[-1]
        raise AssertionError(lines)

    try:
        base = until("event", "listening")["message"].split()[-1]
        body = {"model": "stories", "prompt": "Once upon", "max_tokens": 5}
        headers = {"x-request-id": "mine"}
        assert httpx.post(f"{base}/v1/completions", json=body, headers=headers, timeout=60).status_code == 200
        line = until("request_id", "mine")
        assert (line["status"], line["completion_tokens"]) == (200, 5)
        died = {"engine_request_ids": []}
        while not died["engine_request_ids"]:  # the request may have come to its end before the engine does
            with httpx.stream("POST", f"{base}/v1/completions", json=LONG, headers={"x-request-id": "other"}) as stream:
                answer = stream.iter_lines()
                next(answer)
                (engine,) = psutil.Process(process.pid).children()
                os.kill(engine.pid, signal.SIGKILL)
                died = until("event", "engine_died")
                assert "SIGKILL" in died["reason"]
                assert until("event", "engine_restarted")["restarts"] >= 1
                assert list(answer)[-2] == "data: [DONE]"
            line = until("request_id", "other")
        assert [name.rpartition("-")[0] for name in died["engine_request_ids"]] == ["other"]
        assert line["engine_died"] == died["reason"]
        process.terminate()
        lines += [json.loads(line) for line in process.stderr]
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert "Once upon" not in json.dumps(lines)
