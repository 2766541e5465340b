"""What the MLPs hold, in one table: means over subjects of split b, and areas of scores of a hit. Pure pandas.

An area (AUROC) is the chance that a subject of one class scores above one of the other: 0.5 tells nothing. Classes are
known against invented, and rare against invented among names of equally many tokens, so that their number is no hint.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import rank_p

COLUMNS = "part what layer group measure value low high p p_floor trials clusters note".split()
PROMPTS = 20  # prompts that a claim rests on, at least
MEANS = ("entropy", "text_loss", "text_kl")  # no shares
KNOWN, RARE, INVENTED = "known", "rare", "invented"


def table(raw: pd.DataFrame, chosen: Mapping[str, object]) -> pd.DataFrame:
    """Return memory.csv from rows of `tables.MEMORY` of both splits; chosen: what split a chose (rows of part chosen).

    Split a's interchange stands as `chosen_by`, the numbers that the layer was chosen by.
    """
    if raw.empty:
        return pd.DataFrame(columns=COLUMNS)
    first = raw[(raw.split == "a") & raw.what.str.endswith("interchange")]
    first = first.assign(what=first.what.str.replace("interchange", "chosen_by"))
    read = pd.concat([raw[raw.split == "b"], first])
    keys = ["part", "what", "layer", "group", "measure"]
    rows = [
        dict(zip(keys, names, strict=True)) | _mean(of_cell, names[-1])
        for names, of_cell in read[read.what != "score"].groupby(keys, sort=True)
    ]
    rows += _areas(raw[raw.what == "score"]) + _gap(read) + _paired(read)
    rows += _agreement(rows)
    for row in _ranked(rows, chosen):
        row["p"], row["p_floor"] = rank_p(-row["value"], [-value for value in row.pop("others")])
    numbers = {name: value for name, value in chosen.items() if isinstance(value, int | float)}
    rows += [{"part": "chosen", "what": "split_a", "layer": -1, "measure": name, "value": numbers[name]}
             for name in sorted(numbers)]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _mean(cell: pd.DataFrame, measure: str) -> dict:
    values, clusters = cell.value.to_numpy(float), cell.cluster.to_numpy()
    low, high = interval(values, clusters, share=measure not in MEANS)
    count = cell.cluster.nunique()
    notes = [f"{count} subjects: fewer than {PROMPTS}"] if count < PROMPTS else []
    notes += [f"fewer than {FEWEST}: no interval"] if count < FEWEST else []
    return {
        "value": values.mean(), "low": low, "high": high, "trials": len(values), "clusters": count,
        "note": "; ".join(notes),
    }  # fmt: skip


def _ranked(rows: list[dict], chosen: Mapping[str, object]) -> list[dict]:
    """Return the rows of the chosen layers' mean ablation, each with the same of all other layers as `others`."""
    ranked = []
    for what, kind in (("mean", "mlp"), ("attention_mean", "attention")):
        same = [r for r in rows if r["part"] == "lookup" and r["what"] == what and r["measure"] == "own"]
        for row in same:
            others = [r["value"] for r in same if r["group"] == row["group"] and r is not row]
            if row["layer"] == chosen.get(kind) and others:
                row["others"] = others
                ranked.append(row)
    return ranked


