"""Lessons about what the states of tokens hold and whether that is used: registers, memory tokens, background patches.

Here a token does not predict the next one: every token may be asked something (`Batch.labels_BT`). What is then found
out, at the last checkpoint, in two ways that come apart:

    holds    a linear probe reads a fact of the sequence off ONE token's state (`stages.training.probe`)
    is used  the states of some tokens are dropped, zeroed, set to their mean or exchanged between sequences, beside as
             many ordinary tokens (`stages.training.states`)

Registers (`architecture.registers`) are learned tokens that stand before all others and are asked nothing.

Legend: N held-out sequence, T token (without registers), K edited token, P pixel of a patch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stages.recipes.lesson import Lesson, Watched

REGISTER = "register"
STUDIED = ["question", "layer", "tokens", "what", "measure", "value", "low", "high", "control", "shuffled", "trials"]


@dataclass(frozen=True)
class Sequence:
    """One held-out sequence: what of it a table of outcomes needs."""

    prompt: str


@dataclass(frozen=True)
class Held:
    """Held-out sequences; their order is random, every other one is of split a.

    inputs: token ids (N, T), or images (N, rows, columns).
    labels_NT: what a token is asked, or `IGNORED`.
    kinds_NT: what kind of token each is; facts are read off one token of each kind.
    layout_N: sequences with the same number may exchange the states of the same positions.
    classes: fact -> (N,) class of the sequence.
    values: fact -> (N, T, P) numbers that are the token's own.
    edited: name -> (N, K) positions whose states are replaced; registers are replaced without being named here.
    """

    inputs: np.ndarray
    labels_NT: np.ndarray
    kinds_NT: np.ndarray
    layout_N: np.ndarray
    classes: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    edited: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.labels_NT)

    def __iter__(self) -> Iterator[Sequence]:
        return (Sequence(f"{number:05d}") for number in range(len(self)))


class States(Lesson):
    """Base of lessons about states: `held_out` returns a `Held`; nothing is pictured.

    The properties below are of lessons with images; text has none of them.
    """

    watched: ClassVar[dict[str, Watched]] = {}
    falls: ClassVar[frozenset[str]] = frozenset({"loss"})
    families: ClassVar[str] = "stages/families/text"
    onsets: ClassVar[tuple[str, ...]] = ("accuracy",)

    @property
    def paints(self) -> int:
        """Pixels that each token reproduces."""
        return 0

    @property
    def side(self) -> tuple[int, int] | None:
        """Of images: their side and that of a patch, pixels; None for text."""
        return None

    @property
    def pooled(self) -> bool:
        """Of images: whether there is a class token, which is token 0."""
        return False
