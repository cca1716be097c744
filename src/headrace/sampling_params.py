"""What a request asks of the sampler: names, defaults, ranges and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from headrace.errors import RequestError
from headrace.structured_output import StructuredOutput

ALL_LOGPROBS = 2**31 - 1
"""As a number of log-probabilities: of the whole vocabulary, however large it is"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """What a request asks of the sampler. Names, defaults and meaning are vLLM's, or llama.cpp's where vLLM has none.

    A token is found in this order:

    1. bans: allowed_token_ids (and a grammar), logit_bias, min_tokens, bad_words, no_repeat_ngram_size;
    2. penalties: repetition, frequency and presence, DRY;
    3. temperature, fixed or dynamic; 0 takes the most likely token, and the steps behind it do nothing;
    4. filters, each on what the one before it leaves: top_n_sigma, min_p, top_k, typical_p, top_p, XTC — or mirostat;
    5. one draw keyed by (seed, output position).

    This is vLLM's order, with what only llama.cpp has in llama.cpp's place among it. llama.cpp itself has min_p behind
    top_p and the temperature last: with a temperature above 1 its filters keep fewer tokens than these.

    Raises:
        RequestError: a value is out of range; `param` names it.
    """

    n: int = 1
    """Number of independent completions; completion i draws with (seed, i)."""
    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    dynatemp_range: float = 0.0
    """Dynamic temperature: from temperature less this to temperature plus this (never below 0), the higher the more
    uncertain the model is; 0 is off."""
    dynatemp_exponent: float = 1.0
    """The share of that way is this power of the entropy's share of the largest entropy possible."""
    top_n_sigma: float = 0.0
    """Keep tokens whose logit is at most n standard deviations of all logits below the highest; 0 (or -1) keeps all."""
    min_p: float = 0.0
    """Keep tokens at least min_p times as likely as the most likely one."""
    top_k: int = 0
    """Keep only the k most likely tokens; 0 (or -1) keeps all."""
    typical_p: float = 1.0
    """Keep the tokens whose surprise is nearest to the entropy, until their probabilities reach p (arXiv:2202.00666,
    locally typical sampling)."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probabilities reach p."""
    xtc_probability: float = 0.0
    """How often XTC, "exclude top choices", does what it says; 0 is off."""
    xtc_threshold: float = 0.1
    """XTC: of the tokens at least this likely only the least likely one stays. Above 0.5 there is no second one."""
    mirostat: int = 0
    """2: hold the surprise of the output at mirostat_tau bits a token (Mirostat 2.0, arXiv:2007.14966), in place of all
    other filters; 0 is off. Mirostat 1 is not implemented."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    """How quickly mirostat follows."""
    repetition_penalty: float = 1.0
    """Divides positive (multiplies negative) logits of every token in the prompt or output."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token in the output."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time that it stands in the output."""
    penalty_last_n: int = -1
    """How many of the last tokens of prompt and output the three penalties see; -1 is all, 0 none (llama.cpp's
    repeat_last_n). Not beside DRY, no_repeat_ngram_size and bad_words, which see all."""
    dry_multiplier: float = 0.0
    """DRY, "don't repeat yourself": a token that would continue a repetition of n tokens loses
    dry_multiplier * dry_base ** (n - dry_allowed_length) of its logit; 0 is off."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    """Repetitions of fewer tokens cost nothing."""
    dry_penalty_last_n: int = -1
    """How many of the last tokens of prompt and output DRY looks at; -1 is all, 0 none."""
    dry_sequence_breakers: Sequence[str] = ("\n", ":", '"', "*")
    """DRY sees no repetition over tokens that hold one of these strings, or over the tokens that spell it."""
    no_repeat_ngram_size: int = 0
    """No n tokens in a row stand twice in prompt and output; 0 is off."""
    bad_words: Sequence[str] | None = None
    """Texts that are not to appear: the last token of each is banned behind its other tokens. Each is banned as the
    tokenizer writes it alone and behind a space; other ways to spell it from tokens are not."""
    allowed_token_ids: Sequence[int] | None = None
    """The only tokens that may be drawn, together with what a grammar allows (which decides where nothing is left)."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of the given token ids; -100 or less bans in practice."""
    beam_width: int | None = None
    """Search for the likeliest completions with this many beams instead of drawing; the n best of them come out.

    Goes with n, the lengths, end and stop tokens and log-probabilities; what changes the distribution is refused."""
    length_penalty: float = 1.0
    """Beams are compared by their log-probability divided by length ** length_penalty: above 0 favours long ones."""
    early_stopping: bool | str = False
    """When beam_width completions have ended: True stops at once, False when none seems to get better, "never" when
    none can. These three mean what they mean in transformers."""
    seed: int | None = None
    """Same seed, same text. None (or -1) draws one when the request is made."""
    stop: str | Sequence[str] | None = None
    """Strings that end the output; not part of the text unless include_stop_str_in_output."""
    stop_token_ids: Sequence[int] | None = None
    """Token ids that end the output, besides the model's end-of-sequence tokens."""
    min_tokens: int = 0
    """End-of-sequence and stop token ids are banned before this many output tokens, and stop strings not looked for."""
    max_tokens: int | None = 16
    """At most this many output tokens; None is up to the end of the context."""
    ignore_eos: bool = False
    """Go on after the model's end-of-sequence tokens."""
    logprobs: int | None = None
    """For each output position, this many most likely tokens besides the chosen one; -1 is the whole vocabulary."""
    prompt_logprobs: int | None = None
    """The same for each prompt position (the first has none)."""
    logprob_token_ids: Sequence[int] | None = None
    """For each output position, these tokens besides the chosen one, instead of the most likely ones; up to 1,024."""
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    """Leave special tokens (such as end-of-turn marks) out of the text."""
    thinking_token_budget: int | None = None
    """Most tokens of the thought that comes before an answer to a chat; then it is closed. None (or -1): no bound."""
    structured: StructuredOutput | None = None
    """The form that the output has, complete when it ends: a JSON Schema, a regular expression, a grammar …"""

    def __post_init__(self) -> None:
        for name, kind in _LISTS.items():
            values = getattr(self, name)
            if isinstance(values, tuple) or (
                values is None and name == "allowed_token_ids"
            ):  # where () is something else
                continue
            values = (values,) if isinstance(values, str) and name == "stop" else () if values is None else values
            if not isinstance(values, Iterable) or isinstance(values, str | bytes):
                raise RequestError(f"{name} is {values!r}, expected a list of {kind}", param=name)
            object.__setattr__(self, name, tuple(values))  # frozen
        for name, value in _FOR_MINUS_ONE.items():
            if getattr(self, name) == -1:
                object.__setattr__(self, name, value)
        if self.logprob_token_ids and self.logprobs is None:
            object.__setattr__(self, "logprobs", 0)
        check_sampling_params(self)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop`, normalised."""
        assert isinstance(self.stop, tuple)
        return self.stop


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchParams:
    """What `LLM.beam_search` takes, by vLLM's names. A search draws nothing, so a temperature has nothing to do."""

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    """Not vLLM's"""
    include_stop_str_in_output: bool = False


_LISTS = {
    "stop": "strings",
    "bad_words": "strings",
    "dry_sequence_breakers": "strings",
    "stop_token_ids": "token ids",
    "allowed_token_ids": "token ids",
    "logprob_token_ids": "token ids",
}
_MOST_LOGPROB_IDS = 1024
MOST_STOPS = 256
"""Stop strings of a request"""
_MOST_STRINGS = {"stop": (MOST_STOPS, 4096), "bad_words": (1024, 16_384), "dry_sequence_breakers": (1024, 16_384)}
"""How many, and their characters together. Stop strings are looked for in every token's text; all tokens of the others
are found before the request is queued."""
_FOR_MINUS_ONE: Mapping[str, float | None] = {
    "top_k": 0,
    "top_n_sigma": 0.0,
    "seed": None,
    "logprobs": ALL_LOGPROBS,
    "prompt_logprobs": ALL_LOGPROBS,
}
_RANGES: tuple[tuple[str, float, float, str], ...] = (
    ("n", 1, 1024, "from 1 to 1,024"),
    ("temperature", 0.0, 1e6, "from 0 (greedy) to 1,000,000"),
    ("dynatemp_range", 0.0, 1e6, "from 0 (off) to 1,000,000"),
    ("dynatemp_exponent", 0.0, 1e6, "from 0 to 1,000,000"),
    ("top_n_sigma", 0.0, 1e6, "0 (off), -1 (off) or a number of standard deviations"),
    ("min_p", 0.0, 1.0, "from 0 to 1"),
    ("beam_width", 1, 256, "from 1 to 256"),
    ("length_penalty", -10.0, 10.0, "from -10 to 10"),
    ("top_k", 0, 2**31 - 1, "0 (off), -1 (off) or a count"),
    ("typical_p", 1e-9, 1.0, "above 0 and at most 1"),
    ("top_p", 1e-9, 1.0, "above 0 and at most 1"),
    ("xtc_probability", 0.0, 1.0, "from 0 (off) to 1"),
    ("xtc_threshold", 0.0, 1.0, "from 0 to 1"),
    ("mirostat", 0, 2, "0 (off) or 2"),
    ("mirostat_tau", 0.0, 1e6, "from 0 to 1,000,000"),
    ("mirostat_eta", 0.0, 1e6, "from 0 to 1,000,000"),
    ("dry_multiplier", 0.0, 1e6, "from 0 (off) to 1,000,000"),
    ("dry_base", 1.0, 1e6, "from 1 to 1,000,000"),
    ("dry_allowed_length", 1, 2**31 - 1, "1 or more"),
    ("penalty_last_n", -1, 2**31 - 1, "-1 (all), 0 (none) or a count"),
    ("dry_penalty_last_n", -1, 2**31 - 1, "-1 (all), 0 (off) or a count"),
    ("no_repeat_ngram_size", 0, 2**31 - 1, "0 (off) or more"),
    ("repetition_penalty", 1e-6, 1e6, "above 0 and at most 1,000,000"),
    ("presence_penalty", -2.0, 2.0, "from -2 to 2"),
    ("frequency_penalty", -2.0, 2.0, "from -2 to 2"),
    ("seed", -(2**63), 2**64 - 1, "a 64-bit integer"),
    ("min_tokens", 0, 2**31 - 1, "0 or more"),
    ("thinking_token_budget", 0, 2**31 - 1, "0 or more, or -1 (no bound)"),
    ("max_tokens", 1, 2**31 - 1, "1 or more"),
    ("logprobs", 0, ALL_LOGPROBS, "-1 (all) or a count"),
    ("prompt_logprobs", 0, ALL_LOGPROBS, "-1 (all) or a count"),
)
_INTEGERS = {
    *(
        "n",
        "beam_width",
        "thinking_token_budget",
        "top_k",
        "seed",
        "min_tokens",
        "max_tokens",
        "logprobs",
        "prompt_logprobs",
    ),
    *("mirostat", "penalty_last_n", "dry_allowed_length", "dry_penalty_last_n", "no_repeat_ngram_size"),
}
_DEFAULTS: Mapping[str, object] = {field.name: field.default for field in fields(SamplingParams)}
_FLAGS = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")
_OPTIONAL = {"beam_width", "thinking_token_budget", "seed", "max_tokens", "logprobs", "prompt_logprobs"}


def check_sampling_params(params: SamplingParams) -> None:
    """Raise RequestError for the first value that has the wrong type or is out of range; numpy's become Python's."""
    for name, low, high, expected in _RANGES:
        value = getattr(params, name)
        if value is _DEFAULTS[name] or (value is None and name in _OPTIONAL):
            continue
        if isinstance(value, np.generic):
            value = value.item()
            object.__setattr__(params, name, value)
        kind = int if name in _INTEGERS else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise RequestError(f"{name} is {value!r}, expected {expected}", param=name)
    for name in _FLAGS:
        if not isinstance(getattr(params, name), bool):
            raise RequestError(f"{name} is {getattr(params, name)!r}, expected True or False", param=name)
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise RequestError(
            f"min_tokens is {params.min_tokens}, above max_tokens {params.max_tokens}", param="min_tokens"
        )
    _check_window(params)
    if params.mirostat == 1:
        raise RequestError("mirostat is 1, which is not implemented; use 2 (Mirostat 2.0)", param="mirostat")
    _check_collections(params)
    _check_structured(params)
    _check_beams(params)


def _check_window(params: SamplingParams) -> None:
    if params.penalty_last_n == -1:
        return
    for name in ("dry_multiplier", "no_repeat_ngram_size", "bad_words"):
        if getattr(params, name):
            raise RequestError(
                f"penalty_last_n is {params.penalty_last_n} beside {name}, which sees the whole text; leave one out",
                param="penalty_last_n",
            )


def _check_collections(params: SamplingParams) -> None:
    for name in _MOST_STRINGS:
        strings = getattr(params, name)
        if not strings:
            continue
        _check_number(name, strings)
        for string in strings:
            if not isinstance(string, str) or not string:
                raise RequestError(f"{name} has {string!r}, expected non-empty strings", param=name)
    if params.allowed_token_ids == ():
        raise RequestError("allowed_token_ids is empty: no token could be drawn", param="allowed_token_ids")
    if not isinstance(params.logit_bias, Mapping | None):
        raise RequestError("logit_bias is no mapping, expected token ids to numbers", param="logit_bias")
    if (count := len(params.logprob_token_ids or ())) > _MOST_LOGPROB_IDS:
        raise RequestError(
            f"logprob_token_ids has {count:,} ids, expected at most {_MOST_LOGPROB_IDS:,}; logprobs=-1 gives all",
            param="logprob_token_ids",
        )
    for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids", "logit_bias"):
        for token_id in getattr(params, name) or ():
            if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
                raise RequestError(f"{name} has {token_id!r}, expected token ids", param=name)
    for token_id, bias in (params.logit_bias or {}).items():
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -1e6 <= bias <= 1e6:
            raise RequestError(f"logit_bias for token {token_id} is {bias!r}, expected a number", param="logit_bias")


def _check_number(name: str, strings: Sequence[str]) -> None:
    most, most_characters = _MOST_STRINGS[name]
    length = sum(len(string) for string in strings if isinstance(string, str))
    if len(strings) > most or length > most_characters:
        raise RequestError(
            f"{name} has {len(strings):,} strings of {length:,} characters in all, expected at most {most:,} of"
            f" {most_characters:,}",
            param=name,
        )


def _check_structured(params: SamplingParams) -> None:
    if params.structured is None:
        return
    if not isinstance(params.structured, StructuredOutput):
        raise RequestError(
            f"structured is of type {type(params.structured).__name__}, expected a StructuredOutput", param="structured"
        )
    for name in ("min_tokens", "ignore_eos", "stop_token_ids"):
        if getattr(params, name):
            raise RequestError(
                f"{name} and structured output exclude each other: the structure says where the output ends;"
                f" leave {name} out",
                param=name,
            )


_WITH_BEAMS = {
    *("n", "beam_width", "length_penalty", "early_stopping", "seed", "stop_token_ids", "min_tokens", "max_tokens"),
    *("ignore_eos", "logprobs", "prompt_logprobs", "include_stop_str_in_output", "skip_special_tokens"),
}
"""What a beam search takes; a seed changes nothing, since nothing is drawn."""


def _check_beams(params: SamplingParams) -> None:
    if not (isinstance(params.early_stopping, bool) or params.early_stopping == "never"):
        raise RequestError(
            f'early_stopping is {params.early_stopping!r}, expected True, False or "never"', param="early_stopping"
        )
    if params.beam_width is None:
        for name, neutral in (("length_penalty", 1.0), ("early_stopping", False)):
            if getattr(params, name) != neutral:
                raise RequestError(f"{name} is for beam search only; leave it out", param=name)
        return
    if params.n > params.beam_width:
        raise RequestError(
            f"n is {params.n}, above beam_width {params.beam_width}: a search has as many results as beams", param="n"
        )
    for each in fields(params):
        if each.name in _WITH_BEAMS or (each.name == "temperature" and params.temperature in (0, 1)):
            continue
        value = getattr(params, each.name)
        if value != each.default and value not in ((), {}):
            raise RequestError(f"{each.name} cannot be used with beam search; leave it out", param=each.name)
