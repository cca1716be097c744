"""What `LLM` and `AsyncLLM` share: a model's text side, and requests for the engine that has its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import NoneType

from headrace.config import EngineConfig
from headrace.errors import ConfigError
from headrace.hub.resolve import resolve_model
from headrace.loaded_adapters import LoadedAdapter, LoadedAdapters
from headrace.loaded_engine import EngineFacts
from headrace.model.embedding import read_recipe
from headrace.model_card import model_card
from headrace.model_text import ModelText
from headrace.pooling import Pooler
from headrace.requests import Requests
from headrace.sampling_params import SamplingParams
from headrace.text.answer import Reading


class LoadedModel(ModelText):
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
        for name, path in (adapters or {}).items():
            _check_type(f"adapters[{name!r}]", path, str, os.PathLike)
        super().__init__(resolve_model(model), None if chat_template is None else Path(chat_template))
        self.build_tokenizer()
        self.config = EngineConfig() if config is None else config
        self._adapters = LoadedAdapters()
        self._given_adapters = {self._adapters.new_ref(name): path for name, path in (adapters or {}).items()}

    def _open(self, facts: EngineFacts) -> None:
        """The engine has been loaded, with `_given_adapters`; requests can be made for it."""
        self.kv_plan = facts.plan
        self.max_context = facts.plan.max_context
        """Longest prompt + output in tokens"""
        for ref, path in self._given_adapters.items():
            self._adapters.enter(LoadedAdapter(ref, os.fspath(path), facts.adapter_bytes[ref.name]))
        recipe = read_recipe(self.files, self.spec)
        most_tokens = min(self.max_context, self.config.max_context or recipe.max_tokens or self.max_context)
        self.pooler = Pooler(self.name, self.spec, recipe, self.tokenizer, most_tokens)
        """What embeds, classifies and scores"""
        self.card = model_card(self, facts.weight_bytes, facts.weight_formats)
        """What it is, for those who list models"""
        self.load_report = (*facts.report, str(facts.plan) if self.spec.language_head else self.pooler.description)
        """Lines worth telling a user: the model, its memory, and the KV cache plan or what it gives instead of text"""
        self._requests = Requests(
            text=self,
            gives=self.pooler.description,
            max_context=self.max_context,
            adapters=self._adapters,
            check_fits=partial(facts.plan.check_fits, self.config.max_sequences),
        )

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


def _check_type(name: str, value: object, *kinds: type) -> None:
    if not isinstance(value, kinds):
        expected = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
        raise ConfigError(f"{name} is of type {type(value).__name__}, expected {expected}")
