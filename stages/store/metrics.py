"""The fixed list of metrics that branches compare, and how each follows from the summaries.

`<task>.<measure>` of the intact model, `<task>.trials`, `heads.<family>.{members,top_score,top_layer}`: the head that
scores best on split a, and its score on split b (grammar counts as one family, members only); `grammar.{uas,uas_offset,
arcs}` over arcs from dependent to head, `grammar.{hit_rate,hit_rate_offset}` over both directions,
`grammar.gain.<label>:<direction>` (accuracy beyond the best offset), `iteration.<function>.{symbols,tapes,chance,
share,offset,trials}` (tape symbols and whole tapes the model writes, the symbols a guess gets, the best head's share of
queries with more than half of their attention on the next input, what a fixed offset gets), and what an ablation or a
vector does: `ablation.<family>.<task>.{change,p}` (change of the task's main measure, rank p where control sets ran),
`extrapolation.<function>.<class>` (accuracy after demonstrations; of `copied` words the share echoed),
`vectors.<context>.<vector>` (mean accuracy over functions; `vectors.<context>.p`: rank p of `heads`); summarize adds
`circuit.{feeder_effect,null_effect,joint_effect}` (`stages.statistics.circuit.metrics`), `vectors.composed.<vector>`
and `vectors.text.<function>.{intact,share,other,random,p}` (`composed.metrics` and `continued.metrics` there), and
`neighbours.<language>.{accuracy,knn_agreement,attention,attention_null}` (`neighbours.metrics`: made-up words in Latin
letters and in katakana; the share of answers that are the nearest demonstrations' where these differ from the majority;
attention of induction heads, and of control sets, to labels of like demonstrations minus unlike ones),
`orders.{known,made_up}.<way>` (`orders.metrics`: the next word of an order that is not_stated, stated, shuffled or
asked backwards, and rival answers; `orders.vector.{known,made_up}_<way>` under the vector of the step;
`extrapolation.successor.made_up_order` is `orders.made_up.stated`),
`shifts.<function>.{cosine_embedding,cosine_state,v_on_x,v_on_y,minus_v_on_y}` (`shifts.metrics`: mean cosine of pairs'
offsets, and shares answered by the pair's other member under the heads in place) and `switch.<family>.<k>.{change,p}`
(accuracy in context without k heads of one family that are not the other's), `gates.streaming_share` (query heads whose
last hidden state hardly moves when they alone see sinks and a window), `cache.half.{recall,random}` (needle recall
with half of the key heads streaming, chosen by the gate and at random; `stages.statistics.caching.metrics`),
`sinks.{rate,massive_ratio,inactive}` (`sinks.metrics`: sink rate of natural text, norm of the first token's residual
over the median in its longest layer, share of heads that write less than half of what their layer's do) and
`images.{outliers,outlier_norm,class,registers}` (`norms.metrics`: norms of an image's tokens and attention to a vision
model's own),
`memory.lookup.{layer,accuracy,donor}`, `memory.insert.{efficacy,paraphrase,neighbours,text}` and
`memory.miss.{entropy_gap,agreement_known,agreement_invented}` (`stages.statistics.memory.metrics`). What was not
measured is left out, so that a diff shows it as missing.
"""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd


def measured(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics without those that are no number, and without sections that are empty then: JSON has no NaN."""
    nested = {name: measured(value) if isinstance(value, Mapping) else value for name, value in numbers.items()}
    return {
        name: value
        for name, value in nested.items()
        if not (value == {} or (isinstance(value, float) and not math.isfinite(value)))
    }


def metrics(
    heads: pd.DataFrame,
    effects: pd.DataFrame,
    steering: pd.DataFrame,
    grammar: pd.DataFrame,
    steps: pd.DataFrame,
    sink_rate: float | None,
    mains: Mapping[str, str],
) -> dict:
    """Return the nested metrics of one slot from its summaries (empty ones allowed).

    sink_rate: share of short passages' heads that are sinks, None without text; mains: task -> its main measure.
    """
    tree: dict = {}
    overall = effects[effects.condition == "all"]
    for task, measure in mains.items():
        row = overall[(overall.purpose == "none") & (overall.task == task) & (overall.measure == measure)]
        if len(row):
            tree.setdefault(task, {})[measure] = round(float(row.value.iloc[0]), 5)
            tree[task]["trials"] = int(row.trials.iloc[0])
    syntactic = heads.family.str.startswith("grammar:")
    if syntactic.any():
        members = heads[syntactic].groupby(["layer", "head"]).member.any()
        tree["heads"] = {"grammar": {"members": int(members.sum())}}
    for family, rows in heads[~syntactic].groupby("family", sort=False):
        tree.setdefault("heads", {})[family] = {"members": int(rows.member.sum())}
        both = rows.dropna(subset=["score_a", "score_b"])
        if len(both):  # chosen on split a, reported on split b
            top = both.loc[both.score_a.idxmax()]
            tree["heads"][family] |= {"top_score": round(float(top.score_b), 5), "top_layer": int(top.layer)}
    for row in grammar[grammar.accuracy.notna()].itertuples():
        arcs = tree.setdefault("grammar", {})
        if row.label == "all":
            name = "uas" if row.direction else "hit_rate"
            arcs |= {name: round(float(row.accuracy), 5), f"{name}_offset": round(float(row.baseline), 5)}
            arcs |= {"arcs": int(row.trials)} if row.direction else {}
        else:
            arcs.setdefault("gain", {})[f"{row.label}:{row.direction}"] = round(float(row.gain), 5)
    for row in steps[steps.relation == "input"].itertuples():
        values = {"symbols": row.symbols, "tapes": row.tapes, "chance": row.symbols_chance, "share": row.share}
        values = {name: round(float(value), 5) for name, value in (values | {"offset": row.baseline}).items()}
        tree.setdefault("iteration", {})[row.function] = values | {"trials": int(row.prompts)}
    if sink_rate is not None:
        tree.setdefault("text", {})["sink_rate"] = round(sink_rate, 5)
    silenced = overall[overall.purpose == "family"]
    against = silenced[(silenced.controls > 0).fillna(False)].kind  # the first kind that control sets have
    silenced = silenced[silenced.kind == (against.iloc[0] if len(against) else "mean")]
    for (family, task), rows in silenced.groupby(["family", "task"], sort=False):
        for main in rows[rows.measure == mains.get(task)].itertuples():
            values = {"change": round(float(main.change), 5)}
            values |= {"p": round(float(main.p), 5)} if pd.notna(main.p) else {}
            tree.setdefault("ablation", {}).setdefault(family, {})[task] = values
    if len(steering):
        together = steering[(steering.function == "all") & steering.context.isin(["zero_shot", "shuffled", "natural"])]
        for row in together.itertuples():
            of_context = tree.setdefault("vectors", {}).setdefault(str(row.context), {})
            of_context[row.vector] = round(float(row.accuracy), 5)
            if pd.notna(row.p):
                of_context["p"] = round(float(row.p), 5)
    return tree


def extrapolated(classes: pd.DataFrame) -> dict:
    """Return `extrapolation.<function>.<class>` from extrapolation.csv; {} where nothing was asked."""
    tree: dict = {}
    shown = classes[(classes.tokens == "all") & (classes.context == "demonstrations")]
    for row in shown.to_dict("records"):
        tree.setdefault(row["function"], {})[row["class"]] = round(float(row["accuracy"]), 5)
    return {"extrapolation": tree} if tree else {}
