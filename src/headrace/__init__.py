"""headrace: one engine for large language models.

A request's way through the house:

    server/dialects/*.parse ── text/chat ── text/tokenizer ── AsyncLLM.submit
       engine/engine.step:  scheduler.schedule → runner.run → model/decoder.forward → ops.* → csrc
                            → ops.sample → engine.update
    ── text/detokenizer ── text/stop ── server/dialects/*.render ── server/sse

    cli/            one file per verb
    server/         HTTP; dialects/ holds one parse and render per API
    llm.py          LLM, for the caller's thread; async_llm.py: AsyncLLM, for an event loop
    loaded_model.py what both are: a model's text side (model_text.py) and requests for its engine (loaded_engine.py)
    local_engine.py that engine in threads of this process, as an event loop sees it (engine_port.py)
    supervise/      the same in a process of its own: watched, started again when it dies, streams go on
    requests.py     prompts and parameters (prompts.py, sampling_params.py, structured_output.py) → checked request
    completion.py   token ids → text, chunk by chunk
    pooling.py      texts → embeddings, classes, scores, rankings
    decisions.py    labels' log-probabilities → which one, and how sure
    text/           tokenizers, chat templates, incremental detokeniser, stop strings
    engine/         token ids only: scheduler, block cache with prefix tree, runner
    model/          spec (frozen data), families (tables), decoder (the only forward)
    ops/            the operations: base (the contract), reference (numpy oracle), cpu (native kernels)
    formats/        safetensors, GGUF, codecs of quantised blocks
    hub/            model names → files; the bundled model
    types.py        the nouns that all share; batch.py: of a step; pooled.py: of embeddings and scores
    errors.py       the error tree; config.py: frozen settings
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM, AsyncStream
    from headrace.config import EngineConfig
    from headrace.errors import HeadraceError
    from headrace.llm import LLM
    from headrace.loaded_adapters import LoRARequest
    from headrace.pooled import (
        ClassificationOutput,
        ClassificationRequestOutput,
        EmbeddingOutput,
        EmbeddingRequestOutput,
        RankedDocument,
        Ranking,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from headrace.prompts import TextPrompt, TokensPrompt
    from headrace.sampling_params import BeamSearchParams, SamplingParams
    from headrace.structured_output import StructuredOutput
    from headrace.types import (
        BeamSearchOutput,
        BeamSearchSequence,
        Chunk,
        CompletionOutput,
        Decision,
        FinishReason,
        LabelScore,
        Logprob,
        RequestOutput,
        ToolCall,
        ToolCallDelta,
        Usage,
    )

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncLLM",
    "AsyncStream",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "Chunk",
    "ClassificationOutput",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "Decision",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EngineConfig",
    "FinishReason",
    "HeadraceError",
    "LabelScore",
    "LoRARequest",
    "Logprob",
    "RankedDocument",
    "Ranking",
    "RequestOutput",
    "SamplingParams",
    "ScoringOutput",
    "ScoringRequestOutput",
    "StructuredOutput",
    "TextPrompt",
    "TokensPrompt",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
]

_HOMES = {
    "LLM": "llm",
    "AsyncLLM": "async_llm",
    "AsyncStream": "async_llm",
    "BeamSearchOutput": "types",
    "BeamSearchParams": "sampling_params",
    "BeamSearchSequence": "types",
    "Chunk": "types",
    "ClassificationOutput": "pooled",
    "ClassificationRequestOutput": "pooled",
    "CompletionOutput": "types",
    "Decision": "types",
    "EmbeddingOutput": "pooled",
    "EmbeddingRequestOutput": "pooled",
    "EngineConfig": "config",
    "FinishReason": "types",
    "HeadraceError": "errors",
    "LabelScore": "types",
    "LoRARequest": "loaded_adapters",
    "Logprob": "types",
    "RankedDocument": "pooled",
    "Ranking": "pooled",
    "RequestOutput": "types",
    "SamplingParams": "sampling_params",
    "ScoringOutput": "pooled",
    "ScoringRequestOutput": "pooled",
    "StructuredOutput": "structured_output",
    "TextPrompt": "prompts",
    "TokensPrompt": "prompts",
    "ToolCall": "types",
    "ToolCallDelta": "types",
    "Usage": "types",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that `import headrace` and `--help` stay quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    return getattr(import_module(f"headrace.{_HOMES[name]}"), name)
