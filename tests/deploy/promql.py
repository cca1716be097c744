"""What a PromQL query is about: which metrics it names, and what it does with them.

Grammar and types (functions, ranges, scalars) are checked by promql_parser; here is what that cannot know: what each
metric is, and which labels it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import promql_parser as promql

_OF_COUNTERS = ("rate", "increase", "irate")
_OF_GRAFANA = {"$__rate_interval": "5m"}
"""What Grafana writes into a query"""


class BadQuery(ValueError):
    """It does not parse, or means nothing."""


@dataclass
class Selector:
    """`name{label="…"}[range]`, and what is done with it."""

    name: str
    matchers: dict[str, str]
    function: str | None = None
    """The one of _OF_COUNTERS around it"""
    labels_kept: list[tuple[str, ...]] = field(default_factory=list)
    """Of each aggregation around it"""
    in_quantile: bool = False


def parsed(query: str) -> Any:
    """Its syntax tree."""
    for name, value in _OF_GRAFANA.items():
        query = query.replace(name, value)
    try:
        return promql.parse(query)
    except ValueError as error:
        raise BadQuery(str(error)) from None


def selectors(node: Any) -> list[Selector]:
    """All metrics that a query names."""
    match node:
        case promql.VectorSelector():
            return [Selector(node.name or "", {each.name: each.value for each in node.matchers.matchers})]
        case promql.MatrixSelector():
            return selectors(node.vector_selector)
        case promql.Call():
            return _called(node)
        case promql.AggregateExpr():
            found = selectors(node.expr)
            for selector in found:
                selector.labels_kept.append(_kept(node))
            return found
        case promql.BinaryExpr():
            return selectors(node.lhs) + selectors(node.rhs)
        case promql.ParenExpr() | promql.UnaryExpr():
            return selectors(node.expr)
        case promql.NumberLiteral():
            return []
    raise BadQuery(f"{node} is of no kind that is expected here")


def labels_of(node: Any, known: Mapping[str, set[str]]) -> set[str] | None:
    """The labels of a query's answer, None for a number.

    Raises:
        BadQuery: an operator is between vectors whose labels differ, which match nothing.
    """
    match node:
        case promql.VectorSelector():
            return known.get(node.name or "", set()) - {"le"}
        case promql.MatrixSelector():
            return labels_of(node.vector_selector, known)
        case promql.Call():
            return labels_of(node.args[-1], known)
        case promql.AggregateExpr():
            inside = labels_of(node.expr, known)
            return None if inside is None else inside & set(_kept(node))
        case promql.BinaryExpr():
            sides = [labels_of(node.lhs, known), labels_of(node.rhs, known)]
            is_told = node.modifier is not None and node.modifier.matching is not None
            if None not in sides and not is_told and sides[0] != sides[1]:
                raise BadQuery(f"{sides[0]} on one side and {sides[1]} on the other: nothing matches")
            return sides[0] if sides[0] is not None else sides[1]
        case promql.ParenExpr() | promql.UnaryExpr():
            return labels_of(node.expr, known)
    return None


def _called(node: Any) -> list[Selector]:
    name = node.func.name
    if name == "histogram_quantile" and not 0 <= getattr(node.args[0], "val", -1) <= 1:
        raise BadQuery(f"the quantile is {node.args[0]}")
    found = [selector for argument in node.args for selector in selectors(argument)]
    for selector in found:
        if name == "histogram_quantile":
            selector.in_quantile = True
        elif name in _OF_COUNTERS:
            selector.function = name
    return found


def _kept(node: Any) -> tuple[str, ...]:
    if node.modifier is None:
        return ()
    if node.modifier.type != promql.AggModifierType.By:
        raise BadQuery("without(): say by which labels instead")
    return tuple(node.modifier.labels)
