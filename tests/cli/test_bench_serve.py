"""`headrace bench serve`: what it sends, when, and what it makes of the answers."""

from __future__ import annotations

import itertools
import json
import random
import socket
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
from fake_llm import serving
from in_process import Headrace

from headrace.async_llm import AsyncLLM
from headrace.cli.load.client import Answer, Client, Job
from headrace.cli.load.figures import percentile, result
from headrace.cli.load.jobs import Shape, make_job, poisson, random_prompt, read_trace, traced_jobs
from headrace.config import EngineConfig
from headrace.errors import ConfigError

IDS = ("--vocabulary", "512")
IDS_SHAPE = Shape(model="m", vocabulary=512)


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving(AsyncLLM("stories", EngineConfig(threads=1)), "stories", api_keys=("secret",)) as base:
        yield base


def test_a_run_is_printed_written_and_drawn(headrace: Headrace, target: str, tmp_path: Path) -> None:
    json_file, picture = tmp_path / "a.json", tmp_path / "a.svg"
    done = headrace(
        *("bench", "serve", target, "--api-key", "secret", *IDS, "--rate", "100", "--requests", "9"),
        *("--input-tokens", "20", "--output-tokens", "7", "--goodput", "ttft:60000", "tpot:60000"),
        *("--json", str(json_file), "--picture", str(picture)),
    )
    assert done.code == 0, done.err
    found = json.loads(json_file.read_text())
    assert (found["completed"], found["failed"], found["model"]) == (9, 0, "stories")
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (9 * 20, 9 * 7)
    assert (
        found["request_goodput"] == pytest.approx(found["request_throughput"]) == pytest.approx(9 / found["duration"])
    )
    assert found["output_throughput"] == pytest.approx(63 / found["duration"])
    for name in ("ttft", "tpot", "itl", "e2el"):
        assert 0 <= found[f"median_{name}_ms"] <= found[f"p90_{name}_ms"] <= found[f"p99_{name}_ms"]
    assert found["mean_e2el_ms"] == pytest.approx(found["mean_ttft_ms"] + 6 * found["mean_tpot_ms"])
    for words in ("Successful requests:", "Request goodput (req/s):", "P99 TTFT (ms):", "Median ITL (ms):"):
        assert words in done.out
    paths = ElementTree.fromstring(picture.read_text()).iter("{http://www.w3.org/2000/svg}path")
    assert sum(path.get("stroke-width") == "2" for path in paths) == 6
    assert "stories: 9 requests at 100.0 requests/s" in picture.read_text()

    done = headrace("bench", "serve", "--compare", str(json_file), str(json_file), "--picture", str(picture))
    assert done.code == 0, done.err
    assert done.out.startswith("A: a.json, stories: 9 requests at 100.0 requests/s\nB: a.json")
    ratios = [line.split()[-1] for line in done.out.splitlines()[4:]]
    assert set(ratios) <= {"1.000", "–"}
    assert picture.read_text().count('stroke-width="2"') == 12


