"""From raw answers to the table of composed functions: is the sum of two function vectors a vector of both?

`analogy` (the sum, less what copying puts out) is ranked among draws of `random`: the same with a random vector as long
as the second function's step away from copying in its place. p = (1 + number of draws at least as accurate) / (1 + D),
where a cell has `PROMPTS` prompts; `ALL` ranks the mean over functions draw by draw. `other`: the same with another
function in the second one's place. Words are of split b; functions were let in by their accuracy on split a.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stages.statistics.effects import ALL, PROMPTS
from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import rank_p

COLUMNS = (
    "function context vector beside accuracy low high logprob trials clusters heads controls control_largest p p_floor "
    "note"
).split()
VECTORS = ("none", "analogy", "sum", "inner", "outer", "own", "added", "random", "other")
LEFT_OUT = "not measured: "


def table(raw: pd.DataFrame, skipped: Mapping[str, str]) -> pd.DataFrame:
    """Return composed.csv: all functions together, then each, per context and vector; functions left out, and why.

    raw: table COMPOSED; skipped: reason by function. Of `random` and `other` accuracy is the mean over draws; `other`
    also stands function by function in the second one's place (`beside`).
    """
    runs = raw.astype({"correct": float})
    rows = []
    for function, of_function in [(ALL, runs), *runs.groupby("function")] if len(runs) else []:
        for (context, vector), cell in of_function.groupby(["context", "vector"]):
            rows.append(_row(function, context, vector, "", cell, of_function))
            if vector == "other" and function != ALL:
                rows += [
                    _row(function, context, vector, beside, of_one, of_function)
                    for beside, of_one in cell.groupby("beside")
                ]
    rows += [{"function": function, "note": f"{LEFT_OUT}{why}"} for function, why in skipped.items()]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["vector"] = pd.Categorical(frame.vector, VECTORS)
    frame = frame.assign(first=frame.function != ALL)
    frame = frame.sort_values(["first", "function", "context", "vector", "beside"], kind="stable")
    return frame[COLUMNS].astype({name: "Int64" for name in ("trials", "clusters", "heads", "controls")})


def metrics(composed: pd.DataFrame) -> dict:
    """Return vectors.composed.<vector>, mean accuracy over functions; `demonstrations`: with them; p: of `analogy`."""
    tree: dict = {}
    for row in composed[composed.function == ALL].itertuples():
        name = row.vector if row.context == "zero_shot" else "demonstrations"
        tree[str(name)] = round(float(row.accuracy), 5)
        if pd.notna(row.p):
            tree["p"] = round(float(row.p), 5)
    return tree


def _row(function: str, context: str, vector: str, beside: str, cell: pd.DataFrame, runs: pd.DataFrame) -> dict:
    prompts = cell.groupby(["function", "prompt"]).agg({"correct": "mean", "cluster": "first"}).reset_index()
    weights = 1 / prompts.groupby("function").prompt.transform("size")  # each function counts the same
    low, high = interval(prompts.correct, prompts.cluster, weights, share=True)
    row = {"function": function, "context": context, "vector": vector, "beside": beside, "low": low, "high": high}
    row |= {"accuracy": _mean(cell), "logprob": _mean(cell, "logprob"), "trials": len(prompts)}
    row |= {"clusters": prompts.cluster.nunique(), "heads": cell.heads.iloc[0] if cell.heads.nunique() == 1 else np.nan}
    notes = [f"{len(prompts)} prompts: fewer than {PROMPTS}"] if len(prompts) < PROMPTS else []
    notes += [f"{row['clusters']} clusters: fewer than {FEWEST}, no interval"] if row["clusters"] < FEWEST else []
    if vector == "analogy":
        random = runs[runs.vector == "random"]
        accuracy_D = random.groupby("draw").apply(_mean, include_groups=False)
        row |= {"controls": len(accuracy_D), "control_largest": accuracy_D.max() if len(accuracy_D) else np.nan}
        if len(prompts) >= PROMPTS:
            row["p"], row["p_floor"] = rank_p(row["accuracy"], accuracy_D)
    return row | {"note": "; ".join(notes)}


def _mean(runs: pd.DataFrame, column: str = "correct") -> float:
    """Return the mean over functions of their means."""
    return float(runs.groupby("function")[column].mean().mean())
