"""LLM.embed, classify, score and rerank: texts in, against transformers; inputs that are wrong; bits in any company."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import encoder_reference, make_tiny_encoder, reference_output, save_tokenizer
from tiny_models import SWITCH, make_tiny, prompt, reference
from waiting import until

from headrace import LLM, AsyncLLM, EngineConfig, SamplingParams
from headrace.errors import ContextTooLong, RequestError
from headrace.text.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat", "dogs", "what is blue? the sky is blue.", "a" * 60, "red, green, blue " * 9]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("transformers")
    made = {}
    for name, family, labels in (("embedder", "bert", None), ("reranker", "bert", 1), ("classifier", "modernbert", 3)):
        made[name] = save_tokenizer(make_tiny_encoder(family, tmp_path_factory.mktemp(name), labels))
    return made


@pytest.fixture(scope="module")
def embedder(folders: dict[str, Path]) -> LLM:
    return LLM(folders["embedder"])


@pytest.fixture(scope="module")
def reranker(folders: dict[str, Path]) -> LLM:
    return LLM(folders["reranker"])


def encoded(llm: LLM, text: str, second: str | None = None) -> tuple[list[int], list[int]]:
    """As the file's own tokenizer says it."""
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(Path(llm.name) / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    found = backend.encode(text, second)
    return found.ids, found.type_ids


def test_embeddings_are_those_of_transformers(embedder: LLM) -> None:
    model = encoder_reference(Path(embedder.name))
    outputs = embedder.embed(TEXTS)
    assert [output.prompt_token_ids for output in outputs] == [encoded(embedder, text)[0] for text in TEXTS]
    for text, output in zip(TEXTS, outputs, strict=True):
        expected = reference_output(model, *encoded(embedder, text)).mean(axis=0)
        np.testing.assert_allclose(output.outputs.vector, expected / np.linalg.norm(expected), atol=2e-5)
        assert output.outputs.embedding == output.outputs.vector.tolist()
        assert output.outputs.hidden_size == 64


def test_what_is_beside_a_text_changes_no_bit(folders: dict[str, Path], embedder: LLM) -> None:
    together = [output.outputs.vector.tobytes() for output in embedder.embed(TEXTS * 3)]
    small = LLM(folders["embedder"], EngineConfig(threads=1, max_batch_tokens=16))
    assert together == [small.embed(text)[0].outputs.vector.tobytes() for text in TEXTS] * 3


def test_forms_of_inputs(embedder: LLM) -> None:
    ids = encoded(embedder, TEXTS[0])[0]
    expected = embedder.embed(TEXTS[0])[0].outputs.embedding
    forms: list[Any] = [[TEXTS[0]], ids, [ids], np.array(ids), {"prompt": TEXTS[0]}, {"prompt_token_ids": ids}]
    for form in forms:
        (output,) = embedder.embed(form)
        assert output.outputs.embedding == expected
    (both,) = embedder.embed({"prompt": "something else", "prompt_token_ids": ids, "cache_salt": "mine"})
    assert both.outputs.embedding == expected
    mixed = embedder.embed([TEXTS[1], ids, TEXTS[2]])
    assert [output.outputs.embedding for output in mixed] == [
        embedder.embed(each)[0].outputs.embedding for each in (TEXTS[1], ids, TEXTS[2])
    ]


@pytest.mark.parametrize(
    ("inputs", "options", "param"),
    [
        ([], {}, "input"),
        ([[]], {}, "input"),
        (7, {}, "input"),
        ([3.5], {}, "input"),
        ([[1, "x"]], {}, "input"),
        ([[1, 96]], {}, "input"),
        ({}, {}, "input"),
        ({"prompt_token_ids": "x"}, {}, "input"),
        ({"prompt": "x", "multi_modal_data": {"image": 1}}, {}, "input"),
        ([{"prompt": "x", "cache_salt": 7}], {}, "cache_salt"),
        ("\ud800", {}, "prompt"),
        ("x", {"dimensions": 0}, "dimensions"),
        ("x", {"dimensions": 65}, "dimensions"),
        ("x", {"prompt_name": "query"}, "prompt_name"),
        ("x", {"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ("x", {"truncate_prompt_tokens": 1000}, "truncate_prompt_tokens"),
    ],
)
def test_wrong_inputs(embedder: LLM, inputs: Any, options: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as error:
        embedder.embed(inputs, **options)
    assert error.value.param == param


def test_long_inputs_are_refused_or_cut_when_asked_for(embedder: LLM) -> None:
    text = "the cat sat on the mat. " * 50
    with pytest.raises(ContextTooLong, match="takes 256; shorten it, or ask for truncate_prompt_tokens=-1") as error:
        embedder.embed(["x", text])
    assert error.value.param == "input"
    whole = encoded(embedder, text)[0]
    for asked, length in ((-1, 256), (20, 20)):
        (output,) = embedder.embed(text, truncate_prompt_tokens=asked)
        assert output.prompt_token_ids == [*whole[: length - 1], 3]  # [SEP] stays
        (ids,) = embedder.embed([whole], truncate_prompt_tokens=asked)
        assert ids.prompt_token_ids == whole[:length]  # ids are taken as they are
    (short,) = embedder.embed("dogs", truncate_prompt_tokens=20)
    assert short.outputs.embedding == embedder.embed("dogs")[0].outputs.embedding
    with pytest.raises(RequestError, match="no room"):
        embedder.embed(text, truncate_prompt_tokens=2)


@pytest.mark.parametrize("limit", [7, 8, 13, 14, 30, 31, 40])
def test_pairs_are_cut_as_the_library_cuts_them(folders: dict[str, Path], limit: int) -> None:
    import tokenizers

    from headrace.hub.files import ModelFiles

    tokenizer = Tokenizer.from_files(ModelFiles("tiny", folder=folders["reranker"]))
    assert tokenizer is not None
    oracle = tokenizers.Tokenizer.from_file(str(folders["reranker"] / "tokenizer.json"))
    oracle.no_padding()
    oracle.enable_truncation(limit, strategy="longest_first")
    texts = ["dog", "the cat sat on the mat", "abcdefghijk", "what is blue? the sky is blue. the sky."]
    pairs = [(one, other) for one in texts for other in texts]
    for (ids, types), pair in zip(tokenizer.encode_parts(pairs, limit), pairs, strict=True):
        expected = oracle.encode(*pair)
        assert (ids, types) == (expected.ids, expected.type_ids), pair


def test_a_folder_says_how_to_embed(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["embedder"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    prompts = {"prompts": {"query": "what is ", "document": ""}, "default_prompt_name": "document"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    llm = LLM(tmp_path)
    model = encoder_reference(folders["embedder"])
    for name, text in ((None, "blue"), ("query", "what is blue")):
        (output,) = llm.embed("blue", prompt_name=name)
        expected = reference_output(model, *encoded(llm, text))[0]  # not normalised: no such module
        np.testing.assert_allclose(output.outputs.vector, expected, atol=2e-5 * np.abs(expected).max())
    with pytest.raises(ContextTooLong, match="takes 12"):
        llm.embed("the cat sat on the mat and a dog")
    longer = LLM(tmp_path, EngineConfig(max_context=100))  # who asks for more gets it
    assert longer.embed("the cat sat on the mat and a dog")
    assert "first token" in llm.load_report[-1]


def test_scores_and_rankings_of_a_cross_encoder(reranker: LLM) -> None:
    model = encoder_reference(Path(reranker.name), classifier=True)
    query, documents = "what is blue?", ["the sky is blue", "dogs", "green", "the mat is red, the cat is blue " * 3]
    logits = [float(reference_output(model, *encoded(reranker, query, each))[0]) for each in documents]
    expected = 1 / (1 + np.exp(-np.array(logits)))
    scores = [output.outputs.score for output in reranker.score(query, documents)]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    ranking = reranker.rerank(query, documents)
    assert [result.index for result in ranking.results] == np.argsort(-expected).tolist()
    assert [result.relevance_score for result in ranking.results] == sorted(scores, reverse=True)
    assert all(result.document == documents[result.index] for result in ranking.results)
    assert ranking.num_tokens == sum(len(encoded(reranker, query, each)[0]) for each in documents)
    assert reranker.rerank(query, documents, top_n=2).results == ranking.results[:2]
    assert len(reranker.rerank(query, documents, top_n=0).results) == 4
    pairs = reranker.score(["dogs", "red"], ["cats", "the mat"])
    alone = [reranker.score(*pair)[0].outputs.score for pair in (("dogs", "cats"), ("red", "the mat"))]
    assert [output.outputs.score for output in pairs] == alone
    for first, second in ((["a", "b"], ["a", "b", "c"]), (["a", "b"], ["a"])):
        with pytest.raises(RequestError, match="first text"):
            reranker.score(first, second)
    with pytest.raises(RequestError, match="not token ids"):
        reranker.score([5, 6], "x")
    with pytest.raises(RequestError, match="does not embed: it is a cross-encoder"):
        reranker.embed("x")


def test_scores_of_a_model_that_embeds_are_cosines(embedder: LLM) -> None:
    query, documents = TEXTS[2], [*TEXTS[:2], TEXTS[2]]
    vectors = np.array([output.outputs.vector for output in embedder.embed([query, *documents])])
    scores = [output.outputs.score for output in embedder.score(query, documents)]
    np.testing.assert_allclose(scores, vectors[1:] @ vectors[0], atol=1e-6)
    assert scores[2] == pytest.approx(1)
    assert embedder.rerank(query, documents).results[0].index == 2
    copies = ["dogs", "".join(["do", "gs"]), encoded(embedder, "cats")[0], encoded(embedder, "cats")[0]]
    assert len(embedder.pooler.score(query, copies).requests) == 3, "what comes again is embedded once"
    equal = embedder.rerank(query, ["dogs", "dogs", "dogs"]).results
    assert [result.index for result in equal] == [0, 1, 2]
    with pytest.raises(RequestError, match="documents must be a list of strings"):
        embedder.rerank(query, "dogs")
    with pytest.raises(RequestError, match="top_n is -1"):
        embedder.rerank(query, documents, top_n=-1)


def test_classes(folders: dict[str, Path]) -> None:
    llm, model = LLM(folders["classifier"]), encoder_reference(folders["classifier"], classifier=True)
    for text, output in zip(TEXTS, llm.classify(TEXTS), strict=True):
        logits = reference_output(model, encoded(llm, text)[0])
        expected = np.exp(logits - logits.max())
        np.testing.assert_allclose(output.outputs.probs, expected / expected.sum(), atol=1e-4)
        assert output.outputs.label == f"LABEL_{int(np.argmax(logits))}"
        assert output.outputs.num_classes == 3
    with pytest.raises(RequestError, match="3 classes; a score needs a model with one"):
        llm.score("a", "b")


def test_what_a_model_is_not_for(embedder: LLM) -> None:
    with pytest.raises(RequestError, match="has no classifier: it is a model that embeds"):
        embedder.classify("x")
    for call in (lambda: embedder.generate("x"), lambda: embedder.stream("x")):
        with pytest.raises(RequestError, match="does not generate text: it gives embeddings of 64 numbers"):
            call()


def test_a_model_that_generates_embeds_too() -> None:
    llm = LLM("stories")
    params = SamplingParams(temperature=0, max_tokens=8)
    before = llm.generate("Once upon a time", params)[0].outputs[0].token_ids
    vectors = [output.outputs.vector for output in llm.embed(["Once upon a time", "a cat", "Once upon a time"])]
    assert vectors[0].tobytes() == vectors[2].tobytes() != vectors[1].tobytes()
    assert llm.generate("Once upon a time", params)[0].outputs[0].token_ids == before
    long = llm.embed("the cat sat. " * 120)[0].outputs.vector
    pieces = LLM("stories", EngineConfig(max_batch_tokens=48)).embed("the cat sat. " * 120)[0].outputs.vector
    assert pieces.tobytes() == long.tobytes()


@pytest.mark.parametrize("max_batch_tokens", [16, 2048])
def test_longropes_tables_on_both_sides_of_the_switch(tmp_path: Path, max_batch_tokens: int) -> None:
    import torch

    model = make_tiny("phi3-longrope", tmp_path)
    llm = LLM(model, EngineConfig(threads=1, kv_dtype="f32", max_batch_tokens=max_batch_tokens))
    inputs = [prompt(length, seed=length) for length in (SWITCH, SWITCH + 1, 2 * SWITCH)]
    for token_ids, output in zip(inputs, llm.embed(inputs), strict=True):
        with torch.no_grad():
            hidden = reference(model).model(torch.tensor([token_ids])).last_hidden_state[0, -1].float().numpy()
        np.testing.assert_allclose(output.outputs.vector, hidden / np.linalg.norm(hidden), atol=1e-4)


def test_in_an_event_loop(folders: dict[str, Path], embedder: LLM, reranker: LLM) -> None:
    async def main() -> None:
        async with AsyncLLM(folders["embedder"]) as llm, AsyncLLM(folders["reranker"]) as cross:
            several = await asyncio.gather(*(llm.embed([text, TEXTS[0]]) for text in TEXTS))
            for text, (output, _) in zip(TEXTS, several, strict=True):
                assert output.outputs.embedding == embedder.embed(text)[0].outputs.embedding
            assert (await cross.rerank("blue", TEXTS[:3])).results == reranker.rerank("blue", TEXTS[:3]).results
            assert [o.outputs for o in await cross.score("blue", TEXTS[:3])] == [
                o.outputs for o in reranker.score("blue", TEXTS[:3])
            ]
            with pytest.raises(RequestError):
                await llm.classify("x")
            task = asyncio.create_task(llm.embed(TEXTS * 400))
            await until(lambda: llm.stats().num_waiting)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await llm.embed("x")
            assert llm.stats().num_waiting == 0
            assert llm.stats().prompt_tokens < 400 * sum(len(encoded(embedder, text)[0]) for text in TEXTS)

    asyncio.run(main())
