"""What the dialects' paths that only tokenise share: texts and conversations into token ids, without a generation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.base import ChatPrompt, JsonObject, Served
from headrace.server.dialects.decode import encoded
from headrace.server.dialects.openai.parse import parse_chat
from headrace.server.generate import render_chat
from headrace.server.json_values import check_arguments
from headrace.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM
    from headrace.model_text import EncodedChat

_LONG_TEXT = 10_000
"""Characters, or tokens; fewer take less time than the way to a thread and back is worth"""

T = TypeVar("T")


def tokenizer_of(llm: AsyncLLM) -> Tokenizer:
    """The model's tokenizer.

    Raises:
        RequestError: it has none.
    """
    if llm.tokenizer is None:
        raise RequestError(f"{llm.name} has no tokenizer: it takes and gives token ids only")
    return llm.tokenizer


async def off_loop(size: int, call: Callable[[], T]) -> T:
    """What `call` returns; for a `size` (characters, tokens) that takes long, from a thread: streams must not wait."""
    return await asyncio.to_thread(call) if size >= _LONG_TEXT else call()


def conversation(fields: JsonObject, served: Served) -> ChatPrompt:
    """The conversation of a body that is written like one of /v1/chat/completions; `model` may be left out or null.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    named = fields if fields.get("model") is not None else {**fields, "model": served.name}
    [prompt] = parse_chat(encoded(named), served.defaults).prompts
    assert isinstance(prompt, ChatPrompt)
    check_arguments(prompt.messages, served.max_json_values)
    if prompt.chat_template is not None:
        raise UnsupportedParameter("chat_template is not supported here; leave it out", param="chat_template")
    return prompt


async def rendered(prompt: ChatPrompt, llm: AsyncLLM) -> EncodedChat:
    """A conversation as the model's chat template writes it, and its tokens.

    Raises:
        RequestError: the template cannot.
    """
    return await asyncio.to_thread(render_chat, prompt, llm)


async def text_of(token_ids: list[int], llm: AsyncLLM) -> str:
    """The text of token ids, special tokens too.

    Raises:
        RequestError: an id is not in the vocabulary.
    """
    tokenizer = tokenizer_of(llm)

    def decode() -> str:
        wrong = next((token_id for token_id in token_ids if not 0 <= token_id < tokenizer.vocab_size), None)
        if wrong is not None:
            message = f"tokens has {wrong}, expected ids from 0 to {tokenizer.vocab_size - 1:,}"
            raise RequestError(message, param="tokens")
        return tokenizer.decode(token_ids, skip_special_tokens=False)

    return await off_loop(len(token_ids), decode)
