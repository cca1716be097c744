"""KServe's paths and Triton's: metadata and health, generate, infer, against the protocol's own schemas."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from fake_llm import FakeLLM, FakeTokenizer, answer, broken, serving

from headrace import AsyncLLM
from headrace.errors import EngineError

IDS = FakeTokenizer().encode("hello")
MODEL = "/v2/models/fake"
Check = Callable[[str, Any], None]


@pytest.fixture(scope="session")
def check(shared: Path) -> Check:
    """check(name, value): the value is what the protocol's document calls by that name, and has no other fields."""
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load((shared / "data/specs/kserve_v2.yaml").read_text())

    def against(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)
        assert set(value) <= set(document["components"]["schemas"][name]["properties"])

    return against


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:")]


def texts(*values: str, **named: Any) -> dict[str, Any]:
    """A request of infer."""
    tensor = {"name": "text_input", "shape": [len(values)], "datatype": "BYTES", "data": list(values)}
    return {"inputs": [tensor], "parameters": named}


def test_health_needs_no_key_and_falls_with_the_engine() -> None:
    llm = FakeLLM()
    with serving(llm, api_keys=("secret",)) as base:
        assert httpx.get(f"{base}/v2/health/live").json() == {"live": True}
        assert httpx.get(f"{base}/v2/health/ready").json() == {"ready": True}
        assert httpx.get(f"{base}{MODEL}/ready").status_code == 401
        llm.trouble = "it is restarting"
        assert httpx.get(f"{base}/v2/health/live").status_code == 200
        response = httpx.get(f"{base}/v2/health/ready")
        assert (response.status_code, response.json()) == (503, {"error": "it is restarting"})
        llm.trouble = None


def test_metadata(base: str, check: Check) -> None:
    for path in ("/v2", "/v2/"):
        check("metadata_server_response", httpx.get(f"{base}{path}").json())
    plain = httpx.get(f"{base}/v2/models/stories").json()
    check("metadata_model_response", plain)
    assert (plain["name"], plain["versions"]) == ("stories", ["1"])
    assert httpx.get(f"{base}/v2/models/stories/versions/1").json() == plain
    for path in ("/v2/models/stories/ready", "/v2/models/stories/versions/1/ready"):
        assert httpx.get(f"{base}{path}").json() == {"name": "stories", "ready": True}
    for path in ("other", "other/ready", "stories/versions/2", "stories/versions/2/ready"):
        response = httpx.get(f"{base}/v2/models/{path}")
        assert response.status_code == 404
        check("metadata_model_error_response", response.json())
    assert httpx.post(f"{base}/v2/repository/index").json() == [
        {"name": "stories", "version": "1", "state": "READY", "reason": ""}
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"parameters": {"max_tokens": 6, "exclude_input_in_output": True}},
        {"max_tokens": 6, "exclude_input_in_output": True},
        {"max_tokens": 6, "parameters": {"exclude_input_in_output": True, "stream": False}},
        {"sampling_parameters": '{"max_tokens": 6}', "exclude_input_in_output": True},
    ],
    ids=str,
)
def test_generate(quick: str, body: dict) -> None:
    # As curl sends it, which declares a form.
    form = {"content-type": "application/x-www-form-urlencoded"}
    content = json.dumps({"text_input": "hello", **body})
    for path in (f"{MODEL}/generate", f"{MODEL}/versions/1/generate"):
        response = httpx.post(f"{quick}{path}", content=content, headers=form)
        assert response.json() == {"model_name": "fake", "model_version": "1", "text_output": answer(IDS, 0, 6)}


def test_the_answer_begins_with_the_prompt_and_shows_what_is_asked(quick: str) -> None:
    shows = dict.fromkeys(
        (
            "return_finish_reason",
            "return_num_input_tokens",
            "return_num_output_tokens",
            "return_cumulative_logprob",
        ),
        True,
    )
    body = {"text_input": ["hello"], "max_tokens": 4, "id": "7", "parameters": shows}
    assert httpx.post(f"{quick}{MODEL}/generate", json=body).json() == {
        "model_name": "fake",
        "model_version": "1",
        "id": "7",
        "text_output": "hello" + answer(IDS, 0, 4),
        "finish_reason": "length",
        "num_input_tokens": len(IDS),
        "num_output_tokens": 4,
        "cumulative_logprob": -6.0,
    }


