"""Families of metrics: one value, or one for each value of some labels. `labels` are the same of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_Values = TypeVar("_Values", bound=tuple[str, ...])


def gauge(name: str, documentation: str, labels: Mapping[str, str], value: float) -> Metric:
    """What goes up and down."""
    return gauge_by(name, documentation, labels, (), {(): value})


def counter(name: str, documentation: str, labels: Mapping[str, str], count: float) -> Metric:
    """What only goes up; its samples' names end with `_total`."""
    return counter_by(name, documentation, labels, (), {(): count})


def gauge_by(
    name: str, documentation: str, labels: Mapping[str, str], by: tuple[str, ...], values: Mapping[_Values, float]
) -> Metric:
    """A gauge for each of `values`, by further labels, whose names are `by`."""
    return _filled(GaugeMetricFamily(name, documentation, labels=[*labels, *by]), labels, values)


def counter_by(
    name: str, documentation: str, labels: Mapping[str, str], by: tuple[str, ...], counts: Mapping[_Values, float]
) -> Metric:
    """A counter for each of `counts`, by further labels, whose names are `by`."""
    return _filled(CounterMetricFamily(name, documentation, labels=[*labels, *by]), labels, counts)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, labels: Mapping[str, str], values: Mapping[_Values, float]
) -> Metric:
    for further, value in values.items():
        family.add_metric([*labels.values(), *further], value)
    return family
