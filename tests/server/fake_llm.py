"""A stand-in for AsyncLLM, and a live server for it. In the stand-in a byte is a token,
and an answer is a sentence begun somewhere in its middle.

It lets tests of the server fail, wait and count at will; what the real engine says is tested in test_real_engine.py.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from headrace.config import EngineConfig
from headrace.engine.memory import KVPlan
from headrace.engine.stats import EngineStats
from headrace.errors import ContextTooLong, EngineError, HeadraceError, MissingChatTemplate, RequestError
from headrace.model_card import ModelCard
from headrace.model_text import EncodedChat
from headrace.sampling_params import SamplingParams
from headrace.server.run import Server, listen, make_server, url
from headrace.server.settings import ServerSettings
from headrace.supervise.lives import Restarts
from headrace.text.answer import AnswerFormat, Reading
from headrace.types import Chunk, FinishReason, Logprob, TokenLogprobs, Usage

SENTENCE = b"the quick brown fox jumps over the lazy dog, then naps. "


CARD = ModelCard(family="Fake", num_parameters=1_500_000, weight_bytes=3_000_000, weight_formats="f16")


def answer(prompt_token_ids: list[int], index: int, length: int) -> str:
    """What the fake generates."""
    start = sum(prompt_token_ids) * 7 + index * 11
    return bytes(SENTENCE[(start + i) % len(SENTENCE)] for i in range(length)).decode()


class FakeTokenizer:
    """Bytes; with special tokens, a BOS (id 256) in front."""

    special_ids = frozenset({256})

    def token_id(self, name: str) -> int | None:
        return None

    bos_token = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [256] * add_special_tokens + list(text.encode())

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(i for i in token_ids if i < 256).decode("utf-8", "replace")

    def token_text(self, token_id: int) -> str:
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""


class FakeTemplate:
    def render(self, messages: Any, **_: Any) -> str:
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages)


@dataclass
class FakeLLM:
    """`step_seconds` is the time between tokens; `fail_after` kills a stream after that many tokens."""

    step_seconds: float = 0.0
    fail_after: int | None = None
    fail_with: Exception = field(default_factory=lambda: EngineError("the engine failed; restart it"))
    max_context: int = 2000
    default_params: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.25, top_k=7))
    trouble: str | None = None
    name: str = "fake"
    spec: str = "fake spec"
    tokenizer: FakeTokenizer | None = field(default_factory=FakeTokenizer)
    chat_template: FakeTemplate | None = field(default_factory=FakeTemplate)
    streams: list[FakeStream] = field(default_factory=list)
    chats: list[dict[str, Any]] = field(default_factory=list)
    is_closed: bool = False
    adapters: dict[str, Any] = field(default_factory=dict)
    config: EngineConfig = field(default_factory=EngineConfig)
    kv_plan: KVPlan = field(default_factory=lambda: KVPlan(125, 16, 1024, 2000, 2**30))
    restarts: Restarts = field(default_factory=Restarts)
    card: ModelCard = CARD

    def encode_chat(self, messages: Any, **options: Any) -> EncodedChat:
        if self.chat_template is None:
            raise MissingChatTemplate("fake has no chat template; give one with --chat-template FILE", param="messages")
        self.chats.append({"messages": messages, **options})
        ids = [256] * options["add_special_tokens"] + list(self.chat_template.render(messages).encode())
        return EncodedChat(ids, Reading(AnswerFormat()))

    def attach(self) -> None:
        """Everything happens in the loop already."""

    def through(self, gate: Any) -> None:
        """There is no port that a gate could stand before."""

    async def prepare(self, params: SamplingParams, reading: Any = None) -> None:
        """There is nothing to compile."""

    def submit(
        self,
        prompt: Any,
        params: SamplingParams,
        *,
        priority: int = 0,
        reading: Any = None,
        adapter: str | None = None,
        label: str | None = None,
    ) -> FakeStream:
        if self.trouble is not None:
            raise EngineError(self.trouble)
        text = prompt.get("prompt")
        ids = list(prompt["prompt_token_ids"]) if text is None else self.tokenizer.encode(text)
        if any(i > 256 for i in ids):
            raise RequestError("prompt has token id above 256", param="prompt")
        if len(ids) + (params.max_tokens or 1) > self.max_context:
            raise ContextTooLong(f"the prompt has {len(ids)} tokens, context {self.max_context}", param="prompt")
        self.streams.append(FakeStream(self, text, ids, params))
        return self.streams[-1]

    def stats(self) -> EngineStats:
        running = sum(not stream.is_over for stream in self.streams)
        made = sum(stream.num_made for stream in self.streams)
        return EngineStats(running, 0, 1, 0, 4, 5, made, 10, 3, 2, 4, 9, 6, 100, 0.0, 0.0, 0.0)

    async def close(self) -> None:
        self.is_closed = True


class FakeStream:
    def __init__(self, llm: FakeLLM, prompt: str | None, ids: list[int], params: SamplingParams) -> None:
        self.llm, self.prompt, self.prompt_token_ids, self.params = llm, prompt, ids, params
        self.length = min(params.max_tokens or 40, llm.max_context - len(ids))
        self.texts = [answer(ids, index, self.length) for index in range(params.n)]
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        self.num_cached_tokens = min(3, len(ids))
        self.num_made = self.num_steps = 0
        self.is_cancelled = self.is_over = False
        request = SimpleNamespace(params=params, id="fake-0", prompt_token_ids=ids)
        self.opened = SimpleNamespace(
            request=request,
            prompt=prompt,
            prompt_logprobs=None,
            num_cached_tokens=min(3, len(ids)),
            seconds_waited=0.0,
            is_finished=True,
            predictions=(),
        )

    @property
    def usage(self) -> Usage:
        return Usage(len(self.prompt_token_ids), self.num_made, self.num_cached_tokens)

    async def next_chunks(self, take: object = None) -> list[Chunk]:
        await asyncio.sleep(self.llm.step_seconds)
        if self.is_over:
            return []
        if self.llm.fail_after is not None and self.num_steps >= self.llm.fail_after:
            self.is_over = True
            raise self.llm.fail_with
        position = self.num_steps
        self.num_steps += 1
        if position == 0 and self.params.prompt_logprobs is not None:
            rest = [self._logprobs(i, self.params.prompt_logprobs) for i in self.prompt_token_ids[1:]]
            self.prompt_logprobs = self.opened.prompt_logprobs = [None, *rest]
        self.is_over = self.num_steps == self.length
        self.num_made += len(self.texts)
        return [self._chunk(index, position) for index in range(len(self.texts))]

    def cancel(self) -> None:
        self.is_cancelled = self.is_cancelled or not self.is_over
        self.is_over = True

    def _chunk(self, index: int, position: int) -> Chunk:
        text = self.texts[index][position]
        count = self.params.logprobs
        logprobs = None if count is None else [self._logprobs(ord(text), count)]
        return Chunk(index, text, [ord(text)], logprobs, FinishReason.LENGTH if self.is_over else None)

    def _logprobs(self, token_id: int, count: int) -> TokenLogprobs:
        """The chosen token ranks third; impossible ones are minus infinity."""
        others = [i for i in range(count + 3) if i != token_id][:count]
        ranks = [1, 2, *range(4, 4 + count)]
        entry = {i: Logprob(-0.5 * r if r < 5 else -math.inf, r, chr(i)) for i, r in zip(others, ranks, strict=False)}
        return {token_id: Logprob(-1.5, 3, chr(token_id)), **entry}


@dataclass
class HeldLLM(FakeLLM):
    """Gives its first token, and the others once it is let go."""

    go: threading.Event = field(default_factory=threading.Event)

    def submit(self, *args: Any, **options: Any) -> FakeStream:
        stream = super().submit(*args, **options)
        give = stream.next_chunks

        async def next_chunks(*_: object) -> list[Chunk]:
            while not stream.is_over and stream.num_steps and not self.go.is_set():
                await asyncio.sleep(0.005)
            return await give()

        stream.next_chunks = next_chunks  # type: ignore[method-assign]
        return stream


def broken(error: HeadraceError | Exception, after: int = 0) -> FakeLLM:
    """A fake whose streams die with `error` after `after` tokens."""
    return FakeLLM(fail_after=after, fail_with=error)


@contextmanager
def running(llm: Any, name: str = "fake", **settings: Any) -> Iterator[tuple[Server, str, threading.Thread]]:
    """A server of `llm`, its base URL and its thread; told to stop at the end, if it was not before."""
    listener = listen("127.0.0.1", 0)
    server = make_server(llm, name, ServerSettings(**settings))
    started = threading.Event()
    server.on_started = started.set
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    base = url(listener)
    thread.start()
    assert started.wait(60), "the server did not start"
    try:
        yield server, base, thread
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def serving(llm: Any, name: str = "fake", **settings: Any) -> Iterator[str]:
    """Serve `llm` and give the base URL."""
    with running(llm, name, **settings) as (_, base, _):
        yield base
