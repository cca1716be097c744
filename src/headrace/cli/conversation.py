"""A loaded model and what has been said so far; every answer of `headrace run` is made here."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, cast

from headrace.cli.options import parse_token_ids
from headrace.cli.status import Status, TextOut, Timing
from headrace.config import EngineConfig
from headrace.errors import ContextTooLong, MissingChatTemplate, RequestError
from headrace.llm import LLM
from headrace.sampling_params import SamplingParams
from headrace.types import Chunk

DEFAULT_LIMIT = 1024
"""Most tokens of an answer without --max-tokens; a model that never stops would fill its context."""

_ADAPTER = "lora"
"""What the adapter of --lora is called"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to answer."""

    system: str | None = None
    raw: bool = False
    token_ids: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)
    """Fields of SamplingParams that were given"""
    is_quiet: bool = False
    lora: Path | None = None
    """Folder of the adapter that answers"""


@contextmanager
def load_conversation(
    model: str, config: EngineConfig, chat_template: Path | None, settings: Settings
) -> Iterator[Conversation]:
    """Load the model, saying on stderr what was loaded and how prompts are used."""
    status = Status(settings.is_quiet)
    adapters = {} if settings.lora is None else {_ADAPTER: settings.lora}
    with LLM(model, config, chat_template=chat_template, adapters=adapters) as llm:
        for line in llm.load_report:
            status.say(line)
        conversation = Conversation(llm, settings, status)
        status.say(conversation.manner)
        yield conversation


class Conversation:
    """Answers prompts and, where the model has a chat template, remembers them.

    Raises:
        MissingChatTemplate: a system message for a model that has no template to put it into.
        RequestError: a sampling option is out of range; or a folder without tokenizer without --token-ids.
    """

    def __init__(self, llm: LLM, settings: Settings, status: Status) -> None:
        self.settings = settings
        self.status = status
        self._llm = llm
        self._adapter = None if settings.lora is None else _ADAPTER
        self._messages: list[dict[str, str]] = []
        self._params = replace(llm.default_params, **{"max_tokens": DEFAULT_LIMIT, **settings.sampling})
        if settings.system is not None and not self.has_memory:
            raise MissingChatTemplate(
                f"{llm.name} has no chat template for --system; give one with --chat-template FILE, or leave it out"
            )
        if llm.tokenizer is None and not settings.token_ids:
            raise RequestError(f"{llm.name} has no tokenizer; give --token-ids and the prompt as token ids")
        self.clear()

    @property
    def has_memory(self) -> bool:
        """Whether prompts are messages of one conversation; else each is a text to continue."""
        return self._llm.chat_template is not None and not self.settings.raw and not self.settings.token_ids

    @property
    def manner(self) -> str:
        """How prompts are used, in a line."""
        if self.settings.token_ids:
            return "token ids in, token ids out"
        if self.has_memory:
            return "chat: prompts are messages through the model's chat template"
        why = "--raw" if self.settings.raw else "the model has no chat template"
        return f"plain continuation: each prompt is a text to go on with ({why})"

    def clear(self) -> None:
        """Forget what has been said, all but the system message."""
        self._messages = [] if self.settings.system is None else [{"role": "system", "content": self.settings.system}]

    def answer(self, text: str) -> None:
        """Stream the answer to a prompt.

        Raises:
            KeyboardInterrupt: Ctrl-C; what had come by then is remembered.
            RequestError: the prompt cannot be answered, and is not remembered.
        """
        if not self.has_memory:
            prompt = parse_token_ids(text) if self.settings.token_ids else text
            self._stream(self._open(lambda params: self._llm.stream(prompt, params, adapter=self._adapter)))
            return
        self._messages.append({"role": "user", "content": text})
        try:
            stream = self._open(lambda params: self._llm.stream_chat(self._messages, params, adapter=self._adapter))
        except RequestError:
            self._messages.pop()
            raise
        said: list[str] = []
        try:
            self._stream(stream, said)
        finally:
            self._messages.append({"role": "assistant", "content": "".join(said)})

    def tell(self, opening: str) -> None:
        """Stream a text that goes on from `opening`, as if a user had opened it."""
        said = [opening]
        self._stream(self._open(lambda params: self._llm.stream(opening, params, adapter=self._adapter)), said, opening)
        if self.has_memory:
            self._messages.append({"role": "user", "content": opening})
            self._messages.append({"role": "assistant", "content": "".join(said)})

    def _open(self, start: Callable[[SamplingParams], Iterator[Chunk]]) -> Iterator[Chunk]:
        """Start an answer of at most max_tokens; where the context has no room for so many, of what it has."""
        try:
            return start(self._params)
        except ContextTooLong as error:
            if error.param != "max_tokens":
                raise
            return start(replace(self._params, max_tokens=None))

    def _stream(self, stream: Iterator[Chunk], said: list[str] | None = None, opening: str = "") -> None:
        out, thought, timing = TextOut(), TextOut(is_aside=True), Timing()
        out.write(opening)
        interrupted = False
        with closing(cast("Generator[Chunk]", stream)), _deferred_interrupt() as interrupt:
            for chunk in stream:
                timing.add(chunk)
                if not self.status.is_quiet:
                    thought.write(chunk.reasoning)
                if shown := self._shown(chunk):
                    thought.end_line()
                    out.write(shown)
                if said is not None:
                    said.append(chunk.text)
                interrupted = interrupt.is_set
                if interrupted:
                    break
        thought.end_line()
        out.end_line()
        self.status.say(timing.line(self._params.max_tokens))
        if interrupted:
            raise KeyboardInterrupt

    def _shown(self, chunk: Chunk) -> str:
        return "".join(f"{token_id} " for token_id in chunk.token_ids) if self.settings.token_ids else chunk.text


class _Interrupt:
    """Set by the first Ctrl-C."""

    is_set: bool = False


@contextmanager
def _deferred_interrupt() -> Iterator[_Interrupt]:
    """Ctrl-C only marks, so that the engine is never left in the middle of a step; a second one raises at once."""
    interrupt = _Interrupt()

    def mark(_signal: int, _frame: FrameType | None) -> None:
        if interrupt.is_set:
            raise KeyboardInterrupt
        interrupt.is_set = True

    before = signal.signal(signal.SIGINT, mark)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