def test_generate_stream(quick: str) -> None:
    body = {"text_input": "hello", "parameters": {"stream": True, "max_tokens": 5, "return_finish_reason": True}}
    found = events(httpx.post(f"{quick}{MODEL}/generate_stream", json=body))
    assert len(found) == 5
    assert "".join(event["text_output"] for event in found) == answer(IDS, 0, 5)
    assert [event["finish_reason"] for event in found] == [None] * 4 + ["length"]
    assert all(event["model_name"] == "fake" for event in found)
    body["parameters"]["stream"] = False
    assert [event["text_output"] for event in events(httpx.post(f"{quick}{MODEL}/generate_stream", json=body))] == [
        answer(IDS, 0, 5)
    ]


def test_parameters_reach_the_sampler(quick: str, quick_llm: FakeLLM) -> None:
    body = {"text_input": "hello", "random_seed": 5, "stop_words": ["x"], "bad_words": "y", "top_p": 0.5}
    assert httpx.post(f"{quick}{MODEL}/generate", json=body).status_code == 200
    params = quick_llm.streams[-1].params
    assert (params.seed, params.stop, params.bad_words, params.top_p) == (5, ("x",), ("y",), 0.5)
    assert (params.temperature, params.top_k, params.max_tokens) == (0.25, 7, 16), "the model's, and vLLM's"


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("generate", {"text_input": "a", "stream": True}, "generate_stream"),
        ("generate_stream", {"text_input": "a", "exclude_input_in_output": False}, "exclude_input_in_output"),
        ("generate", {"text_input": ["a", "b"]}, "infer"),
        ("generate", {"text_input": "a", "seed": 1, "random_seed": 2}, "seed"),
        ("generate", {"text_input": "a", "top_k": 1, "parameters": {"top_k": 2}}, "top_k"),
        ("generate", {"text_input": "a", "image": ["x"]}, "image"),
        ("generate", {"text_input": "a", "parameters": {"beams": 2}}, "beams"),
        ("generate", {"text_input": "a", "temperature": -1}, "temperature"),
        ("generate", {"text_input": "a", "sampling_parameters": "[]"}, "object"),
        ("generate", {}, "text_input"),
        ("infer", texts("a", stream=True), "generate_stream"),
        ("infer", texts("a", binary_data_output=1), "binary_data_output"),
        ("infer", texts("a") | {"outputs": [{"name": "text_output", "parameters": {"binary_data": "x"}}]}, "binary"),
        ("infer", texts("a") | {"outputs": [{"name": "text_output", "parameters": {"other": True}}]}, "other"),
        ("infer", texts("a") | {"outputs": [{"name": "logits"}]}, "logits"),
        ("infer", texts("a") | {"outputs": [{"name": "embedding"}, {"name": "text_output"}]}, "text_output"),
        ("infer", texts("a", max_tokens=3) | {"outputs": [{"name": "embedding"}]}, "max_tokens"),
        ("infer", texts(), "text_input"),
        ("infer", {"inputs": []}, "text_input"),
        ("infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP8", "data": [1]}]}, "FP8"),
        ("infer", {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1]}]}, "shape"),
        ("infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [True]}]}, "INT32"),
        ("infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [2**70]}]}, ""),
        ("infer", {"inputs": [{"name": "x", "shape": [-1, -1], "datatype": "INT32", "data": [1]}]}, "shape"),
        ("infer", {"inputs": [{"name": "x", "shape": [1] * 9, "datatype": "INT32", "data": [1]}]}, "at most 8"),
    ],
    ids=str,
)
def test_mistakes_are_named(quick: str, check: Check, path: str, body: dict, word: str) -> None:
    response = httpx.post(f"{quick}{MODEL}/{path}", json=body)
    assert response.status_code == 400
    check("inference_error_response", response.json())
    assert word in response.json()["error"]


def binary(**tensors: tuple[str, list[int], bytes]) -> tuple[bytes, dict[str, str]]:
    """A body with tensors behind its JSON, and the header that says where."""
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, (kind, shape, data) in tensors.items()
    ]
    begun = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    header = {"Inference-Header-Content-Length": str(len(begun))}
    return begun + b"".join(data for _, _, data in tensors.values()), header


def row(*texts: str) -> bytes:
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)


def test_tensors_behind_the_json(quick: str, quick_llm: FakeLLM) -> None:
    values = {
        "temperature": ("FP32", struct.pack("<f", 0.5)),
        "top_p": ("BF16", b"\x00\x3f"),
        "min_p": ("FP16", b"\0\x34"),
    }
    values |= {"max_tokens": ("INT32", b"\7\0\0\0"), "return_num_output_tokens": ("BOOL", b"\1")}
    body, header = binary(
        text_input=("BYTES", [2], row("a", "bé")), **{name: (kind, [1], data) for name, (kind, data) in values.items()}
    )
    response = httpx.post(f"{quick}{MODEL}/infer", content=body, headers=header)
    assert response.headers["content-type"] == "application/octet-stream"
    size = int(response.headers["inference-header-content-length"])
    outputs = json.loads(response.content[:size])["outputs"]
    assert [one["name"] for one in outputs] == ["text_output", "num_output_tokens"]
    assert all("data" not in one for one in outputs)
    expected = [text + answer(FakeTokenizer().encode(text), 0, 7) for text in ("a", "bé")]
    assert response.content[size:] == row(*expected) + struct.pack("<2I", 7, 7)
    params = quick_llm.streams[-1].params
    assert (params.temperature, params.top_p, params.min_p, params.max_tokens) == (0.5, 0.5, 0.25, 7)


