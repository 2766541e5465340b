"""A card for every head: all that the tables of a slot say of it. Pure data; `cards.js` shows it.

A head's address on the page is `#<slot>/L5H1`. Cards are made of the same rows that the sections draw, so that nothing
is computed twice.
"""

from typing import Any

import pandas as pd

from stages.families.family import Family
from stages.page import rows
from stages.page.head_maps import PREFIX, head_name
from stages.page.inputs import Slot
from stages.page.sentences import STATISTICS, capital, interval, listed, measured, number, p_value

FEW = 20  # prompts that a claim rests on, at least
PATHS = "Circuit of induction: this one path alone, as a share of what corrupted keys lose"
PATCHED = {"noising": "lost without it", "denoising": "brought back by it"}
MOST = 3  # most attended tokens that are named
RELATIONS = 5  # grammatical relations on a card: those of which the head is a member, then those it leads most in


def cards(slot: Slot, families: dict[str, Family]) -> dict[str, dict[str, Any]]:
    """Return head -> card, in order of layers and heads.

    `says`: sentences; `tables`: title, columns, rows; `examples`: what it looks at in real prompts (`_example`).
    """
    if slot.heads.empty:
        return {}
    scored = slot.heads.assign(
        name=[head_name(*pair) for pair in zip(slot.heads["layer"], slot.heads["head"], strict=True)],
        rank=slot.heads.groupby("family")["score"].rank(ascending=False, method="min"),
    )
    layers = {part["layer"]: part for part in slot.model.get("attention", [])}
    effects, causal, paths = _silenced(slot, families), _alone(slot), _paths(slot)
    sets = rows.silenced_in(slot.effects)
    shown = {}
    for (layer, _, name), own in scored.groupby(["layer", "head", "name"], sort=True):
        tables = [
            _scores(own, families, slot), _relations(own), causal.get(name), _sets(name, sets, effects),
            paths.get(name),
        ]  # fmt: skip
        examples = _examples(slot, name, own, families)
        says = [_where(layers.get(layer)), _gate(slot, name), "" if examples else _unseen(slot, own)]
        shown[name] = {
            "says": [text for text in says if text],
            "tables": [table for table in tables if table and table["rows"]],
            "examples": examples,
        }
    return shown


def strips(slot: Slot) -> dict[str, dict[str, Any]]:
    """Return family -> the prompt that its members are shown on: cells, query and targets."""
    kept = ("cells", "query", "targets")
    return {name: {key: of[key] for key in kept} for name, of in slot.examples.get("families", {}).items()}


def listing(slot: Slot, families: dict[str, Family]) -> dict[str, Any]:
    """Return the table of all heads: layer, head, the families that it is a member of, and its score in each."""
    names = [name for name in families if not name.startswith(PREFIX) and name in set(slot.heads["family"])]
    wide = slot.heads.pivot_table(index=["layer", "head"], columns="family", values="score")
    member = slot.heads[slot.heads["member"] == 1].groupby(["layer", "head"])["family"].agg(list)
    body = []
    for layer, head in wide.index:
        own = dict.fromkeys("grammar" if name.startswith(PREFIX) else name for name in member.get((layer, head), []))
        scores = [number(wide.at[(layer, head), name], 2) if name in wide else "–" for name in names]
        body.append([head_name(layer, head), ", ".join(own) or "none", *scores])
    return {"columns": ["head", "member of", *names], "rows": body}


def _where(layer: dict[str, Any] | None) -> str:
    """Say what kind of attention a head's layer has."""
    if not layer:
        return ""
    window = layer.get("window")
    sees = f"sees the last {window} tokens" if window else "sees the whole context"
    keys = f"{layer['kv_heads']} key-value head{'s' * (layer['kv_heads'] != 1)}"
    return f"Its layer {sees}; {layer['heads']} query heads over {keys} there."


def _gate(slot: Slot, name: str) -> str:
    """Say what is lost when the head alone sees first tokens and a window."""
    gates = slot.gates
    if gates.empty:
        return ""
    own = gates[[head_name(*pair) == name for pair in zip(gates["layer"], gates["head"], strict=True)]]
    own = own.dropna(subset=["change"])
    if own.empty:
        return ""
    row = own.iloc[0]
    few = ", too few for a claim" if row["prompts"] < FEW else ""
    return (
        f"Seeing only first tokens and a window, it moves the last hidden state by {number(row['change'], 3)} of its "
        f"length (mean of {int(row['prompts'])} needle prompts{few})."
    )


def _scores(own: pd.DataFrame, families: dict[str, Family], slot: Slot) -> dict[str, Any]:
    kept = own[~own["family"].str.startswith(PREFIX)].set_index("family")
    body = []
    for name in [name for name in families if name in kept.index]:
        row = kept.loc[name]
        if pd.isna(row["score"]):
            continue
        body.append([
            name, "yes" if row["member"] == 1 else "no", number(row["score"]), interval(row["low"], row["high"]) or "–",
            number(row["score_null"]), number(row["baseline"]), f"{rows.threshold(slot, families[name]):g}",
            "–" if pd.isna(row["rank"]) else str(int(row["rank"])), p_value(row["q"]),
        ])  # fmt: skip
    columns = ["family", "member", "score", "95 % interval", "null", "best offset", "member at", "rank", "q"]
    return {"title": "Scores in all families", "columns": columns, "rows": body}


