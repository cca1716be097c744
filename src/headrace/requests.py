"""Prompts and parameters → requests in the engine's terms, checked: nothing after this can be the client's mistake."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from headrace.completion import OpenRequest
from headrace.decisions import check_labels
from headrace.errors import ContextTooLong, MissingChatTemplate, RequestError
from headrace.loaded_adapters import LoadedAdapters
from headrace.model_text import ModelText
from headrace.prompts import Message, Prompt, TextPrompt, cache_salt, check_priority, predicted_part, prompt_parts
from headrace.sampling_params import SamplingParams
from headrace.text.answer import Reading
from headrace.text.labels import split_labels
from headrace.text.phrases import Phrases, TokenPhrases
from headrace.types import Request, draw_seed


class Requests:
    """Makes the requests of one model.

    `gives` says what a model without a language head gives instead of text; `check_fits` is that of the engine's plan.
    """

    def __init__(
        self,
        *,
        text: ModelText,
        gives: str,
        max_context: int,
        adapters: LoadedAdapters,
        check_fits: Callable[[int, int, int | None], None],
    ) -> None:
        self._name = text.name
        self._spec = text.spec
        self._gives = gives
        self._tokenizer = text.tokenizer
        self._chat_template = text.chat_template
        self._eos_token_ids = text.eos_token_ids
        self._max_context = max_context
        self._adapters = adapters
        self._restrictions = text.restrictions
        self._check_fits = check_fits
        self._phrases = None if text.tokenizer is None else Phrases(text.tokenizer, text.spec.vocab_size)
        self._numbers = itertools.count()

    def make(
        self,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
        reading: Reading | None = None,
        adapter: str | None = None,
        label: str | None = None,
    ) -> OpenRequest:
        """Tokenise and check a prompt; the result's `request` is what the engine takes.

        `reading` comes with a chat's prompt (`encode_chat`).

        Raises:
            RequestError: nothing of this has been queued; `param` names the field at fault.
        """
        if not isinstance(params, SamplingParams):
            raise RequestError(
                f"sampling_params has a {type(params).__name__}, expected SamplingParams", param="sampling_params"
            )
        self._check_generates()
        salt = cache_salt(prompt)
        check_priority(priority)
        text, token_ids = self._tokenize(prompt)
        if not token_ids:
            raise RequestError("the prompt is empty; it needs at least one token", param="prompt")
        max_tokens = self._max_tokens(len(token_ids), params.max_tokens)  # before each id is looked at
        self._check_ids("prompt", token_ids)
        self._check_vocabulary(params)
        thinking = self._restrictions.thinking(params, reading)
        bad_phrases = self._bad_phrases(params)
        self._check_some_allowed(params, bad_phrases)
        request = Request(
            id=request_id or f"{label or 'request'}-{next(self._numbers)}",
            prompt_token_ids=tuple(token_ids),
            params=params,
            seed=draw_seed() if params.seed is None else params.seed,
            max_tokens=max_tokens,
            eos_token_ids=self._eos_token_ids,
            cache_salt=salt,
            predicted=self._predicted(prompt),
            priority=priority,
            grammar=self._restrictions.grammar(params, thinking, max_tokens, reading),
            thinking=thinking,
            is_open_ended=reading is not None and reading.is_open_ended and params.structured is None,
            bad_phrases=bad_phrases,
            dry_breakers=self._dry_breakers(params),
            adapter=self._adapters.ref(adapter),
        )
        self._check_beams(request)
        self._check_fits(len(token_ids), request.max_tokens, params.beam_width)
        return OpenRequest(request, text, self._tokenizer, reading)

    def takes_work(self, params: SamplingParams, reading: Reading | None = None) -> bool:
        """Whether `compile` may have something to work out."""
        of_chat = reading is not None and (reading.asked is not None or reading.budget is not None)
        of_thought = params.thinking_token_budget is not None
        return of_chat or of_thought or params.structured is not None or bool(params.dry_multiplier)

    def compile(self, params: SamplingParams, reading: Reading | None = None) -> None:
        """Work out what a request needs of the vocabulary, so that submitting it takes no time; safe in any thread.

        Raises:
            RequestError: a structure cannot be enforced, is malformed, or takes too much work.
        """
        self._restrictions.compile(params, reading)
        self._dry_breakers(params)

    def make_decision(
        self,
        prompt: str | TextPrompt | Sequence[Message],
        labels: Sequence[str],
        chat_template_kwargs: Mapping[str, Any] | None,
        adapter: str | None = None,
    ) -> OpenRequest:
        """A request for the log-probabilities of labels behind a text or a conversation.

        Raises:
            RequestError: nothing has been queued; `param` names the field at fault.
        """
        self._check_generates()
        if predicted_part(prompt) is not None:
            raise RequestError(
                "the prompt has a prediction, and nothing is generated; leave it out", param="prediction"
            )
        text, add_special_tokens = self._decision_text(prompt, chat_template_kwargs)
        if self._tokenizer is None:
            raise RequestError(f"{self._name} has no tokenizer; decisions are about texts", param="prompt")
        prefix, continuations = split_labels(
            self._tokenizer, text, check_labels(labels), add_special_tokens=add_special_tokens
        )
        longest = max(len(each) for each in continuations)
        if len(prefix) + longest > self._max_context:
            raise ContextTooLong(
                f"the prompt's {len(prefix):,} tokens and the longest label's {longest:,} exceed the context of"
                f" {self._max_context:,}; shorten one of them",
                param="prompt" if len(prefix) > longest else "labels",
            )
        self._check_fits(len(prefix), longest, None)
        request = Request(
            id=f"request-{next(self._numbers)}",
            prompt_token_ids=prefix,
            params=SamplingParams(max_tokens=longest),
            seed=0,
            max_tokens=longest,
            cache_salt=cache_salt(prompt),
            continuations=tuple(continuations),
            adapter=self._adapters.ref(adapter),
        )
        return OpenRequest(request, text, self._tokenizer)

    def _decision_text(
        self, prompt: str | TextPrompt | Sequence[Message], chat_template_kwargs: Mapping[str, Any] | None
    ) -> tuple[str, bool]:
        """The prompt as text, and whether the tokenizer adds its special tokens to it."""
        wrong = RequestError("a decision's prompt must be a text or messages: labels are texts", param="prompt")
        if isinstance(prompt, str | Mapping):
            text, token_ids = prompt_parts(prompt)
            if text is None or token_ids is not None:
                raise wrong
            return text, True
        if not isinstance(prompt, Sequence) or not prompt or not isinstance(prompt[0], Mapping):
            raise wrong
        if self._chat_template is None:
            raise MissingChatTemplate(
                f"{self._name} has no chat template; give one with --chat-template FILE, or give a text",
                param="messages",
            )
        messages = cast("Sequence[Message]", prompt)
        return self._chat_template.render(messages, template_kwargs=chat_template_kwargs), False

    def _check_generates(self) -> None:
        if not self._spec.language_head:
            raise RequestError(
                f"{self._name} does not generate text: it gives {self._gives}; ask it for those",
                param="model",
            )

    def _tokenize(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        text, token_ids = prompt_parts(prompt)
        if token_ids is not None:
            return text, token_ids
        assert text is not None
        if self._tokenizer is None:
            raise RequestError(f"{self._name} has no tokenizer; give the prompt as token ids", param="prompt")
        return text, self._tokenizer.encode(text)

    def _predicted(self, prompt: Prompt) -> tuple[int, ...]:
        given = predicted_part(prompt)
        if isinstance(given, str):
            if self._tokenizer is None:
                raise RequestError(f"{self._name} has no tokenizer; predict token ids", param="prediction")
            given = self._tokenizer.encode(given, add_special_tokens=False)
        if len(given or ()) > self._max_context:
            raise RequestError(
                f"the prediction has {len(given or ()):,} tokens, more than the context of {self._max_context:,};"
                " shorten it",
                param="prediction",
            )
        self._check_ids("prediction", given or ())
        return tuple(given or ())

    def _check_vocabulary(self, params: SamplingParams) -> None:
        """The tokens that parameters name must be the model's."""
        self._check_ids("logit_bias", params.logit_bias or ())
        self._check_ids("stop_token_ids", params.stop_token_ids or ())
        self._check_ids("allowed_token_ids", params.allowed_token_ids or ())
        self._check_ids("logprob_token_ids", params.logprob_token_ids or ())
        if params.stop_strings and self._tokenizer is None:
            raise RequestError(
                "stop strings need a tokenizer, and the model has none; use stop_token_ids", param="stop"
            )

    def _check_ids(self, param: str, token_ids: Sequence[int] | Mapping[int, float]) -> None:
        if not token_ids or (min(token_ids) >= 0 and max(token_ids) < self._spec.vocab_size):
            return
        wrong = next(token_id for token_id in token_ids if not 0 <= token_id < self._spec.vocab_size)
        raise RequestError(
            f"{param} has token id {wrong}; the model's ids are 0 to {self._spec.vocab_size - 1}", param=param
        )

    def _check_beams(self, request: Request) -> None:
        """There must be as many tokens to go on with as beams, besides those that end."""
        params = request.params
        stops = request.eos_token_ids.union(params.stop_token_ids or ())
        if params.beam_width is not None and params.beam_width + len(stops) > self._spec.vocab_size:
            raise RequestError(
                f"beam_width is {params.beam_width}; the model has {self._spec.vocab_size} tokens, {len(stops)} of them"
                " end a completion",
                param="beam_width",
            )

    def _bad_phrases(self, params: SamplingParams) -> TokenPhrases:
        return self._phrases_for("bad_words").bad_words(params.bad_words) if params.bad_words else ()

    def _dry_breakers(self, params: SamplingParams) -> TokenPhrases:
        if not params.dry_multiplier or not params.dry_sequence_breakers:
            return ()
        return self._phrases_for("dry_sequence_breakers").dry_breakers(tuple(params.dry_sequence_breakers))

    def _phrases_for(self, param: str) -> Phrases:
        if self._phrases is None:
            raise RequestError(f"{param} needs a tokenizer, and the model has none; make it an empty list", param=param)
        return self._phrases

    def _check_some_allowed(self, params: SamplingParams, bad_phrases: TokenPhrases) -> None:
        if params.allowed_token_ids is None:
            return
        banned = {phrase[0] for phrase in bad_phrases if len(phrase) == 1}
        if params.min_tokens:
            banned |= self._eos_token_ids.union(params.stop_token_ids or ())
        if banned.issuperset(params.allowed_token_ids):
            raise RequestError(
                "allowed_token_ids leaves nothing to draw: bad_words and min_tokens ban all of them",
                param="allowed_token_ids",
            )

    def _max_tokens(self, prompt_tokens: int, max_tokens: int | None) -> int:
        room = self._max_context - prompt_tokens
        if room < 1:
            raise ContextTooLong(
                f"the prompt has {prompt_tokens:,} tokens and the context is {self._max_context:,}; shorten the prompt",
                param="prompt",
            )
        if max_tokens is None:
            return room
        if max_tokens > room:
            raise ContextTooLong(
                f"the prompt's {prompt_tokens:,} tokens and max_tokens {max_tokens:,} exceed the context of"
                f" {self._max_context:,}; lower max_tokens to {room:,} or less, or shorten the prompt",
                param="max_tokens",
            )
        return max_tokens
