"""POST /v1/rerank (Cohere's and Jina's) and /v1/score (vLLM's): how well texts go together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct
from msgspec.json import encode

from headrace.errors import RequestError
from headrace.pooled import Ranking, ScoringRequestOutput
from headrace.server.dialects.base import Inquiry, Served
from headrace.server.dialects.decode import NEVER
from headrace.server.dialects.openai.decode import decode
from headrace.server.dialects.openai.embeddings import POOLING_UNSUPPORTED, PoolingFields, identity, usage_of

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

_RERANK_UNSUPPORTED = {
    **POOLING_UNSUPPORTED,
    "max_chunks_per_doc": NEVER,  # Cohere's
    "max_tokens_per_doc": NEVER,
    "rank_fields": NEVER,
}
_PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2"), ("queries", "items"))


class DocumentText(Struct, kw_only=True, forbid_unknown_fields=True):
    """A document in its long form."""

    text: str


Texts: TypeAlias = str | list[str]


class RerankFields(PoolingFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/rerank."""

    query: str
    documents: list[str | DocumentText]
    top_n: int | None = None
    return_documents: bool | None = None
    """Show each document beside its score; it is shown unless this is false"""


class ScoreFields(PoolingFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/score: one pair of the fields, by any of vLLM's names."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None


def parse_rerank(body: bytes) -> Inquiry:
    """Parse POST /v1/rerank.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(body, RerankFields, _RERANK_UNSUPPORTED)
    documents = [each if isinstance(each, str) else each.text for each in fields.documents]
    if not documents:
        raise RequestError("documents is empty, expected at least one", param="documents")

    async def ask(llm: AsyncLLM) -> Ranking:
        return await llm.rerank(
            fields.query, documents, top_n=fields.top_n, truncate_prompt_tokens=fields.truncate_prompt_tokens
        )

    shows = fields.return_documents is not False
    return Inquiry(
        model=fields.model,
        ask=ask,
        render=partial(_render_ranking, shows_documents=shows),
        param_names={"input": "documents"},
    )


def parse_score(body: bytes) -> Inquiry:
    """Parse POST /v1/score.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(body, ScoreFields, POOLING_UNSUPPORTED)
    first, second = _pair(fields)
    lefts, rights = getattr(fields, first), getattr(fields, second)

    async def ask(llm: AsyncLLM) -> list[ScoringRequestOutput]:
        return await llm.score(lefts, rights, truncate_prompt_tokens=fields.truncate_prompt_tokens)

    return Inquiry(model=fields.model, ask=ask, render=_render_scores, param_names={"text_1": first, "input": second})


def _pair(fields: ScoreFields) -> tuple[str, str]:
    """The names of the two fields that are given."""
    given = {name for pair in _PAIRS for name in pair if getattr(fields, name) is not None}
    for pair in _PAIRS:
        if given == set(pair):
            return pair
    found = ", ".join(sorted(given)) or "neither"
    raise RequestError(
        f"expected text_1 and text_2, or queries and documents, and nothing else; found {found}", param="text_1"
    )


def _render_ranking(ranking: Ranking, served: Served, *, shows_documents: bool) -> bytes:
    results = [
        {
            "index": result.index,
            **({"document": {"text": result.document}} if shows_documents else {}),
            "relevance_score": result.relevance_score,
        }
        for result in ranking.results
    ]
    usage = {"prompt_tokens": ranking.num_tokens, "total_tokens": ranking.num_tokens}
    return encode({**identity("rerank", served), "results": results, "usage": usage})


def _render_scores(outputs: Sequence[ScoringRequestOutput], served: Served) -> bytes:
    data = [{"index": index, "object": "score", "score": output.outputs.score} for index, output in enumerate(outputs)]
    return encode({**identity("score", served), "object": "list", "data": data, "usage": usage_of(outputs)})
