"""POST /tokenize and /detokenize, which several APIs have: who is meant, and what each is told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from headrace import AsyncLLM

TEXT = "Zoë — a boat"
MESSAGES = [{"role": "user", "content": "A boat"}]


def test_vllms_tokens_of_a_text(base: str, llm: AsyncLLM) -> None:
    ids = llm.tokenizer.encode(TEXT)
    body: dict[str, Any] = {"model": "stories", "prompt": TEXT}
    found = httpx.post(f"{base}/tokenize", json=body).json()
    assert found == {"count": len(ids), "max_model_len": 512, "tokens": ids, "token_strs": None}
    shown = httpx.post(f"{base}/tokenize", json={"prompt": TEXT, "return_token_strs": True}).json()
    assert len(shown["token_strs"]) == len(ids)
    assert shown["token_strs"][0] == "<|begin|>"
    bare = httpx.post(f"{base}/tokenize", json={**body, "add_special_tokens": False}).json()
    assert bare["tokens"] == ids[1:]


def test_vllms_tokens_of_a_conversation(base: str, llm: AsyncLLM) -> None:
    found = httpx.post(f"{base}/tokenize", json={"messages": MESSAGES, "return_token_strs": True}).json()
    assert found["tokens"] == llm.encode_chat(MESSAGES).token_ids
    assert len(found["token_strs"]) == found["count"]
    options = {"add_generation_prompt": False, "add_special_tokens": True}
    other = httpx.post(f"{base}/tokenize", json={"model": "stories", "messages": MESSAGES, **options}).json()
    assert other["tokens"] == llm.encode_chat(MESSAGES, **options).token_ids


def test_vllms_text_of_tokens(base: str, llm: AsyncLLM) -> None:
    ids = llm.tokenizer.encode(TEXT)
    found = httpx.post(f"{base}/detokenize", json={"model": "stories", "tokens": ids}).json()
    assert found == {"prompt": "<|begin|>" + TEXT}


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("tokenize", {"prompt": 3}, "prompt"),
        ("tokenize", {"prompt": "a", "other": 1}, "other"),
        ("tokenize", {"messages": MESSAGES, "return_token_strs": 2}, "return_token_strs"),
        ("tokenize", {"messages": MESSAGES, "chat_template": "{{ 1 }}"}, "chat_template"),
        ("tokenize", {"messages": MESSAGES, "seed": 2**70}, "seed"),
        ("tokenize", {"messages": []}, "messages"),
        ("tokenize", {"model": "other", "prompt": "a"}, "other"),
        ("detokenize", {"model": "stories", "tokens": [1, 10**9]}, "1000000000"),
        ("detokenize", {"model": "stories", "tokens": [-1]}, "-1"),
        ("detokenize", {"model": "stories"}, "tokens"),
    ],
    ids=str,
)
def test_vllms_mistakes(base: str, path: str, body: dict, word: str) -> None:
    response = httpx.post(f"{base}/{path}", json=body)
    assert response.status_code in (400, 404)
    assert word in response.json()["error"]["message"]