def test_chats_and_data_sets(headrace: Headrace, target: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Once"}\n\n{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}\n')
    common = ("bench", "serve", target, "--api-key", "secret", "--output-tokens", "5", "--requests", "3")
    out = tmp_path / "x.json"
    done = headrace(*common, "--dataset", str(rows), "--chat", "--json", str(out))
    assert done.code == 0, done.err
    assert json.loads(out.read_text())["total_output_tokens"] == 5 + 2 + 5
    assert "send them with --chat" in headrace(*common, "--dataset", str(rows)).err
    rows.write_text('{"text": "Once"}\n')
    assert "line 1 should have either a prompt or messages" in headrace(*common, "--dataset", str(rows)).err


def test_what_fails_is_said(headrace: Headrace, target: str, tmp_path: Path) -> None:
    refused = headrace("bench", "serve", target, "--model", "stories")
    assert refused.code == 1
    assert "401" in refused.err
    too_long = headrace("bench", "serve", target, "--api-key", "secret", *IDS, "--output-tokens", "100000")
    assert "does not answer the first request" in too_long.err
    assert "context" in too_long.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    assert "is the server running there" in headrace("bench", "serve", f"http://127.0.0.1:{free}").err
    assert "is the server running there" in headrace("bench", "serve", f"http://127.0.0.1:{free}", "--model", "m").err
    key = (target, "--api-key", "secret")
    unknown = headrace("bench", "serve", *key, "--model", "nope", *IDS).err
    assert "404 Not Found: The model 'nope' is not served here" in unknown
    assert "x-request-id" not in unknown, "headers are no message"
    for address in ("ftp://x", "http://", "http://x:port", "http://x/?y"):
        assert "no server's address" in headrace("bench", "serve", address, "--model", "m").err
    nowhere = headrace("bench", "serve", *key, "--json", str(tmp_path / "no" / "x.json")).err
    assert "cannot be written" in nowhere, "said before anything is measured"
    for option in ("--rate", "--time-scale", "--length-scale", "--seconds", "--temperature"):
        assert "is no number" in headrace("bench", "serve", *key, option, "nan").err
    assert "no end within a time" in headrace("bench", "serve", *key, "--seconds", "3").err
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert "no file of" in headrace("bench", "serve", "--compare", str(other), str(other)).err
    assert "is no limit" in headrace("bench", "serve", target, "--goodput", "ttft").err
    assert "leave --rate" in headrace("bench", "serve", target, "--trace", str(other), "--rate", "2").err


@pytest.mark.parametrize("more", [(), ("--chat",), ("--words",)])
def test_without_options_it_fits_what_the_server_lists(
    headrace: Headrace, target: str, tmp_path: Path, more: tuple[str, ...]
) -> None:
    trace = tmp_path / "long.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 9000, "output_length": 3, "hash_ids": [1, 2]}\n' * 3)
    done = headrace("bench", "serve", f"{target}/v1/", "--api-key", "secret", "--trace", str(trace), *more)
    assert done.code == 0, done.err
    assert "Successful requests:                                       3" in done.out
    assert "Shortened to the context:                                  3" in done.out


def test_a_key_may_be_in_the_environment(headrace: Headrace, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_API_KEY", "secret")
    assert headrace("bench", "serve", target, "--requests", "2", "--output-tokens", "2").code == 0


def test_traces_in_both_forms(tmp_path: Path) -> None:
    azure = tmp_path / "azure.csv"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.6805900,396,109\n"
    )
    assert [(row.at, row.prompt_tokens, row.tokens) for row in read_trace(azure)] == [(0.0, 374, 44), (4.0, 396, 109)]
    mooncake = tmp_path / "mooncake.jsonl"
    lines = [
        {"timestamp": 3000, "input_length": 1100, "output_length": 30, "hash_ids": [7, 8, 10]},
        {"timestamp": 1000, "input_length": 1200, "output_length": 50, "hash_ids": [7, 8, 9]},
    ]
    mooncake.write_text("\n".join(map(json.dumps, lines)))
    trace = read_trace(mooncake)
    assert [(row.at, row.prompt_tokens) for row in trace] == [(0.0, 1200), (2.0, 1100)]
    first, second = traced_jobs(IDS_SHAPE, trace, random.Random(0), time_scale=0.5, length_scale=0.5)
    prompts = [json.loads(job.body)["prompt"] for job in (first, second)]
    assert [first.at, second.at, *map(len, prompts)] == [0.0, 1.0, 600, 550]
    assert prompts[0][:512] == prompts[1][:512]  # two blocks, at half their length
    assert prompts[0][512:550] != prompts[1][512:]
    shortened = next(iter(traced_jobs(IDS_SHAPE, trace, random.Random(0), max_context=60)))
    assert (len(json.loads(shortened.body)["prompt"]), json.loads(shortened.body)["max_tokens"]) == (30, 30)
    assert [job.is_shortened for job in (first, second, shortened)] == [False, False, True]
    mooncake.write_text('{"time": 3}')
    with pytest.raises(ConfigError, match="cannot be read as a trace"):
        read_trace(mooncake)


def test_the_traces_there_are(shared: Path) -> None:
    for name, count in (("AzureLLMInferenceTrace_conv.csv", 19366), ("mooncake_conversation_trace.jsonl", 12031)):
        rows = read_trace(shared / "data/traces" / name)
        assert len(rows) == count
        assert rows[0].at == 0
        assert all(row.prompt_tokens >= 0 and row.tokens >= 0 for row in rows)


def test_poisson_arrivals() -> None:
    times = list(itertools.islice(poisson(50, random.Random(1)), 5001))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert times[0] == 0
    assert sum(gaps) / 5000 == pytest.approx(1 / 50, rel=0.05)
    assert quantiles(gaps, n=2)[0] == pytest.approx(0.6931 / 50, rel=0.07)  # the median of an exponential distribution
    assert list(itertools.islice(poisson(float("inf"), random.Random(1)), 3)) == [0, 0, 0]


def test_random_prompts_are_exact_and_words_for_chats() -> None:
    ids = random_prompt(IDS_SHAPE, random.Random(0), 500)
    assert len(ids) == 500
    assert all(isinstance(one, int) and 300 <= one < 512 for one in ids)
    chat = Shape(model="m", chat=True, ignore_eos=False)
    words = random_prompt(chat, random.Random(0), 30)
    assert isinstance(words, str)
    body = json.loads(make_job(chat, 0, words, 3).body)
    assert len(body["messages"][0]["content"].split()) == 30
    assert "ignore_eos" not in body


def answered(sent: float, times: list[float], tokens: int, error: str | None = None) -> Answer:
    return Answer(
        Job(0, b""), sent, times=times, ended=(times or [sent])[-1], error=error, prompt_tokens=4, tokens=tokens
    )


def test_figures_of_known_answers() -> None:
    good = answered(10.0, [10.5, 10.6, 10.9], 5)
    slow = answered(10.2, [12.2], 1)
    found = result([good, slow, answered(10.3, [], 0, "no")], 10.0, 2.5, {"ttft": 600, "tpot": 101})
    assert (found["completed"], found["failed"], found["first_error"]) == (2, 1, "no")
    assert found["mean_ttft_ms"] == pytest.approx(1250)
    assert found["mean_tpot_ms"] == found["p99_tpot_ms"] == pytest.approx(100)  # 0.4 s for four tokens; one has none
    assert found["mean_itl_ms"] == pytest.approx(200)
    assert found["mean_e2el_ms"] == pytest.approx((900 + 2000) / 2)
    assert found["request_goodput"] == pytest.approx(1 / 2.5)
    assert found["max_concurrent_requests"] == 2
    timeline = found["timeline"]
    span = timeline["seconds"][0]
    assert sum(timeline["tokens_per_second"]) * span == pytest.approx(6)
    assert max(timeline["open_requests"]) == 2
    nothing = result([answered(1.0, [], 0, "no")], 1.0, 1.0)
    assert nothing["mean_ttft_ms"] == nothing["output_throughput"] == 0


def test_percentiles_are_linear() -> None:
    assert percentile([1, 2, 3, 4], 50) == 2.5
    assert percentile([1, 2, 3, 4], 100) == 4
    assert percentile([5], 99) == 5
    assert percentile([], 50) == 0


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


EVENTS = (
    b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"delta":{"content":"b"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2,"prompt_tokens_details":null}}\n\n',
    b"data: [DONE]\n\n",
)


