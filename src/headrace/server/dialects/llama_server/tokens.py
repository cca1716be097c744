"""POST /tokenize, /detokenize and /apply-template, as in llama-server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.json import encode

from headrace.server.dialects.base import Incoming, Inquiry, JsonObject, Served
from headrace.server.dialects.decode import Unsupported, decode
from headrace.server.dialects.llama_server.requests import DetokenizeFields, TokenizeFields
from headrace.server.dialects.tokenizing import conversation, off_loop, rendered, text_of, tokenizer_of
from headrace.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

_UNSUPPORTED: Unsupported = {"parse_special": (True,)}


def parse_tokenize(incoming: Incoming, _: Served) -> Inquiry:
    """Parse POST /tokenize.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields = decode(incoming.body, TokenizeFields, _UNSUPPORTED)

    async def ask(llm: AsyncLLM) -> list[Any]:
        tokenizer = tokenizer_of(llm)
        ids = await off_loop(len(fields.content), lambda: tokenizer.encode(fields.content, bool(fields.add_special)))
        return [_piece(token_id, tokenizer) for token_id in ids] if fields.with_pieces else ids

    return Inquiry(
        model=None, ask=ask, render=lambda ids, _: encode({"tokens": ids}), param_names={"prompt": "content"}
    )  # fmt: skip


def parse_detokenize(incoming: Incoming, _: Served) -> Inquiry:
    """Parse POST /detokenize.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields = decode(incoming.body, DetokenizeFields, {})

    async def ask(llm: AsyncLLM) -> str:
        return await text_of(fields.tokens, llm)

    return Inquiry(model=None, ask=ask, render=lambda text, _: encode({"content": text}))


def parse_template(incoming: Incoming, served: Served) -> Inquiry:
    """Parse POST /apply-template, whose body is one of /v1/chat/completions.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    prompt = conversation(decode(incoming.body, dict, {}), served)

    async def ask(llm: AsyncLLM) -> str:
        return (await rendered(prompt, llm)).text

    return Inquiry(model=None, ask=ask, render=lambda text, _: encode({"prompt": text}))


def _piece(token_id: int, tokenizer: Tokenizer) -> JsonObject:
    exact = tokenizer.token_bytes(token_id)
    try:
        return {"id": token_id, "piece": exact.decode()}
    except UnicodeDecodeError:
        return {"id": token_id, "piece": list(exact)}
