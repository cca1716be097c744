"""Grammar libraries on the official test suite of JSON Schema: what they take, what they get wrong, how long it takes.

    python bench/structured.py SUITE.tar.gz VOCABULARY.gguf --engines headrace llguidance xgrammar --json out.json

Each schema of a draft is compiled, and each instance of its tests written as `json.dumps` does, in the model's tokens;
before each token the mask is computed. An invalid instance that goes through is a wrong accept. A valid one that does
not, with its properties in any order, is a wrong reject. Times are of the processor. xgrammar needs torch and
transformers beside it.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice, permutations, product
from pathlib import Path
from typing import Any

import numpy as np

from headrace.errors import RequestError
from headrace.formats.gguf import GGUFFile
from headrace.structured_output import StructuredOutput
from headrace.text import gguf_vocab
from headrace.text.grammar.compiler import Grammars
from headrace.text.grammar.constraint import GrammarConstraint
from headrace.text.grammar.specification import grammar_text
from headrace.text.grammar.vocabulary import GrammarVocabulary
from headrace.text.tokenizer import Tokenizer

MOST_ORDERS = 60


class Refused(Exception):
    """A schema that an engine does not take."""


@dataclass
class Result:
    """One engine's figures."""

    schemas: int = 0
    compiled: int = 0
    valid: int = 0
    invalid: int = 0
    wrong_accepts: list[str] = field(default_factory=list)
    wrong_rejects: list[str] = field(default_factory=list)
    compile_ms: list[float] = field(default_factory=list)
    mask_us: list[float] = field(default_factory=list)

    def summary(self, name: str) -> str:
        """A row of a Markdown table."""
        compile_ms, mask_us = np.array(self.compile_ms), np.array(self.mask_us)
        return (
            f"| {name} | {self.compiled} of {self.schemas} | {len(self.wrong_accepts)} of {self.invalid}"
            f" | {len(self.wrong_rejects)} of {self.valid}"
            f" | {np.median(compile_ms):.2f} / {compile_ms.max():.0f}"
            f" | {np.median(mask_us):.0f} / {np.percentile(mask_us, 99):.0f} / {mask_us.max():.0f} |"
        )


Matcher = Callable[[Sequence[int]], tuple[bool, list[float]]]
"""Token ids → whether they satisfy the grammar as a whole, and the seconds that each mask took"""
Engine = Callable[[Any], Matcher]
"""A schema → a matcher; raises Refused"""


def headrace_engine(tokenizer: Tokenizer, size: int) -> Engine:
    """What requests go through: the schema is checked first."""
    grammars = Grammars(lambda: GrammarVocabulary(tokenizer, size, tokenizer.eos_token_ids))
    _ = grammars.vocabulary

    def compile_schema(schema: Any) -> Matcher:
        try:
            grammar = grammars.compile(grammar_text(StructuredOutput(json=json.dumps(schema))))
        except RequestError as error:
            raise Refused(str(error)) from error

        def match(token_ids: Sequence[int]) -> tuple[bool, list[float]]:
            constraint, mask, spent = GrammarConstraint(grammar), np.empty(-(-size // 32), np.uint32), []
            for token_id in token_ids:
                mask.fill(0xFFFFFFFF)
                started = time.process_time()
                constraint.fill(mask)
                spent.append(time.process_time() - started)
                constraint._forced = [[]]  # any tokens that spell the text will do here
                if not constraint.push(token_id):
                    return False, spent
            return constraint._tokens.is_accepting(), spent

        return match

    return compile_schema


def llguidance_engine(tokenizer: Tokenizer, size: int) -> Engine:
    """The library with its own reading of schemas."""
    from llguidance import LLMatcher

    tokens = GrammarVocabulary(tokenizer, size, tokenizer.eos_token_ids).tokens

    def compile_schema(schema: Any) -> Matcher:
        try:
            template = LLMatcher(tokens, LLMatcher.grammar_from_json_schema(schema), log_level=0)
        except (ValueError, TypeError) as error:
            raise Refused(str(error)) from error
        if template.is_error():
            raise Refused(template.get_error())

        def match(token_ids: Sequence[int]) -> tuple[bool, list[float]]:
            matcher, spent = template.deep_copy(), []
            mask = np.empty(-(-tokens.vocab_size // 32), np.uint32)
            for token_id in token_ids:
                started = time.process_time()
                matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
                spent.append(time.process_time() - started)
                if matcher.try_consume_tokens([token_id]) != 1:
                    return False, spent
            return matcher.is_accepting(), spent

        return match

    return compile_schema


def xgrammar_engine(tokenizer: Tokenizer, size: int) -> Engine:
    """The library with its own reading of schemas; objects may have more properties than are named, as in the spec."""
    import xgrammar  # type: ignore[import-not-found]

    vocabulary = [tokenizer.token_bytes(token_id) for token_id in range(size)]
    info = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=sorted(tokenizer.eos_token_ids))
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile_schema(schema: Any) -> Matcher:
        try:
            compiled = compiler.compile_json_schema(json.dumps(schema), strict_mode=False)
        except Exception as error:
            raise Refused(str(error)) from error

        def match(token_ids: Sequence[int]) -> tuple[bool, list[float]]:
            matcher, spent = xgrammar.GrammarMatcher(compiled), []
            mask = xgrammar.allocate_token_bitmask(1, size)
            for token_id in token_ids:
                started = time.process_time()
                matcher.fill_next_token_bitmask(mask)
                spent.append(time.process_time() - started)
                if not matcher.accept_token(token_id):
                    return False, spent
            return matcher.is_completed(), spent

        return match

    return compile_schema


ENGINES = {"headrace": headrace_engine, "llguidance": llguidance_engine, "xgrammar": xgrammar_engine}


def measure(engine: Engine, cases: Sequence[tuple[str, dict[str, Any]]], tokenizer: Tokenizer) -> Result:
    """All cases on one engine."""
    result = Result()
    for file, case in cases:
        result.schemas += 1
        started = time.process_time()
        try:
            matcher = engine(case["schema"])
        except Refused:
            continue
        finally:
            result.compile_ms.append(1000 * (time.process_time() - started))
        result.compiled += 1
        for test in case["tests"]:
            taken = False
            for instance in islice(in_every_order(test["data"]), MOST_ORDERS):
                try:
                    text = json.dumps(instance, ensure_ascii=False)
                    taken, spent = matcher(tokenizer.encode(text, add_special_tokens=False))
                except RequestError:  # a lone surrogate
                    continue
                result.mask_us.extend(1e6 * each for each in spent)
                if taken:
                    break
            result.valid += test["valid"]
            result.invalid += not test["valid"]
            if taken != test["valid"]:
                line = f"{file}: {case['description']}: {test['description']}"
                (result.wrong_rejects if test["valid"] else result.wrong_accepts).append(line)
    return result


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["person", "robot", "cat"]},
        "notes": {"type": "array", "items": {"type": "string", "minLength": 3}},
        "friend": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
    },
    "required": ["name", "age", "kind", "notes", "friend"],
    "additionalProperties": False,
}
SENTENCE = "A quiet neighbour who repairs old clocks, and who knows every bridge of the town by its sound."
PERSON = {"name": "Ada M. Byron", "age": 36, "kind": "person", "notes": [SENTENCE, SENTENCE]}
VALUE = {**PERSON, "friend": {**PERSON, "kind": "robot", "friend": None}}


