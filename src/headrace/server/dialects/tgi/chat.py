"""POST /v1/chat/completions as clients of TGI send it: to any model, with TGI's way to name a schema."""

from __future__ import annotations

from dataclasses import replace

from headrace.errors import RequestError
from headrace.server.dialects.base import Call, Incoming, JsonObject, Served
from headrace.server.dialects.decode import decode, encoded, value_of
from headrace.server.dialects.openai import parse_chat

_ANY_MODEL = ("tgi", "dummy")
"""What TGI's documentation and huggingface_hub send for the model that is there"""


def is_for_any_model(incoming: Incoming) -> bool:
    """Whether the request names a model that only TGI takes."""
    if not any(f'"{name}"'.encode() in incoming.body for name in _ANY_MODEL):
        return False  # as good as always, and soon found
    return value_of(incoming.body, "model") in _ANY_MODEL


def parse_chat_completion(incoming: Incoming, served: Served) -> Call:
    """Parse the request as OpenAI's, but for the model's name and `response_format`.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields = decode(incoming.body, dict, {})
    if served.name in _ANY_MODEL or fields.get("model") in served.adapters():
        return parse_chat(incoming.body, served.defaults)
    if isinstance(response_format := fields.get("response_format"), dict) and "value" in response_format:
        fields["response_format"] = _with_schema(response_format)
    return replace(parse_chat(encoded(fields), served.defaults), model=None)


def _with_schema(response_format: JsonObject) -> JsonObject:
    """{"type": "json_object" or "json", "value": schema} as OpenAI writes it."""
    if response_format.get("type") not in ("json", "json_object"):
        message = "response_format.value goes with type json or json_object; a regex goes into grammar of /generate"
        raise RequestError(message, param="response_format")
    return {"type": "json_schema", "json_schema": {"name": "value", "schema": response_format["value"]}}
