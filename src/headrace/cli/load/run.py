"""Send jobs when they are due, whatever is still running."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from headrace.cli.load.client import Answer, Client, Job
from headrace.cli.unreachable import unreachable
from headrace.errors import ConfigError


@dataclass(slots=True)
class Run:
    """What came back: all answers, the time.perf_counter() of the start, seconds to the last answer."""

    answers: list[Answer] = field(default_factory=list)
    began: float = 0.0
    seconds: float = 0.0


def run_open(
    jobs: Iterable[Job],
    connect: Callable[[Callable[[Answer], None]], Client],
    *,
    most_at_once: int | None = None,
    on_done: Callable[[Answer], None] = lambda _: None,
) -> Run:
    """Send every job at its time and wait for all answers. `connect` makes the client for what gets the answers.

    With `most_at_once` a job waits until so few are running; its clock starts when it is sent.
    """
    run = Run()

    def done(answer: Answer) -> None:
        run.answers.append(answer)
        on_done(answer)

    client = connect(done)
    run.began = time.perf_counter()
    try:
        for job in jobs:
            while (wait := run.began + job.at - time.perf_counter()) > 0:
                client.poll(wait)
            while most_at_once is not None and client.num_open >= most_at_once:
                client.poll(1)
            client.send(job)
            client.poll(0)
        while client.num_open:
            client.poll(1)
        run.seconds = time.perf_counter() - run.began
    finally:
        client.close()
    return run


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server lists, and its longest context where it says so (headrace and vLLM do)."""

    name: str
    max_context: int | None = None


def served_model(url: str, key: str | None = None, name: str | None = None) -> ServedModel:
    """The model of that name, or the first that a server lists.

    Raises:
        ConfigError: it cannot be reached, or lists none and no name is given.
    """
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            listed = {str(model["id"]): model.get("max_model_len") for model in json.load(answer)["data"]}
        name = name or next(iter(listed))
    except urllib.error.HTTPError as error:
        if name is None:
            hint = "; give the server's key with --api-key" if error.code in (401, 403) else "; give --model"
            raise ConfigError(f"{url}/v1/models answers {error.code} {error.reason}{hint}") from None
        return ServedModel(name)
    except (OSError, http.client.HTTPException) as error:  # urllib's own are OSErrors
        raise ConfigError(unreachable(url, error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        if name is None:
            raise ConfigError(f"{url}/v1/models lists no models; give --model") from error
        return ServedModel(name)
    context = listed.get(name)
    return ServedModel(name, context if isinstance(context, int) else None)
