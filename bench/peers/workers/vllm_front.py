"""vLLM's own server, with an engine that answers at once: its HTTP, template, tokenizer and detokenizer, and no model.

    python vllm_front.py MODEL PORT

What is put in the place of vLLM's engine process gives every open request a token in each turn of the event loop, and
costs nothing on the way: the messages between vLLM's processes are left out.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from types import SimpleNamespace
from typing import Any

_WORDS = (300, 400, 500)
"""Token ids that are said in turn, as by the engine of bench/front.py"""


class ScriptedCore:
    """What vLLM calls an EngineCoreClient."""

    engine_ranks_managed = (0,)
    resources = SimpleNamespace(engine_dead=False)

    def __init__(self) -> None:
        self._open: dict[str, list[int]] = {}  # tokens given, and at most
        self._has_work = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        """All else does nothing, at once or when it is awaited."""
        if name.endswith("_async"):
            return _nothing
        return lambda *_, **__: None

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        """That of a language model."""
        return ("generate",)

    async def add_request_async(self, request: Any) -> None:
        """Queue a request."""
        self._open[request.request_id] = [0, request.sampling_params.max_tokens]
        self._has_work.set()

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        """Drop some."""
        for request_id in request_ids:
            self._open.pop(request_id, None)

    async def get_output_async(self) -> Any:
        """A step."""
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

        while not self._open:
            self._has_work.clear()
            await self._has_work.wait()
        await asyncio.sleep(0)
        outputs = []
        for request_id, state in list(self._open.items()):
            token_id, state[0] = _WORDS[state[0] % 3], state[0] + 1
            is_last = state[0] >= state[1]
            reason = FinishReason.LENGTH if is_last else None
            outputs.append(EngineCoreOutput(request_id, [token_id], finish_reason=reason))
            if is_last:
                del self._open[request_id]
        return EngineCoreOutputs(outputs=outputs, timestamp=time.monotonic())


async def _nothing(*_: Any, **__: Any) -> None:
    """Done."""


def main() -> None:
    """Serve until killed."""
    model, port = sys.argv[1:]
    os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_CPU_KVCACHE_SPACE="1", CUDA_VISIBLE_DEVICES="")
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.core_client import EngineCoreClient

    EngineCoreClient.make_async_mp_client = staticmethod(lambda **_: ScriptedCore())
    options = ["--model", model, "--served-model-name", "stories", "--host", "127.0.0.1", "--port", port]
    quiet = ["--disable-uvicorn-access-log", "--uvicorn-log-level", "warning", "--max-num-seqs", "1024"]
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([*options, *quiet])
    validate_parsed_serve_args(arguments)
    uvloop.run(run_server(arguments))


if __name__ == "__main__":
    main()
