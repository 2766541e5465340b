"""What the MLPs hold, in one table: means over subjects of split b, and areas of scores of a hit. Pure pandas.

An area (AUROC) is the chance that a subject of one class scores above one of the other: 0.5 tells nothing. Classes are
known against invented, and real against invented of equally many tokens (`matched_real`, `matched_invented`), so that
their number is no hint. Facts inserted in groups of n stand as `joint-n`, `joint_preserved-n` and `summed-n`.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import rank_p
from stages.tasks.facts.task import CAPITALIZE, COPY

COLUMNS = "part what layer condition measure value low high p p_floor trials clusters note".split()
PROMPTS = 20  # prompts that a claim rests on, at least
EXACT = ("second_singular", "reload")  # of one adapter: no sample of anything; in millionths
MEANS = ("entropy", "text_loss", "text_kl", "subject_kl", *EXACT)  # no shares
KNOWN, INVENTED = "known", "invented"
ALL = "all"  # condition of look-ups of known facts of all relations, where there are several
PAIRS = {"gap": (KNOWN, INVENTED), "gap_matched": ("matched_real", "matched_invented")}  # real, invented


def table(raw: pd.DataFrame, chosen: Mapping[str, object]) -> pd.DataFrame:
    """Return memory.csv from rows of `tables.MEMORY` of both splits; chosen: what split a chose (rows of part chosen).

    Split a's interchange stands as `chosen_by`, the numbers that the layer was chosen by.
    """
    if raw.empty:
        return pd.DataFrame(columns=COLUMNS)
    first = raw[(raw.split == "a") & raw.what.str.endswith("interchange")]
    first = first.assign(what=first.what.str.replace("interchange", "chosen_by"))
    read = _together(pd.concat([raw[raw.split == "b"], first]))
    keys = ["part", "what", "layer", "condition", "measure"]
    rows = [
        dict(zip(keys, names, strict=True)) | _mean(of_cell, names[-1])
        for names, of_cell in read[read.what != "score"].groupby(keys, sort=True)
    ]
    rows += _areas(raw[raw.what == "score"]) + _gaps(read) + _paired(read) + _inserted(read)
    rows += _beside(read, chosen.get("mlp"))
    rows += _agreement(rows)
    for row in _ranked(rows, chosen):
        row["p"], row["p_floor"] = rank_p(-row["value"], [-value for value in row.pop("others")])
    numbers = {name: value for name, value in chosen.items() if isinstance(value, int | float)}
    rows += [{"part": "chosen", "what": "split_a", "layer": -1, "measure": name, "value": numbers[name]}
             for name in sorted(numbers)]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _together(read: pd.DataFrame) -> pd.DataFrame:
    """Add the look-ups of all relations together (condition `ALL`), where there are several."""
    looked = read[read.part == "lookup"]
    relations = set(looked[looked.what == "interchange"].condition)
    if len(relations) < 2:
        return read
    return pd.concat([read, looked[~looked.condition.isin((COPY, CAPITALIZE))].assign(condition=ALL)])


def _mean(cell: pd.DataFrame, measure: str) -> dict:
    values, clusters = cell.value.to_numpy(float), cell.cluster.to_numpy()
    if measure in EXACT:
        return {"value": 1e6 * values.max(), "trials": len(values), "clusters": cell.cluster.nunique(), "note": ""}
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
            others = [r["value"] for r in same if r["condition"] == row["condition"] and r is not row]
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


def _areas(scores: pd.DataFrame) -> list[dict]:
    rows: list[dict] = []
    if scores.empty:
        return rows
    wide = scores.pivot_table(index=["condition", "cluster"], columns="measure", values="value")
    classes = {name: wide.loc[name] for name in wide.index.get_level_values(0).unique()}
    same = {"part": "miss", "what": "area", "layer": int(scores.layer.iloc[0])}
    for condition, (of_real, of_invented) in PAIRS.items():
        if not {of_real, of_invented} <= set(classes):
            continue
        real, invented = classes[of_real], classes[of_invented]
        same |= {"condition": condition, "trials": len(real) + len(invented), "clusters": len(real) + len(invented)}
        for measure in wide.columns:
            value = area(real[measure].to_numpy(), invented[measure].to_numpy())
            rows.append(same | {"measure": measure, "value": value, "note": _few(real, invented)})
    return rows


def _few(*classes: pd.DataFrame | np.ndarray) -> str:
    fewest = min(map(len, classes))
    return f"{fewest} subjects of a class: fewer than {PROMPTS}" if fewest < PROMPTS else ""


def _gaps(read: pd.DataFrame) -> list[dict]:
    """Return the entropy of invented subjects less that of real ones, without demonstrations: Welch's interval."""
    rows = []
    for what in ("main", "main_after"):
        cells = (
            read[(read.part == "miss") & (read.what == what) & (read.measure == "entropy")].groupby("condition").value
        )
        values = {name: of_class.to_numpy(float) for name, of_class in cells}
        for condition, (of_real, of_invented) in PAIRS.items():
            if not {of_real, of_invented} <= set(values):
                continue
            invented, real = values[of_invented], values[of_real]
            row = {"part": "miss", "what": what, "layer": -1, "condition": condition, "measure": "entropy"}
            row |= {"value": invented.mean() - real.mean(), "trials": len(invented) + len(real)}
            row |= {"clusters": row["trials"], "note": _few(invented, real)}
            if min(len(invented), len(real)) >= FEWEST:
                from scipy.stats import ttest_ind

                ends = ttest_ind(invented, real, equal_var=False).confidence_interval(0.95)
                row |= {"low": ends.low, "high": ends.high}
            rows.append(row)
    return rows


