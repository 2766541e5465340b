"""Can the model go through a string step by step, and which head looks where it should: per function, in one table.

A row per (function, relation): `input`, to x_{t+1}, and `separator`, to ':'. The best head is chosen on split a, by the
share of tape positions with more than half of their attention there (equal ones by mean attention), and reported on
split b beside the null of the same statistic and the best fixed offset. What the model writes (teacher-forced, all
prompts) stands beside `chance`: the best guess that knows the tape so far but not the string.

Legend: P prompt.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from stages.families.iteration.iteration import FUNCTIONS, name
from stages.statistics.intervals import interval
from stages.tasks.iteration.tape import chance

COLUMNS = (
    "function relation layer head share low high share_null best_offset baseline mass mass_null trials "
    "members symbols symbols_low symbols_high symbols_chance tapes tapes_low tapes_high tapes_chance prompts"
).split()


TASK = "iteration"
READ = (
    "prompt split cluster layer head queries mass over_half mass_null over_half_null baseline best_offset recalled"
).split()


def table(relations: Callable[[str], pd.DataFrame], heads: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all functions that were measured.

    relations: the name of a relation -> its rows of the task's relations table; heads: the heads table.
    """
    rows, separators = [], relations("separator")
    for function in FUNCTIONS:
        family = name(function)
        inputs = relations(family)
        if inputs.empty:
            continue
        written = _written(function, inputs.drop_duplicates("prompt").sort_values("prompt"))
        separator = separators[separators.prompt.isin(inputs.prompt)]
        for relation, of_family, looks in (("input", family, inputs), ("separator", "separator", separator)):
            row = {"function": function, "relation": relation}
            row |= {"members": int(heads[heads.family == of_family].member.sum())}
            rows.append(row | _best(looks) | written)
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


def _best(looks: pd.DataFrame) -> dict:
    """Return the head that looks there most on split a, and what it does on split b; looks: rows of one relation."""
    on_a, on_b = (looks[looks.split == half] for half in "ab")
    scores = on_a.groupby(["layer", "head"])[["over_half", "mass"]].mean()
    layer, head = scores.sort_values(["over_half", "mass"], ascending=False, kind="stable").index[0]
    own = on_b[(on_b.layer == layer) & (on_b["head"] == head)].sort_values("prompt")
    row = {"layer": layer, "head": head, "best_offset": own.best_offset.iloc[0], "trials": len(own)}
    row |= _interval("share", "low", "high", own.over_half, own)
    means = {"share_null": own.over_half_null, "baseline": own.baseline, "mass": own.mass, "mass_null": own.mass_null}
    return row | {column: float(values_P.mean()) for column, values_P in means.items()}


def _interval(key: str, low: str, high: str, values_P: pd.Series, prompts: pd.DataFrame) -> dict[str, float]:
    """Return the mean of a value per prompt and its 95 % interval over clusters of prompts."""
    ends = interval(values_P, prompts.cluster, share=True)
    return {key: float(values_P.mean()), low: ends[0], high: ends[1]}
