"""Triton's official client, unchanged, with the options that it has by default; run by test_apart.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_llm import FakeLLM, FakeTokenizer, answer, broken
from tritonclient import http
from tritonclient.utils import InferenceServerException

from headrace.errors import QueueFull

PROMPT = "Once upon a time"


def client_of(base: str) -> http.InferenceServerClient:
    return http.InferenceServerClient(base.removeprefix("http://"))


def tensor(name: str, kind: str, *values: Any, is_binary: bool = True) -> http.InferInput:
    made = http.InferInput(name, [len(values)], kind)
    array = np.array(values, dtype=object if kind == "BYTES" else {"FP32": np.float32, "INT32": np.int32}[kind])
    made.set_data_from_numpy(array, binary_data=is_binary)
    return made


def texts(client: http.InferenceServerClient, *prompts: str, model: str = "fake", **options: Any) -> list[str]:
    """What the prompts get, with binary tensors both ways."""
    given = client.infer(model, [tensor("text_input", "BYTES", *(one.encode() for one in prompts))], **options)
    return [each.decode() for each in given.as_numpy("text_output")]


def expected(prompt: str, length: int) -> str:
    return prompt + answer(FakeTokenizer().encode(prompt), 0, length)


def test_health_and_metadata(quick: str) -> None:
    client = client_of(quick)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("fake")
    assert client.is_model_ready("fake", "1")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert {one["name"] for one in client.get_model_metadata("fake")["outputs"]} >= {"text_output"}
    assert [one["state"] for one in client.get_model_repository_index()] == ["READY"]
    for ask in (client.get_model_config, client.get_inference_statistics):
        with pytest.raises(InferenceServerException, match="not implemented here"):
            ask("fake")


def test_infer(quick: str) -> None:
    client = client_of(quick)
    wanted = [expected("a", 7), expected("bé", 7)]
    assert texts(client, "a", "bé", parameters={"max_tokens": 7}) == wanted
    length = tensor("max_tokens", "INT32", 7)
    given = client.infer("fake", [tensor("text_input", "BYTES", b"a"), length], request_id="mine")
    assert given.as_numpy("text_output").tolist() == [wanted[0].encode()]
    assert given.get_response()["id"] == "mine"
    outputs = [http.InferRequestedOutput("text_output", binary_data=False), http.InferRequestedOutput("finish_reason")]
    given = client.infer(
        "fake",
        [tensor("text_input", "BYTES", b"a", is_binary=False)],
        outputs=outputs,
        parameters={"max_tokens": 7, "return_finish_reason": True},
    )
    assert given.as_numpy("text_output").tolist() == [wanted[0]]
    assert given.as_numpy("finish_reason").tolist() == [b"length"]
    asked = [client.async_infer("fake", [tensor("text_input", "BYTES", b"a"), length]) for _ in range(3)]
    assert [one.get_result().as_numpy("text_output").tolist() for one in asked] == [[wanted[0].encode()]] * 3


def test_the_bundled_model(stories: str) -> None:
    client = client_of(stories)
    [text] = texts(client, PROMPT, model="stories", parameters={"max_tokens": 12, "temperature": 0.0})
    assert text.startswith(f"{PROMPT}, there was")
    outputs = [http.InferRequestedOutput("embedding")]
    given = client.infer("stories", [tensor("text_input", "BYTES", b"A dog", b"A cat")], outputs=outputs)
    vectors = given.as_numpy("embedding")
    assert (vectors.dtype, vectors.shape) == (np.float32, (2, 192))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-3)


def test_errors(quick: str, serve: Any) -> None:
    def refused(base: str, **options: Any) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as error:
            texts(client_of(base), "a", **options)
        return error.value.status(), error.value.message()

    status, words = refused(quick, parameters={"temperature": -1.0})
    assert (status, "temperature is -1" in words) == ("400", True)
    assert refused(quick, model="other")[0] == "404"
    assert refused(serve(broken(QueueFull("too much waits")))) == ("429", "too much waits")
    keyed = serve(FakeLLM(), api_keys=("open-sesame",))
    assert refused(keyed)[0] == "401"
    assert texts(client_of(keyed), "a", headers={"Authorization": "Bearer open-sesame"}) == [expected("a", 16)]
