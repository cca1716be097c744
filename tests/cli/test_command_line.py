"""The verbs on real models, and what the whole command line keeps to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from in_process import Headrace

from headrace import __version__
from headrace.cli import kernels
from headrace.cli import main as entry
from headrace.cli.kernels import Sizes
from headrace.ops.base import HeadLayout
from headrace.ops.cpu import codec_names

HEAVY = (
    "numpy",
    "ml_dtypes",
    "torch",
    "tokenizers",
    "jinja2",
    "huggingface_hub",
    "rich",
    "prompt_toolkit",
    "starlette",
    "uvicorn",
    "msgspec",
    "psutil",
    "asyncio",
    "headrace._core",
    "headrace.llm",
)
VERBS = ("run", "serve", "top", "bench", "bench kernels", "models", "doctor")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([*verb.split(), "--help"] for verb in VERBS), ["--wrong"]]
)
def test_help_and_usage_errors_load_nothing_heavy(arguments: list[str]) -> None:
    program = (
        f"import sys; from headrace.cli import main; code = main({arguments});"
        f"print(sorted(set({HEAVY}) & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"[] {2 if arguments == ['--wrong'] else 0}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_its_options(headrace: Headrace, verb: str) -> None:
    done = headrace(*verb.split(), "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: headrace {verb}")
    assert "--debug" in done.out
    assert verb in headrace("--help").out


def test_without_arguments_it_says_what_there_is(headrace: Headrace) -> None:
    assert headrace() == headrace("--help")


def test_module_and_function_are_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "headrace", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"headrace {__version__}\n"
    assert callable(entry)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["fly"], "error: No such command 'fly'; see headrace --help"),
        (["serve"], "error: Missing argument 'MODEL'; see headrace serve --help"),
        (["bench", "stories", "--repeats", "0"], "error: Invalid value for '--repeats': 0 is not in the range"),
        (["serve", "stories", "--port", "99999"], "error: Invalid value for '--port': 99999 is not in the range"),
    ],
)
def test_wrong_usage(headrace: Headrace, arguments: list[str], error: str) -> None:
    done = headrace(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(error)
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("verb", ["run", "serve", "bench"])
def test_no_such_model(headrace: Headrace, verb: str) -> None:
    done = headrace(verb, "storys", *(["x"] if verb == "run" else []))
    assert done.code == 1
    assert done.err.startswith("error: no model 'storys', did you mean stories; a model is")
    assert len(done.err.splitlines()) == 1


# run


def test_golden_text(headrace: Headrace, stories260k: str) -> None:
    golden = json.loads((Path(stories260k) / "golden.json").read_text())["text"]
    opening = "Once upon a time"
    done = headrace("run", stories260k, opening, "--temperature", "0", "--max-tokens", "100", "-q")
    assert (done.code, done.err) == (0, "")
    assert len(done.out) > 200
    assert golden.startswith(opening + done.out.removesuffix("\n"))


def test_same_seed_same_text_on_any_threads_from_pipe_or_argument(headrace: Headrace, stories260k: str) -> None:
    settings = ["--seed", "5", "--max-tokens", "30", "-q", "--temperature", "1", "--top-p", "0.9", "--top-k", "50"]
    first = headrace("run", stories260k, "Lily", *settings)
    assert first.out == headrace("run", stories260k, *settings, "--threads", "1", stdin="Lily\n").out
    assert first.out != headrace("run", stories260k, "Lily", *settings, "--seed", "6").out
    assert first.out == headrace("run", stories260k, "Lily", *settings, "--backend", "reference").out


def test_stop_and_status_line(headrace: Headrace, stories260k: str) -> None:
    done = headrace("run", stories260k, "Once upon a time", "--temperature", "0", "--stop", "Lily", "--stop", "zebra")
    assert done.out == ", there was a little girl named \n"
    report, plan, manner, timing = done.err.splitlines()
    assert "stories260k" in report
    assert plan.startswith("KV cache (f32): ")
    assert "the model has no chat template" in manner
    assert re.fullmatch(r"\d+ tokens · [\d,.]+ tokens/s · first after [\d.]+ ms", timing)


def test_full_context_is_said(headrace: Headrace, stories260k: str) -> None:
    done = headrace("run", stories260k, "Once", "--max-context", "32", "--temperature", "0", "--kv-memory", "1MiB")
    assert done.err.splitlines()[-1].endswith("the context is full")
    more = headrace("run", stories260k, "Once", "--max-context", "32", "--temperature", "0", "--max-tokens", "500")
    assert (more.out, more.err.splitlines()[-1][-19:]) == (done.out, "the context is full")


def test_a_chat_template_of_ones_own(headrace: Headrace, stories260k: str, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    settings = ["--temperature", "0", "--max-tokens", "20"]
    plain = headrace("run", stories260k, "Once upon a time", *settings, "-q")
    chat = headrace("run", stories260k, "Once upon a time", *settings, "--chat-template", str(template))
    assert "chat: prompts are messages" in chat.err
    assert chat.code == plain.code == 0


def test_prompt_longer_than_the_context(headrace: Headrace, stories260k: str) -> None:
    done = headrace("run", stories260k, "word " * 2000)
    assert done.code == 1
    assert "the context is 512; shorten the prompt" in done.err.splitlines()[-1]
    assert done.out == ""


def test_token_ids(headrace: Headrace, stories260k: str) -> None:
    golden = json.loads((Path(stories260k) / "golden.json").read_text())["greedy_ids_from_bos"]
    done = headrace("run", stories260k, "1", "--token-ids", "--temperature", "0", "--max-tokens", "20", "-q")
    assert [int(word) for word in done.out.split()] == golden[1:21]


@pytest.mark.slow
def test_one_story_when_nobody_says_anything(stories: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "run"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Once upon a time")
    assert len(done.stdout) > 100


# serve


@pytest.mark.slow
def test_serve_answers_and_ends_on_a_signal(stories260k: str) -> None:
    command = [sys.executable, "-m", "headrace", "serve", stories260k, "--port", "0", "--name", "tiny"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stderr is not None
        lines = []
        while "http://" not in (line := process.stderr.readline()):
            assert line, lines
            lines.append(line)
        assert lines[-1].startswith("no chat template: chats are refused")
        address = re.search(r"http://\S+", line)
        assert address is not None
        with urllib.request.urlopen(f"{address[0]}/v1/models", timeout=60) as answer:
            assert json.load(answer)["data"][0]["id"] == "tiny"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def test_serve_looks_at_the_port_before_it_loads_the_model(headrace: Headrace) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = headrace("serve", "nothing-that-exists", "--port", port)
    assert done.code == 1
    assert done.err.startswith(f"error: cannot listen on 127.0.0.1 port {port}: ")


def test_serve_hands_everything_on(headrace: Headrace, stories260k: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from headrace.async_llm import AsyncLLM
    from headrace.server import run

    seen = {}

    def run_server(llm: AsyncLLM, host: str, port: int, name: str, *_: object, **__: object) -> None:
        seen.update(host=host, port=port, name=name, context=llm.max_context)
        asyncio.run(llm.close())

    monkeypatch.setattr(run, "run_server", run_server)
    done = headrace("serve", stories260k, "--host", "0.0.0.0", "--port", "0", "--max-context", "64")
    assert done.code == 0
    assert seen == {"host": "0.0.0.0", "port": 0, "name": stories260k, "context": 64}
    assert "KV cache" in done.err


# bench


@pytest.fixture
def quick_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.cli.machine._BUFFER_BYTES", 1 << 24)


@pytest.mark.usefixtures("quick_limits")
def test_bench_ends_in_one_json_object(headrace: Headrace, stories260k: str) -> None:
    settings = ["--seconds", "0.01", "--repeats", "1", "--prompt-tokens", "40", "--batch", "1", "--batch", "3"]
    done = headrace("bench", stories260k, *settings, "--quantize", "q8")
    assert done.code == 0
    result = json.loads(done.out.splitlines()[-1])
    assert len(done.out.splitlines()) == 1
    assert [one["name"] for one in result["results"]] == ["prefill 40", "decode x 1", "decode x 3"]
    for one in result["results"]:
        assert one["tokens_per_second"] > 0
        assert one["percent_of_limit"] > 0
        assert one["all_tokens_per_second"] == [one["tokens_per_second"]]
        parts = one["forward_milliseconds"] + one["sampling_milliseconds"] + one["overhead_milliseconds"]
        assert parts == pytest.approx(one["milliseconds_per_step"], rel=1e-4)
        assert one["limit"] in {"bandwidth", "arithmetic"}
        kinds = one["operations_milliseconds"]
        assert {"embed", "attention", "rope and cache write", "linear q8_0 128x64"} <= set(kinds)
        assert 0 < sum(kinds.values()) <= one["forward_milliseconds"]
    decoded = result["results"][2]
    assert decoded["tokens_per_second"] * decoded["milliseconds_per_step"] / 1000 == pytest.approx(3, rel=1e-4)
    assert result["parameters"] == 260032
    assert result["settings"]["quantize"] == "q8"
    assert result["limits"]["read_bandwidth"] > 1e8
    assert "decode x 3" in done.err
    assert "rope and cache write" not in done.err
    assert str(os.environ.get("HF_TOKEN")) not in done.out


@pytest.mark.usefixtures("quick_limits")
def test_bench_takes_medians_and_keeps_every_run(headrace: Headrace, stories260k: str) -> None:
    settings = ["--seconds", "0.01", "--repeats", "3", "--prompt-tokens", "600", "--batch", "1"]
    prefill, decode = json.loads(headrace("bench", stories260k, *settings).out)["results"]
    assert prefill["name"] == "prefill 511"  # what the context holds
    for one in (prefill, decode):
        assert sorted(one["all_tokens_per_second"])[1] == one["tokens_per_second"]


@pytest.mark.usefixtures("quick_limits")
def test_bench_shows_operations(headrace: Headrace, stories260k: str) -> None:
    settings = ["--seconds", "0.01", "--repeats", "1", "--prompt-tokens", "40", "--batch", "1", "--operations"]
    lines = headrace("bench", stories260k, *settings).err.splitlines()
    for kind in ("attention", "rope and cache write", "linear f32 128x64", "sampling", "overhead"):
        (row,) = (line for line in lines if line.strip().startswith(kind))
        assert row.count("%") == 2, row


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (["--batch", "200"], "error: --batch is 200, and at most 128 sequences run at once"),
        (["--max-context", "40"], "error: decoding 32 at once needs a context of 56 tokens to measure and"),
    ],
)
def test_bench_that_cannot_be(headrace: Headrace, stories260k: str, settings: list[str], error: str) -> None:
    done = headrace("bench", stories260k, *settings)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith(error)


# models


def test_models_lists_what_there_is(headrace: Headrace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    from headrace.formats.codecs import CODECS
    from headrace.model.loader import families

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--acme--tiny/snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--acme--tiny/refs").mkdir()
    (tmp_path / "models--acme--tiny/refs/main").write_text("a" * 40)
    (tmp_path / "models--acme--tiny/blobs").mkdir()
    for name in ("config.json", "model.safetensors", "tiny-Q4_K_M.gguf"):
        (snapshot / name).write_bytes(b"x" * 2048)
    listing = json.loads(headrace("models", "--json").out)
    assert {one["name"] for one in listing["families"]} == {family.name for family in families()}
    assert {one["name"] for one in listing["formats"]} == set(CODECS)
    assert [one["name"] for one in listing["formats"] if one["can_quantize"]] == ["q8_0", "q4_0"]
    assert [(one["name"], one["nbytes"]) for one in listing["cached"]] == [
        ("acme/tiny", 4096),
        ("acme/tiny:Q4_K_M", 2048),
    ]
    tables = headrace("models")
    assert tables.code == 0
    for word in ("Llama", "qwen3_moe", "q4_k", "4.50", "acme/tiny:Q4_K_M", "2.0 KiB", str(tmp_path)):
        assert word in tables.out
    assert "\x1b" not in tables.out


# doctor


def test_doctor_finds_a_sound_installation(headrace: Headrace, stories: str) -> None:
    done = headrace("doctor")
    assert (done.code, done.out.splitlines()[-1]) == (0, "all is well")
    findings = {one["name"]: one["value"] for one in json.loads(headrace("doctor", "--json").out)["findings"]}
    assert "avx512" in findings["instruction set"] or "baseline" in findings["instruction set"]
    assert findings["kernel attention"].endswith("of the reference")


def test_doctor_finds_what_is_wrong(headrace: Headrace, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.cli import doctor
    from headrace.ops.cpu import self_test

    monkeypatch.setattr(self_test, "self_test", lambda ops: [("linear", 1.0, False), ("norm", 0.0, True)])
    monkeypatch.setattr(doctor, "DEPENDENCIES", ("numpy", "nothing-like-this"))
    done = headrace("doctor", "--json")
    answer = json.loads(done.out)
    assert (done.code, answer["ok"]) == (1, False)
    wrong = {one["name"] for one in answer["findings"] if not one["is_ok"]}
    assert {"kernel linear", "nothing-like-this"} <= wrong
    assert headrace("doctor").out.splitlines()[-1].startswith("wrong: kernel linear, nothing-like-this")


def test_doctor_finds_a_cache_that_is_none(
    headrace: Headrace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stories: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file"))
    done = headrace("doctor", "--json")
    wrong = [finding["name"] for finding in json.loads(done.out)["findings"] if not finding["is_ok"]]
    assert (done.code, wrong) == (1, ["hub cache"])


def test_doctor_with_an_instruction_set_that_is_not_there(headrace: Headrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CPU", "abacus")
    done = headrace("doctor")
    assert done.code == 1
    assert "cannot be used (instruction set is 'abacus'" in done.out


@pytest.fixture
def small_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = HeadLayout(num_heads=4, num_kv_heads=2, head_dim=32)
    small = Sizes(
        hidden=512, vocabulary=1000, layout=layout, context=512, tokens=(1, 3), rows=32, cold_bytes=1 << 20, seconds=0.0
    )
    monkeypatch.setattr(kernels, "Sizes", lambda: small)


@pytest.mark.usefixtures("quick_limits", "small_kernels")
def test_bench_kernels_has_a_row_for_every_operation_and_codec(headrace: Headrace) -> None:
    done = headrace("bench", "kernels", "--json", "--threads", "2")
    assert done.code == 0
    result = json.loads(done.out)
    names = {one["kernel"] for one in result["results"]}
    assert {f"linear {codec}" for codec in codec_names()} <= names
    for operation in ("mixture", "attention", "rope", "norm", "activate", "softcap", "embed", "sample", "logprobs"):
        assert any(name.startswith(operation) for name in names)
    for one in result["results"]:
        assert one["milliseconds"] > 0
        assert one["percent_of_limit"] > 0
        assert one["runs"] >= 3
    linear = next(one for one in result["results"] if one["kernel"] == "linear q8_0" and one["tokens"] == 3)
    moved = linear["gigabytes_per_second"] / linear["giga_operations_per_second"]
    assert moved == pytest.approx(34 / 32 / (2 * 3), rel=1e-4)


@pytest.mark.usefixtures("quick_limits", "small_kernels")
def test_bench_kernels_as_a_table(headrace: Headrace) -> None:
    done = headrace("bench", "kernels")
    assert done.code == 0
    assert re.search(r"linear q4_0 +1 .* % (bandwidth|arithmetic)", done.out)
    assert headrace("bench", "kernels", "--wrong").err.startswith("error: No such option")
