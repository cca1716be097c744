"""From a request's head to what it means: its body, the route that it is for, and that route's parse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

from starlette.types import Receive

from headrace.server.beside import Beside
from headrace.server.body import BodyShare, read_body
from headrace.server.dialects.base import Answer, Call, ChatPrompt, Incoming, Inquiry, Later, Served
from headrace.server.json_values import check_arguments, check_values
from headrace.server.origins import Origins
from headrace.server.routing import Match, chosen
from headrace.server.settings import ServerSettings

Meant: TypeAlias = Call | Later | Inquiry | Answer

T = TypeVar("T")

_BODILESS = ("GET", "HEAD")
_FORM = "multipart/form-data"
_LARGE_BODY = 2**15
"""Bytes; smaller ones are understood in less time than streams would notice"""


class Reading:
    """Reads requests for one server."""

    def __init__(self, settings: ServerSettings, served: Served, origins: Origins, beside: Beside) -> None:
        self._settings = settings
        self._served = served
        self._origins = origins
        self._beside = beside

    async def body_of(
        self, matches: Sequence[Match], incoming: Incoming, receive: Receive, share: BodyShare
    ) -> Incoming:
        """The request with its body, which one of `matches` allows.

        Raises:
            RequestError, Overloaded: it is too large or slow, there is no room for it, or it comes from a page that may
                not send it.
            ClientDisconnect: the client left.
        """
        if incoming.method in _BODILESS:
            return incoming
        self._origins.check_page(incoming.headers)
        settings = self._settings
        limits = [match.route.max_body_bytes or settings.max_body_bytes for match in matches]
        types = [match.route.media_types for match in matches]
        allowed = None if None in types else list(dict.fromkeys(one for each in types for one in each or ()))
        body = await read_body(
            incoming.headers,
            receive,
            max(limits),
            allowed,
            share,
            seconds=settings.body_seconds,
            idle_seconds=settings.body_idle_seconds,
        )
        return replace(incoming, body=body)

    async def choose(self, matches: Sequence[Match], incoming: Incoming) -> Match:
        """The route among those of its path that a request is for; its body may decide.

        Raises:
            BodyTooLarge: its JSON unfolds to more than is allowed.
            RequestError: where its JSON ends is said wrongly.
        """
        return await self._done(incoming, lambda: self._choose(matches, incoming))

    async def parse(self, match: Match, incoming: Incoming) -> Meant:
        """What a request means.

        Raises:
            RequestError: nothing; the route's parse says why.
            BodyTooLarge: the JSON that stands in its texts unfolds to more than is allowed.
        """
        if match.path_params:
            incoming = replace(incoming, path_params=match.path_params)
        return await self._done(incoming, lambda: self._parse(match, incoming))

    def _parse(self, match: Match, incoming: Incoming) -> Meant:
        meant = match.route.parse(incoming, self._served)
        call = meant.call if isinstance(meant, Later) else meant
        if isinstance(call, Call):
            messages = [
                message for prompt in call.prompts if isinstance(prompt, ChatPrompt) for message in prompt.messages
            ]
            check_arguments(messages, self._settings.max_json_values)
        return meant

    def _choose(self, matches: Sequence[Match], incoming: Incoming) -> Match:
        routes = [match.route for match in matches]
        if not all(_FORM in (route.media_types or ()) for route in routes):
            sizes = [route.json_size(incoming) if route.json_size else len(incoming.body) for route in routes]
            check_values(incoming.body[: max(sizes)], self._settings.max_json_values)
        return chosen(matches, incoming)

    async def _done(self, incoming: Incoming, call: Callable[[], T]) -> T:
        return call() if len(incoming.body) < _LARGE_BODY else await self._beside.body(call)
