"""The other side of a model: its weights in memory, and the engines that run on them. Token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.config import CacheType, EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.memory import KVPlan, format_bytes, free_memory, plan_kv_cache
from headrace.engine.pooling import PoolingEngine
from headrace.engine.stats import EngineStats
from headrace.errors import ConfigError
from headrace.hub.resolve import resolve_model
from headrace.model.adapters import PackedAdapter
from headrace.model.decoder import Decoder
from headrace.model.embedding import Embedder, read_recipe
from headrace.model.loader import load_adapter, load_decoder, read_spec
from headrace.model_text import ModelText
from headrace.ops.base import Ops
from headrace.ops.select import select_ops
from headrace.text.same_tokens import check_same_tokens
from headrace.text.tokenizer import Tokenizer
from headrace.types import AdapterRef


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the text side has to know of a loaded engine; plain data."""

    plan: KVPlan
    adapter_bytes: Mapping[str, int]
    """Memory of each adapter that it was loaded with, by name"""
    weight_bytes: int
    """Memory of the weights"""
    weight_formats: str
    """The matrices' formats, that with the most bytes first: "q8_0, f32" """
    report: tuple[str, ...]
    """Lines worth telling a user: the model, its weights and their memory"""


class LoadedEngine:
    """A model's weights, the engine that generates with them and the one that pools.

    Args:
        text: The model. Its tokenizer is used only for grammars, and to compare a draft's.
        config: How the engines run.
        adapters: Folders of adapters, by what requests call them.

    Raises:
        ModelError: the weights cannot be read or run.
        ConfigError: a setting cannot be used with this model on this machine.
    """

    def __init__(self, text: ModelText, config: EngineConfig, adapters: Mapping[AdapterRef, str | Path]) -> None:
        self._text = text
        self._config = config
        ops = select_ops(config)
        free_before = free_memory()
        self.decoder = load_decoder(text.files, ops, quantize=config.quantize, spec=text.spec)
        packed = {ref: self.read_adapter(path) for ref, path in adapters.items()}
        draft = None if config.draft is None else self._load_draft(config.draft, ops)
        decoders = [self.decoder] if draft is None else [self.decoder, draft]
        dtype = CacheType(config.kv_dtype) if config.kv_dtype else self.decoder.natural_cache_type
        held = sum(each.nbytes for each in decoders) + sum(each.nbytes for each in packed.values())
        plan = plan_kv_cache(
            config,
            dtype=dtype,
            block_bytes=sum(each.cache_block_bytes(config.block_size, dtype) for each in decoders),
            model_context=text.spec.max_context,
            free_memory=max(free_before - held, 0),  # mapped weights still count as free to the system
        )
        self.engine = Engine(self.decoder, ops, config, plan, text.new_constraint, draft)
        for ref, adapter in packed.items():
            self.engine.load_adapter(ref, adapter)
        self.pooling_engine = PoolingEngine(
            self.decoder,
            Embedder(text.files, read_recipe(text.files, text.spec), ops),
            # An encoder has no decodes that would wait for its steps, and longer ones keep all threads busy.
            step_tokens=config.max_batch_tokens * (1 if self.decoder.spec.causal else 2),
            dtype=dtype,
        )
        self.facts = EngineFacts(
            plan,
            {ref.name: adapter.nbytes for ref, adapter in packed.items()},
            self.decoder.nbytes,
            self.decoder.formats,
            tuple(self._describe(ops, draft, packed)),
        )

    def read_adapter(self, path: str | Path) -> PackedAdapter:
        """An adapter from its folder, for `engine.load_adapter`; may run in any thread.

        Raises:
            ModelError: it cannot be found or read, or does not fit the model.
        """
        return load_adapter(Path(path), self._text.files, self.decoder)

    def stats(self) -> EngineStats:
        """A snapshot of both engines, taken without waiting for a step in progress."""
        stats, pooling = self.engine.stats(), self.pooling_engine
        return replace(
            stats,
            num_waiting=stats.num_waiting + pooling.num_waiting,
            prompt_tokens=stats.prompt_tokens + pooling.num_tokens,
        )

    def _load_draft(self, name: str, ops: Ops) -> Decoder:
        """A model that guesses for this one; its tokens must be the same."""
        files, text = resolve_model(name), self._text
        check_same_tokens(text.tokenizer, Tokenizer.from_files(files), files.name)
        spec = read_spec(files)
        if text.tokenizer is None and spec.vocab_size != text.spec.vocab_size:
            raise ConfigError(
                f"draft {files.name} has {spec.vocab_size:,} token ids and {text.name} has {text.spec.vocab_size:,};"
                " give a draft of the same vocabulary"
            )
        return load_decoder(files, ops, quantize=self._config.quantize, spec=spec)

    def _describe(self, ops: Ops, draft: Decoder | None, adapters: Mapping[AdapterRef, PackedAdapter]) -> Iterator[str]:
        def of_weights(decoder: Decoder) -> str:
            return f"{format_bytes(decoder.nbytes)} of weights ({decoder.formats})"

        spec = self._text.spec
        yield f"{self._text.name}: {spec.family}, {len(spec.layers)} layers, {of_weights(self.decoder)}, {ops.name}"
        if draft is not None:
            yield f"draft {self._config.draft}: {of_weights(draft)}"
        if kept := self.decoder.weights.kept:
            yield f"not quantised, since blocks of 32 do not fit: {', '.join(kept)}"
        for ref, adapter in adapters.items():
            yield f"adapter {ref.name}: {format_bytes(adapter.nbytes)}"
