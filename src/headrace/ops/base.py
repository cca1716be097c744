"""What a backend must do: the operations that the forward pass is written against.

T tokens, R rows of logits, S sequences, H hidden size, D head size, V vocabulary. Activations are float32 arrays of
the backend's own type (numpy on the CPU). Operations leave their inputs as they are, but for `rope_write` and
`copy_blocks`.

The contract behind determinism: what an operation computes for a row (a token, or a row of logits) is a fixed sequence
of arithmetic that depends on that row, its sequence's keys and values, and the weights: never on the number of rows,
their order, how a prompt was cut into steps, where blocks lie, or how many threads run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from headrace.batch import Batch, SamplingBatch
from headrace.config import CacheType
from headrace.formats.tensor import Tensor
from headrace.ops.kinds import Activation, NormKind, QkNorm
from headrace.types import FloatArray, IntArray

Array: TypeAlias = Any
"""A backend's array: numpy.ndarray on the CPU, torch.Tensor on a GPU."""

KVCache: TypeAlias = Any
"""A backend's paged key-value cache, made by `new_kv_cache`; its layout is the backend's own, `nbytes` its size."""


class Weight(Protocol):
    """A matrix packed for a backend; its format picks the kernel."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns): `linear` maps columns → rows."""

    @property
    def format(self) -> str:
        """Name of the codec, or of the codecs joined by `+` where stacked parts differ."""

    @property
    def nbytes(self) -> int:
        """Bytes read to use the whole matrix once."""


@dataclass(frozen=True, slots=True)
class RopeTable:
    """cos and sin of every position's angles, each [rows, rotated / 2] float32.

    Dimension i of a head's first `rotated` ones is paired with dimension i + rotated / 2 (the "half" form of
    arXiv:2104.09864; interleaved checkpoints are permuted when they are loaded).
    """

    cos: Array
    sin: Array


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """How a fused row of queries, keys and values is cut: [num_heads + 2 * num_kv_heads, head_dim]."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class QkNormWeights:
    """RMS norm of queries and keys: weights [head_dim] for HEAD; [num_heads * head_dim] and
    [num_kv_heads * head_dim] for FULL."""

    kind: QkNorm
    q: Array
    k: Array
    eps: float


@dataclass(frozen=True, slots=True)
class MoeWeights:
    """A mixture of experts: router [experts, H]; for each expert gate_up [2 * inner, H] and down [H, inner]."""

    router: Weight
    gate_up: Sequence[Weight]
    down: Sequence[Weight]
    top_k: int
    normalize: bool
    """Divide the chosen experts' softmax weights by their sum."""
    activation: Activation


@dataclass(frozen=True, slots=True)
class LowRankPart:
    """scale * up @ down (arXiv:2106.09685), added to rows of a matrix [rows, columns] from `first_row` on.

    `down` is [rank, columns], `up` [rows of the part, rank]. Of a table [V, H] that `embed` reads, `down` is a table
    [V, rank] and `up` is [H, rank]. Without `down`, `up` stands for the whole matrix or table, and is the first part.
    """

    down: Weight | None
    up: Weight
    first_row: int = 0
    scale: float = 1.0


class Deltas(Protocol):
    """What adapters add to one matrix or table, by their slots. Not to be changed while a forward pass runs."""

    def set(self, slot: int, parts: Sequence[LowRankPart]) -> None:
        """What the adapter of that slot adds.

        Raises:
            ValueError: a part does not fit the matrix.
        """

    def clear(self, slot: int) -> None:
        """Nothing any more."""


class PromptLookup(Protocol):
    """Guesses what follows in a sequence from what stood in it earlier; `Ops.follow` tells it the tokens."""

    def guess(self, count: int) -> list[int]:
        """The `count` tokens that are expected next; none without a match."""

    def chances(self, most: int) -> list[float]:
        """The probability that the first 1, 2 … guessed tokens are all right, `most` of them at most.

        Falls; ends before guesses that are never worth their time. None above 0.97.
        """