def area(above: np.ndarray, below: np.ndarray) -> float:
    """Return the chance that one of `above` is larger than one of `below`, ties half."""
    if not len(above) or not len(below):
        return np.nan
    difference = above[:, None] - below[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def matched(tokens_a: np.ndarray, tokens_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which of two classes to take, so that equally many have each number of tokens: the first of each."""
    picked: tuple[list[int], list[int]] = ([], [])
    for number in np.union1d(tokens_a, tokens_b):
        places = [np.flatnonzero(tokens == number) for tokens in (tokens_a, tokens_b)]
        count = min(map(len, places))
        for chosen, at in zip(picked, places, strict=True):
            chosen.extend(at[:count].tolist())
    return tuple(np.array(sorted(chosen), dtype=int) for chosen in picked)


def _areas(scores: pd.DataFrame) -> list[dict]:
    rows: list[dict] = []
    if scores.empty:
        return rows
    wide = scores.pivot_table(index=["group", "cluster"], columns="measure", values="value")
    classes = {name: wide.loc[name] for name in wide.index.get_level_values(0).unique()}
    if INVENTED not in classes:
        return rows
    layer = int(scores.layer.iloc[0])
    for name in (KNOWN, RARE):
        if name not in classes:
            continue
        real, invented = classes[name], classes[INVENTED]
        if name == RARE:
            a, b = matched(real.tokens.to_numpy(), invented.tokens.to_numpy())
            real, invented = real.iloc[a], invented.iloc[b]
        few = min(len(real), len(invented))
        for measure in wide.columns:
            value = area(real[measure].to_numpy(), invented[measure].to_numpy())
            rows.append(
                {
                    "part": "miss", "what": "area", "layer": layer, "group": name, "measure": measure, "value": value,
                    "trials": len(real) + len(invented), "clusters": len(real) + len(invented),
                    "note": f"{few} subjects of a class: fewer than {PROMPTS}" if few < PROMPTS else "",
                }
            )  # fmt: skip
    return rows


def _gap(read: pd.DataFrame) -> list[dict]:
    """Return the entropy of invented subjects less that of known ones, without demonstrations: Welch's interval."""
    cells = read[(read.part == "miss") & (read.what == "main") & (read.measure == "entropy")].groupby("group").value
    values = {name: of_class.to_numpy(float) for name, of_class in cells}
    if not {KNOWN, INVENTED} <= set(values):
        return []
    invented, known = values[INVENTED], values[KNOWN]
    row = {"part": "miss", "what": "main", "layer": -1, "group": "gap", "measure": "entropy", "note": ""}
    row |= {"value": invented.mean() - known.mean(), "trials": len(invented) + len(known)}
    row["clusters"] = row["trials"]
    if min(len(invented), len(known)) >= FEWEST:
        from scipy.stats import ttest_ind

        ends = ttest_ind(invented, known, equal_var=False).confidence_interval(0.95)
        row |= {"low": ends.low, "high": ends.high}
    if min(len(invented), len(known)) < PROMPTS:
        row["note"] = f"{min(len(invented), len(known))} subjects of a class: fewer than {PROMPTS}"
    return [row]


def _agreement(rows: list[dict]) -> list[dict]:
    """Return by how much more answers on known subjects agree than on invented ones (Newcombe 1998, method 10)."""
    cells = {row["group"]: row for row in rows if row["part"] == "miss" and row["measure"] == "agreement"}
    if not {KNOWN, INVENTED} <= set(cells):
        return []
    known, invented = cells[KNOWN], cells[INVENTED]
    gap = known["value"] - invented["value"]
    low = gap - np.hypot(known["value"] - known["low"], invented["high"] - invented["value"])
    high = gap + np.hypot(known["high"] - known["value"], invented["value"] - invented["low"])
    row = {"part": "miss", "what": "shown", "layer": -1, "group": "gap", "measure": "agreement", "note": ""}
    count = known["clusters"] + invented["clusters"]
    return [row | {"value": gap, "low": low, "high": high, "trials": count, "clusters": count}]


def _paired(read: pd.DataFrame) -> list[dict]:
    """Return by how much more facts are recalled when solved jointly than as a sum of edits: the same facts."""
    cells = read[(read.part == "insert") & (read.measure == "efficacy") & read.what.isin(["joint", "summed"])]
    both = cells.pivot_table(index="cluster", columns="what", values="value")
    if not {"joint", "summed"} <= set(both):
        return []
    change = (both.joint - both.summed).dropna()
    low, high = interval(change.to_numpy(), change.index.to_numpy(), change=True)
    row = {"part": "insert", "what": "joint_less_summed", "layer": cells.layer.iloc[0], "group": INVENTED}
    row |= {"measure": "efficacy", "value": change.mean(), "low": low, "high": high, "note": ""}
    return [row | {"trials": len(change), "clusters": len(change)}]


def metrics(table: pd.DataFrame) -> dict:
    """Return `memory.lookup`, `memory.insert` and `memory.miss` from memory.csv; {} where nothing was measured."""
    if table.empty:
        return {}
    chosen = table[table.part == "chosen"].set_index("measure").value
    at = chosen.get("mlp")

    def value(**where: object) -> float | None:
        cells = table
        for name, wanted in where.items():
            cells = cells[cells[name] == wanted]
        return None if cells.empty or pd.isna(cells.value.iloc[0]) else round(float(cells.value.iloc[0]), 5)

    groups = list(table[(table.part == "lookup") & (table.what == "interchange")].group)
    looked = {"layer": None if at is None else int(at)}
    if groups:
        same = {"part": "lookup", "group": groups[0]}
        looked |= {"accuracy": value(what="intact", measure="own", **same)}
        looked |= {"donor": value(what="interchange", measure="donor", layer=at, **same)}
    edit = {"part": "insert", "what": "edit", "layer": at, "group": INVENTED}
    names = {"efficacy": "efficacy", "paraphrase": "paraphrase", "neighbours": "neighbours", "text": "text_loss"}
    inserted = {name: value(measure=measure, **edit) for name, measure in names.items()}
    missed = {"entropy_gap": value(part="miss", group="gap", measure="entropy")}
    for name in (KNOWN, INVENTED):
        missed[f"agreement_{name}"] = value(part="miss", group=name, measure="agreement")
    tree = {"lookup": looked, "insert": inserted, "miss": missed}
    tree = {part: {name: v for name, v in of.items() if v is not None} for part, of in tree.items()}
    tree = {part: of for part, of in tree.items() if of}
    return {"memory": tree} if tree else {}
