"""Step by step through a string: `x_1 ... x_L : s_1 ... s_L .`, where s_t = f(s_{t-1}, x_t) (Cabannes+ NeurIPS 2024).

    parity      s_t = s_{t-1} + x_t mod 2,  s_0 = 0
    copy        s_t = x_t, of ten symbols
    polynomial  s_t = s_{t-1} x_t + 1 mod p, p prime: cannot be counted, unlike parity

The written tape s (the chain of thought) lets two layers of one head iterate: layer 0 looks at ':' from the tape, which
tells how far the tape is, layer 1 looks at x_{t+1}. The loss is on the tape and its end only. Tape symbols are redrawn at
random with probability `corruption` in training, and each next one is right for what is written: so that a tape that
was computed elsewhere is of no use, and the step from the written symbol must be learned.

Strings of the test and strings of the training differ: a string's crc32 decides which it is.

Legend: B string, T token, L length of x.
"""

from typing import ClassVar, Literal
from zlib import crc32

import numpy as np
from pydantic import Field, model_validator

from stages.heads.family import Relation, Tokens, one_key
from stages.recipes.task import IGNORED, Batch, Task, Watched

SYMBOLS = {"parity": 2, "copy": 10, "polynomial": 5}
HELD = 5  # one string in so many is a test string


class Iteration(Task):
    """Strings of `shortest` to `longest` symbols; `beyond`: tested up to so many; `tape` False: the last s only."""

    function: Literal["parity", "copy", "polynomial"]
    shortest: int = Field(ge=4)
    longest: int = Field(ge=1)
    beyond: int = Field(ge=1)
    corruption: float = Field(ge=0, le=1)
    tape: bool = True

    watched: ClassVar[dict[str, Watched]] = {
        "attention_to_separator": Watched("separator", "over_half", 0),
        "attention_to_input": Watched("input", "over_half", 1),
        "attention_to_separator_mean": Watched("separator", "mass", 0),
        "attention_to_input_mean": Watched("input", "mass", 1),
    }
    onsets: ClassVar[dict[str, int]] = {"attention_to_separator": 1, "attention_to_input": 1, "accuracy": 1}

    @model_validator(mode="after")
    def _ordered(self) -> "Iteration":
        if not self.shortest <= self.longest <= self.beyond:
            raise ValueError(f"shortest, longest, beyond: {self.shortest}, {self.longest}, {self.beyond} do not ascend")
        return self

    @property
    def base(self) -> int:
        """Number of symbols of x and s; the separator, the end and the padding follow them."""
        return SYMBOLS[self.function]

    @property
    def symbols(self) -> int:
        """Symbols, ':', the end and padding."""
        return self.base + 3

    @property
    def positions(self) -> int:
        """Length of the longest tested sequence."""
        return 2 * self.beyond + 2

    def step(self, s: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return s_t from s_{t-1} and x_t."""
        if self.function == "parity":
            return (s + x) % 2
        return x if self.function == "copy" else (s * x + 1) % self.base

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Draw training strings of random lengths, right-padded, with corrupted tapes and the right next symbols."""
        strings = [
            self._string(rng, int(rng.integers(self.shortest, self.longest + 1)), test=False) for _ in range(size)
        ]
        width = 2 * max(map(len, strings)) + 1 if self.tape else max(map(len, strings)) + 1
        ids_BT, labels_BT = np.full((size, width), self.base + 2), np.full((size, width), IGNORED)
        for row, x_L in enumerate(strings):
            ids_T, labels_T = self._written(x_L, rng)
            ids_BT[row, : len(ids_T)], labels_BT[row, : len(ids_T)] = ids_T, labels_T
        return Batch(ids_BT, labels_BT)

    def held_out(self, rng: np.random.Generator, count: int) -> list[Tokens]:
        """Draw test strings, lengths in turn from `shortest` to `beyond`, with their true tapes."""
        lengths, found = range(self.shortest, self.beyond + 1), []
        for number in range(count):
            x_L = self._string(rng, lengths[number // 2 % len(lengths)], test=True)
            ids_T, labels_T = self._written(x_L)
            scored = np.flatnonzero(labels_T != IGNORED)
            whole_T = np.append(ids_T, labels_T[-1])
            found.append(Tokens(f"{number:04d}", "test", whole_T, np.zeros(len(whole_T), dtype=bool), scored + 1))
        return found

    def _string(self, rng: np.random.Generator, length: int, test: bool) -> np.ndarray:
        """Draw a string of the test or of the training."""
        while True:
            x_L = rng.integers(0, self.base, length)
            if (crc32(x_L.astype(np.uint8).tobytes()) % HELD == 0) == test:
                return x_L

    def _written(self, x_L: np.ndarray, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and labels `x : s`, without the end that the last position predicts; `rng` corrupts the tape."""
        separator, end, length = self.base, self.base + 1, len(x_L)
        tape_L, labels, s = [], [], 0
        redrawn_L = (
            np.zeros(length, dtype=bool) if rng is None or not self.tape else rng.random(length) < self.corruption
        )
        other_L = tape_L if rng is None else rng.integers(0, self.base, length)
        for t, x in enumerate(x_L):
            s = int(self.step(np.int64(s), x))
            labels.append(s)
            s = int(other_L[t]) if redrawn_L[t] else s
            tape_L.append(s)
        if not self.tape:
            return np.array([*x_L, separator]), np.array([IGNORED] * length + [s])
        return np.array([*x_L, separator, *tape_L]), np.array([IGNORED] * length + [*labels, end])

    def relation(self, name: str, tokens: Tokens) -> Relation | None:
        """Find where the position that predicts s_{t+1} should look: at ':' (not ':' itself) or at x_{t+1}."""
        length = int(np.flatnonzero(tokens.ids == self.base)[0])
        queries = np.arange(length, 2 * length) if self.tape else np.empty(0, dtype=int)  # ':' predicts s_1
        if name == "separator":
            return one_key(len(tokens), queries[1:], np.full(len(queries[1:]), length))
        return one_key(len(tokens), queries, queries - length)

    def outcomes(self, tokens: Tokens, logprob: np.ndarray, top: np.ndarray) -> dict[str, float]:
        """Return whether the whole tape is right, on trained lengths and beyond, and the loss of its tokens.

        Every token being the argmax given the right ones before is the same as greedy decoding writing the right tape.
        """
        length = int(np.flatnonzero(tokens.ids == self.base)[0])
        suffix = "" if length <= self.longest else "_beyond"
        return {f"loss{suffix}": float(-logprob.mean()), f"accuracy{suffix}": float(top.all())}


TASK = Iteration
