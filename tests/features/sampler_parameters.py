"""What steers the sampler beyond temperature and the usual filters; names are llama.cpp's where vLLM has none."""

from __future__ import annotations

import re
from collections.abc import Sequence

from features.asking import Asking
from features.catalogue import Parameter, refused, works
from features.shared_parameters import TOKEN, WANDERING, only_likeliest, tokens

FORCED = {"logit_bias": {str(TOKEN): 50}}
"""A token that comes again and again unless something weighs more."""

EVERYTHING = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}


def _bad_words(ask: Asking) -> None:
    word = max(re.findall(r"\w+", ask.text()), key=len)
    assert word not in ask.text(bad_words=[word])


def _allowed(ask: Asking) -> None:
    assert set(tokens(ask, allowed_token_ids=[TOKEN])) == {ask.llm.tokenizer.token_text(TOKEN)}  # type: ignore[union-attr]
    ask.refusal("allowed_token_ids", allowed_token_ids=[])


def _no_repeat(ask: Asking) -> None:
    assert len(set(tokens(ask, max_tokens=40, no_repeat_ngram_size=1))) == 40
    assert len(set(tokens(ask, max_tokens=40))) < 40


def _one_text(ask: Asking, **fields: object) -> str:
    """What every seed gives."""
    [text] = {ask.text(seed=seed, **{**WANDERING, **fields}) for seed in range(4)}
    return text


def _xtc(ask: Asking) -> None:
    assert _one_text(ask, top_k=2, xtc_probability=1, xtc_threshold=0) != ask.text(temperature=0)


def _xtc_threshold(ask: Asking) -> None:
    fields = {"seed": 1, "temperature": 1, "xtc_probability": 1}
    assert ask.text(xtc_threshold=0.6, **fields) == ask.text(seed=1, temperature=1)
    assert ask.text(xtc_threshold=0.01, **fields) != ask.text(seed=1, temperature=1)


def _repeats(ask: Asking, **fields: object) -> bool:
    """Whether DRY lets a forced token stand."""
    return len(set(tokens(ask, **{"dry_multiplier": 1000, "dry_allowed_length": 1, **FORCED, **fields}))) == 1


def _seen_without(ask: Asking, **blind: object) -> None:
    """With `blind` DRY does not see the repetition that it sees without."""
    assert _repeats(ask, **blind)
    assert not _repeats(ask)


def _breakers(ask: Asking) -> None:
    assert _repeats(ask, dry_sequence_breakers=[ask.llm.tokenizer.token_text(TOKEN)])  # type: ignore[union-attr]
    assert not _repeats(ask, dry_sequence_breakers=[])


def _dry_base(ask: Asking) -> None:
    assert _repeats(ask, dry_multiplier=1, dry_base=1)
    assert not _repeats(ask, dry_multiplier=1, dry_base=1000)


def _mirostat_tau(ask: Asking) -> None:
    only_likeliest(ask, mirostat=2, mirostat_tau=0)
    assert ask.text(mirostat=2, mirostat_tau=100, top_k=1, seed=1, temperature=1) == ask.text(seed=1, **EVERYTHING)


def _mirostat(ask: Asking) -> None:
    _mirostat_tau(ask)
    ask.refusal("mirostat", mirostat=1)


def _mirostat_eta(ask: Asking) -> None:
    still, quick = (
        ask.text(mirostat=2, mirostat_tau=2, mirostat_eta=eta, seed=1, max_tokens=60, **WANDERING) for eta in (0, 1)
    )
    assert still != quick


def _dynatemp(ask: Asking) -> None:
    warm = ask.text(temperature=0.5, dynatemp_range=0.5, dynatemp_exponent=0, seed=1)
    assert warm == ask.text(temperature=1, seed=1)


def _dynatemp_exponent(ask: Asking) -> None:
    only_likeliest(ask, temperature=1, dynatemp_range=1, dynatemp_exponent=1e6)


def _repeat_penalty(ask: Asking) -> None:
    assert tokens(ask, repeat_penalty=1e6) == tokens(ask, repetition_penalty=1e6) != tokens(ask)
    assert ask.text(repeat_penalty=2, repetition_penalty=2) == ask.text(repetition_penalty=2)
    ask.refusal("repeat_penalty", repeat_penalty=2, repetition_penalty=3)
    ask.refusal("repeat_penalty", repeat_penalty=0)


