"""An open request on the text side: token ids from the engine become text, chunk by chunk."""

from __future__ import annotations

from dataclasses import replace

from headrace.text.detokenizer import Detokenizer
from headrace.text.stop import StopStrings
from headrace.text.tokenizer import Tokenizer
from headrace.types import (
    Chunk,
    CompletionOutput,
    FinishReason,
    Request,
    RequestOutput,
    StepOutput,
    TokenLogprobs,
    Usage,
)


class _Completion:
    """One of the request's n completions."""

    def __init__(self, request: Request, index: int, tokenizer: Tokenizer | None) -> None:
        params = request.params
        self._params = params
        self._eos_token_ids = request.eos_token_ids
        self._tokenizer = tokenizer
        self._index = index
        self._num_tokens = 0
        self._detokenizer = (
            None if tokenizer is None else Detokenizer(tokenizer, params.skip_special_tokens, request.prompt_token_ids)
        )
        self._stops = StopStrings(params.stop_strings, include=params.include_stop_str_in_output)
        self.is_finished = False

    def push(self, output: StepOutput) -> Chunk:
        """The chunk of a step; it ends with the token that completes a stop string, whatever came in the same step."""
        chunk = Chunk(self._index, "", output.token_ids, self._decoded(output.logprobs), output.finish_reason)
        chunk.cumulative_logprob = output.cumulative_logprob
        text_ids = output.token_ids
        if output.stop_token_id is not None:
            if output.stop_token_id not in self._eos_token_ids:
                chunk.stop_reason = output.stop_token_id
            if not self._params.include_stop_str_in_output:
                text_ids = text_ids[:-1]
        if self._params.stop_strings and len(output.token_ids) > 1:
            self._push_each(chunk, text_ids)
        else:
            self._push_text(chunk, text_ids, len(output.token_ids))
        self.is_finished = chunk.finish_reason is not None
        return chunk

    def _push_each(self, chunk: Chunk, text_ids: list[int]) -> None:
        """Token by token, as they would have come one in a step: behind a stop string nothing was generated."""
        whole, reasons = chunk.token_ids, (chunk.finish_reason, chunk.stop_reason)
        chunk.finish_reason = chunk.stop_reason = None
        text = ""
        for at in range(len(whole)):
            if at == len(whole) - 1:
                chunk.finish_reason, chunk.stop_reason = reasons
            self._push_text(chunk, text_ids[at : at + 1], 1)
            text += chunk.text
            if chunk.finish_reason is not None:
                chunk.token_ids = whole[: at + 1]
                chunk.logprobs = None if chunk.logprobs is None else chunk.logprobs[: at + 1]
                break
        chunk.text = text

    def _push_text(self, chunk: Chunk, text_ids: list[int], num_tokens: int) -> None:
        """Set the chunk's text to that of the tokens, as far as it is final; ends the chunk at a stop string."""
        self._num_tokens += num_tokens
        text = self._text(text_ids, is_last=chunk.finish_reason is not None)
        stop = None
        if self._num_tokens <= self._params.min_tokens:
            chunk.text = text
        else:
            chunk.text, stop = self._stops.push(text)
        if stop is not None:
            chunk.finish_reason, chunk.stop_reason = FinishReason.STOP, stop
        elif chunk.finish_reason is not None:
            chunk.text += self._stops.flush()

    def _text(self, token_ids: list[int], *, is_last: bool) -> str:
        if self._detokenizer is None:
            return ""
        text = self._detokenizer.push(token_ids)
        return text + self._detokenizer.flush() if is_last else text

    def _decoded(self, logprobs: list[TokenLogprobs] | None) -> list[TokenLogprobs] | None:
        return None if logprobs is None else [decode_logprobs(entry, self._tokenizer) for entry in logprobs]


class OpenRequest:
    """A request that has been given to the engine.

    Attributes:
        request: What the engine got.
        prompt: The prompt as text, or None when it came as token ids.
    """

    def __init__(self, request: Request, prompt: str | None, tokenizer: Tokenizer | None) -> None:
        self.request = request
        self.prompt = prompt
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        self.num_cached_tokens = 0
        self.num_completion_tokens = 0
        self._tokenizer = tokenizer
        self._completions = [_Completion(request, index, tokenizer) for index in range(request.params.n)]

    @property
    def is_finished(self) -> bool:
        """Whether all n completions are."""
        return all(completion.is_finished for completion in self._completions)

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return Usage(len(self.request.prompt_token_ids), self.num_completion_tokens, self.num_cached_tokens)

    def push(self, output: StepOutput) -> Chunk | None:
        """The text that this output makes final; None if the completion had ended already.

        When the chunk has a finish_reason and the output has none (a stop string), the caller cancels the sequence.
        """
        completion = self._completions[output.index]
        if completion.is_finished:
            return None
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = [
                None if entry is None else decode_logprobs(entry, self._tokenizer) for entry in output.prompt_logprobs
            ]
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
        chunk = completion.push(output)
        self.num_completion_tokens += len(chunk.token_ids)
        return chunk


class Collector:
    """Chunks → RequestOutput."""

    def __init__(self, opened: OpenRequest) -> None:
        self._opened = opened
        self._outputs = [CompletionOutput(index) for index in range(opened.request.params.n)]
        self._texts: list[list[str]] = [[] for _ in self._outputs]

    def push(self, chunk: Chunk) -> None:
        """Add a chunk to its completion."""
        output = self._outputs[chunk.index]
        self._texts[chunk.index].append(chunk.text)
        output.token_ids.extend(chunk.token_ids)
        if chunk.logprobs is not None:
            if output.logprobs is None:
                output.logprobs, output.cumulative_logprob = [], 0.0
            output.logprobs.extend(chunk.logprobs)
            for token_id, entry in zip(chunk.token_ids, chunk.logprobs, strict=True):  # in one order, however cut
                output.cumulative_logprob = (output.cumulative_logprob or 0.0) + entry[token_id].logprob
        if chunk.cumulative_logprob is not None:
            output.cumulative_logprob = chunk.cumulative_logprob
        if chunk.finish_reason is not None:
            output.finish_reason = chunk.finish_reason.value
            output.stop_reason = chunk.stop_reason

    def result(self) -> RequestOutput:
        """The request as a whole."""
        for output, texts in zip(self._outputs, self._texts, strict=True):
            output.text = "".join(texts)
        opened = self._opened
        return RequestOutput(
            opened.request.id,
            opened.prompt,
            list(opened.request.prompt_token_ids),
            self._outputs,
            prompt_logprobs=opened.prompt_logprobs,
            num_cached_tokens=opened.num_cached_tokens,
            finished=opened.is_finished,
        )


def decode_logprobs(entry: TokenLogprobs, tokenizer: Tokenizer | None) -> TokenLogprobs:
    """The same entry with decoded_token filled in."""
    if tokenizer is None:
        return entry
    return {id_: replace(logprob, decoded_token=tokenizer.token_text(id_)) for id_, logprob in entry.items()}
