"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as in vLLM: what they take, and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from headrace.errors import ModelError, RequestError, UnknownModel
from headrace.server.dialects.base import Incoming, Inquiry, Route, Served
from headrace.server.dialects.openai.decode import decode

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

_FILES = ("adapter_config.json", "adapter_model.safetensors")


class LoadFields(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a load; `lora_path` is a folder below the server's --lora-dir."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadFields(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an unload."""

    lora_name: str


def adapter_routes(folder: Path | None, served_name: str) -> tuple[Route, ...]:
    """The two paths; only folders below `folder` can be loaded, and without one both refuse."""

    def parse_load(incoming: Incoming, _: Served) -> Inquiry:
        fields = decode(incoming.body, LoadFields, {})
        root = _root(folder)
        if fields.lora_name in ("", served_name):
            message = f"lora_name is {fields.lora_name!r}, expected a name other than the model's"
            raise RequestError(message, param="lora_name")

        async def load(llm: AsyncLLM) -> str:
            path = _inside(root, fields.lora_path)
            try:
                await llm.load_adapter(fields.lora_name, path, replace=fields.load_inplace)
            except ModelError as error:
                message = str(error).replace(f"{path.parent}/", "")
                raise RequestError(message, param="lora_path") from error
            return f"Success: LoRA adapter '{fields.lora_name}' added successfully."

        return _inquiry(load)

    def parse_unload(incoming: Incoming, _: Served) -> Inquiry:
        fields = decode(incoming.body, UnloadFields, {})
        _root(folder)

        async def unload(llm: AsyncLLM) -> str:
            llm.unload_adapter(fields.lora_name)
            return f"Success: LoRA adapter '{fields.lora_name}' removed successfully."

        return _inquiry(unload)

    return (
        Route(path="/v1/load_lora_adapter", parse=parse_load, is_admin=True),
        Route(path="/v1/unload_lora_adapter", parse=parse_unload, is_admin=True),
    )


def _inquiry(ask: object) -> Inquiry:
    return Inquiry(
        model=None,
        ask=ask,  # type: ignore[arg-type]
        render=lambda said, _: str(said).encode(),
        param_names={"name": "lora_name", "adapter": "lora_name"},
        media_type="text/plain; charset=utf-8",
    )


def _root(folder: Path | None) -> Path:
    if folder is None:
        raise RequestError("This server does not load adapters while it runs; start it with --lora-dir FOLDER")
    return folder


def _inside(root: Path, name: str) -> Path:
    """The adapter's folder: it and its files lie below `root`, also behind symbolic links."""
    try:
        whole, path = root.resolve(strict=True), (root / name).resolve(strict=True)
        places = [path, *((path / file).resolve(strict=True) for file in _FILES)]
        if path != whole and all(place.is_relative_to(whole) for place in places):
            return path
    except (OSError, ValueError, RuntimeError):
        pass  # the same answer, so that nobody can ask what lies elsewhere
    raise UnknownModel(f"There is no adapter {name!r} in the server's folder of adapters", param="lora_path")