def _repeat_last_n(ask: Asking) -> None:
    plain = tokens(ask, max_tokens=40, repetition_penalty=1)
    strong = {"max_tokens": 40, "repeat_penalty": 1e6}
    assert tokens(ask, repeat_last_n=0, **strong) == plain
    assert len(set(tokens(ask, repeat_last_n=-1, **strong))) == 40
    forced = tokens(ask, repeat_last_n=1, **strong, **FORCED)
    assert forced[::2] == [ask.llm.tokenizer.token_text(TOKEN)] * 20  # type: ignore[union-attr]
    ask.refusal("repeat_last_n", repeat_last_n=-2)
    ask.refusal("repeat_last_n", repeat_last_n=64, dry_multiplier=1)


def _typ_p(ask: Asking) -> None:
    fields = {"seed": 1, "temperature": 1}
    assert ask.text(typ_p=0.3, **fields) == ask.text(typical_p=0.3, **fields) != ask.text(**fields)


PARAMETERS: Sequence[Parameter] = (
    works("allowed_token_ids", _allowed, "only these are drawn; none at all is a 400", source="vLLM"),
    works("bad_words", _bad_words, "a word of the answer is not in it any more", source="vLLM"),
    works("no_repeat_ngram_size", _no_repeat, "1: no token comes twice", source="transformers"),
    works(
        "typical_p", lambda ask: bool(_one_text(ask, typical_p=1e-6)), "next to 0 one token is left", source="llama.cpp"
    ),
    works(
        "top_n_sigma",
        lambda ask: only_likeliest(ask, top_n_sigma=1e-6),
        "next to 0 only the likeliest token is left",
        source="llama.cpp",
    ),
    works("xtc_probability", _xtc, "1: never the likelier of two tokens", source="llama.cpp"),
    works("xtc_threshold", _xtc_threshold, "above 0.5 nothing is excluded", source="llama.cpp"),
    works(
        "dry_multiplier",
        lambda ask: _seen_without(ask, dry_multiplier=0),
        "a token that is forced by its bias repeats without, and not with it",
        source="llama.cpp",
    ),
    works(
        "dry_base", _dry_base, "1: repetitions of any length cost the same; 1000: much more each", source="llama.cpp"
    ),
    works(
        "dry_allowed_length",
        lambda ask: _seen_without(ask, dry_allowed_length=30),
        "repetitions that are shorter than this cost nothing",
        source="llama.cpp",
    ),
    works(
        "dry_penalty_last_n",
        lambda ask: _seen_without(ask, dry_penalty_last_n=1),
        "with only one token to look at nothing repeats",
        source="llama.cpp",
    ),
    works("dry_sequence_breakers", _breakers, "over a breaker no repetition is seen", source="llama.cpp"),
    works("mirostat", _mirostat, "2: in place of the filters; 1 is a 400", source="llama.cpp"),
    works("mirostat_tau", _mirostat_tau, "0: only the likeliest token; 100: all tokens", source="llama.cpp"),
    works("mirostat_eta", _mirostat_eta, "0: the limit stays; 1: it follows", source="llama.cpp"),
    works("dynatemp_range", _dynatemp, "with the exponent 0 it is added to the temperature", source="llama.cpp"),
    works("dynatemp_exponent", _dynatemp_exponent, "very large: the lowest temperature", source="llama.cpp"),
    works("repeat_penalty", _repeat_penalty, "repetition_penalty, by its other name", source="llama.cpp"),
    works("repeat_last_n", _repeat_last_n, "0: the penalties see nothing; 1: one token", source="llama.cpp"),
    works("typ_p", _typ_p, "typical_p, by its other name", source="llama.cpp"),
    refused("samplers", ["top_k", "temperature"], why="the filters' order is the engine's own", source="llama.cpp"),
    refused("min_keep", 5, why="filters keep one token at least", source="llama.cpp"),
    refused("n_probs", 3, why="logprobs and top_logprobs say the same", source="llama.cpp"),
    refused("post_sampling_probs", True, why="probabilities are those before any filter", source="llama.cpp"),
    refused("backend_sampling", True, why="sampling has one place", source="llama.cpp"),
)
