"""The headrace command on a pretended engine: `python fake_headrace.py run …`.

For what a real model cannot be made to do on demand: tokens that come slowly, never end, or fail on the way. The
model's name says what it does: words of {slow, endless, plain, ids, broken, hostile, thinking}.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from headrace.errors import ModelNotFound, RequestError
from headrace.sampling_params import SamplingParams
from headrace.types import Chunk, FinishReason


class LLM:
    def __init__(
        self, model: str, config: object = None, *, chat_template: Path | None = None, adapters: object = None
    ) -> None:
        if model == "nothing":
            raise ModelNotFound("no model 'nothing',\ndid you mean something")
        if model == "bug":
            raise RuntimeError("the engine fell over")
        self.name = model
        self.tokenizer = None if "ids" in model else object()
        self.chat_template = None if "plain" in model or "ids" in model else object()
        self.default_params = SamplingParams(temperature=0.5)
        self.load_report = (f"{model}: pretended", "KV cache: none")

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stream(self, prompt: Any, params: SamplingParams, adapter: str | None = None) -> Iterator[Chunk]:
        if not prompt:
            raise RequestError("the prompt is empty", param="prompt")
        return self._words([f"{prompt!r}", f"temperature={params.temperature}"], params)

    def stream_chat(
        self, messages: list[dict[str, str]], params: SamplingParams, adapter: str | None = None
    ) -> Iterator[Chunk]:
        if messages[-1]["content"] == "too long":
            raise RequestError("the conversation is too long", param="messages")
        return self._words([f"{message['role']}:{message['content']}" for message in messages], params)

    def _words(self, words: list[str], params: SamplingParams) -> Iterator[Chunk]:
        if "endless" in self.name:
            words = ["word"] * 100_000
        if "hostile" in self.name:
            words = ["\x1b[2Jcleared\x07"]
        if "thinking" in self.name:
            yield from (Chunk(0, "", [0], reasoning=piece) for piece in ("Let me ", "\x1b[2Jsee."))
        for number, word in enumerate(words, 1):
            if "slow" in self.name:
                time.sleep(0.02)
            if "broken" in self.name and number == 2:
                raise RuntimeError("broke in the middle")
            is_last = number == len(words) or number == params.max_tokens
            reason = FinishReason.LENGTH if number == params.max_tokens else FinishReason.STOP
            yield replace(Chunk(0, f"{word} ", [number]), finish_reason=reason if is_last else None)
            if is_last:
                return


def main() -> int:
    module = ModuleType("headrace.llm")
    module.LLM = LLM  # type: ignore[attr-defined]
    sys.modules["headrace.llm"] = module
    from headrace.cli import main as headrace

    return headrace()


if __name__ == "__main__":
    sys.exit(main())
