"""Every family against transformers: logits, greedy tokens, chunks, quantisation at load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_sequence import OneSequence
from tiny_encoders import ENCODERS
from tiny_models import SWITCH, VARIANTS, WINDOW, prompt, reference, reference_logits

from headrace.batch import Batch
from headrace.formats.tensor import Tensor
from headrace.hub.files import ModelFiles
from headrace.model.decoder import Decoder
from headrace.model.loader import families, load_decoder, read_spec
from headrace.model.spec import NormPlacement
from headrace.model.weights import pack_weights

Tiny = Callable[[str], Path]
TOLERANCE = 1e-3
"""Transformers keeps float32 keys and values, the cache float16 ones."""
EXACT_TOLERANCE = 1e-5
"""With float32 keys and values only the order of summation differs."""


def decoder_of(folder: Path, ops: Any, **options: Any) -> Any:
    return load_decoder(ModelFiles("tiny", folder=folder), ops, **options)


def batch_of(decoder: Any, plan: list[tuple[list[int], int, int, list[int], int]]) -> Batch:
    """A step of several sequences: token ids, first and last position, block table, rope variant; last rows' logits."""
    positions = [np.arange(start, end, dtype=np.int32) for _, start, end, _, _ in plan]
    query_start = np.cumsum([0, *map(len, positions)]).astype(np.int32)
    rope_rows = [decoder.rope_rows(at, variant) for at, (*_, variant) in zip(positions, plan, strict=True)]
    return Batch(
        token_ids=np.array([token for ids, start, end, _, _ in plan for token in ids[start:end]], np.int32),
        positions=np.concatenate(positions),
        rope_rows=np.concatenate(rope_rows),
        query_start=query_start,
        block_tables=np.array([table for _, _, _, table, _ in plan], np.int32),
        logit_rows=query_start[1:] - 1,
    )


