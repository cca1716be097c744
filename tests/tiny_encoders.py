"""Tiny random encoders and classifiers of every family that has such, saved by transformers.

`make_tiny_encoder(name, folder)` saves ENCODERS[name]; with `labels` a sequence classifier of that shape.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import NEOX, SIZES, VOCAB_SIZE, WINDOW, Variant

BERT = {**NEOX, "hidden_act": "gelu"}
MODERN = {key: value for key, value in NEOX.items() if key != "num_hidden_layers"} | {"num_hidden_layers": 4}

ENCODERS: dict[str, Variant] = {
    "bert": Variant("BertConfig"),
    "bert-other": Variant("BertConfig", {"hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-5}),
    "roberta": Variant("RobertaConfig", {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": Variant("XLMRobertaConfig", {"type_vocab_size": 1, "pad_token_id": 3}),
    "modernbert": Variant("ModernBertConfig", {"local_attention": WINDOW}),
    "modernbert-biases": Variant(
        "ModernBertConfig",
        {
            "local_attention": WINDOW + 1,
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_bias": True,
            "classifier_pooling": "mean",
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        },
    ),
    "nomic": Variant("NomicBertConfig"),
}
DECODERS: dict[str, Variant] = {"llama": Variant("LlamaConfig"), "qwen3": Variant("Qwen3Config", {"head_dim": 32})}

_BASES = {"ModernBertConfig": MODERN, "LlamaConfig": SIZES, "Qwen3Config": SIZES}


def make_tiny_encoder(name: str, folder: Path, labels: int | None = None, **changes: Any) -> Path:
    """Save the model, the same bytes every time: bare, or with a classifier of so many labels."""
    import torch
    import transformers

    variant = ENCODERS.get(name) or DECODERS[name]
    base = _BASES.get(variant.config, NEOX)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "cls_token_id": 0, "sep_token_id": 1}
    settings = {**base, **ids, **variant.changes, **changes}
    auto = transformers.AutoModel
    if labels is not None:
        settings["num_labels"] = labels
        auto = transformers.AutoModelForSequenceClassification
    transformers.utils.logging.disable_progress_bar()
    model = auto.from_config(getattr(transformers, variant.config)(**settings), dtype=torch.float32)
    rng = np.random.default_rng([zlib.crc32(name.encode()), labels or 0])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            values = rng.standard_normal(tuple(parameter.shape)).astype(np.float32)
            if parameter.ndim == 1:
                values = (0.2 * values + 1) if key.endswith("weight") else 0.1 * values
            elif "embed" in key:
                values *= 0.3
            else:
                values *= 1.5 / np.sqrt(64)
            parameter.copy_(torch.from_numpy(values))
    model.save_pretrained(folder)
    return folder


@lru_cache(maxsize=64)
def encoder_reference(folder: Path, *, classifier: bool = False) -> Any:
    """The model in transformers: float32, eager attention."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModel
    return auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def reference_output(model: Any, token_ids: list[int], token_types: list[int] | None = None) -> np.ndarray:
    """Hidden states [tokens, H] of one sequence, or a classifier's logits [labels]."""
    import torch

    inputs = {"input_ids": torch.tensor([token_ids]), "attention_mask": torch.ones(1, len(token_ids))}
    if token_types is not None:
        inputs["token_type_ids"] = torch.tensor([token_types])
    with torch.no_grad():
        output = model(**inputs)
    found = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return found[0].float().numpy()


def text_ids(length: int, seed: int = 0) -> list[int]:
    """Random token ids, none of them a padding's."""
    return np.random.default_rng(seed).integers(4, VOCAB_SIZE, length).tolist()


def save_tokenizer(folder: Path) -> Path:
    """A WordPiece tokenizer of VOCAB_SIZE tokens with BERT's template, for pairs too."""
    import json

    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [chr(ord("a") + index) for index in range(26)]
    words = ["the", "cat", "sat", "on", "mat", "dog", "sky", "is", "blue", "green", "red", "##s", "##ing", "what", "?"]
    pieces = [*special, *words, *letters, *(f"##{letter}" for letter in letters if letter != "s"), ".", ",", "1", "2"]
    pieces += [f"[unused{index}]" for index in range(VOCAB_SIZE - len(pieces))]
    backend = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.add_special_tokens(special)
    backend.enable_truncation(8)  # as some files have it: not what truncates here
    backend.enable_padding(length=8, pad_token="[PAD]")
    backend.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **names}))
    return folder