def _agreement(rows: list[dict]) -> list[dict]:
    """Return by how much more answers on real subjects agree than on invented ones (Newcombe 1998, method 10)."""
    measured = [row for row in rows if row["part"] == "miss" and row["measure"] == "agreement"]
    gaps = []
    for what in ("shown", "shown_after"):
        cells = {row["condition"]: row for row in measured if row["what"] == what}
        for condition, (of_real, of_invented) in PAIRS.items():
            if not {of_real, of_invented} <= set(cells):
                continue
            real, invented = cells[of_real], cells[of_invented]
            gap = real["value"] - invented["value"]
            low = gap - np.hypot(real["value"] - real["low"], invented["high"] - invented["value"])
            high = gap + np.hypot(real["high"] - real["value"], invented["value"] - invented["low"])
            row = {"part": "miss", "what": what, "layer": -1, "condition": condition, "measure": "agreement"}
            fewest = min(real["clusters"], invented["clusters"])
            row["note"] = f"{fewest} subjects of a class: fewer than {PROMPTS}" if fewest < PROMPTS else ""
            count = real["clusters"] + invented["clusters"]
            gaps.append(row | {"value": gap, "low": low, "high": high, "trials": count, "clusters": count})
    return gaps


def _changed(before: pd.DataFrame, after: pd.DataFrame, share: bool, **names: object) -> list[dict]:
    """Return the mean change of the same subjects with its interval, in a list; [] where they share none."""
    change = (after.groupby("cluster").value.mean() - before.groupby("cluster").value.mean()).dropna()
    if change.empty:
        return []
    low, high = interval(change.to_numpy(), change.index.to_numpy(), change=share)
    note = f"{len(change)} subjects: fewer than {PROMPTS}" if len(change) < PROMPTS else ""
    row = names | {"value": change.mean(), "low": low, "high": high, "note": note}
    return [row | {"trials": len(change), "clusters": len(change)}]


def _paired(read: pd.DataFrame) -> list[dict]:
    """Return by how much more facts are recalled when solved jointly than as a sum of edits: the same facts."""
    cells, rows = read[(read.part == "insert") & (read.measure == "efficacy")], []
    for size in sorted({what.partition("-")[2] for what in cells.what if what.startswith("joint-")}, key=int):
        joint, summed = (cells[cells.what == f"{what}-{size}"] for what in ("joint", "summed"))
        names = {"part": "insert", "what": f"joint_less_summed-{size}", "layer": joint.layer.iloc[0]}
        rows += _changed(summed, joint, True, **names, condition=INVENTED, measure="efficacy")
    return rows


def _beside(read: pd.DataFrame, layer: object) -> list[dict]:
    """Return how other insertions differ from the edit at the chosen layer on the same facts: `<what>_less_edit`.

    They are a LoRA by descent, values found with a KL term, and the edit at other layers.
    """
    cells, rows = read[(read.part == "insert") & (read.condition == INVENTED)], []
    edit = cells[(cells.what == "edit") & (cells.layer == layer)]
    for (what, at, measure), cell in cells.groupby(["what", "layer", "measure"], sort=True):
        if what == "descent" or what.startswith("kl-") or (what == "edit" and at != layer):
            names = {
                "part": "insert",
                "what": f"{what}_less_edit",
                "layer": at,
                "condition": INVENTED,
                "measure": measure,
            }
            rows += _changed(edit[edit.measure == measure], cell, measure not in MEANS, **names)
    return rows


def _inserted(read: pd.DataFrame) -> list[dict]:
    """Return what insertion changes in the answers about the same subjects: of entropy and agreement."""
    rows = []
    for what, measure in (("main", "entropy"), ("shown", "agreement")):
        cells = read[(read.part == "miss") & (read.measure == measure)]
        for condition in (KNOWN, INVENTED):
            before, after = (
                cells[(cells.what == name) & (cells.condition == condition)] for name in (what, f"{what}_after")
            )
            names = {"part": "miss", "what": f"{what}_change", "layer": -1, "condition": condition, "measure": measure}
            rows += _changed(before, after, measure == "agreement", **names)
    return rows


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

    relations = set(table[(table.part == "lookup") & (table.what == "interchange")].condition)
    looked = {"layer": None if at is None else int(at)}
    if relations:
        same = {"part": "lookup", "condition": ALL if ALL in relations else min(relations)}
        looked |= {"accuracy": value(what="intact", measure="own", **same)}
        looked |= {"donor": value(what="interchange", measure="donor", layer=at, **same)}
    edit = {"part": "insert", "what": "edit", "layer": at, "condition": INVENTED}
    names = {"efficacy": "efficacy", "paraphrase": "paraphrase", "neighbours": "neighbours", "text": "text_loss"}
    inserted = {name: value(measure=measure, **edit) for name, measure in names.items()}
    missed = {"entropy_gap": value(part="miss", what="main", condition="gap", measure="entropy")}
    missed |= {"entropy_gap_matched": value(part="miss", what="main", condition="gap_matched", measure="entropy")}
    for name in (KNOWN, INVENTED, "matched_real", "matched_invented"):
        missed[f"agreement_{name}"] = value(part="miss", what="shown", condition=name, measure="agreement")
    tree = {"lookup": looked, "insert": inserted, "miss": missed}
    tree = {part: {name: v for name, v in of.items() if v is not None} for part, of in tree.items()}
    tree = {part: of for part, of in tree.items() if of}
    return {"memory": tree} if tree else {}
