"""The server that the probes call: the bundled model, over HTTP on a free port."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import openai
from features.adapter import random_adapter
from features.asking import Asking
from features.batch_parameters import batch_of_one
from features.catalogue import (
    BATCHES,
    CHAT,
    CLASSIFY,
    COMPLETIONS,
    DECISIONS,
    EMBEDDINGS,
    LOAD_ADAPTER,
    RERANK,
    RESPONSES,
    SCORE,
    UNLOAD_ADAPTER,
)
from features.decision_parameters import CHOICE
from features.other_parameters import ADAPTER
from features.pooling_parameters import PROMPT
from server.fake_llm import serving
from tiny_encoders import make_tiny_encoder, save_tokenizer

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
    response = {"model": MODEL, "temperature": 0, "max_output_tokens": 12, "store": False}
    with (
        ExitStack() as opened,
        TemporaryDirectory() as folder,
        serving(
            llm,
            MODEL,
            trust_request_chat_template=True,
            adapter_folder=Path(folder),
            store_folder=Path(folder) / "store",
        ) as base,
    ):
        random_adapter(Path(folder) / ADAPTER, llm.spec)
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
        messages = [{"role": "user", "content": "Once upon a time"}]
        pooling = _pooling(opened)
        yield {
            CHAT: Asking(client, llm, "/chat/completions", {**common, "messages": messages}),
            COMPLETIONS: Asking(client, llm, "/completions", {**common, "prompt": "Once upon a time"}),
            RESPONSES: Asking(client, llm, "/responses", {**response, "input": messages[0]["content"]}),
            BATCHES: Asking(client, llm, "/batches", batch_of_one(client, MODEL)),
            DECISIONS: Asking(client, llm, "/decisions", {"model": MODEL, "input": "Tom.", "questions": [CHOICE]}),
            LOAD_ADAPTER: Asking(client, llm, "/load_lora_adapter", {"lora_name": "mine", "lora_path": ADAPTER}),
            UNLOAD_ADAPTER: Asking(client, llm, "/unload_lora_adapter", {"lora_name": "mine"}),
            **pooling,
        }


def _pooling(opened: ExitStack) -> Mapping[str, Asking]:
    """Tiny encoders of random weights, each behind a server of its own until `opened` is closed."""
    folder = Path(opened.enter_context(TemporaryDirectory()))
    texts = ["the cat sat", "blue sky", "dogs"]
    bodies = {
        EMBEDDINGS: ("embedder", "bert", None, {"input": texts}),
        RERANK: ("reranker", "bert", 1, {"query": "a cat", "documents": texts}),
        SCORE: ("scorer", "bert", 1, {"text_1": "a cat", "text_2": texts}),
        CLASSIFY: ("classifier", "modernbert", 3, {"input": texts}),
    }
    found = {}
    for endpoint, (name, family, labels, body) in bodies.items():
        model = save_tokenizer(make_tiny_encoder(family, folder / name, labels))
        if endpoint == EMBEDDINGS:
            _as_sentence_transformer(model)
        llm = AsyncLLM(model, EngineConfig(kv_memory=2**20, threads=1))
        base = opened.enter_context(serving(llm, name))
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
        found[endpoint] = Asking(client, llm, f"/{endpoint}", {"model": name, **body})
    return found


def _as_sentence_transformer(model: Path) -> None:
    """Give a folder the files of sentence-transformers: mean, length 1, and a prompt for queries."""
    steps = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in steps.items()]
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (model / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": PROMPT}}))
