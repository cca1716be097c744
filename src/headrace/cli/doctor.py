"""`headrace doctor`: whether this installation works here, and what it found."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict, dataclass

import click

from headrace import __version__
from headrace.cli.options import debug_option

DEPENDENCIES = (
    "numpy",
    "ml_dtypes",
    "tokenizers",
    "jinja2",
    "huggingface_hub",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "msgspec",
    "click",
    "rich",
    "prompt_toolkit",
    "prometheus_client",
    "psutil",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    value: str
    is_ok: bool = True


@click.command(short_help="Check this installation.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@debug_option
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Check this installation: processor, kernels against their reference, memory, versions, the hub's cache.

    The exit code is 1 when something is wrong.
    """
    findings = [*_machine(), *_kernels(), *_versions(), *_files()]
    is_ok = all(finding.is_ok for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": is_ok, "findings": [asdict(finding) for finding in findings]}))
    else:
        _show(findings)
        wrong = [finding.name for finding in findings if not finding.is_ok]
        click.echo("all is well" if is_ok else f"wrong: {', '.join(wrong)}")
    ctx.exit(0 if is_ok else 1)


def _show(findings: list[Finding]) -> None:
    from headrace.cli.report import show, table

    rows = [("ok" if finding.is_ok else "WRONG", finding.name, finding.value) for finding in findings]
    show(table(f"headrace {__version__}", ("", "what", "found"), rows))


def _machine() -> list[Finding]:
    from headrace.cli.machine import describe_machine
    from headrace.engine.memory import format_bytes

    machine = describe_machine()
    return [
        Finding("system", machine.system),
        Finding("processor", machine.processor),
        Finding("threads", f"{machine.cores} (cores that this process may use)"),
        Finding("memory", f"{format_bytes(machine.memory)}, {format_bytes(machine.free_memory)} free"),
    ]


def _kernels() -> list[Finding]:
    """The native kernels: there, for this processor, and equal to the reference."""
    from headrace.config import forced_instruction_set
    from headrace.errors import HeadraceError

    try:
        from headrace.ops.cpu import CpuOps, instruction_sets
        from headrace.ops.cpu.self_test import self_test

        ops = CpuOps(None, forced_instruction_set())
        available = ", ".join(instruction_sets())
        results = self_test(ops)
    except (ImportError, HeadraceError, OSError) as error:
        return [Finding("kernels", f"cannot be used ({error}); install headrace again", is_ok=False)]
    findings = [Finding("instruction set", f"{ops.instruction_set}, of {available}; {ops.threads} threads")]
    return findings + [
        Finding(f"kernel {name}", f"within {error:.1e} of the reference", is_ok) for name, error, is_ok in results
    ]


def _versions() -> list[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    findings = [Finding("python", f"{platform.python_version()} ({sys.executable})")]
    for name in DEPENDENCIES:
        try:
            findings.append(Finding(name, version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, "not installed; install headrace again", is_ok=False))
    return findings


def _files() -> list[Finding]:
    from headrace.config import hub_is_offline
    from headrace.errors import HeadraceError
    from headrace.hub.resolve import BUNDLED, bundled_folder
    from headrace.hub.store import cache_folder, cached_models

    findings = []
    for name in BUNDLED:
        try:
            findings.append(Finding(f"bundled model {name}", str(bundled_folder(name))))
        except HeadraceError as error:
            findings.append(Finding(f"bundled model {name}", str(error), is_ok=False))
    offline = ", HF_HUB_OFFLINE is set" if hub_is_offline() else ""
    try:
        cached = len(cached_models())
    except HeadraceError as error:
        return [*findings, Finding("hub cache", str(error), is_ok=False)]
    return [*findings, Finding("hub cache", f"{cache_folder()}, {cached} model{'' if cached == 1 else 's'}{offline}")]
