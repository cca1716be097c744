"""The server as an ASGI application: routes from the dialects' tables, errors in the dialects' shapes."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.json import encode
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace import __version__
from headrace.errors import ConfigError, Overloaded, RequestError, UnknownModel, UnsupportedParameter
from headrace.sampling_params import ALL_LOGPROBS
from headrace.server.body import read_json_body
from headrace.server.dialects import openai
from headrace.server.dialects.base import Action, Call, ChatPrompt, Dialect, Endpoint, Listing, Renderer, Served
from headrace.server.errors import Failure, MethodNotAllowed, PathNotFound, describe
from headrace.server.generate import OpenPrompt, close_call, open_call, outputs, pieces
from headrace.server.metrics import Metrics
from headrace.server.pacing import Pacing

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

DIALECTS: tuple[Dialect, ...] = (openai.DIALECT,)
"""The first one's error shape is used for paths that are nobody's."""

MAX_BODY_BYTES = 32 * 2**20
MAX_LOGPROBS = 20
"""Of OpenAI's API, and vLLM's default: the whole vocabulary at each position of a long prompt would fill any memory."""

_SHUTTING_DOWN = Overloaded("The server is shutting down; send the request again later")
"""Said to a request that is cancelled: it has outlived the time that a shutdown gives (or nobody hears it)."""

_JSON = "application/json"
_STREAM_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))  # proxies pass tokens on at once


def create_app(
    llm: AsyncLLM,
    served_name: str,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_logprobs: int = MAX_LOGPROBS,
    trust_request_chat_template: bool = False,
    adapter_folder: Path | None = None,
) -> App:
    """The application that serves `llm` under `served_name`. It closes the engine when it is shut down.

    Args:
        llm: The engine. All its methods are called from the application's event loop.
        served_name: The model's name in requests and answers.
        max_body_bytes: Longer request bodies are refused with 413.
        max_logprobs: Most likely tokens of a position that a request can ask for; -1 is any number.
        trust_request_chat_template: Let requests bring their own chat template, which is code (in a sandbox).
        adapter_folder: Requests may load the adapters that lie below it; None: none.
    """
    if served_name in llm.adapters:
        raise ConfigError(f"an adapter has the model's name {served_name!r}; give it, or the model, another one")
    metrics = Metrics(served_name, llm.max_context, llm.stats)
    served = _served(llm, served_name)
    server = _Server(llm, served, metrics, max_body_bytes, max_logprobs, trust_request_chat_template)
    routes = [Route("/health", _health(server)), Route("/metrics", _metrics(server)), Route("/version", _version)]
    posts: dict[str, ASGIApp] = {}
    for dialect in DIALECTS:
        posts |= {endpoint.path: _Generate(server, dialect, endpoint) for endpoint in dialect.endpoints}
        posts |= {action.path: _Act(server, dialect, action) for action in dialect.actions}
        routes += [Route(listing.path, _list(server, dialect, listing)) for listing in dialect.listings]
    for action in openai.adapter_actions(adapter_folder, served_name):
        posts[action.path] = _Act(server, openai.DIALECT, action)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await llm.close()

    routes += [Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()]
    rest = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, Exception: _unexpected_error},
    )
    return App(posts, rest)


class App:
    """The ASGI application: Starlette, but requests that the engine answers go past it.

    They handle their errors themselves, and each write of a stream would pass through two wrappers of `send`.
    """

    def __init__(self, posts: Mapping[str, ASGIApp], rest: Starlette) -> None:
        self._posts = posts
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        is_post = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._posts
        await (self._posts[scope["path"]] if is_post else self._rest)(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Server:
    """What every route needs."""

    llm: AsyncLLM
    served: Served
    metrics: Metrics
    max_body_bytes: int
    max_logprobs: int
    trust_request_chat_template: bool


class _Post:
    """POST to a path of a dialect: an ASGI application, so that a stream costs one await per write."""

    def __init__(self, server: _Server, dialect: Dialect) -> None:
        self._server = server
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        def send_noting(message: Message) -> Awaitable[None]:
            nonlocal has_begun
            has_begun = True
            return send(message)

        try:
            await self._answer(scope, receive, send_noting)
        except ClientDisconnect:
            pass
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  the outermost handler
            failure = describe(_SHUTTING_DOWN if isinstance(error, asyncio.CancelledError) else error)
            if not has_begun:
                await _error_response(self._dialect, failure)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class _Generate(_Post):
    """POST to a path that generates."""

    def __init__(self, server: _Server, dialect: Dialect, endpoint: Endpoint) -> None:
        super().__init__(server, dialect)
        self._endpoint = endpoint

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = self._server
        arrival = time.perf_counter()
        body = await read_json_body(scope, receive, server.max_body_bytes)
        call = self._endpoint.parse(body, server.served.defaults)
        adapter = _adapter_of(call.model, server.served)
        if not server.trust_request_chat_template:
            _refuse_templates(call)
        _check_logprobs(call, server.max_logprobs)
        opened = await open_call(call, server.llm, server.metrics, arrival, adapter)
        try:
            renderer = call.renderer(server.served if adapter is None else replace(server.served, name=adapter))
            if call.stream:
                answer = _stream(opened, renderer, send, Pacing(call.stream_interval))
            else:
                answer = _whole(opened, renderer, scope, receive, send)
            await _unless_disconnected(answer, receive)
        finally:
            close_call(opened)


class _Act(_Post):
    """POST to a path that answers with one call."""

    def __init__(self, server: _Server, dialect: Dialect, action: Action) -> None:
        super().__init__(server, dialect)
        self._action = action

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = self._server
        inquiry = self._action.parse(await read_json_body(scope, receive, server.max_body_bytes))
        if inquiry.model is not None and _adapter_of(inquiry.model, server.served) is not None:
            raise RequestError(
                f"{inquiry.model!r} is an adapter, which answers chat and completions only", param="model"
            )

        async def answer() -> None:
            try:
                found = await inquiry.ask(server.llm)
            except RequestError as error:
                error.param = inquiry.param_names.get(error.param or "", error.param)
                raise
            await Response(inquiry.render(found, server.served), media_type=inquiry.media_type)(scope, receive, send)

        await _unless_disconnected(answer(), receive)


async def _whole(opened: Sequence[OpenPrompt], renderer: Renderer, scope: Scope, receive: Receive, send: Send) -> None:
    body = renderer.whole(await outputs(opened))
    await Response(body, media_type=_JSON)(scope, receive, send)


async def _stream(opened: Sequence[OpenPrompt], renderer: Renderer, send: Send, pacing: Pacing) -> None:
    """The headers go out with the first chunks, so that what fails before them still gets its status."""
    has_begun = False
    try:
        async for ready in pieces(opened):
            data = b"".join([renderer.chunks(index, pacing.push(index, chunks), opened) for index, chunks in ready])
            if not has_begun:
                has_begun = True
                headers = [(b"content-type", renderer.stream_media_type.encode()), *_STREAM_HEADERS]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                data = renderer.begin(opened) + data
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        data = renderer.end(opened)
    except (Exception, asyncio.CancelledError) as error:
        if not has_begun:
            raise
        data = renderer.failure(describe(_SHUTTING_DOWN if isinstance(error, asyncio.CancelledError) else error))
    await send({"type": "http.response.body", "body": data, "more_body": False})


async def _unless_disconnected(answer: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run `answer` until it is done or the client has left, whichever comes first.

    Raises:
        Exception: what `answer` raises.
    """
    task = asyncio.create_task(answer)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refuse_templates(call: Call) -> None:
    if any(isinstance(prompt, ChatPrompt) and prompt.chat_template is not None for prompt in call.prompts):
        raise UnsupportedParameter(
            "chat_template is not allowed here; leave it out, or start the server with --trust-request-chat-template",
            param="chat_template",
        )