def test_only_some_outputs_are_binary(quick: str) -> None:
    outputs = [{"name": "text_output", "parameters": {"binary_data": False}}, {"name": "finish_reason"}]
    asked = texts("a", binary_data_output=True, return_finish_reason=True, max_tokens=3) | {"outputs": outputs}
    response = httpx.post(f"{quick}{MODEL}/infer", json=asked)
    size = int(response.headers["inference-header-content-length"])
    text, reason = json.loads(response.content[:size])["outputs"]
    assert len(text["data"]) == 1
    assert (reason["parameters"], response.content[size:]) == ({"binary_data_size": 10}, row("length"))


@pytest.mark.parametrize(
    ("kind", "shape", "data", "word"),
    [
        ("BYTES", [1], b"\1\0\0", "within a text"),
        ("BYTES", [1], b"\5\0\0\0ab", "within a text"),
        ("BYTES", [1], b"\1\0\0\0\xff", "UTF-8"),
        ("BYTES", [2], row("a"), "shape"),
        ("FP32", [1], b"\0\0\0", "FP32"),
        ("BF16", [1], b"\0", "BF16"),
        ("FP64", [1], struct.pack("<d", float("nan")), "finite"),
        ("FP8", [1], b"\0", "FP8"),
        ("BOOL", [70_000], bytes(70_000), "more than 65,536"),
        ("BYTES", [70_000], row("") * 70_000, "more than 65,536"),
    ],
)
def test_tensors_that_are_none(quick: str, check: Check, kind: str, shape: list[int], data: bytes, word: str) -> None:
    body, header = binary(text_input=("BYTES", [1], row("a")), temperature=(kind, shape, data))
    response = httpx.post(f"{quick}{MODEL}/infer", content=body, headers=header)
    assert response.status_code == 400
    check("inference_error_response", response.json())
    assert word in response.json()["error"]


@pytest.mark.parametrize(
    ("kind", "count", "data"),
    [("INT8", 60_000, bytes(60_000)), ("BF16", 60_000, bytes(120_000)), ("BYTES", 60_000, row("") * 60_000)],
)
def test_the_values_of_all_tensors_are_bounded_together(quick: str, kind: str, count: int, data: bytes) -> None:
    stop = ("BYTES", [8_000], row("") * 8_000)
    body, header = binary(text_input=("BYTES", [1], row("a")), stop_words=stop, stop_token_ids=(kind, [count], data))
    response = httpx.post(f"{quick}{MODEL}/infer", content=body, headers=header)
    assert response.status_code == 400
    assert "more than 65,536 values behind its JSON, up to inputs[2]; send fewer" in response.json()["error"]
    body, header = binary(text_input=("BYTES", [1], row("a")), stop_token_ids=(kind, [count], data))
    response = httpx.post(f"{quick}{MODEL}/infer", content=body, headers=header)
    assert "behind its JSON" not in response.text, "so many are not too many alone"


def test_what_stands_behind_the_json_has_to_be_said(quick: str) -> None:
    body, header = binary(text_input=("BYTES", [1], row("a")))
    for wrong, headers in (
        (body + b"x", header),
        (body[:-1], header),
        (body, {}),
        *((body, {"Inference-Header-Content-Length": size}) for size in ("0", "-1", "x", "999999", "9" * 30)),
    ):
        response = httpx.post(f"{quick}{MODEL}/infer", content=wrong, headers=headers)
        assert response.status_code == 400, headers


def test_what_stands_behind_the_json_is_not_counted_as_json() -> None:
    text = "1" * 500 + " [,{" * 100
    body, header = binary(text_input=("BYTES", [1], row(text)), max_tokens=("INT32", [1], b"\1\0\0\0"))
    with serving(FakeLLM(), max_json_values=200) as base:
        url = f"{base}{MODEL}/infer"
        assert httpx.post(url, content=body, headers=header).status_code == 200
        many = json.dumps([{}] * 100).encode()
        for content, headers, at in (
            (many + body, {"Inference-Header-Content-Length": str(len(many))}, "infer"),  # it is before the end
            (body, {}, "infer"),
            (many, {"Inference-Header-Content-Length": "1"}, "generate"),  # where the header means nothing
        ):
            response = httpx.post(f"{base}{MODEL}/{at}", content=content, headers=headers)
            assert response.status_code == 413, (at, headers)


