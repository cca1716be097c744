"""Options that several verbs share, and what they turn into."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace.cli.values import ByteSize
from headrace.config import (
    ACTIVATION_CHOICES,
    BACKENDS,
    MOST_THREADS,
    QUANTIZE_CODECS,
    SPECULATION_CHOICES,
    CacheType,
    EngineConfig,
)

if TYPE_CHECKING:
    from headrace.structured_output import StructuredOutput

Command = TypeVar("Command", bound=Callable[..., Any])

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


@dataclass(slots=True)
class DebugSwitch:
    """Whether --debug was given; the root context's `obj`, so that it is known when parsing fails too."""

    is_on: bool = False


class Text(click.ParamType[str]):
    """Text in UTF-8, whatever the locale says: under LANG=C its bytes come as surrogates and are put together again."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text."""
        try:
            return str(value).encode("utf-8", "surrogateescape").decode("utf-8")
        except UnicodeError as error:
            self.fail(f"it is not UTF-8 ({error.reason})", param, ctx)  # type: ignore[attr-defined]


class SamplingSetting(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE: a parameter of SamplingParams that has no option of its own; VALUE is JSON."""

    name = "setting"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """The name and the value."""
        name, _, text = Text().convert(value, param, ctx).partition("=")
        if name in _SAMPLING_NAMES:
            self.fail(f"{name} has an option of its own, --{name.replace('_', '-')}", param, ctx)
        if name not in SAMPLING_SETTINGS:
            self.fail(f"{name!r} is none of {', '.join(SAMPLING_SETTINGS)}", param, ctx)
        try:
            return name, json.loads(text)
        except (ValueError, RecursionError):
            self.fail(f'{name} is {text!r}, expected a number or a list such as ["a", "b"]', param, ctx)


class NamedFolder(click.ParamType[tuple[str, Path]]):
    """`name=folder`: a name, and a folder that is there."""

    name = "name=folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        """The name and the folder."""
        name, _, folder = Text().convert(value, param, ctx).partition("=")
        if not name or not folder:
            self.fail(f"{value!r} is not a name and a folder, expected NAME=FOLDER", param, ctx)
        if not Path(folder).is_dir():
            self.fail(f"there is no folder {folder}", param, ctx)
        return name, Path(folder)


def parse_token_ids(text: str) -> list[int]:
    """Token ids from a prompt such as `1 15 27` or `1, 15, 27`.

    Raises:
        click.UsageError: a word of it is no whole number.
    """
    words = text.replace(",", " ").split()
    for word in words:
        if _WHOLE_NUMBER.fullmatch(word) is None:
            raise click.UsageError(f"{word!r} is no token id; with --token-ids a prompt is numbers, such as 1 15 27")
    return [int(word) for word in words]


def _switch_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    debug = ctx.find_root().obj
    if value and isinstance(debug, DebugSwitch):
        debug.is_on = True


def debug_option(command: Command) -> Command:
    """Add --debug, which shows the traceback of an error."""
    option = click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_switch_debug,
        help="Show the traceback of an error.",
    )
    return option(command)


ENGINE_OPTIONS = (
    click.option("--quantize", type=click.Choice(tuple(QUANTIZE_CODECS)), help="Quantise float weights when loading."),
    click.option(
        "--max-context",
        type=click.IntRange(min=1),
        metavar="TOKENS",
        help="Longest prompt and output together.  [default: the model's, or what fits]",
    ),
    click.option(
        "--kv-memory",
        type=ByteSize(),
        metavar="SIZE",
        help="Memory for the KV cache, such as 2GiB.  [default: planned from free memory]",
    ),
    click.option(
        "--kv-dtype",
        type=click.Choice([each.value for each in CacheType]),
        help="Elements of the KV cache; q8 takes half of f16's memory.  [default: f32 for models in float32, else f16]",
    ),
    click.option(
        "--max-sequences",
        type=click.IntRange(min=1),
        default=128,
        show_default=True,
        metavar="N",
        help="Sequences that run at once, more wait; never changes a result.",
    ),
    click.option(
        "--max-batch-tokens",
        type=click.IntRange(min=1),
        default=256,
        show_default=True,
        metavar="N",
        help="Most tokens of a step; never changes a result.",
    ),
    click.option(
        "--prefix-cache/--no-prefix-cache",
        default=True,
        show_default=True,
        help="Share computed prefixes between requests; never changes a result.",
    ),
    click.option(
        "--activations",
        type=click.Choice(ACTIVATION_CHOICES),
        default="int8",
        show_default=True,
        help="What quantised weights are multiplied with; f32 is exact and several times slower.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, MOST_THREADS),
        metavar="N",
        help="Compute threads; never changes a result.  [default: one per core]",
    ),
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="cpu",
        show_default=True,
        help="Native kernels, or the slow numpy reference that they are checked against.",
    ),
)


_ENGINE_NAMES = (
    *("quantize", "max_context", "kv_memory", "kv_dtype", "max_sequences", "max_batch_tokens", "prefix_cache"),
    *("activations", "threads", "backend"),
)

SPECULATION_OPTIONS = (
    click.option(
        "--draft",
        type=Text(),
        metavar="MODEL",
        help="A smaller model of the same vocabulary that guesses tokens; never changes a result.",
    ),
    click.option(
        "--speculation",
        type=click.Choice(SPECULATION_CHOICES),
        default="auto",
        show_default=True,
        help="Compute guessed tokens along where it pays; never changes a result.",
    ),
)
_SPECULATION_NAMES = ("speculation", "draft")

_SAMPLING_NAMES = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")

SAMPLING_SETTINGS = (
    *("typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta"),
    *("dynatemp_range", "dynatemp_exponent", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size"),
    *(
        "penalty_last_n",
        "dry_multiplier",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
    ),
    *("bad_words", "allowed_token_ids", "min_tokens"),
)

SAMPLING_OPTIONS = (
    click.option(
        "--max-tokens", type=click.IntRange(min=1), metavar="N", help="Most tokens of an answer.  [default: 1024]"
    ),
    click.option("--temperature", type=float, metavar="T", help="0 always takes the likeliest token."),
    click.option("--top-k", type=int, metavar="K", help="Draw from the K likeliest tokens; 0 is all."),
    click.option("--top-p", type=float, metavar="P", help="Draw from the likeliest tokens that make up P."),
    click.option("--min-p", type=float, metavar="P", help="Drop tokens less than P times as likely as the best."),
    click.option("--repetition-penalty", type=float, metavar="R", help="Above 1: what was said becomes less likely."),
    click.option(
        "--sampling",
        "settings",
        type=SamplingSetting(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Another of the sampler's parameters, such as dry_multiplier=0.8; may be repeated.",
    ),
    click.option("--seed", type=int, metavar="N", help="Same seed, same text."),
    click.option(
        "--stop", type=Text(), multiple=True, metavar="TEXT", help="End the answer before TEXT; may be repeated."
    ),
)


STRUCTURE_OPTIONS = (
    click.option(
        "--json-schema",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The answer is JSON that satisfies this JSON Schema.",
    ),
    click.option("--regex", type=Text(), metavar="REGEX", help="The answer matches this regular expression."),
    click.option(
        "--grammar", type=Text(), metavar="FILE|TEXT", help="The answer follows this grammar (Lark, GBNF or EBNF)."
    ),
)


def structure_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a StructuredOutput; the command's `sampling` gets it as `structured`."""

    @functools.wraps(command)
    def with_structure(*args: Any, sampling: dict[str, Any], **options: Any) -> None:
        given = {name: options.pop(name) for name in ("json_schema", "regex", "grammar")}
        if (structured := _structured(**given)) is not None:
            sampling = {**sampling, "structured": structured}
        command(*args, sampling=sampling, **options)

    return _add(STRUCTURE_OPTIONS, with_structure)


def _structured(json_schema: Path | None, regex: str | None, grammar: str | None) -> StructuredOutput | None:
    from headrace.structured_output import StructuredOutput

    if [json_schema, regex, grammar].count(None) < 2:
        raise click.UsageError("--json-schema, --regex and --grammar exclude each other; give one of them")
    if json_schema is not None:
        return StructuredOutput(json=_read_json(json_schema))
    if regex is not None:
        return StructuredOutput(regex=regex)
    if grammar is None:
        return None
    is_file = "\n" not in grammar and len(grammar) < 256 and Path(grammar).is_file()
    if not is_file and ":" not in grammar:
        raise click.UsageError(
            f"--grammar {grammar!r} is neither a file nor a grammar, which has a rule start: … (Lark) or root ::= …"
        )
    return StructuredOutput(grammar=_read_text(Path(grammar)) if is_file else grammar)


def _read_json(path: Path) -> str:
    text = _read_text(path)
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{path} is not JSON ({error})") from error
    return text


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from error


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of an EngineConfig; the command gets `config`."""
    return _add((*ENGINE_OPTIONS, *SPECULATION_OPTIONS), _with_config(command, (*_ENGINE_NAMES, *_SPECULATION_NAMES)))


def plain_engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same for a command that takes a token in a step: what a guess gains depends on the text."""
    return _add(ENGINE_OPTIONS, _with_config(command, _ENGINE_NAMES, speculation="off"))


def _with_config(command: Callable[..., None], names: Iterable[str], **fixed: Any) -> Callable[..., None]:
    @functools.wraps(command)
    def with_config(*args: Any, **options: Any) -> None:
        config = EngineConfig(**{name: options.pop(name) for name in names}, **fixed)
        command(*args, config=config, **options)

    return with_config


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of SamplingParams; the command gets `sampling`, a dict of those that were given."""

    @functools.wraps(command)
    def with_sampling(*args: Any, **options: Any) -> None:
        given = {name: options.pop(name) for name in _SAMPLING_NAMES}
        sampling = {name: value for name, value in given.items() if value not in (None, ())}
        sampling |= dict(options.pop("settings"))
        command(*args, sampling=sampling, **options)

    return _add(SAMPLING_OPTIONS, with_sampling)


def _add(options: Iterable[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(tuple(options)):
        command = option(command)
    return command
