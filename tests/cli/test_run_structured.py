"""`headrace run` with a structure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from in_process import Headrace

RUN = ("Once upon a time", "-q", "--seed", "1", "--max-tokens", "40")


def test_json_by_a_schema_from_a_file(headrace: Headrace, stories: str, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    done = headrace("run", stories, *RUN, "--json-schema", str(tmp_path / "schema.json"))
    assert done.code == 0
    assert isinstance(json.loads(done.out)["age"], int)


def test_a_regular_expression(headrace: Headrace, stories: str) -> None:
    assert headrace("run", stories, *RUN, "--regex", "(left|right) [12]").out.strip() in {
        *("left 1", "left 2", "right 1", "right 2"),
    }


@pytest.mark.parametrize("grammar", ['start: "a" | "b"', 'root ::= "a" | "b"'])
def test_a_grammar_as_text_or_from_a_file(headrace: Headrace, stories: str, tmp_path: Path, grammar: str) -> None:
    (tmp_path / "grammar").write_text(grammar)
    for given in (grammar, str(tmp_path / "grammar")):
        assert headrace("run", stories, *RUN, "--grammar", given).out.strip() in {"a", "b"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--regex", "a", "--grammar", "b"), "exclude each other"),
        (("--json-schema", "/nowhere.json"), "does not exist"),
        (("--regex", "("), "missing )"),
        (("--regex", "[a-z]{90}", "--max-tokens", "3"), "needs"),
        (("--grammar", "nothing"), "neither a file nor a grammar"),
        (("--grammar", "nothing: here"), "neither"),
        (("--json-schema", __file__), "test_run_structured.py is not JSON"),
    ],
)
def test_what_is_wrong_is_said(headrace: Headrace, stories: str, options: tuple[str, ...], words: str) -> None:
    done = headrace("run", stories, *RUN, *options)
    assert done.code != 0
    assert words in done.err
    assert "Traceback" not in done.err
