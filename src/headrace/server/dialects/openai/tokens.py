"""POST /tokenize and /detokenize, as in vLLM: a text or a conversation into token ids, and ids into text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.json import encode

from headrace.errors import RequestError
from headrace.server.dialects.base import Incoming, Inquiry, JsonObject, Served
from headrace.server.dialects.decode import decode, has_key
from headrace.server.dialects.tokenizing import conversation, off_loop, rendered, text_of, tokenizer_of

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM


class TokenizeFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /tokenize with a text; with `messages` it is one of /v1/chat/completions, and these two."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None
    """Default true; for a conversation false"""
    return_token_strs: bool | None = None
    """Show each token as the vocabulary spells it"""


class DetokenizeFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /detokenize."""

    tokens: list[int]
    model: str | None = None


def is_ours(incoming: Incoming) -> bool:
    """Whether a body for /tokenize is vLLM's: `prompt` or `messages`."""
    return has_key(incoming.body, "prompt") or has_key(incoming.body, "messages")


def names_model(incoming: Incoming) -> bool:
    """Whether a body for /detokenize is vLLM's: it names the model, as llama-server's never does."""
    return has_key(incoming.body, "model")


def parse_tokenize(incoming: Incoming, served: Served) -> Inquiry:
    """Parse POST /tokenize.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    if has_key(incoming.body, "messages"):
        return _tokenize_chat(decode(incoming.body, dict, {}), served)
    fields = decode(incoming.body, TokenizeFields, {})
    adds = fields.add_special_tokens is not False

    async def ask(llm: AsyncLLM) -> JsonObject:
        tokenizer = tokenizer_of(llm)
        ids = await off_loop(len(fields.prompt), lambda: tokenizer.encode(fields.prompt, adds))
        return _counted(ids, llm, tokenizer.token_name if fields.return_token_strs else None)

    return _inquiry(fields.model, ask)


def _tokenize_chat(fields: JsonObject, served: Served) -> Inquiry:
    shows = fields.pop("return_token_strs", None)
    if not isinstance(shows, bool | None):
        raise RequestError("return_token_strs: expected bool or null", param="return_token_strs")
    prompt = conversation(fields, served)

    async def ask(llm: AsyncLLM) -> JsonObject:
        chat = await rendered(prompt, llm)
        return _counted(chat.token_ids, llm, tokenizer_of(llm).token_name if shows else None)

    return _inquiry(fields.get("model"), ask)


def parse_detokenize(incoming: Incoming, _: Served) -> Inquiry:
    """Parse POST /detokenize.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields = decode(incoming.body, DetokenizeFields, {})

    async def ask(llm: AsyncLLM) -> JsonObject:
        return {"prompt": await text_of(fields.tokens, llm)}

    return _inquiry(fields.model, ask)


def _counted(ids: list[int], llm: AsyncLLM, name: Callable[[int], str] | None) -> JsonObject:
    names = None if name is None else [name(token_id) for token_id in ids]
    return {"count": len(ids), "max_model_len": llm.max_context, "tokens": ids, "token_strs": names}


def _inquiry(model: str | None, ask: Callable[[AsyncLLM], Awaitable[JsonObject]]) -> Inquiry:
    return Inquiry(
        model=model,
        ask=ask,
        render=lambda answer, _: encode(answer),
        ask_adapter=lambda llm, _: ask(llm),
    )
