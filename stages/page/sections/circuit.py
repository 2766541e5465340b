"""The circuit of induction: which earlier heads feed the keys of the strongest induction heads."""

from math import log
from pathlib import Path
from typing import Any

import pandas as pd

from stages.page import charts, inputs
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Fold, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import interval, listed, number, p_value
from stages.statistics.circuit import PROMPTS
from stages.store import paths

DRAWN = 6  # earlier heads in a drawing: the largest effects, and all feeders
RECIPE = "induction"  # of small models: its arms are the controls that no pretrained model can be
LOSS_RANKED = {  # direction: what is done to a set, what it then does to the loss (one, several), the most of all
    "noising": ("noised", ("leaves", "leave"), "as high a loss", "largest change"),
    "denoising": ("brought back", ("takes", "take"), "as much of it away", "most"),
}
WHAT = (
    "An induction head finds the token that followed an earlier occurrence, so something must have told that "
    "token's key what stood before it. Here each earlier head's contribution to the keys of one induction head is "
    "exchanged, alone, between an intact run (random tokens, repeated) and a corrupted one (as many other random "
    "tokens, none twice); queries, values, the scale of norms and all other heads stay (path patching: Wang+ 2023, "
    "arXiv 2211.00593; Goldowsky-Dill+ 2023, arXiv 2304.05969). Noising: the intact run loses the contribution. "
    "Denoising: the corrupted keys get it back. A patch of one head is a lower bound where others do the same, so "
    "the feeders are patched together as well."
)
TABLE = (
    "Effects are attention on the tokens after earlier occurrences (the induction score), lost by noising or brought "
    "back by denoising, with 95 % intervals over prompts. The rest of a layer is its MLP and biases. Previous: the "
    "head's previous-token score on text. K-composition: size of the product of both heads' weight matrices over the "
    "product of their sizes (Elhage+ 2021), norm gains folded in, scales and rotary embeddings not: a screen, no proof."
)


def circuit(slot: Slot, context: Context) -> list:
    """Say and draw what feeds every traced head, or why none was traced."""
    rows = slot.circuit
    path = slot.path("circuit.csv")
    if rows.empty:
        return [Note(f"No circuit was traced: {slot.reasons.get('circuit') or f'{path} has no rows'}.")]
    traced = [of_target for _, of_target in rows.groupby("place")]
    blocks: list = [_notes(traced[0], slot, context.alpha)[0], Note(WHAT)]
    cards = [Chart(drawing(of_target), f"Into the keys of {of_target['target'].iloc[0]}") for of_target in traced]
    legend = [(charts.BLUE, "circle", "feeder, chosen on other prompts"), (charts.GREY, "circle", "other earlier head")]
    says = (
        "The earlier heads with the largest effects, each noised alone; a line is as wide as the induction score that "
        "it loses, the number after the head's name."
    )
    blocks.append(Figure(cards, says, path, "cards", legend))
    blocks += _notes(traced[0], slot, context.alpha)[1:]
    blocks += [note for of_target in traced[1:] for note in _notes(of_target, slot, context.alpha)]
    table = [row for of_target in traced for row in _table(of_target)]
    columns = ["key of", "source", "feeder", "noising", "denoising", "previous", "K-composition"]
    blocks.append(Table(columns, table, TABLE, path, (3, 4, 5, 6), folded="All sources with the largest effects"))
    if said := _trained():
        blocks.append(Note(said))
    return blocks + _longer(slot, context.alpha)


