"""Control sets: other heads, as alike as possible, that an ablation is ranked against. Pure numpy.

A claim about a set of heads is judged against what OTHER sets do, so a control takes as many heads, none of them
silenced, each a stand-in for a silenced one from the same layer or the nearest ones, of the same kind of attention
first. It holds no member of any family that causal evidence is sought for, as long as that leaves a third of the
model's heads to draw from: heads in which no family was ever found would make every claim look strong, and far layers
too. So the families with most members are let in, one after the other, and every row says which are inside. The window
of nearest stand-ins grows until there are enough different sets and they share little: no odd head speaks for all.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Head = tuple[int, int]  # (layer, head)
LEFT = 1 / 3  # share of the model's heads that controls are drawn from, at least
SHARED = 1 / 3  # mean overlap (Jaccard) of two control sets, at most, where there are heads enough
TRIES = 60  # random sets per wanted one and window
ALIKE = re.compile(r"(\d+) of (\d+) in the same layers, (\d+) of")  # how `alike` begins
HELD = re.compile(r"\d+ of (\S+) \(")  # how `matching` names a family whose members a set holds
NONE = "no control possible: too few other heads"


@dataclass(frozen=True)
class Pool:
    """What a model offers: its heads, the kind of attention of each layer, and the members of every causal family."""

    heads: tuple[Head, ...]
    kinds: Mapping[int, str]
    members: Mapping[str, Set[Head]]

    def without(self, silenced: Sequence[Head], families: Iterable[str]) -> list[Head]:
        """Return the heads that are neither silenced nor members of these families."""
        out = set(silenced).union(*(self.members[family] for family in families))
        return [head for head in self.heads if head not in out]


def controls(silenced: Sequence[Head], family: str, pool: Pool, draws: int, rng: np.random.Generator) -> list[tuple]:
    """Return `draws` different control sets, each a sorted tuple of heads; [] where no pool gives as many.

    silenced: the heads of the set that is judged; family: its name, whose members are let in last of all.
    """
    others = sorted((name for name in pool.members if name != family), key=lambda name: len(pool.members[name]))
    kept_out = [family, *others]
    while True:
        free = pool.without(silenced, kept_out)
        if len(free) >= LEFT * len(pool.heads) or len(kept_out) < 2:  # its own members come last
            sets = _distinct(silenced, free, pool.kinds, draws, rng)
            if sets or not kept_out:
                return sets
        kept_out.pop()


def alike(silenced: Sequence[Head], control: Sequence[Head], pool: Pool) -> str:
    """Say how many heads of a control set share layers, and attention kinds, with those they stand in for."""
    layers, kinds = [head[0] for head in silenced], [pool.kinds[head[0]] for head in silenced]
    same = _common(layers, [head[0] for head in control])
    kind = _common(kinds, [pool.kinds[head[0]] for head in control])
    size = len(control)
    return f"{same} of {size} in the same layers, {kind} of {size} of the same attention kind"


def alike_in_all(levels: Iterable[str]) -> str:
    """Put together what `alike` says of several control sets: '6 to 9 of 14 in the same layers, 14 of 14 of ...'."""
    counts = [tuple(map(int, ALIKE.match(level).groups())) for level in levels]
    said = []
    for size in sorted({size for _, size, _ in counts}):
        same, kind = ({count[place] for count in counts if count[1] == size} for place in (0, 2))
        said.append(f"{_range(same)} of {size} in the same layers, {_range(kind)} of {size} of the same attention kind")
    return "; ".join(said)


def matching(silenced: Sequence[Head], control: Sequence[Head], pool: Pool) -> str:
    """Say how well one control set is matched, and which families' members it holds."""
    said = alike(silenced, control, pool)
    inside = {name: len(pool.members[name] & set(control)) for name in pool.members}
    held = [
        f"{count} of {name} ({len(pool.members[name])} of {len(pool.heads)} heads are)"
        for name, count in inside.items()
        if count
    ]
    return f"{said}; holds members: {', '.join(held)}" if held else f"{said}; no member of a causal family"


def matching_in_all(levels: Iterable[str]) -> str:
    """Put together what `matching` says of the control sets of one set: how alike, and whose members they hold."""
    levels = list(levels)
    if not all(map(ALIKE.match, levels)):  # a plan that says it otherwise
        return "; ".join(sorted(set(levels)))
    holding = Counter(family for level in levels for family in HELD.findall(level))
    held = [f"{count} of {len(levels)} sets hold members of {family}" for family, count in sorted(holding.items())]
    return f"{alike_in_all(levels)}; {', '.join(held) or 'no member of a causal family'}"


def overlap(sets: Sequence[Sequence[Head]]) -> float:
    """Return the mean Jaccard index of two of the sets; nan for fewer than two."""
    pairs = [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in combinations(sets, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def _range(counts: Set[int]) -> str:
    return f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(min(counts))


def _common(left: list, right: list) -> int:
    return sum(min(left.count(value), right.count(value)) for value in set(left))


def _distinct(silenced, free: list[Head], kinds, draws: int, rng: np.random.Generator) -> list[tuple]:
    """Return sets from the smallest window of nearest stand-ins that gives enough, sharing little where it can."""
    if len(free) < len(silenced):
        return []
    nearest = {
        head: sorted(free, key=lambda other: (kinds[other[0]] != kinds[head[0]], abs(other[0] - head[0]), other))
        for head in silenced
    }
    enough: list[tuple] = []
    for window in range(1, len(free) + 1):
        sets: dict[tuple[Head, ...], None] = {}
        for _ in range(TRIES * draws):
            drawn = _draw(silenced, nearest, window, rng)
            if drawn is not None:
                sets.setdefault(drawn)
            if len(sets) == draws:
                break
        if len(sets) == draws:
            enough = list(sets)
            if len(silenced) == 1 or overlap(enough) <= SHARED:
                break
    return enough


def _draw(silenced, nearest, window: int, rng: np.random.Generator) -> tuple[Head, ...] | None:
    chosen: list[Head] = []
    for head in silenced:
        left = [other for other in nearest[head][:window] if other not in chosen]
        if not left:
            return None
        chosen.append(left[rng.integers(len(left))])
    return tuple(sorted(chosen))
