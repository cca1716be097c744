"""Kill the engine of a live server, again and again, under streams of every dialect, and compare what clients get.

    python bench/faults.py [--kills 50] [--streams 32] [--seed 0] [--only REGEX] [--json FILE]

A real `headrace serve stories` answers `--streams` clients that ask one thing after the other, of those in `ASKS`.
First nobody disturbs it; then its engine's process gets SIGKILL at random moments, now and then while it still loads.
Every answer must be, to the character and the log-probability, the undisturbed one.

Prints a line for each kind of request and one JSON object; exit status 1 if any answer differed or failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

TEMPLATE = """{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{- '<|user|>' + message.content -}}
{%- else -%}{{- '<|story|>' + (message.content or '') -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- call.function.arguments | tojson + '}\\n</tool_call>' -}}
{%- endfor -%}{{- '<|end|>' -}}
{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|story|>' -}}{%- endif -%}"""
"""The model's own knows no tools"""

_SAID = frozenset(
    {
        *("content", "text", "reasoning_content", "arguments", "partial_json", "thinking", "response", "delta"),
        *("generated_text", "text_output", "name", "finish_reason", "stop_reason", "done_reason", "stop_sequence"),
        *("token", "logprob", "token_logprobs", "tokens", "id_of_token", "bytes", "error", "message"),
        *("context", "stop_type", "status"),
    }
)
"""Keys of what must not differ; ids, times and what came from the cache may"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request. One more dialect is one more row."""

    name: str
    path: str
    body: Mapping[str, Any]


_CHAT: dict[str, Any] = {"model": "stories", "messages": [{"role": "user", "content": "Tell me of a cat"}]}
_TEXT: dict[str, Any] = {"model": "stories", "prompt": "Once upon a time", "max_tokens": 150}
_COLD, _WARM = {"temperature": 0}, {"temperature": 1, "seed": 7}
_FUNCTION = {"name": "look", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}
_TOOLS = {"tools": [{"type": "function", "function": _FUNCTION}], "tool_choice": "required"}
_MESSAGES = {"model": "stories", "max_tokens": 150, "messages": _CHAT["messages"]}
_GENERATE = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 150, "details": True}}
_SAMPLED = {"max_new_tokens": 150, "do_sample": True, "seed": 7, "temperature": 1.0}
_ANSWER = {"model": "stories", "input": "Tell me of a cat", "max_output_tokens": 150}
_OPTIONS = {"num_predict": 150}
_TENSORS = {"text_input": "Once upon a time", "max_tokens": 150, "return_finish_reason": True}
_PREDICT = {"prompt": "Once upon a time", "n_predict": 150, "return_tokens": True}
_LINES = 'root ::= (line "\\n")+\nline ::= [A-Z] [a-z ]{5,20} "."'
"""A grammar of llama.cpp"""


def _both(name: str, path: str, body: Mapping[str, Any]) -> Iterator[Ask]:
    yield Ask(name=f"{name}, streamed", path=path, body={**body, "stream": True})
    yield Ask(name=f"{name}, whole", path=path, body={**body, "stream": False})


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_SCHEMAS: dict[str, dict[str, Any]] = {
    "an integer": _object(name={"type": "string", "maxLength": 80}, age={"type": "integer"}),
    "texts": _object(said={"type": "array", "items": {"type": "string"}, "minItems": 2}, more={"type": "string"}),
    "numbers": _object(found={"type": "array", "items": {"type": "number"}, "minItems": 3}, last={"type": "integer"}),
    "any": {},
}
"""Most of them bounded by nothing but the tokens that an answer may have"""


