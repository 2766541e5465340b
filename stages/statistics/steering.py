"""From raw outcomes to the table of steering: accuracy under every vector, and the top heads' rank among control sets.

The claim 'the mean outputs of these heads carry the function' is a rank among D sets of other heads written in place in
the same way: p = (1 + number of control sets at least as accurate) / (1 + D), printed with its floor 1 / (1 + D), for
every cell of `PROMPTS` prompts. The rows of all functions together (`ALL`) rank the mean accuracy over functions, draw
by draw: in draw d every function has its control set d. p of single functions is not corrected for their number.
Natural text is several texts: the prompts in each have rows of all functions of their own, whose context is the text.
Only chosen settings are summarised, on split b.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stages.statistics.control import NONE, alike_in_all, overlap
from stages.statistics.effects import ALL, PROMPTS
from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import rank_p

COLUMNS = (
    "function layer context vector accuracy low high trials clusters heads strength tried controls control_accuracy p "
    "p_floor overlap matching note"
).split()
NATURAL = "natural"
CONTEXTS = ("clean", "zero_shot", "shuffled", NATURAL)  # clean: the intact model with demonstrations; then others
TRIED = "of the heads tried for the vector"  # how a control set that had to hold some says so
NO_TRIED = "no set holds a head tried for the vector"
NOT_WRITTEN = "no control set is written on these words"
NOT_RANKED = {"controls": 0, "matching": NOT_WRITTEN}
SAME = "the heads of `heads` in {} of {} functions"  # how a note says that the held-out choice is hardly another
VECTORS = ("none", "heads", "held_out", "function", "layerwise", "layer_average", "random", "control")


def table(raw: pd.DataFrame, skipped: Mapping[str, str], texts: Mapping[str, str]) -> pd.DataFrame:
    """Return steering.csv: all functions together, then each, per context and vector; functions left out, and why.

    raw: table STEERING; skipped: reason by function; texts: by natural prompt, the text it is asked in. accuracy of
    `control`: the mean over control sets, its interval over prompts (a prompt's value is its mean over sets). tried:
    numbers of heads that `heads` was chosen from.
    """
    chosen = raw[raw.chosen.astype(bool)].astype({"correct": float})
    tried = raw[(raw.vector == "heads") & ~raw.chosen.astype(bool)].groupby("function").heads.unique()
    rows = []
    for context, of_context in chosen.groupby("context"):
        rows += [_row(ALL, context, *cell, of_context, tried) for cell in of_context.groupby("vector")]
        for function, of_function in of_context.groupby("function"):
            rows += [_row(function, context, *cell, of_function, tried) for cell in of_function.groupby("vector")]
    natural = chosen[chosen.context == NATURAL]
    for text, of_text in natural.groupby(natural.prompt.map(texts)):
        rows += [_row(ALL, text, *cell, of_text, tried) for cell in of_text.groupby("vector")]
    left_out = {"context": "clean", "vector": "none", "layer": -1, "heads": 0, "strength": 0.0}
    rows += [{"function": function, "note": f"not steered: {why}"} | left_out for function, why in skipped.items()]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    known = [*CONTEXTS, *dict.fromkeys(texts.values())]
    others = sorted(set(frame.context) - set(known))
    for name, order in (("context", [*known, *others]), ("vector", VECTORS)):
        frame[name] = pd.Categorical(frame[name], order)
    first = frame.function != ALL
    frame = frame.assign(first=first).sort_values(["context", "first", "function", "vector"], kind="stable")
    return frame[COLUMNS].astype({name: "Int64" for name in ("layer", "trials", "clusters", "heads", "controls")})


def _row(function: str, context: str, vector: str, runs: pd.DataFrame, beside: pd.DataFrame, tried: pd.Series) -> dict:
    """Return one cell; runs: its outcomes; beside: those of all vectors on the same prompts."""
    prompts = runs.groupby(["function", "prompt"]).agg({"correct": "mean", "cluster": "first"}).reset_index()
    weights = 1 / prompts.groupby("function").prompt.transform("size")  # each function counts the same
    low, high = interval(prompts.correct, prompts.cluster, weights, share=True)
    row = {"function": function, "context": context, "vector": vector, "low": low, "high": high}
    row |= {"accuracy": _accuracy(runs), "trials": len(prompts), "clusters": prompts.cluster.nunique()}
    for name in ("layer", "heads", "strength"):
        row[name] = runs[name].iloc[0] if runs[name].nunique() == 1 else np.nan  # functions differ
    notes = [f"{row['trials']} prompts: fewer than {PROMPTS}"] if row["trials"] < PROMPTS else []
    notes += [f"{row['clusters']} clusters: fewer than {FEWEST}, no interval"] if row["clusters"] < FEWEST else []
    if vector == "heads":
        numbers = {number for name in prompts.function.unique() for number in tried.get(name, [])}
        row |= {"tried": " ".join(map(str, sorted(numbers)))}
        beside_it = _ranked(row["accuracy"], row["trials"], runs, beside)
        if runs.context.iloc[0] not in CONTEXTS:  # another task's prompts: a few sets, to stand beside the heads
            few = beside_it["controls"]
            beside_it = beside_it | {"p": np.nan, "p_floor": np.nan} if few else NOT_RANKED
            notes += [f"{few} control sets: no rank"] if few else []
        row |= beside_it
    if vector == "held_out":
        own, held_out = _sets(beside[beside.vector == "heads"]), _sets(runs)
        same = sum(own.get(name) == heads for name, heads in held_out.items())
        notes.append(SAME.format(same, len(held_out)))
    return row | {"note": "; ".join(notes)}


def _ranked(accuracy: float, trials: int, runs: pd.DataFrame, beside: pd.DataFrame) -> dict:
    """Return how the heads' accuracy ranks among the control sets that every function of the cell has."""
    controls = beside[beside.vector == "control"]
    functions = controls.groupby("draw").function.nunique()
    controls = controls[controls.draw.isin(functions.index[functions == runs.function.nunique()])]
    if controls.empty:
        return {"controls": 0, "matching": NONE}
    accuracy_D = controls.groupby("draw").apply(_accuracy, include_groups=False)
    return ranked(accuracy, trials, accuracy_D, controls, controls[controls.function == controls.function.iloc[0]])


def ranked(accuracy: float, trials: int, accuracy_D: pd.Series, controls: pd.DataFrame, alike: pd.DataFrame) -> dict:
    """Return the rank of some heads' accuracy among control sets, by draw, and what these sets are.

    controls: rows of the sets, with draw and matching; alike: those whose sets, in names, are compared.
    """
    row = {"controls": len(accuracy_D), "control_accuracy": accuracy_D.mean()}
    if trials >= PROMPTS:
        row["p"], row["p_floor"] = rank_p(accuracy, accuracy_D)
    sets = alike.drop_duplicates("draw").names
    holding = int(controls.groupby("draw").matching.apply(lambda said: said.str.contains(TRIED).any()).sum())
    held = f"{holding} of {len(accuracy_D)} sets hold heads tried for the vector" if holding else NO_TRIED
    matching = f"{alike_in_all(controls.matching)}; {held}"
    return row | {"overlap": overlap([names.split() for names in sets]), "matching": matching}


def _sets(runs: pd.DataFrame) -> dict[str, frozenset[str]]:
    """Return the heads of a vector by function."""
    return {function: frozenset(names.split()) for function, names in runs.groupby("function").names.first().items()}


def _accuracy(runs: pd.DataFrame) -> float:
    """Return the mean over functions of the share of right answers."""
    return float(runs.groupby("function").correct.mean().mean())