def _adapter_of(model: str, served: Served) -> str | None:
    """The adapter that a request means; None for the model itself."""
    if model == served.name:
        return None
    if model in served.adapters():
        return model
    raise UnknownModel(f"The model {model!r} is not served here; {served.name!r} is", param="model")


def _check_logprobs(call: Call, most: int) -> None:
    for name in ("logprobs", "prompt_logprobs"):
        asked = getattr(call.params, name) or 0
        if 0 <= most < asked:
            param = call.param_names.get(name, name)
            raise RequestError(
                f"{param} asks for {'all' if asked == ALL_LOGPROBS else asked} tokens, and this server gives at most"
                f" {most}; it can be started with another --max-logprobs",
                param=param,
            )


def _served(llm: AsyncLLM, name: str) -> Served:
    tokenizer = llm.tokenizer
    return Served(
        name=name,
        version=__version__,
        fingerprint=f"fp_{hashlib.sha256(f'{__version__} {name} {llm.spec!r}'.encode()).hexdigest()[:12]}",
        created=int(time.time()),
        max_context=llm.max_context,
        defaults=llm.default_params,
        adapters=lambda: {name: adapter.path for name, adapter in llm.adapters.items()},
        token_text=(lambda _: "") if tokenizer is None else tokenizer.token_text,
        token_bytes=(lambda _: None) if tokenizer is None else tokenizer.token_bytes,
    )


def _list(server: _Server, dialect: Dialect, listing: Listing) -> Any:
    async def answer(request: Request) -> Response:
        try:
            return Response(listing.render(server.served, request.path_params), media_type=_JSON)
        except Exception as error:  # noqa: BLE001  the outermost handler
            return _error_response(dialect, describe(error))

    return answer


def _health(server: _Server) -> Any:
    async def health(_: Request) -> Response:
        """200 when the engine takes requests."""
        return Response(status_code=200 if server.llm.trouble is None else 503)

    return health


def _metrics(server: _Server) -> Any:
    async def metrics(_: Request) -> Response:
        """Prometheus' text format."""
        return Response(server.metrics.render(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    return metrics


async def _version(_: Request) -> Response:
    return Response(encode({"version": __version__}), media_type=_JSON)


async def _http_error(request: Request, error: Exception) -> Response:
    """What Starlette's routing refuses: 404 and 405."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    headers: Mapping[str, str] = error.headers or {}
    if error.status_code == 404:
        failure = describe(PathNotFound(f"There is no {where} here; see the documentation for the paths"))
    elif error.status_code == 405:
        allowed = headers.get("Allow", "another method")
        failure = describe(MethodNotAllowed(f"{where} is not allowed; use {allowed}"))
    else:
        failure = Failure(error.status_code, error.detail)
    return _error_response(_dialect_of(request.url.path), failure, headers)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    return _error_response(_dialect_of(request.url.path), describe(error))


def _error_response(dialect: Dialect, failure: Failure, headers: Mapping[str, str] | None = None) -> Response:
    merged = {**(headers or {}), **failure.headers}
    return Response(dialect.render_failure(failure), failure.status, headers=merged, media_type=_JSON)


def _dialect_of(path: str) -> Dialect:
    """The dialect that a path without a route was most likely meant for: the one with a route just above it."""
    parent = path.rsplit("/", 1)[0]
    for dialect in DIALECTS:
        routes: list[Endpoint | Action | Listing] = [*dialect.endpoints, *dialect.actions, *dialect.listings]
        paths = [route.path for route in routes]
        if any(known == path or (parent and known.startswith(f"{parent}/")) for known in paths):
            return dialect
    return DIALECTS[0]
