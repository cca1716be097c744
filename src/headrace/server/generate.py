"""Run a `Call` on the engine: prompts in, pieces or whole outputs out. Knows neither dialects nor HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from headrace.completion import Collector
from headrace.errors import ContextTooLong, EngineError, RequestError
from headrace.sampling_params import SamplingParams
from headrace.server.beside import Beside
from headrace.server.dialects.base import Call, ChatPrompt, TextPrompt
from headrace.server.metrics import Metrics, Stopwatch
from headrace.server.record import RequestRecord
from headrace.types import Chunk, FinishReason, RequestOutput, Times, TokenLogprobs, Usage

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM, AsyncStream
    from headrace.model_text import EncodedChat
    from headrace.prompts import Prompt
    from headrace.text.answer import Reading

_LONG_PROMPT = 10_000
"""Characters; fewer take less time than the way to a thread and back is worth"""

_MANY_MESSAGES = 100
"""Templates may look at each message for each other one"""

_LONGEST_LABEL = 40
"""Of a request's id, which the client may choose, in the engine's: that comes with every token"""

_OBJECTS = (dict, Mapping)
_LISTS = (list, tuple, Sequence)
"""What JSON's values are first: asking an abstract class takes ten times as long"""

Piece: TypeAlias = tuple[int, list[Chunk]]
"""The index of a prompt within its call, and what one step gave for it."""


@dataclass(frozen=True, slots=True)
class OpenPrompt:
    """One prompt of a call, queued. It is a `Progress`."""

    stream: AsyncStream
    stopwatch: Stopwatch
    prompt: str | None
    """The prompt's text, if it came as text or was asked for."""

    @property
    def prompt_token_ids(self) -> list[int]:
        """The prompt as the engine got it."""
        return self.stream.prompt_token_ids

    @property
    def prompt_logprobs(self) -> list[TokenLogprobs | None] | None:
        """Set with the first chunk, when the call asked for them."""
        return self.stream.prompt_logprobs

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return self.stream.usage

    @property
    def times(self) -> Times:
        """What has happened so far, and when."""
        return self.stopwatch.times

    async def next_chunks(self, take: Callable[[Chunk], bool] | None = None) -> list[Chunk]:
        """All chunks that are ready, at least one; an empty list at the end.

        `take` is that of `AsyncStream.next_chunks`, once there has been a first list. It calls `taken`.

        Raises:
            EngineError: the engine died, or dropped the request.
        """
        chunks = await self.stream.next_chunks(take if self.stopwatch.has_begun else None)
        if chunks and not self.stopwatch.has_begun:
            self.stopwatch.begin(self.stream.opened.seconds_waited, self.stream.opened.num_cached_tokens)
        for chunk in chunks:
            if chunk.finish_reason is FinishReason.ABORT:
                raise EngineError("the server dropped this request before it was finished; send it again")
        self.stopwatch.take(chunks)
        return chunks

    def taken(self, chunk: Chunk) -> None:
        """A chunk has come to `take`, and nowhere else."""
        self.stopwatch.take((chunk,))


async def open_call(
    call: Call,
    llm: AsyncLLM,
    metrics: Metrics,
    beside: Beside,
    record: RequestRecord,
    adapter: str | None = None,
) -> list[OpenPrompt]:
    """Queue every prompt of a call; `record` is its request's.

    `adapter` is the name of the one that answers, None for the model itself. What takes long is done `beside`.

    Raises:
        RequestError: one of them cannot run; then none does.
        EngineError: the engine is down.
    """
    opened: list[OpenPrompt] = []
    try:
        for prompt in call.prompts:
            opened.append(await _open_prompt(prompt, call, llm, metrics, beside, record, adapter))
            if len(call.prompts) > 1:
                await asyncio.sleep(0)  # others have their turn in between
    except BaseException:  # a cancelled task too
        close_call(opened)
        raise
    return opened


def close_call(opened: Sequence[OpenPrompt]) -> None:
    """Cancel whatever of a call is still running."""
    for one in opened:
        one.stream.cancel()
        one.stopwatch.close()


