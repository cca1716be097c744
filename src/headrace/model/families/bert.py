"""BERT, RoBERTa and XLM-RoBERTa: encoders with learned positions, norms after each sum, GELU."""

from __future__ import annotations

from dataclasses import replace

from headrace.errors import DamagedFile, UnsupportedModel
from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.config import SizeKeys, read_dense
from headrace.model.families.gguf import NAMES as GGUF_NAMES
from headrace.model.families.gguf import read_dense as read_dense_gguf
from headrace.model.families.gguf import rows_of
from headrace.model.families.heads import natural_score_function, read_labels, read_score_function
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable, Rows
from headrace.model.spec import (
    ClassifierSpec,
    LearnedPositions,
    ModelSpec,
    NormPlacement,
    PoolerSpec,
    Pooling,
    ScoreFunction,
)
from headrace.ops.kinds import Activation, NormKind

KEYS = SizeKeys(norm_eps="layer_norm_eps")
MODULES: dict[str, str | Rows] = {
    "embeddings.word_embeddings": "embed",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "embed_norm",
    "encoder.layer.{}.attention.self.query": "layers.{}.q",
    "encoder.layer.{}.attention.self.key": "layers.{}.k",
    "encoder.layer.{}.attention.self.value": "layers.{}.v",
    "encoder.layer.{}.attention.output.dense": "layers.{}.o",
    "encoder.layer.{}.attention.output.LayerNorm": "layers.{}.attention_post_norm",
    "encoder.layer.{}.intermediate.dense": "layers.{}.up",
    "encoder.layer.{}.output.dense": "layers.{}.down",
    "encoder.layer.{}.output.LayerNorm": "layers.{}.mlp_post_norm",
    "pooler.dense": "pooler",
    "classifier": "classifier",
}


def _names(*, prefix: str, masked_head: tuple[str, ...], changes: dict[str, str | Rows] | None = None) -> NameTable:
    """With the names of the heads that only training needs."""
    unused = ("pooler.dense", *masked_head)
    tensors = {f"{module}.{suffix}" for module in unused for suffix in ("weight", "bias")}
    buffers = {"embeddings.position_ids", "embeddings.token_type_ids"}
    return NameTable(MODULES | (changes or {}), (prefix,), frozenset(tensors | buffers))


BERT_NAMES = _names(
    prefix="bert.",
    masked_head=(
        "cls.predictions",
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.seq_relationship",
    ),
)
ROBERTA_NAMES = _names(
    prefix="roberta.",
    masked_head=("lm_head", "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    changes={"classifier.dense": "pooler", "classifier.out_proj": "classifier"},
)


def as_encoder(spec: ModelSpec, token_types: int) -> ModelSpec:
    """The spec with what BERT and its kin share: attention to both sides, norms after each sum and of the embedding."""
    return replace(
        spec,
        causal=False,
        language_head=False,
        tied_embeddings=False,
        norm=NormKind.LAYER,
        norm_placement=NormPlacement.AFTER,
        embedding_norm=True,
        final_norm=False,
        token_types=token_types,
    )


def read_encoder(config: Fields, family: str, *, theta: float | None = None) -> ModelSpec:
    """BERT's shape without positions, from which an encoder's family `replace`s what differs."""
    spec = read_dense(config, family, keys=KEYS, theta=theta, tied=True)
    config.only("is_decoder")  # harmless elsewhere, but here it would make attention causal
    config.only("add_cross_attention")
    config.only("position_embedding_type", "absolute")
    spec = as_encoder(spec, config.integer("type_vocab_size", minimum=0))
    return replace(spec, gated=False, qkv_bias=True, output_bias=True, mlp_bias=True)


def _bert(config: Fields) -> ModelSpec:
    spec = read_encoder(config, "BERT")
    return replace(spec, positions=LearnedPositions(spec.max_context))


def _roberta(config: Fields) -> ModelSpec:
    spec = read_encoder(config, "RoBERTa")
    offset = config.integer("pad_token_id", minimum=0) + 1  # positions are counted from behind the padding's row
    context = spec.max_context - offset
    if context < 1:
        raise config.refusal("pad_token_id", offset - 1, f"expected less than {spec.max_context} positions")
    return replace(spec, max_context=context, positions=LearnedPositions(spec.max_context, offset))


def read_encoder_gguf(source: GGUFSource, family: str, activation: Activation, *, rotary: bool) -> ModelSpec:
    """An encoder of a GGUF file; RoBERTa's is BERT's there, its positions without those of the padding."""
    spec = read_dense_gguf(source, family, norm=NormKind.LAYER, activation=activation, rotary=rotary, causal=False)
    token_types = rows_of(source, "token_types.weight") if "token_types.weight" in source.tensors else 0
    return replace(as_encoder(spec, token_types), classifier=_gguf_classifier(source))


def _gguf(source: GGUFSource) -> ModelSpec:
    spec = read_encoder_gguf(source, "BERT", Activation.GELU, rotary=False)
    return replace(spec, gated=False, positions=LearnedPositions(rows_of(source, "position_embd.weight")))


def _gguf_classifier(source: GGUFSource) -> ClassifierSpec | None:
    fields = source.fields
    names = [str(name) for name in fields.items("classifier.output_labels")]  # embedding models may have them too
    if "cls.output.weight" not in source.tensors:
        return None
    if "cls.weight" not in source.tensors:
        raise UnsupportedModel(
            f"{fields.source} has cls.output without cls, the layer before it, which llama.cpp's conversion leaves out"
            " of BERT; use the model's folder"
        )
    count = rows_of(source, "cls.output.weight")
    labels = tuple(names) or tuple(f"LABEL_{index}" for index in range(count))
    if len(labels) != count:
        raise DamagedFile(f"{fields.source} has {len(labels)} classifier.output_labels for {count} rows of cls.output")
    return _first_token(labels, natural_score_function(count))


def first_token_classifier(config: Fields) -> ClassifierSpec:
    """The first token's hidden state through a dense layer and tanh, then one row for each label."""
    labels = read_labels(config)
    return _first_token(labels, read_score_function(config, len(labels)))


def _first_token(labels: tuple[str, ...], function: ScoreFunction) -> ClassifierSpec:
    return ClassifierSpec(labels=labels, function=function, pooling=Pooling.FIRST, pooler=PoolerSpec())


BERT = Family(
    name="BERT",
    model_types=("bert",),
    from_config=_bert,
    config_names=BERT_NAMES,
    classifier=first_token_classifier,
    defaults={
        "hidden_act": "gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": 30522,
    },
    harmless=frozenset(
        {
            "directionality",  # these of the first multilingual checkpoint, never read
            "pooler_fc_size",
            "pooler_num_attention_heads",
            "pooler_num_fc_layers",
            "pooler_size_per_head",
            "pooler_type",
        }
    ),
    gguf_architectures=("bert",),
    from_gguf=_gguf,
    gguf_names=GGUF_NAMES,
)
ROBERTA = replace(
    BERT,
    name="RoBERTa, XLM-RoBERTa",
    model_types=("roberta", "xlm-roberta"),
    from_config=_roberta,
    config_names=ROBERTA_NAMES,
    defaults={key: value for key, value in BERT.defaults.items() if key != "vocab_size"} | {"pad_token_id": 1},
)
