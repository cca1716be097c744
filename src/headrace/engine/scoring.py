"""Log-probabilities of given continuations of a prompt, in one pass: nothing is drawn.

The prompt is computed once, by a sequence of its own. From it others fork, on the same blocks: one for each different
continuation without its last token, after which nothing is asked; one that another begins with goes along with it.
"""

from __future__ import annotations

from headrace.engine.sequence import Sequence

Path = tuple[int, ...]
"""What a continuation begins with"""


class Scoring:
    """What one request's sequences find out. `learn` and `split` mutate."""

    def __init__(self, sequence: Sequence) -> None:
        self._continuations = sequence.request.continuations
        self._known: dict[Path, dict[int, float]] = {}
        self._wanted: dict[Path, dict[int, None]] = {}
        for continuation in self._continuations:
            for at, token_id in enumerate(continuation):
                self._wanted.setdefault(continuation[:at], {})[token_id] = None
        sequence.scoring = self

    @property
    def results(self) -> list[list[float]]:
        """Of each continuation the log-probabilities of its tokens, once all are known."""
        return [
            [self._known[continuation[:at]][token_id] for at, token_id in enumerate(continuation)]
            for continuation in self._continuations
        ]

    def wanted(self, path: Path) -> list[int]:
        """Tokens whose log-probabilities after `path` are asked for and not known yet."""
        return [] if path in self._known else list(self._wanted.get(path, ()))

    def learn(self, path: Path, logprobs: dict[int, float]) -> None:
        """Take the log-probabilities of tokens that follow `path`."""
        self._known[path] = logprobs

    def split(self, sequence: Sequence) -> list[Sequence]:
        """The sequences that follow the one with the prompt alone; none for those that follow it."""
        if sequence.num_output:
            return []
        paths = [path for path in self._wanted if path]
        beginnings = {path[:at] for path in paths for at in range(len(path))}
        children: list[Sequence] = []
        for index, path in enumerate((path for path in paths if path not in beginnings), 1):
            children.append(sequence.copy(index))
            children[-1].token_ids.extend(path)
        return children