def _structured(what: str, seed: int) -> Iterator[Ask]:
    """The same schema of each dialect that has schemas, with log-probabilities: they show what tokens may not."""
    schema, warm = _SCHEMAS[what], {"temperature": 1, "seed": seed}
    ollama = {"format": schema or "json", "options": _OPTIONS | warm, "logprobs": True}
    named = {"name": "x", "schema": schema}
    chat = {"max_tokens": 150, "logprobs": True, "response_format": {"type": "json_schema", "json_schema": named}}
    text = {"include": ["message.output_text.logprobs"], "text": {"format": {"type": "json_schema", **named}}}
    for dialect, path, body in (
        ("OpenAI chat", "/v1/chat/completions", _CHAT | warm | chat),
        ("OpenAI responses", "/v1/responses", _ANSWER | warm | text),
        ("Ollama generate", "/api/generate", {"model": "stories", "prompt": "Tell me of a cat", **ollama}),
        ("Ollama chat", "/api/chat", _CHAT | ollama),
        ("llama-server completion", "/completion", _PREDICT | warm | {"json_schema": schema, "n_probs": 1}),
    ):
        yield Ask(name=f"{dialect}, JSON schema of {what}, seed {seed}", path=path, body=body | {"stream": True})


ASKS: tuple[Ask, ...] = (
    *_both("OpenAI chat, t=0", "/v1/chat/completions", _CHAT | _COLD | {"max_tokens": 150}),
    *_both("OpenAI chat, t=1, n=2", "/v1/chat/completions", _CHAT | _WARM | {"max_tokens": 150, "n": 2}),
    *_both("OpenAI chat, logprobs", "/v1/chat/completions", _CHAT | _WARM | {"logprobs": True, "top_logprobs": 2}),
    *_both("OpenAI chat, tools", "/v1/chat/completions", _CHAT | _WARM | _TOOLS | {"max_tokens": 150}),
    *_both("OpenAI responses, t=0", "/v1/responses", _ANSWER | _COLD),
    *_both("OpenAI responses, t=1", "/v1/responses", _ANSWER | _WARM),
    *_both("OpenAI completions, t=0, stop", "/v1/completions", _TEXT | _COLD | {"stop": [" the end"], "logprobs": 1}),
    *_both("OpenAI completions, t=1, two prompts", "/v1/completions", _TEXT | _WARM | {"prompt": ["Once", "A dog"]}),
    *_both("vLLM regex", "/v1/completions", _TEXT | _WARM | {"structured_outputs": {"regex": "[a-z ]{90,140}"}}),
    *_both("vLLM mirostat", "/v1/completions", _TEXT | {"seed": 3, "mirostat": 2}),
    *_both("vLLM beams", "/v1/completions", _TEXT | _COLD | {"use_beam_search": True, "n": 2, "max_tokens": 40}),
    *_both("Anthropic messages, t=0", "/v1/messages", _MESSAGES | _COLD),
    *_both(
        "Anthropic messages, tools",
        "/v1/messages",
        _MESSAGES
        | _COLD
        | {"tools": [{"name": "look", "input_schema": _FUNCTION["parameters"]}], "tool_choice": {"type": "any"}},
    ),
    Ask(name="TGI, t=0, whole", path="/generate", body=_GENERATE),
    Ask(name="TGI, t=0, streamed", path="/generate_stream", body=_GENERATE),
    Ask(name="TGI, t=1, streamed", path="/generate_stream", body={"inputs": "A dog", "parameters": _SAMPLED}),
    *_both(
        "Ollama generate, t=0", "/api/generate", {"model": "stories", "prompt": "A dog", "options": _OPTIONS | _COLD}
    ),
    *_both(
        "Ollama generate, t=1", "/api/generate", {"model": "stories", "prompt": "A dog", "options": _OPTIONS | _WARM}
    ),
    *_both("Ollama chat, t=0", "/api/chat", _CHAT | {"options": _OPTIONS | _COLD}),
    *_both("Ollama chat, t=1", "/api/chat", _CHAT | {"options": _OPTIONS | _WARM}),
    Ask(name="KServe, t=0, whole", path="/v2/models/stories/generate", body=_TENSORS | _COLD),
    Ask(name="KServe, t=0, streamed", path="/v2/models/stories/generate_stream", body=_TENSORS | _COLD),
    Ask(name="KServe, t=1, streamed", path="/v2/models/stories/generate_stream", body=_TENSORS | _WARM),
    *_both("llama-server completion, t=0", "/completion", _PREDICT | _COLD),
    *_both("llama-server completion, t=1", "/completion", _PREDICT | _WARM | {"n_probs": 2}),
    *_both("llama-server completion, grammar", "/completion", _PREDICT | _WARM | {"grammar": _LINES}),
    *(ask for what in _SCHEMAS for seed in (7, 8) for ask in _structured(what, seed)),
)


