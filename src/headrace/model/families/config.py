"""Reading config.json: what the families share. Old keys and transformers 5's; defaults are those of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.errors import DamagedFile
from headrace.model.families.magnitudes import longrope_magnitude, yarn_magnitude
from headrace.model.fields import Fields
from headrace.model.spec import (
    LayerSpec,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ModelSpec,
    RopeScaling,
    RopeSpec,
    YarnScaling,
)
from headrace.ops.kinds import Activation

MAX_LAYERS = 1000
MAX_EXPERTS = 10_000
"""No model comes near; a damaged config must not fill the memory."""

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}

_BOOKKEEPING = """
    architectures model_type transformers_version torch_dtype dtype auto_map tokenizer_class unsloth_version
    unsloth_fixed name_or_path model_name id2label label2id problem_type finetuning_task task_specific_params
    return_dict use_return_dict output_hidden_states output_attentions torchscript use_bfloat16 chunk_size_feed_forward
    num_labels attn_implementation model_max_length max_sequence_length transformers.js_config output_past
    custom_pipeline custom_pipelines sentence_transformers sbert_ce_default_activation_function
"""
_TRAINING = """
    attention_dropout attn_pdrop embd_pdrop resid_pdrop hidden_dropout dropout activation_dropout
    classifier_dropout attention_probs_dropout_prob hidden_dropout_prob layerdrop initializer_range init_std
    gradient_checkpointing pretraining_tp output_router_logits router_aux_loss_coef router_jitter_noise
    is_decoder
"""
_TOKEN_IDS = (
    "bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id cls_token_id mask_token_id decoder_start_token_id"
)
_GENERATION = """
    use_cache cache_implementation max_length min_length do_sample early_stopping num_beams num_beam_groups
    diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores return_dict_in_generate
    forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens prefix
"""
HARMLESS = frozenset(" ".join((_BOOKKEEPING, _TRAINING, _TOKEN_IDS, _GENERATION)).split())
"""Keys of any family that do not change the logits: bookkeeping; training; token ids (the tokenizer and
generation_config speak for those); defaults of generation. So are keys that begin with an underscore."""


@dataclass(frozen=True, slots=True)
class SizeKeys:
    """Which keys hold the sizes."""

    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    inner: str = "intermediate_size"
    context: str = "max_position_embeddings"
    activation: str = "hidden_act"
    norm_eps: str = "rms_norm_eps"


def read_dense(
    config: Fields, family: str, *, keys: SizeKeys = SizeKeys(), tied: bool = False, theta: float | None = 10_000.0
) -> ModelSpec:
    """What most families say in the same words: Llama's shape, from which a family `replace`s what differs.

    `tied` and `theta` are the defaults of tie_word_embeddings and rope_theta; theta None is a model without rope.
    """
    hidden, heads = config.integer(keys.hidden), config.integer(keys.heads)
    head_dim = config.optional_integer("head_dim") or hidden // heads
    if not config.has("head_dim") and hidden % heads:
        raise DamagedFile(f"{config.source}: {keys.hidden} {hidden} is not a multiple of {keys.heads} {heads}")
    max_context = config.integer(keys.context)
    ropes = () if theta is None else (read_rope(config, head_dim, max_context, theta),)
    config.only("quantization_config")
    return ModelSpec(
        family=family,
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=config.optional_integer("num_key_value_heads") or heads,
        head_dim=head_dim,
        inner_size=config.optional_integer(keys.inner) or 4 * hidden,
        max_context=_stretched(max_context, ropes),
        layers=(LayerSpec(rope=0 if ropes else None),) * config.integer(keys.layers, maximum=MAX_LAYERS),
        norm_eps=config.number(keys.norm_eps, 1e-5),
        ropes=ropes,
        activation=read_activation(config, keys.activation),
        attention_scale=head_dim**-0.5,
        tied_embeddings=config.flag("tie_word_embeddings", tied),
    )


def read_activation(config: Fields, key: str) -> Activation:
    """The activation that the key names."""
    name = config.text(key)
    if name not in ACTIVATIONS:
        raise config.refusal(key, name, f"expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


# Windows


def windowed(spec: ModelSpec, window: int | None, is_sliding: Callable[[int], bool]) -> tuple[LayerSpec, ...]:
    """The spec's layers, those for which is_sliding(index) with the window."""
    return tuple(
        LayerSpec(window if is_sliding(index) else None, layer.rope, layer.moe)
        for index, layer in enumerate(spec.layers)
    )


