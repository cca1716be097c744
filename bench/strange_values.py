"""Values that no client of good will sends, for bench/strange.py."""

from __future__ import annotations

from typing import Any

NOT_UNICODE = b"\xff\xfe\x80"
ODD_VALUES: tuple[bytes, ...] = (
    *(
        b"null",
        b"true",
        b"false",
        b"0",
        b"-1",
        b"1",
        b"3",
        b"1.5",
        b"1e999",
        b"-1e999",
        b"1e-400",
        b"-0",
        b"2147483648",
    ),
    *(
        b"9223372036854775808",
        b"18446744073709551616",
        b"1" * 400,
        b"0." + b"1" * 400,
        b"NaN",
        b"Infinity",
        b"01",
        b"+1",
    ),
    *(b'""', b'"a"', b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"', b'"' + b"a" * 5000 + b'"', b'"\\x"'),
    *(b"[]", b"[[]]", b"[null]", b"[1,2,3]", b'["a"]', b"[1e999]", b'[{"a":1}]', b"[" * 50 + b"]" * 50, b"[99999999]"),
    *(b"{}", b'{"a":{}}', b'{"":0}', b'{"type":"x"}', b'{"type":null}', b'{"a":1,"a":2}', b'{"1":2}', b'{"-5":1e300}'),
)
REGEXES = (
    "(a{1,1000}){1,1000}",
    "((((((a*)*)*)*)*)*)*b",
    "[",
    "(?<=a)b",
    r"\1",
    "a{99999999}",
    "(" * 5000,
    r"\p{L}{500}\p{N}{500}",
    "(?=a)",
    "",
    ".*" * 500,
    "[^\x00-\U0010ffff]",
    "^$",
    "|" * 3000,
)
GRAMMARS = (
    "start: /(a|a)*/ start",
    "start: start",
    'start: start start | "a"',
    "root ::= root root | root",
    "start: " + '"a" ' * 20000,
    "start: x",
    "%import common.WORD\nstart: WORD",
    "\x00",
    "start: /" + "a?" * 300 + "a" * 300 + "/",
)
_DEEP: dict[str, Any] = {"type": "string"}
for _ in range(200):
    _DEEP = {"anyOf": [_DEEP, {"type": "array", "items": _DEEP}]} if len(str(_DEEP)) < 20000 else {"not": _DEEP}
SCHEMAS: tuple[Any, ...] = (
    {"$ref": "#"},
    {"allOf": [{"$ref": "#"}]},
    {"$ref": "#/definitions/x", "definitions": {"x": {"$ref": "#/definitions/x"}}},
    {"$ref": "http://localhost/x"},
    {"$ref": "file:///etc/passwd"},
    {"enum": list(range(20000))},
    {"enum": []},
    {"type": "string", "minLength": 10**9},
    {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
    {"type": "array", "minItems": 10**7, "items": {"type": "integer"}},
    {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(2000)}},
    {"type": "object", "required": [f"p{number}" for number in range(500)]},
    {"type": "integer", "minimum": 10**400},
    {"type": "number", "multipleOf": 1e-300},
    {"const": None},
    {"not": {}},
    {"type": ["x"]},
    {"oneOf": [{"type": "string"}] * 300},
    {"type": "object", "patternProperties": {"(": {}}},
    {"format": "x" * 5000, "type": "string"},
    _DEEP,
    True,
    False,
    3,
    [],
)
MESSAGES: tuple[Any, ...] = (
    [],
    [{}],
    [{"role": "user"}],
    [{"role": "system", "content": "a"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
    [{"role": "tool", "content": "a", "tool_call_id": "x"}],
    [
        {
            "role": "assistant",
            "tool_calls": [{"id": "x", "type": "function", "function": {"name": "a", "arguments": "{"}}],
        }
    ],
    [{"role": "user", "content": "a"}] * 2000,
    [{"role": "user", "content": "{{ 7 * 7 }}{% for i in range(10**9) %}x{% endfor %}"}],
    [{"role": "user", "content": "\x00\x1b[31m\u202e" + "é" * 3000}],
    [{"role": "\x00", "content": 5}],
    "text",
    {"role": "user"},
)
LARGE_PIECES: tuple[bytes, ...] = (
    b"1,",
    b'"ab",',
    b'{"a":{}},',
    b"[],",
    b'{"role":"user","content":"a"},{"role":"assistant","content":"b"},',
    b'{"type":"text","text":"a"},',
    b'{"type":"function","function":{"name":"x","parameters":{"type":"object"}}},',
    b"1" * 4200 + b",",
    b'"Once upon a time ',
    b'"a',
    b'"\\n',
    b'"[{,:',
    '"é'.encode(),
)
"""Of a list, or of a text where they begin with a quote"""
