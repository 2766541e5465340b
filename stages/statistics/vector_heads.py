"""The heads of a function vector and of its control sets: other heads that are written in place in the same way.

The claim that the top heads carry a function is judged as every claim about a set is: by its rank among control sets,
drawn as `plan` draws them (stages/statistics/control.py). Members of the function family are known only after
`classify`; in their place, every head among the largest number tried is kept out of all control sets, as long as a
third of the model's heads is left (else the rows say so): heads that were next in rank would be no controls. Sets
depend on the number of heads alone, so that draw d is the same heads for all functions that use as many, and the mean
over functions can be ranked draw by draw (stages/statistics/steering.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stages.statistics.control import Head, Pool, alike, controls
from stages.statistics.steering import TRIED
from stages.store.params import Steer
from stages.tasks.prompt import stream

FAMILY = "function"
ADDED = ("function", "layerwise", "layer_average")  # vectors that are added to the residual: chosen, kept, exported


@dataclass(frozen=True)
class Setting:
    """One way to steer: which vector, where, how strong, from how many heads; draw: which control set, from 1."""

    vector: str
    layer: int = -1
    strength: float = 0.0
    heads: int = 0
    draw: int = 0


class Ranking:
    """A model's heads by indirect effect, the largest first, and the control sets of the top ones."""

    def __init__(self, heads: list[Head], pool: Pool, draws: int, seed: int, name: str) -> None:
        self.heads, self.pool, self.draws = heads, pool, draws
        self.seed, self.name = seed, name  # of the random streams
        self.drawn: dict[int, list[tuple[Head, ...]]] = {}  # by number of heads

    def control_sets(self, number: int) -> list[tuple[Head, ...]]:
        """Return the control sets of the top `number` heads; none where too few other heads are left."""
        if number not in self.drawn:
            rng = stream(self.seed, f"{self.name}/{number}")
            self.drawn[number] = controls(self.heads[:number], FAMILY, self.pool, self.draws, rng)
        return self.drawn[number]

    def of(self, setting: Setting) -> Sequence[Head]:
        """Return the heads of a setting."""
        if setting.vector == "control":
            return self.control_sets(setting.heads)[setting.draw - 1]
        return self.heads[: setting.heads]

    def randomly(self, like_D: Any, setting: Setting) -> Any:
        """Return a random vector (D,) of another one's norm and type (a torch tensor): one per layer and draw."""
        rng = stream(self.seed, f"{self.name}/random/{setting.layer}/{setting.draw}")
        random_D = like_D.new_tensor(rng.standard_normal(len(like_D)))
        return random_D * (like_D.norm() / random_D.norm())

    def matching(self, setting: Setting) -> str:
        """Say how well a control set is matched, and whether it had to hold heads that are tried; '' for others."""
        if setting.vector != "control":
            return ""
        said = alike(self.heads[: setting.heads], self.of(setting), self.pool)
        inside = len(self.pool.members[FAMILY] & set(self.of(setting)))
        return f"{said}; {inside} {TRIED}" if inside else said


def ranking(traced: pd.DataFrame, kinds: Mapping[int, str], settings: Steer, seed: int, name: str) -> Ranking:
    """Return the heads by mean indirect effect on split a; as many as are ever tried are never controls.

    traced: table INDIRECT; kinds: kind of attention of each layer; seed, name: of the random streams.
    """
    heads = ranked(traced)
    pool = Pool(tuple(sorted(heads)), kinds, {FAMILY: set(heads[: max(settings.heads)])})
    return Ranking(heads, pool, settings.draws, seed, name)


def ranked(traced: pd.DataFrame) -> list[tuple[int, int]]:
    """Rank heads by average indirect effect over functions, on split a."""
    effects = (
        traced[traced.split == "a"]
        .groupby(["layer", "head", "function"])
        .effect.mean()
        .groupby(["layer", "head"])
        .mean()
    )
    order = effects.reset_index().sort_values(["effect", "layer", "head"], ascending=[False, True, True])
    return list(zip(order.layer.tolist(), order["head"].tolist(), strict=True))
