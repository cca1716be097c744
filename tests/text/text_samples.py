"""Texts that are hard to tokenize, a small corpus, and how to read conformance vectors."""

from __future__ import annotations

from pathlib import Path

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\t\n ",
    "Hello world",
    " Hello  world ",
    "Hello, y'all! I'LL go, we've been; it's 'RE",
    "The numbers 1, 12, 123, 1234 and 1234567.",
    "naïve café, Füße, Ω, Жук, ǅ",
    "漢字かな交じり文と한국어 그리고 ไทย",
    "emoji 🦙🚀 ❤️ and 👨‍👩‍👧 joined",
    "code: def f(x):\n    return x**2  # ok\n\n\n\tpass",
    "a\u00a0b\u3000c\u200bd\u0085e",
    "e\u0301 vs \u00e9, \ufb01 \u2460 \u212b",
    "=====----....!!!!????''''\"\"\"\"",
    "CamelCaseAndHTTPServer iPhone",
    "\x00\x01\x7f control",
]

CORPUS = [
    "Once upon a time there was a little girl named Lily. She loved to play outside in the park.",
    "One day, she saw a big, red ball; it wasn't hers! \"Whose is it?\" she asked. They'd lost 123 balls.",
    "Füße und Öl kosten 45 Euro. Die Straße ist naß, der Café au lait heiß.",
    "def main(): return 42 + 1000 # numbers\n\tprint('done')",
    "漢字 かな 한국어 emoji 🦙 ok",
] * 20


def vectors(path: Path) -> tuple[list[str], list[list[int]]]:
    """The inputs and expected ids beside a vocabulary file (46 of each)."""
    text = path.with_name(path.name + ".inp").read_bytes().decode("utf-8")
    inputs = text.split("\n__ggml_vocab_test__\n")[:-1]
    lines = path.with_name(path.name + ".out").read_text().removesuffix("\n").split("\n")
    outputs = [[int(token_id) for token_id in line.split()] for line in lines]
    assert len(inputs) == len(outputs) == 46
    return inputs, outputs
