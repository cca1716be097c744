"""The server as an ASGI application: the dialects' routes over one engine, from start to shutdown."""

from __future__ import annotations

import asyncio
import hashlib
import time
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from headrace import __version__
from headrace.errors import ConfigError
from headrace.server import own, page
from headrace.server.access import Access, Keys
from headrace.server.admission import Admission
from headrace.server.admission_metrics import admission_families
from headrace.server.answer import Service, answer
from headrace.server.answer_room import AnswerRoom
from headrace.server.batch_door import start_batches
from headrace.server.beside import Beside
from headrace.server.body import BodyRoom
from headrace.server.body_metrics import body_families
from headrace.server.dialects import anthropic, kserve, llama_server, ollama, openai, tgi
from headrace.server.dialects.base import Served
from headrace.server.draining import Draining
from headrace.server.jobs import Jobs
from headrace.server.loop_lag import measure_lag
from headrace.server.metrics import Metrics
from headrace.server.origins import Origins
from headrace.server.reading import Reading
from headrace.server.request_log import log_request
from headrace.server.routing import RouteTable
from headrace.server.settings import ServerSettings
from headrace.server.stored.kept import Kept
from headrace.server.traces import Traces, traces_to
from headrace.server.waiting import AdmissionLimits
from headrace.text.infill import infill_of

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM
    from headrace.engine_port import EnginePort

_LEAST_CHARACTERS = 2**20
"""Of a text that may be sent, however small the context is"""
_CHARACTERS_OF_A_TOKEN = 128
"""At most, on average: a prose's token has four or five, and a vocabulary's longest tokens are about as many spaces"""


def create_app(llm: AsyncLLM, served_name: str, settings: ServerSettings | None = None) -> App:
    """The application that serves `llm` under `served_name`. It closes the engine when it is shut down.

    Args:
        llm: The engine. All its methods are called from the application's event loop.
        served_name: The model's name in requests and answers.
        settings: What the server allows.
    """
    if served_name in llm.adapters:
        raise ConfigError(f"an adapter has the model's name {served_name!r}; give it, or the model, another one")
    settings = ServerSettings() if settings is None else settings
    _bound_texts(llm)
    kept, draining = Kept(settings), Draining()
    metrics = Metrics(served_name, llm, with_tgi=settings.tgi_metrics)
    traces = None if settings.otlp_endpoint is None else traces_to(settings.otlp_endpoint)
    dialects = (
        openai.dialect(settings.adapter_folder, served_name, kept, settings.max_file_bytes),
        anthropic.dialect(),
        ollama.dialect(),
        tgi.dialect(),
        kserve.dialect(),
        llama_server.dialect(),
        own.dialect(metrics, draining),
        page.dialect(),
    )
    llm.through(lambda port: _admission(port, llm, metrics, settings))
    served, beside = _served(llm, served_name, settings), Beside()
    origins, bodies = Origins(settings.allowed_hosts, settings.cors_origins), BodyRoom(settings.max_bodies_bytes)
    metrics.add(partial(body_families, bodies))
    return App(
        Service(
            llm=llm,
            served=served,
            metrics=metrics,
            settings=settings,
            routes=RouteTable(dialects),
            reading=Reading(settings, served, origins, beside),
            bodies=bodies,
            beside=beside,
            access=Access(Keys(settings.api_keys, settings.api_key_file), Keys(settings.admin_keys)),
            origins=origins,
            jobs=Jobs(),
            kept=kept,
            watchers=(metrics.take, log_request, *([] if traces is None else [traces.take])),
            draining=draining,
        ),
        traces,
    )


def _admission(port: EnginePort, llm: AsyncLLM, metrics: Metrics, settings: ServerSettings) -> Admission:
    admission = Admission(
        port,
        AdmissionLimits(
            requests=settings.max_waiting_requests,
            tokens=settings.max_waiting_tokens,
            is_shared=settings.has_keys,
            priority_across_tenants=settings.priority_across_tenants,
        ),
        max_sequences=llm.config.max_sequences,
        step_tokens=llm.config.max_batch_tokens,
        answers=AnswerRoom(settings.max_answer_bytes, llm.spec.vocab_size),
    )
    metrics.add(partial(admission_families, admission))
    return admission


class App:
    """The ASGI application."""

    def __init__(self, service: Service, traces: Traces | None = None) -> None:
        self._service = service
        self._traces = traces

    @property
    def draining(self) -> Draining:
        """How far the server is with stopping; whoever stops it says so here."""
        return self._service.draining

    @property
    def has_promised(self) -> bool:
        """Whether something runs without an open connection that a client counts on (a response in the background)."""
        return self._service.jobs.has_promised

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await answer(self._service, scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._service.llm.attach()
        metrics = self._service.metrics
        lag = asyncio.create_task(measure_lag(metrics.loop_lag, () if metrics.tgi is None else (metrics.tgi.look,)))
        start_batches(self._service)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        lag.cancel()
        await self._service.jobs.close()
        await self._service.llm.close()
        self._service.kept.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        await send({"type": "lifespan.shutdown.complete"})


def _bound_texts(llm: AsyncLLM) -> None:
    """A text that cannot fit into the context is refused before it becomes tokens, which would take 100 times its size.

    Where clients ask for it to be cut it may be longer than that, but not without end.
    """
    if llm.tokenizer is not None:
        llm.tokenizer.most_characters = max(_LEAST_CHARACTERS, _CHARACTERS_OF_A_TOKEN * llm.max_context)


def _served(llm: AsyncLLM, name: str, settings: ServerSettings) -> Served:
    tokenizer = llm.tokenizer
    return Served(
        name=name,
        version=__version__,
        fingerprint=f"fp_{hashlib.sha256(f'{__version__} {name} {llm.spec!r}'.encode()).hexdigest()[:12]}",
        created=int(time.time()),
        max_context=llm.max_context,
        max_json_values=settings.max_json_values,
        card=llm.card,
        defaults=llm.default_params,
        adapters=lambda: {name: adapter.path for name, adapter in llm.adapters.items()},
        special_ids=frozenset if tokenizer is None else lambda: tokenizer.special_ids,
        infill=infill_of(tokenizer),
        token_text=(lambda _: "") if tokenizer is None else tokenizer.token_text,
        token_bytes=(lambda _: None) if tokenizer is None else tokenizer.token_bytes,
    )