def per_token(tokenizer: Tokenizer) -> str:
    """What one sequence costs beside the model, in microseconds for a token: masks, and going on with endings."""
    size = tokenizer.vocab_size
    grammars = Grammars(lambda: GrammarVocabulary(tokenizer, size, tokenizer.eos_token_ids))
    grammar = grammars.compile(grammar_text(StructuredOutput(json=SCHEMA)))
    token_ids = tokenizer.encode(json.dumps(VALUE), add_special_tokens=False)
    fills, takes = [], []
    for _ in range(5):
        constraint, mask, taken = GrammarConstraint(grammar), np.empty(-(-size // 32), np.uint32), 0
        while not constraint.is_closed:
            mask.fill(0xFFFFFFFF)
            started = time.process_time()
            forced = constraint.forced(64)
            constraint.fill(mask)
            filled = time.process_time()
            token_id = forced[0] if forced else token_ids[taken] if taken < len(token_ids) else 0
            constraint.take(token_id, 4096 - taken)
            takes.append(1e6 * (time.process_time() - filled))
            fills.append(1e6 * (filled - started))
            taken += 1
    shown = (f"{np.mean(each):.0f} (99 %: {np.percentile(each, 99):.0f})" for each in (fills, takes))
    return f"one sequence of {taken} tokens: mask {' µs, take '.join(shown)} µs for a token"


def in_every_order(value: Any) -> Iterator[Any]:
    """A value with the members of its objects in every order, as given first."""
    yield value
    if isinstance(value, dict):
        for items in islice(permutations(value.items()), 24):
            choices = [list(islice(in_every_order(each), 6)) for _, each in items]
            for values in islice(product(*choices), 24):
                yield dict(zip([name for name, _ in items], values, strict=True))
    elif isinstance(value, list):
        for values in islice(product(*[list(islice(in_every_order(each), 6)) for each in value]), 24):
            yield list(values)


def suite_cases(archive: Path, draft: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The cases of one draft with their file."""
    with tarfile.open(archive) as suite:
        for member in suite.getmembers():
            if f"/tests/{draft}/" in member.name and member.name.endswith(".json"):
                file = suite.extractfile(member)
                assert file is not None
                for case in json.load(file):
                    yield member.name.partition("/tests/")[2], case


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("vocabulary", type=Path, help="a .gguf file")
    parser.add_argument("--draft", default="draft2020-12")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["headrace", "llguidance"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gguf = GGUFFile(options.vocabulary)
    vocabulary = gguf_vocab.load(gguf.metadata, options.vocabulary)
    assert vocabulary is not None
    tokenizer = Tokenizer(vocabulary)
    print(per_token(tokenizer))
    cases = list(suite_cases(options.suite, options.draft))
    results = {}
    print(f"{options.draft}, {tokenizer.vocab_size:,} tokens")
    print(
        "| | schemas taken | wrong accepts | wrong rejects | compile ms, median / max | mask µs, median / 99 % / max |"
    )
    print("|---|---|---|---|---|---|")
    for name in options.engines:
        results[name] = measure(ENGINES[name](tokenizer, tokenizer.vocab_size), cases, tokenizer)
        print(results[name].summary(name), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({name: asdict(result) for name, result in results.items()}, indent=1))


if __name__ == "__main__":
    main()
