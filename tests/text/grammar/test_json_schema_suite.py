"""The official test suite of JSON Schema: what is accepted is enforced, every case of it, and the rest is refused."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bytes_tokenizer import accepts_value, new_grammars

from headrace.errors import RequestError
from headrace.text.grammar.compiler import Grammars
from headrace.text.grammar.specification import json_grammar

DRAFTS = {
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft4": "http://json-schema.org/draft-04/schema#",
}
LEAST_COMPILED = {"draft2020-12": 377, "draft2019-09": 370, "draft7": 252, "draft6": 228, "draft4": 170}
STRICTER = (
    "float",  # an integer is written 7, never 7.0
    "[0.0] is valid",
    "[1.0] is valid",
    "annotation by default",  # formats are enforced
    "leap second",
    "hostname",
    "host names",
    "punycode",
    "puny-coded",
    "A-label",
    "e-mail addresses",
    "ref overrides any sibling keywords",  # both hold
    "no validation vocabulary",
    "oneOf: second oneOf valid",  # what is no integer is no number either
)
"""What the grammar leaves out of what a schema allows, by words of the cases' descriptions"""


def cases(shared: Path, draft: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with tarfile.open(shared / "data/suites/json-schema-test-suite.tar.gz") as archive:
        for member in archive.getmembers():
            if f"/tests/{draft}/" in member.name and member.name.endswith(".json"):
                file = archive.extractfile(member)
                assert file is not None
                for case in json.load(file):
                    yield member.name.partition("/tests/")[2], case


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return new_grammars()


@pytest.mark.parametrize("draft", DRAFTS)
def test_no_invalid_instance_can_be_written(shared: Path, grammars: Grammars, draft: str) -> None:
    num_compiled = 0
    wrong_accepts, wrong_rejects = [], []
    for file, case in cases(shared, draft):
        schema = case["schema"]
        if isinstance(schema, dict):
            schema = {"$schema": DRAFTS[draft], **schema}
        try:
            grammar = grammars.compile(json_grammar(schema))
        except RequestError as error:
            assert error.param == "structured"  # noqa: PT017
            continue
        num_compiled += 1
        for test in case["tests"]:
            if accepts_value(grammar, test["data"]) != test["valid"]:
                line = f"{file}: {case['description']}: {test['description']}"
                (wrong_rejects if test["valid"] else wrong_accepts).append(line)
    assert not wrong_accepts
    assert [line for line in wrong_rejects if not any(word in line for word in STRICTER)] == []
    assert num_compiled >= LEAST_COMPILED[draft]
