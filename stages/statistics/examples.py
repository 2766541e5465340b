"""What a head looks at in one prompt, short enough to print: which heads, which tokens. Pure numpy and pandas.

Legend: T token, Q query position.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def strongest(heads: pd.DataFrame, number: int) -> pd.DataFrame:
    """Return the members among rows of HEADS, strongest first, of at most so many heads.

    The first member of every family comes before the second of any: scores of two families have no common scale.
    """
    members = heads[heads.member == 1]
    rank = members.groupby("family").score.rank(ascending=False, method="first")
    members = members.assign(rank=rank).sort_values(["rank", "layer", "head", "family"])
    kept = members.drop_duplicates(["layer", "head"])[["layer", "head"]].head(number)
    return members.merge(kept, on=["layer", "head"])


def first_counted(measured: pd.DataFrame, solved_only: bool) -> str:
    """Return the first prompt of split b, by id, that a family's score counts; '' where there is none.

    measured: columns prompt, split, recalled of the prompts that have the family's relation.
    """
    counted = measured[(measured.split == "b") & ((measured.recalled == 1) | (not solved_only))]
    return min(counted.prompt, default="")


def near(length: int, queries: np.ndarray, targets: np.ndarray, number: int) -> np.ndarray:
    """Return at most so many of T positions, sorted: first token, queries and targets, then those nearest to any.

    Of equally near ones, those nearer to the last query.
    """
    places = np.arange(length)
    anchors = np.unique(np.r_[0, queries, targets])
    distance = np.abs(places[:, None] - anchors).min(axis=1)
    return np.sort(np.lexsort((np.abs(places - queries.max()), distance))[:number])


def strip(names: Sequence[str], kept: np.ndarray) -> tuple[list[str | int], list[np.ndarray]]:
    """Return cells in order and the positions of each: a token by its name, a stretch left out by its length."""
    cells: list[str | int] = []
    places: list[np.ndarray] = []
    for before, at in zip([-1, *kept], [*kept, len(names)], strict=True):
        if at - before > 1:
            cells.append(int(at - before - 1))
            places.append(np.arange(before + 1, at))
        if at < len(names):
            cells.append(names[at])
            places.append(np.array([at]))
    return cells, places
