"""How well single heads find the syntactic head of a word: the best head per label, chosen on split a, reported on b.

Every query word weighs equally, as in Clark+ 2019 (Table 1). Two rows 'all' add the chosen heads up: direction
'dep-to-head' is the UAS, the share of arcs from dependent to head that they find, labels given, in every model;
direction '' is the hit rate over both directions, which counts any dependent of a head word as a hit and is no UAS.
`rise` tests the claim that attention to sinks says 'nothing to say': attention to first and special tokens at words
without the relation minus that at words with it, in the same sentences; `others` is the mean rise of all other heads.

Legend: P prompt, H head.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stages.families.treebank.grammar import DIRECTIONS, GROUP, LABELS, name
from stages.statistics.intervals import interval

COLUMNS = (
    "label direction label_group queries trials layer head accuracy low high best_offset baseline gain gain_low "
    "gain_high mass mass_null sink sink_elsewhere rise rise_low rise_high others others_low others_high members note"
).split()
TASK = "treebank"
READ = "prompt split layer head queries mass hits_word sink sink_elsewhere mass_null baseline best_offset".split()
UAS = "dep-to-head"  # the direction whose hits are the UAS


@dataclass(frozen=True)
class Chosen:
    """The best head of one label and direction on split a, and what it does on split b, per prompt."""

    queries_P: pd.Series
    hits_P: pd.Series
    baseline_P: pd.Series


def table(relations: Callable[[str], pd.DataFrame], heads: pd.DataFrame, missing: dict[str, str]) -> pd.DataFrame:
    """Return one row per label and direction that occurs, after the rows 'all': UAS and hit rate.

    relations: the name of a relation -> its rows of the treebank's relations table; heads: the heads table; missing:
    reason by family that was not measured.
    """
    rows, chosen = [], {}
    members = heads[heads.member].groupby("family").size()
    for label in LABELS:
        for direction in DIRECTIONS:
            family = name(label, direction)
            measured = relations(family)
            if measured.empty:
                continue
            queries = int(measured.drop_duplicates("prompt").queries.sum())
            row = {"label": label, "direction": direction, "label_group": GROUP[label], "queries": queries}
            if family in missing:
                rows.append(row | {"note": missing[family]})
                continue
            best, chosen[label, direction] = _label(measured)
            rows.append(row | best | {"members": int(members.get(family, 0)), "note": ""})
    arcs = _all([prompts for (_, direction), prompts in chosen.items() if direction == UAS], UAS)
    return pd.DataFrame([*arcs, *_all(list(chosen.values()), ""), *rows], columns=COLUMNS)


def _label(measured: pd.DataFrame) -> tuple[dict, Chosen]:
    """Return the row of one label and direction."""
    order = measured.sort_values(["layer", "head"])
    on_a = order[order.split == "a"]
    scores = (on_a.hits_word * on_a.queries).groupby([on_a.layer, on_a["head"]]).sum()
    best = scores.idxmax()
    on_b = order[order.split == "b"].set_index("prompt")
    own = on_b[(on_b.layer == best[0]) & (on_b["head"] == best[1])].sort_index()
    row = {"trials": int(own.queries.sum()), "layer": best[0], "head": best[1], "best_offset": own.best_offset.iloc[0]}
    row |= _interval("accuracy", "low", "high", own.hits_word, own.queries)
    row |= {"baseline": np.average(own.baseline, weights=own.queries)}
    row |= _interval("gain", "gain_low", "gain_high", own.hits_word - own.baseline, own.queries)
    row |= {"mass": np.average(own.mass, weights=own.queries)}
    both = own.dropna(subset="mass_null")
    row |= {"mass_null": np.average(both.mass_null, weights=both.queries) if len(both) else np.nan}
    paired = own.dropna(subset="sink_elsewhere")
    if len(paired):
        rise_P = paired.sink_elsewhere - paired.sink
        every = (on_b.sink_elsewhere - on_b.sink).groupby("prompt").agg(["sum", "count"]).loc[paired.index]
        others_P = (every["sum"] - rise_P) / (every["count"] - 1)
        row |= {name: np.average(paired[name], weights=paired.queries) for name in ("sink", "sink_elsewhere")}
        row |= _interval("rise", "rise_low", "rise_high", rise_P, paired.queries)
        if others_P.notna().all():  # not in a model of one head
            row |= _interval("beyond", "others_low", "others_high", rise_P - others_P, paired.queries)
            row |= {"others": row["rise"] - row.pop("beyond")}
    return row, Chosen(own.queries, own.hits_word, own.baseline)


def _all(chosen: list[Chosen], direction: str) -> list[dict]:
    """Return the row of all arcs of a direction ('': both) together; none where no label was measured."""
    if not chosen:
        return []
    arcs = pd.concat([pd.DataFrame({"n": c.queries_P, "hit": c.hits_P, "base": c.baseline_P}) for c in chosen])
    arcs = arcs.assign(hit=arcs.hit * arcs.n, base=arcs.base * arcs.n).groupby(level=0).sum()
    row = {"label": "all", "direction": direction, "label_group": "", "trials": int(arcs.n.sum()), "note": ""}
    row |= _interval("accuracy", "low", "high", arcs.hit / arcs.n, arcs.n)
    row |= {"baseline": arcs.base.sum() / arcs.n.sum()}
    return [row | _interval("gain", "gain_low", "gain_high", (arcs.hit - arcs.base) / arcs.n, arcs.n)]


def _interval(key: str, low: str, high: str, values_P: pd.Series, weights_P: pd.Series) -> dict[str, float]:
    """Return the weighted mean of a value per prompt and its 95 % interval over prompts."""
    share = key == "accuracy"
    ends = interval(values_P, values_P.index.astype(str), weights_P, share=share, change=not share)
    return {key: float(np.average(values_P, weights=weights_P)), low: ends[0], high: ends[1]}
