"""One endpoint of a running server, asked through the official client."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from headrace import AsyncLLM

Json = dict[str, Any]
_BRACKETS = re.compile(r"\[.*?\]")


class Asking:
    """Sends `base` with further fields to one endpoint, and reads the answers.

    `llm` is the model behind the server: probes take token ids from its tokenizer.
    """

    def __init__(self, client: openai.OpenAI, llm: AsyncLLM, path: str, base: Mapping[str, Any]) -> None:
        self.client = client
        self.llm = llm
        self.path = path
        self.base = base

    def answer(self, **fields: Any) -> Json:
        """A whole answer; `fields` replace those of the base, and None takes one out."""
        answer = self.client.post(self.path, body=self.body(fields), cast_to=object)
        assert isinstance(answer, dict)
        return answer

    def content(self, **fields: Any) -> object:
        """What of an answer depends on the request alone."""
        answer = self.answer(**fields)
        if "output" in answer:
            return [{name: value for name, value in item.items() if name != "id"} for item in answer["output"]]
        return next(answer[name] for name in ("choices", "answers", "data", "results") if name in answer)

    def body(self, fields: Mapping[str, Any]) -> Json:
        """What is sent."""
        return {name: value for name, value in {**self.base, **fields}.items() if value is not None}

    def choice(self, **fields: Any) -> Json:
        """The only choice of an answer."""
        [choice] = self.answer(**fields)["choices"]
        assert isinstance(choice, dict)
        return choice

    def texts(self, **fields: Any) -> list[str]:
        """The texts of an answer's choices."""
        return [text_of(choice) for choice in self.answer(**fields)["choices"]]

    def text(self, **fields: Any) -> str:
        """The text of the only choice."""
        [text] = self.texts(**fields)
        return text

    def usage(self, **fields: Any) -> Json:
        """An answer's usage."""
        usage = self.answer(**fields)["usage"]
        assert isinstance(usage, dict)
        return usage

    def events(self, **fields: Any) -> list[Json]:
        """A stream's events up to [DONE]."""
        stream = self.client.post(
            self.path, body=self.body({**fields, "stream": True}), cast_to=object, stream=True,
            stream_cls=openai.Stream[object],
        )  # fmt: skip
        return [event for event in stream if isinstance(event, dict)]

    def refusal(self, name: str, **fields: Any) -> str:
        """The message of a 400 that names `name`, or a field within it."""
        with pytest.raises(openai.BadRequestError) as refused:
            self.answer(**fields)
        assert names(refused.value.param, name), (name, refused.value.param, refused.value.message)
        return refused.value.message


def names(param: str | None, name: str) -> bool:
    """Whether an error's `param`, such as messages[0].content, is the field `name`, one around it, or one within it."""
    path, wanted = (f"{_BRACKETS.sub('', each)}." for each in (param or "", name))
    return len(path) > 1 and (wanted.startswith(path) or path.startswith(wanted))


def text_of(choice: Mapping[str, Any]) -> str:
    """The text of a choice of either endpoint."""
    return str(choice["text"] if "text" in choice else choice["message"]["content"])
