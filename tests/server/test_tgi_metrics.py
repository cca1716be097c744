"""TGI's names beside ours."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from fake_llm import FakeLLM
from prometheus_client.parser import text_string_to_metric_families

from headrace.server.metrics import Metrics

NAMES = {
    *("batch_concat", "batch_concat_duration", "batch_current_max_tokens", "batch_current_size"),
    *("batch_decode_duration", "batch_filter_duration", "batch_forward_duration", "batch_inference_count"),
    *("batch_inference_duration", "batch_inference_failure", "batch_inference_success", "batch_max_total_tokens"),
    *("batch_next_size", "batch_total_tokens", "queue_size", "request_count", "request_duration", "request_failure"),
    *("request_generated_tokens", "request_inference_duration", "request_input_length", "request_max_new_tokens"),
    *("request_mean_time_per_token_duration", "request_queue_duration", "request_skipped_tokens", "request_success"),
    "request_validation_duration",
}


def test_all_27_and_what_they_count(serve) -> None:
    base = serve(FakeLLM(), tgi_metrics=True)
    body = {"model": "fake", "prompt": "abc", "max_tokens": 5}
    for _ in range(2):
        assert httpx.post(f"{base}/v1/completions", json=body).status_code == 200
    assert httpx.post(f"{base}/v1/completions", json=body | {"max_tokens": -1}).status_code == 400
    text = httpx.get(f"{base}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("# TYPE tgi_")]
    assert {line.split()[2].removeprefix("tgi_") for line in lines} == NAMES
    assert len(NAMES) == len(lines) == 27
    assert list(text_string_to_metric_families(text))  # it parses; but it calls TGI's counters ..._total
    values = {
        name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if "# " not in line)
    }
    assert values["tgi_request_count"] == 3
    assert values["tgi_request_success"] == 2
    assert values['tgi_request_failure{err="validation"}'] == 1
    assert values["tgi_request_generated_tokens_sum"] == 10
    assert values["tgi_request_input_length_sum"] == 8
    assert values["tgi_request_max_new_tokens_count"] == 2
    assert values['tgi_request_duration_bucket{le="+Inf"}'] == 2
    assert values['tgi_request_queue_duration_bucket{le="0.00015000000000000001"}'] == 2


def test_steps_are_seen_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = FakeLLM()
    metrics = Metrics("m", llm, with_tgi=True)
    before = llm.stats()
    after = replace(before, num_running=3, num_steps=before.num_steps + 4, seconds_in_steps=2.0, seconds_in_forward=1.0)
    monkeypatch.setattr(llm, "stats", lambda: after)
    for _ in range(2):
        text = metrics.render().decode()
    assert 'tgi_batch_inference_duration_sum{method="decode"} 2.0' in text
    assert 'tgi_batch_inference_duration_count{method="decode"} 4' in text
    assert 'tgi_batch_forward_duration_sum{method="decode"} 1.0' in text
    assert 'tgi_batch_next_size_bucket{le="3.0"} 4' in text
    assert 'tgi_batch_next_size_bucket{le="2.0"} 0' in text


def test_they_are_off_unless_asked_for() -> None:
    assert "tgi_" not in Metrics("m", FakeLLM()).render().decode()
