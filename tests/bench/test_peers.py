"""What the runner beside other engines makes of its samples: which count, ratios, limits, the file and the table."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from peers import processes
from peers.engines import ENGINES, Bench, LlamaCpp, context_of
from peers.install import NotInstalled, Peers
from peers.models import forms, path_of, weight_bytes
from peers.picture import draw
from peers.processes import Failed, Process
from peers.results import Entry, Run, Sample, finalists, unsteady_samples, valid_samples
from peers.table import counting, markdown, number, rows_of
from peers.workloads import WORKLOADS, Cost, Kind, Shape, Workload, cost_of, least_memory, quick, target_of
from random_model import SHAPES, write_file, write_folder

from headrace import LLM, EngineConfig
from headrace.formats.codecs import CODECS, F16, Q4_0

LIMITS = {"read_bandwidth": 20e9, "peak_flops": 200e9, "peak_int8": 800e9}
OURS = Entry("headrace", "Q4_0", 4)
OFF, ON = (Entry("llama.cpp", "Q4_0", 4, f"-fa {n}") for n in (0, 1))
FLOAT = Entry("transformers", "folder", 16, "float32")
BY_NAME = {workload.name: workload for workload in WORKLOADS}
MODEL = "qwen3-0.6b"


def sample(
    entry: Entry, value: float | None, round_number: int = 0, workload: str = "decode 128", **more: object
) -> Sample:
    fields = {"weight_bytes": 350_000_000, "limits": (LIMITS, LIMITS), "error": "" if value else "broke", **more}
    return Sample(round_number, MODEL, workload, entry, value, **fields)  # type: ignore[arg-type]


def run_of(*samples: Sample) -> Run:
    return Run({"machine": {}}, {}, list(samples))


def test_a_row_compares_medians_with_the_best_peer() -> None:
    ours = [sample(OURS, value, n) for n, value in enumerate((40.0, 50.0, 42.0))]
    off = [sample(OFF, value, n) for n, value in enumerate((20.0, 21.0, 30.0))]
    on = [sample(ON, value, n) for n, value in enumerate((19.0, 25.0, 20.0))]
    [row] = rows_of(run_of(*ours, *off, *on))
    assert (row.ours, row.best, row.best_entry, row.num_samples) == (42.0, 21.0, OFF, 3)
    assert row.ratio == 2.0
    assert row.bound == "bandwidth"
    shape = SHAPES[MODEL]
    cached = (128 + 32) * shape["num_hidden_layers"] * 2 * 8 * 128 * 2
    assert row.percent == pytest.approx(100 * 42 * (350e6 + cached) / 20e9)
    assert row.is_reached is False  # 1.8 × is reached, 80 % is not
    assert dataclasses.replace(row, percent=81.0).is_reached
    assert dataclasses.replace(row, best=None, best_entry=None).is_reached is None


def test_peers_with_wider_weights_count_against_narrower_ones() -> None:
    rows = rows_of(run_of(sample(OURS, 40.0), sample(ON, 10.0), sample(FLOAT, 30.0)))
    assert [(row.bits, row.best_entry) for row in rows] == [(4, FLOAT)]
    eight = Entry("headrace", "Q8_0", 8)
    rows = rows_of(run_of(sample(eight, 40.0), sample(ON, 30.0)))
    assert [(row.bits, row.best) for row in rows] == [(8, None)]  # a 4-bit peer is no rival of 8-bit weights


def test_for_time_and_memory_less_is_better() -> None:
    ours, peer = (sample(entry, value, workload="peak memory") for entry, value in ((OURS, 300.0), (ON, 600.0)))
    [row] = rows_of(run_of(ours, peer, sample(OFF, 700.0, workload="peak memory")))
    assert (row.best, row.ratio, row.is_reached, row.percent) == (600.0, 0.5, True, None)
    assert dataclasses.replace(row, ours=601.0).is_reached is False


def test_an_entry_with_a_single_lucky_sample_is_not_the_best() -> None:
    on = [sample(ON, 20.0, n) for n in range(5)]
    [row] = rows_of(run_of(sample(OURS, 40.0), *on, sample(OFF, 22.0)))
    assert row.best_entry == ON


def test_samples_beside_a_slow_machine_are_marked_and_replaced() -> None:
    slow = {**LIMITS, "peak_flops": 0.69 * LIMITS["peak_flops"]}
    marked = sample(OURS, 10.0, 0, limits=(LIMITS, slow))
    others = [sample(ON, 20.0, n) for n in range(4)]
    run = run_of(marked, *others)
    assert unsteady_samples(run.samples) == [marked]
    assert marked in valid_samples(run.samples)  # there is nothing better
    assert not run.is_done(MODEL, "decode 128", OURS, 0)
    again = sample(OURS, 40.0, 0)
    run.samples.append(again)
    assert run.is_done(MODEL, "decode 128", OURS, 0)
    assert not run.is_done(MODEL, "decode 128", OURS, 1)
    assert again in valid_samples(run.samples)
    assert marked not in valid_samples(run.samples)


def test_impossible_figures_are_left_out_and_named() -> None:
    possible, impossible = sample(ON, 55.0), sample(OFF, 80.0)  # 350 MB and the cache at 80/s are 29 GB/s, of 20
    run = run_of(sample(OURS, 40.0), possible, impossible)
    assert counting(run)[1] == [impossible]
    assert rows_of(run)[0].best == 55.0
    assert "llama.cpp Q4_0 -fa 0, qwen3-0.6b, decode 128: 80 is beyond the machine's limits" in markdown(run)
    batch = sample(Entry("openvino", "int4", 4), 4229.0, workload="32 sequences")
    assert counting(run_of(batch))[1] == [batch]  # a known error: tokens of a batch counted twice


def test_a_peak_that_was_not_measured_is_float32s() -> None:
    limits = {name: LIMITS[name] for name in ("read_bandwidth", "peak_flops")}
    [row] = rows_of(run_of(sample(OURS, 100.0, workload="prefill 512", limits=(limits, limits))))
    assert row.bound == "arithmetic"
    assert row.percent == pytest.approx(100 * 100 * 2 * 440.4e6 / 200e9, rel=0.1)


def test_failures_are_named_and_not_counted() -> None:
    run = run_of(sample(OURS, 40.0), sample(ON, None, error="killed"))
    run.missing["vllm"] = "left out by --peers"
    text = markdown(run)
    assert "- vllm: left out by --peers" in text
    assert "- llama.cpp Q4_0 -fa 1, qwen3-0.6b, decode 128 gave no figure: killed" in text
    assert "| – |" in text
    assert run.is_done(MODEL, "decode 128", ON, 0)  # tried; `--resume` drops it and tries again


def test_a_run_is_stored_and_read(tmp_path: Path) -> None:
    run = run_of(sample(OURS, 40.0, details={"load_seconds": 1.5}), sample(ON, None))
    run.save(tmp_path / "run.json")
    assert Run.load(tmp_path / "run.json") == run
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_finalists_are_within_reach_of_the_best_of_their_side() -> None:
    entries = [OURS, ON, OFF, FLOAT]
    found = [sample(OURS, 5.0), sample(ON, 100.0), sample(OFF, 61.0), sample(FLOAT, 59.0)]
    kept = finalists(found, MODEL, BY_NAME["decode 128"], entries)
    assert kept == [OURS, ON, OFF, FLOAT]  # the float one is the best of those with 8 bits and more
    narrow = dataclasses.replace(BY_NAME["decode 128"], bits=(4,))
    assert finalists(found, MODEL, narrow, entries) == [OURS, ON, OFF]
    memory = dataclasses.replace(BY_NAME["peak memory"], bits=(4,))
    sizes = [dataclasses.replace(one, workload="peak memory") for one in found]
    assert finalists(sizes, MODEL, memory, entries) == [OURS, OFF, FLOAT]


def test_costs_count_weights_cache_and_attention() -> None:
    shape = Shape(layer_parameters=1000, head_parameters=100, num_layers=2, heads_size=8, kv_size=4)
    decode = Workload("d", Kind.DECODE, context=10, tokens=4, batch=2)
    assert cost_of(decode, shape, 500, 6.0) == Cost(3 * (500 + 2 * 12 * 2 * 2 * 4 * 2), 6 * (2 * 1100 + 4 * 2 * 8 * 12))
    prefill = Workload("p", Kind.PREFILL, context=4)
    assert cost_of(prefill, shape, 500, 8.0) == Cost(2 * 500, 2 * (2 * (4 * 1000 + 100) + 4 * 2 * 8 * 10))
    assert cost_of(Workload("s", Kind.START), shape, 500, 8.0) is None
    assert Cost(10, 400).percent(20, 500) == 80
    assert Cost(10, 400).bound(20, 500) == "arithmetic"
    assert least_memory(decode, shape, 2**20) == 1 + 150e6 / 2**20 + 14 * 2 * 2 * 4 * 2 / 2**20


def test_every_row_has_a_target_and_every_engine_its_entries() -> None:
    for workload in WORKLOADS:
        for model in workload.models:
            assert all(target_of(workload, model, bits).ratio > 0 for bits in workload.bits)
            entries = [entry for engine in ENGINES for entry in engine().entries(model, workload)]
            assert any(entry.engine == "headrace" for entry in entries)
            assert all(entry.form in forms(model) for entry in entries)
        assert quick(workload).context <= max(workload.context, 8)
        assert context_of(workload) > workload.context + workload.tokens
    assert len(BY_NAME) == len(WORKLOADS)
    assert not any("," in name for name in BY_NAME)  # --workloads separates them with commas


def test_table_and_picture(tmp_path: Path) -> None:
    run = run_of(sample(OURS, 40.0), sample(ON, 20.0), sample(OURS, 300.0, workload="peak memory"))
    run.samples.append(sample(ON, 600.0, workload="peak memory"))
    lines = markdown(run).splitlines()
    assert lines[2].startswith("| decode 128 | qwen3-0.6b | 4-bit | 40 tokens/s (Q4_0) | 20 (llama.cpp Q4_0 -fa 1) | 2")
    assert len({line.count("|") for line in lines}) == 1
    pytest.importorskip("matplotlib")
    draw(rows_of(run), tmp_path / "run.svg", "a machine")
    assert "the best peer" in (tmp_path / "run.svg").read_text() or (tmp_path / "run.svg").stat().st_size > 5000
    assert [number(value) for value in (0.01234, 12.34, 1234.5)] == ["0.0123", "12.3", "1,234"]


def test_what_is_not_installed_is_said(tmp_path: Path) -> None:
    peers = Peers(tmp_path)
    with pytest.raises(NotInstalled, match="openvino is not installed"):
        peers.python("openvino")
    with pytest.raises(NotInstalled, match="llama-bench is missing"):
        LlamaCpp().measure(Bench(peers, 1, 1.0, 1), ON, MODEL, BY_NAME["decode 128"])


def start(tmp_path: Path, program: str) -> Process:
    return Process([sys.executable, "-c", program], {}, tmp_path / "errors.txt")


def test_a_process_is_asked_paused_and_measured(tmp_path: Path) -> None:
    program = """
