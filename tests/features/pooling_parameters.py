"""Parameters of the endpoints that generate nothing: embeddings, rerank, score, classify."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from features.asking import Asking, Json
from features.catalogue import CLASSIFY, EMBEDDINGS, RERANK, SCORE, Parameter, no_effect, refused, works

POOLING = (EMBEDDINGS, RERANK, SCORE, CLASSIFY)
PROMPT = "the query: "
"""What the served model's own files say goes before a query"""


def _data(ask: Asking, **fields: object) -> list[Json]:
    data: list[Json] = ask.answer(**fields)["data"]
    return data


def _vectors(ask: Asking, **fields: object) -> np.ndarray:
    return np.array([one["embedding"] for one in _data(ask, **fields)])


def _input(ask: Asking) -> None:
    key = "embedding" if ask.path == "/embeddings" else "probs"
    [one] = _data(ask, input="the cat sat")
    two = _data(ask, input=["the cat sat", "blue sky"])
    assert np.allclose(one[key], two[0][key], atol=1e-6)
    assert not np.allclose(one[key], two[1][key], atol=1e-4)
    ask.refusal("input", input=[])


def _encoding_format(ask: Asking) -> None:
    coded = [base64.b64decode(one["embedding"]) for one in _data(ask, encoding_format="base64")]
    assert np.allclose([np.frombuffer(one, "<f4") for one in coded], _vectors(ask, encoding_format="float"), atol=1e-6)


def _dimensions(ask: Asking) -> None:
    few, all_of_it = _vectors(ask, dimensions=8), _vectors(ask)
    expected = all_of_it[:, :8] / np.linalg.norm(all_of_it[:, :8], axis=1, keepdims=True)
    assert np.allclose(few, expected, atol=1e-5)


def _prompt_name(ask: Asking) -> None:
    with_name = _vectors(ask, input="blue sky", prompt_name="query")
    assert np.allclose(with_name, _vectors(ask, input=f"{PROMPT}blue sky"), atol=1e-5)
    ask.refusal("prompt_name", prompt_name="other")


def _truncate(ask: Asking) -> None:
    texts = next(name for name in ("input", "documents", "text_2") if name in ask.base)
    long = {texts: ["the cat sat on the mat and the dogs saw it"] * 2}
    short, whole = (ask.usage(**long, **cut)["prompt_tokens"] for cut in ({"truncate_prompt_tokens": 8}, {}))
    assert short == 16 < whole


def _results(ask: Asking, **fields: object) -> list[Json]:
    results: list[Json] = ask.answer(**fields)["results"]
    return results


def _ranking(ask: Asking) -> None:
    found = _results(ask)
    scores = [one["relevance_score"] for one in found]
    assert scores == sorted(scores, reverse=True)
    assert sorted(one["index"] for one in found) == list(range(len(ask.base["documents"])))
    [alone] = _results(ask, documents=[ask.base["documents"][found[0]["index"]]])
    assert alone["relevance_score"] == pytest.approx(scores[0], abs=1e-5)
    assert _results(ask, query="blue")[0]["relevance_score"] != scores[0]


def _top_n(ask: Asking) -> None:
    assert _results(ask, top_n=1) == _results(ask)[:1]


def _return_documents(ask: Asking) -> None:
    assert all(one["document"]["text"] in ask.base["documents"] for one in _results(ask))
    assert all("document" not in one for one in _results(ask, return_documents=False))


def _pairs(first: str, second: str) -> Parameter:
    def prove(ask: Asking) -> None:
        lefts, rights = ask.base["text_1"], ask.base["text_2"]
        named = {"text_1": None, "text_2": None, first: lefts, second: rights}
        assert [one["score"] for one in _data(ask, **named)] == [one["score"] for one in _data(ask)]
        assert len({one["score"] for one in _data(ask)}) == len(rights)

    return works(f"{first}, {second}", prove, "one text with each of several, or pair by pair", endpoints=(SCORE,))


PARAMETERS: Sequence[Parameter] = tuple(
    replace(one, source=one.source if one.source != "OpenAI vLLM" else "vLLM")
    for one in (
        works("input", _input, "text or a list; each as alone", source="OpenAI", endpoints=(EMBEDDINGS, CLASSIFY)),
        works(
            "encoding_format",
            _encoding_format,
            "float, or base64",
            source="OpenAI",
            endpoints=(EMBEDDINGS,),
            takes=("=float", "=base64"),
        ),
        works("dimensions", _dimensions, "the first so many, of length 1", source="OpenAI", endpoints=(EMBEDDINGS,)),
        works("prompt_name", _prompt_name, "the model's prompt of that name goes before", endpoints=(EMBEDDINGS,)),
        works("truncate_prompt_tokens", _truncate, "longer inputs are cut", endpoints=POOLING),
        works("query", _ranking, "what documents are ranked by", source="Cohere vLLM", endpoints=(RERANK,)),
        works("documents", _ranking, "best first, each scored as alone", source="Cohere vLLM", endpoints=(RERANK,)),
        works("top_n", _top_n, "only the best", source="Cohere vLLM", endpoints=(RERANK,)),
        works("return_documents", _return_documents, "false leaves them out", source="Cohere", endpoints=(RERANK,)),
        _pairs("text_1", "text_2"),
        _pairs("queries", "documents"),
        no_effect("user", "me", why="a name for the provider's records; there are none", endpoints=POOLING),
        *(
            refused(name, value, why=why, endpoints=POOLING)
            for name, value, why in (
                ("cache_salt", "salt", "nothing is cached"),
                ("priority", 1, "not yet"),
                ("chat_template", "{{ x }}", "inputs are texts"),
                ("truncation_side", "left", "the end is cut"),
            )
        ),
    )
)
