"""An open request on the text side: token ids from the engine become text, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headrace.text.answer import Piece, Reading
from headrace.text.detokenizer import Detokenizer
from headrace.text.prediction import PredictedText, PredictionCount
from headrace.text.reasoning import Thought
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
    ToolCall,
    ToolCallDelta,
    Usage,
)


class _Completion:
    """One of the request's n completions."""

    def __init__(self, request: Request, index: int, tokenizer: Tokenizer | None, reading: Reading | None) -> None:
        params = request.params
        self._params = params
        self._eos_token_ids = request.eos_token_ids
        self._tokenizer = tokenizer
        self._index = index
        self._num_tokens = 0
        self._reader = None if reading is None else reading.reader()
        self._detokenizer = (
            None
            if tokenizer is None
            else Detokenizer(
                tokenizer,
                params.skip_special_tokens,
                request.prompt_token_ids,
                kept=tokenizer.special_ids_in(reading.markers) if reading is not None else frozenset(),
            )
        )
        self._stops = StopStrings(params.stop_strings, include=params.include_stop_str_in_output)
        self._goes_by_token = self._reader is not None or bool(params.stop_strings)
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
        if self._goes_by_token:
            has_stopped = self._push_each(text_ids, chunk)
        else:
            has_stopped = self._say(text_ids, len(output.token_ids), chunk)
        if output.finish_reason is not None and not has_stopped:
            self._finish(chunk)
        self.is_finished = chunk.finish_reason is not None
        return chunk

    def _push_each(self, text_ids: list[int], chunk: Chunk) -> bool:
        """Token by token, as they would have come one in a step: behind a stop string nothing was generated.

        So neither where the chunk ends nor what counts as thought depends on the step.
        """
        for at in range(len(chunk.token_ids)):
            was_thought = self._in_thought
            has_stopped = self._say(text_ids[at : at + 1], 1, chunk)
            chunk.num_reasoning_tokens += was_thought or self._in_thought
            if has_stopped:
                chunk.token_ids = chunk.token_ids[: at + 1]
                chunk.logprobs = None if chunk.logprobs is None else chunk.logprobs[: at + 1]
                return True
        return False

    @property
    def _in_thought(self) -> bool:
        return self._reader is not None and self._reader.in_thought

    def _say(self, token_ids: list[int], num_tokens: int, chunk: Chunk) -> bool:
        """Add what these tokens say to the chunk; whether a stop string ended it."""
        self._num_tokens += num_tokens
        text = "" if self._detokenizer is None else self._detokenizer.push(token_ids)
        if self._reader is None:
            return self._place(text, chunk)
        has_stopped = False
        for piece in self._reader.push(text):
            has_stopped = self._place(piece, chunk)
        return has_stopped

    def _place(self, piece: Piece, chunk: Chunk) -> bool:
        """Stop strings are looked for in the content, not in thoughts and calls; nothing comes after one."""
        if self._stops.has_matched:
            return True
        if isinstance(piece, Thought):
            chunk.reasoning += piece.text
        elif isinstance(piece, ToolCallDelta):
            chunk.text += self._stops.flush()
            chunk.tool_calls.append(piece)
        elif self._num_tokens <= self._params.min_tokens:
            chunk.text += piece
        else:
            text, stop = self._stops.push(piece)
            chunk.text += text
            if stop is not None:
                chunk.finish_reason, chunk.stop_reason = FinishReason.STOP, stop
                return True
        return False

    def _finish(self, chunk: Chunk) -> None:
        """What was held back."""
        rest = "" if self._detokenizer is None else self._detokenizer.flush()
        pieces: list[Piece] = [rest] if self._reader is None else [*self._reader.push(rest), *self._reader.flush()]
        for piece in pieces:
            self._place(piece, chunk)
        if not self._stops.has_matched:
            chunk.text += self._stops.flush()

    def _decoded(self, logprobs: list[TokenLogprobs] | None) -> list[TokenLogprobs] | None:
        return None if logprobs is None else [decode_logprobs(entry, self._tokenizer) for entry in logprobs]


