"""What answers take of memory until they are sent, bounded for each HTTP request.

A whole answer is in memory from its first token to its last, with its log-probabilities; so are a prompt's, of which
all come at once, streamed or not. What a stream's reader leaves unread has its own bound (`max_unread_tokens`).
"""

from __future__ import annotations

from headrace.errors import DoesNotFit
from headrace.server.caller import Caller
from headrace.types import Request, StepOutput

TOKEN_BYTES = 128
LOGPROB_BYTES = 500
"""Measured, from the engine's message to the last byte of JSON: 93 of a token, 430 of a log-probability in a chat, 560
of a prompt's. A token has one more of them than are asked for: its own."""


class AnswerRoom:
    """How much one HTTP request's answer may take.

    Where `max_tokens` is said, that many tokens are counted before anything runs; else they are as they come.

    Args:
        max_bytes: Of all of its prompts together, estimated.
        vocab_size: Of the model; no token has more log-probabilities.
    """

    def __init__(self, max_bytes: int, vocab_size: int) -> None:
        self._max_bytes = max_bytes
        self._vocab_size = vocab_size

    def reserve(self, request: Request, caller: Caller) -> None:
        """Count what is known of an answer before it runs.

        Raises:
            DoesNotFit: it takes more than it may.
        """
        params = request.params
        if params.prompt_logprobs is not None:
            caller.answer_bytes += len(request.prompt_token_ids) * self._token_bytes(params.prompt_logprobs)
        if not caller.is_streamed and params.max_tokens is not None:
            caller.answer_bytes += params.n * request.max_tokens * self._token_bytes(params.logprobs)
        if caller.answer_bytes > self._max_bytes:
            param = next((name for name in ("prompt_logprobs", "logprobs") if getattr(params, name) is not None), None)
            raise self._too_large("would take", caller, param=param or ("n" if params.n > 1 else "max_tokens"))

    def take(self, output: StepOutput, request: Request, caller: Caller) -> None:
        """Count what has come of an answer.

        Raises:
            DoesNotFit: it takes more than it may.
        """
        if caller.is_streamed or request.params.max_tokens is not None:
            return
        caller.answer_bytes += len(output.token_ids) * self._token_bytes(request.params.logprobs)
        if caller.answer_bytes > self._max_bytes:
            raise self._too_large("has come to", caller)

    def _token_bytes(self, logprobs: int | None) -> int:
        return TOKEN_BYTES + (0 if logprobs is None else LOGPROB_BYTES * (min(logprobs, self._vocab_size) + 1))

    def _too_large(self, verb: str, caller: Caller, param: str | None = None) -> DoesNotFit:
        return DoesNotFit(
            f"The answer {verb} {caller.answer_bytes / 2**20:,.1f} MiB of memory until it is sent, and a request has"
            f" {self._max_bytes / 2**20:,.1f} MiB here ({TOKEN_BYTES} bytes a token, {LOGPROB_BYTES} a"
            " log-probability); ask for fewer log-probabilities, tokens, completions or prompts"
            + ("" if caller.is_streamed else ", or for a stream"),
            param=param,
        )
