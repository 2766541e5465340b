"""Step by step through a string: `x_1 ... x_L : s_1 ... s_L .`, where s_t = f(s_{t-1}, x_t) (Cabannes+ NeurIPS 2024).

    parity      s_t = s_{t-1} + x_t mod 2,  s_0 = 0
    copy        s_t = x_t, of ten symbols
    polynomial  s_t = s_{t-1} x_t + 1 mod p, p prime: cannot be counted, unlike parity

The written tape s (the chain of thought) lets two layers of one head iterate: layer 0 looks at ':' from the tape, which
tells how far the tape is, layer 1 looks at x_{t+1}. The loss is on the tape and its end only.

A solved task is not yet this mechanism: a tape can be computed ahead and looked up by position. In training, therefore,

    corruption  tape symbols are redrawn at random with this probability, and each next one is right for what is
                written: a tape computed ahead is of no use, the step from the written symbol must be learned
    copying     in the first steps, the tape copies strings of all ten symbols: where to look can be learned before what
                to compute, which alone has no first-order signal (a sum mod 2 correlates with neither of its parts)
    gap         the position ids of ':' and the tape are shifted by a random number that falls to 0: where x_{t+1} lies
                cannot be told from the tape's own position, so that layer 0 has to find ':'

All three functions share one vocabulary, so that a model can learn one after another. Strings of the test and strings
of the training differ: a string's hash decides which it is.

Legend: B string, T token, L length of x.
"""

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from stages.families.family import Relation, Tokens, one_key
from stages.recipes.lesson import IGNORED, Batch, Lesson, Watched
from stages.store.errors import UserError
from stages.store.section import Count, Natural, Section
from stages.tasks.iteration.tape import SYMBOLS, last_chance, uncertainty
from stages.tasks.iteration.tape import chance as tape_chance
from stages.tasks.iteration.tape import step as following

SEPARATOR, END, PADDING = 10, 11, 12  # after ten symbols, whatever the function
HELD = 5  # one string in so many is a test string
PATIENCE = 1000  # draws for every test string


class Gap(Section):
    """The largest shift of the positions from ':' on; falls in equal stretches of steps to 0 at step `until`."""

    positions: Count
    until: Count


