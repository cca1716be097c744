"""`AsyncLLM`: the same engine for an event loop; it steps in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from headrace.completion import Collector, OpenRequest
from headrace.config import EngineConfig
from headrace.decisions import decide
from headrace.engine.stats import EngineStats
from headrace.engine_port import EnginePort
from headrace.errors import EngineError, HeadraceError, ReaderTooSlow, RequestError
from headrace.loaded_adapters import LoadedAdapter, check_path
from headrace.loaded_engine import LoadedEngine
from headrace.loaded_model import LoadedModel
from headrace.local_engine import LocalEngine
from headrace.pooled import (
    ClassificationRequestOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    Ranking,
    ScoringRequestOutput,
)
from headrace.pooling import PoolingJob
from headrace.prompts import Message, Prompt, TextPrompt
from headrace.sampling_params import SamplingParams
from headrace.supervise.engine import SupervisedEngine
from headrace.supervise.lives import Restarts, Supervision
from headrace.text.answer import Reading
from headrace.types import Chunk, Decision, FloatArray, RequestOutput, StepOutput, TokenLogprobs, Usage, joined

logger = logging.getLogger("headrace")

_T = TypeVar("_T")

_MANY_REQUESTS = 32
"""Pooling requests of a call: what is done for all of them takes longer than other streams should wait"""
_MANY_CHUNKS = 512
"""Unread ones, of all of a request's completions; more are put together"""


