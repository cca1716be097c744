"""Which dialect's route a request is for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.routing import compile_path

from headrace.server.dialects.base import Dialect, Incoming, Route
from headrace.server.errors import MethodNotAllowed, PathNotFound


@dataclass(frozen=True, slots=True)
class Match:
    """A route of a dialect, and the values of its path's parameters."""

    dialect: Dialect
    route: Route
    path_params: Mapping[str, str]


class RouteTable:
    """All routes of all dialects. The first dialect's error shape is used for paths that are nobody's."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self.dialects = tuple(dialects)
        self._exact: dict[str, list[Match]] = {}
        self._patterns: list[tuple[re.Pattern[str], Match]] = []
        for dialect in dialects:
            for route in dialect.routes:
                match = Match(dialect, route, {})
                if "{" in route.path:
                    self._patterns.append((compile_path(route.path)[0], match))
                else:
                    self._exact.setdefault(route.path, []).append(match)

    def find(self, method: str, path: str) -> list[Match]:
        """The routes of a path and method, at least one; `chosen` picks among several.

        Raises:
            PathNotFound: no route has this path.
            MethodNotAllowed: none has this method on it.
        """
        known = self._exact.get(path) or [
            Match(match.dialect, match.route, found.groupdict())
            for pattern, match in self._patterns
            if (found := pattern.match(path))
        ]
        if not known:
            raise PathNotFound(f"There is no {method} {path} here; see the documentation for the paths")
        wanted = "GET" if method == "HEAD" else method
        matches = [match for match in known if match.route.method == wanted]
        if not matches:
            allowed = ", ".join(dict.fromkeys(match.route.method for match in known))
            raise MethodNotAllowed(f"{method} {path} is not allowed; use {allowed}", allowed)
        return matches

    def dialect_of(self, path: str) -> Dialect:
        """The dialect that a path without a route was most likely meant for: the one with a route just above it."""
        if path in self._exact:
            return self._exact[path][0].dialect
        parent = path.rsplit("/", 1)[0]
        for dialect in self.dialects:
            paths = [route.path for route in dialect.routes]
            if any(known == path or (parent and known.startswith(f"{parent}/")) for known in paths):
                return dialect
        return self.dialects[0]


def chosen(matches: Sequence[Match], incoming: Incoming) -> Match:
    """The first that claims the request, else the first that claims nothing, else the last."""
    claimed = (match for match in matches if match.route.claims is not None and match.route.claims(incoming))
    unclaimed = (match for match in matches if match.route.claims is None)
    return next(claimed, None) or next(unclaimed, matches[-1])
