"""Memory tokens of a text model: what they hold when they see everything, and when they see nothing.

    majorities   half of the tokens are fillers, the others belong to one of two groups, with a bit each; label = XOR of
                 the groups' majorities, asked at every content token together with that token's own variant
    back_copy    a random Markov chain; after a trigger comes the token before the trigger

An encoder's memory tokens (Burtsev+ 2020, arXiv 2006.11527) may gather what is global, the label, since no token has to
give up anything of its own for it. In a causal model the same tokens stand before all others, see none of them and are
constants: they can only be a dump for heads that have nothing to say, as in back-copy, where a head that copies is
needed after triggers alone (Guo+ 2024, arXiv 2410.13835).

Legend: B sequence, T token, G group, V vocabulary.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from stages.recipes.lesson import IGNORED, Batch
from stages.recipes.states import Held, States
from stages.store.section import Count

FILLERS = 4
GROUPS = 2
BITS = 2


class Registers(States):
    """Sequences of `length` tokens.

    variants: tokens that mean the same, per group and bit. agreement: share of a group's tokens that have its bit.
    triggers, vocabulary: of back_copy. edited: ordinary tokens that are edited beside the registers.
    """

    asks: Literal["majorities", "back_copy"]
    length: Annotated[Count, Field(ge=8)]
    variants: Annotated[Count, Field(ge=2)] = 8
    agreement: float = Field(default=0.9, ge=0.5, le=1)
    vocabulary: Annotated[Count, Field(ge=6)] = 24
    triggers: Count = 3
    edited: Count = 4

    @model_validator(mode="after")
    def _fits(self) -> "Registers":
        if self.asks == "majorities" and self.length % 4:
            raise ValueError(f"length: {self.length}; majorities need a multiple of 4")
        if self.triggers > self.vocabulary - 3:
            raise ValueError(f"triggers: {self.triggers} leave too few other tokens of {self.vocabulary}")
        return self

    @property
    def symbols(self) -> int:
        """Number of tokens and answers."""
        if self.asks == "back_copy":
            return self.vocabulary
        return FILLERS + GROUPS * BITS * self.variants + 2 * self.variants

    @property
    def positions(self) -> int:
        """Length of a sequence."""
        return self.length

    def batch(self, rng: np.random.Generator, size: int, step: int) -> Batch:
        """Draw sequences and what each token is asked."""
        if self.asks == "back_copy":
            ids_BT = self._chain(rng, size)
            return Batch(ids_BT, np.pad(ids_BT[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED))
        ids_BT, labels_BT, _ = self._majorities(rng, size)
        return Batch(ids_BT, labels_BT)

    def held_out(self, rng: np.random.Generator, count: int) -> Held:
        """Draw sequences. Facts that are local: the variant of the first content token, and the token in the middle."""
        positions_K = np.sort(rng.choice(np.arange(1, self.length - 1), self.edited, replace=False))
        edited = {"ordinary tokens": np.tile(positions_K, (count, 1))}
        layout_N = np.zeros(count, dtype=np.int64)
        if self.asks == "back_copy":
            ids_BT = self._chain(rng, 2 * count)
            ids_BT = ids_BT[(ids_BT[:, 1:-1] < self.triggers).any(1)][:count]  # those with a copy
            labels_BT = np.full_like(ids_BT, IGNORED)
            copies_BT = ids_BT[:, 1:-1] < self.triggers
            labels_BT[:, 1:-1][copies_BT] = ids_BT[:, 2:][copies_BT]
            kinds_BT = np.where(ids_BT < self.triggers, "trigger", "other token").astype("U32")
            kinds_BT[:, 0] = "first token"
            return Held(ids_BT, labels_BT, kinds_BT, layout_N, {"id of the first token": ids_BT[:, 0]}, {}, edited)
        ids_BT, labels_BT, label_B = self._majorities(rng, count)
        kinds_BT = np.where(ids_BT < FILLERS, "filler", "content token")
        first_B = (ids_BT >= FILLERS).argmax(1)
        kinds_BT = kinds_BT.astype("U32")
        kinds_BT[np.arange(count), first_B] = "first content token"
        variant_B = (ids_BT[np.arange(count), first_B] - FILLERS) % self.variants
        classes = {
            "label": label_B,
            "variant of the first content token": variant_B,
            "token in the middle": ids_BT[:, self.length // 2],
        }
        return Held(ids_BT, labels_BT, kinds_BT, layout_N, classes, {}, edited)

    def chance(self, count: int) -> dict[str, float]:
        """Return what a token that knows its own variant and guesses the label gets; of back_copy, one of all."""
        return {"accuracy": 0.5 if self.asks == "majorities" else 1 / (self.vocabulary - self.triggers)}

    def _majorities(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw ids, labels (label and own variant as one answer) and the sequence's label."""
        content, each = self.length // 2, self.length // (2 * GROUPS)
        each_G = np.array([each - (each % 2 == 0), content - each + (each % 2 == 0)])  # odd: no ties where it can be
        group_T = np.repeat(np.arange(GROUPS), each_G)
        bit_BG = rng.integers(0, 2, (size, GROUPS))
        agrees_BT = rng.random((size, content)) < self.agreement
        bit_BT = np.where(agrees_BT, bit_BG[:, group_T], 1 - bit_BG[:, group_T])
        majority_BG = np.stack([2 * bit_BT[:, group_T == g].sum(1) > each_G[g] for g in range(GROUPS)], axis=1)
        label_B = majority_BG.sum(1) % 2
        variant_BT = rng.integers(0, self.variants, (size, content))
        content_BT = FILLERS + (group_T * BITS + bit_BT) * self.variants + variant_BT
        answers_BT = FILLERS + GROUPS * BITS * self.variants + label_B[:, None] * self.variants + variant_BT
        fillers = (size, self.length - content)
        ids_BT = np.concatenate([content_BT, rng.integers(0, FILLERS, fillers)], axis=1)
        labels_BT = np.concatenate([answers_BT, np.full(fillers, IGNORED)], axis=1)
        order_BT = rng.permuted(np.tile(np.arange(self.length), (size, 1)), axis=1)
        return np.take_along_axis(ids_BT, order_BT, 1), np.take_along_axis(labels_BT, order_BT, 1), label_B

    def _chain(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Draw chains: after a trigger (ids below `triggers`) the token before it, else by fixed random bigrams."""
        next_VV = np.random.default_rng(0).dirichlet(np.full(self.vocabulary, 0.3), self.vocabulary)
        next_VV[:, : self.triggers] = 0
        share = 0.25  # of tokens that are triggers
        next_VV = next_VV / next_VV.sum(1, keepdims=True) * (1 - share)
        next_VV[:, : self.triggers] = share / self.triggers
        cumulated_VV = next_VV.cumsum(1)
        ids_BT = np.empty((size, self.length), dtype=np.int64)
        ids_BT[:, 0] = rng.integers(self.triggers, self.vocabulary, size)
        for t in range(1, self.length):
            before_B = ids_BT[:, t - 1]
            drawn_B = (rng.random(size)[:, None] > cumulated_VV[before_B]).sum(1).clip(max=self.vocabulary - 1)
            ids_BT[:, t] = np.where(before_B < self.triggers, ids_BT[:, max(0, t - 2)], drawn_B)
        return ids_BT

    @property
    def remarks(self) -> str:
        """What the task asks."""
        return (
            "Majorities: half of the tokens are fillers; each other token belongs to one of two groups and has a bit; "
            "the label is the XOR of the two groups' majorities, asked at every content token together with that "
            "token's own variant. Back-copy: a random Markov chain in which a trigger is followed by the token before "
            "it. Registers are learned tokens before all others that are asked nothing."
        )


LESSON = Registers
