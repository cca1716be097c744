"""Rope tables against transformers' own modules, far out, and growth that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import SWITCH, VARIANTS, reference

from headrace.hub.files import ModelFiles
from headrace.model.loader import read_spec
from headrace.model.rope import CHUNK, RopeTables
from headrace.ops.reference import ReferenceOps

Tiny = Callable[[str], Path]
FAR = np.array([0, 1, SWITCH - 1, SWITCH, 4095, 65_537, 131_071])
ROTARY = [name for name in VARIANTS if not name.startswith(("gpt2", "opt"))]


def tables_of(folder: Path) -> tuple[Any, RopeTables]:
    spec = read_spec(ModelFiles("tiny", folder=folder))
    tables = RopeTables(spec, ReferenceOps())
    tables.grow(int(FAR.max() + 1) * spec.num_rope_variants)
    return spec, tables


@pytest.mark.parametrize("name", ROTARY)
def test_tables_are_those_of_transformers(name: str, tiny: Tiny) -> None:
    import torch

    spec, tables = tables_of(tiny(name))
    model = reference(tiny(name))
    module = next(module for key, module in model.named_modules() if key.endswith("rotary_emb"))
    kinds = ["full_attention", "sliding_attention"] if len(spec.ropes) == 2 else [None]
    for table, kind in zip(tables.tables, kinds, strict=True):
        options = {} if kind is None else {"layer_type": kind}
        for variant in range(spec.num_rope_variants):
            positions = FAR if variant or spec.rope_switch is None else FAR[FAR < SWITCH]
            cos, sin = module(torch.zeros(1), torch.tensor(positions)[None], **options)
            rows = positions * spec.num_rope_variants + variant
            half = table.cos.shape[1]
            # an angle of 131,071 in float32 is a multiple of 2 ** -7; one frequency that is rounded the other way
            # moves it by that much, so all but a few have to agree to the last digits
            for ours, theirs in ((table.cos[rows], cos), (table.sin[rows], sin)):
                difference = np.abs(ours - theirs[0, :, :half].numpy())
                assert difference.max() < 2e-2
                assert (difference > 1e-6).mean() < 0.02


def test_growth_changes_no_row(tiny: Tiny) -> None:
    spec = read_spec(ModelFiles("tiny", folder=tiny("phi3-longrope")))
    slow, fast = RopeTables(spec, ReferenceOps()), RopeTables(spec, ReferenceOps())
    for rows in (1, 2 * CHUNK, 2 * CHUNK + 1, 9 * CHUNK):
        slow.grow(rows)
        assert slow.num_rows >= rows
        assert len(slow.tables[0].cos) == slow.num_rows
    fast.grow(slow.num_rows)
    np.testing.assert_array_equal(slow.tables[0].cos, fast.tables[0].cos)
    np.testing.assert_array_equal(slow.tables[0].sin, fast.tables[0].sin)
