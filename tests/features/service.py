"""The server that the probes call: the bundled model, over HTTP on a free port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import openai
from features.adapter import random_adapter
from features.asking import Asking
from features.catalogue import CHAT, COMPLETIONS, DECISIONS, LOAD_ADAPTER, UNLOAD_ADAPTER
from features.decision_parameters import CHOICE
from features.other_parameters import ADAPTER
from server.fake_llm import serving

from headrace import AsyncLLM, EngineConfig

MODEL = "stories"
TEMPLATE = Path(__file__).parent / "template.jinja"
"""Shows every variable that a request can set, in words that the model knows."""


@contextmanager
def asking() -> Iterator[Mapping[str, Asking]]:
    """Serve the bundled model; each endpoint by its name."""
    config = EngineConfig(kv_memory=32 * 2**20, threads=1, max_sequences=4)  # so few that priority shows
    llm = AsyncLLM(MODEL, config, chat_template=TEMPLATE)
    common = {"model": MODEL, "temperature": 0, "max_tokens": 12}
    with (
        TemporaryDirectory() as folder,
        serving(llm, MODEL, trust_request_chat_template=True, adapter_folder=Path(folder)) as base,
    ):
        random_adapter(Path(folder) / ADAPTER, llm.spec)
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
        messages = [{"role": "user", "content": "Once upon a time"}]
        yield {
            CHAT: Asking(client, llm, "/chat/completions", {**common, "messages": messages}),
            COMPLETIONS: Asking(client, llm, "/completions", {**common, "prompt": "Once upon a time"}),
            DECISIONS: Asking(client, llm, "/decisions", {"model": MODEL, "input": "Tom.", "questions": [CHOICE]}),
            LOAD_ADAPTER: Asking(client, llm, "/load_lora_adapter", {"lora_name": "mine", "lora_path": ADAPTER}),
            UNLOAD_ADAPTER: Asking(client, llm, "/unload_lora_adapter", {"lora_name": "mine"}),
        }
