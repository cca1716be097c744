"""Parameters of /v1/completions alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from features.asking import Asking
from features.catalogue import COMPLETIONS, Parameter, refused, works


def _prompt(ask: Asking) -> None:
    tokenizer = ask.llm.tokenizer
    assert tokenizer is not None
    ids = [tokenizer.encode(text) for text in ("Once upon a time", "One day")]
    texts = ask.texts(prompt=["Once upon a time", "One day"])
    assert len(set(texts)) == 2
    assert texts == ask.texts(prompt=ids) == [ask.text(prompt=ids[0]), ask.text(prompt="One day")]


def _echo(ask: Asking) -> None:
    assert ask.text(echo=True) == ask.base["prompt"] + ask.text()


def _logprobs(ask: Asking) -> None:
    choice = ask.choice(logprobs=3)
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert all(len(top) == 3 for top in logprobs["top_logprobs"])
    assert logprobs["token_logprobs"] == [max(top.values()) for top in logprobs["top_logprobs"]]  # greedy
    assert ask.choice()["logprobs"] is None


def _best_of(ask: Asking) -> None:
    assert ask.texts(use_beam_search=True, best_of=4, n=2) == ask.texts(use_beam_search=True, n=4)[:2]
    assert ask.text(best_of=1) == ask.text()
    ask.refusal("best_of", best_of=2)
    ask.refusal("best_of", best_of=2, n=3, use_beam_search=True)


PARAMETERS: Sequence[Parameter] = tuple(
    replace(one, endpoints=(COMPLETIONS,))
    for one in (
        works("prompt", _prompt, "text, token ids, or a list of either"),
        works("echo", _echo, "the text begins with the prompt; with max_tokens=0 it is scored alone"),
        works("logprobs", _logprobs, "tokens, their log-probabilities, the likeliest ones, and offsets in the text"),
        works("best_of", _best_of, "with use_beam_search the beams, of which the n best come; else only equal to n"),
        refused("suffix", "x", why="for models with tokens to fill in the middle with"),
        refused("prompt_embeds", "AAAA", why="the engine takes token ids", source="vLLM"),
    )
)