def _longer(slot: Slot, alpha: float) -> list[Fold]:
    """Return what a longer study of this slot adds, in a list: more induction heads; [] where there is none."""
    if "circuit" not in slot.longer or slot.longer["circuit"].slot.circuit.empty:
        return []
    study = slot.longer["circuit"]
    traced = [of_target for _, of_target in study.slot.circuit.groupby("place")]
    rows, fed, ranked, notes = [], [], [], []
    for of_target in traced:
        whole = of_target[of_target["purpose"] == "target"].iloc[0]
        noised = of_target[of_target["direction"] == "noising"].drop_duplicates("purpose").set_index("purpose")
        row = [whole["target"], number(whole["intact"]), number(whole["value"])]
        if "feeders" in noised.index:
            feeders = noised.loc["feeders"]
            fed.append(whole["target"])
            ranked += [whole["target"]] if feeders["p"] <= alpha else []
            row += [feeders["source"], _effect(feeders), number(feeders["control_largest"]), p_value(feeders["p"])]
        else:
            row += ["none", "", "", ""]
        rows.append([*row, _effect(noised.loc["others"]) if "others" in noised.index else ""])
    text = (
        f"Of {len(traced)} members of induction that are traced here (judged on split a), {len(fed)} "
        f"{'has' if len(fed) == 1 else 'have'} feeders, chosen on split a; in {len(ranked)} of these "
        f"({listed(ranked) or 'none'}) they stand out from control sets (rank p at most {alpha:g}, each by itself)."
    )
    for of_target in traced:
        name = of_target["target"].iloc[0]
        if name not in set(slot.circuit["target"]):
            notes += _notes(of_target, slot, alpha)
        elif said := _loss_ranked(joint := _joint(of_target), alpha):
            change = f"changes the loss of the last copy by {_loss(joint.loc['noising'])} nats a token"
            back = f"they take {_loss(joint.loc['denoising'], sign=False)} of it away"
            effect = f"what it gives with its feeders noised {change}; brought back to its corrupted keys, {back}."
            notes.append(Note(f"{name}: {effect}{said}"))
    columns = ["key of", "score", "keys corrupted", "feeders", "they lose", "largest control", "p", "all others lose"]
    table = Table(columns, rows, "All on split b.", study.slot.path("circuit.csv"), (1, 2, 4, 5, 6, 7))
    return [study.fold("every induction head", [Note(text), table, *notes])]


def _notes(rows: pd.DataFrame, slot: Slot, alpha: float) -> list[Note]:
    """Say what feeds one head beside what the others do; then, where it has feeders, what else is known of them."""
    whole = rows[rows["purpose"] == "target"].iloc[0]
    heads, target = _alone(rows, "noising"), whole["target"]
    text = (
        f"{target}: induction score {number(whole['intact'])} over {int(whole['trials'])} prompts, "
        f"{number(whole['value'])} with all its keys from the corrupted run."
    )
    joint = _joint(rows)
    if joint.empty:
        top = heads.iloc[0] if len(heads) else None
        most = f"; the largest effect is that of {top['source']}, {_effect(top)}" if top is not None else ""
        none = "On the prompts of the other half no earlier head loses enough to count as a feeder"
        return [Note(f"{text} {none}{most}.")]
    feeding, null = heads[heads["feeder"] == 1], heads[heads["feeder"] == 0]
    text += _fed(rows, heads, feeding, null) + _together(joint, feeding)
    text += _ranked(joint.loc["noising"], alpha) + _others(rows) + _previous(feeding, heads, whole, slot)
    uniform = log(slot.model["vocabulary"]) if slot.model.get("vocabulary") else float("inf")
    beside = _no_heads(rows) + _lost(rows, joint, feeding, whole, uniform)
    beside += _loss_ranked(joint, alpha) + _weights(feeding, heads, whole)
    return [Note(text), Note(f"More about the keys of {target}.{beside}")]


