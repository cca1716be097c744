"""Phi-3, Phi-3.5-mini, Phi-4: fused projections, partial rotation, longrope."""

from __future__ import annotations

from dataclasses import replace

from headrace.errors import UnsupportedModel
from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.config import read_dense, rope_from, rope_parameters, windowed
from headrace.model.families.gguf import ATTENTION_FACTOR, IGNORED, MODULES, ORIGINAL_CONTEXT, divisors
from headrace.model.families.gguf import read_dense as read_dense_gguf
from headrace.model.families.llama import IGNORED as CONFIG_IGNORED
from headrace.model.families.llama import MODULES as LLAMA_MODULES
from headrace.model.families.magnitudes import longrope_magnitude
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable, Rows
from headrace.model.spec import LongRopeScaling, ModelSpec, RopeSpec

GATE_UP = Rows("layers.{}.gate", "layers.{}.up")
NAMES = NameTable(
    {
        **LLAMA_MODULES,
        "layers.{}.self_attn.qkv_proj": Rows("layers.{}.q", "layers.{}.k", "layers.{}.v"),
        "layers.{}.mlp.gate_up_proj": GATE_UP,
    },
    ("model.",),
    CONFIG_IGNORED,
)
_OLD_WINDOWS = {4096: 2047, 131072: None}
"""Windows of the first Phi-3 models, by context: mini and medium 4k; mini and medium 128k, whose windows are no shorter
than their contexts."""
FACTORS = frozenset({"rope_factors_long.weight", "rope_factors_short.weight"})
GGUF_NAMES = NameTable({**MODULES, "blk.{}.ffn_up": GATE_UP}, ignored=IGNORED | FACTORS)


def _phi3(config: Fields) -> ModelSpec:
    spec = read_dense(config, "Phi-3", theta=None)
    parameters = rope_parameters(config)
    if parameters.get("rope_type", parameters.get("type")) in ("su", "yarn"):
        parameters = {**parameters, "rope_type": "longrope"}  # its names in the first files
    rope = rope_from(
        config,
        parameters,
        spec.head_dim,
        spec.max_context,
        theta=config.number("rope_theta", 10_000.0),
        partial=config.number("partial_rotary_factor", 1.0),
        original=config.integer("original_max_position_embeddings"),
    )
    window = config.optional_integer("sliding_window")
    spec = replace(spec, ropes=(rope,), layers=tuple(replace(layer, rope=0) for layer in spec.layers))
    return replace(spec, layers=windowed(spec, window, lambda _: True))


def _gguf(source: GGUFSource) -> ModelSpec:
    spec = read_dense_gguf(source, "Phi-3")
    spec = replace(spec, ropes=(_gguf_rope(source, spec),))
    window = _gguf_window(source.fields, spec.max_context)
    return replace(spec, layers=windowed(spec, window, lambda _: True))


def _gguf_window(fields: Fields, max_context: int) -> int | None:
    """The sliding window. Files of before August 2024 do not say it, but hold only models whose context tells it."""
    if fields.has("attention.sliding_window"):
        return fields.optional_integer("attention.sliding_window")
    if max_context not in _OLD_WINDOWS:
        raise UnsupportedModel(f"{fields.source} does not say its sliding window, as old files; convert it again")
    return _OLD_WINDOWS[max_context]


def _gguf_rope(source: GGUFSource, spec: ModelSpec) -> RopeSpec:
    original = source.fields.integer(ORIGINAL_CONTEXT, spec.max_context)
    inferred = longrope_magnitude(spec.max_context / original, original)
    magnitude = source.fields.number(ATTENTION_FACTOR, inferred)
    if "rope_factors_long.weight" not in source.tensors:
        return spec.ropes[0]
    short, long = (divisors(source.tensors[f"rope_factors_{each}.weight"]) for each in ("short", "long"))
    return replace(spec.ropes[0], scaling=LongRopeScaling(short, long, original, magnitude))


PHI3 = Family(
    name="Phi-3, Phi-4",
    model_types=("phi3",),
    from_config=_phi3,
    config_names=NAMES,
    defaults={
        "hidden_act": "silu",
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
    harmless=frozenset({"full_attn_mod", "interpolate_factor"}),  # Phi-4-mini's own; transformers does not read them
    gguf_architectures=("phi3",),
    from_gguf=_gguf,
    gguf_names=GGUF_NAMES,
)
