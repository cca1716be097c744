"""Which head a checkpoint has: `architectures` of config.json says it, for any family."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from headrace.model.fields import Fields
from headrace.model.recipes import NameTable
from headrace.model.spec import ClassifierSpec, ModelSpec, Pooling, ScoreFunction

_LANGUAGE = re.compile(r".*(ForCausalLM|LMHeadModel)")
_CLASSIFIER = re.compile(r".*ForSequenceClassification")
_BARE = re.compile(r"(?!.*(Heads|LMHead)Model).*Model")
_MASKED = re.compile(r".*(ForMaskedLM|ForPreTraining)")
"""An encoder's own training; the head that it had there is of no use and its weights are left out."""
_MAX_LABELS = 1_000_000

ClassifierReader = Callable[[Fields], ClassifierSpec]


def with_head(config: Fields, spec: ModelSpec, classifier: ClassifierReader) -> ModelSpec:
    """The spec with the head that the config's `architectures` name.

    Raises:
        UnsupportedModel: another head (of tokens, questions, choices …).
    """
    for given in config.items("architectures"):
        name = str(given)
        if _CLASSIFIER.fullmatch(name):
            return replace(spec, language_head=False, classifier=classifier(config))
        if _BARE.fullmatch(name) or (_MASKED.fullmatch(name) and not spec.language_head):
            return replace(spec, language_head=False)
        if not _LANGUAGE.fullmatch(name) or not spec.language_head:
            expected = "…ForCausalLM, …" if spec.language_head else "…"
            raise config.refusal(
                "architectures", name, f"expected {expected}Model for embeddings, or …ForSequenceClassification"
            )
    return spec


def last_token_classifier(config: Fields) -> ClassifierSpec:
    """Of decoders: one matrix on the last token's hidden state."""
    labels = read_labels(config)
    return ClassifierSpec(
        labels=labels, function=read_score_function(config, len(labels)), pooling=Pooling.LAST, bias=False
    )


def with_last_token_classifier(names: NameTable) -> NameTable:
    """A decoder's names with those of its classifier."""
    return replace(names, modules={"score": "classifier", **names.modules})


def read_labels(config: Fields) -> tuple[str, ...]:
    """The classes' names, from id2label; LABEL_0 … where there is none."""
    table = config.table("id2label")
    count = len(table) or config.integer("num_labels", 2, maximum=_MAX_LABELS)
    return tuple(str(table.get(str(index), f"LABEL_{index}")) for index in range(count))


def read_score_function(config: Fields, num_labels: int) -> ScoreFunction:
    """What the logits go through: as sentence-transformers wrote it down, or as transformers' pipelines have it."""
    written = config.table("sentence_transformers").get("activation_fn")
    written = written or config.raw("sbert_ce_default_activation_function")
    if written is not None:
        name = str(written).rpartition(".")[2].lower()
        known = {"identity": ScoreFunction.NONE, "sigmoid": ScoreFunction.SIGMOID, "softmax": ScoreFunction.SOFTMAX}
        if name not in known:
            raise config.refusal("activation_fn", written, "expected Identity, Sigmoid or Softmax")
        return known[name]
    match config.raw("problem_type"):
        case "regression":
            return ScoreFunction.NONE
        case "multi_label_classification":
            return ScoreFunction.SIGMOID
    return natural_score_function(num_labels)


def natural_score_function(num_labels: int) -> ScoreFunction:
    """What the logits go through where nothing says it."""
    return ScoreFunction.SIGMOID if num_labels == 1 else ScoreFunction.SOFTMAX
