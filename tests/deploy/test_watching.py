"""The dashboard and the alerts: every query parses and fits what a live server's /metrics have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fake_llm import serving
from prometheus_client.parser import text_string_to_metric_families
from promql import BadQuery, Selector, labels_of, parsed, selectors

from headrace import AsyncLLM, EngineConfig

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/headrace.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"][0]["rules"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
QUERIES += [(rule["alert"], rule["expr"]) for rule in RULES]
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds"""


@dataclass
class Known:
    """What a server has: types and labels by sample name."""

    types: dict[str, str]
    labels: dict[str, set[str]]


@pytest.fixture(scope="module")
def known() -> Known:
    llm = AsyncLLM("stories", EngineConfig(max_sequences=1))
    with (
        serving(llm, "stories", api_keys=("k" * 8,)) as base,
        httpx.Client(base_url=base, headers={"x-api-key": "k" * 8}, timeout=120) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        client.post("/v1/completions", json={"model": "stories", "prompt": "Once", "max_tokens": -1})
        body = {"model": "stories", "prompt": "Once", "max_tokens": 100, "ignore_eos": True, "n": 8}
        asked = [threads.submit(client.post, "/v1/completions", json=body) for _ in range(2)]
        while "headrace:tenant_requests_waiting{" not in (text := client.get("/metrics").text):
            assert not all(each.done() for each in asked), "nobody had to wait"
        for each in asked:
            assert each.result().status_code == 200
        return known_of(text + client.get("/metrics").text)


def known_of(text: str) -> Known:
    types, labels = {"up": "gauge"}, {"up": OF_PROMETHEUS}
    for family in text_string_to_metric_families(text):
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        for end in ends:
            kind = "counter" if family.type in ("counter", "histogram") else "gauge"
            types[f"{family.name}{end}"] = "bucket" if end == "_bucket" else kind
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return Known(types, labels)


def check_all(query: str, known: Known) -> int:
    """How many metrics the query names."""
    tree = parsed(query)
    found = selectors(tree)
    for selector in found:
        check(selector, known)
    labels_of(tree, known.labels)
    return len(found)


def check(selector: Selector, known: Known) -> None:
    name = selector.name
    kind = known.types.get(name)
    if kind is None:
        raise BadQuery(f"{name} is not in /metrics")
    if (kind != "gauge") != (selector.function is not None):
        raise BadQuery(f"{name} is a {kind}, inside {selector.function}")
    if selector.in_quantile != (kind == "bucket"):
        raise BadQuery(f"{name}: quantiles are those of buckets")
    if selector.in_quantile and not all("le" in kept for kept in selector.labels_kept):
        raise BadQuery(f"{name}: a quantile without le")
    asked = {*selector.matchers, *(label for kept in selector.labels_kept for label in kept)} - OF_PROMETHEUS
    if asked - known.labels[name]:
        raise BadQuery(f"{name} has no {asked - known.labels[name]}")
    if ":" not in name and "job" not in selector.matchers:
        raise BadQuery(f"{name} is a name that other servers have, too: of which job?")


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=lambda text: text[:40])
def test_every_query_fits_a_live_server(title: str, query: str, known: Known) -> None:
    assert check_all(query, known), title


@pytest.mark.parametrize(
    ("query", "trouble"),
    [
        ("rate(vllm:generation_tokens[5m])", "not in /metrics"),
        ("rate(vllm:num_requests_running[5m])", "is a gauge"),
        ("vllm:generation_tokens_total > 5", "is a counter"),
        ("rate(vllm:generation_tokens_total)", "expected type matrix"),
        ("vllm:num_requests_running[5m] > 1", "must contain only scalar and instant vector"),
        ("vllm:num_requests_running > 0 and http_requests_total", "is a counter"),
        ("rate(http_requests_total[5m])", "of which job"),
        ("vllm:num_requests_running > 0 and vllm:engine_healthy == 0", "nothing matches"),
        ("sum by (engine) (vllm:num_requests_running) / sum(vllm:num_requests_waiting)", "nothing matches"),
        ("histogram_quantile(0.5, sum(rate(vllm:time_to_first_token_seconds_bucket[5m])))", "without le"),
        ("histogram_quantile(0.5, sum by (le) (rate(vllm:time_to_first_token_seconds_sum[5m])))", "of buckets"),
        ("sum by (tenant) (vllm:num_requests_running)", "has no"),
        ('vllm:num_requests_running{nonsense="x"}', "has no"),
        ("sum(vllm:num_requests_running", "unclosed"),
        ("sum(vllm:num_requests_running))", "unexpected"),
        ("rate(vllm:generation_tokens_total[5 minutes])", "inside brackets"),
        ("histogram_quantile(99, vllm:num_requests_running)", "quantile is 99"),
        ("rat(vllm:generation_tokens_total[5m])", "unknown function"),
        ("vllm:num_requests_running ! 5", "unexpected"),
    ],
)
def test_the_check_finds_what_is_wrong(query: str, trouble: str, known: Known) -> None:
    with pytest.raises(BadQuery, match=trouble):
        check_all(query, known)


def test_the_dashboard_s_shape() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert all("job" in selector.matchers for selector in selectors(parsed(target["expr"])))
    cells = [(x, y) for panel in DASHBOARD["panels"] for x, y in _cells(panel["gridPos"])]
    assert len(cells) == len(set(cells)), "panels overlap"
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = {name for name in re.findall(r"\$\{?(\w+)", json.dumps(PANELS)) if not name.startswith("__")}
    assert used == variables


def test_the_alerts_shape() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_only_labels_that_it_has(rule: dict[str, Any], known: Known) -> None:
    assert set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) <= labels_shown(rule["expr"], known)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_legend_says_only_labels_that_it_has(panel: dict[str, Any], known: Known) -> None:
    for target in panel["targets"]:
        names = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
        assert names <= labels_shown(target["expr"], known)


def labels_shown(query: str, known: Known) -> set[str]:
    labels = labels_of(parsed(query), {name: labels | OF_PROMETHEUS for name, labels in known.labels.items()})
    assert labels is not None
    return labels


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool (Debian: in prometheus)")
def test_prometheus_own_tool_fires_each_alert_and_no_other() -> None:
    run = subprocess.run(
        ["promtool", "test", "rules", DEPLOY / "prometheus/alerts_test.yaml"], check=False, capture_output=True
    )
    assert run.returncode == 0, run.stdout.decode()


def test_each_alert_has_a_case_that_fires_it_and_one_that_does_not() -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yaml").read_text())["tests"]
    cases = [case for group in groups for case in group["alert_rule_test"]]
    alerts = {rule["alert"] for rule in RULES}
    assert {case["alertname"] for case in cases if "exp_alerts" in case} == alerts
    assert {case["alertname"] for case in cases if "exp_alerts" not in case} == alerts


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y