def _fed(rows: pd.DataFrame, heads: pd.DataFrame, feeding: pd.DataFrame, null: pd.DataFrame) -> str:
    """Say what each feeder does alone, and the largest effect of a head that is none."""
    back = _alone(rows, "denoising").set_index("source")["effect"]
    each = [
        f"{r.source} loses {_effect(r)} and alone brings back {number(back[r.source])}" for r in feeding.itertuples()
    ]
    text = (
        f" Of {len(heads)} earlier heads, {len(feeding)} {'was' if len(feeding) == 1 else 'were'} chosen as "
        f"feeder{'s' * (len(feeding) > 1)} on other prompts: {'; '.join(each)}."
    )
    if len(null):
        largest = null.iloc[0]
        above = feeding[feeding["effect"] > largest["effect"]]
        which = "all feeders are" if len(above) == len(feeding) else f"{len(above)} of {len(feeding)} feeders are"
        text += (
            f" The largest effect of the other {len(null)} is {_effect(largest)} ({largest['source']}): {which} above."
        )
    return text


def _together(joint: pd.DataFrame, feeding: pd.DataFrame) -> str:
    """Say what several feeders do together."""
    if len(feeding) < 2:
        return ""
    return f" Together they lose {_effect(joint.loc['noising'])} and bring back {_effect(joint.loc['denoising'])}."


def _no_heads(rows: pd.DataFrame) -> str:
    """Say which source that is no head loses most."""
    other = rows[(rows["purpose"] == "single") & (rows["kind"] != "head") & (rows["direction"] == "noising")]
    if other.empty:
        return ""
    most = other.loc[other["effect"].idxmax()]
    return f" Of what is no head, {_named(most['source'])} loses most, {_effect(most)}."


def _ranked(row: Any, alpha: float) -> str:
    """Say how the feeders rank among sets of other earlier heads."""
    if not row["controls"] > 0:
        return f" No control set was patched ({row['matching']})."
    if pd.isna(row["p"]):
        sets = f"{int(row['controls'])} control set{'s were' if row['controls'] > 1 else ' was'} patched"
        return f" {sets}, largest effect {number(row['control_largest'])}: {_few(row)}."
    sets = int(row["controls"])
    rank = _rank(row["p"], sets, alpha, ("loses", "lose"), f"as much (largest {number(row['control_largest'])})")
    said = ": what was chosen on other prompts is the largest here as well" * bool(row["p"] == row["p_floor"] <= alpha)
    return f" Of {sets} sets of as many other earlier heads, {rank}{said}."


def _loss_ranked(joint: pd.DataFrame, alpha: float) -> str:
    """Say how the feeders rank by the loss among the same control sets; '' where it was not measured of those."""
    text = ""
    for direction, (done, verbs, as_much, most) in LOSS_RANKED.items():
        row = joint.loc[direction] if direction in joint.index else {}
        if pd.isna(row.get("loss_control_largest")):
            continue
        sets, largest = int(row["controls"]), number(row["loss_control_largest"], 2, direction == "noising")
        said = f"{_few(row)} ({most} {largest})"
        if pd.notna(row["loss_p"]):
            said = _rank(row["loss_p"], sets, alpha, verbs, f"{as_much} ({most} {largest})")
        text += f" Of {sets} control set{'s' * (sets > 1)}, {done}, {said}."
    return text


def _rank(p: float, sets: int, alpha: float, verbs: tuple[str, str], as_much: str) -> str:
    """Write how many sets do as much and the rank p that this is: 'none loses as much: rank p = 0.05, its floor'."""
    reach = round(p * (1 + sets)) - 1
    text = f"{reach or 'none'} {verbs[reach > 1]} {as_much}: rank p = {p_value(p)}{', its floor' * (reach == 0)}"
    return text + "; not told apart from them" * bool(p > alpha)


def _few(row: Any) -> str:
    return f"no rank p from {int(row['trials'])} prompts, fewer than {PROMPTS}"


def _others(rows: pd.DataFrame) -> str:
    """Say what all other earlier heads do together."""
    others = rows[rows["purpose"] == "others"].set_index("direction")
    if others.empty:
        return ""
    count = len(others["source"].iloc[0].split())
    back = f" and bring back {_effect(others.loc['denoising'])}" if "denoising" in others.index else ""
    return f" All {count} other earlier heads together lose {_effect(others.loc['noising'])}{back}."