async def pieces(
    opened: Sequence[OpenPrompt], take: Callable[[Chunk], bool] | None = None
) -> AsyncIterator[list[Piece]]:
    """What a call's prompts give, as it comes: a list has everything that is ready, so one list is one write.

    `take` is that of `OpenPrompt.next_chunks`; where there are several prompts it is not called.

    Raises:
        EngineError: the engine died.
    """
    if len(opened) == 1:
        while chunks := await opened[0].next_chunks(take):
            yield [(0, chunks)]
        return
    queue: asyncio.Queue[Piece | Exception] = asyncio.Queue(len(opened))  # what is not read waits in the streams
    pumps = [asyncio.create_task(_pump(index, one, queue)) for index, one in enumerate(opened)]
    num_running = len(pumps)
    try:
        while num_running:
            ready: list[Piece] = []
            item = await queue.get()
            while True:
                if isinstance(item, Exception):
                    raise item
                if item[1]:
                    ready.append(item)
                else:
                    num_running -= 1
                if queue.empty():
                    break
                item = queue.get_nowait()
            if ready:
                yield ready
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def outputs(opened: Sequence[OpenPrompt]) -> list[RequestOutput]:
    """The whole outputs of a call, in the order of its prompts.

    Raises:
        EngineError: the engine died.
    """
    collectors = [Collector(one.stream.opened) for one in opened]

    def take(chunk: Chunk) -> bool:
        opened[0].taken(chunk)
        collectors[0].push(chunk)
        return True

    async for ready in pieces(opened, take):
        for index, chunks in ready:
            for chunk in chunks:
                collectors[index].push(chunk)
    return [
        replace(each.result(), prompt=one.prompt, times=one.times) for each, one in zip(collectors, opened, strict=True)
    ]


async def _pump(index: int, one: OpenPrompt, queue: asyncio.Queue[Piece | Exception]) -> None:
    """Move a prompt's chunks into the queue; an empty list is its end."""
    try:
        while chunks := await one.next_chunks():
            await queue.put((index, chunks))
    except Exception as error:  # noqa: BLE001  handed to the reader of the queue, which raises it
        await queue.put(error)
    else:
        await queue.put((index, []))


def _in_words_of(call: Call, error: RequestError) -> RequestError:
    error.param = call.param_names.get(error.param or "", error.param)
    return error


async def _open_prompt(
    prompt: ChatPrompt | TextPrompt,
    call: Call,
    llm: AsyncLLM,
    metrics: Metrics,
    beside: Beside,
    record: RequestRecord,
    adapter: str | None,
) -> OpenPrompt:
    text = prompt.prompt if isinstance(prompt, TextPrompt) and isinstance(prompt.prompt, str) else None
    try:
        is_small = not _takes_long(prompt) and len(call.prediction or "") < _LONG_PROMPT
        encode = partial(_encode_all, prompt, call, llm)
        encoded, reading, predicted = await beside.text(encode, is_small=is_small)
        await llm.prepare(call.params, reading)
        if call.truncation is not None and not isinstance(encoded, str):
            whole, encoded = encoded, _truncated(encoded, call, llm.max_context)
            text = text if len(whole) == len(encoded) else None
        given, params = _as_prompt(encoded, call.cache_salt, predicted), _bounded(call, len(encoded), llm.max_context)
        label = record.id[:_LONGEST_LABEL]
        stream = llm.submit(given, params, priority=call.priority, reading=reading, adapter=adapter, label=label)
    except RequestError as error:
        raise _in_words_of(call, error) from error.__cause__
    if text is None and call.needs_prompt_text and llm.tokenizer is not None:
        skips = call.params.skip_special_tokens and isinstance(prompt, TextPrompt)  # a chat's are worth seeing
        text = llm.tokenizer.decode(stream.prompt_token_ids, skip_special_tokens=skips)
    return OpenPrompt(stream, metrics.stopwatch(record, params, len(stream.prompt_token_ids)), text)


def _bounded(call: Call, num_prompt: int, most: int) -> SamplingParams:
    """The call's parameters, within the context that it asks for."""
    params = call.params
    if call.max_context is None:
        return params
    room = call.max_context - num_prompt
    if room < 1:
        raise ContextTooLong(
            f"the prompt has {num_prompt:,} tokens, which leaves none of a context of {call.max_context:,} for the"
            f" output; shorten it{', or ask for more context' if call.max_context < most else ''}",
            param="prompt",
        )
    return replace(params, max_tokens=room if params.max_tokens is None else min(params.max_tokens, room))


def _as_prompt(prompt: str | list[int], cache_salt: str | None, predicted: str | list[int] | None) -> Prompt:
    if isinstance(prompt, str):
        return {"prompt": prompt, "cache_salt": cache_salt, "prediction": predicted}
    return {"prompt_token_ids": prompt, "cache_salt": cache_salt, "prediction": predicted}


