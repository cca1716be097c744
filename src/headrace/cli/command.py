"""The `headrace` command: its verbs, and the one place where errors become a line and an exit code.

Exit codes: 0 done · 1 error · 2 wrong usage · 130 stopped by Ctrl-C · 141 the reader of our output went away.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from headrace import __version__
from headrace.cli.bench import bench, bench_kernels
from headrace.cli.bench_serve import bench_serve
from headrace.cli.doctor import doctor
from headrace.cli.lines import one_line
from headrace.cli.models import models
from headrace.cli.options import DebugSwitch, debug_option
from headrace.cli.run import run
from headrace.cli.serve import serve
from headrace.cli.top import top
from headrace.errors import HeadraceError
from headrace.logs import LogSettings, set_up

INTERRUPTED = 130
BROKEN_PIPE = 141


class _ReaderGone(Exception):
    """Whoever read our output has gone away."""


class _Verbs(click.Group):
    """Verbs of one or two words.

    click answers a broken pipe with exit code 1 on its own; here it is told apart from an error.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Two words are a verb where there is one of that name."""
        two = " ".join(args[:2])
        return super().resolve_command(ctx, [two, *args[2:]] if two in self.commands else args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGone from error


@click.group(
    cls=_Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="headrace", message="%(prog)s %(version)s")
@debug_option
@click.pass_context
def headrace(context: click.Context) -> None:
    """One engine for large language models.

    MODEL is the bundled name "stories", a folder in Hugging Face form, a .gguf file, or a name on the hub: org/name,
    org/name:Q4_K_M for a GGUF in a repository, org/name@revision.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _verb in (run, serve, top, bench, bench_kernels, bench_serve, models, doctor):
    headrace.add_command(_verb)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (sys.argv when `arguments` is None) and return the exit code."""
    debug = DebugSwitch()
    _prepare_streams()
    set_up(LogSettings())
    try:
        code = headrace.main(
            None if arguments is None else list(arguments), prog_name="headrace", standalone_mode=False, obj=debug
        )
        sys.stdout.flush()
    except (_ReaderGone, BrokenPipeError):
        _drop_output()
        return BROKEN_PIPE
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001  (the outermost handler: a bug is one line too)
        message, code = _explain(error)
        return _fail(error, message, code, debug)
    return code if isinstance(code, int) else 0


def _prepare_streams() -> None:
    """Output that was closed goes nowhere; a character that the terminal's encoding lacks is written as an escape."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (the process's own stream)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is from the start


def _explain(error: BaseException) -> tuple[str | None, int]:
    """What to say and the exit code."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return None, INTERRUPTED
    if isinstance(error, click.ClickException):
        return _usage_message(error), error.exit_code
    if isinstance(error, HeadraceError):
        return str(error), 1
    if isinstance(error, MemoryError):
        return "out of memory; lower --kv-memory or --max-context, give --quantize q8, or take a smaller model", 1
    if isinstance(error, OSError) and error.strerror:
        what = error.strerror if error.filename is None else f"{error.strerror}: {os.fsdecode(error.filename)}"
        return f"{what}; check the file, its permissions and the disk, or see --debug", 1
    message = f"{type(error).__name__}: {error}".rstrip(": ")
    return f"{message}; this is a bug: run again with --debug and report what it shows", 1


def _usage_message(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message}; see {context.command_path} --help"


def _fail(error: BaseException, message: str | None, code: int, debug: DebugSwitch) -> int:
    if debug.is_on:
        import traceback

        traceback.print_exception(error)
    if message is not None:
        click.echo(click.style("error: ", fg="red", bold=True) + one_line(message), err=True)
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    return code


def _drop_output() -> None:
    """Nobody reads any more: let the interpreter's own flush at exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
