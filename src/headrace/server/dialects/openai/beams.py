"""vLLM's `use_beam_search` → SamplingParams' beam search. `n` is the width; completions may have more by `best_of`."""

from __future__ import annotations

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.base import JsonObject
from headrace.server.dialects.openai.requests import CompletionFields, SharedFields
from headrace.server.dialects.openai.structured import structured_name, structured_output


def beam_search(fields: SharedFields) -> JsonObject:
    """What of SamplingParams the request says about beams; empty when it asks for none.

    Raises:
        RequestError: it asks for what beams cannot do; `param` is the field.
    """
    n = 1 if fields.n is None else fields.n
    best_of = fields.best_of if isinstance(fields, CompletionFields) else None
    if not fields.use_beam_search:
        if best_of is not None and best_of != n:
            raise UnsupportedParameter(
                f"best_of is {best_of}, other than n ({n}): choosing among more takes use_beam_search; leave it out",
                param="best_of",
            )
        given = {"length_penalty": fields.length_penalty, "early_stopping": fields.early_stopping}
        return {name: value for name, value in given.items() if value is not None}
    if best_of is not None and best_of < n:
        raise RequestError(f"best_of is {best_of}, below n ({n}): the n best beams come out", param="best_of")
    if structured_output(fields) is not None:
        name = structured_name(fields)
        raise RequestError(f"{name} cannot be used with beam search; leave it out", param=name)
    return {
        "beam_width": n if best_of is None else best_of,
        "length_penalty": 1.0 if fields.length_penalty is None else fields.length_penalty,
        "early_stopping": False if fields.early_stopping is None else fields.early_stopping,
    }
