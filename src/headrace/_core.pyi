"""Native kernels of the CPU backend; `headrace.ops.cpu` is their face.

Arrays are C-contiguous and of the exact dtype (TypeError otherwise); shapes and indices that do not fit raise
ValueError. Outputs are allocated by the caller.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.types import FloatArray, IntArray

def instruction_sets() -> list[str]:
    """Names of the instruction sets that this machine has, best first."""

def codecs() -> list[tuple[str, int, int]]:
    """(name, values in a block, bytes in a block) of every codec that can be computed with."""

class Weight:
    """A matrix of parts stacked along the rows."""

    def __init__(self, columns: int) -> None: ...
    def add_rows(self, codec: str, data: NDArray[np.uint8]) -> None:
        """Append rows [rows, bytes of a row] that only embed will read; keeps a view of them."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class Deltas:
    """What adapters add to one matrix [rows, columns], or to a table [columns, rows], by their slots."""

    def __init__(self, rows: int, columns: int, is_table: bool) -> None: ...
    def set(self, slot: int, parts: Sequence[tuple[Weight | None, Weight, int, float]]) -> None:
        """An adapter's parts: (down or None, up, first row, scale) each."""

    def clear(self, slot: int) -> None: ...

class PromptLookup:
    """Guesses what follows in a text from what stood in it earlier."""

    def __init__(self, token_ids: Sequence[int]) -> None: ...
    def guess(self, count: int) -> list[int]: ...
    def chances(self, most: int) -> list[float]: ...

def follow(lookups: list[PromptLookup], texts: list[list[int]], least: float) -> list[int]:
    """Take in what is new in each text; those whose next guess is right with chance `least` or more."""

