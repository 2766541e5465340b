"""From raw answers to the table of orders: is the next word found where the order is known, stated, both or neither?

Right answers and rival ones are counted on the same prompts: `lead` is the difference of the two shares. `guess`: what
any other word of a stated order, drawn at random, gets. Prompts of one order share nearly all of their text and are one
cluster. `KNOWN_ALL`: all known orders that were asked, every word the same weight. The heads of the vector are ranked
among control sets written in the same way (stages/statistics/steering.py), on the same words; a control set's accuracy
is over words, its interval over clusters (a prompt's value is its mean over sets).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stages.statistics.control import NONE
from stages.statistics.effects import PROMPTS
from stages.statistics.intervals import FEWEST, interval
from stages.statistics.steering import ranked
from stages.tasks.orders.task import ALL as KNOWN_ALL
from stages.tasks.orders.task import BACKWARDS, CATEGORIES, KNOWN, MADE_UP, NOT_STATED, SHUFFLED, STATED

COLUMNS = (
    "ordering category context vector accuracy low high rival rival_low rival_high lead lead_low lead_high "
    "guess learned learned_low learned_high trials clusters heads controls control_accuracy p p_floor overlap matching "
    "note"
).split()
VECTORS = ("none", "heads", "control")
LEFT_OUT = "not measured: "
NOT_RUN = "no control set was written: nothing is right under the heads, and no set can do worse"


def table(raw: pd.DataFrame, skipped: Mapping[str, str], length: int) -> pd.DataFrame:
    """Return orders.csv: with demonstrations, then under vectors; by way of giving an order, all known ones and each.

    raw: table ORDERS, of which split b counts; skipped: what was not measured, and why; length: words of a
    made-up order.
    """
    told = raw[raw.split == "b"].astype({"correct": float, "rival": float, "learned": float})
    rows = []
    for context in ("clean", "zero_shot"):
        for category in CATEGORIES:
            way = told[(told.context == context) & (told.category == category)]
            for vector in VECTORS:
                cell = way[way.vector == vector]
                each = [(name, cell[cell.ordering == name]) for name in (*KNOWN, MADE_UP)]
                parts = [(KNOWN_ALL, cell[cell.ordering != MADE_UP]), *each]
                for name, part in parts:
                    same = {"ordering": name, "category": category, "context": context, "vector": vector}
                    controls = way[(way.vector == "control") & way.prompt.isin(part.prompt)]
                    beside = _ranked(part, controls) if vector == "heads" and len(part) else {}
                    rows += [same | _row(part) | beside] if len(part) else []
    rows += [{"vector": name, "note": f"{LEFT_OUT}{why}"} for name, why in skipped.items()]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    in_view = (frame.ordering == MADE_UP) & (frame.category != NOT_STATED)
    frame["guess"] = np.where(in_view, 1 / (length - 1), np.nan)
    return frame.astype({name: "Int64" for name in ("trials", "clusters", "heads", "controls")})


def metrics(orders: pd.DataFrame) -> dict:
    """Return orders.<known, made_up>.<way it is given>, of the intact model, and orders.vector.<the same> under it.

    Of the two ways that have one, the rival answer too: shuffled_known, backwards_next.
    """
    tree: dict = {}
    rivals = {SHUFFLED: "shuffled_known", BACKWARDS: "backwards_next"}
    for row in orders[orders.ordering.isin([KNOWN_ALL, MADE_UP])].itertuples():
        if row.context == "clean":
            cell = tree.setdefault(str(row.ordering), {})
            cell[str(row.category)] = round(float(row.accuracy), 5)
            if row.category in rivals:
                cell[rivals[row.category]] = round(float(row.rival), 5)
        elif row.vector == "heads":
            name = f"{row.ordering}_{row.category}"
            tree.setdefault("vector", {})[name] = round(float(row.accuracy), 5)
    return tree


def made_up_order(orders: pd.DataFrame) -> float | None:
    """Return accuracy after demonstrations of the step in made-up orders that are stated; None where not asked."""
    rows = orders[(orders.ordering == MADE_UP) & (orders.category == STATED) & (orders.context == "clean")]
    return round(float(rows.accuracy.iloc[0]), 5) if len(rows) else None


def _ranked(runs: pd.DataFrame, controls: pd.DataFrame) -> dict:
    """Return how the heads rank among control sets on the same words."""
    if controls.empty:
        return {"controls": 0, "matching": NONE if runs.correct.any() else NOT_RUN}
    return ranked(runs.correct.mean(), len(runs), controls.groupby("draw").correct.mean(), controls, controls)


def _row(runs: pd.DataFrame) -> dict:
    same = {"correct": "mean", "rival": "mean", "learned": "mean", "cluster": "first"}
    prompts = runs.groupby("prompt").agg(same)
    row = {"trials": len(prompts), "clusters": prompts.cluster.nunique()}
    row["heads"] = runs.heads.iloc[0]
    for name, column in (("", "correct"), ("rival", "rival"), ("learned", "learned")):
        values = prompts[column]
        there = values.notna().any()
        low, high = interval(values, prompts.cluster, share=True) if there else (np.nan, np.nan)
        row |= {name or "accuracy": values.mean(), f"{name}_low".strip("_"): low, f"{name}_high".strip("_"): high}
    lead = prompts.correct - prompts.rival
    if lead.notna().any():
        low, high = interval(lead, prompts.cluster, change=True)
        row |= {"lead": lead.mean(), "lead_low": low, "lead_high": high}
    notes = [f"{len(prompts)} words: fewer than {PROMPTS}"] if len(prompts) < PROMPTS else []
    notes += [f"{row['clusters']} clusters: fewer than {FEWEST}, no interval"] if row["clusters"] < FEWEST else []
    return row | {"note": "; ".join(notes)}
