"""Latencies, with a clock of our own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_llm import FakeLLM
from prometheus_client.parser import text_string_to_metric_families

from headrace.server import metrics as module
from headrace.server.metrics import Metrics, one_two_five
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


def test_latencies_of_two_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.5, 11.0, 13.0, 17.0, 18.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    metrics = Metrics("m", 100, FakeLLM().stats)
    stopwatch = metrics.stopwatch(10.0, 5)
    assert stopwatch.times == Times(10.0, 10.5)
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


def test_a_request_that_never_began_counts_once() -> None:
    metrics = Metrics("m", 100, FakeLLM().stats)
    metrics.stopwatch(0.0, 1).close()
    assert values(metrics)["abort"] == 1


def test_adapters_that_requests_run_with(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = FakeLLM().stats()
    assert "lora" not in Metrics("m", 100, lambda: stats).render().decode()
    stats = replace(stats, num_adapters=3, max_adapters=8, running_adapters=("a", "b"), waiting_adapters=("b",))
    monkeypatch.setattr(module.time, "time", lambda: 1234.5)
    families = text_string_to_metric_families(Metrics("m", 100, lambda: stats).render().decode())
    (sample,) = next(family for family in families if family.name == "vllm:lora_requests_info").samples
    expected = {"max_lora": "8", "running_lora_adapters": "a,b", "waiting_lora_adapters": "b"}
    assert (sample.labels, sample.value) == (expected, 1234.5)


def test_buckets_of_lengths() -> None:
    assert one_two_five(100) == [1, 2, 5, 10, 20, 50, 100]
    assert one_two_five(99)[-1] == 50
