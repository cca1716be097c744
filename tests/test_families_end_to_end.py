"""Every family through the whole engine, beside transformers: greedy ids, log-probabilities, chunks, n > 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import VARIANTS, make_tiny, prompt, reference

from headrace import LLM, EngineConfig, SamplingParams

LENGTHS = (3, 37, 90)
"""The longest one crosses every sliding window and leaves a piece of a chunk over"""


@pytest.mark.parametrize("variant", VARIANTS)
def test_as_transformers_generates(variant: str, tmp_path: Path) -> None:
    import torch

    folder = make_tiny(variant, tmp_path)
    model = reference(folder)
    model.generation_config.eos_token_id = None  # go on, as ignore_eos does
    prompts = [prompt(length, seed=length) for length in LENGTHS]
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True, logprobs=0, n=2)
    llm = LLM(folder, EngineConfig(max_batch_tokens=48, threads=1))
    for tokens, output in zip(prompts, llm.generate(prompts, params), strict=True):
        first, second = output.outputs
        assert first.token_ids == second.token_ids
        with torch.no_grad():
            expected = model.generate(
                torch.tensor([tokens]), max_new_tokens=64, do_sample=False, pad_token_id=0,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        logits = torch.stack(expected.logits)[:, 0].double()
        ids = expected.sequences[0, len(tokens) :].tolist()
        assert first.token_ids == ids
        assert first.logprobs is not None
        ours = [entry[token_id].logprob for token_id, entry in zip(ids, first.logprobs, strict=True)]
        theirs = torch.log_softmax(logits, dim=-1)[range(64), ids].numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
