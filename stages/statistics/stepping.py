"""Can the model go through a string step by step, and which head looks where it should: per function, in one table.

A row per (function, relation): `input`, to x_{t+1}, and `separator`, to ':'. The best head is chosen on split a, by the
share of tape positions with more than half of their attention there (equal ones by mean attention), and reported on
split b beside the null of the same statistic and the best fixed offset. What the model writes (teacher-forced, all
prompts) stands beside `chance`: the best guess that knows the tape so far but not the string.

Legend: P prompt.
"""

import numpy as np
import pandas as pd

from stages.families.iteration.iteration import FUNCTIONS, name
from stages.statistics.intervals import interval
from stages.tasks.iteration.tape import chance

COLUMNS = (
    "function relation layer head share low high null offset baseline mass mass_null trials "
    "members symbols symbols_low symbols_high symbols_chance tapes tapes_low tapes_high tapes_chance prompts"
).split()


def table(relations: pd.DataFrame, heads: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all functions that were measured.

    relations: the relations table of the task; heads: the heads table.
    """
    rows = []
    for function in FUNCTIONS:
        family = name(function)
        stepping = relations[relations.relation == family]
        if stepping.empty:
            continue
        written = _written(function, stepping.drop_duplicates("prompt").sort_values("prompt"))
        separator = relations[(relations.relation == "separator") & relations.prompt.isin(stepping.prompt)]
        for relation, where, mine in (("input", family, stepping), ("separator", "separator", separator)):
            members = int(heads[heads.family == where].member.sum())
            found = _best(mine)
            rows.append({"function": function, "relation": relation, "members": members} | found | written)
    return pd.DataFrame(rows, columns=COLUMNS)


def _written(function: str, prompts: pd.DataFrame) -> dict:
    """Return how much of the tapes the model writes: symbols and whole tapes, with intervals and chance."""
    row = {"prompts": len(prompts)}
    right = {"symbols": prompts.recalled, "tapes": (prompts.recalled == 1).astype(float)}
    guessed = np.mean([chance(function, length) for length in prompts.queries], axis=0)
    for (measure, values_P), guess in zip(right.items(), guessed, strict=True):
        row |= _interval(measure, f"{measure}_low", f"{measure}_high", values_P, prompts)
        row[f"{measure}_chance"] = float(guess)
    return row


def _best(mine: pd.DataFrame) -> dict:
    """Return the head that looks there most on split a, and what it does on split b."""
    on_a, on_b = (mine[mine.split == half] for half in "ab")
    scores = on_a.groupby(["layer", "head"])[["over_half", "mass"]].mean()
    layer, head = scores.sort_values(["over_half", "mass"], ascending=False, kind="stable").index[0]
    own = on_b[(on_b.layer == layer) & (on_b["head"] == head)].sort_values("prompt")
    row = {"layer": layer, "head": head, "offset": own.offset.iloc[0], "trials": len(own)}
    row |= _interval("share", "low", "high", own.over_half, own)
    means = {"null": own.over_half_null, "baseline": own.baseline, "mass": own.mass, "mass_null": own.null}
    return row | {column: float(values_P.mean()) for column, values_P in means.items()}


def _interval(key: str, low: str, high: str, values_P: pd.Series, prompts: pd.DataFrame) -> dict[str, float]:
    """Return the mean of a value per prompt and its 95 % interval over clusters of prompts."""
    ends = interval(values_P, prompts.cluster, share=True)
    return {key: float(values_P.mean()), low: ends[0], high: ends[1]}
