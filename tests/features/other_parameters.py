"""Parameters of the endpoints that load and unload adapters."""

from __future__ import annotations

from collections.abc import Sequence

import openai
import pytest
from features.asking import Asking
from features.catalogue import LOAD_ADAPTER, UNLOAD_ADAPTER, Parameter, works

ADAPTER = "random"
"""The folder's name below the server's --lora-dir"""


def _load(ask: Asking, **fields: object) -> None:
    ask.client.post("/load_lora_adapter", body={"lora_name": "mine", "lora_path": ADAPTER, **fields}, cast_to=str)


def _unload(ask: Asking) -> None:
    ask.client.post("/unload_lora_adapter", body={"lora_name": "mine"}, cast_to=str)


def _name(ask: Asking) -> None:
    _load(ask)
    try:
        models = {model.id for model in ask.client.models.list()}
        assert "mine" in models
        texts = {
            ask.client.completions.create(model=name, prompt="Once upon a time", temperature=0).choices[0].text
            for name in models
        }
        assert len(texts) == 2
    finally:
        _unload(ask)
    with pytest.raises(openai.NotFoundError):
        ask.client.completions.create(model="mine", prompt="Once upon a time")


def _path(ask: Asking) -> None:
    for path in ("nothing-there", "../random", "/etc"):
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
            _load(ask, lora_path=path)
        assert refused.value.param == "lora_path"


def _inplace(ask: Asking) -> None:
    _load(ask)
    try:
        with pytest.raises(openai.BadRequestError):
            _load(ask)
        _load(ask, load_inplace=True)
    finally:
        _unload(ask)


PARAMETERS: Sequence[Parameter] = (
    works(
        "lora_name",
        _name,
        "becomes a model of that name, and is none any more when it is unloaded",
        source="vLLM",
        endpoints=(LOAD_ADAPTER, UNLOAD_ADAPTER),
    ),
    works(
        "lora_path",
        _path,
        "a folder below the server's --lora-dir; others are a 404",
        source="vLLM",
        endpoints=(LOAD_ADAPTER,),
    ),
    works(
        "load_inplace",
        _inplace,
        "true replaces the adapter of that name; else it is refused",
        source="vLLM",
        endpoints=(LOAD_ADAPTER,),
    ),
)
