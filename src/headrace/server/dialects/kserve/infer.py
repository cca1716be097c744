"""POST …/infer: tensors in, tensors out; texts are generated from, or embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from headrace.errors import RequestError, UnsupportedParameter
from headrace.pooled import EmbeddingRequestOutput
from headrace.server.dialects.base import Answer, Call, Incoming, Inquiry, Served
from headrace.server.dialects.decode import decode, encoded
from headrace.server.dialects.kserve.binary import SIZE, BinaryOutputs, fill, json_size
from headrace.server.dialects.kserve.binary import answer as answer_of
from headrace.server.dialects.kserve.parse import (
    PARAM_NAMES,
    UNSUPPORTED,
    call,
    merged,
    model_of,
    parameters_in,
    render_options,
)
from headrace.server.dialects.kserve.render import identity, tensor
from headrace.server.dialects.kserve.requests import InferFields, InputTensor, Parameters

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

EMBEDDING = "embedding"
TEXT = "text_output"
_MOST_DIMENSIONS = 8
_KINDS: Mapping[str, tuple[type, ...]] = {
    "BYTES": (str,),
    "BOOL": (bool,),
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"), (int,)),
    **dict.fromkeys(("FP16", "BF16", "FP32", "FP64"), (int, float)),
}


def parse_infer(incoming: Incoming, served: Served) -> Call | Inquiry:
    """Parse POST …/infer. `text_input` has the texts; other inputs, of one value each, are parameters.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    size = json_size(incoming)
    fields = decode(incoming.body[:size], InferFields, {})
    binary = _binary_outputs(fields)
    fill(fields, incoming.body[size:])
    texts, named = _inputs(fields.inputs)
    names = None if fields.outputs is None else frozenset(output.name for output in fields.outputs)
    if (names and EMBEDDING in names) or not served.card.generates:
        if other := sorted((names or {EMBEDDING}) - {EMBEDDING}):
            raise RequestError(f"outputs has {other[0]!r} beside {EMBEDDING!r}; ask for one of them", param="outputs")
        if named or fields.parameters:
            message = (
                f"{next(iter([*named, *(fields.parameters or ())]))} is for a generation, and this is an embedding"
            )
            raise RequestError(message, param="inputs")
        return _embedding(texts, fields, incoming, binary)
    return _generation(texts, named, names, fields, incoming, served, binary)


def _generation(
    texts: Sequence[str],
    named: Mapping[str, Any],
    names: frozenset[str] | None,
    fields: InferFields,
    incoming: Incoming,
    served: Served,
    binary: BinaryOutputs,
) -> Call:
    sampling = named.get("sampling_parameters")
    values = {name: value for name, value in named.items() if name != "sampling_parameters"}
    given = [_parameters(values), _parameters(fields.parameters or {})]
    if sampling is not None:
        given.append(parameters_in(str(sampling), served))
    asked = merged(given)
    if asked.stream:
        raise RequestError("stream=true is for …/generate_stream; infer gives one answer", param="stream")
    options = replace(render_options(asked, fields.id, stream=False, in_tensors=True), names=names, binary=binary)
    shown = {TEXT, *(name for name in options.facts.__slots__ if getattr(options.facts, name))}
    if unknown := sorted((names or frozenset()) - shown):
        raise RequestError(
            f"outputs has {unknown[0]!r}, expected {TEXT!r}, {EMBEDDING!r} or what return_… asks for", param="outputs"
        )
    return call(texts, asked, incoming, served, options, stream=False)


def _parameters(values: Mapping[str, Any]) -> Parameters:
    return decode(encoded(values), Parameters, UNSUPPORTED)


def _embedding(texts: Sequence[str], fields: InferFields, incoming: Incoming, binary: BinaryOutputs) -> Inquiry:
    async def ask(llm: AsyncLLM) -> list[EmbeddingRequestOutput]:
        return await llm.embed(texts)

    def render(outputs: Sequence[EmbeddingRequestOutput], served: Served) -> bytes | Answer:
        vectors = [output.outputs.embedding for output in outputs]
        data = [number for vector in vectors for number in vector]
        answer = identity(served, fields.id)
        answer["outputs"] = [tensor(EMBEDDING, "FP32", [len(vectors), len(vectors[0])], data)]
        return answer_of(answer, binary)

    return Inquiry(model=model_of(incoming), ask=ask, render=render, param_names=PARAM_NAMES)


