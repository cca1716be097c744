"""bench/outlier_model.py changes what is hard for a quantiser, and nothing of what the model computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from one_sequence import OneSequence
from tiny_gguf import write_gguf
from tiny_models import make_tiny, prompt

from headrace.formats.gguf import GGUFFile
from headrace.hub.resolve import resolve_model
from headrace.model.loader import load_decoder
from headrace.ops.reference import ReferenceOps

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "outlier_model.py"


def test_the_model_computes_the_same(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    plain = write_gguf(make_tiny("llama", tmp_path / "folder"), tmp_path / "plain.gguf")
    harder = tmp_path / "harder.gguf"
    command = [sys.executable, str(SCRIPT), str(plain), str(harder), "--channels", "3", "--factor", "64"]
    subprocess.run(command, check=True)
    logits = [
        OneSequence(load_decoder(resolve_model(path), ReferenceOps())).feed(prompt(20)) for path in (plain, harder)
    ]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)
    norms = [GGUFFile(path).tensors["blk.1.ffn_norm.weight"].decode() for path in (plain, harder)]
    assert np.count_nonzero(norms[1] == 64 * norms[0]) == 3
    assert np.count_nonzero(norms[1] == norms[0]) == norms[0].size - 3
