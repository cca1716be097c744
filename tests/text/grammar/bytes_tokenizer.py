"""A tokenizer with one token for each byte, for grammars without a model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import tokenizers

from headrace.text.byte_level import character_to_byte
from headrace.text.grammar.compiler import Grammar, Grammars
from headrace.text.grammar.vocabulary import GrammarVocabulary
from headrace.text.tokenizer import Tokenizer
from headrace.text.vocabulary import Vocabulary

END = 256


def bytes_tokenizer(*more: str) -> Tokenizer:
    """Token i is byte i; then the end of the output, then texts of several bytes (special ones where they begin <|)."""
    characters = {byte: character for character, byte in character_to_byte().items()}
    vocabulary = {characters[byte]: byte for byte in range(256)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    for text in more:
        (backend.add_special_tokens if text.startswith("<|") else backend.add_tokens)([text])
    return Tokenizer(Vocabulary(backend, eos_token_ids=frozenset({END})))


def new_grammars(*more: str, vocab_size: int | None = None) -> Grammars:
    tokenizer = bytes_tokenizer(*more)
    size = 257 + len(more) if vocab_size is None else vocab_size
    return Grammars(lambda: GrammarVocabulary(tokenizer, size, tokenizer.eos_token_ids))


def accepts(grammar: Grammar, text: str | bytes) -> bool:
    """Whether the whole text, and not only its beginning, satisfies a grammar."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    matcher = grammar.spelling.deep_copy()
    return matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting()


def accepts_value(grammar: Grammar, value: Any) -> bool:
    """Whether a JSON value does, with the members of its objects in some order."""
    return any(
        accepts(grammar, json.dumps(each, ensure_ascii=False)) for each in itertools.islice(_in_every_order(value), 100)
    )


def _in_every_order(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for items in itertools.islice(itertools.permutations(value.items()), 24):
            choices = [list(itertools.islice(_in_every_order(each), 6)) for _, each in items]
            for values in itertools.islice(itertools.product(*choices), 24):
                yield dict(zip([name for name, _ in items], values, strict=True))
    elif isinstance(value, list):
        choices = [list(itertools.islice(_in_every_order(each), 6)) for each in value]
        for values in itertools.islice(itertools.product(*choices), 24):
            yield list(values)