class KVCache:
    """A paged key-value cache of "f16", "f32" or "q8".

    `block_size` is a multiple of 16; memory is taken as it is written.
    """

    def __init__(
        self, dtype: str, num_layers: int, num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int
    ) -> None: ...
    def copy_blocks(self, sources: NDArray[np.int32], targets: NDArray[np.int32]) -> None:
        """Copy keys and values of all layers, one block after another."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class Tape:
    """A recorded forward pass: operations of `headrace.ops.base.ForwardOps` that take and return numbers of slots.

    Keeps the weights and vectors that it is given alive.
    """

    def __init__(self) -> None: ...
    def embed(self, table: Weight, ids: str, scale: float, add: int | None, offset: int) -> int: ...
    def norm(
        self, x: int, weight: FloatArray, bias: FloatArray | None, kind: str, eps: float, add: int | None
    ) -> int: ...
    def linear(self, x: int, weight: Weight, bias: FloatArray | None, scale: float, add: int | None) -> int: ...
    def adapt(self, y: int, x: int, deltas: Deltas, scale: float) -> int:
        """Changes y where it lies, and returns it."""

    def adapt_embedding(self, y: int, deltas: Deltas, scale: float, add: int | None) -> int:
        """The same of what `embed` gave for the token ids."""
    def rope_write(
        self,
        qkv: int,
        layer: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        cos: FloatArray | None,
        sin: FloatArray | None,
        qk_norm: str,
        q_weight: FloatArray | None,
        k_weight: FloatArray | None,
        eps: float,
    ) -> int: ...
    def attention(
        self,
        q: int,
        layer: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        scale: float,
        window: int,
        softcap: float,
        causal: bool,
    ) -> int: ...
    def activate(self, x: int, kind: str, gated: bool) -> int: ...
    def moe(
        self,
        x: int,
        router: Weight,
        gate_up: tuple[Weight, ...],
        down: tuple[Weight, ...],
        top_k: int,
        normalize: bool,
        activation: str,
        scale: float,
        add: int | None,
    ) -> int: ...
    def select(self, x: int) -> int:
        """The rows that need logits."""

    def softcap(self, x: int, cap: float) -> int: ...
    def finish(self, result: int) -> None:
        """End the recording; `result` is the last step's slot, with the rows that need logits."""

    @property
    def result_width(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def floats_per_row(self) -> int:
        """Memory of a run, for each row: what its slots take where those that are not used at the same time share."""

class Backend:
    """The operations of `headrace.ops.base.Ops`, with threads and scratch memory of their own."""

    def __init__(self, threads: int, instruction_set: str, exact_activations: bool) -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def instruction_set(self) -> str: ...
    def pack(self, weight: Weight, codec: str, data: NDArray[np.uint8]) -> None:
        """Append rows [rows, bytes of a row] to the weight, packed for multiplying."""

    def embed(
        self, table: Weight, ids: IntArray, scale: float, add: FloatArray | None, offset: int, out: FloatArray
    ) -> None: ...
    def linear(
        self,
        x: FloatArray,
        weight: Weight,
        bias: FloatArray | None,
        scale: float,
        add: FloatArray | None,
        out: FloatArray,
    ) -> None: ...
    def adapt(self, y: FloatArray, x: FloatArray, deltas: Deltas, slots: IntArray, scale: float) -> None: ...
    def adapt_embedding(
        self,
        y: FloatArray,
        ids: IntArray,
        deltas: Deltas,
        slots: IntArray,
        scale: float,
        add: FloatArray | None,
    ) -> None: ...
    def norm(
        self,
        x: FloatArray,
        weight: FloatArray,
        bias: FloatArray | None,
        kind: str,
        eps: float,
        add: FloatArray | None,
        out: FloatArray,
    ) -> None: ...
    def activate(self, x: FloatArray, kind: str, gated: bool, out: FloatArray) -> None: ...
    def softcap(self, x: FloatArray, cap: float, out: FloatArray) -> None: ...
    def rope_write(
        self,
        qkv: FloatArray,
        q_out: FloatArray,
        cache: KVCache,
        layer: int,
        num_heads: int,
        positions: IntArray,
        query_start: IntArray,
        block_tables: IntArray,
        rope_rows: IntArray,
        cos: FloatArray | None,
        sin: FloatArray | None,
        qk_norm: str,
        q_weight: FloatArray | None,
        k_weight: FloatArray | None,
        eps: float,
    ) -> None: ...
    def attention(
        self,
        q: FloatArray,
        cache: KVCache,
        layer: int,
        num_heads: int,
        positions: IntArray,
        query_start: IntArray,
        block_tables: IntArray,
        scale: float,
        window: int,
        softcap: float,
        causal: bool,
        out: FloatArray,
    ) -> None: ...
    def moe(
        self,
        x: FloatArray,
        router: Weight,
        gate_up: Sequence[Weight],
        down: Sequence[Weight],
        top_k: int,
        normalize: bool,
        activation: str,
        scale: float,
        add: FloatArray | None,
        out: FloatArray,
    ) -> None: ...
    def sample(
        self,
        logits: FloatArray,
        rows: NDArray[np.uint8],
        history: IntArray,
        bias_ids: IntArray,
        bias_values: FloatArray,
        phrase_ids: IntArray,
        phrase_start: IntArray,
        masks: NDArray[np.uint32],
        token_sets: NDArray[np.uint32],
        out: IntArray,
    ) -> None:
        """Draw a token for each row; `rows` [R, bytes of SAMPLING_ROW] gets the next mirostat_mu."""

    def logprobs(
        self,
        logits: FloatArray,
        token_ids: IntArray,
        logprob: FloatArray,
        rank: IntArray,
        top_ids: IntArray,
        top_logprobs: FloatArray,
    ) -> None: ...
    def read_rate(self, data: FloatArray) -> float:
        """Bytes per second of one pass over float32 values by all threads; at least 262,144 values."""

    def multiply_add_rate(self) -> float:
        """Float32 operations per second of all threads, of which a multiply-add is two."""
    def dot_rate(self) -> float:
        """The same of products of bytes, added up in 32 bits as in the kernels of quantised weights."""

    def run(
        self,
        tape: Tape,
        cache: KVCache,
        token_ids: IntArray,
        token_types: IntArray,
        positions: IntArray,
        rope_rows: IntArray,
        query_start: IntArray,
        block_tables: IntArray,
        logit_rows: IntArray,
        adapters: IntArray,
        out: FloatArray,
        seconds: NDArray[np.float64] | None,
    ) -> None:
        """Compute a batch; adds to `seconds` [num_steps] what each step took."""
