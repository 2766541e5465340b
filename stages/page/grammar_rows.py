"""The rows that the grammar section draws and quotes: relations, their cells in the map, and what has no number."""

import re

import pandas as pd

from stages.families.treebank.grammar import DIRECTIONS, GROUP, LABELS, name, parts
from stages.page.head_maps import PREFIX, head_name
from stages.page.inputs import Slot
from stages.page.sentences import percents

TASK = "treebank"  # that the relations are measured on
TO = {"dep-to-head": "→ head", "head-to-dep": "→ dependents"}
FAMILIES = [name(label, direction) for label in LABELS for direction in DIRECTIONS]


def measured(grammar: pd.DataFrame) -> pd.DataFrame:
    """Return the relations that have a chosen head, with its name, the relation in words, and its place."""
    chosen = grammar[(grammar["label"] != "all") & grammar["accuracy"].notna()]
    names = [head_name(*pair) for pair in zip(chosen["layer"], chosen["head"], strict=True)]
    relation = [relation_text(*pair) for pair in zip(chosen["label"], chosen["direction"], strict=True)]
    return chosen.assign(name=names, relation=relation)


def relation_text(label: str, direction: str) -> str:
    """Name a relation: obj → head."""
    return f"{label} {TO.get(direction, direction)}"


def leads(heads: pd.DataFrame, relations: pd.DataFrame) -> pd.DataFrame:
    """Return a cell per relation and head, with `lead` = accuracy beyond the best offset, in display order."""
    cells = heads[heads["family"].isin(FAMILIES) & heads["score"].notna()].copy()
    cells["place"] = cells["family"].map(FAMILIES.index)
    both = [parts(family) for family in cells["family"]]
    cells["label"], cells["relation"] = [label for label, _ in both], [relation_text(*pair) for pair in both]
    cells["group"] = cells["label"].map(GROUP)
    chosen = {(name(r.label, r.direction), r.layer, r.head) for r in relations.itertuples()}
    keys = zip(cells["family"], cells["layer"], cells["head"], strict=True)
    return cells.assign(
        lead=cells["score"] - cells["baseline"],
        name=[head_name(*pair) for pair in zip(cells["layer"], cells["head"], strict=True)],
        chosen=[int(key in chosen) for key in keys],
        interval=[f"{percents(*pair)} %" for pair in zip(cells["low"], cells["high"], strict=True)],
        verdict=cells["member"].map({1: "yes"}).fillna("no"),
    ).sort_values(["place", "layer", "head"])


def placed(cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Give cells, row labels and layer labels their places; layers, labels and groups stand a little apart."""
    heads = cells[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
    layer = heads["layer"].rank(method="dense") - 1
    x = dict(
        zip(zip(heads["layer"], heads["head"], strict=True), (i + 0.4 * n for i, n in enumerate(layer)), strict=False)
    )
    y, texts, at, last = {}, [], 0.0, ("", "")
    for family, label, group, text in cells[["family", "label", "group", "relation"]].drop_duplicates().to_numpy():
        if group != last[0]:
            at += 0.6 if texts else 0.0
            texts.append((at, group.replace("_", " "), 1))
            at += 1.1
        elif label != last[1]:
            at += 0.25
        y[family], last = at, (group, label)
        texts.append((at, text, 0))
        at += 1
    columns = zip(cells["layer"], cells["head"], strict=True)
    cells = cells.assign(x=[x[key] for key in columns], y=cells["family"].map(y))
    middle = cells.groupby("layer")["x"].agg(lambda x: (x.min() + x.max() + 1) / 2)
    layers = pd.DataFrame({"x": middle.to_list(), "text": [f"L{int(n)}" for n in middle.index]})
    keep = "x y lead name relation score baseline interval q verdict member chosen prompts".split()
    return cells[keep], pd.DataFrame(texts, columns=["y", "text", "heading"]), layers


def unmeasured(slot: Slot) -> str:
    """List the relations without a number by reason, with the query words there are; '' where all have one."""
    why = {family: reason for family, reason in slot.reasons.items() if family.startswith(PREFIX)}
    noted = slot.grammar[slot.grammar["note"] != ""]
    why |= {name(r.label, r.direction): r.note for r in noted.itertuples()}
    reasons: dict[str, dict[str, dict[str, str]]] = {}
    for family in [family for family in FAMILIES if family in why]:
        label, direction = parts(family)
        few = re.fullmatch(r"(\d+) query words(.*): fewer than (\d+)", why[family])
        reason = f"fewer than {few[3]} query words{few[2]}" if few else why[family]
        reasons.setdefault(reason, {}).setdefault(label, {})[direction] = f" ({few[1]})" if few else ""
    said = []
    for reason, labels in reasons.items():
        if sum(map(len, labels.values())) == len(FAMILIES):
            said.append(reason)
            continue
        named = [
            f"{label}{next(iter(counts.values()))}"
            if len(counts) == len(DIRECTIONS) and len(set(counts.values())) == 1
            else ", ".join(f"{relation_text(label, direction)}{count}" for direction, count in counts.items())
            for label, counts in labels.items()
        ]
        said.append(f"{reason}: {', '.join(named)}")
    return "; ".join(said)