@contextmanager
def answering(*parts: bytes) -> Iterator[str]:
    """A server that gives these bytes, each in a write of its own, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(65536)
                with suppress(ConnectionError):  # who has seen enough hangs up
                    for part in parts:
                        connection.sendall(part)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(60)


def answer_of(*parts: bytes) -> Answer:
    answers: list[Answer] = []
    with answering(*parts) as base:
        client = Client(base, "/v1/chat/completions", answers.append)
        client.send(Job(0, b"{}"))
        while client.num_open:
            client.poll(5)
        client.close()
    return answers[0]


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*EVENTS),),
        tuple(bytes([byte]) for byte in HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunked(*EVENTS)),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", chunked(b"".join(EVENTS)[:70], b"".join(EVENTS)[70:])),
        (HEAD + b"content-length: %d\r\n\r\n" % len(b"".join(EVENTS)), *EVENTS),
        (HEAD + b"x-content-length: none\r\nContent-Length:%d \r\n\r\n" % len(b"".join(EVENTS)), *EVENTS),
        (HEAD + b"connection: close\r\n\r\n", *EVENTS),
        (HEAD + b"connection: close\r\n\r\n", b"".join(EVENTS).replace(b"\n", b"\r\n")),
    ],
    ids=["chunked", "byte by byte", "split events", "length", "another length", "until closed", "crlf"],
)
def test_every_way_to_frame_an_answer(parts: tuple[bytes, ...]) -> None:
    answer = answer_of(*parts)
    assert answer.error is None
    assert (answer.tokens, answer.prompt_tokens, len(answer.times)) == (2, 4, 2)  # a role is no token


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((b"HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\n\r\nbusy",), "busy"),
        ((HEAD + b"connection: close\r\n\r\n", b'data: {"error":{"message":"fell over"}}\n\n'), "fell over"),
        ((HEAD + b"connection: close\r\n\r\n", EVENTS[1]), "no usage"),
        ((HEAD + b"connection: close\r\n\r\n", b"data: {\n\n"), "cannot be read"),
        ((HEAD + b"transfer-encoding: chunked\r\n\r\n", chunked(*EVENTS)[:-9]), "in the middle"),
        ((), "without an answer"),
        ((HEAD + b"content-length: many\r\n\r\n", *EVENTS), "Content-Length is 'many', expected a number of bytes"),
        ((HEAD + b"Content-Length: -5\r\n\r\n", *EVENTS), "Content-Length is '-5'"),
        ((HEAD + b"content-length:\r\n\r\n", *EVENTS), "Content-Length is ''"),
        ((HEAD + b"content-length: %b\r\n\r\n" % (b"9" * 5000), *EVENTS), "Content-Length is '999"),
        ((HEAD + b"content-length: \xb2\r\n\r\n", *EVENTS), "Content-Length is '²'"),
        ((HEAD + b"transfer-encoding: chunked\r\n\r\n", b"fff\r\na\r\n0\r\n\r\n"), "a chunk of b'fff' bytes"),
        ((HEAD + b"transfer-encoding: chunked\r\n\r\n", b"-2\r\na\r\n0\r\n\r\n"), "a chunk of b'-2' bytes"),
        ((HEAD + b"connection: close\r\n\r\n", b"data: " + b"[" * 100_000 + b"\n"), "cannot be read"),
    ],
    ids=[
        *("status", "error event", "no usage", "no JSON", "broken off", "nothing"),
        *("length in words", "negative length", "no length", "endless length", "superscript length"),
        *("chunk too short", "negative chunk", "deep JSON"),
    ],
)
def test_an_answer_that_is_none_says_why(parts: tuple[bytes, ...], words: str) -> None:
    assert words in (answer_of(*parts).error or "")


def test_a_key_goes_along() -> None:
    received: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "/x", received.append, "secret")
        client.send(Job(0, b"{}"))
        connection, _ = listener.accept()
        with connection:
            assert b"Authorization: Bearer secret\r\n" in connection.recv(65536)
        client.close()
