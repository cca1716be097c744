"""Which backend an engine computes with."""

from __future__ import annotations

from headrace.config import EngineConfig, forced_instruction_set
from headrace.ops.base import Ops


def select_ops(config: EngineConfig) -> Ops:
    """The backend that the settings name, with its own threads and memory.

    Raises:
        ConfigError: this machine has not got the instruction set that HEADRACE_CPU forces.
    """
    if config.backend == "reference":
        from headrace.ops.reference import ReferenceOps

        return ReferenceOps()
    from headrace.ops.cpu import CpuOps

    return CpuOps(config.threads, forced_instruction_set(), exact_activations=config.activations == "f32")
