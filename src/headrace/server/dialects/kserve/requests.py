"""The request types of KServe's dialect, strict. null means the same as absent everywhere."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Parameters(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a generation takes: sampling by vLLM's names or TensorRT-LLM's, and what the answer shows."""

    max_tokens: int | None = None
    """Default 16"""
    min_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    random_seed: int | None = None
    """TensorRT-LLM's name of seed"""
    stop: str | list[str] | None = None
    stop_words: str | list[str] | None = None
    """TensorRT-LLM's name of stop"""
    stop_token_ids: list[int] | None = None
    bad_words: str | list[str] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None

    stream: bool | None = None
    exclude_input_in_output: bool | None = None
    """Default false, but true in a stream"""
    return_finish_reason: bool | None = None
    return_cumulative_logprob: bool | None = None
    return_num_input_tokens: bool | None = None
    return_num_output_tokens: bool | None = None


class GenerateFields(Parameters, kw_only=True, forbid_unknown_fields=True):
    """The body of POST …/generate and …/generate_stream. What `parameters` has may also stand beside it."""

    text_input: str | list[str]
    """One text"""
    parameters: Parameters | None = None
    sampling_parameters: str | None = None
    """More parameters, as the text of a JSON object"""
    id: str | None = None
    """Comes back"""


class InputTensor(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tensor of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    """None where it stands behind the JSON"""
    parameters: dict[str, Any] | None = None
    """`binary_data_size`: so many bytes of what stands there are this one's"""


class AskedOutput(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tensor that the answer is to have."""

    name: str
    parameters: dict[str, Any] | None = None
    """`binary_data`: its data stands behind the answer's JSON"""


class InferFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST …/infer."""

    inputs: list[InputTensor]
    outputs: list[AskedOutput] | None = None
    parameters: dict[str, Any] | None = None
    """Of a generation; and `binary_data_output`, which is `binary_data` for all outputs"""
    id: str | None = None
    """Comes back"""