class ForwardOps(Protocol):
    """The operations of a forward pass."""

    def embed(
        self, table: Weight, ids: IntArray, scale: float = 1.0, add: Array | None = None, offset: int = 0
    ) -> Array:
        """scale * table[ids + offset] (+ add) → [T, H]."""

    def norm(
        self, x: Array, weight: Array, bias: Array | None, kind: NormKind, eps: float, add: Array | None = None
    ) -> Array:
        """Norm of each row of x [T, H] (+ add [T, H]) → [T, H]."""

    def linear(
        self, x: Array, weight: Weight, bias: Array | None = None, scale: float = 1.0, add: Array | None = None
    ) -> Array:
        """(x @ weight.T + bias) * scale (+ add): [T, columns] → [T, rows]."""

    def adapt(self, y: Array, x: Array, deltas: Deltas, slots: IntArray, scale: float = 1.0) -> Array:
        """y [T, rows] + scale * what each row's adapter makes of x [T, columns]; `slots` as in Batch, [T] or empty.

        May overwrite y. A row whose adapter stands for the whole matrix becomes scale * (matrix @ x).
        """

    def adapt_embedding(
        self,
        y: Array,
        ids: IntArray,
        deltas: Deltas,
        slots: IntArray,
        scale: float = 1.0,
        add: Array | None = None,
    ) -> Array:
        """The same for y = embed(table, ids, scale, add); a row of a whole table becomes scale * table[id] (+ add)."""

    def rope_write(
        self,
        qkv: Array,
        cache: KVCache,
        layer: int,
        batch: Batch,
        layout: HeadLayout,
        rope: RopeTable | None,
        qk_norm: QkNormWeights | None,
    ) -> Array:
        """Norm and rotate queries and keys of qkv [T, (heads + 2 kv heads) * D], write keys and values into the cache.

        Returns the queries [T, heads * D]. May overwrite qkv.
        """

    def attention(
        self,
        q: Array,
        cache: KVCache,
        layer: int,
        batch: Batch,
        layout: HeadLayout,
        scale: float,
        window: int | None,
        softcap: float | None,
        causal: bool = True,
    ) -> Array:
        """Attention of q [T, heads * D] over the cached keys and values → [T, heads * D].

        softmax(softcap(scale * q·k)) · v over the keys at positions p - window + 1 … p (all up to p without a window);
        without `causal` also over those up to p + window - 1, as far as the batch has tokens of the sequence.
        Query head h reads kv head h // (heads / kv heads). softcap(s) = c * tanh(s / c).
        """

    def activate(self, x: Array, kind: Activation, gated: bool) -> Array:
        """act(x[:, :n]) * x[:, n:] of [T, 2n] → [T, n] when gated, else act(x) of [T, n]."""

    def moe(self, x: Array, weights: MoeWeights, scale: float = 1.0, add: Array | None = None) -> Array:
        """scale * Σ over the top_k experts of router weight * expert(x) (+ add): [T, H] → [T, H].

        Router weights are the softmax over all experts; ties go to the lower expert. Summed in order of rank.
        """

    def select(self, x: Array, rows: IntArray) -> Array:
        """x[rows]."""

    def softcap(self, x: Array, cap: float) -> Array:
        """cap * tanh(x / cap)."""


Forward: TypeAlias = Callable[[Batch, KVCache], Array]
"""Computes a batch's tokens, writes their keys and values into the cache: logits [R, V] float32."""

RecordableForward: TypeAlias = Callable[[ForwardOps, Batch, KVCache], Array]
"""A forward pass on the operations that it is given. All that it does with arrays, the batch's and the cache is to hand
them to operations, and it does the same for every batch; so a backend can record it."""


class Ops(ForwardOps, Protocol):
    """A backend. One object per engine: it owns its threads and scratch memory, and shares nothing with another."""

    @property
    def name(self) -> str:
        """The backend's name, as in `headrace doctor`."""

    # Loading

    def pack(self, parts: Sequence[Tensor]) -> Weight:
        """Pack 2-D tensors, stacked along their rows, into one matrix. May keep views of the tensors' memory.

        Raises:
            UnsupportedModel: a codec that the backend cannot compute with.
        """

    def pack_table(self, part: Tensor) -> Weight:
        """A 2-D tensor of which `embed` reads rows and with which nothing is multiplied; otherwise as `pack`."""

    def vector(self, values: FloatArray) -> Array:
        """A small parameter (norm weight, bias, table) as the backend's float32 array."""

    def new_deltas(self, rows: int, columns: int, *, is_table: bool = False) -> Deltas:
        """For a matrix [rows, columns], or a table [columns, rows]; nothing is added yet."""

    def new_kv_cache(
        self, num_layers: int, num_blocks: int, block_size: int, layout: HeadLayout, dtype: CacheType = CacheType.F16
    ) -> KVCache:
        """An empty cache of num_blocks blocks of block_size tokens in each layer."""

    def copy_blocks(self, cache: KVCache, sources: IntArray, targets: IntArray) -> None:
        """Copy the keys and values of whole blocks, in all layers: block sources[i] into targets[i], in order."""

    def compile(self, forward: RecordableForward) -> Forward:
        """The same computation, bit for bit, as quick as the backend can repeat it.

        Holds on to the weights and vectors that `forward` uses now; compile anew when they are replaced.
        """

    # Drafts

    def new_lookup(self, token_ids: Sequence[int]) -> PromptLookup:
        """For a sequence that begins with these tokens, among which nothing was guessed."""

    def follow(self, lookups: list[Any], texts: list[list[int]], least: float) -> list[int]:
        """Take in what is new in each lookup's text; those whose next guess is right with chance `least` or more.

        `lookups` are `new_lookup`'s; a text is the sequence's token ids so far, and only ever grows.

        Raises:
            ValueError: a text is shorter than it was.
        """

    # Sampling

    def sample(self, logits: Array, batch: SamplingBatch) -> IntArray:
        """One token id for each row of logits [R, V], as SamplingParams says → [R] int32.

        Writes mirostat's state behind the token into `batch.rows["mirostat_mu"]`; changes nothing else.

        The draw: u = Philox4x32-10 (arXiv/SC'11 Salmon et al.) with key = seed and counter = (position, stream, 0, 0),
        53 bits of it as a fraction; the first kept token, in order of ids, whose cumulative probability exceeds u.
        XTC's decision is another number of the generator, with 1 as the counter's third word.
        Ties: greedy takes the lowest id; top_k keeps all tokens as likely as the k-th; top_p and typical_p add lower
        ids first; XTC leaves the highest id. A row of which nothing is left gives the lowest id that mask and allowed
        set allow, or the mask alone if they have no token in common.
        """

    def logprobs(
        self, logits: Array, token_ids: IntArray, top: int
    ) -> tuple[FloatArray, IntArray, IntArray, FloatArray]:
        """Log-probabilities from the unmodified logits [R, V].

        Returns logprob [R] and rank [R] (from 1) of token_ids [R], then ids [R, top] and logprobs [R, top] of the most
        likely tokens, best first, ties by lower id.
        """
