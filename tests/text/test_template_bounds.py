"""Chat templates that would take for ever, or all memory there is."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from headrace.errors import HeadraceError
from headrace.text import chat
from headrace.text.chat import ChatTemplate

MESSAGES = [{"role": "user", "content": "x" * 1000}, {"role": "assistant", "content": "y"}]
DOUBLE = "{% for i in range(100) %}{% set ns.x = EXPRESSION %}{% endfor %}"
BOMBS = {
    "loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for i in range(99999) %}{% for j in range(99999) if j < 0 %}{% endfor %}{% endfor %}",
    "recursive loops": "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(200) }}",
    "blocks": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "plus": "{% set ns = namespace(x='ab') %}" + DOUBLE.replace("EXPRESSION", "ns.x + ns.x"),
    "tilde": "{% set ns = namespace(x='ab') %}" + DOUBLE.replace("EXPRESSION", "ns.x ~ ns.x"),
    "list": "{% set ns = namespace(x=[1]) %}" + DOUBLE.replace("EXPRESSION", "ns.x + ns.x"),
    "nested lists": "{% set ns = namespace(x=[1]) %}" + DOUBLE.replace("EXPRESSION", "[ns.x, ns.x]") + "{{ ns.x }}",
    "nested dicts": "{% set ns = namespace(x=1) %}"
    + DOUBLE.replace("EXPRESSION", "{'a': ns.x, 'b': ns.x}")
    + "{{ ns.x|tojson }}",
    "called dicts": "{% set ns = namespace(x=1) %}"
    + DOUBLE.replace("EXPRESSION", "dict(a=ns.x, b=ns.x)")
    + "{{ ns.x }}",
    "nested times": "{% set ns = namespace(x=[1]) %}" + DOUBLE.replace("EXPRESSION", "[ns.x] * 2") + "{{ ns.x }}",
    "compared": "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
    "numbers": "{% set ns = namespace(x=3) %}" + DOUBLE.replace("EXPRESSION", "ns.x * ns.x") + "{{ ns.x }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "set blocks": "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
    "{% set ns.x = y %}{% endfor %}",
    "repeated": "{{ 'x' * 1000000000 }}",
    "center": "{{ messages[0].content|center(1000000000) }}",
    "ljust": "{{ messages[0].content.ljust(1000000000) }}",
    "zfill": "{{ messages[0].content.zfill(1000000000) }}",
    "expandtabs": "{{ ('\t' * 1000).expandtabs(1000000000) }}",
    "indent": "{{ messages[0].content|indent(1000000000, true) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "star": "{{ '%*d' % (1000000000, 1) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "format nested": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "replace": "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}",
    "replace filter": "{{ ('x' * 1000000)|replace('x', 'y' * 1000000) }}",
    "join": "{{ range(100000)|join('y' * 1000000) }}",
    "join method": "{{ ('y' * 1000000).join(messages[0].content) }}",
    "tojson": "{{ messages|tojson(indent=1000000000) }}",
    "batch": "{{ [1]|batch(1000000000, 1)|list }}",
    "slice": "{{ [1]|slice(1000000000)|list }}",
    "map": "{{ range(100000)|map('center', 1000000)|list }}",
    "wordwrap": "{{ ('x' * 100000)|wordwrap(1, true, 'y' * 100000) }}",
    "split": "{{ ('x ' * 3000000).split()|length }}",
    "summed": "{{ ([[1]] * 1000000)|sum(start=[]) }}",
    "large numbers": "{% set x = ('f' * 10000000)|int(base=16) %}{% set y = ('f' * 5000000)|int(base=16) %}{{ x % y }}",
    "bytes": "{{ 'x'.encode().ljust(1000000000) }}",
    "number to bytes": "{{ (5).to_bytes(1000000000, 'big') }}",
    "punycode": "{% set x %}{% for i in range(20000) %}{{ '%c' % (19968 + i) }}{% endfor %}{% endset %}"
    "{{ x.encode('punycode') }}",
    "items of a text": "{{ ('x' * 10000000)|map('upper')|map('lower')|list|length }}",
    "sorted": "{{ ('x' * 10000000)|sort|length }}",
    "comments": "{{ ('<!---->' * 1000000)|striptags }}",
    "output": "{% for i in range(100000) %}{{ messages[0].content }}{% endfor %}",
}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_PROBE_SECONDS", 0.05)
    monkeypatch.setattr(chat.CompiledTemplate.render, "__defaults__", (0.1,))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_stopped_soon(name: str) -> None:
    begin = time.thread_time()
    with pytest.raises(HeadraceError, match="stopped"):
        ChatTemplate(BOMBS[name], {}).render(MESSAGES)
    assert time.thread_time() - begin < 20  # two renderings that look what it understands, and the one


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{% endfor %}", "1False22True2"),
        ("{% for m in messages if m.role == 'user' %}{{ loop.index }}{% else %}none{% endfor %}", "1"),
        ("{% for m in [] %}x{% else %}none{% endfor %}", "none"),
        ("{{ 'a' ~ 1 ~ none ~ [1] }}", "a1None[1]"),
        ("{% set a, b = 1, 2 %}{{ b }}{{ a }}", "21"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{{ [1, 2] + [messages|length] }}", "[1, 2, 2]"),
        ("{{ '%s-%d' % ('a', 5) }}", "a-5"),
        ("{{ '%s-%d'|format('a', 5) }}", "a-5"),
        ("{{ 'a{}b{:>3}'.format(1, 2) }}", "a1b  2"),
        ("{{ 'a\nb'|indent(2) }}", "a\n  b"),
        ("{{ ['a', 'b']|join(', ') }}", "a, b"),
        ("{{ messages|map(attribute='role')|join('|') }}", "user|assistant"),
        ("{{ '|'.join(messages|map(attribute='role')) }}{{ ', '.join(['a', 'b']) }}{{ ''.join('ab') }}",
         "user|assistanta, bab"),
        ("{{ 'ä'.encode('utf-8').decode('latin-1') }}{{ 'ä'.encode()|length }}", "Ã¤2"),
        ("{{ [3, 1, 2]|sort }}{{ [1, 1]|unique|list }}{{ [1, 2]|max }}{{ none|select|list }}{{ nothing|list }}",
         "[1, 2, 3][1]2[][]"),
        ("{% for role, of in messages|groupby('role') %}{{ role }}{{ of|length }}{% endfor %}", "assistant1user1"),
        ("{{ '<b>a</b> <!-- c -->b'|striptags }}", "a b"),
        ("{{ 'ff'|int(base=16) }}{{ '7'|int }}{{ 'x'|int(3) }}{{ 2.5|int }}", "255732"),
        ("{{ [1, 2, 3]|sum }}", "6"),
        ("{{ [[1], [2]]|sum(start=[]) }}", "[1, 2]"),
        ("{{ [1, 2, 3]|batch(2, 0)|list }}", "[[1, 2], [3, 0]]"),
        ("{{ [1, 2, 3]|slice(2)|list }}", "[[1, 2], [3]]"),
        ("{{ 'abc'|replace('b', 'x') }}{{ 'abc'.replace('b', 'y') }}", "axcayc"),
        ("{{ 'a'|center(5) }}|", "  a  |"),
        ("{{ {'a': messages[1].content}|tojson(indent=1) }}", '{\n "a": "y"\n}'),
        ("{% macro f(x) %}[{{ x }}]{{ caller() }}{% endmacro %}{% call f(1) %}c{% endcall %}", "[1]c"),
        ("{% set x %}a{{ 1 + 1 }}{% endset %}{{ x }}", "a2"),
        ("{% if (1, messages) %}y{% endif %}{{ 7 % 4 }}{{ 2 * 3 }}{{ 2 ** 3 }}", "y368"),
        ("{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02"),
        ("{% for x in [[1, [2]], 3] recursive %}{% if x is sequence %}{{ loop(x) }}{% else %}{{ x }}{% endif %}"
         "{% endfor %}", "123"),
        ("{{ {'keys': 7}.keys()|list }}{{ {'keys': 7}['keys'] }}{{ {'a': 7}.a }}{{ {'a': 7}.b }}.", "['keys']77."),
        ("{% macro f() %}{% for m in messages if m.role == 'user' %}{{ m.content|length }}{% endfor %}{% endmacro %}"
         "{{ f() }}{% block b %}{% for m in messages %}{{ m.role }}{% endfor %}{% endblock %}", "1000userassistant"),
        ("{{ undefined_thing }}{% for x in undefined_thing %}{% endfor %}.", "."),
        ("{% set ns = namespace(a=[]) %}{% for m in messages %}{% set ns.a = ns.a + [m] %}{% endfor %}"
         "{{ ns.a|length }}", "2"),
    ],
)  # fmt: skip
def test_templates_are_what_they_were(template: str, text: str) -> None:
    assert ChatTemplate(template, {}).render(MESSAGES) == text


def test_a_long_conversation_is_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat.CompiledTemplate.render, "__defaults__", (5.0,))
    loop = "{% for m in messages %}{% set ns.a = ns.a + [m] %}{% endfor %}"
    template = "{% set ns = namespace(a=[]) %}" + loop + "{{ ns.a[0].role }}"
    assert ChatTemplate(template, {}).render([{"role": "user", "content": "x" * 100}] * 2000) == "user"


def test_nothing_large_is_made_while_a_template_is_compiled() -> None:
    tracemalloc.start()
    ChatTemplate("{{ 'x'|center(30000000) }}{{ [1]|tojson(indent=9999999) }}" * 2, {})
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