def test_parameters_in_a_text_are_counted_as_those_of_the_body() -> None:
    few, many = ('{"stop_token_ids": [' + "1," * count + "1]}" for count in (20, 200))
    with serving(FakeLLM(), max_json_values=200) as base:
        for text, status in ((few, 200), (many, 413)):
            generate = {"text_input": "a", "sampling_parameters": text, "max_tokens": 1}
            assert httpx.post(f"{base}{MODEL}/generate", json=generate).status_code == status
            inputs = [
                {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}
                for name, value in (("text_input", "a"), ("sampling_parameters", text))
            ]
            assert httpx.post(f"{base}{MODEL}/infer", json={"inputs": inputs}).status_code == status


def test_failures() -> None:
    with serving(broken(EngineError("it fell over"))) as base:
        response = httpx.post(f"{base}{MODEL}/generate", json={"text_input": "a"})
        assert (response.status_code, response.json()) == (500, {"error": "it fell over"})
    with serving(broken(EngineError("it fell over"), after=2)) as base:
        found = events(httpx.post(f"{base}{MODEL}/generate_stream", json={"text_input": "a"}))
        assert found[-1] == {"error": "it fell over"}


def test_infer_generates_for_each_text(base: str, check: Check) -> None:
    both = ["Once upon a time", "The boat"]
    body = texts(*both, max_tokens=8, temperature=0, exclude_input_in_output=True, return_num_output_tokens=True)
    body["id"] = "42"
    found = httpx.post(f"{base}/v2/models/stories/infer", json=body).json()
    check("inference_response", found)
    assert found["id"] == "42"
    assert [(output["name"], output["datatype"], output["shape"]) for output in found["outputs"]] == [
        ("text_output", "BYTES", [2]),
        ("num_output_tokens", "UINT32", [2]),
    ]
    alone = [
        httpx.post(
            f"{base}/v2/models/stories/generate",
            json={"text_input": text, "parameters": {**body["parameters"], "return_num_output_tokens": False}},
        ).json()["text_output"]
        for text in both
    ]
    assert found["outputs"][0]["data"] == alone


def test_parameters_may_be_tensors(base: str) -> None:
    body = texts("Once upon a time")
    body["inputs"][0] |= {"shape": [1, 1], "data": [["Once upon a time"]]}
    body["inputs"] += [
        {"name": "max_tokens", "shape": [1], "datatype": "INT32", "data": [8]},
        {"name": "temperature", "shape": [1], "datatype": "FP32", "data": [0]},
        {"name": "exclude_input_in_output", "shape": [1], "datatype": "BOOL", "data": [True]},
    ]
    other = texts("Once upon a time", exclude_input_in_output=True)
    settings = json.dumps({"max_tokens": 8, "temperature": 0})
    other["inputs"].append({"name": "sampling_parameters", "shape": [1], "datatype": "BYTES", "data": [settings]})
    url = f"{base}/v2/models/stories/versions/1/infer"
    found = httpx.post(url, json=body).json()
    assert found == httpx.post(url, json=other).json()
    assert len(found["outputs"][0]["data"][0]) > 10


def test_infer_embeds(base: str, check: Check, llm: AsyncLLM) -> None:
    body = texts("a boat", "a house") | {"outputs": [{"name": "embedding"}]}
    found = httpx.post(f"{base}/v2/models/stories/infer", json=body).json()
    check("inference_response", found)
    [tensor] = found["outputs"]
    assert tensor["shape"] == [2, llm.card.embedding_size]
    same = httpx.post(f"{base}/v1/embeddings", json={"model": "stories", "input": ["a boat", "a house"]}).json()
    assert tensor["data"] == pytest.approx([value for one in same["data"] for value in one["embedding"]])


def test_names_with_slashes() -> None:
    with serving(FakeLLM(), "org/fake") as base:
        for end in ("", "/ready", "/versions/1", "/versions/1/ready"):
            assert httpx.get(f"{base}/v2/models/org/fake{end}").json()["name"] == "org/fake"
        body = {"text_input": "hello", "exclude_input_in_output": True, "max_tokens": 4}
        for end in ("/generate", "/versions/1/generate"):
            found = httpx.post(f"{base}/v2/models/org/fake{end}", json=body).json()
            assert found["text_output"] == answer(IDS, 0, 4)
