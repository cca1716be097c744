"""A LoRA adapter of random numbers for any model with Llama's names, in PEFT's file format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from headrace.model.spec import ModelSpec


def random_adapter(folder: Path, spec: ModelSpec) -> Path:
    """Save one of rank 4 on the attention's output."""
    folder.mkdir(parents=True)
    width, rng = spec.hidden_size, np.random.default_rng(1)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.o_proj.lora_{side}.weight": (
            rng.standard_normal((4, width) if side == "A" else (width, 4)).astype(np.float32) * 0.2
        )
        for layer in range(len(spec.layers))
        for side in "AB"
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["o_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
