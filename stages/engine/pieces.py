"""Shards that are made when they are asked for: of all that are to run, those of one piece are in memory.

    todo = Pieces(lambda number: cut(*read(number)), sizes)   # sizes[number]: how many shards a piece has
    len(todo), todo[7]

Who goes through them in order reads every piece once.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any


class Pieces(Sequence):
    """The shards of all pieces, in order; a piece is cut when one of its shards is asked for, and then the last kept.

    cut: number of a piece -> its shards. sizes: how many shards each piece has.
    """

    def __init__(self, cut: Callable[[int], Sequence[Any]], sizes: Sequence[int]) -> None:
        self._cut, self._begins = cut, [0, *accumulate(sizes)]
        self._pieces = [number for number, size in enumerate(sizes) for _ in range(size)]  # of every shard
        self._last: tuple[int, Sequence[Any]] = -1, []

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, number: int) -> Any:
        piece = self._pieces[number]
        if piece != self._last[0]:
            self._last = -1, []  # two are never in memory
            self._last = piece, self._cut(piece)
        return self._last[1][number - self._begins[piece]]
