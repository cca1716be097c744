"""Who holds which block of the KV cache.

A block is free, held by sequences, or kept as a cached prefix in the tree. Because a token's keys and values depend
only on the tokens up to it, a block computed twice is bit for bit the same, and the second copy is simply dropped.
Where the keys and values lie is the backend's business.
"""

from __future__ import annotations

from headrace.engine.prefix_tree import Node, PrefixTree
from headrace.engine.sequence import Sequence


class BlockCache:
    """The blocks of one KV cache.

    `adopt_prefix`, `fork`, `grow`, `commit` and `release` mutate both the cache and the sequences given to them.

    Without `share_prefixes` a request's sequences still share blocks with one another, and with nobody else; what they
    no longer hold is forgotten at once.
    """

    def __init__(self, num_blocks: int, block_size: int, *, share_prefixes: bool) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._share_prefixes = share_prefixes
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack: low ids, and lately used ones, go first
        self._tree = PrefixTree(block_size)

    @property
    def num_available(self) -> int:
        """Blocks that can be had at once: free ones and cached ones that nobody holds."""
        return len(self._free) + self._tree.num_unheld

    @property
    def num_cached(self) -> int:
        """Blocks kept only as cached prefixes."""
        return self._tree.num_unheld

    @property
    def num_used(self) -> int:
        """Blocks held by sequences."""
        return self.num_blocks - self.num_available

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that num_tokens tokens take."""
        return -(-num_tokens // self.block_size)

    def adopt_prefix(self, sequence: Sequence) -> None:
        """Give a sequence without blocks the longest cached prefix of its tokens; at least one stays to compute."""
        assert not sequence.block_ids
        if not sequence.wants_prompt_logprobs:
            self._share(sequence, self._tree.find(self._salt(sequence), sequence.token_ids))

    def fork(self, parent: Sequence, child: Sequence) -> tuple[int, int] | None:
        """Give a sequence without blocks those of another whose computed tokens it begins with.

        Full blocks, which must have been committed, are shared. Returns the half-filled block and the one that it is to
        be copied to; None if there is none, or no block to be had: then the child computes these tokens again.
        """
        assert not child.block_ids
        self._share(child, parent.nodes)
        if parent.num_computed == child.num_computed or self.num_available == 0:
            return None
        child.block_ids.append(self._take())
        child.num_computed = parent.num_computed
        return parent.block_ids[len(parent.nodes)], child.block_ids[-1]

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give the sequence blocks for its first num_tokens tokens; False, with nothing changed, if that fails."""
        missing = self.blocks_for(num_tokens) - len(sequence.block_ids)
        if missing > self.num_available:
            return False
        for _ in range(missing):
            sequence.block_ids.append(self._take())
        return True

    def commit(self, sequence: Sequence) -> None:
        """Enter the sequence's full computed blocks into the tree; a block that is there already replaces its copy."""
        size, nodes, salt = self.block_size, sequence.nodes, self._salt(sequence)
        while (len(nodes) + 1) * size <= sequence.num_computed:
            at, parent = len(nodes), nodes[-1] if nodes else None
            key = tuple(sequence.token_ids[at * size : (at + 1) * size])
            node = self._tree.child(salt, parent, key)
            if node is None:
                node = self._tree.insert(salt, parent, key, sequence.block_ids[at])
            else:
                self._tree.hold(node)
                self._free.append(sequence.block_ids[at])
                sequence.block_ids[at] = node.block_id
                sequence.num_tabled = min(sequence.num_tabled, at)
            nodes.append(node)

    def release(self, sequence: Sequence) -> None:
        """Take all blocks from the sequence; those in the tree stay cached, if prefixes are shared."""
        self._free.extend(reversed(sequence.block_ids[len(sequence.nodes) :]))
        self._tree.drop(sequence.nodes)
        sequence.nodes.clear()
        sequence.block_ids.clear()
        sequence.num_tabled = 0
        sequence.num_computed = 0
        if not self._share_prefixes:
            self.clear()

    def clear(self) -> None:
        """Forget all cached prefixes that no sequence holds."""
        while self._tree.num_unheld:
            self._free.append(self._tree.evict())

    def _share(self, sequence: Sequence, path: list[Node]) -> None:
        for node in path:
            self._tree.hold(node)
            sequence.nodes.append(node)
            sequence.block_ids.append(node.block_id)
        sequence.num_computed = len(path) * self.block_size

    def _take(self) -> int:
        return self._free.pop() if self._free else self._tree.evict()

    def _salt(self, sequence: Sequence) -> str:
        return sequence.cache_key if self._share_prefixes else f"{sequence.rope_variant}:{sequence.request.id}"
