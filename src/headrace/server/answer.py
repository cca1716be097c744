"""One request, answered: read → route's parse → generate, ask or say → write. Errors in the dialect's shape."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from headrace.errors import Overloaded, RequestError
from headrace.server.access import Access
from headrace.server.allowed import adapter_of, check_call
from headrace.server.beside import Beside
from headrace.server.body import BodyRoom
from headrace.server.caller import CALLER, Caller
from headrace.server.deadline import Deadline, deadline_of
from headrace.server.dialects.base import Answer, Call, Dialect, Incoming, Inquiry, Later, Renderer, Served
from headrace.server.draining import Draining
from headrace.server.errors import Failure, MethodNotAllowed, describe
from headrace.server.generate import OpenPrompt, close_call, open_call, outputs, pieces
from headrace.server.jobs import Jobs
from headrace.server.metrics import Metrics
from headrace.server.origins import Origins
from headrace.server.pacing import Pacing
from headrace.server.protocol import BODY_WRITER, BodyWriter
from headrace.server.reading import Meant, Reading
from headrace.server.record import RequestRecord
from headrace.server.routing import Match, RouteTable, chosen
from headrace.server.settings import ServerSettings
from headrace.server.stored.kept import Kept
from headrace.types import Chunk

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

_SHUTTING_DOWN = Overloaded("The server is shutting down; send the request again later")
"""Said to a request that is cancelled: it has outlived the time that a shutdown gives (or nobody hears it)."""

_LARGE_ANSWER = 4096
"""Tokens, without log-probabilities; fewer are rendered in less time than other streams would notice"""
_STREAM_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))  # proxies pass tokens on at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What answering takes."""

    llm: AsyncLLM
    served: Served
    metrics: Metrics
    settings: ServerSettings
    routes: RouteTable
    reading: Reading
    bodies: BodyRoom
    beside: Beside
    access: Access
    origins: Origins
    jobs: Jobs
    kept: Kept
    draining: Draining
    watchers: Sequence[Callable[[RequestRecord], None]] = ()
    """Told of each request when it has ended"""

    def ended(self, record: RequestRecord) -> None:
        """A request has ended, however."""
        record.has_ended(self.llm.restarts)
        for watcher in self.watchers:
            watcher(record)