def said(data: bytes) -> dict[str, list[Any] | str]:
    """What an answer says, however it was cut into pieces: for each place in it the texts put together."""
    found: dict[str, list[Any]] = defaultdict(list)
    for event in _events(data):
        _collect(event, "", found)
    return {
        place: "".join(values) if all(isinstance(value, str) for value in values) else values
        for place, values in found.items()
    }


def _events(data: bytes) -> Iterator[Any]:
    """Server-sent events, a line of JSON each, or one JSON document."""
    text = data.decode()
    if not re.match(r"(event|data|id|:)", text):
        try:
            yield json.loads(text)
        except json.JSONDecodeError:
            yield from map(json.loads, text.splitlines())
        return
    for line in text.splitlines():
        if line.startswith("data:") and line[5:].strip() != "[DONE]":
            yield json.loads(line[5:])


def _collect(value: Any, place: str, found: dict[str, list[Any]]) -> None:
    if isinstance(value, Mapping):
        if "index" in value:
            place += f"[{value['index']}]"
        for key, inner in value.items():
            _collect(inner, f"{place}.{key}", found)
    elif isinstance(value, list):
        for inner in value:
            _collect(inner, f"{place}[]" if "index" not in place else place, found)
    elif value is not None and place.rpartition(".")[2].rstrip("[]") in _SAID:
        found[place].append(value)


