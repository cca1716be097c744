"""vLLM's metrics, by their names, types and first and last buckets: dashboards made for it find what they ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_llm import FakeLLM
from prometheus_client.parser import text_string_to_metric_families

from headrace.engine.stats import STEP_BOUNDS
from headrace.server.metrics import Metrics

REQUEST = (0.1, 7680.0)
LENGTH = (1.0, 2000.0)
TOKEN = (0.01, 80.0)
HISTOGRAMS = {
    "time_to_first_token_seconds": (0.001, 2560.0),
    "inter_token_latency_seconds": TOKEN,
    "request_time_per_output_token_seconds": TOKEN,
    "time_per_output_token_seconds": TOKEN,
    "e2e_request_latency_seconds": REQUEST,
    "request_queue_time_seconds": REQUEST,
    "request_inference_time_seconds": REQUEST,
    "request_prefill_time_seconds": REQUEST,
    "request_decode_time_seconds": REQUEST,
    "request_prompt_tokens": LENGTH,
    "request_generation_tokens": LENGTH,
    "request_max_num_generation_tokens": LENGTH,
    "request_params_max_tokens": LENGTH,
    "request_prefill_kv_computed_tokens": LENGTH,
    "request_params_n": (1.0, 20.0),
    "iteration_tokens_total": (1.0, 10000.0),
}
COUNTERS = {
    *("prompt_tokens", "prompt_tokens_cached", "prompt_tokens_by_source", "generation_tokens", "request_success"),
    *("prefix_cache_queries", "prefix_cache_hits", "num_preemptions", "spec_decode_num_drafts"),
    *("spec_decode_num_draft_tokens", "spec_decode_num_accepted_tokens", "spec_decode_num_accepted_tokens_per_pos"),
}
GAUGES = {
    *("num_requests_running", "num_requests_waiting", "num_requests_waiting_by_reason", "kv_cache_usage_perc"),
    *("cache_config_info", "lora_requests_info", "engine_healthy"),
}


@pytest.fixture(scope="module")
def families() -> dict[str, object]:
    llm = FakeLLM()
    sizes = (1,) * (len(STEP_BOUNDS) + 1)
    stats = replace(llm.stats(), step_sizes=sizes, accepted_by_position=(3, 1), num_adapters=1)
    llm.stats = lambda: stats
    text = Metrics("m", llm).render().decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    return {name.removeprefix("vllm:"): family for name, family in found.items() if name.startswith("vllm:")}


def test_these_are_all_of_them(families) -> None:
    kinds = {name: family.type for name, family in families.items()}
    expected = (
        dict.fromkeys(HISTOGRAMS, "histogram") | dict.fromkeys(COUNTERS, "counter") | dict.fromkeys(GAUGES, "gauge")
    )
    assert kinds == expected


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_buckets_are_vllm_s(families, name: str) -> None:
    bounds = [float(s.labels["le"]) for s in families[name].samples if s.name.endswith("_bucket")]
    assert (bounds[0], bounds[-2], bounds[-1]) == (*HISTOGRAMS[name], float("inf"))
    assert bounds == sorted(bounds)


def test_labels(families) -> None:
    def of(name: str) -> set[str]:
        return {label for sample in families[name].samples for label in sample.labels}

    assert of("num_requests_running") == {"model_name", "engine"}
    assert of("request_success") == {"model_name", "engine", "finished_reason"}
    assert of("prompt_tokens_by_source") == {"model_name", "engine", "source"}
    assert of("spec_decode_num_accepted_tokens_per_pos") == {"model_name", "engine", "position"}
    assert of("lora_requests_info") == {"max_lora", "running_lora_adapters", "waiting_lora_adapters"}
    assert {"block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching"} <= of("cache_config_info")
