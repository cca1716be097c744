"""The radix tree that remembers computed prefixes, one node for each full block of tokens.

A node's path from the root spells the tokens before it, so two sequences with the same beginning share its blocks. A
node that nobody holds stays as cache until its block is needed; leaves go first, least recently used first.

Knows block ids and token ids only. Whoever holds a node holds all nodes above it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class Node:
    """One full block. `num_users` counts the sequences that hold it."""

    __slots__ = ("block_id", "children", "key", "last_used", "num_users", "parent")

    def __init__(self, parent: Node | None, key: tuple[int, ...], block_id: int) -> None:
        self.parent = parent
        self.key = key
        self.block_id = block_id
        self.children: dict[tuple[int, ...], Node] = {}
        self.num_users = 0
        self.last_used = 0


class PrefixTree:
    """One tree for each salt. `insert`, `hold`, `drop` and `evict` mutate; `find` and `child` answer."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._roots: dict[str, Node] = {}
        self._evictable: list[tuple[int, int, Node]] = []  # heap of (last use, tie, leaf); stale entries are skipped
        self._clock = 0
        self.num_unheld = 0
        """Nodes that nobody holds; all of them can be evicted, leaves first"""
        self.num_nodes = 0

    def find(self, salt: str, token_ids: Sequence[int]) -> list[Node]:
        """The longest path that the tokens spell, short of the block with the last token, which is to be computed."""
        node = self._roots.get(salt)
        path: list[Node] = []
        size = self._block_size
        for start in range(0, len(token_ids) - size, size):
            node = node and node.children.get(tuple(token_ids[start : start + size]))
            if node is None:
                break
            path.append(node)
        return path

    def child(self, salt: str, parent: Node | None, key: tuple[int, ...]) -> Node | None:
        """The node below `parent` (None: at the top) that spells `key`."""
        above = self._roots.get(salt) if parent is None else parent
        return None if above is None else above.children.get(key)

    def insert(self, salt: str, parent: Node | None, key: tuple[int, ...], block_id: int) -> Node:
        """A new node, held once."""
        above = self._roots.setdefault(salt, Node(None, (), -1)) if parent is None else parent
        node = above.children[key] = Node(above, key, block_id)
        node.num_users = 1
        self.num_nodes += 1
        return node

    def hold(self, node: Node) -> None:
        """One user more; the nodes above must be held."""
        if node.num_users == 0:
            self.num_unheld -= 1
        node.num_users += 1

    def drop(self, path: Sequence[Node]) -> None:
        """One user less for each node of a path from the top."""
        self._clock += 1
        for node in reversed(path):
            node.num_users -= 1
            node.last_used = self._clock
            if node.num_users == 0:
                self.num_unheld += 1
                self._offer(node)

    def evict(self) -> int:
        """Forget the least recently used leaf that nobody holds (there must be one); returns its block."""
        while True:
            last_used, _, node = heapq.heappop(self._evictable)
            if _is_evictable(node, last_used):
                break
        parent, node.parent = node.parent, None
        assert parent is not None
        del parent.children[node.key]
        self.num_unheld -= 1
        self.num_nodes -= 1
        if parent.parent is not None:
            if parent.num_users == 0:
                self._offer(parent)
        elif not parent.children:
            self._roots = {salt: root for salt, root in self._roots.items() if root is not parent}
        return node.block_id

    def _offer(self, node: Node) -> None:
        if node.children:
            return
        if len(self._evictable) > 2 * self.num_nodes + 64:  # mostly stale: keep what counts
            self._evictable = [entry for entry in self._evictable if _is_evictable(entry[2], entry[0])]
            heapq.heapify(self._evictable)
        heapq.heappush(self._evictable, (node.last_used, id(node), node))


def _is_evictable(node: Node, last_used: int) -> bool:
    is_in_tree = node.parent is not None
    return is_in_tree and node.num_users == 0 and not node.children and node.last_used == last_used