def _lost(rows: pd.DataFrame, joint: pd.DataFrame, feeding: pd.DataFrame, whole: Any, uniform: float) -> str:
    """Say what the change of this head's output alone does to the loss on repeats, in both directions."""
    if pd.isna(joint.loc["noising", "loss_effect"]):
        return ""
    others = rows[(rows["purpose"] == "others") & (rows["direction"] == "noising")]
    beside = f", by {_loss(others.iloc[0])} when that of all other earlier heads is" if len(others) else ""
    worse = joint.loc["noising", "loss"] > uniform
    note = " (worse than guessing among all tokens: the model is far from its usual states there)" if worse else ""
    text = (
        f" What {whole['target']} then gives, with the rest of the model running on, changes the loss of the last copy "
        f"by {_loss(joint.loc['noising'])} nats a token when the feeders' contribution is noised{note}"
        f"{_each_loss(rows, feeding, 'noising')}{beside}."
    )
    if "denoising" not in joint.index or pd.isna(joint.loc["denoising", "loss_effect"]):
        return text
    back = joint.loc["denoising"]
    return (
        f"{text} With all its keys from the corrupted run the loss changes by {_loss(whole)}; the feeders' intact "
        f"contribution alone takes {_loss(back, sign=False)} of that away{_each_loss(rows, feeding, 'denoising')}."
    )


def _each_loss(rows: pd.DataFrame, feeding: pd.DataFrame, direction: str) -> str:
    """Write the change of the loss by each feeder alone, in brackets, where there are several and it was measured."""
    alone = _alone(rows, direction).set_index("source").reindex(feeding["source"])
    if len(feeding) < 2 or alone["loss_effect"].isna().any():
        return ""
    sign = direction == "noising"
    return f" ({'; '.join(f'{name} alone {_loss(row, sign)}' for name, row in alone.iterrows())})"


def _previous(feeding: pd.DataFrame, heads: pd.DataFrame, whole: Any, slot: Slot) -> str:
    """Say whether feeders are previous-token heads, and whether the best of those feeds this head."""
    known = slot.heads[slot.heads["family"] == "previous"]
    if known.empty or heads["previous"].isna().all():
        return ""
    members = {f"L{r.layer}H{r.head}" for r in known[known["member"] == 1].itertuples()}
    inside = [source for source in feeding["source"] if source in members]
    scores = listed(f"{r.source} {number(r.previous)}" for r in feeding.itertuples())
    said = f"{listed(inside)} {'is a member' if len(inside) == 1 else 'are members'}" if inside else "none is a member"
    text = f" Previous-token scores of the feeders: {scores}; {said} of that family."
    best = heads.loc[heads["previous"].idxmax()]
    if best["feeder"] != 1:
        change = f"changes the score by {number(-best['effect'], 3, True)}"
        text += (
            f" The earlier head with the highest such score, {best['source']} ({number(best['previous'])}), is no "
            f"feeder of these keys: noising it {change}."
        )
    if pd.notna(whole["rho_p"]):
        text += (
            f" Rank correlation of the previous-token score with the effect, over all earlier heads: "
            f"{number(whole['rho'])} (one-sided p = {p_value(whole['rho_p'])} under permutation within layers)."
        )
    return text


def _weights(feeding: pd.DataFrame, heads: pd.DataFrame, whole: Any) -> str:
    """Say how the feeders rank by weights alone, and whether the head copies."""
    text = ""
    if heads["composition"].notna().any():
        rank = heads["composition"].rank(ascending=False, method="min")
        ranks = [f"{r.source} {int(rank[r.Index])}" for r in feeding.itertuples() if pd.notna(r.composition)]
        text += (
            f" By K-composition of weights alone the feeders rank, of {len(heads)}: {listed(ranks)}." if ranks else ""
        )
    if pd.notna(whole["copying"]):
        text += (
            f" Copying score of {whole['target']}'s own output (−1 lowers, 1 raises the token looked at): "
            f"{number(whole['copying'])}."
        )
    return text


