"""The fixed list of metrics that branches compare, and how each follows from the summaries.

`<task>.<measure>` of the intact model, `<task>.trials`, `heads.<family>.{members,top_score,top_layer}` (grammar
counts as one family), `grammar.{uas,uas_offset,arcs}`, `grammar.gain.<label>:<direction>` (accuracy beyond the best
offset), `iteration.<function>.{symbols,tapes,chance,share,offset,trials}` (tape symbols and whole tapes the model
writes, the symbols a guess gets, the best head's share of queries with more than half of their attention on the next
input, what a fixed offset gets), and what an ablation or a vector does: `ablation.<family>.<task>` (change beyond the
matched draws), `steering.<vector>` (mean zero-shot accuracy over functions). What was not measured is left out, so that
a diff shows it as missing.
"""

import pandas as pd

INTACT = (
    ("blimp", "accuracy"),
    ("icl", "accuracy"),
    ("needle", "recall"),
    ("repeats", "loss"),
    ("text", "loss"),
)
VECTORS = ("none", "heads", "function", "layer_average", "random")


def metrics(
    heads: pd.DataFrame,
    effects: pd.DataFrame,
    steering: pd.DataFrame,
    grammar: pd.DataFrame,
    steps: pd.DataFrame,
    sink_rate: float | None,
) -> dict:
    """Return the nested metrics of one slot from its summaries (empty ones allowed)."""
    found: dict = {}
    overall = effects[effects.group == "all"] if len(effects) else effects
    for task, measure in INTACT:
        row = (
            overall[(overall.intervention == "none") & (overall.task == task) & (overall.measure == measure)]
            if len(overall)
            else overall
        )
        if len(row):
            found.setdefault(task, {})[measure] = round(float(row.value.iloc[0]), 5)
            found[task]["trials"] = int(row.trials.iloc[0])
    syntactic = heads.family.str.startswith("grammar:")
    if syntactic.any():
        members = heads[syntactic].groupby(["layer", "head"]).member.any()
        found["heads"] = {"grammar": {"members": int(members.sum())}}
    for family, rows in heads[~syntactic].groupby("family", sort=False):
        top = rows.loc[rows.score.idxmax()]
        found.setdefault("heads", {})[family] = {
            "members": int(rows.member.sum()),
            "top_score": round(float(top.score), 5),
            "top_layer": int(top.layer),
        }
    for row in grammar[grammar.accuracy.notna()].itertuples():
        mine = found.setdefault("grammar", {})
        if row.label == "all":
            values = {"uas": row.accuracy, "uas_offset": row.baseline}
            mine |= {name: round(float(value), 5) for name, value in values.items()} | {"arcs": int(row.trials)}
        else:
            mine.setdefault("gain", {})[f"{row.label}:{row.direction}"] = round(float(row.gain), 5)
    for row in steps[steps.relation == "input"].itertuples():
        values = {"symbols": row.symbols, "tapes": row.tapes, "chance": row.symbols_chance, "share": row.share}
        values = {name: round(float(value), 5) for name, value in (values | {"offset": row.baseline}).items()}
        found.setdefault("iteration", {})[row.function] = values | {"trials": int(row.prompts)}
    if sink_rate is not None:
        found.setdefault("text", {})["sink_rate"] = round(sink_rate, 5)
    if len(overall):
        causal = overall[
            (overall.kind == "mean")
            & overall.versus_control.notna()
            & overall.measure.isin(["accuracy", "logprob", "loss"])
        ]
        for row in causal[(causal.task != "icl") | (causal.measure == "accuracy")].itertuples():
            found.setdefault("ablation", {}).setdefault(row.intervention, {})[row.task] = round(
                float(row.versus_control), 5
            )
    if len(steering):
        zero = steering[steering.context == "zero_shot"]
        for vector in VECTORS:
            mine = zero[zero.vector == vector]
            if len(mine):
                found.setdefault("steering", {})[vector] = round(float(mine.accuracy.mean()), 5)
    return found