def _encode_all(
    prompt: ChatPrompt | TextPrompt, call: Call, llm: AsyncLLM
) -> tuple[str | list[int], Reading | None, str | list[int] | None]:
    """The prompt, how its answers are read, and what is predicted of them."""
    encoded, reading = _encode(prompt, llm)
    if call.prediction is None or llm.tokenizer is None:
        return encoded, reading, call.prediction
    return encoded, reading, llm.tokenizer.encode(call.prediction, add_special_tokens=False)


def _truncated(token_ids: list[int], call: Call, max_context: int) -> list[int]:
    assert call.truncation is not None
    count = call.truncation.max_tokens
    if count == -1:
        count = max(max_context - (call.params.max_tokens or 1), 1)
    return token_ids[:count] if call.truncation.keeps_start else token_ids[-count:]


def _takes_long(prompt: ChatPrompt | TextPrompt) -> bool:
    """Whether other streams would notice: long texts, many messages or tools, and templates that nobody here knows."""
    if isinstance(prompt, TextPrompt):
        return is_long(prompt.prompt)
    if prompt.chat_template is not None or len(prompt.messages) > _MANY_MESSAGES:
        return True
    return is_long([prompt.messages, prompt.tools, prompt.documents, prompt.chat_template_kwargs])


def is_long(value: object) -> bool:
    """Whether texts and all else in a JSON value come to more than `_LONG_PROMPT`; looks no further than that."""
    left, waiting = _LONG_PROMPT, [value]
    while waiting and left > 0:
        each = waiting.pop()
        if isinstance(each, str):
            left -= len(each)
        elif isinstance(each, _OBJECTS):
            left -= len(each)
            if left > 0:
                waiting += [*each, *each.values()]
        elif isinstance(each, _LISTS):
            left -= len(each)
            if left > 0:
                waiting += each
    return left <= 0


def _encode(prompt: ChatPrompt | TextPrompt, llm: AsyncLLM) -> tuple[str | list[int], Reading | None]:
    """The prompt as token ids, and how a chat's answers are read; a text that no tokenizer is there for stays text,
    which `submit` then says."""
    if isinstance(prompt, ChatPrompt):
        return encode_chat(prompt, llm)
    if not isinstance(prompt.prompt, str):
        return [*prompt.context, *_encode_mixed(prompt, llm)], None
    if llm.tokenizer is None:
        return prompt.prompt, None
    add_special_tokens = prompt.add_special_tokens and not prompt.context
    return [*prompt.context, *llm.tokenizer.encode(prompt.prompt, add_special_tokens)], None


def _encode_mixed(prompt: TextPrompt, llm: AsyncLLM) -> list[int]:
    token_ids: list[int] = []
    for index, part in enumerate(prompt.prompt):
        if isinstance(part, int):
            token_ids.append(part)
        elif llm.tokenizer is None:
            raise RequestError(f"{llm.name} has no tokenizer; send token ids only", param="prompt")
        else:
            is_first = not index and not prompt.context
            token_ids += llm.tokenizer.encode(part, add_special_tokens=prompt.add_special_tokens and is_first)
    return token_ids


def render_chat(prompt: ChatPrompt, llm: AsyncLLM) -> EncodedChat:
    """A conversation as the model's chat template writes it.

    Raises:
        RequestError: the template cannot.
    """
    return llm.encode_chat(
        prompt.messages,
        tools=prompt.tools,
        tool_choice=prompt.tool_choice,
        parallel_tool_calls=prompt.parallel_tool_calls,
        documents=prompt.documents,
        chat_template=prompt.chat_template,
        reasoning_effort=prompt.reasoning_effort,
        chat_template_kwargs=prompt.chat_template_kwargs,
        add_generation_prompt=prompt.add_generation_prompt,
        continue_final_message=prompt.continue_final_message,
        add_special_tokens=prompt.add_special_tokens,
    )


def encode_chat(prompt: ChatPrompt, llm: AsyncLLM) -> tuple[list[int], Reading]:
    """A conversation as token ids, and how the answers to it are read.

    Raises:
        RequestError: as `render_chat`.
    """
    chat = render_chat(prompt, llm)
    if not prompt.context:
        return chat.token_ids, chat.reading
    assert llm.tokenizer is not None  # there was one to encode with
    begins_again = llm.tokenizer.bos_token and llm.tokenizer.token_text(chat.token_ids[0]) == llm.tokenizer.bos_token
    return [*prompt.context, *chat.token_ids[1 if begins_again else 0 :]], chat.reading
