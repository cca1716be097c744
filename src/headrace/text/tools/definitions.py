"""The tools of a request, checked: OpenAI's {"type": "function", "function": {…}}."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from headrace.errors import RequestError, UnsupportedParameter

ToolChoice: TypeAlias = str | Mapping[str, Any]
"""none, auto, required, or {"type": "function", "function": {"name": …}}"""

_NAME = re.compile(r"[a-zA-Z0-9_.:/-]{1,128}")
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
_CHOICES = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class Tools:
    """What a model may call, and whether it has to."""

    definitions: Sequence[Mapping[str, Any]]
    """As chat templates get them"""
    schemas: Mapping[str, Mapping[str, Any]]
    """The parameters' JSON schema by name"""
    choice: str = "auto"
    """none, auto or required; required too where one tool is named"""
    named: str | None = None
    """The only tool that may be called"""
    is_parallel: bool = True
    """Several calls are allowed"""
    loose: frozenset[str] = frozenset()
    """Tools whose arguments are any JSON object (strict is false)"""

    @property
    def key(self) -> str:
        """A text that is the same for what asks for the same calls, and for nothing else."""
        return json.dumps([self.schemas, self.choice, self.named, self.is_parallel, sorted(self.loose)])


def read_tools(
    tools: Sequence[Mapping[str, Any]] | None, choice: ToolChoice | None = None, *, is_parallel: bool = True
) -> Tools | None:
    """The tools of a request; None if there are none.

    Raises:
        RequestError: a malformed definition, two tools of one name, or a choice that the tools do not have.
    """
    if not tools:
        if choice not in (None, "none", "auto"):
            raise RequestError("tool_choice asks for a call and there are no tools; give tools", param="tool_choice")
        return None
    definitions = [_definition(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    schemas = {each["function"]["name"]: each["function"]["parameters"] for each in definitions}
    if len(schemas) < len(definitions):
        raise RequestError("tools has two of the same name; names have to differ", param="tools")
    loose = frozenset(each["function"]["name"] for each in tools if each["function"].get("strict") is False)
    if choice is None or isinstance(choice, str):
        if choice not in (None, *_CHOICES):
            raise RequestError(
                f"tool_choice is {choice!r}, expected {', '.join(_CHOICES)} or a named function", param="tool_choice"
            )
        return Tools(definitions, schemas, choice or "auto", None, is_parallel, loose)
    name = _chosen(choice)
    if name not in schemas:
        raise RequestError(f"tool_choice names {name!r}, which is not among the tools", param="tool_choice")
    return Tools(definitions, schemas, "required", name, is_parallel, loose)


def _chosen(choice: Mapping[str, Any]) -> str:
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if kind not in (None, "function"):
        raise UnsupportedParameter(
            f"tool_choice of type {kind!r} is not supported; expected none, auto, required or a function",
            param="tool_choice",
        )
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise RequestError("tool_choice names no function", param="tool_choice")
    return name


def _definition(tool: Any, what: str) -> dict[str, Any]:
    if not isinstance(tool, Mapping) or not isinstance(function := tool.get("function"), Mapping):
        raise RequestError(f'{what} is not of the form {{"type": "function", "function": {{…}}}}', param=what)
    if tool.get("type", "function") != "function":
        raise UnsupportedParameter(
            f"{what} is of type {tool['type']!r}, which is not supported; expected function", param=f"{what}.type"
        )
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise RequestError(
            f"{what}.function.name is {name!r}, expected letters, digits, _ and -", param=f"{what}.function.name"
        )
    if parameters is None:
        parameters = _NO_PARAMETERS
    if not isinstance(parameters, Mapping):
        raise RequestError(
            f"{what}.function.parameters is no JSON schema of an object", param=f"{what}.function.parameters"
        )
    kept = {key: value for key, value in function.items() if value is not None and key != "strict"}
    return {"type": "function", "function": {**kept, "parameters": parameters}}
