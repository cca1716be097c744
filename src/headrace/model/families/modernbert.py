"""ModernBERT (arXiv:2412.13663): rotary positions, windows in two layers of three, gated GELU, norms before."""

from __future__ import annotations

from dataclasses import replace

from headrace.model.families.base import Family
from headrace.model.families.config import SizeKeys, read_activation, read_dense, read_layer_types, rope_from
from headrace.model.families.heads import read_labels, read_score_function
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable, Rows
from headrace.model.spec import ClassifierSpec, LayerSpec, ModelSpec, PoolerSpec, Pooling, RopeSpec
from headrace.ops.kinds import NormKind

KEYS = SizeKeys(norm_eps="norm_eps", activation="hidden_activation")
GLOBAL_THETA, LOCAL_THETA = 160_000.0, 10_000.0
NAMES = NameTable(
    {
        "embeddings.tok_embeddings": "embed",
        "embeddings.norm": "embed_norm",
        "layers.{}.attn_norm": "layers.{}.attention_norm",
        "layers.{}.attn.Wqkv": Rows("layers.{}.q", "layers.{}.k", "layers.{}.v"),
        "layers.{}.attn.Wo": "layers.{}.o",
        "layers.{}.mlp_norm": "layers.{}.mlp_norm",
        "layers.{}.mlp.Wi": Rows("layers.{}.gate", "layers.{}.up"),
        "layers.{}.mlp.Wo": "layers.{}.down",
        "final_norm": "norm",
        "head.dense": "pooler",
        "head.norm": "pooler_norm",
        "classifier": "classifier",
    },
    ("model.",),
    frozenset(
        f"{module}.{suffix}" for module in ("head.dense", "head.norm", "decoder") for suffix in ("weight", "bias")
    ),  # of masked language models
)


def _modernbert(config: Fields) -> ModelSpec:
    spec = read_dense(config, "ModernBERT", keys=KEYS, theta=None, tied=True)
    period = config.integer("global_attn_every_n_layers", 3)
    sliding = read_layer_types(config, spec.num_layers, lambda index: index % period != 0)
    reach = config.integer("local_attention") // 2
    layers = tuple(
        LayerSpec(reach + 1, 1, attention_norm=index > 0) if each else LayerSpec(attention_norm=index > 0)
        for index, each in enumerate(sliding)
    )
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    return replace(
        spec,
        causal=False,
        language_head=False,
        tied_embeddings=False,
        norm=NormKind.LAYER,
        norm_bias=config.flag("norm_bias", False),
        embedding_norm=True,
        ropes=_ropes(config, spec),
        layers=layers,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=mlp_bias,
    )


def _ropes(config: Fields, spec: ModelSpec) -> tuple[RopeSpec, RopeSpec]:
    """Of the full layers, and of those with a window."""
    nested = Fields(config.table("rope_parameters"), f"{config.source}: rope_parameters")
    scaling = config.table("rope_scaling")
    full, sliding = nested.table("full_attention"), nested.table("sliding_attention")
    nested.finish()
    thetas = config.number("global_rope_theta", GLOBAL_THETA), config.number("local_rope_theta", LOCAL_THETA)
    return (
        rope_from(config, {**full, **scaling}, spec.head_dim, spec.max_context, theta=thetas[0]),
        rope_from(config, {**sliding, **scaling}, spec.head_dim, spec.max_context, theta=thetas[1]),
    )


def _classifier(config: Fields) -> ClassifierSpec:
    kinds = {"cls": Pooling.FIRST, "mean": Pooling.MEAN}
    pooling = config.text("classifier_pooling")
    if pooling not in kinds:
        raise config.refusal("classifier_pooling", pooling, "expected cls or mean")
    labels = read_labels(config)
    return ClassifierSpec(
        labels=labels,
        function=read_score_function(config, len(labels)),
        pooling=kinds[pooling],
        pooler=PoolerSpec(
            activation=read_activation(config, "classifier_activation"),
            bias=config.flag("classifier_bias", False),
            norm=True,
        ),
    )


MODERNBERT = Family(
    name="ModernBERT",
    model_types=("modernbert",),
    from_config=_modernbert,
    config_names=NAMES,
    classifier=_classifier,
    defaults={
        "classifier_activation": "gelu",
        "classifier_pooling": "cls",
        "hidden_activation": "gelu",
        "hidden_size": 768,
        "intermediate_size": 1152,
        "local_attention": 128,
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "num_attention_heads": 12,
        "num_hidden_layers": 22,
        "vocab_size": 50368,
    },
    harmless=frozenset(
        {
            "classifier_activation",  # these three where there is no classifier
            "classifier_bias",
            "classifier_pooling",
            "decoder_bias",  # of masked language models, as the next two
            "sparse_prediction",
            "sparse_pred_ignore_index",
            "deterministic_flash_attn",
            "embedding_dropout",
            "initializer_cutoff_factor",
            "layer_norm_eps",  # a leftover beside norm_eps, which is what counts
            "mlp_dropout",
            "position_embedding_type",  # likewise
            "reference_compile",
            "repad_logits_with_grad",
        }
    ),
)
