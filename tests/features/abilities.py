"""What headrace can do, by every door that it can be asked for: one entry each, with a call that shows it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import openai
import pytest
from features.adapter import random_adapter
from features.batch_parameters import ENDPOINT, finished, results
from features.catalogue import BATCHES, RESPONSES
from features.chat_parameters import NO_ARGUMENTS, USER
from features.doors import SMALL, Doors, served
from features.service import MODEL, TEMPLATE
from tiny_encoders import make_tiny_encoder, save_tokenizer

from headrace import LLM, EngineConfig, SamplingParams
from headrace.errors import RequestError
from headrace.sampling_params import BeamSearchParams
from headrace.structured_output import StructuredOutput
from headrace.types import RequestOutput

PROMPT = "Once upon a time"
SCHEMA = {"type": "object", "properties": {"legs": {"type": "integer", "maximum": 99}}, "required": ["legs"]}
GREEDY = SamplingParams(temperature=0, max_tokens=40)


@dataclass(frozen=True)
class Ability:
    """`how` is what to write; `seen` is what `prove` saw when it did."""

    name: str
    how: str
    seen: str
    prove: Callable[[Doors], None]


def _text(outputs: Sequence[RequestOutput]) -> str:
    [output] = outputs
    return output.outputs[0].text


def _structured_python(doors: Doors) -> None:
    hot = SamplingParams(temperature=1.5, max_tokens=30, n=4, structured=StructuredOutput(json=SCHEMA))
    [output] = doors.llm.generate(PROMPT, hot)
    assert all(set(json.loads(one.text)) >= {"legs"} and one.finish_reason == "stop" for one in output.outputs)


def _structured_command(doors: Doors) -> None:
    schema = doors.folder / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    assert "legs" in json.loads(doors.run(PROMPT, "--json-schema", str(schema), "--max-tokens", "30"))
    assert re.fullmatch("[ab]{3}", doors.run(PROMPT, "--regex", "[ab]{3}"))
    assert doors.run(PROMPT, "--grammar", 'root ::= "left" | "right"') in ("left", "right")


def _ends_in_time(doors: Doors) -> None:
    structured = StructuredOutput(json=SCHEMA)
    with pytest.raises(RequestError, match="at least") as refused:
        doors.llm.generate(PROMPT, SamplingParams(max_tokens=1, structured=structured))
    [needed] = re.findall(r"at least ([\d,]+)", str(refused.value))
    for budget in range(int(needed), int(needed) + 12):
        params = SamplingParams(max_tokens=budget, temperature=1.5, seed=budget, structured=structured)
        json.loads(_text(doors.llm.generate(PROMPT, params)))


def _tools(_: Doors) -> None:
    with LLM(MODEL, EngineConfig(kv_memory=SMALL, threads=1), chat_template=TEMPLATE) as llm:
        [output] = llm.chat([USER], replace(GREEDY, max_tokens=80), tools=[NO_ARGUMENTS], tool_choice="required")
        [call, *_] = output.outputs[0].tool_calls
        assert (call.name, json.loads(call.arguments)) == ("look", {})
        [output] = llm.chat([USER], GREEDY, tools=[NO_ARGUMENTS], tool_choice="none")
        assert output.outputs[0].text
        assert not output.outputs[0].tool_calls


def _thoughts(_: Doors) -> None:
    with LLM(MODEL, EngineConfig(kv_memory=SMALL, threads=1), chat_template=TEMPLATE) as llm:
        bounded = replace(GREEDY, thinking_token_budget=5)
        [output] = llm.chat([USER], bounded, chat_template_kwargs={"enable_thinking": True})
        [answer] = output.outputs
        assert answer.reasoning
        assert answer.text
        assert 5 <= answer.num_reasoning_tokens < len(answer.token_ids)


def _embeddings(doors: Doors) -> None:
    model = save_tokenizer(make_tiny_encoder("bert", doors.folder / "encoder"))
    for llm in (doors.llm, LLM(model, EngineConfig(threads=1))):
        [alone] = llm.embed("the cat")
        _, same = llm.embed(["blue sky", "the cat"])
        assert alone.outputs.embedding == same.outputs.embedding
        assert np.linalg.norm(alone.outputs.vector) == pytest.approx(1)


def _rankings(doors: Doors) -> None:
    model = save_tokenizer(make_tiny_encoder("bert", doors.folder / "cross-encoder", 1))
    documents = ["the cat sat", "blue sky", "dogs"]
    for llm in (doors.llm, LLM(model, EngineConfig(threads=1))):
        scores = [output.outputs.score for output in llm.score("a cat", documents)]
        found = llm.rerank("a cat", documents, top_n=2).results
        assert [one.relevance_score for one in found] == sorted(scores, reverse=True)[:2]
        assert [documents.index(one.document) for one in found] == [one.index for one in found]


def _classes(doors: Doors) -> None:
    llm = LLM(save_tokenizer(make_tiny_encoder("bert", doors.folder / "classifier", 3)), EngineConfig(threads=1))
    for output in llm.classify(["the cat sat", "blue sky"]):
        assert sum(output.outputs.probs) == pytest.approx(1)
        assert output.outputs.label == f"LABEL_{np.argmax(output.outputs.probs)}"


def _beams(doors: Doors) -> None:
    [found] = doors.llm.beam_search(PROMPT, BeamSearchParams(beam_width=4, max_tokens=16))
    scores = [one.cum_logprob for one in found.sequences]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    greedy = replace(GREEDY, max_tokens=16, logprobs=0)
    [plain] = doors.llm.generate(PROMPT, greedy)
    assert plain.outputs[0].cumulative_logprob is not None
    assert scores[0] is not None
    assert scores[0] >= plain.outputs[0].cumulative_logprob - 1e-4


def _speculation(doors: Doors) -> None:
    repeated = "Lily has a red ball. Tom has a blue car. " * 6
    params = SamplingParams(temperature=0.3, max_tokens=120)
    texts, accepted = [], []
    for setting in ("auto", "off"):
        llm = LLM(MODEL, EngineConfig(kv_memory=SMALL, threads=1, speculation=setting))
        texts += [[_text(llm.generate(repeated, replace(params, seed=seed))) for seed in range(4)]]
        accepted.append(llm.stats().accepted_tokens)
    assert texts[0] == texts[1]
    assert accepted[1] == 0


def _predicted(doors: Doors) -> None:
    messages, params = [USER], replace(GREEDY, ignore_eos=True)
    plain = doors.llm.chat(messages, params)
    [again] = doors.llm.chat(messages, params, prediction=_text(plain))
    assert again.outputs[0].token_ids == plain[0].outputs[0].token_ids
    assert again.usage.accepted_prediction_tokens > 30
    both = doors.llm.chat([messages, messages], params, prediction=["Nothing of the kind.", None])
    assert [one.outputs[0].token_ids for one in both] == [plain[0].outputs[0].token_ids] * 2
    assert [one.usage.rejected_prediction_tokens > 3 for one in both] == [True, False]
    with pytest.raises(RequestError, match="prediction"):
        doors.llm.chat(messages, params, prediction=["a", "b"])
    prompt = {"prompt": PROMPT, "prediction": _text(doors.llm.generate(PROMPT, params))}
    assert doors.llm.generate(prompt, params)[0].usage.accepted_prediction_tokens > 30


def _responses(doors: Doors) -> None:
    client = doors.http[RESPONSES].client
    asked = {"model": MODEL, "temperature": 0, "max_output_tokens": 12}
    first = client.responses.create(input=PROMPT, **asked)
    events = client.responses.create(input=PROMPT, stream=True, **asked)
    streamed = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert streamed == first.output_text
    later = client.responses.create(input="And then?", previous_response_id=first.id, background=True, **asked)
    assert client.responses.cancel(later.id).status in ("cancelled", "incomplete", "completed")
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def _batches(doors: Doors) -> None:
    client = doors.http[BATCHES].client
    body = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 12}
    lines = [
        {"custom_id": f"{number}", "method": "POST", "url": ENDPOINT, "body": {**body, "seed": number}}
        for number in range(20)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
    live = client.completions.create(**body).choices[0].text
    given = results(client, finished(client, batch.id))
    assert sorted(int(line["custom_id"]) for line in given) == list(range(20))
    assert {line["response"]["body"]["choices"][0]["text"] for line in given} == {live}


def _draft(doors: Doors) -> None:
    llm = LLM(MODEL, EngineConfig(kv_memory=SMALL, threads=1, draft=MODEL))
    hot = SamplingParams(temperature=0.8, seed=4, max_tokens=80)
    assert _text(llm.generate(PROMPT, hot)) == _text(doors.llm.generate(PROMPT, hot))


def _decide(doors: Doors) -> None:
    decision = doors.llm.decide("Once upon a time, there was a little", [" girl", " boat", " volcano"])
    shares = {label: score.probability for label, score in decision.scores.items()}
    assert sum(shares.values()) == pytest.approx(1)
    assert sorted(shares, key=lambda label: -shares[label]) == [" girl", " boat", " volcano"]


def _adapter(doors: Doors) -> None:
    name = "an-adapter"
    doors.llm.load_adapter(name, random_adapter(doors.folder / name, doors.llm.spec))
    try:
        plain = _text(doors.llm.generate(PROMPT, GREEDY))
        both = doors.llm.generate([PROMPT, PROMPT], GREEDY, adapter=[name, None])
        assert both[0].outputs[0].text != plain == both[1].outputs[0].text
    finally:
        doors.llm.unload_adapter(name)
    with pytest.raises(RequestError):
        doors.llm.generate(PROMPT, GREEDY, adapter=name)


def _adapters_command(doors: Doors) -> None:
    folder = random_adapter(doors.folder / "of-a-command", doors.llm.spec)
    assert doors.run(PROMPT, "--max-tokens", "30", "--lora", str(folder)) != doors.run(PROMPT, "--max-tokens", "30")


def _adapters_of_a_server(doors: Doors) -> None:
    folder = random_adapter(doors.folder / "of-a-server", doors.llm.spec)
    shutil.copytree(folder, doors.folder / "below" / "one")
    with served(MODEL, "--lora", f"sql={folder}", "--lora-dir", str(doors.folder / "below")) as base:
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
        client.post("/load_lora_adapter", body={"lora_name": "new", "lora_path": "one"}, cast_to=str)
        texts = {
            model.id: client.completions.create(model=model.id, prompt=PROMPT, temperature=0).choices[0].text
            for model in client.models.list()
        }
    assert texts["new"] == texts["sql"] != texts[MODEL]


def _small_cache(doors: Doors) -> None:
    sizes = {}
    for dtype in ("f16", "q8"):
        llm = LLM(MODEL, EngineConfig(kv_memory=SMALL, threads=1, kv_dtype=dtype))
        sizes[dtype] = llm.kv_plan.num_blocks
        assert _text(llm.generate(PROMPT, GREEDY)) == _text(llm.generate(PROMPT, GREEDY))
    assert sizes["q8"] > 1.6 * sizes["f16"]
    assert doors.run(PROMPT, "--kv-dtype", "q8", "--max-tokens", "5")


def _same_answer(doors: Doors) -> None:
    hot = SamplingParams(temperature=1, seed=3, max_tokens=30)
    alone = _text(doors.llm.generate(PROMPT, hot))
    crowd = doors.llm.generate([PROMPT, *(f"Number {number}" for number in range(20))], hot)
    assert crowd[0].outputs[0].text == alone
    doors.llm.clear_prefix_cache()
    assert _text(doors.llm.generate(PROMPT, hot)) == alone


def _priority(doors: Doors) -> None:
    outputs = doors.llm.generate([PROMPT, "One day"], GREEDY, priority=[1, 0])
    assert [output.outputs[0].text for output in outputs] == [
        _text(doors.llm.generate(prompt, GREEDY)) for prompt in (PROMPT, "One day")
    ]
    with pytest.raises(RequestError, match="priority"):
        doors.llm.generate(PROMPT, GREEDY, priority=[1, 2])


def _salt(doors: Doors) -> None:
    long = {"prompt": PROMPT * 20}
    doors.llm.clear_prefix_cache()
    cached = [
        doors.llm.generate({**long, **salt}, GREEDY)[0].num_cached_tokens > 0
        for salt in ({}, {}, {"cache_salt": "a"}, {"cache_salt": "a"}, {"cache_salt": "b"})
    ]
    assert cached == [False, True, False, True, False]


def _sampling_command(doors: Doors) -> None:
    with_it = doors.run(PROMPT, "--max-tokens", "60", "--sampling", "no_repeat_ngram_size=2")
    assert with_it != doors.run(PROMPT, "--max-tokens", "60")


ABILITIES: Sequence[Ability] = (
    Ability(
        "The same answer every time",
        "nothing to switch on",
        "a text alone, in a batch of 21, and with and without a cached prefix is the same",
        _same_answer,
    ),
    Ability(
        "Structured output in Python",
        "`SamplingParams(structured=StructuredOutput(json=…))`; also `regex`, `choice`, `grammar`, `structural_tag`",
        "hot samples all satisfy the schema and end with `stop`",
        _structured_python,
    ),
    Ability(
        "Structured output on the command line",
        "`headrace run MODEL … --json-schema FILE`, `--regex`, `--grammar`",
        "JSON of the schema, a text that matches, one of the grammar's (GBNF)",
        _structured_command,
    ),
    Ability(
        "Structured output ends in time",
        "`max_tokens`",
        "complete with every budget from the least that is needed on; a smaller one is refused with that number",
        _ends_in_time,
    ),
    Ability(
        "Tool calls",
        "`llm.chat(…, tools=[…], tool_choice=…)`",
        "required: a call whose arguments satisfy the schema; none: text",
        _tools,
    ),
    Ability(
        "Thoughts",
        "`llm.chat(…)` with a template that thinks; `SamplingParams(thinking_token_budget=…)`",
        "the thought in `reasoning`, closed within its budget, the answer in `text`",
        _thoughts,
    ),
    Ability(
        "Embeddings",
        "`llm.embed([…])`",
        "vectors of length 1, a text's the same alone and beside others; of an encoder and of a model that generates",
        _embeddings,
    ),
    Ability(
        "Scores and rankings",
        "`llm.score(QUERY, […])`, `llm.rerank(QUERY, […])`",
        "the best first, by the scores; of a cross-encoder and, as cosines, of a model that embeds",
        _rankings,
    ),
    Ability(
        "Classes",
        "`llm.classify([…])`",
        "probabilities whose sum is 1, and the likeliest's label",
        _classes,
    ),
    Ability(
        "Beam search",
        "`llm.beam_search(…)`, `SamplingParams(beam_width=…)`",
        "the best is no worse than greedy",
        _beams,
    ),
    Ability(
        "Speculation by prompt lookup",
        "on by itself; `--speculation off`",
        "the same texts with it and without",
        _speculation,
    ),
    Ability(
        "Predicted outputs in Python",
        '`llm.chat(…, prediction=TEXT)`, `llm.generate({"prompt": …, "prediction": TEXT})`',
        "the same tokens, and the usage says how many of the prediction's came; a wrong one changes nothing",
        _predicted,
    ),
    Ability(
        "Speculation with a draft model",
        "`EngineConfig(draft=MODEL)`, `--draft MODEL`",
        "the same text as without, here with the model as its own draft",
        _draft,
    ),
    Ability(
        "Responses",
        "`POST /v1/responses`, as OpenAI's clients do; `--store FOLDER` keeps them over a restart",
        "the same text whole and streamed; gone on from, in the background, cancelled, asked for again, deleted",
        _responses,
    ),
    Ability(
        "Files and batches",
        "`POST /v1/files`, `POST /v1/batches`, on a server with `--store FOLDER`",
        "every line once, with the text that it gets live",
        _batches,
    ),
    Ability(
        "Decisions",
        "`llm.decide(PROMPT, [LABEL, …])`",
        "probabilities of the labels, whose sum is 1; the likeliest is what a story goes on with",
        _decide,
    ),
    Ability(
        "LoRA adapters",
        "`llm.load_adapter(NAME, FOLDER)`, `llm.generate(…, adapter=NAME)`",
        "in one batch one sequence has it and another has not; unloaded, its name is refused",
        _adapter,
    ),
    Ability(
        "LoRA adapters on the command line",
        "`headrace run … --lora FOLDER`",
        "another text with it",
        _adapters_command,
    ),
    Ability(
        "LoRA adapters of a server",
        "`headrace serve … --lora NAME=FOLDER --lora-dir FOLDER`",
        "each is a model of its own, whether named at the start or loaded while it runs",
        _adapters_of_a_server,
    ),
    Ability(
        "KV cache in 8 bits",
        '`EngineConfig(kv_dtype="q8")`, `--kv-dtype q8`',
        "more than 1.6 times the blocks of f16 in the same memory",
        _small_cache,
    ),
    Ability("Priority in Python", "`llm.generate(…, priority=[…])`", "the order of work, not the texts", _priority),
    Ability(
        "Prefixes kept apart in Python",
        '`{"prompt": …, "cache_salt": …}`',
        "a prefix is found again with the same salt only",
        _salt,
    ),
    Ability(
        "Every sampler on the command line",
        "`headrace run … --sampling NAME=VALUE`",
        "`no_repeat_ngram_size=2` changes the text",
        _sampling_command,
    ),
)
