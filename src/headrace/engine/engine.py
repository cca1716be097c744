"""The engine: token ids in, token ids out. One call of `step` advances every scheduled sequence.

submit → waiting ─ schedule → run → sample → update ─→ StepOutput …
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from headrace.config import EngineConfig
from headrace.engine.block_cache import BlockCache
from headrace.engine.memory import KVPlan
from headrace.engine.runner import Runner, Sampled
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence
from headrace.engine.stats import EngineStats
from headrace.errors import DoesNotFit
from headrace.model.decoder import Decoder
from headrace.ops.base import Ops
from headrace.types import FinishReason, Request, StepOutput


class Engine:
    """Runs requests on one model. Not thread-safe: one thread calls all methods.

    `decoder` and `ops` belong together; `plan` says how many blocks the KV cache has and the longest context.
    """

    def __init__(self, decoder: Decoder, ops: Ops, config: EngineConfig, plan: KVPlan) -> None:
        self.plan = plan
        self._blocks = BlockCache(plan.num_blocks, config.block_size, share_prefixes=config.prefix_cache)
        self._scheduler = Scheduler(
            self._blocks,
            max_batch_tokens=config.max_batch_tokens,
            max_sequences=config.max_sequences,
            rope_switch=decoder.spec.rope_switch,
        )
        self._runner = Runner(
            decoder,
            ops,
            decoder.new_cache(plan.num_blocks, config.block_size, plan.dtype),
            max_sequences=config.max_sequences,
            max_blocks=self._blocks.blocks_for(plan.max_context),
        )
        self._sequences: dict[str, dict[int, Sequence]] = {}
        self._num_arrivals = 0
        self._num_steps = 0
        self._seconds_in_steps = 0.0
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._prefix_hits = 0

    @property
    def has_work(self) -> bool:
        """Whether any sequence is waiting or running."""
        return bool(self._sequences)

    def check_fits(self, prompt_tokens: int, max_tokens: int) -> None:
        """Raise DoesNotFit if a sequence of that length could never run, even alone."""
        needed = self._blocks.blocks_for(prompt_tokens + max_tokens)
        if needed > self._blocks.num_blocks:
            size = self._blocks.block_size
            raise DoesNotFit(
                f"the request needs {needed * size:,} tokens of KV cache and there are"
                f" {self._blocks.num_blocks * size:,}; shorten it, lower max_tokens, or start with more --kv-memory",
                param="max_tokens",
            )

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            DoesNotFit: it can never run.
        """
        assert request.id not in self._sequences, f"request id {request.id} is in use"
        assert request.prompt_token_ids
        self.check_fits(len(request.prompt_token_ids), request.max_tokens)
        sequences: dict[int, Sequence] = {}
        for index in range(request.params.n):
            sequence = Sequence(request, index, self._num_arrivals)
            self._num_arrivals += 1
            sequences[index] = sequence
            self._scheduler.add(sequence)
        self._sequences[request.id] = sequences

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Drop a request, or one of its sequences; its blocks are free at once. Unknown ids are ignored."""
        sequences = self._sequences.get(request_id, {})
        for sequence in (
            list(sequences.values()) if index is None else [s for s in sequences.values() if s.index == index]
        ):
            self._finish(sequence)

    def step(self) -> list[StepOutput]:
        """Advance every scheduled sequence; empty when there is nothing to do."""
        started = time.perf_counter()
        plan = self._scheduler.schedule()
        if not plan:
            return []
        sampled = self._runner.run(plan)
        outputs = self._update(plan, sampled)
        self._num_steps += 1
        self._seconds_in_steps += time.perf_counter() - started
        return outputs

    def stats(self) -> EngineStats:
        """A snapshot of gauges and counters."""
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            kv_blocks_used=self._blocks.num_used,
            kv_blocks_cached=self._blocks.num_cached,
            kv_blocks_total=self._blocks.num_blocks,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            prefix_queries=self._prompt_tokens,
            prefix_hits=self._prefix_hits,
            num_preemptions=self._scheduler.num_preemptions,
            num_steps=self._num_steps,
            seconds_in_steps=self._seconds_in_steps,
            seconds_in_forward=self._runner.seconds_in_forward,
            seconds_in_sampling=self._runner.seconds_in_sampling,
        )

    def clear_prefix_cache(self) -> None:
        """Forget all prefixes that no running sequence holds."""
        self._blocks.clear()

    def _update(self, plan: Mapping[Sequence, int], sampled: Mapping[Sequence, Sampled]) -> list[StepOutput]:
        outputs: list[StepOutput] = []
        for sequence, num_tokens in plan.items():
            sequence.num_computed += num_tokens
            self._blocks.commit(sequence)
            if (token := sampled.get(sequence)) is not None:
                outputs.append(self._append(sequence, token))
        return outputs

    def _append(self, sequence: Sequence, sampled: Sampled) -> StepOutput:
        is_first = sequence.num_output == 0
        sequence.token_ids.append(sampled.token_id)
        self._generation_tokens += 1
        output = StepOutput(
            sequence.request.id,
            sequence.index,
            [sampled.token_id],
            logprobs=None if sampled.logprobs is None else [sampled.logprobs],
        )
        if is_first and sequence.index == 0:
            self._prompt_tokens += sequence.num_prompt
            output.num_cached_tokens = sequence.num_cached or 0
            self._prefix_hits += output.num_cached_tokens
            if sequence.request.params.prompt_logprobs is not None:
                output.prompt_logprobs = sequence.prompt_logprobs
        if sampled.token_id in sequence.stop_ids and sequence.num_output > sequence.request.params.min_tokens:
            output.stop_token_id = sampled.token_id
            output.finish_reason = FinishReason.STOP
        elif sequence.num_output >= sequence.request.max_tokens:
            output.finish_reason = FinishReason.LENGTH
        if output.finish_reason is not None:
            self._finish(sequence)
        return output

    def _finish(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        siblings = self._sequences[sequence.request.id]
        del siblings[sequence.index]
        if not siblings:
            del self._sequences[sequence.request.id]
