"""POST /tokenize and /chat_tokenize: the tokens of a text, and where in it they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.json import encode

from headrace.server.dialects.base import Incoming, Inquiry, JsonObject, Served
from headrace.server.dialects.decode import decode, has_key
from headrace.server.dialects.tgi.requests import TokenizeFields
from headrace.server.dialects.tokenizing import conversation, off_loop, rendered, tokenizer_of

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM


def has_inputs(incoming: Incoming) -> bool:
    """Whether a body is TGI's: the text to tokenise is called `inputs`."""
    return has_key(incoming.body, "inputs")


def parse_tokenize(incoming: Incoming, _: Served) -> Inquiry:
    """Parse POST /tokenize.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields = decode(incoming.body, TokenizeFields, {})
    adds = fields.add_special_tokens is not False

    async def ask(llm: AsyncLLM) -> list[JsonObject]:
        return await _tokens(fields.inputs, llm, add_special_tokens=adds)

    return Inquiry(model=None, ask=ask, render=lambda tokens, _: encode(tokens), param_names={"prompt": "inputs"})


def parse_chat_tokenize(incoming: Incoming, served: Served) -> Inquiry:
    """Parse POST /chat_tokenize, whose body is one of /v1/chat/completions.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    prompt = conversation(decode(incoming.body, dict, {}), served)

    async def ask(llm: AsyncLLM) -> JsonObject:
        text = (await rendered(prompt, llm)).text
        tokens = await _tokens(text, llm, add_special_tokens=prompt.add_special_tokens)
        return {"tokenize_response": tokens, "templated_text": text}

    return Inquiry(model=None, ask=ask, render=lambda answer, _: encode(answer), param_names={"prompt": "messages"})


async def _tokens(text: str, llm: AsyncLLM, *, add_special_tokens: bool) -> list[JsonObject]:
    spans = await off_loop(len(text), lambda: tokenizer_of(llm).spans(text, add_special_tokens))
    return [
        {"id": span.id, "text": text[span.start : span.stop], "start": span.start, "stop": span.stop} for span in spans
    ]
