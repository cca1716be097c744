"""Adapters in Python as vLLM's users give them: LoRARequest(name, id, folder)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tiny_adapters import make_adapter
from tiny_models import make_tiny, reference

from headrace import LLM, AsyncLLM, EngineConfig, LoRARequest, SamplingParams
from headrace.errors import ModelError, RequestError

PROMPT = {"prompt_token_ids": [5, 6, 7, 8]}
GREEDY = SamplingParams(max_tokens=8, temperature=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
    folder = make_tiny("llama", tmp_path_factory.mktemp("llama"))
    for seed, name in enumerate(["first", "second"]):
        make_adapter(folder / name, reference(folder), seed=seed)
    return folder


def answers(llm: LLM, num_prompts: int = 1, **options: Any) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in llm.generate([PROMPT] * num_prompts, GREEDY, **options)]


def test_adapters_are_loaded_when_they_are_asked_for(model: Path) -> None:
    llm = LLM(model, EngineConfig(threads=1))
    first, second = (LoRARequest(name, number, str(model / name)) for number, name in enumerate(["first", "second"], 1))
    found = answers(llm, 4, lora_request=[first, None, second, first])
    assert list(llm.adapters) == ["first", "second"]
    assert found[0] == found[3]
    assert len({tuple(each) for each in found}) == 3
    for name, expected in zip(("first", None, "second"), found, strict=False):
        assert answers(llm, adapter=name) == [expected]
    assert answers(llm, 2, lora_request=second) == [found[2]] * 2
    llm.unload_adapter("first")
    assert answers(llm, lora_request=first) == [found[0]]


def test_what_is_wrong(model: Path) -> None:
    llm = LLM(model, EngineConfig(threads=1), adapters={"first": model / "first"})
    for options, message in (
        ({"lora_request": LoRARequest("first", 1, str(model / "second"))}, "'first' is that of .*first; give .*second"),
        ({"lora_request": LoRARequest("first", 1, str(model / "first")), "adapter": "first"}, "leave one of them out"),
        ({"lora_request": "first"}, "lora_request is of type str, expected LoRARequest"),
        ({"lora_request": ["first"]}, "lora_request has a str, expected LoRARequest"),
    ):
        with pytest.raises(RequestError, match=message):
            answers(llm, **options)
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        answers(llm, lora_request=LoRARequest("third", 3, str(model / "third")))
    assert list(llm.adapters) == ["first"]
    with pytest.raises(RequestError, match="path is of type int, expected str or PathLike"):
        llm.load_adapter("third", 5)  # type: ignore[arg-type]
    assert list(llm.adapters) == ["first"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("x", 0, "y"), "lora_int_id is 0"),
        (("x", 1, 5), "lora_path is of type int, expected str or PathLike"),
        (("x", 1, None), "lora_path is of type NoneType, expected str or PathLike"),
        ((["x"], 1, "y"), "lora_name is of type list, expected str"),
    ],
)
def test_requests_that_are_none(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        LoRARequest(*fields)


def test_a_loading_that_gives_no_path(model: Path) -> None:
    async def load() -> None:
        async with AsyncLLM(model, EngineConfig(threads=1)) as llm:
            with pytest.raises(RequestError, match="path is of type int, expected str or PathLike"):
                await llm.load_adapter("third", 5)  # type: ignore[arg-type]

    asyncio.run(load())