def _table(rows: pd.DataFrame) -> list[list[str]]:
    """Return rows of the sources with the largest effects of one target."""
    alone = rows[(rows["purpose"] == "single") & (rows["direction"] == "noising")]
    back = rows[(rows["purpose"] == "single") & (rows["direction"] == "denoising")].set_index("source")
    alone = alone.sort_values(["effect", "source"], ascending=[False, True]).head(2 * DRAWN)
    return [
        [row.target, _named(row.source), "yes" if row.feeder == 1 else "", _effect(row),
         _effect(back.loc[row.source]) if row.source in back.index else "–",
         number(row.previous), number(row.composition, 3)]
        for row in alone.itertuples()
    ]  # fmt: skip


def _named(source: str) -> str:
    layer, _, rest = source.partition(".")
    return f"the rest of {layer}" if rest else f"the {source}" if source == "embedding" else source


def _joint(rows: pd.DataFrame) -> pd.DataFrame:
    """Return all feeders patched together, by direction; empty where there are none."""
    return rows[rows["purpose"] == "feeders"].set_index("direction")


def _alone(rows: pd.DataFrame, direction: str) -> pd.DataFrame:
    """Return earlier heads patched alone, the largest effect first."""
    of_heads = (rows["purpose"] == "single") & (rows["kind"] == "head") & (rows["direction"] == direction)
    return rows[of_heads].sort_values(["effect", "source"], ascending=[False, True])


def _effect(row: Any) -> str:
    return f"{number(row.effect)} {interval(row.low, row.high)}".strip()


def _loss(row: pd.Series, sign: bool = True) -> str:
    return f"{number(row['loss_effect'], 2, sign)} {interval(row['loss_low'], row['loss_high'], 2, sign)}".strip()


def _trained() -> str:
    """Say how models of one and more layers, trained from scratch, end: one layer has no earlier head; '' without."""
    path: Path = paths.study(RECIPE) / "findings.csv"
    columns = "finding arm measure versus seed value low high".split()
    found = inputs.frame(path, columns, {"finding", "arm", "measure", "versus", "seed"})
    final = found[(found["finding"] == "final") & (found["seed"] == "") & (found["versus"] == "")]
    said = []
    for arm, rows in final.groupby("arm", sort=False):
        of = rows.set_index("measure")
        if {"induction", "accuracy"} <= set(of.index):
            values = [f"{number(of.loc[m, 'value'])} {interval(of.loc[m, 'low'], of.loc[m, 'high'])}".strip()
                      for m in ("induction", "accuracy")]  # fmt: skip
            said.append(f"{arm.replace('_', ' ')}: induction score of the best head {values[0]}, accuracy {values[1]}")
    if not said:
        return ""
    return (
        "The control without any earlier head is a model of one layer. Small models trained from scratch (recipe "
        f"`{RECIPE}`) end so: {'; '.join(said)}."
    )


def drawing(rows: pd.DataFrame) -> Any:
    """Draw earlier heads, a line from each to the induction head as wide as the score lost by noising it."""
    alone = _alone(rows, "noising")
    keep = alone[(alone["feeder"] == 1) | (alone["effect"].rank(ascending=False, method="first") <= DRAWN)]
    keep = keep.sort_values(["layer", "head"])
    edges = pd.DataFrame({
        "source": keep["source"], "target": keep["target"], "effect": keep["effect"], "low": keep["low"],
        "high": keep["high"], "previous": keep["previous"], "feeder": keep["feeder"].astype(int),
        "wide": keep["effect"].clip(lower=0.0), "y": [float(place) for place in range(len(keep))],
        "said": [f"{source}  {number(effect)}" for source, effect in zip(keep["source"], keep["effect"], strict=True)],
    })  # fmt: skip
    return charts.circuit(edges, (len(keep) - 1) / 2)


SECTION = SlotSection("circuit", "The circuit of induction", 60, circuit, predicts=True, seen=3)
