"""A long pass in chunks, and where it stands: whoever looks at tokens as they run, or edits them, asks here.

A decoder's pass of more than `CHUNK` tokens a row runs chunk by chunk (`stages.model.forward`), each continuing a cache
of those before it: what attention, the MLP and masks hold at once is then a chunk's. Modules, and so hooks, see one
chunk at a time; `Loaded.chunks` says which:

>>> chunks.part(residual_BTD)  # what this chunk gets of a whole pass's tensor
>>> chunks.keep(residuals, layer, x_BTD)  # the other way: in the end residuals[layer] is the whole pass's
>>> chunks.at(position)  # where a token of the whole pass stands in this chunk; None where it is in another
>>> with chunks.whole():  # hooks that want a pass in one piece
...     forward(loaded, ids)

Of a pass that is not cut all of these say that it is one chunk. Legend: B row, T token, P picked token.
"""

import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

CHUNK = 2048  # tokens of a row that run at once


@dataclass
class Chunks:
    """Where the pass that runs stands.

    start: tokens of a row before the chunk, in this pass; length: of a row of the pass, 0 where it is not cut; rows: B.
    """

    start: int = 0
    length: int = 0
    rows: int = 0
    _wholes: int = 0  # contexts of `whole` that last

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let no pass be cut while this context lasts."""
        self._wholes += 1
        try:
            yield
        finally:
            self._wholes -= 1

    def wanted(self, length: int) -> bool:
        """Say whether a pass of rows of so many tokens is to be cut."""
        return length > CHUNK and not self._wholes

    @contextmanager
    def running(self, rows: int, length: int) -> Iterator[Iterator[slice]]:
        """Give the tokens of each chunk in turn; what is asked here is about the last one given."""

        def each() -> Iterator[slice]:
            for self.start in range(0, length, CHUNK):
                yield slice(self.start, min(self.start + CHUNK, length))

        self.rows, self.length = rows, length
        try:
            yield each()
        finally:
            self.start = self.length = self.rows = 0

    @property
    def last(self) -> bool:
        """Whether the pass ends with this chunk."""
        return self.start + CHUNK >= self.length

    def part(self, x_BT: torch.Tensor) -> torch.Tensor:
        """Return what a chunk gets of a whole pass's tensor (B, T, ...)."""
        return x_BT[:, self.start : min(self.start + CHUNK, self.length)] if self.length else x_BT

    def keep(self, kept: dict[Any, torch.Tensor], key: Hashable, x_BT: torch.Tensor) -> None:
        """Put a chunk's tensor (B, T, ...) where it belongs in the whole pass's, kept[key]."""
        if not self.length:
            kept[key] = x_BT
            return
        if not self.start:
            kept[key] = x_BT.new_empty(len(x_BT), self.length, *x_BT.shape[2:])
        self.part(kept[key]).copy_(x_BT)

    def by_row(self, x: torch.Tensor) -> torch.Tensor:
        """Return a chunk's tensor as (B, T, C), whether its tokens came flat, (B T, C), or not."""
        return x.reshape(self.rows, -1, x.shape[-1]) if self.length else x

    def at(self, position: int) -> int | None:
        """Return where a position of the whole pass stands in the chunk; None where it is in another."""
        if not self.length:
            return position
        return position - self.start if position // CHUNK == self.start // CHUNK else None

    def places(self, at_P: torch.Tensor) -> tuple[torch.Tensor | slice, torch.Tensor]:
        """Return which of some places in (B T) of the whole pass are in the chunk, and where these are in its own."""
        if not self.length:
            return slice(None), at_P
        width, column_P = min(CHUNK, self.length - self.start), at_P % self.length - self.start
        here_P = (column_P >= 0) & (column_P < width)
        return here_P, (at_P // self.length * width + column_P)[here_P]


def steady(model: torch.nn.Module, length: int) -> bool:
    """Say whether a token's rotary angles are the same in every text of up to `length` tokens.

    Where they are made anew by length (transformers' `dynamic_rope_update`), a chunk is not a part of the whole.
    """
    return all(length <= _unchanged(module) for module in model.modules())


def _unchanged(module: torch.nn.Module) -> float:
    """Return up to how many tokens of a text a module's angles are the same."""
    kind = getattr(module, "rope_type", None)
    names = kind.values() if isinstance(kind, dict) else [kind]
    if not any(name == "longrope" or "dynamic" in (name or "") for name in names):
        return math.inf
    rope = module.config.rope_parameters
    original = [
        each.get("original_max_position_embeddings") for each in (rope, *rope.values()) if isinstance(each, dict)
    ]
    return min(module.original_max_seq_len, *filter(None, original), math.inf)
