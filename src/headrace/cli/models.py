"""`headrace models`: what can be run, and what is here already."""

from __future__ import annotations

import json
from typing import Any

import click

from headrace.cli.options import debug_option
from headrace.config import QUANTIZE_CODECS


@click.command(short_help="List what can be run, and what is here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@debug_option
def models(*, as_json: bool) -> None:
    """List families and formats that headrace runs, the bundled model, and the hub models cached here."""
    listing = _listing()
    if as_json:
        click.echo(json.dumps(listing))
        return
    from headrace.cli.report import show, table
    from headrace.engine.memory import format_bytes

    names = [(one["name"], ", ".join(one["model_types"]), ", ".join(one["gguf"])) for one in listing["families"]]
    show(table("Families", ("family", "model_type in config.json", "architecture in GGUF"), names))
    formats = [(one["name"], f"{one['bits']:.2f}", "yes" if one["can_quantize"] else "") for one in listing["formats"]]
    show(table("Formats of weights", ("format", "bits per weight", "--quantize writes"), formats, numbers=(1,)))
    local = [
        (one["name"], "bundled" if one["path"] else "missing: install headrace again", format_bytes(one["nbytes"]), "")
        for one in listing["bundled"]
    ]
    local += [(one["name"], one["format"], format_bytes(one["nbytes"]), one["revision"]) for one in listing["cached"]]
    show(table("Models here", ("MODEL", "from", "size", "revision"), local, numbers=(2,)))
    click.echo(f"the hub's cache: {listing['cache']}")


def _listing() -> dict[str, Any]:
    from headrace.formats.codecs import CODECS
    from headrace.hub.resolve import BUNDLED
    from headrace.hub.store import cache_folder, cached_models
    from headrace.model.loader import families

    return {
        "families": [
            {"name": one.name, "model_types": list(one.model_types), "gguf": list(one.gguf_architectures)}
            for one in families()
        ],
        "formats": [
            {
                "name": codec.name,
                "bits": 8 * codec.block_bytes / codec.block_size,
                "can_quantize": codec.name in QUANTIZE_CODECS.values(),
            }
            for codec in CODECS.values()
        ],
        "bundled": [_bundled(name) for name in BUNDLED],
        "cache": str(cache_folder()),
        "cached": [
            {
                "name": model.name,
                "format": model.format,
                "nbytes": model.nbytes,
                "revision": model.revision,
                "path": str(model.path),
            }
            for model in cached_models()
        ],
    }


def _bundled(name: str) -> dict[str, Any]:
    from headrace.errors import DamagedFile
    from headrace.hub.resolve import bundled_folder

    try:
        folder = bundled_folder(name)
    except DamagedFile:
        return {"name": name, "path": None, "nbytes": 0}
    return {"name": name, "path": str(folder), "nbytes": sum(file.stat().st_size for file in folder.iterdir())}
