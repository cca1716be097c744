"""The page at `/`, without a browser: what is served and how, and what its markup has to have for everybody."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from fake_llm import FakeLLM

from headrace.server import page

FOLDER = Path(page.__file__).parent
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".html", ".css", ".js", ".svg"))
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
HTML = (FOLDER / "index.html").read_text()
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
VOID = {"meta", "link", "input", "br"}


class Markup(HTMLParser):
    """Every element of a page with its attributes and the words in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, words in self._open:
            words.append(data)

    def all(self, *tags: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attrs, "".join(words).strip()) for tag, attrs, words in self.elements if tag in tags]


MARKUP = Markup(HTML)
IDS = [attrs["id"] for _, attrs, _ in MARKUP.elements if "id" in attrs]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
def test_files_have_their_types_and_a_policy_that_lets_nothing_else_in(quick: str, path: str, media_type: str) -> None:
    answer = httpx.get(quick + path, headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    policy = dict(each.strip().partition(" ")[::2] for each in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    for kind in ("script-src", "style-src", "img-src", "connect-src"):
        assert policy[kind] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_browsers_keep_files_and_ask_whether_they_have_changed(quick: str) -> None:
    first = httpx.get(f"{quick}/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = httpx.get(f"{quick}/page/main.js", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert httpx.get(f"{quick}/page/main.js", headers={"if-none-match": '"other"'}).content == first.content
    assert httpx.get(f"{quick}/page/style.css").headers["etag"] != etag


def test_only_its_own_files_are_served(quick: str) -> None:
    for path in ("/page/", "/page/nothing.js", "/page/__init__.py", "/page/index.html", "/page/..%2f__init__.py"):
        assert httpx.get(quick + path).status_code == 404, path


def test_the_page_is_open_and_what_it_shows_is_not(serve: Callable[..., str]) -> None:
    base = serve(FakeLLM(), api_keys=("secret",))
    assert httpx.get(f"{base}/", headers=BROWSER).status_code == 200
    assert httpx.get(f"{base}/page/main.js").status_code == 200
    for path in ("/v1/models", "/metrics"):
        assert httpx.get(base + path).status_code == 401


def test_it_is_small_and_needs_nobody_else() -> None:
    assert sum(path.stat().st_size for path in FILES) < 60_000
    for path in FILES:
        found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text())
        assert set(found) <= {"http://www.w3.org/2000/svg"}, path.name


def test_nothing_is_inline_and_nothing_becomes_markup() -> None:
    for tag, attrs, words in MARKUP.elements:
        assert "style" not in attrs
        assert not [name for name in attrs if name.startswith("on")]
        assert tag != "style"
        assert tag != "script" or (attrs["src"] and not "".join(words).strip())
    danger = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|\beval\(|Function\("
    )
    for path in SCRIPTS:
        assert not danger.search(path.read_text()), path.name


def test_what_is_named_is_there(quick: str) -> None:
    assert len(IDS) == len(set(IDS))
    for path in SCRIPTS:
        text = path.read_text()
        assert set(re.findall(r'\$\("([\w-]+)"\)', text)) <= set(IDS), path.name
        for module in re.findall(r'from "\./([\w.]+)"', text):
            assert (FOLDER / module).exists(), f"{path.name} imports {module}"
    for link in re.findall(r'(?:href|src)="(page/[\w.]+)"', HTML):
        assert httpx.get(f"{quick}/{link}").status_code == 200


def test_everybody_can_use_it() -> None:
    html, title = MARKUP.all("html")[0][0], MARKUP.all("title")[0][1]
    assert html["lang"] == "en"
    assert title
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in HTML  # zooming is not forbidden
    labelled = {attrs.get("for") for attrs, _ in MARKUP.all("label")}
    wrapped = {"model", "letters"}  # inside of their labels
    for attrs, _ in MARKUP.all("input", "select", "textarea"):
        assert attrs["id"] in labelled | wrapped
    for attrs, words in MARKUP.all("button"):
        assert words or attrs.get("aria-label")
    for attrs, _ in MARKUP.all("section", "dialog", "nav"):
        assert attrs.get("aria-label") or attrs.get("aria-labelledby")
    for _, attrs, _ in MARKUP.elements:
        for name in ("for", "aria-labelledby", "aria-describedby"):
            assert attrs.get(name) is None or attrs[name] in IDS
        assert "tabindex" not in attrs or attrs["tabindex"] == "0"  # the order of the keyboard is that of the page
    styles = (FOLDER / "style.css").read_text()
    assert ":focus-visible { outline: 3px" in styles
    assert "outline: none" not in styles
    assert "outline: 0" not in styles


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours (#rgb or #rrggbb)."""

    def luminance(colour: str) -> float:
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_apart(theme: int) -> None:
    styles = (FOLDER / "style.css").read_text()
    colours = {name: pair[theme] for name, *pair in re.findall(r"--([\w-]+): light-dark\(#(\w+), #(\w+)\)", styles)}
    for ground in ("ground", "raised", "sunk"):
        for text in ("ink", "faint", "main", "wrong"):
            assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"
        for mark in ("field", "second", "good"):  # edges of fields and lines
            assert contrast(colours[mark], colours[ground]) >= 3, f"{mark} on {ground}"
    assert contrast(colours["on-main"], colours["main"]) >= 4.5
