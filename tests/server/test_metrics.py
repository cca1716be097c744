"""Latencies, with a clock of our own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_llm import FakeLLM
from prometheus_client.parser import text_string_to_metric_families

from headrace.engine.stats import STEP_BOUNDS, EngineStats, counting_on
from headrace.sampling_params import SamplingParams
from headrace.server import engine_metrics
from headrace.server import metrics as module
from headrace.server.histograms import one_two_five
from headrace.server.metrics import Metrics
from headrace.server.record import RequestRecord
from headrace.supervise.lives import Restarts
from headrace.types import Chunk, FinishReason, Times


def values(metrics: Metrics) -> dict[str, float]:
    """Sums and counts by name, and the finished by reason."""
    text = metrics.render().decode()
    samples = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    return {sample.labels.get("finished_reason", sample.name): sample.value for sample in samples}


def record(arrival: float) -> RequestRecord:
    return RequestRecord(id="r", method="POST", path="/", headers={}, arrival=arrival)


def test_latencies_of_two_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.5, 11.0, 13.0, 17.0, 18.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    metrics = Metrics("m", FakeLLM(max_context=100))
    stopwatch = metrics.stopwatch(record(10.0), SamplingParams(n=2, max_tokens=9), 5)
    assert stopwatch.times == Times(10.0, 10.5)
    stopwatch.begin(0.25, 2)
    stopwatch.take([Chunk(0, "a", [1]), Chunk(1, "b", [1])])
    stopwatch.take([Chunk(0, "a", [1])])
    stopwatch.take([Chunk(0, "aa", [1, 1], finish_reason=FinishReason.STOP)])
    stopwatch.take([Chunk(1, "", [])])
    assert stopwatch.times == Times(10.0, 10.5, 11.0, 17.0)
    stopwatch.close()
    stopwatch.close()
    found = values(metrics)
    assert found["vllm:time_to_first_token_seconds_sum"] == 2.0
    assert found["vllm:inter_token_latency_seconds_sum"] == found["vllm:time_per_output_token_seconds_sum"] == 6.0
    assert found["vllm:inter_token_latency_seconds_count"] == 3
    assert found["vllm:request_time_per_output_token_seconds_sum"] == 2.0
    assert found["vllm:e2e_request_latency_seconds_sum"] == 7.0
    assert found["vllm:request_generation_tokens_sum"] == 4
    assert found["vllm:request_prompt_tokens_sum"] == 5
    assert (found["stop"], found["abort"], found["length"]) == (1, 1, 0)
    assert found["vllm:request_queue_time_seconds_sum"] == 0.25
    assert found["vllm:request_prefill_time_seconds_sum"] == 0.25  # submitted at 10.5, waited to 10.75, token at 11
    assert found["vllm:request_decode_time_seconds_sum"] == 6.0
    assert found["vllm:request_inference_time_seconds_sum"] == 6.25
    assert found["vllm:request_prefill_kv_computed_tokens_sum"] == 3
    assert found["vllm:request_max_num_generation_tokens_sum"] == 4
    assert found["vllm:request_params_n_sum"] == 2
    assert found["vllm:request_params_max_tokens_sum"] == 9


def test_a_request_that_never_began_counts_once() -> None:
    metrics = Metrics("m", FakeLLM(max_context=100))
    metrics.stopwatch(record(0.0), SamplingParams(), 1).close()
    assert values(metrics)["abort"] == 1


def test_the_engine_s_lives_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = FakeLLM()
    metrics = Metrics("m", llm)
    found = values(metrics)
    assert found["vllm:engine_healthy"] == 1
    assert found["headrace:engine_restarts_total"] == 0
    assert "headrace:engine_restart_to_next_token_seconds" not in found
    llm.trouble, llm.restarts = "it died", Restarts(2, "it died", 0.5)
    stats = replace(llm.stats(), num_waiting=3, step_tokens=7, step_sizes=(1, 0, 2) + (0,) * (len(STEP_BOUNDS) - 2))
    monkeypatch.setattr(llm, "stats", lambda: stats)
    found = values(metrics)
    assert found["vllm:engine_healthy"] == 0
    assert found["headrace:engine_restarts_total"] == 2
    assert found["headrace:engine_restart_to_next_token_seconds"] == 0.5
    assert found["vllm:num_requests_waiting"] == 3
    assert (found["vllm:iteration_tokens_total_count"], found["vllm:iteration_tokens_total_sum"]) == (3, 7)


def test_counters_go_on_over_restarts() -> None:
    one = replace(EngineStats.none(), num_running=3, num_steps=2, step_sizes=(1, 1), accepted_by_position=(4,))
    other = replace(EngineStats.none(), num_running=1, num_steps=5, step_sizes=(0, 5), accepted_by_position=(1, 2))
    both = counting_on(one, other)
    assert (both.num_running, both.num_steps) == (1, 7)
    assert both.step_sizes == (1, 6)
    assert both.accepted_by_position == (5, 2)


def test_adapters_that_requests_run_with(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = FakeLLM()
    assert "lora" not in Metrics("m", llm).render().decode()
    stats = llm.stats()
    stats = replace(stats, num_adapters=3, max_adapters=8, running_adapters=("a", "b"), waiting_adapters=("b",))
    monkeypatch.setattr(engine_metrics.time, "time", lambda: 1234.5)
    monkeypatch.setattr(llm, "stats", lambda: stats)
    families = text_string_to_metric_families(Metrics("m", llm).render().decode())
    (sample,) = next(family for family in families if family.name == "vllm:lora_requests_info").samples
    expected = {"max_lora": "8", "running_lora_adapters": "a,b", "waiting_lora_adapters": "b"}
    assert (sample.labels, sample.value) == (expected, 1234.5)


def test_buckets_of_lengths() -> None:
    assert one_two_five(100) == [1, 2, 5, 10, 20, 50, 100]
    assert one_two_five(99)[-1] == 50
