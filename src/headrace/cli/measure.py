"""The measurements of `headrace bench`. Every repeat measures the machine's limits anew, beside the model."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from headrace import __version__
from headrace.cli.cost import Cost, Work, cost_of, num_parameters
from headrace.cli.machine import Limits, cpu_ops, describe_machine, measure_limits, median_limits
from headrace.config import EngineConfig
from headrace.engine.stats import EngineStats
from headrace.errors import ConfigError
from headrace.llm import LLM
from headrace.ops.base import Ops
from headrace.ops.cpu import Clock, CpuOps
from headrace.sampling_params import SamplingParams
from headrace.types import Chunk

_DECODE_PROMPT = 16
"""Prompt tokens of each decoded sequence"""
_MOST_STEPS = 512
_TRIAL_STEPS = 4

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure."""

    prompt_tokens: int
    batches: tuple[int, ...]
    repeats: int
    seconds: float
    """Of one decode run"""


@dataclass(frozen=True, slots=True)
class _Spell:
    """A stretch of steps: wall time, the engine's own counters over it, and what each kind of operation took."""

    wall: float
    steps: int
    tokens: int
    forward: float
    sampling: float
    operations: dict[str, float]

    @staticmethod
    def between(before: EngineStats, after: EngineStats, wall: float, operations: dict[str, float]) -> _Spell:
        return _Spell(
            wall,
            after.num_steps - before.num_steps,
            after.generation_tokens - before.generation_tokens,
            after.seconds_in_forward - before.seconds_in_forward,
            after.seconds_in_sampling - before.seconds_in_sampling,
            operations,
        )


