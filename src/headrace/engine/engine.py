"""The engine: token ids in, token ids out. One call of `step` advances every scheduled sequence.

submit → waiting ─ draft → schedule → run → update ─→ StepOutput …
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from headrace.config import EngineConfig
from headrace.engine.adapters import AdapterTable, adapter_names
from headrace.engine.beams import BeamSearch
from headrace.engine.block_cache import BlockCache
from headrace.engine.constraint import NewConstraint, unconstrained
from headrace.engine.draft_model import DraftModel
from headrace.engine.drafting import Drafting
from headrace.engine.memory import KVPlan
from headrace.engine.runner import Runner, Sampled
from headrace.engine.scheduler import Scheduler
from headrace.engine.scoring import Scoring
from headrace.engine.sequence import Sequence
from headrace.engine.stats import EngineStats, StepSizes
from headrace.model.adapters import PackedAdapter
from headrace.model.decoder import Decoder
from headrace.ops.base import Ops
from headrace.types import AdapterRef, FinishReason, Request, StepOutput


class Engine:
    """Runs requests on one model. Not thread-safe: one thread calls all methods.

    `decoder` and `ops` belong together; `plan` says how many blocks the KV cache has and the longest context;
    `new_constraint` makes what restricts the output of a request's sequences; `draft` is a smaller model on the same
    `ops` and of the same vocabulary, which guesses tokens.
    """

    def __init__(
        self,
        decoder: Decoder,
        ops: Ops,
        config: EngineConfig,
        plan: KVPlan,
        new_constraint: NewConstraint = unconstrained,
        draft: Decoder | None = None,
    ) -> None:
        self.plan = plan
        self._max_sequences = config.max_sequences
        self._new_constraint = new_constraint
        self._adapters = AdapterTable(decoder)
        self._drafting = Drafting(
            ops,
            rope_switch=decoder.spec.rope_switch,
            guesses=config.speculation == "auto",
            model=None if draft is None else DraftModel(draft, ops, config, plan, decoder.spec.vocab_size),
        )
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
            self._adapters,
            max_sequences=config.max_sequences,
            max_blocks=self._blocks.blocks_for(plan.max_context),
        )
        self._sequences: dict[str, dict[int, Sequence]] = {}
        self._num_computed: dict[str, int] = {}
        self._num_arrivals = 0
        self._num_steps = 0
        self._step_sizes = StepSizes()
        self._seconds_in_steps = 0.0
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._prefix_hits = 0

    @property
    def has_work(self) -> bool:
        """Whether any sequence is waiting or running."""
        return bool(self._sequences)

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            DoesNotFit: it can never run.
            UnknownModel: its adapter is not loaded any more.
        """
        assert request.id not in self._sequences, f"request id {request.id} is in use"
        assert request.prompt_token_ids
        self.plan.check_fits(
            self._max_sequences, len(request.prompt_token_ids), request.max_tokens, request.params.beam_width
        )
        self._adapters.hold(request.adapter)
        sequences: dict[int, Sequence] = {}
        for index in range(request.params.n if request.params.beam_width is None else 1):
            if request.resume and request.resume[index].has_ended:
                continue
            sequence = Sequence(request, index, self._num_arrivals, self._new_constraint(request))
            self._num_arrivals += 1
            sequences[index] = sequence
            if request.params.beam_width is not None:
                BeamSearch(sequence)
            if request.continuations:
                Scoring(sequence)
            self._scheduler.add(sequence)
        self._sequences[request.id] = sequences
        self._num_computed[request.id] = 0

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Drop a request, or one of its completions; its blocks are free at once. Unknown ids are ignored."""
        for sequence in list(self._sequences.get(request_id, {}).values()):
            if index is None or (sequence.index == index and sequence.beam is None):
                self._finish(sequence)

    def step(self) -> list[StepOutput]:
        """Advance every scheduled sequence; empty when there is nothing to do."""
        started = time.perf_counter()
        self._drafting.draft(self._scheduler.running)
        plan = self._scheduler.schedule()
        if not plan:
            return []
        sampled = self._runner.run(plan)
        outputs = self._update(plan, sampled)
        seconds = time.perf_counter() - started
        self._drafting.learn(plan, sampled, seconds)
        self._num_steps += 1
        self._step_sizes.observe(sum(plan.values()))
        self._seconds_in_steps += seconds
        return outputs

    def load_adapter(self, adapter: AdapterRef, packed: PackedAdapter) -> None:
        """Take an adapter into use, for requests that name it."""
        self._adapters.load(adapter, packed)

    def unload_adapter(self, adapter: AdapterRef) -> None:
        """Take no more requests for an adapter; it is forgotten with the last sequence that uses it."""
        self._adapters.unload(adapter)

    @property
    def num_computed(self) -> dict[str, int]:
        """Tokens computed for each request that has given nothing yet. May be read in another thread."""
        return self._num_computed.copy()

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
            drafts=self._drafting.drafts,
            draft_tokens=self._drafting.draft_tokens,
            accepted_tokens=self._drafting.accepted_tokens,
            num_steps=self._num_steps,
            seconds_in_steps=self._seconds_in_steps,
            seconds_in_forward=self._runner.seconds_in_forward,
            seconds_in_sampling=self._runner.seconds_in_sampling,
            step_tokens=self._step_sizes.num_tokens,
            step_sizes=tuple(self._step_sizes.counts),
            accepted_by_position=tuple(self._drafting.accepted_by_position),
            num_adapters=len(self._adapters),
            max_adapters=self._max_sequences,
            running_adapters=adapter_names(tuple(self._scheduler.running)),
            waiting_adapters=adapter_names(tuple(self._scheduler.waiting)),
        )

    def clear_prefix_cache(self) -> None:
        """Forget all prefixes that no running sequence holds."""
        self._blocks.clear()

    def _update(self, plan: Mapping[Sequence, int], sampled: Mapping[Sequence, list[Sampled]]) -> list[StepOutput]:
        outputs: list[StepOutput] = []
        for sequence, num_tokens in plan.items():
            tokens = sampled.get(sequence, [])
            stands = len(sequence.token_ids) + max(len(tokens) - 1, 0)  # behind this come drafts that were wrong
            output = self._append(sequence, tokens) if tokens else None
            sequence.num_computed = min(sequence.num_computed + num_tokens, stands)
            self._blocks.commit(sequence)
            if sequence.scoring is not None and sequence.num_uncomputed == 0:
                outputs += self._split(sequence, sequence.scoring)
            if output is None:
                if (request_id := sequence.request.id) in self._num_computed:
                    self._num_computed[request_id] += num_tokens
            else:
                outputs.append(output)
                self._num_computed.pop(output.request_id, None)
                if output.finish_reason is not None:
                    self._finish(sequence)
        for search in {id(s.beam.search): s.beam.search for s in plan if s.beam is not None}.values():
            if search.is_ready:
                outputs += self._advance(search)
        return outputs

    def _split(self, sequence: Sequence, scoring: Scoring) -> list[StepOutput]:
        """A scoring's sequence has been computed: others go on from it; the results once it is the last."""
        siblings = self._sequences[sequence.request.id]
        copied = []
        for child in scoring.split(sequence):
            siblings[child.index] = child
            copied.append(self._scheduler.fork(sequence, child))
        self._runner.copy_blocks([blocks for blocks in copied if blocks is not None])
        self._finish(sequence)
        if siblings:
            return []
        output = StepOutput(sequence.request.id, 0, [], finish_reason=FinishReason.STOP, scores=scoring.results)
        self._add_prompt_facts(sequence, output)
        return [output]

    def _advance(self, search: BeamSearch) -> list[StepOutput]:
        """The next token of a beam search; its results once it has ended."""
        before = search.members
        extensions = search.advance()
        if not extensions:
            outputs = self._results(search)
            for sequence in before:
                self._finish(sequence)
            return outputs
        forks = search.grow(extensions)
        self._sequences[before[0].request.id] = {member.index: member for member in search.members}
        for sequence in before:
            if sequence not in search.members:
                self._scheduler.remove(sequence)
        copied = [self._scheduler.fork(parent, child) for parent, child in forks]
        self._runner.copy_blocks([blocks for blocks in copied if blocks is not None])
        return []

    def _results(self, search: BeamSearch) -> list[StepOutput]:
        first = search.members[0]
        request, params = first.request, first.request.params
        outputs = [
            StepOutput(
                request.id,
                index,
                each.token_ids,
                logprobs=None if params.logprobs is None else each.logprobs,
                cumulative_logprob=each.score,
                finish_reason=each.finish_reason,
                stop_token_id=each.token_ids[-1] if each.finish_reason is FinishReason.STOP else None,
            )
            for index, each in enumerate(search.hypotheses[: params.n])
        ]
        self._generation_tokens += sum(len(output.token_ids) for output in outputs)
        self._add_prompt_facts(first, outputs[0])
        return outputs

    def _append(self, sequence: Sequence, tokens: list[Sampled]) -> StepOutput:
        request, is_first = sequence.request, sequence.num_output == 0
        token_ids = [token.token_id for token in tokens]
        sequence.token_ids.extend(token_ids)
        self._generation_tokens += len(token_ids)
        output = StepOutput(
            request.id,
            sequence.index,
            token_ids,
            logprobs=None
            if request.params.logprobs is None
            else [t.logprobs for t in tokens if t.logprobs is not None],
            finish_reason=sequence.ends_with(token_ids[-1], sequence.num_output),
            mirostat_mu=tokens[-1].mirostat_mu,
        )
        sequence.mirostat_mu = output.mirostat_mu
        if output.finish_reason is FinishReason.STOP and token_ids[-1] in sequence.stop_ids:
            output.stop_token_id = token_ids[-1]
        if is_first and sequence.index == 0:
            self._add_prompt_facts(sequence, output)
        return output

    def _add_prompt_facts(self, sequence: Sequence, output: StepOutput) -> None:
        """What is told once, with a request's first output."""
        self._prompt_tokens += sequence.num_prompt
        output.num_cached_tokens = sequence.num_cached or 0
        output.seconds_waited = sequence.seconds_waited
        self._prefix_hits += output.num_cached_tokens
        if sequence.request.params.prompt_logprobs is not None:
            output.prompt_logprobs = sequence.prompt_logprobs

    def _finish(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        siblings = self._sequences[sequence.request.id]
        del siblings[sequence.index]
        if not siblings:
            del self._sequences[sequence.request.id]
            self._num_computed.pop(sequence.request.id, None)
            self._adapters.release(sequence.request.adapter)
