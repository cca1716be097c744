"""Every entry of the catalogue holds, the document is theirs, and no parameter of OpenAI or vLLM is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import openai
import pytest
from features.abilities import ABILITIES, Ability
from features.asking import Asking, names
from features.catalogue import BATCHES, BOTH, CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Parameter, Status, find
from features.doors import Doors, open_doors
from features.openapi import Walk
from features.service import asking
from features.table import DOCUMENT, PARAMETERS, document
from features.vllm_fields import CHAT_FIELDS, COMPLETION_FIELDS

from headrace.server.dialects.openai.batches import BatchFields
from headrace.server.dialects.openai.responses.fields import UNSUPPORTED, ResponseFields

CASES = [(one, endpoint) for one in PARAMETERS for endpoint in one.endpoints]
SCHEMAS = {
    CHAT: ("CreateChatCompletionRequest", 100),
    COMPLETIONS: ("CreateCompletionRequest", 20),
    EMBEDDINGS: ("CreateEmbeddingRequest", 7),
}
"""The name in the document, and how many samples it gives at least"""


@pytest.fixture(scope="module")
def endpoints() -> Iterator[Mapping[str, Asking]]:
    with asking() as endpoints:
        yield endpoints


@pytest.mark.parametrize(("parameter", "endpoint"), CASES, ids=[f"{endpoint}:{one.name}" for one, endpoint in CASES])
def test_the_entry_holds(parameter: Parameter, endpoint: str, endpoints: Mapping[str, Asking]) -> None:
    parameter.prove(endpoints[endpoint])


@pytest.mark.parametrize(
    ("parameter", "endpoint"),
    [case for case in CASES if case[1] in BOTH],
    ids=[f"{endpoint}:{one.name}" for one, endpoint in CASES if endpoint in BOTH],
)
def test_null_is_the_same_as_absent(parameter: Parameter, endpoint: str, endpoints: Mapping[str, Asking]) -> None:
    name, ask = parameter.name, endpoints[endpoint]
    if "." in name or name in ("model", "messages", "prompt"):
        return
    absent = {key: value for key, value in {**ask.base, "seed": 7}.items() if key != name}
    bodies = (absent, {**absent, name: None})
    answers: list[Any] = [ask.client.post(ask.path, body=body, cast_to=object) for body in bodies]
    assert answers[0]["choices"] == answers[1]["choices"]


@pytest.fixture(scope="module")
def doors(endpoints: Mapping[str, Asking]) -> Iterator[Doors]:
    with open_doors(endpoints) as doors:
        yield doors


@pytest.mark.parametrize("ability", ABILITIES, ids=lambda ability: ability.name)
def test_the_ability_holds(ability: Ability, doors: Doors) -> None:
    ability.prove(doors)


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run `make features`"


def test_no_entry_is_there_twice() -> None:
    keys = [(endpoint, one.name) for one, endpoint in CASES]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("endpoint", "fields", "unsupported"),
    [(RESPONSES, ResponseFields, UNSUPPORTED), (BATCHES, BatchFields, {})],
)
def test_every_field_has_an_entry(endpoint: str, fields: type[msgspec.Struct], unsupported: Mapping[str, Any]) -> None:
    entries = {one.name for one in PARAMETERS if endpoint in one.endpoints}
    assert entries == {*fields.__struct_encode_fields__, *unsupported}


def answer_to(ask: Asking, fields: Mapping[str, Any]) -> str | None:
    """None for a 200; else the parameter that the 400 names."""
    needed = dict(fields)
    if "max_completion_tokens" in fields:
        needed["max_tokens"] = None
    try:
        if fields.get("stream"):
            assert all("error" not in event for event in ask.events(**needed))
        else:
            ask.answer(**needed)
    except openai.BadRequestError as error:
        return error.param or ""
    return None


def check(ask: Asking, endpoint: str, field: str, label: str, value: object) -> str | None:
    """What is wrong with the answer to one sample, measured by the catalogue; None if nothing is."""
    found = find(PARAMETERS, endpoint, label)
    if found is None:
        return f"{label}: no entry"
    parameter, suffix = found
    given = {**parameter.needed(endpoint), field: value}
    refused_as = answer_to(ask, given)
    if parameter.allows(suffix):
        return None if refused_as is None else f"{label} = {value!r}: a 400 for {refused_as}, expected to be taken"
    if refused_as is None:
        return f"{label} = {value!r}: taken, but the catalogue does not say that it has a meaning"
    return None if names(refused_as, field) else f"{label} = {value!r}: the 400 names {refused_as!r}"


@pytest.mark.parametrize("endpoint", SCHEMAS)
def test_every_parameter_of_openai(endpoint: str, endpoints: Mapping[str, Asking], spec_schemas: Any) -> None:
    """Each field of the spec, with values of every kind that it allows, is taken as declared or a 400."""
    wrong, num_samples = [], 0
    schema, num_expected = SCHEMAS[endpoint]
    for field, label, value in Walk(spec_schemas).fields(schema):
        if field != "model":
            num_samples += 1
            wrong.append(check(endpoints[endpoint], endpoint, field, label, value))
    assert num_samples >= num_expected
    assert not [line for line in wrong if line]


@pytest.mark.parametrize(("endpoint", "fields"), [(CHAT, CHAT_FIELDS), (COMPLETIONS, COMPLETION_FIELDS)])
def test_every_parameter_of_vllm(endpoint: str, fields: Mapping[str, Any], endpoints: Mapping[str, Asking]) -> None:
    wrong = []
    for name, value in fields.items():
        found = find(PARAMETERS, endpoint, name)
        if found is None or found[1]:
            wrong.append(f"{name}: no entry")
            continue
        if found[0].status is Status.REFUSED:
            wrong.append(check(endpoints[endpoint], endpoint, name, name, value))
        else:
            refused_as = answer_to(endpoints[endpoint], {**found[0].needed(endpoint), name: value})
            wrong.append(refused_as and f"{name} = {value!r}: a 400 for {refused_as}")
    assert not [line for line in wrong if line]


@pytest.mark.parametrize("name", ["temprature", "max_token", "n_predict"])
def test_an_unknown_parameter_is_refused(name: str, endpoints: Mapping[str, Asking]) -> None:
    for ask in endpoints.values():
        ask.refusal(name, **{name: 1})