def _binary_outputs(fields: InferFields) -> BinaryOutputs:
    """Takes what is said of them out of the parameters, which are a generation's otherwise."""
    by_default = (fields.parameters or {}).pop("binary_data_output", False)
    asked = {"parameters.binary_data_output": by_default}
    named = {}
    for index, one in enumerate(fields.outputs or ()):
        for name, value in (one.parameters or {}).items():
            path = f"outputs[{index}].parameters.{name}"
            if name != "binary_data":
                raise UnsupportedParameter(f"{path} is not supported here; leave it out", param=path)
            named[one.name] = asked[path] = value
    for path, value in asked.items():
        if not isinstance(value, bool):
            raise RequestError(f"{path} is {str(value)[:40]!r}, expected true or false", param=path)
    for index, given in enumerate(fields.inputs):
        for name in given.parameters or {}:
            if name != SIZE:
                path = f"inputs[{index}].parameters.{name}"
                raise UnsupportedParameter(f"{path} is not supported here; leave it out", param=path)
    return BinaryOutputs(by_default, named)


def _inputs(tensors: Sequence[InputTensor]) -> tuple[list[str], dict[str, Any]]:
    """The texts, and the values of the other inputs."""
    texts: list[str] | None = None
    named: dict[str, Any] = {}
    for index, one in enumerate(tensors):
        values = _values(one, index)
        if one.name == "text_input":
            texts = values
            if not values or one.datatype != "BYTES":
                raise RequestError("text_input is expected to be texts (BYTES), one or more", param="inputs")
        elif one.name in named:
            raise RequestError(f"inputs has {one.name!r} twice; send it once", param="inputs")
        elif len(values) != 1 and one.name not in ("stop_words", "bad_words", "stop", "stop_token_ids"):
            raise RequestError(f"{one.name} has {len(values)} values, expected one for all texts", param="inputs")
        else:
            named[one.name] = values if len(values) != 1 else values[0]
    if texts is None:
        raise RequestError("inputs has no text_input, expected it with one or more texts", param="inputs")
    return texts, named


def _values(one: InputTensor, index: int) -> list[Any]:
    kinds = _KINDS.get(one.datatype)
    if kinds is None:
        path = f"inputs[{index}].datatype"
        raise RequestError(f"{path} is {one.datatype!r}, expected one of {', '.join(_KINDS)}", param=path)
    path = f"inputs[{index}].data"
    if one.data is None:
        raise RequestError(f"{path} is required, or {SIZE} bytes behind the JSON", param=path)
    values = _flat(one.data, path)
    if len(one.shape) > _MOST_DIMENSIONS:  # the product of very many takes minutes, in which nothing else runs
        message = f"inputs[{index}].shape has {len(one.shape):,} numbers, expected at most {_MOST_DIMENSIONS}"
        raise RequestError(message, param=f"inputs[{index}].shape")
    if any(size < 0 for size in one.shape) or len(values) != prod(one.shape):
        raise RequestError(f"{path} has {len(values)} values, and the shape is {one.shape}", param=path)
    for value in values:
        if not isinstance(value, kinds) or (isinstance(value, bool) and one.datatype != "BOOL"):
            raise RequestError(f"{path} has {str(value)[:40]!r}, expected {one.datatype}", param=path)
    return values


def _flat(data: Sequence[Any], path: str) -> list[Any]:
    """The values of lists in lists, row by row."""
    values = list(data)
    for _ in range(_MOST_DIMENSIONS):
        if not any(isinstance(value, list) for value in values):
            return values
        values = [each for value in values for each in (value if isinstance(value, list) else [value])]
    raise RequestError(f"{path} is nested more than {_MOST_DIMENSIONS} deep, expected a tensor's rows", param=path)