class OpenRequest:
    """A request that has been given to the engine.

    Attributes:
        request: What the engine got.
        prompt: The prompt as text, or None when it came as token ids.

    `reading` says how the answers to a chat are taken apart; without it all text is content.
    """

    def __init__(
        self, request: Request, prompt: str | None, tokenizer: Tokenizer | None, reading: Reading | None = None
    ) -> None:
        self.request = request
        self.prompt = prompt
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        self.scores: list[list[float]] = []
        """Of each of the request's continuations its tokens' log-probabilities"""
        self.num_cached_tokens = 0
        self.seconds_waited = 0.0
        """Until it first ran; known with the first chunk"""
        self.num_completion_tokens = 0
        self.num_reasoning_tokens = 0
        self._tokenizer = tokenizer
        predicted = PredictedText(request.predicted)
        counted = range(request.params.n if request.predicted else 0)
        self._predictions = [PredictionCount(predicted) for _ in counted]
        self._completions = [_Completion(request, index, tokenizer, reading) for index in range(request.params.n)]

    @property
    def is_finished(self) -> bool:
        """Whether all n completions are."""
        return all(completion.is_finished for completion in self._completions)

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        num_prompt = len(self.request.prompt_token_ids)
        return Usage(
            num_prompt,
            self.num_completion_tokens,
            self.num_cached_tokens,
            self.num_reasoning_tokens,
            sum(each.num_accepted for each in self._predictions),
            sum(each.num_rejected for each in self._predictions),
        )

    @property
    def predictions(self) -> Sequence[PredictionCount]:
        """How much of the predicted text has come, by completion; empty where nothing was predicted."""
        return self._predictions

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
        if output.scores is not None:
            self.scores = output.scores
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
        self.seconds_waited = max(self.seconds_waited, output.seconds_waited)
        chunk = completion.push(output)
        self.num_completion_tokens += len(chunk.token_ids)
        if self._predictions:
            self._predictions[output.index].push(chunk.token_ids)
        self.num_reasoning_tokens += chunk.num_reasoning_tokens
        return chunk


class Collector:
    """Chunks → RequestOutput."""

    def __init__(self, opened: OpenRequest) -> None:
        self._opened = opened
        self._outputs = [CompletionOutput(index) for index in range(opened.request.params.n)]
        self._texts: list[list[str]] = [[] for _ in self._outputs]
        self._thoughts: list[list[str]] = [[] for _ in self._outputs]
        self._calls: list[dict[int, tuple[ToolCallDelta, list[str]]]] = [{} for _ in self._outputs]

    def push(self, chunk: Chunk) -> None:
        """Add a chunk to its completion."""
        output = self._outputs[chunk.index]
        self._texts[chunk.index].append(chunk.text)
        self._thoughts[chunk.index].append(chunk.reasoning)
        for delta in chunk.tool_calls:
            _add_call(self._calls[chunk.index], delta)
        output.token_ids.extend(chunk.token_ids)
        output.num_reasoning_tokens += chunk.num_reasoning_tokens
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
        parts = zip(self._outputs, self._texts, self._thoughts, self._calls, strict=True)
        for output, texts, thoughts, calls in parts:
            output.text, output.reasoning = "".join(texts), "".join(thoughts)
            output.tool_calls = [
                ToolCall(first.id or "", first.name or "", "".join(pieces)) for first, pieces in calls.values()
            ]
        opened = self._opened
        for output, prediction in zip(self._outputs, opened.predictions, strict=False):  # none, or one for each
            output.num_accepted_prediction_tokens = prediction.num_accepted
            output.num_rejected_prediction_tokens = prediction.num_rejected
        return RequestOutput(
            opened.request.id,
            opened.prompt,
            list(opened.request.prompt_token_ids),
            self._outputs,
            prompt_logprobs=opened.prompt_logprobs,
            num_cached_tokens=opened.num_cached_tokens,
            finished=opened.is_finished,
        )


def _add_call(calls: dict[int, tuple[ToolCallDelta, list[str]]], delta: ToolCallDelta) -> None:
    _, pieces = calls.setdefault(delta.index, (delta, []))
    pieces.append(delta.arguments)


def decode_logprobs(entry: TokenLogprobs, tokenizer: Tokenizer | None) -> TokenLogprobs:
    """The same entry with decoded_token filled in."""
    if tokenizer is None:
        return entry
    return {id_: replace(logprob, decoded_token=tokenizer.token_text(id_)) for id_, logprob in entry.items()}
