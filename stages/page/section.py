"""What a section of a slot is, and what it is built from besides the slot's own tables."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from stages.families.family import Family
from stages.page.inputs import COUNTING, Slot
from stages.page.sentences import PAIRED, TASKS, pairs_name


@dataclass(frozen=True)
class Context:
    """What all slots share.

    families: by name, in display order. tasks: those in params.yaml. counted: what the n-gram baselines can do.
    pairs: where the minimal pairs come from (builtin, hub or path). alpha: largest p-value that tells apart.
    images: where images come from (builtin or path).
    """

    families: dict[str, Family]
    tasks: list[str]
    counted: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COUNTING.split()))
    pairs: str = "builtin"
    alpha: float = 0.05
    images: str = "builtin"

    def task(self, name: str) -> str:
        """Name a task where its data are shown: minimal pairs with their source."""
        return pairs_name(self.pairs) if name == PAIRED else TASKS.get(name, name)


@dataclass(frozen=True)
class SlotSection:
    """A section that every slot has; sections stand by `order`.

    build: slot, context -> blocks (Figure, Table, Note), answer and figure first. predicts: it needs a model that
    predicts words. shown: whether a slot has it at all. seen: so many of its blocks are seen at once; 0: all.
    """

    anchor: str
    title: str
    order: int
    build: Callable[[Slot, Context], list]
    predicts: bool = False
    shown: Callable[[Slot], bool] = lambda slot: True
    seen: int = 0