class AsyncLLM(LoadedModel):
    """A loaded model for one event loop, which calls all its methods; the engine steps in a thread of its own.

    With `supervision` it runs in a process of its own instead, which is started again when it dies: streams then go on
    at their next token. All other arguments, and the errors, are those of `LoadedModel`.
    """

    def __init__(
        self,
        model: str | Path = "stories",
        config: EngineConfig | None = None,
        *,
        chat_template: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        supervision: Supervision | None = None,
    ) -> None:
        super().__init__(model, config, chat_template=chat_template, adapters=adapters)
        self._streams: dict[str, AsyncStream] = {}
        self._pooled: dict[str, asyncio.Future[FloatArray]] = {}
        self._compilers = ThreadPoolExecutor(1, "headrace-grammars")
        self._supervised: SupervisedEngine | None = None
        self._engine: EnginePort
        if supervision is None:
            loaded = LoadedEngine(self, self.config, self._given_adapters)
            self._engine = LocalEngine(loaded)
            self._open(loaded.facts)
        else:
            self._supervised = SupervisedEngine(self.files, self.config, self._given_adapters, supervision)
            self._engine = self._supervised
            self._open(self._supervised.wait())

    def through(self, gate: Callable[[EnginePort], EnginePort]) -> None:
        """From now on give all requests to what `gate` makes of the engine's port; before the first one only."""
        assert not self._streams
        assert not self._pooled
        self._engine = gate(self._engine)

    @property
    def restarts(self) -> Restarts:
        """What has been seen of the deaths and restarts of the engine's process."""
        return Restarts() if self._supervised is None else self._supervised.restarts

    @property
    def trouble(self) -> str | None:
        """Why the engine cannot run requests now; None when it can."""
        return self._engine.trouble

    def submit(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        reading: Reading | None = None,
        adapter: str | None = None,
        label: str | None = None,
    ) -> AsyncStream:
        """Check a prompt and queue it, for the model itself or with the named adapter; a lower `priority` runs earlier.

        `reading` comes with the prompt of a chat (`encode_chat`). Without a `request_id` it gets one, which begins with
        `label`.

        Raises:
            RequestError: nothing has been queued; `param` names the field at fault.
            Overloaded: the gate in front of the engine (`through`) has no room for it.
            EngineError: the engine has died or is closed.
        """
        opened = self._requests.make(
            prompt, sampling_params, request_id, priority=priority, reading=reading, adapter=adapter, label=label
        )
        return self._start(opened)

    def _start(self, opened: OpenRequest) -> AsyncStream:
        if opened.request.id in self._streams:
            raise RequestError(f"a request {opened.request.id!r} is running; give each one its own", param="request_id")
        self.attach()
        stream = AsyncStream(opened, self._engine, self._forget)
        self._streams[opened.request.id] = stream
        try:
            self._engine.submit(opened.request)
        except HeadraceError:
            self._forget(opened.request.id)
            raise
        return stream

    async def prepare(self, sampling_params: SamplingParams, reading: Reading | None = None) -> None:
        """Compile what a request needs (structured output, tools, a thought's budget, DRY) in a thread.

        No stream waits meanwhile, as they would while `submit` does it.

        Raises:
            RequestError: it cannot be enforced, is malformed, or takes too much work.
        """
        if self._requests.takes_work(sampling_params, reading):
            await asyncio.get_running_loop().run_in_executor(self._compilers, self.compile, sampling_params, reading)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> AsyncStream:
        """`submit` with the model's own defaults, up to the end of the text, when `sampling_params` is None."""
        if sampling_params is None:
            sampling_params = replace(self.default_params, max_tokens=None)
        return self.submit(prompt, sampling_params, adapter=adapter)

    async def generate(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> RequestOutput:
        """The whole completion; cancelling the task cancels the request. Defaults are those of `LLM.generate`."""
        params = self.default_params if sampling_params is None else sampling_params
        await self.prepare(params)
        stream = self.submit(prompt, params, adapter=adapter)
        collector = Collector(stream.opened)
        async with stream:
            async for chunk in stream:
                collector.push(chunk)
        return collector.result()

    async def load_adapter(self, name: str, path: str | Path, *, replace: bool = False) -> None:
        """`LLM.load_adapter`; the files are read beside the engine, which takes the adapter over between two steps.

        Raises:
            RequestError: the name is taken, or something else than a path is given.
            ModelError: the adapter cannot be found or read, or does not fit the model.
        """
        self.attach()
        check_path("path", path)
        ref = self._adapters.new_ref(name, replace=replace)
        nbytes = await self._engine.load_adapter(ref, path)
        try:
            self._adapters.check_is_new(name, replace=replace)  # others may have come in the meantime
        except RequestError:
            self._engine.unload_adapter(ref)
            raise
        before = self._adapters.enter(LoadedAdapter(ref, os.fspath(path), nbytes))
        if before is not None:
            self._engine.unload_adapter(before)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; what runs with it goes on to its end.

        Raises:
            UnknownModel: there is none of that name.
        """
        self._engine.unload_adapter(self._adapters.remove(name))

    async def decide(
        self,
        prompt: str | TextPrompt | Sequence[Message],
        labels: Sequence[str],
        *,
        per_token: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        adapter: str | None = None,
    ) -> Decision:
        """`LLM.decide`; cancelling the task cancels the request. Texts become token ids in a thread."""
        opened = await asyncio.to_thread(self._requests.make_decision, prompt, labels, chat_template_kwargs, adapter)
        async with self._start(opened) as stream:
            async for _ in stream:
                pass
        return decide(labels, opened.scores, opened.usage, per_token=per_token)

    def stats(self) -> EngineStats:
        """A snapshot of the engine's gauges and counters."""
        return self._engine.stats()

    async def embed(
        self,
        inputs: Prompt | Sequence[Prompt],
        *,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """As `LLM.embed`."""
        return await self._pool(
            lambda: self.pooler.embed(
                inputs,
                dimensions=dimensions,
                prompt_name=prompt_name,
                truncate_prompt_tokens=truncate_prompt_tokens,
            )
        )

    async def classify(
        self, inputs: Prompt | Sequence[Prompt], *, truncate_prompt_tokens: int | None = None
    ) -> list[ClassificationRequestOutput]:
        """As `LLM.classify`."""
        return await self._pool(lambda: self.pooler.classify(inputs, truncate_prompt_tokens=truncate_prompt_tokens))

    async def score(
        self,
        first: Prompt | Sequence[Prompt],
        second: Prompt | Sequence[Prompt],
        *,
        truncate_prompt_tokens: int | None = None,
    ) -> list[ScoringRequestOutput]:
        """As `LLM.score`."""
        return await self._pool(lambda: self.pooler.score(first, second, truncate_prompt_tokens=truncate_prompt_tokens))

    async def rerank(
        self,
        query: Prompt,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> Ranking:
        """As `LLM.rerank`."""
        return await self._pool(
            lambda: self.pooler.rerank(query, documents, top_n=top_n, truncate_prompt_tokens=truncate_prompt_tokens)
        )

    async def close(self) -> None:
        """Stop the engine; open streams get an EngineError."""
        await self._engine.close()
        self._compilers.shutdown(wait=False, cancel_futures=True)
        self.fail(EngineError("the engine was closed"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _pool(self, call: Callable[[], PoolingJob[_T]]) -> _T:
        """Run a call of the pooler; cancelling the task cancels its requests."""
        job = await asyncio.to_thread(call)  # megabytes of text take long to tokenise, and streams must not wait
        self.attach()
        futures = {request.id: asyncio.get_running_loop().create_future() for request in job.requests}
        self._pooled |= futures
        try:
            for number, request in enumerate(job.requests, 1):
                self._engine.pool(request)
                if not number % _MANY_REQUESTS:
                    await asyncio.sleep(0)  # others have their turn in between
            values = await asyncio.gather(*futures.values())
            is_large = len(values) >= _MANY_REQUESTS
            return await asyncio.to_thread(job.finish, values) if is_large else job.finish(values)
        finally:
            for request_id, future in futures.items():
                if self._pooled.pop(request_id, None) is not None:
                    future.cancel()
                    self._engine.cancel_pooled(request_id)

    def attach(self) -> None:
        """Hear of the engine in the running event loop: a request does it, and who wants to watch an idle engine."""
        self._engine.attach(self, asyncio.get_running_loop())

    def take(self, outputs: Sequence[StepOutput]) -> None:
        """A step's outputs (called by the engine's port). What one request cannot make text of ends that one only."""
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            try:
                stream.push(output)
            except Exception as error:
                logger.error("an output cannot be read", exc_info=error)
                self._engine.cancel(output.request_id)
                stream.end(EngineError(f"the output cannot be read ({type(error).__name__}: {error}); report this"))

    def take_pooled(self, outputs: Sequence[PoolingOutput]) -> None:
        """Pooling requests that are done (called by the engine's port)."""
        for output in outputs:
            future = self._pooled.pop(output.request_id, None)
            if future is not None and not future.done():
                future.set_result(output.values)

    def drop(self, request_id: str, error: HeadraceError) -> None:
        """A request that the engine gives up (called by its port)."""
        if (stream := self._streams.get(request_id)) is not None:
            stream.end(error)
        future = self._pooled.pop(request_id, None)
        if future is not None and not future.done():
            future.set_exception(error)

    def fail(self, error: HeadraceError) -> None:
        """The engine is gone (called by its port)."""
        for request_id in [*self._streams, *self._pooled]:
            self.drop(request_id, error)

    def _forget(self, request_id: str) -> None:
        self._streams.pop(request_id, None)


class AsyncStream:
    """One request's chunks, as an async iterator; leaving it early (`async with`, or `cancel`) cancels the request."""

    def __init__(self, opened: OpenRequest, engine: EnginePort, forget: Callable[[str], None]) -> None:
        self.opened = opened
        self._engine = engine
        self._forget = forget
        self.most_unread: int | None = None
        """Tokens that a reader may be behind; with their log-probabilities each counts for one more"""
        self._chunks: list[Chunk] = []
        self._many = _MANY_CHUNKS
        """Unread ones that are put together next"""
        self._ready = asyncio.Event()
        self._take: Callable[[Chunk], bool] | None = None
        """Of who waits in `next_chunks`"""
        self._has_ended = False
        self._error: HeadraceError | None = None

    @property
    def request_id(self) -> str:
        """The engine's id of the request."""
        return self.opened.request.id

    @property
    def prompt(self) -> str | None:
        """The prompt as text, or None when it came as token ids."""
        return self.opened.prompt

    @property
    def prompt_token_ids(self) -> list[int]:
        """The prompt as the engine got it."""
        return list(self.opened.request.prompt_token_ids)

    @property
    def prompt_logprobs(self) -> list[TokenLogprobs | None] | None:
        """Set with the first chunk, when the request asked for them."""
        return self.opened.prompt_logprobs

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that came from the prefix cache; known with the first chunk."""
        return self.opened.num_cached_tokens

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return self.opened.usage

    async def next_chunks(self, take: Callable[[Chunk], bool] | None = None) -> list[Chunk]:
        """All chunks that are ready, at least one; an empty list at the end.

        While this waits, `take` is called with each chunk at the moment that it comes, but for a completion's last. If
        it returns True, the chunk is done with and the wait goes on: that spares the way through the event loop, which
        for a token is longer than all else.

        Raises:
            EngineError: the engine died; nothing more will come.
        """
        while not self._chunks and not self._has_ended:
            self._ready.clear()
            self._take = take
            try:
                await self._ready.wait()
            finally:
                self._take = None
        chunks, self._chunks = self._chunks, []
        if not chunks and self._error is not None:
            raise self._error
        return chunks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        while not self._chunks and not self._has_ended:
            self._ready.clear()
            await self._ready.wait()
        if self._chunks:
            return self._chunks.pop(0)
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Drop the request before the engine's next step; does nothing once it has ended."""
        if not self._has_ended:
            self._engine.cancel(self.request_id)
            self.end(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def push(self, output: StepOutput) -> None:
        """Take one of the engine's outputs (called by AsyncLLM)."""
        chunk = self.opened.push(output)
        if chunk is None or self._has_ended:
            return
        if chunk.finish_reason is None and not self._chunks and self._take is not None and self._take(chunk):
            return
        self._chunks.append(chunk)
        if len(self._chunks) >= self._many:
            self._put_together()
            if self._has_ended:
                return
        if chunk.finish_reason is not None:
            if output.finish_reason is None:
                self._engine.cancel(self.request_id, output.index)
            if self.opened.is_finished:
                self.end(None)
        self._ready.set()

    def _put_together(self) -> None:
        """What a slow reader has before it: fewer, larger chunks are less memory here and fewer bytes to read, so that
        it may catch up. One that falls back further is given up."""
        by_index: dict[int, Chunk] = {}
        for chunk in self._chunks:
            before = by_index.get(chunk.index)
            by_index[chunk.index] = chunk if before is None else joined(before, chunk)
        self._chunks = list(by_index.values())
        self._many = max(_MANY_CHUNKS, 2 * len(self._chunks))  # with many completions not at each chunk
        unread = sum(len(chunk.token_ids) + sum(map(len, chunk.logprobs or ())) for chunk in self._chunks)
        if self.most_unread is not None and unread > self.most_unread and not self._has_ended:
            self._engine.cancel(self.request_id)
            self.end(ReaderTooSlow(f"{unread:,} tokens have not been read; read faster, or ask for fewer at a time"))

    def end(self, error: HeadraceError | None) -> None:
        """No more chunks will come (called by AsyncLLM)."""
        self._has_ended = True
        self._error = error
        self._ready.set()
        self._forget(self.request_id)
