"""What a model is, for those who list and describe models. Nothing is computed from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from headrace.hub.files import ModelFiles
from headrace.model_text import ModelText


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model as it runs. Sizes that do not exist for it are 0."""

    family: str = ""
    """"Llama", "Qwen 3" …"""
    file_format: str = "safetensors"
    """Or "gguf" """
    num_parameters: int = 0
    weight_bytes: int = 0
    """Memory of the weights"""
    weight_formats: str = ""
    """The matrices' formats, that with the most bytes first: "q8_0, f32" """
    modified: float = 0.0
    """Unix time of the newest of its files"""
    vocab_size: int = 0
    embedding_size: int = 0
    num_layers: int = 0
    num_heads: int = 0
    num_kv_heads: int = 0
    inner_size: int = 0
    chat_template: str | None = None
    """Jinja; None for a model without one, which takes plain text only"""
    generates: bool = True
    """It gives text; others only embeddings or classes"""
    calls_tools: bool = False
    """As far as its chat template shows"""
    thinks: bool = False
    """The same"""
    recommended: Mapping[str, float] = field(default_factory=dict)
    """What its generation_config says of sampling, by the names of SamplingParams"""


def model_card(text: ModelText, weight_bytes: int, weight_formats: str) -> ModelCard:
    """The card of a loaded model."""
    spec, template = text.spec, text.chat_template
    return ModelCard(
        family=spec.family,
        file_format="safetensors" if text.files.gguf is None else "gguf",
        num_parameters=sum(prod(shape) for shape in spec.expected_weights().values()),
        weight_bytes=weight_bytes,
        weight_formats=weight_formats,
        modified=_modified(text.files),
        vocab_size=spec.vocab_size,
        embedding_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        inner_size=spec.inner_size,
        chat_template=None if template is None else next(iter(template.sources.values())),
        generates=spec.language_head,
        calls_tools=text.answer_format.has_calls,
        thinks=text.answer_format.has_thoughts,
        recommended=text.recommended,
    )


def _modified(files: ModelFiles) -> float:
    paths = files.gguf.paths if files.gguf is not None else ()
    if files.folder is not None:
        paths = tuple(path for path in files.folder.iterdir() if path.is_file())
    return max((path.stat().st_mtime for path in paths), default=0.0)