import sys
x = bytearray(50_000_000)
for line in sys.stdin:
    print("noise")
    print(line, end="", flush=True)
"""
    process = start(tmp_path, program)
    try:
        answer, seconds = process.ask({"n": 1}, 20)
        process.pause()
        assert (answer, process.ask({"n": 2}, 20)[0]) == ({"n": 1}, {"n": 2})
        assert seconds > 0
        assert process.peak_memory > 50_000_000
        assert process.is_alive
    finally:
        process.close()
    assert not process.is_alive


def test_a_process_that_breaks_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_POLL_SECONDS", 0.01)
    broken = start(tmp_path, "raise SystemExit('no such model')")
    with pytest.raises(Failed, match="ended without an answer: no such model"):
        broken.next_object(20)
    broken.close()
    silent = start(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(Failed, match="gave no answer within 0 s"):
        silent.next_object(0.1)
    silent.close()


TINY = {
    "model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 4500,
    "rope_theta": 1e4, "tie_word_embeddings": False, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_random_models_load_in_both_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(SHAPES, "tiny", {**TINY, "model_type": kind})
    file, folder = tmp_path / "models" / "tiny-Q4_0.gguf", path_of(tmp_path, "tiny", "folder")
    folder.parent.mkdir()
    write_folder("tiny", folder)
    write_file("tiny", file, Q4_0)
    write_file("tiny", tmp_path / "tiny-f16.gguf", F16)
    parameters = Shape.of(SHAPES["tiny"])
    used = parameters.layer_parameters + parameters.head_parameters
    assert weight_bytes(file) == pytest.approx(CODECS["q4_0"].row_bytes(used), rel=0.02)
    for path in (file, folder, tmp_path / "tiny-f16.gguf"):
        with LLM(path, EngineConfig(threads=1)) as llm:
            assert llm.spec.vocab_size == 4500
            assert len(llm.generate(["def main():"])[0].outputs[0].token_ids) >= 1
    assert sorted(one.name for one in (tmp_path / "models").iterdir()) == ["tiny", "tiny-Q4_0.gguf"]
