"""The table of models that headrace runs: one row for each family, in files of a page."""

from __future__ import annotations

from headrace.model.families.base import Family
from headrace.model.families.bert import BERT, ROBERTA
from headrace.model.families.gemma import GEMMA2, GEMMA3
from headrace.model.families.gpt2 import GPT2
from headrace.model.families.gpt_neox import GPT_NEOX
from headrace.model.families.granite import GRANITE
from headrace.model.families.llama import LLAMA, MISTRAL, MIXTRAL
from headrace.model.families.modernbert import MODERNBERT
from headrace.model.families.nomic_bert import NOMIC_BERT
from headrace.model.families.olmo2 import OLMO2
from headrace.model.families.opt import OPT
from headrace.model.families.phi3 import PHI3
from headrace.model.families.qwen import QWEN2, QWEN3, QWEN3_MOE

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    GEMMA2,
    GEMMA3,
    PHI3,
    GPT2,
    OPT,
    GPT_NEOX,
    OLMO2,
    GRANITE,
    BERT,
    ROBERTA,
    MODERNBERT,
    NOMIC_BERT,
)
"""Where two have the same GGUF architecture, the first reads its files."""
