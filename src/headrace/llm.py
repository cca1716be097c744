"""`LLM`: text in, text out, in the caller's thread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from headrace.completion import Collector, OpenRequest
from headrace.config import EngineConfig
from headrace.engine.memory import KVPlan
from headrace.engine.stats import EngineStats
from headrace.errors import RequestError
from headrace.frontend import Frontend, Message, Prompt
from headrace.model.decoder import Decoder
from headrace.model.spec import ModelSpec
from headrace.text.chat import ChatTemplate
from headrace.text.tokenizer import Tokenizer
from headrace.types import Chunk, RequestOutput, SamplingParams


class LLM:
    """A loaded model. Not thread-safe; for an event loop use `AsyncLLM`.

    Args:
        model: A bundled name ("stories"), a folder in Hugging Face form, a .gguf file or a hub id.
        config: How the engine runs.
        chat_template: A Jinja file to use instead of the model's own template.

    Raises:
        ModelError: the model cannot be found, read or run.
        ConfigError: a setting cannot be used with this model on this machine.
    """

    def __init__(
        self, model: str | Path = "stories", config: EngineConfig | None = None, *, chat_template: Path | None = None
    ) -> None:
        self._frontend = Frontend(model, config, chat_template)
        self._engine = self._frontend.engine
        self._open: dict[str, OpenRequest] = {}
        self._inboxes: dict[str, list[Chunk]] = {}

    @property
    def name(self) -> str:
        """What the user called the model."""
        return self._frontend.name

    @property
    def spec(self) -> ModelSpec:
        """The model's architecture."""
        return self._frontend.spec

    @property
    def max_context(self) -> int:
        """Longest prompt + output in tokens."""
        return self._frontend.max_context

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None for a folder without a tokenizer, which runs on token ids."""
        return self._frontend.tokenizer

    @property
    def chat_template(self) -> ChatTemplate | None:
        """None for a model without one."""
        return self._frontend.chat_template

    @property
    def default_params(self) -> SamplingParams:
        """The sampling that the model's generation_config recommends."""
        return self._frontend.default_params

    @property
    def kv_plan(self) -> KVPlan:
        """Size and kind of the KV cache."""
        return self._engine.plan

    @property
    def decoder(self) -> Decoder:
        """The loaded model itself, for what measures it: its weights, their sizes, the operations it runs on."""
        return self._frontend.decoder

    @property
    def load_report(self) -> tuple[str, ...]:
        """Lines worth telling a user: the model, its memory, the KV cache plan."""
        return self._frontend.load_report

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete prompts, all at once; the results come in the order of the prompts.

        Args:
            prompts: One prompt or several: strings, lists of token ids, {"prompt": …}, {"prompt_token_ids": …}, mixed.
            params: For all prompts, or one for each; None is the model's own defaults and 16 tokens.
            use_tqdm: Show a progress bar on a terminal when there are several prompts.

        Raises:
            RequestError: a prompt or parameter is wrong; nothing has run.
        """
        several = _as_prompts(prompts)
        if params is None or isinstance(params, SamplingParams):
            each = [params or self.default_params] * len(several)
        else:
            each = list(params)
        if len(each) != len(several):
            raise RequestError(
                f"{len(each)} params for {len(several)} prompts; give one, or one for each", param="params"
            )
        opened = [self._frontend.prepare(prompt, own) for prompt, own in zip(several, each, strict=True)]
        show_progress = use_tqdm and len(several) > 1 and sys.stderr.isatty()
        return self._collect(opened, show_progress=show_progress)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several: lists of {"role": …, "content": …}.

        `params` None is the model's own defaults, up to the end of the answer.

        Raises:
            MissingChatTemplate: the model has none.
            RequestError: the template refuses the messages.
        """
        several = [messages] if messages and isinstance(messages[0], Mapping) else messages
        prompts = [
            self._frontend.encode_chat(
                cast("Sequence[Message]", one),
                tools=tools,
                chat_template_kwargs=chat_template_kwargs,
                add_generation_prompt=add_generation_prompt,
            )
            for one in several
        ]
        return self.generate(prompts, params or replace(self.default_params, max_tokens=None), use_tqdm=use_tqdm)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Chunk]:
        """Chunks of the completion as they become final; closing the iterator cancels the request.

        `params` None is the model's own defaults, up to the end of the text.

        Raises:
            RequestError: the prompt or a parameter is wrong; raised here, not at the first chunk.
        """
        opened = self._frontend.prepare(prompt, params or replace(self.default_params, max_tokens=None))
        return self._stream(opened)

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Iterator[Chunk]:
        """`stream` for a conversation; see `chat`."""
        token_ids = self._frontend.encode_chat(messages, tools=tools, chat_template_kwargs=chat_template_kwargs)
        return self.stream(token_ids, params)

    def stats(self) -> EngineStats:
        """A snapshot of the engine's gauges and counters."""
        return self._engine.stats()

    def clear_prefix_cache(self) -> None:
        """Forget all computed prefixes."""
        self._engine.clear_prefix_cache()

    def close(self) -> None:
        """Cancel what is open."""
        for request_id in list(self._open):
            self._cancel(request_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _collect(self, opened: list[OpenRequest], *, show_progress: bool) -> list[RequestOutput]:
        collectors = [Collector(one) for one in opened]
        with _progress(len(opened), is_shown=show_progress) as advance:
            try:
                for one in opened:
                    self._submit(one)
                pending = dict(zip(opened, collectors, strict=True))
                while pending:
                    self._step()
                    for one, collector in list(pending.items()):
                        for chunk in self._take(one):
                            collector.push(chunk)
                        if one.is_finished:
                            del pending[one]
                            advance()
            finally:
                for one in opened:
                    self._cancel(one.request.id)
        return [collector.result() for collector in collectors]

    def _stream(self, opened: OpenRequest) -> Iterator[Chunk]:
        self._submit(opened)
        try:
            while True:
                if chunks := self._take(opened):  # also those of steps that other streams made meanwhile
                    yield from chunks
                elif opened.is_finished:
                    return
                else:
                    self._step()
        finally:
            self._cancel(opened.request.id)

    def _submit(self, opened: OpenRequest) -> None:
        self._engine.submit(opened.request)
        self._open[opened.request.id] = opened
        self._inboxes[opened.request.id] = []

    def _step(self) -> None:
        """One engine step; its chunks go to the inboxes of all open requests."""
        for output in self._engine.step():
            opened = self._open[output.request_id]
            chunk = opened.push(output)
            if chunk is None:
                continue
            self._inboxes[output.request_id].append(chunk)
            if chunk.finish_reason is not None and output.finish_reason is None:
                self._engine.cancel(output.request_id, output.index)

    def _take(self, opened: OpenRequest) -> list[Chunk]:
        chunks = self._inboxes[opened.request.id]
        self._inboxes[opened.request.id] = []
        return chunks

    def _cancel(self, request_id: str) -> None:
        self._engine.cancel(request_id)
        self._open.pop(request_id, None)
        self._inboxes.pop(request_id, None)


def _as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several → several. A list of ints is one prompt."""
    if isinstance(prompts, (str, Mapping)):
        return [cast("Prompt", prompts)]
    if not isinstance(prompts, Sequence):
        raise RequestError(
            f"prompts is a {type(prompts).__name__}, expected a prompt or a list of prompts", param="prompts"
        )
    if prompts and isinstance(prompts[0], int):
        return [cast("Sequence[int]", prompts)]
    return list(cast("Sequence[Prompt]", prompts))


@contextmanager
def _progress(total: int, *, is_shown: bool) -> Iterator[Callable[[], None]]:
    """Yields a function that advances a progress bar by one."""
    if not is_shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("prompts", total=total)
        yield lambda: bar.advance(task)
