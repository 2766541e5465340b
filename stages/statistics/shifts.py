"""From raw answers, offsets and readings to two tables: is a function one offset, and what do its vectors say?

A translation y = x + v predicts: offsets of pairs point one way; v leads from x to y, -v from y back to x, and v asked
about y beyond all pairs. 'Apply f' predicts: v leads from y to f(y), which is x where f is its own inverse, and -v
leads nowhere in particular. So for such an f the paired difference of two shares, x answered to y under v less x
answered to y under -v, is above 0 for an instruction and below it for a translation; -v has v's length and line.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from stages.statistics.effects import ALL, PROMPTS
from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import rank_p

COLUMNS = (
    "function inverse space vector kind layer factor asked measure value low high value_null p trials note".split()
)
READ = "function vector norm answers random p p_floor elsewhere inputs inputs_random tokens random_tokens".split()
OTHER, ECHO, DIFFERENCE, GAIN = "other", "echo", "plus_less_minus", "plus_less_nothing"
STEERED = "steering"  # the space of answers


def table(answers: pd.DataFrame, offsets: pd.DataFrame) -> pd.DataFrame:
    """Return shifts.csv: rows of offsets (space embedding, state) and of answers (space steering), by function.

    answers, offsets: tables SHIFTS and OFFSETS. measure `other`: share of prompts about `asked` answered by the pair's
    other member; `echo`: by the word itself (where it begins unlike the other); `plus_less_minus`: x answered to y
    under the vector less the same under minus it; `plus_less_nothing`: the other member answered under the vector less
    the same with nothing written, pair by pair. Rows of function `all`: over the pairs of all functions.
    """
    inverse = answers.groupby("function").inverse.first().astype(int)
    rows = [
        {"space": row.space, "layer": row.layer, "measure": row.measure, "value": row.value, "low": row.low,
         "high": row.high, "value_null": row.value_null, "p": row.p, "trials": row.pairs, "function": row.function}
        for row in offsets.itertuples()
    ]  # fmt: skip
    for function, of_function in [*answers.groupby("function"), *([(ALL, answers)] if len(answers) else [])]:
        rows += [{"function": function, "space": STEERED} | row for row in _answered(of_function, function == ALL)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["inverse"] = frame.function.map(inverse)
    return frame.astype({name: "Int64" for name in ("inverse", "layer", "trials")})


def _answered(answers: pd.DataFrame, several: bool) -> Iterator[dict]:
    for (vector, factor, asked), runs in answers.groupby(["vector", "factor", "asked"]):
        kind = runs.kind.iloc[0] if runs.kind.nunique() == 1 and not several else ""
        same = {"vector": vector, "kind": kind, "factor": factor, "asked": asked}
        for measure in (OTHER, ECHO):
            yield same | {"measure": measure} | _share(runs[measure].astype(float), runs.cluster)
    nothing = answers[answers.vector == "none"]
    for (vector, asked), runs in answers[answers.factor == 1].groupby(["vector", "asked"]):
        both = runs.merge(nothing[nothing.asked == asked], on=["function", "prompt"], suffixes=("", "_without"))
        if len(both):
            row = {"vector": vector, "kind": "", "asked": asked, "measure": GAIN}
            yield row | _share(both.other.astype(float) - both.other_without.astype(float), both.cluster, change=True)
    for vector, runs in answers[answers.asked == "y"].groupby("vector"):
        right = runs.pivot_table("other", ["function", "prompt", "cluster"], "factor", aggfunc="mean")
        if {1.0, -1.0} <= set(right.columns):
            clusters = right.index.get_level_values("cluster")
            row = {"vector": vector, "kind": "", "asked": "y", "measure": DIFFERENCE}
            yield row | _share(right[1.0] - right[-1.0], clusters, change=True)


def _share(values: pd.Series, clusters, change: bool = False) -> dict:
    values_P, trials = values.to_numpy(float), int(values.notna().sum())
    low, high = interval(values_P, clusters, share=not change, change=change)
    notes = [f"{trials} pairs: fewer than {PROMPTS}"] if trials < PROMPTS else []
    notes += [f"fewer than {FEWEST} words, no interval"] if np.isnan(low) else []
    value = float(np.nanmean(values_P)) if trials else np.nan
    return {"value": value, "low": low, "high": high, "trials": trials, "note": "; ".join(notes)}


def read(readings: pd.DataFrame) -> pd.DataFrame:
    """Return readings.csv: per function and vector, where its answers stand among all tokens, beside random vectors.

    readings: table READINGS. p: rank of the vector's `answers` among those of random vectors.
    """
    rows = []
    for (function, vector), drawn in readings.groupby(["function", "vector"]):
        own, random = drawn[drawn.draw == 0].iloc[0], drawn[drawn.draw > 0].sort_values("draw")
        p, floor = rank_p(own.answers, random.answers)
        row = {"function": function, "vector": vector, "norm": own["norm"], "answers": own.answers, "p": p}
        row |= {"random": random.answers.mean(), "p_floor": floor, "elsewhere": own.elsewhere, "inputs": own.inputs}
        row |= {"inputs_random": random.inputs.mean(), "tokens": _listed(own.tokens)}
        rows.append(row | {"random_tokens": _listed(random.tokens.iloc[0]) if len(random) else ""})
    return pd.DataFrame(rows, columns=READ)


def _listed(tokens) -> str:
    """Write tokens side by side, white space and all; each between bars."""
    return "|".join(repr(str(token))[1:-1].replace("|", "\\x7c") for token in tokens)


def metrics(shifts: pd.DataFrame) -> dict:
    """Return `<function>.{cosine_embedding,cosine_state,v_on_x,v_on_y,minus_v_on_y}` of the heads in place."""
    tree: dict = {}
    for row in shifts[shifts.measure == "cosine"].itertuples():
        tree.setdefault(row.function, {})[f"cosine_{row.space}"] = round(float(row.value), 5)
    asked = {(1.0, "x"): "v_on_x", (1.0, "y"): "v_on_y", (-1.0, "y"): "minus_v_on_y"}
    for row in shifts[(shifts.vector == "heads") & (shifts.measure == OTHER)].itertuples():
        if name := asked.get((row.factor, row.asked)):
            tree.setdefault(row.function, {})[name] = round(float(row.value), 5)
    return tree