def read_layer_types(config: Fields, num_layers: int, default: Callable[[int], bool]) -> list[bool]:
    """For each layer, whether it attends to a window only: from layer_types where the config has them."""
    if not config.has("layer_types"):
        return [default(index) for index in range(num_layers)]
    types = config.items("layer_types")
    if len(types) != num_layers:
        raise DamagedFile(f"{config.source}: layer_types is {types!r:.100}, expected a list of {num_layers} names")
    for name in types:
        if name not in ("full_attention", "sliding_attention"):
            raise config.refusal("layer_types", name, "expected full_attention or sliding_attention")
    return [name == "sliding_attention" for name in types]


# Rope


def read_rope(config: Fields, head_dim: int, max_context: int, theta: float) -> RopeSpec:
    """From rope_parameters (transformers 5) or from rope_scaling, rope_theta and partial_rotary_factor."""
    theta = config.number("rope_theta", theta)
    partial = config.number("partial_rotary_factor", 1.0)
    parameters = rope_parameters(config)
    original = config.optional_integer("original_max_position_embeddings")
    return rope_from(config, parameters, head_dim, max_context, theta=theta, partial=partial, original=original)


def _stretched(max_context: int, ropes: tuple[RopeSpec, ...]) -> int:
    """Positions with the scaling: configs name those of before linear scaling, and may name those of before YaRN."""
    match ropes[0].scaling if ropes else None:
        case LinearScaling(factor):
            return int(max_context * max(factor, 1.0))
        case YarnScaling(factor, original_context):
            return max(max_context, int(original_context * factor))
    return max_context


def rope_parameters(config: Fields) -> dict[str, Any]:
    """Transformers 5's name or the older one, which goes before it."""
    new, old = config.table("rope_parameters"), config.table("rope_scaling")
    return old or new


def rope_from(
    config: Fields,
    parameters: dict[str, Any],
    head_dim: int,
    max_context: int,
    *,
    theta: float,
    partial: float = 1.0,
    original: int | None = None,
) -> RopeSpec:
    """From one dictionary of rope parameters; theta, partial and original are what stands outside of it."""
    rope = Fields(parameters, f"{config.source}: rope parameters")
    theta, partial = rope.number("rope_theta", theta), rope.number("partial_rotary_factor", partial)
    rotated = int(head_dim * partial)
    kind = rope.text("rope_type", rope.raw("type") or "default")
    given = rope.optional_integer("original_max_position_embeddings")
    scaling = _read_scaling(rope, kind, rotated, max_context, original or given or max_context)
    rope.finish({"finetuned"})
    return RopeSpec(rotated, theta, scaling)


def _read_scaling(rope: Fields, kind: str, rotated: int, max_context: int, original: int) -> RopeScaling | None:
    match kind:
        case "default":
            return None
        case "linear":
            return LinearScaling(rope.number("factor"))
        case "llama3":
            low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
            return Llama3Scaling(rope.number("factor"), low, high, original)
        case "yarn":
            factor = rope.number("factor", max_context / original)
            return YarnScaling(
                factor,
                original,
                _yarn_magnitude(rope, factor),
                rope.number("beta_fast", 32.0),
                rope.number("beta_slow", 1.0),
                rope.flag("truncate", True),
            )
        case "longrope":
            factor = rope.number("factor", max_context / original)
            return LongRopeScaling(
                rope.numbers("short_factor", rotated // 2),
                rope.numbers("long_factor", rotated // 2),
                original,
                rope.number("attention_factor", longrope_magnitude(factor, original)),
            )
    raise rope.refusal("rope_type", kind, "expected default, linear, llama3, yarn or longrope")


def _yarn_magnitude(rope: Fields, factor: float) -> float:
    mscale, all_dim = rope.optional_number("mscale"), rope.optional_number("mscale_all_dim")
    inferred = yarn_magnitude(factor)
    if mscale is not None and all_dim is not None:
        inferred = yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all_dim)
    return rope.number("attention_factor", inferred)
