"""What `LLM` and `AsyncLLM` share: loads a model, and turns prompts into requests that have been checked."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, NotRequired, TypeAlias, TypedDict, TypeGuard

import numpy as np

from headrace.completion import OpenRequest
from headrace.config import EngineConfig
from headrace.decisions import check_labels
from headrace.engine.engine import Engine
from headrace.engine.memory import format_bytes, free_memory, plan_kv_cache
from headrace.engine.pooling import PoolingEngine
from headrace.engine.stats import EngineStats
from headrace.errors import (
    ConfigError,
    ContextTooLong,
    DamagedFile,
    MissingChatTemplate,
    RequestError,
    UnknownModel,
)
from headrace.hub.resolve import resolve_model
from headrace.model.adapters import PackedAdapter
from headrace.model.decoder import Decoder
from headrace.model.embedding import read_recipe
from headrace.model.loader import load_adapter, load_decoder, read_spec
from headrace.ops.base import Ops
from headrace.ops.kinds import CacheType
from headrace.ops.select import select_ops
from headrace.pooling import Pooler
from headrace.sampling_params import SamplingParams
from headrace.text.answer import AnswerFormat, Reading, answer_format
from headrace.text.chat import ChatTemplate, load_chat_template
from headrace.text.folder_vocab import configured_end_ids
from headrace.text.labels import split_labels
from headrace.text.phrases import Phrases, TokenPhrases
from headrace.text.restrictions import Restrictions
from headrace.text.same_tokens import check_same_tokens
from headrace.text.thinking import effort_means
from headrace.text.tokenizer import Tokenizer
from headrace.text.tools.definitions import ToolChoice, read_tools
from headrace.types import AdapterRef, Request, draw_seed


class TextPrompt(TypedDict):
    """A prompt as vLLM's dict form of text; prefixes are shared only with prompts of the same `cache_salt`."""

    prompt: str
    cache_salt: NotRequired[str | None]


class TokensPrompt(TypedDict):
    """A prompt as vLLM's dict form of token ids; `prompt` is their text, which goes into the output as it is."""

    prompt_token_ids: Sequence[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str | None]


Prompt: TypeAlias = str | Sequence[int] | TextPrompt | TokensPrompt
Message: TypeAlias = Mapping[str, Any]

_LONGEST_SALT = 1024


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A conversation as the engine gets it, and how the answers to it are read."""

    token_ids: list[int]
    reading: Reading


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter that prompts can be completed with."""

    ref: AdapterRef
    path: str
    nbytes: int