class Iteration(Lesson):
    """Strings of `shortest` to `longest` symbols; `beyond`: tested up to so many; `tape` False: the last s only.

    corruption: share of redrawn tape symbols; copying: steps of copies before all others; gap: of the first steps.
    """

    function: Literal["parity", "copy", "polynomial"]
    shortest: Annotated[Count, Field(ge=4)]
    longest: Count
    beyond: Count
    corruption: float = Field(default=0.0, ge=0, le=1)
    copying: Natural = 0
    gap: Gap | None = None
    tape: bool = True

    watched: ClassVar[dict[str, Watched]] = {
        "attention_to_separator": Watched("separator", "over_half", 0),
        "attention_to_input": Watched("input", "over_half", 1),
        "attention_to_separator_mean": Watched("separator", "mass", 0),
        "attention_to_input_mean": Watched("input", "mass", 1),
    }
    falls: ClassVar[frozenset[str]] = frozenset({"loss", "loss_beyond"})
    onsets: ClassVar[tuple[str, ...]] = ("attention_to_separator", "attention_to_input", "accuracy")
    solved: ClassVar[dict[str, float]] = {"accuracy": 0.99}
    families: ClassVar[str] = "stages/families/iteration"
    decoded: ClassVar[bool] = True

    @model_validator(mode="after")
    def _ordered(self) -> "Iteration":
        if not self.shortest <= self.longest <= self.beyond:
            raise ValueError(f"shortest, longest, beyond: {self.shortest}, {self.longest}, {self.beyond} do not ascend")
        return self

    @property
    def base(self) -> int:
        """Number of symbols of x and s."""
        return SYMBOLS[self.function]

    @property
    def symbols(self) -> int:
        """Ten symbols, ':', the end and padding."""
        return PADDING + 1

    @property
    def positions(self) -> int:
        """Length of the longest tested sequence, or of the longest trained one with its gap if that is longer."""
        return max(2 * self.beyond + 2, 2 * self.longest + 1 + (self.gap.positions if self.gap else 0))

    def symbol(self, token: int) -> str:
        """Write a token: symbols as digits, then ':' and the end, '.'."""
        return str(token) if token < SEPARATOR else ":. "[token - SEPARATOR]

    def step(self, s_B: np.ndarray, x_B: np.ndarray) -> np.ndarray:
        """Return s_t from s_{t-1} and x_t."""
        return following(self.function, s_B, x_B)

    def batch(self, rng: np.random.Generator, size: int, step: int) -> Batch:
        """Draw training strings, right-padded, with corrupted tapes and the right next symbols.

        A length's probability is proportional to it: the longer, the more places there are to look at.
        """
        if step < self.copying and self.function != "copy":
            return self.model_copy(update={"function": "copy"}).batch(rng, size, step)
        lengths = np.arange(self.shortest, self.longest + 1)
        lengths_B = rng.choice(lengths, size, p=lengths / lengths.sum())
        batch = self._written(self._strings(rng, lengths_B, test=False), lengths_B, rng)
        widest = max(0, math.ceil(self.gap.positions * (1 - step / self.gap.until))) if self.gap else 0
        if not widest:
            return batch
        places_T, gap_B = np.arange(batch.ids_BT.shape[1]), rng.integers(0, widest + 1, size)
        positions_BT = places_T + gap_B[:, None] * (places_T >= lengths_B[:, None])
        return Batch(batch.ids_BT, batch.labels_BT, positions_BT)

    def held_out(self, rng: np.random.Generator, count: int) -> list[Tokens]:
        """Draw test strings, two of each length from `shortest` to `beyond` in turn, with their true tapes.

        A short string may come again, but only in the half in which it came first.
        """
        lengths_B = self._lengths(count)
        x_BL = self._strings(rng, lengths_B, test=True)
        half: dict[tuple[int, ...], int] = {}
        for number, length in enumerate(lengths_B):
            for _ in range(PATIENCE):
                if half.setdefault(tuple(x_BL[number, :length].tolist()), number % 2) == number % 2:
                    break
                x_BL[number] = self._strings(rng, np.array([length]), test=True, width=x_BL.shape[1])[0]
            else:
                raise UserError(f"shortest: {self.shortest}: too few test strings of {length} symbols for both halves")
        batch = self._written(x_BL, lengths_B)
        held = []
        for number, (ids_T, labels_T) in enumerate(zip(batch.ids_BT, batch.labels_BT, strict=True)):
            scored = np.flatnonzero(labels_T != IGNORED)
            ids_T = np.append(ids_T[: scored[-1] + 1], labels_T[scored[-1]])
            held.append(Tokens(f"{number:04d}", "test", ids_T, np.zeros(len(ids_T), dtype=bool), scored + 1))
        return held

    def _lengths(self, count: int) -> np.ndarray:
        """Return the lengths of `count` held-out strings."""
        return self.shortest + np.arange(count) // 2 % (self.beyond + 1 - self.shortest)

    def shown(self, held: list[Tokens]) -> int:
        """Return the first string of ten symbols, or of the longest trained length."""
        lengths = [int(np.flatnonzero(tokens.ids == SEPARATOR)[0]) for tokens in held]
        return lengths.index(min(10, self.longest)) if min(10, self.longest) in lengths else 0

    def _strings(self, rng: np.random.Generator, lengths_B: np.ndarray, test: bool, width: int = 0) -> np.ndarray:
        """Draw strings x (B, L) of the test or of the training; symbols beyond a string's length mean nothing."""
        inside_BL = np.arange(width or lengths_B.max()) < lengths_B[:, None]
        x_BL = rng.integers(0, self.base, inside_BL.shape)
        while (wrong_B := (self._hash(x_BL, inside_BL) % HELD == 0) != test).any():
            x_BL[wrong_B] = rng.integers(0, self.base, (wrong_B.sum(), inside_BL.shape[1]))
        return x_BL

    def _hash(self, x_BL: np.ndarray, inside_BL: np.ndarray) -> np.ndarray:
        """Return a number per string that depends on all its symbols and on nothing else."""
        factor_L = np.random.default_rng(0).integers(1, 2**31, self.beyond)[: x_BL.shape[1]]
        return ((x_BL + 1) * inside_BL * factor_L).sum(axis=1) % 1_000_003

    def _written(self, x_BL: np.ndarray, lengths_B: np.ndarray, rng: np.random.Generator | None = None) -> Batch:
        """Write `x : s` and what each position should predict; `rng` corrupts the tape."""
        rows_B, width = np.arange(len(x_BL)), 2 * lengths_B.max() + 1
        ids_BT = np.full((len(x_BL), width), PADDING)
        labels_BT, s_B = np.full((len(x_BL), width), IGNORED), np.zeros(len(x_BL), dtype=np.int64)
        ids_BT[rows_B, lengths_B] = SEPARATOR
        for t in range(lengths_B.max()):
            inside = rows_B[t < lengths_B]
            ids_BT[inside, t] = x_BL[inside, t]
            s_B = self.step(s_B, x_BL[:, t])
            labels_BT[inside, (lengths_B + t)[inside]] = s_B[inside]
            if rng is not None:
                redrawn_B = rng.random(len(s_B)) < self.corruption
                s_B = np.where(redrawn_B, rng.integers(0, self.base, len(s_B)), s_B)
            ids_BT[inside, (lengths_B + t + 1)[inside]] = s_B[inside]
        labels_BT[rows_B, 2 * lengths_B] = END
        return Batch(ids_BT, labels_BT) if self.tape else self._answers(ids_BT, labels_BT, lengths_B)

    def _answers(self, ids_BT: np.ndarray, labels_BT: np.ndarray, lengths_B: np.ndarray) -> Batch:
        """Leave the tape out: ':' predicts the last s."""
        rows_B, width = np.arange(len(ids_BT)), lengths_B.max() + 1
        answers_BT = np.full((len(ids_BT), width), IGNORED)
        answers_BT[rows_B, lengths_B] = labels_BT[rows_B, 2 * lengths_B - 1]
        ids_BT = np.where(np.arange(width) > lengths_B[:, None], PADDING, ids_BT[:, :width])
        return Batch(ids_BT, answers_BT)

    def relation(self, name: str, tokens: Tokens) -> Relation | None:
        """Find where the position that predicts s_{t+1} should look: at ':' (not ':' itself) or at x_{t+1}.

        Without a tape there are no such positions. Strings longer than any trained one are left out: their positions
        are untrained.
        """
        length = int(np.flatnonzero(tokens.ids == SEPARATOR)[0])
        if length > self.longest or not self.tape:
            return None
        queries = np.arange(length, 2 * length)  # ':' predicts s_1
        if name == "separator":
            return one_key(len(tokens), queries[1:], np.full(len(queries[1:]), length))
        return one_key(len(tokens), queries, queries - length)

    def outcomes(self, tokens: Tokens, logprob: np.ndarray, top: np.ndarray) -> dict[str, float]:
        """Return whether the whole tape is right (trained lengths, beyond, per length) and the loss of its tokens.

        Every token being the argmax given the right ones before is the same as greedy decoding writing the right tape.
        """
        length = int(np.flatnonzero(tokens.ids == SEPARATOR)[0])
        suffix = "" if length <= self.longest else "_beyond"
        right = float(top.all())
        return {f"loss{suffix}": float(-logprob.mean()), f"accuracy{suffix}": right, f"accuracy@{length:02d}": right}

    def chance(self, count: int) -> dict[str, float]:
        """Return what knowing all but the string gets: of the whole tape, or without a tape of its last symbol."""
        lengths_B, which, levels = self._lengths(count), 0 if self.tape else 1, {}
        right, loss = {}, {}
        for length in sorted(set(lengths_B.tolist())):
            right[length] = (tape_chance(self.function, length)[1], last_chance(self.function, length))[which]
            loss[length] = uncertainty(self.function, length)[which]
            levels[f"accuracy@{length:02d}"] = right[length]
        for suffix, some in (("", lengths_B <= self.longest), ("_beyond", lengths_B > self.longest)):
            for measure, by_length in (("accuracy", right), ("loss", loss)) if some.any() else ():
                levels[measure + suffix] = float(np.mean([by_length[length] for length in lengths_B[some].tolist()]))
        return levels

    @property
    def remarks(self) -> str:
        """What accuracy is of, and why longer strings fail."""
        text = "A string counts as right when its whole tape is; without a tape, when the last symbol is. "
        if self.longest < self.beyond:
            text += (
                f"Strings of {self.longest + 1} to {self.beyond} symbols end at positions that are never (with the "
                "gap: hardly) trained: that models fail there is what their position embeddings lead one to expect, "
                "and says nothing about how the shorter strings are solved."
            )
        return text.strip()


LESSON = Iteration
