"""What `LLM` and `AsyncLLM` share: loads a model, and renders conversations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

from headrace.config import EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.memory import format_bytes, free_memory, plan_kv_cache
from headrace.engine.pooling import PoolingEngine
from headrace.engine.stats import EngineStats
from headrace.errors import ConfigError, DamagedFile, MissingChatTemplate, RequestError
from headrace.hub.resolve import resolve_model
from headrace.loaded_adapters import LoadedAdapter, LoadedAdapters
from headrace.model.adapters import PackedAdapter
from headrace.model.decoder import Decoder
from headrace.model.embedding import read_recipe
from headrace.model.loader import load_decoder, read_spec
from headrace.ops.base import Ops
from headrace.ops.kinds import CacheType
from headrace.ops.select import select_ops
from headrace.pooling import Pooler
from headrace.prompts import Message
from headrace.requests import Requests
from headrace.sampling_params import SamplingParams
from headrace.text.answer import AnswerFormat, Reading, answer_format
from headrace.text.chat import ChatTemplate, load_chat_template
from headrace.text.folder_vocab import configured_end_ids
from headrace.text.restrictions import Restrictions
from headrace.text.same_tokens import check_same_tokens
from headrace.text.thinking import effort_means
from headrace.text.tokenizer import Tokenizer
from headrace.text.tools.definitions import ToolChoice, read_tools


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A conversation as the engine gets it, and how the answers to it are read."""

    token_ids: list[int]
    reading: Reading


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
        files = resolve_model(model)
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
        eos_token_ids = configured_end_ids(files) if self.tokenizer is None else self.tokenizer.eos_token_ids
        self.decoder = decoder
        """The weights and the forward pass, for what measures them"""
        self._adapters = LoadedAdapters(files, decoder)
        packed = {name: self._adapters.read(name, path) for name, path in (adapters or {}).items()}
        draft = None if self.config.draft is None else self._load_draft(self.config.draft, ops)
        decoders = [decoder] if draft is None else [decoder, draft]
        dtype = CacheType(self.config.kv_dtype) if self.config.kv_dtype else decoder.natural_cache_type
        held = sum(each.nbytes for each in decoders) + sum(each.nbytes for each in packed.values())
        plan = plan_kv_cache(
            self.config,
            dtype=dtype,
            block_bytes=sum(each.cache_block_bytes(self.config.block_size, dtype) for each in decoders),
            model_context=self.spec.max_context,
            free_memory=max(free_before - held, 0),  # mapped weights still count as free to the system
        )
        self.kv_plan = plan
        restrictions = Restrictions(self.tokenizer, self.spec.vocab_size, eos_token_ids)
        self._engine = Engine(decoder, ops, self.config, plan, restrictions.new_constraint, draft)
        for name, adapter in packed.items():
            self._engine.load_adapter(self._adapters.enter(name, (adapters or {})[name], adapter)[0], adapter)
        self.max_context = plan.max_context
        """Longest prompt + output in tokens"""
        recipe = read_recipe(files, self.spec, ops)
        most_tokens = min(self.max_context, self.config.max_context or recipe.max_tokens or self.max_context)
        self.pooler = Pooler(self.name, self.spec, recipe, self.tokenizer, most_tokens)
        """What embeds, classifies and scores"""
        self._pooling_engine = PoolingEngine(decoder, recipe, step_tokens=self.config.max_batch_tokens, dtype=dtype)
        self.load_report = tuple(self._describe(ops, draft, packed))
        """Lines worth telling a user: the model, its memory, and the KV cache plan or what it gives instead of text"""
        self._requests = Requests(
            name=self.name,
            spec=self.spec,
            gives=self.pooler.description,
            tokenizer=self.tokenizer,
            chat_template=self.chat_template,
            eos_token_ids=eos_token_ids,
            max_context=self.max_context,
            adapters=self._adapters,
            restrictions=restrictions,
            check_fits=self._engine.check_fits,
        )

    def _describe(self, ops: Ops, draft: Decoder | None, adapters: Mapping[str, PackedAdapter]) -> Iterator[str]:
        def of_weights(decoder: Decoder) -> str:
            return f"{format_bytes(decoder.nbytes)} of weights ({decoder.formats})"

        yield f"{self.name}: {self.spec.family}, {len(self.spec.layers)} layers, {of_weights(self.decoder)}, {ops.name}"
        if draft is not None:
            yield f"draft {self.config.draft}: {of_weights(draft)}"
        if kept := self.decoder.weights.kept:
            yield f"not quantised, since blocks of 32 do not fit: {', '.join(kept)}"
        for name, adapter in adapters.items():
            yield f"adapter {name}: {format_bytes(adapter.nbytes)}"
        yield str(self.kv_plan) if self.spec.language_head else self.pooler.description

    @property
    def adapters(self) -> Mapping[str, LoadedAdapter]:
        """The adapters that prompts can be completed with, by name."""
        return self._adapters.by_name

    def compile(self, params: SamplingParams, reading: Reading | None = None) -> None:
        """Work out what a request needs of the vocabulary, so that submitting it takes no time; safe in any thread.

        Raises:
            RequestError: a structure cannot be enforced, is malformed, or takes too much work.
        """
        self._requests.compile(params, reading)

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

    @cached_property
    def answer_format(self) -> AnswerFormat:
        """How the model writes thoughts and tool calls, as far as its chat template shows."""
        return AnswerFormat() if self.chat_template is None else answer_format(self.chat_template)

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