class LoadedModel:
    """A model with its engine, and everything that has to do with text around it.

    Args:
        model: A bundled name ("stories"), a folder in Hugging Face form, a .gguf file or a hub id.
        config: How the engine runs.
        chat_template: A Jinja file to use instead of the model's own template.
        adapters: LoRA adapters by the names that they get: folders that PEFT has saved.

    Raises:
        ModelError: the model cannot be found, read or run.
        ConfigError: a setting cannot be used with this model on this machine.
    """

    def __init__(
        self,
        model: str | Path = "stories",
        config: EngineConfig | None = None,
        *,
        chat_template: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
    ) -> None:
        _check_type("model", model, str, os.PathLike)
        _check_type("config", config, EngineConfig, NoneType)
        _check_type("chat_template", chat_template, str, os.PathLike, NoneType)
        _check_type("adapters", adapters, Mapping, NoneType)
        self.config = EngineConfig() if config is None else config
        self._files = files = resolve_model(model)
        self.name = files.name
        """What the user called the model"""
        self.spec = read_spec(files)
        self.chat_template = load_chat_template(files, None if chat_template is None else Path(chat_template))
        """None for a model without one"""
        self.default_params = default_params(files.read_json("generation_config.json") or {}, files.name)
        """The sampling that the model's generation_config recommends, for 16 tokens"""
        ops = select_ops(self.config)
        free_before = free_memory()
        with ThreadPoolExecutor(1, "headrace-tokenizer") as beside:  # half a second for 10^5 tokens, as for the weights
            building = beside.submit(Tokenizer.from_files, files)
            decoder = load_decoder(files, ops, quantize=self.config.quantize, spec=self.spec)
            self.tokenizer = building.result()
            """None for a folder without a tokenizer, which runs on token ids"""
        self._phrases = None if self.tokenizer is None else Phrases(self.tokenizer, self.spec.vocab_size)
        self._eos_token_ids = configured_end_ids(files) if self.tokenizer is None else self.tokenizer.eos_token_ids
        self.decoder = decoder
        """The weights and the forward pass, for what measures them"""
        self._adapters: dict[str, LoadedAdapter] = {}
        self._adapter_numbers = itertools.count(1)
        packed = {name: self._read_adapter(name, path) for name, path in (adapters or {}).items()}
        draft = None if self.config.draft is None else self._load_draft(self.config.draft, ops)
        decoders = [decoder] if draft is None else [decoder, draft]
        num_weight_bytes = sum(each.nbytes for each in decoders) + sum(each.nbytes for each in packed.values())
        dtype = CacheType(self.config.kv_dtype) if self.config.kv_dtype else decoder.natural_cache_type
        plan = plan_kv_cache(
            self.config,
            dtype=dtype,
            block_bytes=sum(each.cache_block_bytes(self.config.block_size, dtype) for each in decoders),
            model_context=self.spec.max_context,
            free_memory=max(free_before - num_weight_bytes, 0),  # mapped weights still count as free to the system
        )
        self.kv_plan = plan
        self._restrictions = Restrictions(self.tokenizer, self.spec.vocab_size, self._eos_token_ids)
        self._engine = Engine(decoder, ops, self.config, plan, self._restrictions.new_constraint, draft)
        for name, adapter in packed.items():
            self._engine.load_adapter(self._name_adapter(name, (adapters or {})[name], adapter), adapter)
        self.max_context = plan.max_context
        """Longest prompt + output in tokens"""
        recipe = read_recipe(files, self.spec, ops)
        most_tokens = min(self.max_context, self.config.max_context or recipe.max_tokens or self.max_context)
        self.pooler = Pooler(self.name, self.spec, recipe, self.tokenizer, most_tokens)
        """What embeds, classifies and scores"""
        self._pooling_engine = PoolingEngine(decoder, recipe, step_tokens=self.config.max_batch_tokens, dtype=dtype)
        kept = decoder.weights.kept
        self.load_report = (
            f"{self.name}: {self.spec.family}, {len(self.spec.layers)} layers,"
            f" {format_bytes(decoder.nbytes)} of weights ({decoder.formats}), {ops.name}",
            *(
                [f"draft {self.config.draft}: {format_bytes(draft.nbytes)} of weights ({draft.formats})"]
                if draft
                else []
            ),
            *([f"not quantised, since blocks of 32 do not fit: {', '.join(kept)}"] if kept else []),
            *(f"adapter {name}: {format_bytes(adapter.nbytes)}" for name, adapter in packed.items()),
            str(plan) if self.spec.language_head else self.pooler.description,
        )
        """Lines worth telling a user: the model, its memory, and the KV cache plan or what it gives instead of text"""
        self._request_numbers = itertools.count()

    @property
    def adapters(self) -> Mapping[str, LoadedAdapter]:
        """The adapters that prompts can be completed with, by name."""
        return self._adapters

    def _read_adapter(self, name: str, path: str | Path) -> PackedAdapter:
        """An adapter from its folder; may run in any thread.

        Raises:
            RequestError: a name that is not one.
            ModelError: the adapter cannot be found or read, or does not fit the model.
        """
        if not isinstance(name, str) or not name:
            raise RequestError(f"the adapter's name is {name!r}, expected some text", param="name")
        return load_adapter(Path(path), self._files, self.decoder)

    def _name_adapter(self, name: str, path: str | Path, packed: PackedAdapter) -> AdapterRef:
        """Give the name to the adapter, also if another one has it."""
        ref = AdapterRef(name, next(self._adapter_numbers))
        self._adapters[name] = LoadedAdapter(ref, os.fspath(path), packed.nbytes)
        return ref

    def _check_adapter_is_new(self, name: str, *, replace: bool) -> None:
        if name in self._adapters and not replace:
            message = f"there is an adapter {name!r} already; unload it first, or load the new one in its place"
            raise RequestError(message, param="name")

    def _adapter_ref(self, name: str | None) -> AdapterRef | None:
        if name is None:
            return None
        adapter = self._adapters.get(name)
        if adapter is None:
            known = f"there are {', '.join(self._adapters)}" if self._adapters else "none is loaded"
            raise UnknownModel(f"there is no adapter {name!r}; {known}", param="adapter")
        return adapter.ref

    def _load_draft(self, name: str, ops: Ops) -> Decoder:
        """A model that guesses for this one; its tokens must be the same."""
        files = resolve_model(name)
        check_same_tokens(self.tokenizer, Tokenizer.from_files(files), files.name)
        spec = read_spec(files)
        if self.tokenizer is None and spec.vocab_size != self.spec.vocab_size:
            raise ConfigError(
                f"draft {files.name} has {spec.vocab_size:,} token ids and {self.name} has {self.spec.vocab_size:,};"
                " give a draft of the same vocabulary"
            )
        return load_decoder(files, ops, quantize=self.config.quantize, spec=spec)

    def _prepare(
        self,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
        reading: Reading | None = None,
        adapter: str | None = None,
    ) -> OpenRequest:
        """Tokenise and check a prompt; the result's `request` is what the engine takes.

        `reading` comes with a chat's prompt (`encode_chat`).

        Raises:
            RequestError: nothing of this has been queued; `param` names the field at fault.
        """
        if not isinstance(params, SamplingParams):
            raise RequestError(
                f"sampling_params has a {type(params).__name__}, expected SamplingParams", param="sampling_params"
            )
        self._check_generates()
        cache_salt = _cache_salt(prompt)
        _check_priority(priority)
        text, token_ids = self._tokenize(prompt)
        if not token_ids:
            raise RequestError("the prompt is empty; it needs at least one token", param="prompt")
        max_tokens = self._max_tokens(len(token_ids), params.max_tokens)  # before each id is looked at
        self._check_ids("prompt", token_ids)
        self._check_ids("logit_bias", params.logit_bias or ())
        self._check_ids("stop_token_ids", params.stop_token_ids or ())
        self._check_ids("allowed_token_ids", params.allowed_token_ids or ())
        if params.stop_strings and self.tokenizer is None:
            raise RequestError(
                "stop strings need a tokenizer, and the model has none; use stop_token_ids", param="stop"
            )
        thinking = self._restrictions.thinking(params, reading)
        bad_phrases = self._bad_phrases(params)
        self._check_some_allowed(params, bad_phrases)
        request = Request(
            id=request_id or f"request-{next(self._request_numbers)}",
            prompt_token_ids=tuple(token_ids),
            params=params,
            seed=draw_seed() if params.seed is None else params.seed,
            max_tokens=max_tokens,
            eos_token_ids=self._eos_token_ids,
            cache_salt=cache_salt,
            priority=priority,
            grammar=self._restrictions.grammar(params, thinking, max_tokens, reading),
            thinking=thinking,
            is_open_ended=reading is not None and reading.is_open_ended and params.structured is None,
            bad_phrases=bad_phrases,
            dry_breakers=self._dry_breakers(params),
            adapter=self._adapter_ref(adapter),
        )
        self._check_beams(request)
        self._engine.check_fits(len(token_ids), request.max_tokens, params.beam_width)
        return OpenRequest(request, text, self.tokenizer, reading)

    @cached_property
    def answer_format(self) -> AnswerFormat:
        """How the model writes thoughts and tool calls, as far as its chat template shows."""
        return AnswerFormat() if self.chat_template is None else answer_format(self.chat_template)

    def compile(self, params: SamplingParams, reading: Reading | None = None) -> None:
        """Work out what a request needs of the vocabulary, so that submitting it takes no time; safe in any thread.

        Raises:
            RequestError: a structure cannot be enforced, is malformed, or takes too much work.
        """
        self._restrictions.compile(params, reading)
        self._dry_breakers(params)

    def _prepare_decision(
        self,
        prompt: str | TextPrompt | Sequence[Message],
        labels: Sequence[str],
        chat_template_kwargs: Mapping[str, Any] | None,
    ) -> OpenRequest:
        """A request for the log-probabilities of labels behind a text or a conversation.

        Raises:
            RequestError: nothing has been queued; `param` names the field at fault.
        """
        self._check_generates()
        text, add_special_tokens = self._decision_text(prompt, chat_template_kwargs)
        if self.tokenizer is None:
            raise RequestError(f"{self.name} has no tokenizer; decisions are about texts", param="prompt")
        prefix, continuations = split_labels(
            self.tokenizer, text, check_labels(labels), add_special_tokens=add_special_tokens
        )
        longest = max(len(each) for each in continuations)
        if len(prefix) + longest > self.max_context:
            raise ContextTooLong(
                f"the prompt's {len(prefix):,} tokens and the longest label's {longest:,} exceed the context of"
                f" {self.max_context:,}; shorten one of them",
                param="prompt" if len(prefix) > longest else "labels",
            )
        self._engine.check_fits(len(prefix), longest)
        request = Request(
            id=f"request-{next(self._request_numbers)}",
            prompt_token_ids=prefix,
            params=SamplingParams(max_tokens=longest),
            seed=0,
            max_tokens=longest,
            continuations=tuple(continuations),
        )
        return OpenRequest(request, text, self.tokenizer)

    def _decision_text(
        self, prompt: str | TextPrompt | Sequence[Message], chat_template_kwargs: Mapping[str, Any] | None
    ) -> tuple[str, bool]:
        """The prompt as text, and whether the tokenizer adds its special tokens to it."""
        if isinstance(prompt, str | Mapping) or not prompt or not isinstance(prompt[0], Mapping):
            text, token_ids = _prompt_parts(prompt)
            if text is None or token_ids is not None:
                raise RequestError("a decision's prompt must be a text or messages: labels are texts", param="prompt")
            return text, True
        if self.chat_template is None:
            raise MissingChatTemplate(
                f"{self.name} has no chat template; give one with --chat-template FILE, or give a text",
                param="messages",
            )
        return self.chat_template.render(prompt, template_kwargs=chat_template_kwargs), False

    def _check_generates(self) -> None:
        if not self.spec.language_head:
            raise RequestError(
                f"{self.name} does not generate text: it gives {self.pooler.description}; ask it for those",
                param="model",
            )

    def _stats(self) -> EngineStats:
        """A snapshot of both engines, taken without waiting for a step in progress."""
        stats, pooling = self._engine.stats(), self._pooling_engine
        return replace(
            stats,
            num_waiting=stats.num_waiting + pooling.num_waiting,
            prompt_tokens=stats.prompt_tokens + pooling.num_tokens,
        )

    def encode_chat(
        self,
        messages: Sequence[Message],
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
        add_special_tokens: bool = False,
    ) -> EncodedChat:
        """A conversation through the model's chat template, or the Jinja text `chat_template`.

        Templates write their special tokens themselves; `add_special_tokens` adds the tokenizer's own around them.

        Raises:
            MissingChatTemplate: the model has none.
            RequestError: the template refuses the messages, knows no tools, or does not read `documents`.
        """
        template = self.chat_template
        if chat_template is not None and self.tokenizer is not None:
            template = ChatTemplate.of_request(chat_template, self.tokenizer.special_tokens)
        if template is None or self.tokenizer is None:
            raise MissingChatTemplate(
                f"{self.name} has no chat template; give one with --chat-template FILE, or use completions",
                param="messages",
            )
        asked = read_tools(tools, tool_choice, is_parallel=parallel_tool_calls)
        format_ = self.answer_format if template is self.chat_template else answer_format(template)
        if asked is not None and not format_.has_calls:
            raise RequestError(
                f"the chat template of {self.name} knows no tools; leave tools out, or give a template that does with"
                " --chat-template FILE",
                param="tools",
            )
        variables, budget = effort_means(reasoning_effort, template, format_)
        text = template.render(
            messages,
            tools=None if asked is None else asked.definitions,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_kwargs={**variables, **(chat_template_kwargs or {})},
        )
        reading = Reading(
            format_,
            in_thought=format_.opens_thought(text),
            has_closed=format_.closes_thought(text),
            tools=asked.schemas if asked is not None and asked.choice != "none" else None,
            asked=asked,
            budget=budget,
        )
        return EncodedChat(self.tokenizer.encode(text, add_special_tokens=add_special_tokens), reading)

    def _tokenize(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        text, token_ids = _prompt_parts(prompt)
        if token_ids is not None:
            return text, token_ids
        assert text is not None
        if self.tokenizer is None:
            raise RequestError(f"{self.name} has no tokenizer; give the prompt as token ids", param="prompt")
        return text, self.tokenizer.encode(text)

    def _check_ids(self, param: str, token_ids: Sequence[int] | Mapping[int, float]) -> None:
        for token_id in token_ids:
            if not 0 <= token_id < self.spec.vocab_size:
                raise RequestError(
                    f"{param} has token id {token_id}; the model's ids are 0 to {self.spec.vocab_size - 1}", param=param
                )

    def _check_beams(self, request: Request) -> None:
        """There must be as many tokens to go on with as beams, besides those that end."""
        params = request.params
        stops = request.eos_token_ids.union(params.stop_token_ids or ())
        if params.beam_width is not None and params.beam_width + len(stops) > self.spec.vocab_size:
            raise RequestError(
                f"beam_width is {params.beam_width}; the model has {self.spec.vocab_size} tokens, {len(stops)} of them"
                " end a completion",
                param="beam_width",
            )

    def _bad_phrases(self, params: SamplingParams) -> TokenPhrases:
        return self._phrases_for("bad_words").bad_words(params.bad_words) if params.bad_words else ()

    def _dry_breakers(self, params: SamplingParams) -> TokenPhrases:
        if not params.dry_multiplier or not params.dry_sequence_breakers:
            return ()
        return self._phrases_for("dry_sequence_breakers").dry_breakers(tuple(params.dry_sequence_breakers))

    def _phrases_for(self, param: str) -> Phrases:
        if self._phrases is None:
            raise RequestError(f"{param} needs a tokenizer, and the model has none; make it an empty list", param=param)
        return self._phrases

    def _check_some_allowed(self, params: SamplingParams, bad_phrases: TokenPhrases) -> None:
        if params.allowed_token_ids is None:
            return
        banned = {phrase[0] for phrase in bad_phrases if len(phrase) == 1}
        if params.min_tokens:
            banned |= self._eos_token_ids.union(params.stop_token_ids or ())
        if banned.issuperset(params.allowed_token_ids):
            raise RequestError(
                "allowed_token_ids leaves nothing to draw: bad_words and min_tokens ban all of them",
                param="allowed_token_ids",
            )

    def _max_tokens(self, prompt_tokens: int, max_tokens: int | None) -> int:
        room = self.max_context - prompt_tokens
        if room < 1:
            raise ContextTooLong(
                f"the prompt has {prompt_tokens:,} tokens and the context is {self.max_context:,}; shorten the prompt",
                param="prompt",
            )
        if max_tokens is None:
            return room
        if max_tokens > room:
            raise ContextTooLong(
                f"the prompt's {prompt_tokens:,} tokens and max_tokens {max_tokens:,} exceed the context of"
                f" {self.max_context:,}; lower max_tokens to {room:,} or less, or shorten the prompt",
                param="max_tokens",
            )
        return max_tokens


def _prompt_parts(prompt: object) -> tuple[str | None, list[int] | None]:
    """A prompt of any form as (text or None, token ids or None), not both None."""
    text, ids = (prompt, None) if isinstance(prompt, str) else (None, prompt)
    if isinstance(prompt, Mapping):
        text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
        for key, value in prompt.items():
            if key not in ("prompt", "prompt_token_ids", "cache_salt") and value is not None:
                raise RequestError(
                    f"the prompt has {key!r}, which headrace does not know; leave it out", param="prompt"
                )
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if ids is None and isinstance(text, str):
        return text, None
    if _are_ids(ids) and isinstance(text, str | None):
        return text, [int(token_id) for token_id in ids]
    raise RequestError(
        'the prompt must be a string, a list of token ids, {"prompt": str} or {"prompt_token_ids": [int, ...]}',
        param="prompt",
    )


def _cache_salt(prompt: object) -> str:
    salt = prompt.get("cache_salt") if isinstance(prompt, Mapping) else None
    if salt is None:
        return ""
    if not isinstance(salt, str) or not 1 <= len(salt) <= _LONGEST_SALT:
        raise RequestError(f"cache_salt must be text of 1 to {_LONGEST_SALT:,} characters", param="cache_salt")
    return salt


def _check_priority(priority: object) -> None:
    if isinstance(priority, bool) or not isinstance(priority, int) or not -(2**63) <= priority < 2**63:
        raise RequestError(f"priority is {priority!r}, expected a 64-bit integer", param="priority")


def _are_ids(ids: object) -> TypeGuard[Sequence[int]]:
    if not isinstance(ids, Sequence) or isinstance(ids, str | bytes | bytearray):
        return False
    return all(isinstance(each, int | np.integer) and not isinstance(each, bool) for each in ids)


def _check_type(name: str, value: object, *kinds: type) -> None:
    if not isinstance(value, kinds):
        expected = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
        raise ConfigError(f"{name} is a {type(value).__name__}, expected {expected}")


def default_params(generation_config: Mapping[str, Any], source: str) -> SamplingParams:
    """The sampling that a model's generation_config.json recommends, as vLLM reads it; greedy where it says so.

    Raises:
        DamagedFile: it recommends what makes no sense.
    """
    known = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    values = {name: generation_config[name] for name in known if generation_config.get(name) is not None}
    if generation_config.get("do_sample") is False:
        values = {"temperature": 0.0, "repetition_penalty": values.get("repetition_penalty", 1.0)}
    try:
        return SamplingParams(**values)
    except RequestError as error:
        raise DamagedFile(f"{source}: generation_config.json: {error}") from error