def measure(model: str, config: EngineConfig, plan: Plan, say: Callable[[str], None]) -> Figures:
    """Load the model and measure it; `say` gets status lines.

    Raises:
        ModelError, ConfigError: the model cannot be loaded or its context is too short to measure.
    """
    machine = describe_machine()
    started = time.perf_counter()
    with LLM(model, config) as llm:
        load_seconds = time.perf_counter() - started
        for line in llm.load_report:
            say(line)
        _check_room(llm, plan, config)
        bench = _Bench(
            llm,
            cost_of(llm.decoder, llm.kv_plan.token_bytes // llm.spec.num_layers, integers=config.activations != "f32"),
            np.random.default_rng(0),
        )
        native = llm.decoder.ops if isinstance(llm.decoder.ops, CpuOps) else cpu_ops(config.threads)
        rounds: list[dict[str, Figures]] = []
        limits: list[Limits] = []
        for number in range(plan.repeats):
            say(f"run {number + 1} of {plan.repeats}")
            limits.append(measure_limits(native))
            rounds.append(bench.round(plan, limits[-1]))
        return {
            "benchmark": "headrace",
            "model": llm.name,
            "family": llm.spec.family,
            "parameters": num_parameters(llm.spec),
            "weight_bytes": llm.decoder.nbytes,
            "load_seconds": load_seconds,
            "machine": asdict(machine),
            "limits": asdict(median_limits(limits)),
            "versions": {"headrace": __version__, "python": platform.python_version(), "numpy": np.__version__},
            "backend": _backend(llm.decoder.ops),
            "settings": {**asdict(config), **asdict(plan)},
            "results": [_median([one[name] for one in rounds]) for name in rounds[0]],
        }


def _backend(ops: Ops) -> dict[str, str | int]:
    if isinstance(ops, CpuOps):
        return {"name": ops.name, "instruction_set": ops.instruction_set, "threads": ops.threads}
    return {"name": ops.name}


def _check_room(llm: LLM, plan: Plan, config: EngineConfig) -> None:
    batch = max(plan.batches)
    if batch > config.max_sequences:
        raise ConfigError(f"--batch is {batch}, and at most {config.max_sequences} sequences run at once")
    needed = _DECODE_PROMPT + batch + 2 * _TRIAL_STEPS
    if llm.max_context < needed:
        raise ConfigError(
            f"decoding {batch} at once needs a context of {needed} tokens to measure and {llm.name} has"
            f" {llm.max_context}; {'give smaller ones with --batch' if batch > 1 else 'take a longer --max-context'}"
        )


class _Bench:
    """One loaded model under measurement."""

    def __init__(self, llm: LLM, cost: Cost, random: np.random.Generator) -> None:
        self._llm = llm
        self._cost = cost
        self._random = random
        ops = llm.decoder.ops
        self._clock = ops.clock if isinstance(ops, CpuOps) else Clock()
        self._clock.is_running = True

    def round(self, plan: Plan, limits: Limits) -> dict[str, Figures]:
        """Every measurement once, by name."""
        length = min(plan.prompt_tokens, self._llm.max_context - 1)
        figures = {f"prefill {length}": self._prefill(length, limits)}
        for batch in plan.batches:
            figures[f"decode x {batch}"] = self._decode(batch, plan.seconds, limits)
        return {name: {"name": name, **values} for name, values in figures.items()}

    def _prompt(self, length: int) -> list[int]:
        return [int(token) for token in self._random.integers(0, self._llm.spec.vocab_size, length)]

    def _open(self, length: int, max_tokens: int) -> Generator[Chunk]:
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        return cast("Generator[Chunk]", self._llm.stream(self._prompt(length), params))

    def _prefill(self, length: int, limits: Limits) -> Figures:
        self._llm.clear_prefix_cache()
        stream = self._open(length, 1)
        spell = self._time(lambda: [next(stream)])
        stream.close()
        return {"batch": 1, **_figures(spell, length, self._cost.prefill(length), limits, steps=1)}

    def _decode(self, batch: int, seconds: float, limits: Limits) -> Figures:
        self._llm.clear_prefix_cache()
        room = self._llm.max_context - _DECODE_PROMPT
        streams = [self._open(_DECODE_PROMPT, room) for _ in range(batch)]
        try:
            _advance(streams, 1)  # they begin one by one: the first is up to `batch` tokens ahead from now on
            trial = self._time(lambda: _advance(streams, _TRIAL_STEPS))
            most = min(_MOST_STEPS, room - batch - _TRIAL_STEPS)
            steps = max(_TRIAL_STEPS, min(most, round(seconds * trial.steps / trial.wall)))
            spell = self._time(lambda: _advance(streams, steps))
        finally:
            for stream in streams:
                stream.close()
        context = _DECODE_PROMPT + batch / 2 + _TRIAL_STEPS + steps / 2  # on average over streams and steps
        work = self._cost.decode(batch, context)
        return {"batch": batch, **_figures(spell, spell.tokens, work, limits, steps=spell.steps)}

    def _time(self, work: Callable[[], object]) -> _Spell:
        self._clock.seconds.clear()
        before, started = self._llm.stats(), time.perf_counter()
        work()
        wall = time.perf_counter() - started
        return _Spell.between(before, self._llm.stats(), wall, dict(self._clock.seconds))


def _advance(streams: list[Generator[Chunk]], tokens: int) -> None:
    """Take that many chunks from each stream; each round is one step, made for all by the one that is behind."""
    for _ in range(tokens):
        for stream in streams:
            next(stream)


def _figures(spell: _Spell, tokens: int, work: Work, limits: Limits, *, steps: int) -> Figures:
    """One measurement; `work` was done `steps` times.

    Overhead is a step's time but for the forward pass and the sampling: scheduling, batches, blocks, text.
    """
    forward, sampling = 1000 * spell.forward / spell.steps, 1000 * spell.sampling / spell.steps
    return {
        "tokens_per_second": tokens / spell.wall,
        "milliseconds_per_step": 1000 * spell.wall / spell.steps,
        "percent_of_limit": 100 * steps * work.least_seconds(limits) / spell.wall,
        "limit": work.bound(limits),
        "forward_milliseconds": forward,
        "sampling_milliseconds": sampling,
        "overhead_milliseconds": 1000 * spell.wall / spell.steps - forward - sampling,
        "steps": spell.steps,
        "operations_milliseconds": {
            kind: 1000 * spell.operations[kind] / spell.steps
            for kind in sorted(spell.operations, key=spell.operations.__getitem__, reverse=True)
        },
    }


def _median(samples: list[Figures]) -> Figures:
    """The median of each number; `all_tokens_per_second` keeps every run's."""
    return {
        **{name: _median_value([sample[name] for sample in samples]) for name in samples[0]},
        "all_tokens_per_second": [sample["tokens_per_second"] for sample in samples],
    }


def _median_value(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _median_value([value[name] for value in values]) for name in values[0]}
    return statistics.median(values) if isinstance(values[0], float) else values[0]
