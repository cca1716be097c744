"""The parameters in _core.pyi are those of the compiled module (stubtest cannot see them)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import headrace
from headrace import _core  # noqa: TID251


def _stub_parameters() -> dict[str, list[str]]:
    tree = ast.parse(Path(headrace.__file__).with_name("_core.pyi").read_text())
    found = {}
    for outer in tree.body:
        for node in outer.body if isinstance(outer, ast.ClassDef) else [outer]:
            if isinstance(node, ast.FunctionDef) and not node.decorator_list:
                prefix = f"{outer.name}." if isinstance(outer, ast.ClassDef) else ""
                found[prefix + node.name] = [argument.arg for argument in node.args.args]
    return found


def _compiled_parameters(path: str) -> list[str]:
    target: object = _core
    for name in path.split("."):
        target = getattr(target, name)
    [(signature, _, _)] = target.__nb_signature__  # type: ignore[attr-defined]
    [function] = ast.parse(re.sub(r"ndarray\[[^]]*\]", "ndarray", signature) + ": ...").body
    assert isinstance(function, ast.FunctionDef)
    return [argument.arg for argument in function.args.args]


def test_parameters_agree() -> None:
    stub = _stub_parameters()
    assert len(stub) > 15
    assert {path: _compiled_parameters(path) for path in stub} == stub
