"""In-context bigrams: in every sequence a few trigger tokens are each followed by a partner drawn for that sequence.

    trigger a -> partner s(a), s drawn anew for every sequence;  all other tokens are random

After a trigger's first occurrence its partner is predictable, from the sequence alone: by looking at what followed the
trigger before. That needs two steps, one head that tells every token what stood before it and a second one that looks
where the current token stood before (Elhage+ 2021; Olsson+ 2022, arXiv 2209.11895); a single attention layer has only
one. The data are those of Bietti+ 2023 (arXiv 2306.00802), without their global bigrams.

Legend: B sequence, T token, K trigger, V vocabulary.
"""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from stages.families import of
from stages.families.family import Relation, Tokens, one_key
from stages.recipes.lesson import IGNORED, Batch, Lesson, Watched
from stages.store.section import Count


class Induction(Lesson):
    """Sequences of `length` tokens of a `vocabulary`; `triggers` per sequence, at `density` of the free positions."""

    vocabulary: Annotated[Count, Field(ge=4)]
    length: Annotated[Count, Field(ge=8)]
    triggers: Count
    density: float = Field(gt=0, le=1)

    watched: ClassVar[dict[str, Watched]] = {name: Watched(name) for name in ("previous", "duplicate", "induction")}
    falls: ClassVar[frozenset[str]] = frozenset({"loss", "in_context"})
    families: ClassVar[str] = "stages/families/repeats"
    onsets: ClassVar[tuple[str, ...]] = ("previous", "induction", "in_context")

    @model_validator(mode="after")
    def _fits(self) -> "Induction":
        if self.triggers >= self.vocabulary:
            raise ValueError(f"triggers: {self.triggers} leave no other token in a vocabulary of {self.vocabulary}")
        return self

    @property
    def symbols(self) -> int:
        """Size of the vocabulary."""
        return self.vocabulary

    @property
    def positions(self) -> int:
        """Length of a sequence."""
        return self.length

    def batch(self, rng: np.random.Generator, size: int, step: int) -> Batch:
        """Draw sequences; every token after the first is to be predicted from those before it."""
        ids_BT = self._draw(rng, size)
        return Batch(ids_BT, np.pad(ids_BT[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED))

    def held_out(self, rng: np.random.Generator, count: int) -> list[Tokens]:
        """Draw sequences from another stream; there are so many that none was trained on."""
        target, ordinary = np.arange(1, self.length), np.zeros(self.length, dtype=bool)
        return [
            Tokens(f"{number:04d}", "test", ids_T, ordinary, target)
            for number, ids_T in enumerate(self._draw(rng, count))
        ]

    def _draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Return ids (B, T): tokens below `triggers` are triggers, each always followed by its sequence's partner."""
        partner_BK = rng.integers(self.triggers, self.vocabulary, (size, self.triggers))
        trigger_BT = rng.integers(0, self.triggers, (size, self.length))
        other_BT = rng.integers(self.triggers, self.vocabulary, (size, self.length))
        ids_BT = np.where(rng.random((size, self.length)) < self.density, trigger_BT, other_BT)
        for t in range(1, self.length):
            before_B = ids_BT[:, t - 1]
            partner_B = partner_BK[np.arange(size), np.minimum(before_B, self.triggers - 1)]
            ids_BT[:, t] = np.where(before_B < self.triggers, partner_B, ids_BT[:, t])
        return ids_BT

    def relation(self, name: str, tokens: Tokens) -> Relation | None:
        """Return the previous token, or a family's relation from triggers that stood before."""
        if name == "previous":
            return one_key(len(tokens), np.arange(1, len(tokens)), np.arange(len(tokens) - 1))
        whole = of("repeats")[name].relation(tokens)
        if whole is None:
            return None
        kept = np.isin(whole.queries, self._repeated(tokens))
        return Relation(whole.queries[kept], whole.keys[kept]) if kept.any() else None

    def outcomes(self, tokens: Tokens, logprob: np.ndarray, top: np.ndarray) -> dict[str, float]:
        """Return the loss of all tokens, the in-context score (Olsson+: late minus early) and accuracy on partners."""
        quarter, partners = len(logprob) // 4, self._repeated(tokens)
        results = {"loss": -logprob.mean(), "in_context": logprob[:quarter].mean() - logprob[-quarter:].mean()}
        return results | ({"accuracy": top[partners].mean()} if len(partners) else {})

    def chance(self, count: int) -> dict[str, float]:
        """Return what guessing any token that may be a partner gets."""
        return {"accuracy": 1 / (self.vocabulary - self.triggers)}

    def _repeated(self, tokens: Tokens) -> np.ndarray:
        """Return the positions of triggers that stood before: what follows them can be known."""
        ids = tokens.ids[:-1]
        first = np.unique(ids, return_index=True)[1]
        return np.setdiff1d(np.flatnonzero(ids < self.triggers), first)


LESSON = Induction
