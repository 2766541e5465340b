"""Matched heads: the control of an ablation. Pure numpy.

A control silences as many heads, never the ablated ones. Each ablated head gets a stand-in from the best tier that has
one left: 0 same layer, no member of the family; 1 same kind of attention, no member; 2 any layer, no member; 3 same
layer, member; nearer layers first within a tier, then heads that fewest earlier draws used, so that one odd head does
not speak for all draws. The worst tier used is the draw's level, and the file says it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Head = tuple[int, int]
LEVELS = (
    "same layers, no members",
    "nearest layers of the same attention kind, no members",
    "nearest layers of any kind, no members",
    "same layers, members among them",
)
NONE = "no control possible"


@dataclass(frozen=True)
class Draw:
    """One matched set and how well it is matched (index into `LEVELS`)."""

    heads: tuple[Head, ...]
    level: int


def matched(
    ablated: Sequence[Head],
    members: Sequence[Head],
    kinds: Mapping[int, str],
    heads: Sequence[Head],
    draws: int,
    rng: np.random.Generator,
) -> list[Draw]:
    """Return up to `draws` distinct matched sets of the best level there is; none where no control is possible.

    ablated: heads silenced; members: heads of the family; kinds: attention kind per layer; heads: all heads.
    """
    found: dict[tuple[Head, ...], Draw] = {}
    used: Counter[Head] = Counter()
    for _ in range(20 * draws):
        draw = _draw(ablated, set(members), kinds, heads, used, rng)
        if draw is not None and draw.heads not in found:
            found[draw.heads] = draw
            used.update(draw.heads)
    best = min((draw.level for draw in found.values()), default=0)
    return [draw for draw in found.values() if draw.level == best][:draws]


def _draw(ablated, members, kinds, heads, used, rng) -> Draw | None:
    taken, level = set(ablated), 0
    chosen: list[Head] = []
    for layer, _ in ablated:
        free = [head for head in heads if head not in taken]
        tiers = [
            [head for head in free if head[0] == layer and head not in members],
            [head for head in free if kinds[head[0]] == kinds[layer] and head not in members],
            [head for head in free if head not in members],
            [head for head in free if head[0] == layer],
        ]
        tier = next((index for index, pool in enumerate(tiers) if pool), None)
        if tier is None:
            return None
        distance = min(abs(head[0] - layer) for head in tiers[tier])
        near = [head for head in tiers[tier] if abs(head[0] - layer) == distance]
        fewest = min(used[head] for head in near)
        fresh = [head for head in near if used[head] == fewest]
        pick = fresh[rng.integers(len(fresh))]
        taken.add(pick)
        chosen.append(pick)
        level = max(level, tier)
    return Draw(tuple(sorted(chosen)), level)
