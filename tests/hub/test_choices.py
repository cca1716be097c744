"""Which file names make one model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import DamagedFile, ModelNotFound, UnsupportedModel
from headrace.hub.choices import folder_files, gguf_choices, missing_parts, pick_gguf, quantisation_tag
from headrace.hub.names import HubName, parse_hub_name


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("llama-2-7b.Q5_K_S.gguf", "Q5_K_S"),
        ("qwen2.5-0.5b-instruct-q4_0.gguf", "q4_0"),
        ("gemma-3-1b-it-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Phi-3-mini-4k-instruct-fp16.gguf", "fp16"),
        ("model-IQ3_XXS.gguf", "IQ3_XXS"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("BF16/tiny-BF16.gguf", "BF16"),
        ("stories.gguf", None),
        ("q4-tutorial.gguf", None),
    ],
)
def test_quantisation_tag(name: str, tag: str | None) -> None:
    assert quantisation_tag(name) == tag


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("org/name", HubName("org/name")),
        ("org/name@refs/pr/1", HubName("org/name", "refs/pr/1")),
        ("org/name:Q4_K_M", HubName("org/name", None, "Q4_K_M")),
        ("org/name@v1.0:sub/file.gguf", HubName("org/name", "v1.0", "sub/file.gguf")),
        ("org/name/file.gguf", HubName("org/name", None, "file.gguf")),
        ("org/name.gguf/sub/file.GGUF", HubName("org/name.gguf", None, "sub/file.GGUF")),
        ("name", None),
        ("org/name/more", None),
        ("./org/name", None),
        ("/org/name", None),
        ("../name", None),
        ("org/name:", None),
        ("org/name@", None),
        ("https://host/org/name", None),
        ("", None),
    ],
)
def test_hub_names(text: str, parsed: HubName | None) -> None:
    assert parse_hub_name(text) == parsed


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_not(text: str) -> None:
    parsed = parse_hub_name(text)
    assert parsed is None or text.startswith(parsed.repository)


def test_split_sets_are_one_choice_and_need_all_parts() -> None:
    parts = [f"big-Q8_0-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    (choice,) = gguf_choices(reversed(parts))
    assert choice.files == tuple(parts)
    assert missing_parts(parts) == []
    assert pick_gguf([choice], "q8_0", "here") == choice
    with pytest.raises(DamagedFile, match=r"here lacks part big-Q8_0-00002-of-00003\.gguf"):
        pick_gguf(gguf_choices([parts[0], parts[2]]), None, "here")


@given(st.integers(1, 40), st.data())
def test_missing_parts_are_exactly_those_taken_away(count: int, data: st.DataObject) -> None:
    names = {f"m-{part:05d}-of-{count:05d}.safetensors" for part in range(1, count + 1)}
    taken = data.draw(st.sets(st.sampled_from(sorted(names)), max_size=count - 1))
    assert missing_parts(names - taken) == sorted(taken)


def test_weights_under_a_name_of_their_own() -> None:
    names = ["config.json", "weights.safetensors", "consolidated.safetensors", "adapter_model.safetensors"]
    assert folder_files(names, "here") == ("config.json", "weights.safetensors")


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (["config.json"], ModelNotFound, "holds no model"),
        (["model.safetensors"], ModelNotFound, "no config.json"),
        (["config.json", "pytorch_model.bin"], UnsupportedModel, r"pytorch_model\.bin"),
        (["config.json", "a-Q4_0.gguf", "a-Q8_0.gguf"], ModelNotFound, "Q4_0, Q8_0"),
    ],
)
def test_what_is_no_model(names: list[str], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        folder_files(names, "here")
