"""The backend as an object: settings, threads, forks, and refusal of whatever could leave its memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ops_cases import batch_on, dense, floats, make_batch, qkv_width, rope_table, same_bits

from headrace import _core  # noqa: TID251
from headrace.batch import SamplingBatch
from headrace.config import EngineConfig
from headrace.errors import ConfigError
from headrace.formats.codecs import CODECS
from headrace.formats.tensor import Tensor
from headrace.ops.base import HeadLayout
from headrace.ops.cpu import CpuOps, instruction_sets
from headrace.ops.cpu.self_test import self_test
from headrace.ops.kinds import Activation, NormKind
from headrace.ops.reference import ReferenceOps
from headrace.ops.select import select_ops

LAYOUT = HeadLayout(4, 2, 16)


@pytest.mark.parametrize("name", instruction_sets())
def test_self_test_passes(name: str) -> None:
    results = self_test(CpuOps(1, name))
    assert len(results) >= 14
    assert [result for result in results if not result[2]] == []


def test_self_test_finds_a_wrong_operation() -> None:
    class Wrong(ReferenceOps):
        def softcap(self, x: Any, cap: float) -> Any:
            return super().softcap(x, cap) * np.float32(1.01)

    assert [name for name, _, ok in self_test(Wrong()) if not ok] == ["softcap"]


def test_instruction_set_by_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert instruction_sets()[-1] == "baseline"
    assert CpuOps(1).instruction_set == instruction_sets()[0]
    monkeypatch.setenv("HEADRACE_CPU", "baseline")
    chosen = select_ops(EngineConfig(threads=3))
    assert isinstance(chosen, CpuOps)
    assert (chosen.instruction_set, chosen.threads, chosen.name) == ("baseline", 3, "cpu")
    monkeypatch.setenv("HEADRACE_CPU", "avx9")
    with pytest.raises(ConfigError, match=r"'avx9', expected one that this machine has: .*baseline"):
        select_ops(EngineConfig())
    assert isinstance(select_ops(EngineConfig(backend="reference")), ReferenceOps)


def test_threads_are_the_cores_of_this_process() -> None:
    assert CpuOps().threads == len(os.sched_getaffinity(0))


def test_two_backends_from_many_python_threads() -> None:
    backends = [CpuOps(2), CpuOps(3)]
    x, w = floats(1, 64, 256), floats(2, 512, 256)
    expected = backends[0].linear(x, dense(backends[0], w))
    wrong: list[int] = []

    def work(index: int) -> None:
        ops = backends[index % 2]
        weight = dense(ops, w)
        for _ in range(20):
            if not same_bits(ops.linear(x, weight), expected):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_alone() -> None:
    ops = CpuOps(3)
    x, weight = floats(1, 64, 256), dense(ops, floats(2, 512, 256))
    expected = ops.linear(x, weight)
    child = os.fork()
    if child == 0:
        code = 0 if same_bits(ops.linear(x, weight), expected) else 1
        del ops
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _ids(*values: int) -> Any:
    return np.array(values, np.int32)


def _batch_errors() -> dict[str, Any]:
    good = batch_on([(3, 5)], np.array([[0, 1]], np.int32))
    return {
        "positions must be": replace(good, positions=_ids(3)),
        "positions must not be negative": replace(good, positions=_ids(-1, 0)),
        "positions must rise": replace(good, positions=_ids(3, 5)),
        "behind its sequence's block table": replace(good, positions=_ids(31, 32)),
        "query_start must rise": replace(good, query_start=_ids(0, 1)),
        "query_start must rise from": replace(good, query_start=_ids(0, 3, 2), block_tables=np.zeros((2, 2), np.int32)),
        "block_tables must be": replace(good, query_start=_ids(0, 1, 2)),
        "a block id is outside": replace(good, block_tables=np.array([[4, 0]], np.int32)),
        "a block id is": replace(good, block_tables=np.array([[-1, 0]], np.int32)),
    }


@pytest.mark.parametrize("message", list(_batch_errors()))
def test_batches_that_would_leave_the_cache(ops: CpuOps, message: str) -> None:
    batch = _batch_errors()[message]
    cache = ops.new_kv_cache(1, 4, 16, LAYOUT)
    with pytest.raises(ValueError, match=message):
        ops.attention(floats(1, 2, 64), cache, 0, batch, LAYOUT, 1.0, None, None)
    with pytest.raises(ValueError, match=message):
        ops.rope_write(floats(1, 2, qkv_width(LAYOUT)), cache, 0, batch, LAYOUT, None, None)


def test_rope_rows_behind_the_table(ops: CpuOps) -> None:
    batch, cache = make_batch([(0, 9)], 16), ops.new_kv_cache(1, 4, 16, LAYOUT)
    with pytest.raises(ValueError, match="rope row"):
        ops.rope_write(floats(1, 9, qkv_width(LAYOUT)), cache, 0, batch, LAYOUT, rope_table(8, 8), None)
    with pytest.raises(ValueError, match="half a head"):
        ops.rope_write(floats(1, 9, qkv_width(LAYOUT)), cache, 0, batch, LAYOUT, rope_table(80, 9), None)


def _wrong_calls(ops: CpuOps) -> list[tuple[type[Exception], Callable[[], Any]]]:
    x, ones, weight = floats(1, 4, 32), np.ones(32, np.float32), dense(ops, floats(2, 8, 32))
    cache, batch = ops.new_kv_cache(1, 4, 16, LAYOUT), make_batch([(0, 4)], 16)
    sample = lambda **fields: lambda: ops.sample(x, SamplingBatch.of(4, **fields))  # noqa: E731
    return [
        (TypeError, lambda: ops.linear(x.astype(np.float64), weight)),
        (TypeError, lambda: ops.linear(x[:, ::2], weight)),
        (TypeError, lambda: ops.linear(x[0], weight)),
        (TypeError, lambda: ops.embed(weight, np.zeros(2, np.int64))),
        (TypeError, lambda: ops.linear(None, weight)),  # type: ignore[arg-type]
        (ValueError, lambda: ops.linear(x[:, :16].copy(), weight)),
        (ValueError, lambda: ops.linear(x, weight, ones)),
        (ValueError, lambda: ops.linear(x, weight, None, 1.0, x)),
        (ValueError, lambda: ops.embed(weight, _ids(8))),
        (ValueError, lambda: ops.embed(weight, _ids(-1))),
        (ValueError, lambda: ops.norm(x, ones[:5], None, NormKind.RMS, 1e-5)),
        (ValueError, lambda: ops.norm(x, ones, None, "l2", 1e-5)),  # type: ignore[arg-type]
        (ValueError, lambda: ops.activate(x, "swish", False)),  # type: ignore[arg-type]
        (ValueError, lambda: ops.activate(x[:, :31].copy(), Activation.SILU, True)),
        (ValueError, lambda: ops.softcap(x, 0.0)),
        (IndexError, lambda: ops.select(x, _ids(4))),
        (ValueError, lambda: ops.attention(floats(1, 4, 64), cache, 1, batch, LAYOUT, 1.0, None, None)),
        (ValueError, lambda: ops.attention(floats(1, 4, 48), cache, 0, batch, HeadLayout(3, 2, 16), 1.0, None, None)),
        (ValueError, lambda: ops.rope_write(floats(1, 4, 64), cache, 0, batch, LAYOUT, None, None)),
        (ValueError, lambda: ops.new_kv_cache(1, 4, 24, LAYOUT)),
        (ValueError, lambda: ops.pack([Tensor("a", CODECS["q8_0"], (1, 33), np.zeros((1, 34), np.uint8))])),
        (ValueError, lambda: ops.pack([Tensor("a", CODECS["q8_0"], (1, 32), np.zeros((1, 33), np.uint8))])),
        (ValueError, lambda: _core.Weight(32).add_rows("q9", np.zeros((1, 34), np.uint8))),
        (ValueError, lambda: _core.Backend(0, "baseline", False)),
        (ValueError, lambda: _core.Backend(1, "avx9", False)),
        (ValueError, lambda: ops.linear(x, ops.pack_table(Tensor.from_array("w", x)))),
        (ValueError, lambda: ops.sample(x, SamplingBatch.of(3))),
        (ValueError, sample(history=_ids(32), history_end=1)),
        (ValueError, sample(history=_ids(3), history_end=2)),
        (ValueError, sample(history=_ids(3), history_start=1, history_end=0)),
        (ValueError, sample(history=_ids(3), history_end=1, output_start=2)),
        (ValueError, sample(bias_ids=_ids(-2), bias_values=ones[:1], bias_end=1)),
        (ValueError, sample(bias_ids=_ids(2), bias_values=ones[:1], bias_end=2)),
        (ValueError, sample(phrase_ids=_ids(32), phrase_start=_ids(0, 1))),
        (ValueError, sample(phrase_ids=_ids(3), phrase_start=_ids(0, 0, 1))),
        (ValueError, sample(phrase_ids=_ids(3), phrase_start=_ids(0, 1), ban_end=2)),
        (ValueError, sample(phrase_ids=_ids(3), phrase_start=_ids(0, 1), breaker_start=-1)),
        (ValueError, sample(masks=np.zeros((1, 2), np.uint32))),
        (ValueError, sample(mask=0)),
        (ValueError, sample(token_sets=np.zeros((1, 1), np.uint32), allowed_set=1)),
        (ValueError, sample(breaker_set=-2)),
        (ValueError, lambda: ops.logprobs(x, _ids(0, 0, 0, 32), 2)),
    ]


def test_wrong_arguments_raise_and_never_crash(ops: CpuOps) -> None:
    for error, call in _wrong_calls(ops):
        with pytest.raises(error):
            call()


def test_nothing_to_do(ops: CpuOps) -> None:
    none, weight = np.zeros((0, 32), np.float32), dense(ops, floats(2, 8, 32))
    assert ops.linear(none, weight).shape == (0, 8)
    assert ops.embed(weight, _ids()).shape == (0, 32)
    assert ops.sample(none, SamplingBatch.of(0)).shape == (0,)
    batch = batch_on([(0, 0)], np.zeros((1, 1), np.int32))
    cache = ops.new_kv_cache(1, 4, 16, LAYOUT)
    assert ops.attention(np.zeros((0, 64), np.float32), cache, 0, batch, LAYOUT, 1.0, None, None).shape == (0, 64)
