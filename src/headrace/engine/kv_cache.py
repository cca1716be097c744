"""Who holds which block of the KV cache, and the radix tree that shares full blocks between sequences.

The tree has one node for each full block of computed tokens: a node's path from the root spells the tokens before it,
so two sequences with the same beginning share its blocks. A node that no sequence holds stays as cache until its block
is needed; leaves go first, least recently used first. Because a row's keys and values depend only on the tokens before
it, a block computed twice is bit for bit the same, and the second copy is simply dropped.

This module knows block ids and token ids; where the keys and values lie is the backend's business.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.engine.sequence import Sequence


class Node:
    """One full block in the tree. `num_users` counts the running sequences that hold it."""

    __slots__ = ("block_id", "children", "key", "last_used", "num_users", "parent")

    def __init__(self, parent: Node | None, key: tuple[int, ...], block_id: int) -> None:
        self.parent = parent
        self.key = key
        self.block_id = block_id
        self.children: dict[tuple[int, ...], Node] = {}
        self.num_users = 0
        self.last_used = 0


class BlockCache:
    """The blocks of one KV cache: free, held by sequences, or kept as cached prefixes.

    `grow`, `commit`, `adopt_prefix` and `release` mutate both the cache and the sequence given to them.
    """

    def __init__(self, num_blocks: int, block_size: int, *, share_prefixes: bool) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._share_prefixes = share_prefixes
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack: low ids, and lately used ones, go first
        self._roots: dict[str, Node] = {}
        self._num_cached = 0  # nodes without users; all of them can be evicted, leaves first
        self._evictable: list[tuple[int, int, Node]] = []  # heap of (last use, tie, leaf), checked when popped
        self._clock = 0

    @property
    def num_available(self) -> int:
        """Blocks that can be had at once: free ones and cached ones that nobody holds."""
        return len(self._free) + self._num_cached

    @property
    def num_cached(self) -> int:
        """Blocks kept only as cached prefixes."""
        return self._num_cached

    @property
    def num_used(self) -> int:
        """Blocks held by sequences."""
        return self.num_blocks - self.num_available

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that num_tokens tokens take."""
        return -(-num_tokens // self.block_size)

    def adopt_prefix(self, sequence: Sequence) -> int:
        """Give a sequence without blocks the longest cached prefix of its tokens; at least one token stays to compute.

        Returns the number of tokens adopted; it is also the sequence's new `num_computed`.
        """
        assert not sequence.block_ids
        if not self._share_prefixes or sequence.wants_prompt_logprobs:
            return 0
        for node in self._match(sequence.cache_key, sequence.token_ids):
            self._hold(node)
            sequence.nodes.append(node)
            sequence.block_ids.append(node.block_id)
        sequence.num_computed = len(sequence.nodes) * self.block_size
        return sequence.num_computed

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give the sequence blocks for its first num_tokens tokens; False, with nothing changed, if that fails."""
        missing = self.blocks_for(num_tokens) - len(sequence.block_ids)
        if missing > self.num_available:
            return False
        for _ in range(missing):
            sequence.block_ids.append(self._free.pop() if self._free else self._evict())
        return True

    def commit(self, sequence: Sequence) -> None:
        """Enter the sequence's full computed blocks into the tree; a block that is there already replaces its copy."""
        if not self._share_prefixes:
            return
        size = self.block_size
        while (len(sequence.nodes) + 1) * size <= sequence.num_computed:
            at = len(sequence.nodes)
            parent = sequence.nodes[-1] if sequence.nodes else self._root(sequence.cache_key)
            key = tuple(sequence.token_ids[at * size : (at + 1) * size])
            node = parent.children.get(key)
            if node is None:
                node = parent.children[key] = Node(parent, key, sequence.block_ids[at])
                node.num_users = 1
            else:
                self._hold(node)
                self._free.append(sequence.block_ids[at])
                sequence.block_ids[at] = node.block_id
                sequence.num_tabled = min(sequence.num_tabled, at)
            sequence.nodes.append(node)

    def release(self, sequence: Sequence) -> None:
        """Take all blocks from the sequence; those in the tree stay cached."""
        self._clock += 1
        self._free.extend(reversed(sequence.block_ids[len(sequence.nodes) :]))
        for node in reversed(sequence.nodes):
            node.num_users -= 1
            node.last_used = self._clock
            if node.num_users == 0:
                self._num_cached += 1
                self._offer(node)
        sequence.nodes.clear()
        sequence.block_ids.clear()
        sequence.num_tabled = 0
        sequence.num_computed = 0

    def clear(self) -> None:
        """Forget all cached prefixes that no sequence holds."""
        while self._num_cached:
            self._free.append(self._evict())

    def _root(self, cache_key: str) -> Node:
        return self._roots.setdefault(cache_key, Node(None, (), -1))

    def _match(self, cache_key: str, token_ids: SequenceOf[int]) -> list[Node]:
        node = self._roots.get(cache_key)
        path: list[Node] = []
        size = self.block_size
        for start in range(0, len(token_ids) - size, size):  # stops before a block that would hold the last token
            node = node and node.children.get(tuple(token_ids[start : start + size]))
            if node is None:
                break
            path.append(node)
        return path

    def _hold(self, node: Node) -> None:
        if node.num_users == 0:
            self._num_cached -= 1
        node.num_users += 1

    def _offer(self, node: Node) -> None:
        if node.children:
            return
        if len(self._evictable) > 2 * self.num_blocks + 64:  # mostly stale entries
            fresh = {
                node: (last_used, tie, node)
                for last_used, tie, node in self._evictable
                if self._is_fresh(node, last_used)
            }
            self._evictable = list(fresh.values())
            heapq.heapify(self._evictable)
        heapq.heappush(self._evictable, (node.last_used, id(node), node))

    @staticmethod
    def _is_fresh(node: Node, last_used: int) -> bool:
        in_tree = node.parent is not None
        return in_tree and node.num_users == 0 and not node.children and node.last_used == last_used

    def _evict(self) -> int:
        """Drop the least recently used leaf that nobody holds; returns its block."""
        while True:
            last_used, _, node = heapq.heappop(self._evictable)
            if self._is_fresh(node, last_used):
                break
        parent, node.parent = node.parent, None
        assert parent is not None
        del parent.children[node.key]
        self._num_cached -= 1
        if parent.parent is None:
            if not parent.children:
                self._roots = {key: root for key, root in self._roots.items() if root is not parent}
        elif parent.num_users == 0:
            self._offer(parent)
        return node.block_id