def test_every_family_is_tested() -> None:
    import transformers

    variants = [*VARIANTS.values(), *ENCODERS.values()]
    tested = {getattr(transformers, variant.config).model_type for variant in variants}
    assert tested == {name for family in families() for name in family.model_types}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_arithmetic_is_that_of_transformers(name: str, tiny: Tiny, exact_ops: Any) -> None:
    model, decoder = reference(tiny(name)), decoder_of(tiny(name), exact_ops)
    for length in (1, 3 * WINDOW + 5, SWITCH + 3):
        token_ids = prompt(length, seed=length)
        logits = OneSequence(decoder).feed(token_ids)
        np.testing.assert_allclose(logits, reference_logits(model, token_ids), atol=EXACT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_greedy_tokens_are_those_of_transformers(name: str, tiny: Tiny, ops: Any) -> None:
    model, decoder = reference(tiny(name)), decoder_of(tiny(name), ops)
    for length in (7, 3 * WINDOW + 5):
        token_ids = prompt(length, seed=length)
        logits = OneSequence(decoder).feed(token_ids)
        np.testing.assert_allclose(logits, reference_logits(model, token_ids), atol=TOLERANCE, rtol=0)
    start = prompt(5)
    output = OneSequence(decoder).greedy(start, 64)
    expected = reference_logits(model, start + output)
    if switch := decoder.spec.rope_switch:  # up to there, sequences are rotated by the short factors
        expected[:switch] = reference_logits(model, (start + output)[:switch])
    assert output == expected[len(start) - 1 : -1].argmax(axis=1).tolist()
    assert len(set(output)) > 1


@pytest.mark.parametrize("name", VARIANTS)
def test_chunks_equal_the_whole(name: str, tiny: Tiny, exact_ops: Any) -> None:
    decoder = decoder_of(tiny(name), exact_ops)
    token_ids = prompt(SWITCH + 9)
    whole = OneSequence(decoder).feed(token_ids)
    for chunk in (1, 16, 21):
        np.testing.assert_allclose(OneSequence(decoder).feed(token_ids, chunk), whole, atol=EXACT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["phi3-longrope", "gemma3", "mixtral", "gpt2"])
def test_sequences_in_one_batch_do_not_touch_each_other(name: str, tiny: Tiny, exact_ops: Any) -> None:
    decoder = decoder_of(tiny(name), exact_ops)
    long, short = prompt(SWITCH + 20, seed=1), prompt(9, seed=2)
    alone = [OneSequence(decoder).feed(token_ids)[-1] for token_ids in (long, short)]
    cache = decoder.new_cache(6, 16)
    long_table, short_table = [5, 0, 3, 2], [4, 0, 0, 0]
    variant = int(decoder.spec.rope_switch is not None)  # the first sequence is past the switch, the second is not
    first = batch_of(decoder, [(long, 0, SWITCH, long_table, variant), (short, 0, 8, short_table, 0)])
    decoder.forward(first, cache)
    second = batch_of(decoder, [(short, 8, 9, short_table, 0), (long, SWITCH, len(long), long_table, variant)])
    logits = decoder.forward(second, cache)
    np.testing.assert_allclose(logits, [alone[1], alone[0]], atol=EXACT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["phi3-longrope", "phi4-partial"])
def test_longrope_on_both_sides_of_the_switch(name: str, tiny: Tiny, exact_ops: Any) -> None:
    model, decoder = reference(tiny(name)), decoder_of(tiny(name), exact_ops)
    assert decoder.spec.rope_switch == SWITCH
    token_ids = prompt(SWITCH + 1)
    for length in (SWITCH, SWITCH + 1):
        logits = OneSequence(decoder).feed(token_ids[:length])
        np.testing.assert_allclose(logits, reference_logits(model, token_ids[:length]), atol=EXACT_TOLERANCE, rtol=0)
    short = OneSequence(decoder).feed(token_ids[:SWITCH])
    assert np.abs(short - reference_logits(model, token_ids)[:-1]).max() > 0.01, "the switch should show"


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3-moe", "gemma3"])
def test_quantised_at_load(name: str, tiny: Tiny, ops: Any) -> None:
    folder = tiny(name)
    plain = OneSequence(decoder_of(folder, ops)).feed(prompt(9))
    errors = []
    for quantize in ("q8", "q4"):
        decoder = decoder_of(folder, ops, quantize=quantize)
        assert decoder.weights.kept == ()
        assert decoder.formats.startswith("q4_0" if quantize == "q4" else "q8_0")
        assert decoder.weights.embed.format == "q8_0"
        errors.append(np.abs(OneSequence(decoder).feed(prompt(9)) - plain).max())
    assert 0 < errors[0] < 0.2
    assert errors[0] < errors[1] < 3


def test_spec_is_read_without_weights(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny("llama") / "config.json").read_text())
    spec = read_spec(ModelFiles("tiny", folder=tmp_path))
    assert (spec.family, spec.num_layers, spec.hidden_size, spec.max_context) == ("Llama", 3, 64, 256)


@pytest.mark.parametrize("model", ["babyllama-1m", "stories260k"])
def test_golden_greedy_ids(model: str, shared: Path, ops: Any) -> None:
    import json

    folder = shared / "models" / model
    golden = json.loads((folder / "golden.json").read_text())
    first, *expected = golden["greedy_ids_from_bos"]
    assert OneSequence(decoder_of(folder, ops)).greedy([first], len(expected)) == expected


@pytest.mark.parametrize("placement", [NormPlacement.PRE, NormPlacement.SANDWICH])
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_kinds_combine(name: str, placement: NormPlacement, tiny: Tiny, exact_ops: Any) -> None:
    """No family scales the residuals of a mixture of experts, or norms what it gives; the decoder can all the same."""
    files = ModelFiles("tiny", folder=tiny(name))
    spec = replace(read_spec(files), norm_placement=placement)
    rng = np.random.default_rng(3)
    weights = {
        key: (0.1 * rng.standard_normal(shape)).astype(np.float32) for key, shape in spec.expected_weights().items()
    }
    last = ("o.weight", "down.weight") if placement is NormPlacement.PRE else ("post_norm.weight",)
    halved = {key: values * (0.5 if key.endswith(last) else 1) for key, values in weights.items()}
    logits = []
    for values, scale in ((weights, 0.5), (halved, 1.0)):
        parts = {key: Tensor.from_array(key, value) for key, value in values.items()}
        scaled = replace(spec, residual_scale=scale)
        decoder = Decoder(scaled, pack_weights(scaled, parts, exact_ops, None), exact_ops)
        logits.append(OneSequence(decoder).feed(prompt(9)))
    same = placement is NormPlacement.PRE  # a norm afterwards takes the scale out again
    assert np.allclose(*logits, atol=EXACT_TOLERANCE) == same