async def answer(service: Service, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one HTTP request. A stream costs one await per write: nothing wraps `send` but a look at its status."""
    incoming = _head(scope)
    record = RequestRecord.of(incoming)
    dialect = service.routes.dialect_of(scope["path"])

    def send_noting(message: Message) -> Awaitable[None]:
        if record.status is None:
            record.status = message["status"]
            further = [*_identity(dialect, record.id), *service.draining.headers]
            message["headers"] = [*message["headers"], *further]
        return send(message)

    try:
        service.origins.check_host(incoming.headers)
        try:
            matches = service.routes.find(scope["method"], scope["path"])
        except RequestError:
            service.access.check((), incoming.headers)
            raise
        dialect = _likely(matches, incoming)
        record.dialect, record.route = dialect.name, matches[-1].route.path
        tenant = service.access.check((match.route for match in matches), incoming.headers)
        incoming, record.tenant = replace(incoming, request_id=record.id, tenant=tenant.name), tenant.name
        service.draining.check(incoming.method)
        CALLER.set(Caller(tenant))
        deadline = deadline_of(incoming.headers, service.settings.request_seconds)
        with service.bodies.share() as share:
            async with deadline.within():
                incoming = await service.reading.body_of(matches, incoming, receive, share)
                match = await service.reading.choose(matches, incoming)
                dialect = match.dialect
                record.dialect, record.route = dialect.name, match.route.path
                meant = await service.reading.parse(match, incoming)
            if isinstance(meant, Call | Later):  # what is left of the body, the queue counts
                incoming = replace(incoming, body=b"")
                share.close()
            if await _is_gone(_answer(service, meant, record, deadline, scope, receive, send_noting)):
                record.client_left, record.failure = True, None
    except ClientDisconnect:
        record.client_left, record.failure = True, None
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  the outermost handler
        failure = describe(_SHUTTING_DOWN if isinstance(error, asyncio.CancelledError) else error)
        record.dialect, record.failure = dialect.name, failure
        if record.status is None:
            allowed = [(b"allow", error.allowed.encode())] if isinstance(error, MethodNotAllowed) else []
            response = failure_response(dialect, replace(failure, request_id=record.id))
            response.raw_headers += allowed
            record.client_left = await _is_gone(response(scope, receive, send_noting))
    finally:
        service.ended(record)


def _is_reset(error: BaseException) -> bool:
    """Whether it is what uvloop raises for a write to a connection that was reset."""
    return isinstance(error, RuntimeError) and "the handler is closed" in str(error)


async def _is_gone(answering: Awaitable[None]) -> bool:
    """Answer; whether the client has reset its connection a moment ago, of which the protocol has not heard yet."""
    try:
        await answering
    except RuntimeError as error:
        if not _is_reset(error):
            raise
        await asyncio.sleep(0)  # now it hears of it
        return True
    return False


def failure_response(dialect: Dialect, failure: Failure) -> Response:
    """An error in a dialect's shape, with its status."""
    return Response(
        dialect.render_failure(failure),
        dialect.statuses.get(failure.status, failure.status),
        headers=failure.headers,
        media_type="application/json",
    )


def _identity(dialect: Dialect, request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers that name a request: everybody's, and the dialect's own."""
    names = dict.fromkeys(("x-request-id", dialect.request_id_header))
    return [(name.encode(), request_id.encode()) for name in names if name is not None]


def _head(scope: Scope) -> Incoming:
    """The request without its body."""
    return Incoming(
        method=scope["method"],
        path=scope["path"],
        query=dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)),
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]},
    )


def _likely(matches: Sequence[Match], incoming: Incoming) -> Dialect:
    """The dialect that errors are said in until the body is there: it may decide."""
    return chosen(matches, incoming).dialect


async def _answer(
    service: Service,
    meant: Meant,
    record: RequestRecord,
    deadline: Deadline,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    match meant:
        case Call():
            await _generate(service, meant, record, deadline, scope, receive, send)
        case Later():
            await _run_later(service, meant, record, scope, receive, send)
        case Inquiry():
            await _ask(service, meant, record, deadline, scope, receive, send)
        case Answer():
            await _say(meant, scope, receive, send)


@asynccontextmanager
async def running(
    service: Service, call: Call, record: RequestRecord, deadline: Deadline
) -> AsyncIterator[tuple[list[OpenPrompt], Renderer]]:
    """A call on the engine, from the moment that it is queued; leaving cancels what still runs.

    Raises:
        RequestError: it cannot run, or may not here.
        DeadlineExceeded: it was not queued in time.
        EngineError: the engine is down.
    """
    adapter = adapter_of(call.model, service.served)
    record.asks(call, adapter or service.served.name)
    check_call(call, service.settings)
    async with deadline.within():
        opened = await open_call(call, service.llm, service.metrics, service.beside, record, adapter)
    try:
        yield opened, call.renderer(service.served if adapter is None else replace(service.served, name=adapter))
    finally:
        close_call(opened)


async def _generate(
    service: Service,
    call: Call,
    record: RequestRecord,
    deadline: Deadline,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    async with running(service, call, record, deadline) as (opened, renderer):
        if call.stream:
            for one in opened:
                one.stream.most_unread = service.settings.max_unread_tokens
            writer = scope.get("extensions", {}).get(BODY_WRITER)
            answering = _stream(call, opened, renderer, record, deadline, send, writer)
        else:
            answering = _whole(call, opened, renderer, deadline, scope, receive, send)
        await _unless_disconnected(answering, receive)


async def _run_later(
    service: Service, later: Later, record: RequestRecord, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer as soon as the call is queued: what is wrong with it is still said to who asked for it."""
    queued: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with (
            unattended(service, record) as beside,
            running(service, later.call, beside, Deadline(None)) as (opened, renderer),
        ):

            def cancel() -> None:
                beside.client_left = True
                task.cancel()

            later.started(cancel)
            queued.set_result(None)
            try:
                await whole(later.call, opened, renderer)
                beside.status = 200
            except (Exception, asyncio.CancelledError) as error:
                failure = describe(_SHUTTING_DOWN if isinstance(error, asyncio.CancelledError) else error)
                renderer.failure(failure)
                if not beside.client_left:
                    beside.status, beside.failure = failure.status, failure
                raise

    task = service.jobs.start(run(), is_promised=True)
    await asyncio.wait((task, queued), return_when=asyncio.FIRST_COMPLETED)
    if not queued.done():
        task.result()
    await _say(later.answer, scope, receive, send)


@asynccontextmanager
async def unattended(service: Service, record: RequestRecord) -> AsyncIterator[RequestRecord]:
    """A record of what goes on without a client that waits for it; it ends with the context."""
    beside = record.beside()
    try:
        yield beside
    finally:
        service.ended(beside)


async def _ask(
    service: Service,
    inquiry: Inquiry,
    record: RequestRecord,
    deadline: Deadline,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    async def asking() -> None:
        async with deadline.within():
            said = await found(service, inquiry, record)
        await _say(said, scope, receive, send)

    await _unless_disconnected(asking(), receive)


async def found(service: Service, inquiry: Inquiry, record: RequestRecord) -> Answer:
    """The answer to an inquiry.

    Raises:
        RequestError: it asks for what is not to be had.
        EngineError: the engine is down.
    """
    adapter = None if inquiry.model is None else adapter_of(inquiry.model, service.served)
    if adapter is not None and inquiry.ask_adapter is None:
        message = f"{adapter!r} is an adapter, which answers chat, completions and decisions only"
        raise RequestError(message, param="model")
    served = service.served if adapter is None else replace(service.served, name=adapter)
    if inquiry.model is not None:
        record.asks(inquiry, served.name)
        record.submitted = time.perf_counter()
    try:
        if adapter is None or inquiry.ask_adapter is None:
            given = await inquiry.ask(service.llm)
        else:
            given = await inquiry.ask_adapter(service.llm, adapter)
    except RequestError as error:
        error.param = inquiry.param_names.get(error.param or "", error.param)
        raise
    finally:
        record.seconds_queued = CALLER.get(Caller()).seconds_waited
    record.prompt_tokens = CALLER.get(Caller()).tokens_used
    is_large = record.prompt_tokens >= _LARGE_ANSWER  # an answer of many parts had many
    render = partial(inquiry.render, given, served)
    said = await asyncio.to_thread(render) if is_large else render()
    if isinstance(said, Answer):
        return said
    return Answer(body=said, status=inquiry.status, media_type=inquiry.media_type)


async def _say(said: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    await Response(said.body, said.status, headers=dict(said.headers), media_type=said.media_type)(scope, receive, send)


async def whole(call: Call, opened: Sequence[OpenPrompt], renderer: Renderer) -> Answer:
    """The answer to a call that is not streamed."""
    given = await outputs(opened)
    num_tokens = sum(len(each.token_ids) for output in given for each in output.outputs)
    has_logprobs = call.params.logprobs is not None or call.params.prompt_logprobs is not None
    is_large = num_tokens >= (_LARGE_ANSWER // 32 if has_logprobs else _LARGE_ANSWER)
    said = await asyncio.to_thread(renderer.whole, given) if is_large else renderer.whole(given)
    if call.settle is not None:
        await call.settle()
    return said if isinstance(said, Answer) else Answer(body=said)


async def _whole(
    call: Call,
    opened: Sequence[OpenPrompt],
    renderer: Renderer,
    deadline: Deadline,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    async with deadline.within():
        said = await whole(call, opened, renderer)
    await _say(said, scope, receive, send)


async def _stream(
    call: Call,
    opened: Sequence[OpenPrompt],
    renderer: Renderer,
    record: RequestRecord,
    deadline: Deadline,
    send: Send,
    writer: BodyWriter | None,
) -> None:
    """The headers go out with the first chunks, so that what fails before them still gets its status."""
    has_begun, pacing = False, Pacing(call.stream_interval)

    def take(chunk: Chunk) -> bool:
        assert writer is not None
        if not writer.is_ready:
            return False
        opened[0].taken(chunk)
        if data := renderer.chunks(0, pacing.push(0, (chunk,)), opened):
            writer.write(data)
        return True

    try:
        async with deadline.within():
            async for ready in pieces(opened, None if writer is None else take):
                begun = b"" if has_begun else renderer.begin(opened)
                data = b"".join([renderer.chunks(index, pacing.push(index, chunks), opened) for index, chunks in ready])
                if not has_begun:
                    has_begun = True
                    headers = [(b"content-type", renderer.stream_media_type.encode()), *_STREAM_HEADERS]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    data = begun + data
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        data = renderer.end(opened)
        if call.settle is not None:
            await call.settle()
    except (Exception, asyncio.CancelledError) as error:
        if not has_begun or _is_reset(error):
            raise
        close_call(opened)  # the client may take its time to read why
        record.failure = describe(_SHUTTING_DOWN if isinstance(error, asyncio.CancelledError) else error)
        data = renderer.failure(record.failure)
    await send({"type": "http.response.body", "body": data, "more_body": False})


async def _unless_disconnected(answer: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run `answer` until it is done or the client has left, which cancels it, whichever comes first.

    Raises:
        ClientDisconnect: the client has left.
        Exception: what `answer` raises.
    """
    runner = asyncio.current_task()
    assert runner is not None
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        while (await receive())["type"] != "http.disconnect":
            pass
        has_left = True
        runner.cancel()

    watching = asyncio.create_task(watch())
    try:
        await answer
    except asyncio.CancelledError:
        if not has_left:
            raise
    finally:
        watching.cancel()
    if has_left:
        runner.uncancel()
        raise ClientDisconnect