def _leading(own: pd.DataFrame) -> pd.DataFrame:
    """Return the head's rows of the grammatical relations that its card shows."""
    kept = own[own["family"].str.startswith(PREFIX)].dropna(subset=["score"])
    lead = kept["score"] - kept["baseline"].fillna(kept["score_null"])
    kept = kept.assign(lead=lead, inside=kept["member"] == 1)
    return kept.sort_values(["inside", "lead", "family"], ascending=[False, False, True]).head(RELATIONS)


def _relations(own: pd.DataFrame) -> dict[str, Any]:
    body = [
        [row.family.removeprefix(PREFIX), "yes" if row.inside else "no", number(row.score),
         interval(row.low, row.high) or "–", number(row.baseline), str(int(row.rank))]
        for row in _leading(own).itertuples()
    ]  # fmt: skip
    columns = ["relation", "member", "score", "95 % interval", "best offset", "rank"]
    return {"title": f"Grammatical relations, {RELATIONS} at most", "columns": columns, "rows": body}


def _examples(slot: Slot, name: str, own: pd.DataFrame, families: dict[str, Family]) -> list[dict[str, str]]:
    """Return what the head looks at in one prompt of every family that it is a member of, as far as it is kept."""
    kept = slot.examples.get("families", {})
    own = own[~own["family"].str.startswith(PREFIX) | own["family"].isin(_leading(own)["family"])]
    scores = own.set_index("family")["score"]
    return [
        _example(kept[family], kept[family]["heads"][name], families[family], scores[family])
        for family in families
        if family in scores and name in kept.get(family, {}).get("heads", {})
    ]


def _example(prompt: dict[str, Any], seen: dict[str, Any], family: Family, score: float) -> dict[str, str]:
    """Return the family's name, what the strip shows in words, and the weights of its cells, hundredths."""
    weights = [float(weight) for weight in seen["weights"].split()]
    largest = sorted(range(len(weights)), key=lambda at: -weights[at])[:MOST]
    most = listed([f"{_cell(prompt['cells'][at])} {number(weights[at])}" for at in largest])
    on_target = "" if seen["on_target"] is None else f"{number(seen['on_target'])} of the attention on the target; "
    says = (
        f"{family.relation_text}. From {_cell(prompt['cells'][prompt['query'][-1]])} in {prompt['prompt']}: "
        f"{on_target}most on {most}. Score over all prompts: {number(score)} ({STATISTICS[family.statistic]})."
    )
    return {"family": family.name, "says": says, "weights": " ".join(f"{100 * weight:.0f}" for weight in weights)}


def _cell(cell: str | int) -> str:
    return f"{cell} tokens left out" if isinstance(cell, int) else f"‘{cell}’"


def _unseen(slot: Slot, own: pd.DataFrame) -> str:
    """Say why the card shows no prompt."""
    if not slot.examples:
        return ""
    outside = "the head is a member of no family" if not own["member"].any() else "beyond the budget `examples.heads`"
    return f"No prompt is shown: {slot.examples['reason'] or outside}."


def _alone(slot: Slot) -> dict[str, dict[str, Any]]:
    """Return head -> what silencing it alone harms, task by task."""
    tables: dict[str, dict[str, Any]] = {}
    for row in rows.single_heads(slot.causal).itertuples():
        table = tables.setdefault(
            head_name(row.layer, row.head),
            {
                "title": "Silenced alone: harm (+ is worse), to first order and where measured exactly",
                "columns": ["task: measure", "first order", "exact", "95 % interval", "q", "note"],
                "rows": [],
            },
        )
        table["rows"].append([
            capital(measured(row.task, row.measure)), number(row.first_order, 3, True), number(row.exact, 3, True),
            interval(row.low, row.high, 3, True) if pd.notna(row.exact) else "–", p_value(row.q),
            row.note or "–",
        ])  # fmt: skip
    return tables


def _silenced(slot: Slot, families: dict[str, Family]) -> pd.DataFrame:
    silenced = rows.silenced(slot.effects, families)
    return silenced[silenced["claim"]] if len(silenced) else silenced


def _sets(name: str, sets: dict[str, list[str]], effects: pd.DataFrame) -> dict[str, Any]:
    """Return what is lost when sets of a family's heads that hold this one are silenced."""
    body = []
    for row in effects[effects["family"].isin(sets.get(name, []))].itertuples() if len(effects) else ():
        body.append([
            row.family, row.heads, capital(measured(row.task, row.measure)), number(row.intact), number(row.value),
            p_value(row.p), p_value(row.p_floor), row.note or "–",
        ])  # fmt: skip
    columns = ["family", "heads silenced", "task: measure", "intact", "silenced", "rank p", "floor", "note"]
    return {"title": "Silenced together with others of a family", "columns": columns, "rows": body}


def _paths(slot: Slot) -> dict[str, dict[str, Any]]:
    """Return head -> the paths of the circuit of induction that it is in: who feeds its keys, whose keys it feeds."""
    tables: dict[str, dict[str, Any]] = {}
    single = slot.circuit[(slot.circuit["purpose"] == "single") & (slot.circuit["kind"] == "head")]
    feeding = single[single["feeder"] == 1]
    shares = feeding.pivot(index=["target", "source"], columns="direction", values="share").reindex(columns=[*PATCHED])
    columns = ["role", "head", *PATCHED.values()]
    for (target, source), share in shares.sort_values("noising", ascending=False).iterrows():
        for name, role, other in ((source, "feeds the keys of", target), (target, "is fed by", source)):
            table = tables.setdefault(name, {"title": PATHS, "columns": columns, "rows": []})
            table["rows"].append([role, other, *map(number, share)])
    return tables