class Server:
    """`headrace serve stories`, and its engine's process."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.url = _address(process, log)
        self.log = log
        self.process = psutil.Process(process.pid)
        self._killed = 0

    @property
    def engine(self) -> psutil.Process | None:
        """The process that is to be killed; None while there is none."""
        children = [child for child in self.process.children() if child.status() != psutil.STATUS_ZOMBIE]
        return children[0] if children else None

    async def kill(self) -> None:
        """Kill the engine, once there is another than the last that was."""
        while True:
            engine = self.engine
            if engine is not None and engine.pid != self._killed:
                break
            await asyncio.sleep(0.005)
        self._killed = engine.pid
        engine.send_signal(signal.SIGKILL)


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """A server in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "template.jinja"
        template.write_text(TEMPLATE)
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "headrace", "serve", "stories", "--port", "0"]
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*command, "--chat-template", str(template), *options], stderr=stderr, text=True, stdout=stderr
            )
        try:
            yield Server(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    for _ in range(1200):
        if match := re.search(r"serves stories at (http://\S+)", log.read_text()):
            return match[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


@dataclass(slots=True)
class Found:
    """What clients have seen."""

    right: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    num_arrivals: int = 0
    """Pieces of answers"""


class Clients:
    """Clients that ask one thing after the other, until told to stop."""

    def __init__(self, url: str, asks: Sequence[Ask], num_streams: int) -> None:
        limits = httpx.Limits(max_connections=num_streams + 4)
        self._http = httpx.AsyncClient(base_url=url, timeout=900, limits=limits)
        self._asks = asks
        self._num_streams = num_streams
        self._expected: dict[str, Any] = {}
        self.found = Found()
        self.is_over = False

    async def learn(self) -> None:
        """Ask everything once, undisturbed."""
        for ask in self._asks:
            status, data = await self._ask(ask)
            if status != 200:
                raise SystemExit(f"{ask.name}: {status} {data.decode()[:300]}")
            self._expected[ask.name] = said(data)
            if not any(self._expected[ask.name].values()):
                raise SystemExit(f"{ask.name}: nothing was said: {data.decode()[:300]}")

    async def run(self) -> None:
        """Ask until `is_over`; what was begun is ended."""
        try:
            await asyncio.gather(*(self._one_after_the_other(number) for number in range(self._num_streams)))
        finally:
            await self._http.aclose()

    async def health(self) -> tuple[int, int, str]:
        """Status of /health/live and /health/ready, and what the latter says."""
        live, ready = await asyncio.gather(self._http.get("/health/live"), self._http.get("/health/ready"))
        return live.status_code, ready.status_code, ready.text

    async def next_outage(self, known: Collection[float]) -> float:
        """Wait for a token after a death; seconds from the first death since the last one until then, by the server."""
        while True:
            metrics = (await self._http.get("/metrics")).text
            found = re.search(r"^headrace:engine_restart_to_next_token_seconds\S* (\S+)", metrics, re.MULTILINE)
            if found is not None and float(found[1]) not in known:
                return float(found[1])
            await asyncio.sleep(0.02)

    async def _one_after_the_other(self, number: int) -> None:
        while not self.is_over:
            ask = self._asks[number % len(self._asks)]
            number += self._num_streams + 1  # so that each client has its turn with each
            try:
                status, data = await self._ask(ask)
                got = said(data)
            except (httpx.HTTPError, ValueError) as error:
                self.found.wrong.append(f"{ask.name}: {type(error).__name__}: {error}")
                continue
            if status == 200 and got == self._expected[ask.name]:
                self.found.right[ask.name] += 1
            else:
                self.found.wrong.append(f"{ask.name}: {status} {_difference(self._expected[ask.name], got)}")

    async def _ask(self, ask: Ask) -> tuple[int, bytes]:
        parts = []
        async with self._http.stream("POST", ask.path, json=ask.body) as response:
            async for part in response.aiter_bytes():
                self.found.num_arrivals += 1
                parts.append(part)
        return response.status_code, b"".join(parts)


def _difference(expected: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    places = [place for place in {**expected, **got} if expected.get(place) != got.get(place)]
    return (
        f"{places[0]}: expected {expected.get(places[0])!r}, got {got.get(places[0])!r}" if places else "no difference"
    )


async def _kill(server: Server, clients: Clients, num_kills: int, seed: int) -> tuple[list[float], Counter[str]]:
    """Returns the outages, and what /health said in them."""
    moments, health = random.Random(seed), Counter[str]()
    outages: list[float] = []
    for number in range(num_kills):
        is_loading = moments.random() < 0.15
        if number and not is_loading:
            outages.append(await clients.next_outage(outages))
            num_arrivals = clients.found.num_arrivals
            while clients.found.num_arrivals < num_arrivals + 20:  # it is at work again
                await asyncio.sleep(0.01)
        await asyncio.sleep(moments.uniform(0.0, 1.0))
        await server.kill()
        await asyncio.sleep(0.05)
        live, ready, text = await clients.health()
        health[f"live {live}, ready {ready}"] += 1
        assert ready != 503 or "SIGKILL" in text, text
    outages.append(await clients.next_outage(outages))
    return outages, health


async def measure(server: Server, asks: Sequence[Ask], num_streams: int, num_kills: int, seed: int) -> dict[str, Any]:
    """Run everything; the result is plain data."""
    clients = Clients(server.url, asks, num_streams)
    await clients.learn()
    running = asyncio.create_task(clients.run())
    outages, health = await _kill(server, clients, num_kills, seed)
    clients.is_over = True
    await running
    seconds = sorted(outages)
    return {
        "kills": num_kills,
        "streams": num_streams,
        "right": dict(sorted(clients.found.right.items())),
        "wrong": clients.found.wrong,
        "health_after_a_kill": dict(health),
        "outages": len(seconds),
        "seconds_to_next_token_median": round(statistics.median(seconds), 3),
        "seconds_to_next_token_worst": round(seconds[-1], 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="REGEX", help="of the kinds of requests those with such a name")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    asks = [ask for ask in ASKS if re.search(options.only, ask.name)]
    with serving() as server:
        figures = asyncio.run(measure(server, asks, options.streams, options.kills, options.seed))
    for name, count in figures["right"].items():
        print(f"{name}: {count} answers, all as undisturbed")
    for line in figures["wrong"]:
        print(f"WRONG {line[:1000]}")
    figures |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))
    print(json.dumps({**figures, "right": sum(figures["right"].values()), "wrong": len(figures["wrong"])}))
    sys.exit(1 if figures["wrong"] else 0)


if __name__ == "__main__":
    main()
