"""The tree against a plain model of what it should remember."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.prefix_tree import Node, PrefixTree

SIZE = 2


def spell(path: list[Node]) -> list[int]:
    return [token for node in path for token in node.key]


def enter(tree: PrefixTree, salt: str, tokens: list[int], next_block: list[int]) -> list[Node]:
    """Hold the path that the tokens spell, making what is missing."""
    path: list[Node] = []
    for start in range(0, len(tokens) - SIZE + 1, SIZE):
        key = tuple(tokens[start : start + SIZE])
        node = tree.child(salt, path[-1] if path else None, key)
        if node is None:
            node = tree.insert(salt, path[-1] if path else None, key, next_block[0])
            next_block[0] += 1
        else:
            tree.hold(node)
        path.append(node)
    return path


def test_leaves_go_first_and_the_least_recently_used_first() -> None:
    tree, counter = PrefixTree(SIZE), [0]
    old = enter(tree, "", [1, 1, 2, 2], counter)  # blocks 0, 1
    new = enter(tree, "", [1, 1, 3, 3, 4, 4], counter)  # 0, 2, 3
    tree.drop(old)
    tree.drop(new)
    assert [tree.evict() for _ in range(4)] == [1, 3, 2, 0]
    assert (tree.num_unheld, tree.num_nodes) == (0, 0)


def test_using_a_prefix_again_makes_it_young() -> None:
    tree, counter = PrefixTree(SIZE), [0]
    first, second = enter(tree, "", [1, 1], counter), enter(tree, "", [2, 2], counter)
    tree.drop(first)
    tree.drop(second)
    tree.drop(enter(tree, "", [1, 1], counter))
    assert tree.evict() == 1


def test_salts_do_not_meet() -> None:
    tree, counter = PrefixTree(SIZE), [0]
    tree.drop(enter(tree, "a", [1, 1, 2, 2], counter))
    assert tree.find("b", [1, 1, 2, 2, 3]) == []
    assert spell(tree.find("a", [1, 1, 2, 2, 3])) == [1, 1, 2, 2]
    assert spell(tree.find("a", [1, 1, 2, 2])) == [1, 1]  # the block with the last token is to be computed


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 3), st.lists(st.integers(0, 1), max_size=8)), max_size=60))
def test_any_order_of_entering_dropping_and_evicting(actions: list[int | list[int] | None]) -> None:
    tree, counter = PrefixTree(SIZE), [0]
    held: list[list[Node]] = []
    blocks: set[int] = set()
    for action in actions:
        if action is None:
            if tree.num_unheld:
                block = tree.evict()
                assert block in blocks
                blocks.discard(block)
        elif isinstance(action, int):
            if action < len(held):
                tree.drop(held.pop(action))
        else:
            before = counter[0]
            held.append(enter(tree, "", action, counter))
            blocks.update(range(before, counter[0]))
        in_use = {node.block_id for path in held for node in path}
        assert tree.num_nodes == len(blocks)
        assert tree.num_unheld == len(blocks - in_use)
        for path in held:  # what is held is never evicted
            assert tree.find("", [*spell(path), 9]) == path
    for path in held:
        tree.drop(path)
    assert sorted(tree.evict() for _ in range(tree.num_unheld)) == sorted(blocks)
