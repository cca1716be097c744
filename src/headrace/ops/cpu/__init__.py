"""The CPU backend: `CpuOps`; self_test.py checks it for `headrace doctor`. Imports the compiled kernels."""

from __future__ import annotations

from headrace.ops.cpu.backend import CpuOps, codec_names, instruction_sets
from headrace.ops.cpu.tape import Clock
from headrace.ops.cpu.weight import CpuWeight

__all__ = ["Clock", "CpuOps", "CpuWeight", "codec_names", "instruction_sets"]
