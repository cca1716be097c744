"""`LLM`: text in, text out, in the caller's thread."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from headrace.completion import Collector, OpenRequest
from headrace.config import EngineConfig
from headrace.decisions import decide
from headrace.engine.stats import EngineStats
from headrace.errors import RequestError
from headrace.loaded_adapters import LoadedAdapter, LoRARequest, check_path
from headrace.loaded_engine import LoadedEngine
from headrace.loaded_model import LoadedModel
from headrace.model.decoder import Decoder
from headrace.pooled import ClassificationRequestOutput, EmbeddingRequestOutput, Ranking, ScoringRequestOutput
from headrace.pooling import PoolingJob
from headrace.progress import progress_bar
from headrace.prompts import Message, Prompt, TextPrompt, TokensPrompt, as_conversations, as_prompts, one_for_each
from headrace.sampling_params import BeamSearchParams, SamplingParams
from headrace.text.tools.definitions import ToolChoice
from headrace.types import BeamSearchOutput, BeamSearchSequence, Chunk, Decision, FloatArray, RequestOutput

_T = TypeVar("_T")


class LLM(LoadedModel):
    """A loaded model that runs in the caller's thread. Not thread-safe; for an event loop use `AsyncLLM`.

    Arguments and errors are those of `LoadedModel`.
    """

    def __init__(
        self,
        model: str | Path = "stories",
        config: EngineConfig | None = None,
        *,
        chat_template: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
    ) -> None:
        super().__init__(model, config, chat_template=chat_template, adapters=adapters)
        self._loaded = LoadedEngine(self, self.config, self._given_adapters)
        self._engine = self._loaded.engine
        self._open(self._loaded.facts)
        self._running: dict[str, OpenRequest] = {}
        self._inboxes: dict[str, list[Chunk]] = {}

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | Sequence[str | None] | None = None,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        use_tqdm: bool = True,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts, all at once; the results come in the order of the prompts.

        Args:
            prompts: One prompt or several: strings, lists of token ids, {"prompt": …}, {"prompt_token_ids": …}, mixed;
                with "cache_salt" a prompt shares its prefix only with those of the same salt.
            sampling_params: For all prompts, or one for each; None is the model's own defaults and 16 tokens.
            adapter: Name of the adapter for all prompts, or one for each; None is the model itself.
            lora_request: The same as vLLM has it; an adapter that is not loaded is loaded.
            use_tqdm: Show a progress bar on a terminal when there are several prompts.
            priority: For all prompts, or one for each: lower runs earlier. None is 0.

        Raises:
            RequestError: a prompt or parameter is wrong; nothing has run.
        """
        several = as_prompts(prompts)
        params = self.default_params if sampling_params is None else sampling_params
        each = one_for_each("sampling_params", params, SamplingParams, len(several))
        turns = one_for_each("priority", 0 if priority is None else priority, int, len(several))
        adapters = self._adapter_for_each(adapter, lora_request, len(several))
        opened = [
            self._requests.make(prompt, own, priority=turn, adapter=name)
            for prompt, own, turn, name in zip(several, each, turns, adapters, strict=True)
        ]
        return self._run(opened, use_tqdm=use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice | None = None,
        parallel_tool_calls: bool = True,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        reasoning_effort: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        prediction: str | Sequence[str | None] | None = None,
        adapter: str | Sequence[str | None] | None = None,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several: lists of {"role": …, "content": …}.

        `sampling_params` None is the model's own defaults, up to the end of the answer. `chat_template` is Jinja text
        to use instead of the model's own. An output's `text` is the answer without the thought before it (`reasoning`)
        and the calls of `tools` (`tool_calls`). `prediction` is what the answer is likely to repeat, such as a text
        that is to be changed: of every conversation, or one for each. It makes that faster, and changes nothing.

        Raises:
            MissingChatTemplate: the model has none.
            RequestError: the template refuses the messages.
        """
        chats = [
            self.encode_chat(
                one,
                tools=tools,
                tool_choice=tool_choice,
                parallel_tool_calls=parallel_tool_calls,
                documents=documents,
                chat_template=chat_template,
                reasoning_effort=reasoning_effort,
                chat_template_kwargs=chat_template_kwargs,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
            )
            for one in as_conversations(messages)
        ]
        if sampling_params is None:
            sampling_params = replace(self.default_params, max_tokens=None)
        each = one_for_each("sampling_params", sampling_params, SamplingParams, len(chats))
        adapters = self._adapter_for_each(adapter, lora_request, len(chats))
        guesses = one_for_each("prediction", "" if prediction is None else prediction, str, len(chats))
        prompts = [
            TokensPrompt(prompt_token_ids=chat.token_ids, prediction=guess)
            for chat, guess in zip(chats, guesses, strict=True)
        ]
        opened = [
            self._requests.make(prompt, own, reading=chat.reading, adapter=name)
            for prompt, chat, own, name in zip(prompts, chats, each, adapters, strict=True)
        ]
        return self._run(opened, use_tqdm=use_tqdm)

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams, *, use_tqdm: bool = False
    ) -> list[BeamSearchOutput]:
        """The beam_width likeliest completions that a beam search finds for each prompt, as vLLM returns them.

        `generate` with `SamplingParams(beam_width=…, n=…)` does the same search. Results are those of transformers:
        the length that scores are divided by is the completion's (in vLLM the prompt counts too).

        Raises:
            RequestError: a prompt or parameter is wrong; nothing has run.
        """
        if not isinstance(params, BeamSearchParams):
            message = f"params is of type {type(params).__name__}, expected BeamSearchParams"
            raise RequestError(message, param="params")
        width = params.beam_width
        sampling = SamplingParams(
            n=width,
            beam_width=width,
            max_tokens=params.max_tokens,
            ignore_eos=params.ignore_eos,
            temperature=params.temperature,
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping,
            include_stop_str_in_output=params.include_stop_str_in_output,
            logprobs=2 * width,
        )
        return [self._beams(output) for output in self.generate(prompts, sampling, use_tqdm=use_tqdm)]

    def decide(
        self,
        prompt: str | TextPrompt | Sequence[Message],
        labels: Sequence[str],
        *,
        per_token: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        adapter: str | None = None,
    ) -> Decision:
        """Which of the labels the model would go on with, and how likely each is; nothing is generated.

        The prompt is computed once for all labels. Prompt and label are read as one text, so a label behind a text
        mostly begins with a space; behind a conversation it begins the answer.

        Args:
            prompt: A text, or a conversation.
            labels: Texts of any length, all different.
            per_token: Compare labels by their tokens' mean log-probability instead of their sum, which favours short
                ones.
            chat_template_kwargs: For the template of a conversation.
            adapter: The name of the adapter that decides; None is the model itself.

        Raises:
            RequestError: the prompt or a label is wrong, or there is no such adapter; nothing has run.
        """
        opened = self._requests.make_decision(prompt, labels, chat_template_kwargs, adapter)
        self._collect([opened], show_progress=False)
        return decide(labels, opened.scores, opened.usage, per_token=per_token)

    def _beams(self, output: RequestOutput) -> BeamSearchOutput:
        return BeamSearchOutput(
            [
                BeamSearchSequence(
                    tokens=(tokens := [*output.prompt_token_ids, *each.token_ids]),
                    logprobs=each.logprobs or [],
                    cum_logprob=each.cumulative_logprob or 0.0,
                    text=None if self.tokenizer is None else self.tokenizer.decode(tokens),
                    finish_reason=each.finish_reason,
                    stop_reason=each.stop_reason,
                )
                for each in output.outputs
            ]
        )

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Iterator[Chunk]:
        """Chunks of the completion as they become final; closing the iterator cancels the request.

        `sampling_params` None is the model's own defaults, up to the end of the text.

        Raises:
            RequestError: the prompt or a parameter is wrong; raised here, not at the first chunk.
        """
        if sampling_params is None:
            sampling_params = replace(self.default_params, max_tokens=None)
        return self._stream(self._requests.make(prompt, sampling_params, adapter=adapter))

    def stream_chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice | None = None,
        parallel_tool_calls: bool = True,
        reasoning_effort: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        adapter: str | None = None,
    ) -> Iterator[Chunk]:
        """`stream` for a conversation; see `chat`. Pieces of thoughts and calls are in the chunks beside the text."""
        chat = self.encode_chat(
            messages,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            reasoning_effort=reasoning_effort,
            chat_template_kwargs=chat_template_kwargs,
        )
        if sampling_params is None:
            sampling_params = replace(self.default_params, max_tokens=None)
        return self._stream(self._requests.make(chat.token_ids, sampling_params, reading=chat.reading, adapter=adapter))

    def load_adapter(self, name: str, path: str | Path, *, replace: bool = False) -> None:
        """Load a LoRA adapter: a folder that PEFT has saved.

        With `replace` it takes the name from the adapter that has it; what runs with that one goes on with it.

        Raises:
            RequestError: the name is taken, or something else than a path is given.
            ModelError: the adapter cannot be found or read, or does not fit the model.
        """
        check_path("path", path)
        ref = self._adapters.new_ref(name, replace=replace)
        packed = self._loaded.read_adapter(path)
        self._engine.load_adapter(ref, packed)
        before = self._adapters.enter(LoadedAdapter(ref, os.fspath(path), packed.nbytes))
        if before is not None:
            self._engine.unload_adapter(before)

    def _adapter_for_each(self, adapter: object, lora_request: object, num_prompts: int) -> list[str | None]:
        """Names; the adapters of `lora_request` are loaded if they are not yet."""
        if lora_request is None:
            return [None] * num_prompts if adapter is None else [*one_for_each("adapter", adapter, str, num_prompts)]
        if adapter is not None:
            raise RequestError("there are both adapter and lora_request; leave one of them out", param="lora_request")
        names: list[str | None] = []
        for each in one_for_each("lora_request", lora_request, LoRARequest, num_prompts):
            if each is not None and not isinstance(each, LoRARequest):
                message = f"lora_request has a {type(each).__name__}, expected LoRARequest"
                raise RequestError(message, param="lora_request")
            names.append(None if each is None else self._name_of(each))
        return names

    def _name_of(self, wanted: LoRARequest) -> str:
        name, path = wanted.lora_name, wanted.lora_path
        if name not in self.adapters:
            self.load_adapter(name, path)
        elif Path(self.adapters[name].path) != Path(path):
            message = f"the adapter {name!r} is that of {self.adapters[name].path}; give {path} another name"
            raise RequestError(message, param="lora_request")
        return name

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; what runs with it goes on to its end.

        Raises:
            UnknownModel: there is none of that name.
        """
        self._engine.unload_adapter(self._adapters.remove(name))

    def embed(
        self,
        inputs: Prompt | Sequence[Prompt],
        *,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """The embedding of each input, as the model's own files say how (`pooler.recipe`).

        Args:
            inputs: One or several: texts, or lists of token ids, which are taken as they are.
            dimensions: Only this many numbers of each, the first, normalised anew (for models trained that way).
            prompt_name: Which of the model's prompts goes before each text; None is its default, mostly none.
            truncate_prompt_tokens: Cut longer inputs to so many tokens, -1 to what the model takes; None refuses them.

        Raises:
            RequestError: the model does not embed, or an input is wrong; nothing has run.
        """
        return self._pool(
            self.pooler.embed(
                inputs,
                dimensions=dimensions,
                prompt_name=prompt_name,
                truncate_prompt_tokens=truncate_prompt_tokens,
            )
        )

    def classify(
        self, inputs: Prompt | Sequence[Prompt], *, truncate_prompt_tokens: int | None = None
    ) -> list[ClassificationRequestOutput]:
        """The classes of each input, by a model with a classifier. Inputs as for `embed`.

        Raises:
            RequestError: the model has no classifier, or an input is wrong; nothing has run.
        """
        return self._pool(self.pooler.classify(inputs, truncate_prompt_tokens=truncate_prompt_tokens))

    def score(
        self,
        first: Prompt | Sequence[Prompt],
        second: Prompt | Sequence[Prompt],
        *,
        truncate_prompt_tokens: int | None = None,
    ) -> list[ScoringRequestOutput]:
        """How well pairs of texts go together: one first text with every second one, or pair by pair.

        A cross-encoder reads both at once; with a model that embeds it is the cosine.

        Raises:
            RequestError: the model does neither, or an input is wrong; nothing has run.
        """
        return self._pool(self.pooler.score(first, second, truncate_prompt_tokens=truncate_prompt_tokens))

    def rerank(
        self,
        query: Prompt,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> Ranking:
        """The documents by their `score` with the query, best first; only the `top_n` best unless that is None or 0.

        Raises:
            RequestError: as `score`.
        """
        return self._pool(
            self.pooler.rerank(query, documents, top_n=top_n, truncate_prompt_tokens=truncate_prompt_tokens)
        )

    @property
    def decoder(self) -> Decoder:
        """The weights and the forward pass, for what measures them."""
        return self._loaded.decoder

    def stats(self) -> EngineStats:
        """A snapshot of the engine's gauges and counters."""
        return self._loaded.stats()

    def clear_prefix_cache(self) -> None:
        """Forget all computed prefixes."""
        self._engine.clear_prefix_cache()

    def close(self) -> None:
        """Cancel what is open."""
        for request_id in list(self._running):
            self._cancel(request_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, opened: list[OpenRequest], *, use_tqdm: bool) -> list[RequestOutput]:
        return self._collect(opened, show_progress=use_tqdm and len(opened) > 1 and sys.stderr.isatty())

    def _collect(self, opened: list[OpenRequest], *, show_progress: bool) -> list[RequestOutput]:
        collectors = [Collector(one) for one in opened]
        with progress_bar(len(opened), is_shown=show_progress) as advance:
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

    def _pool(self, job: PoolingJob[_T]) -> _T:
        """Run a job in the caller's thread."""
        values: dict[str, FloatArray] = {}
        try:
            for request in job.requests:
                self._loaded.pooling_engine.submit(request)
            while len(values) < len(job.requests):
                values |= {output.request_id: output.values for output in self._loaded.pooling_engine.step()}
        finally:
            for request in job.requests:
                self._loaded.pooling_engine.cancel(request.id)
        return job.finish([values[request.id] for request in job.requests])

    def _submit(self, opened: OpenRequest) -> None:
        self._engine.submit(opened.request)
        self._running[opened.request.id] = opened
        self._inboxes[opened.request.id] = []

    def _step(self) -> None:
        """One engine step; its chunks go to the inboxes of all open requests."""
        for output in self._engine.step():
            opened = self._running[output.request_id]
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
        self._running.pop(request_id, None)
        self._inboxes.pop(request_id, None)
