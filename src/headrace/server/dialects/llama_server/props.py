"""GET /props and /slots: the model, what a request gets by default, and how busy the engine is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from msgspec.json import encode

from headrace.errors import Overloaded, UnsupportedParameter
from headrace.server.dialects.base import Answer, Incoming, Inquiry, JsonObject, Served
from headrace.server.dialects.llama_server.requests import DEFAULTS

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM


def show_props(_: Incoming, __: Served) -> Inquiry:
    """The model and the defaults of requests. `model_path` is the model's name: no path of the server is told."""
    return Inquiry(model=None, ask=_facts, render=_render_props)


def refuse_change(_: Incoming, __: Served) -> Answer:
    """POST /props.

    Raises:
        UnsupportedParameter: always.
    """
    raise UnsupportedParameter("POST /props is not supported here: requests say what they want themselves")


def show_slots(incoming: Incoming, _: Served) -> Inquiry:
    """One object for each sequence that can run at once; with ?fail_on_no_slot=1 503 when all are taken."""
    fails = incoming.query.get("fail_on_no_slot", "") not in ("", "0")
    return Inquiry(model=None, ask=partial(_slots, fails=fails), render=_render_slots)


async def _facts(llm: AsyncLLM) -> JsonObject:
    tokenizer = llm.tokenizer
    return {
        "total_slots": llm.config.max_sequences,
        "bos_token": (tokenizer and tokenizer.bos_token) or "",
        "eos_token": (tokenizer and tokenizer.eos_token) or "",
    }


def _render_props(facts: JsonObject, served: Served) -> bytes:
    return encode(
        {
            "default_generation_settings": {"n_ctx": served.max_context, "params": dict(DEFAULTS)},
            "total_slots": facts["total_slots"],
            "model_alias": served.name,
            "model_path": served.name,
            "modalities": {"vision": False, "audio": False},
            "chat_template": served.card.chat_template or "",
            "bos_token": facts["bos_token"],
            "eos_token": facts["eos_token"],
            "build_info": f"headrace-{served.version}",
            "is_sleeping": False,
        }
    )


async def _slots(llm: AsyncLLM, *, fails: bool) -> tuple[int, int]:
    running, slots = llm.stats().num_running, llm.config.max_sequences
    if fails and running >= slots:
        raise Overloaded(f"all {slots} slots are taken; try again later")
    return min(running, slots), slots


def _render_slots(found: tuple[int, int], served: Served) -> bytes:
    running, slots = found
    return encode(
        [
            {"id": index, "n_ctx": served.max_context, "speculative": False, "is_processing": index < running}
            for index in range(slots)
        ]
    )
