"""What function vectors do without demonstrations, and how few heads carry the effect."""

import re
from typing import Any

import pandas as pd

from stages.page import applied, charts, rows, sentences, verdicts
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Fold, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import capital, interval, listed, number, p_value

LABELS = {vector: label.split(":")[0] for vector, (label, _, _) in charts.VECTORS.items()}
CONTEXTS = {
    "zero_shot": "without demonstrations",
    "shuffled": "after demonstrations with shuffled labels",
    "natural": "in natural text",
}
ALL = "all"  # the rows of all functions together
MOST = 2 / 3  # of what one sum lacks, in every context: less is no verdict
LEFT_OUT = "not steered: "
CHOSEN = "Layer, number of heads and strength were chosen on one half of the prompts; this is the other half."
WHAT = (
    "At the last token of a prompt without demonstrations, after demonstrations with shuffled labels, or of natural "
    "text, something is written that the model computed when it was shown a function: the mean outputs of the heads "
    "with the largest indirect effects, each in its own place ({heads}); those of as many heads, ranked by all other "
    "functions alone ({held_out}); the sum of the heads' outputs, added to the residual after one layer ({function}); "
    "their sum in each layer, added after that layer ({layerwise}); the mean residual, added after one layer "
    "({layer_average}); as controls random vectors ({random}) and the mean outputs of as many other heads in place "
    "({control})."
)


def vectors(slot: Slot, context: Context) -> list:
    """Show what function vectors do without demonstrations, and how few heads carry the effect."""
    blocks = _tested(slot, context.alpha, WHAT.format(**LABELS))
    if not blocks:
        why = slot.reasons.get("function") or slot.reasons.get("icl") or slot.reasons.get("steering")
        why = why or f"{slot.path('steering.csv')} has no rows"
        blocks.append(Note(f"No function vector was tested: {why}."))
    shares = rows.concentration(slot.heads)
    if len(shares):
        chart = Chart(charts.concentration(shares), "Concentration of the indirect effect", "")
        blocks.append(Figure([chart], sentences.concentration(shares), slot.path("heads.csv"), "single"))
    else:
        blocks.append(Note(sentences.concentration(shares)))
    blocks += applied.sweep(slot) + applied.composed(slot, context.alpha) + applied.continued(slot, context.alpha)
    return blocks + _longer(slot, context.alpha)


def _longer(slot: Slot, alpha: float) -> list[Fold]:
    """Return what a longer study of this slot adds, in a list: more settings, on more words; [] where there is none."""
    study = slot.longer.get("steer")
    tested = _tested(study.slot, alpha) if study else []
    return [study.fold("more settings, more words", tested + applied.sweep(study.slot))] if tested else []


def _tested(slot: Slot, alpha: float, what: str = "") -> list:
    """Say and show what vectors do in every context; [] where none was tested. what: how, beneath the first figure."""
    path = slot.path("steering.csv")
    steered = slot.steering[slot.steering["vector"].isin(LABELS)]
    single, together = steered[steered["function"] != ALL], steered[steered["function"] == ALL]
    contexts = [name for name in CONTEXTS if name in set(single["context"])]
    if not contexts:
        return []
    claims = [row for name in contexts for row in _claims(together, name)]
    said = [_claim(row, together, alpha) for row in claims]
    cards = [
        Chart(charts.steering(together[together["context"] == name]), capital(CONTEXTS[name]),
              _means(together[together["context"] == name]))
        for name in contexts
    ]  # fmt: skip
    legend = [(colour, shape, label) for label, colour, shape in charts.VECTORS.values()]
    said.append(_works(together, contexts, _number_normed(slot)))
    blocks = [
        Note(" ".join(filter(None, said))),
        Figure(cards, f"All functions together. {CHOSEN}", path, "cards", legend),
    ]
    blocks += [Note(what)] if what else []
    blocks.append(Note(" ".join([_functions(single), *_controls(claims), _heads(slot, single), *_normed(slot)])))
    blocks += _texts(together, path, alpha)
    blocks += [Note(said) for said in [_place(together, contexts), _held_out(together, single)] if said]
    cards = [Chart(charts.steering(single[single["context"] == name]), capital(CONTEXTS[name])) for name in contexts]
    blocks += [Figure(cards, f"Function by function. {CHOSEN}", path, "cards", legend)]
    return [*blocks, _table(single, contexts, path)]


def _claims(together: pd.DataFrame, name: str) -> list[Any]:
    return list(together[(together["context"] == name) & (together["vector"] == "heads")].itertuples())


def _claim(row: Any, together: pd.DataFrame, alpha: float) -> str:
    """Say what the top heads do over all functions, and whether control sets do as much."""
    intact = together[(together["context"] == row.context) & (together["vector"] == "none")]
    before = f", from {number(intact['accuracy'].iloc[0])} with nothing written" if len(intact) else ""
    value = f"{number(row.accuracy)} {interval(row.low, row.high)}".strip()
    said = (
        f"{capital(CONTEXTS[row.context])}, over {int(row.trials)} prompts: the top heads give accuracy {value}{before}"
    )
    others, random = (
        together[(together["context"] == row.context) & (together["vector"] == vector)]
        for vector in ("control", "random")
    )

    def less(than: pd.DataFrame) -> bool:
        return len(intact) and len(than) and than["high"].iloc[0] < intact["low"].iloc[0]

    beside = f" (control sets take it down, to {number(row.control_accuracy)} on average)" if less(others) else ""
    noise = (
        f" Random vectors as long as the heads' sum, added at its layer, take accuracy down, to "
        f"{number(random['accuracy'].iloc[0])} {interval(random['low'].iloc[0], random['high'].iloc[0])}: to do better "
        "than these says little of a vector of that length."
        if less(random)
        else ""
    )
    return f"{said}{verdicts.as_accurate(row, alpha)}{beside}.{noise}"


def _texts(together: pd.DataFrame, path: str, alpha: float) -> list:
    """Show each natural text by itself, over all functions, and say whether one of them carries the number."""
    cells = together[together["context"].str.contains("{x}", regex=False)].set_index(["context", "vector"])
    heads = [row for row in cells.itertuples() if row.Index[1] == "heads"]
    if len(heads) < 2:
        return []
    lines, apart, untold = [], [], []
    for row in heads:
        text, none = row.Index[0], cells.loc[(row.Index[0], "none")]
        above = sentences.beyond(row.low, row.high, none["accuracy"]) > 0 if pd.notna(row.low) else False
        apart += [text] if above and row.p <= alpha else []
        untold += [text] if not row.p_floor <= alpha else []
        shown = f"{number(row.accuracy)} {interval(row.low, row.high)}".strip()
        lines.append([text, str(int(row.trials)), number(none["accuracy"]), shown, number(row.control_accuracy),
                      p_value(row.p)])  # fmt: skip
    least, most = (pick(heads, key=lambda row: row.accuracy) for pick in (min, max))
    spread = f"from {number(least.accuracy)} ({least.Index[0]}) to {number(most.accuracy)} ({most.Index[0]})"
    if least.high < most.low:
        spread += ", intervals that do not meet: the mean over texts hides that difference"
    count = "all" if len(apart) == len(heads) else "none" if not apart else f"{len(apart)}"
    said = (
        f"Natural text is {len(heads)} texts, {{x}} the word; prompts take turns, so that words differ as well. Over "
        f"all functions the top heads give {spread}."
    )
    if len(untold) < len(heads):
        said += (
            f" In {count} of them they stand out, from nothing written and from control sets (rank p at most "
            f"{alpha:g} in each by itself)."
        )
    said += f" In {len(untold)} of them prompts or control sets are too few to tell." if untold else ""
    columns = ["text", "prompts", LABELS["none"], LABELS["heads"], f"{LABELS['control']}, mean", "rank p of heads"]
    return [Note(said), Table(columns, lines, CHOSEN, path, (1, 2, 3, 4, 5), folded="Text by text")]


def _functions(single: pd.DataFrame) -> str:
    """Say how many functions were steered, and why the others were not."""
    reasons = {row.function: row.note.removeprefix(LEFT_OUT) for row in single.itertuples() if LEFT_OUT in row.note}
    count = single["function"].nunique()
    if not reasons:
        return f"All {count} functions were steered."
    left_out = "; ".join(f"{function} ({why})" for function, why in reasons.items())
    return f"{count - len(reasons)} of {count} functions were steered; left out: {left_out}."


def _controls(claims: list[Any]) -> list[str]:
    """Say what the control sets are; they are the same in all contexts."""
    ranked = [row for row in claims if row.controls > 0]
    if not ranked:
        return []
    first = ranked[0]
    shared = "" if pd.isna(first.overlap) else f"; two of them share {number(first.overlap)} (mean Jaccard index)"
    return [
        f"A control set is as many other heads as the vector holds: {verdicts.matched(first.matching)}{shared}. "
        "Draw by draw, the mean over functions is ranked."
    ]


def _heads(slot: Slot, single: pd.DataFrame) -> str:
    """Say how many heads the vectors hold, and that this is not the number of members of the family."""
    used = single[single["vector"] == "heads"].drop_duplicates("function")
    numbers = listed(sorted({f"{int(row.heads)}" for row in used.itertuples()}, key=int))
    tried = listed(sorted({n for row in used.itertuples() for n in row.tried.split()}, key=int))
    said = f"How many heads a vector holds was chosen per function from {tried or numbers}: {numbers}."
    most = sum(int(row.heads) == max(map(int, row.tried.split())) for row in used.itertuples() if row.tried)
    said += (
        f" In {most} of {len(used)} functions that is the most that was tried: more might do better." if most else ""
    )
    members = slot.heads[slot.heads["family"] == "function"]
    if members.empty:
        return said
    count = int(members["member"].sum())
    return f"{said} That is not the family's number of members ({count}), which a threshold on the effect decides."


def _works(together: pd.DataFrame, contexts: list[str], normed: int) -> str:
    """Say which way to write the same heads gives more, by intervals that do not meet, and as far as it shows, why."""
    cells = together.set_index(["context", "vector"])
    asked = [name for name in contexts if all((name, way) in cells.index for way in ("heads", "layerwise", "function"))]

    def more(way: str, other: str) -> list[str]:
        return [name for name in asked if cells["low"][name, way] > cells["high"][name, other]]

    def where(names: list[str]) -> str:
        if len(names) == len(asked) > 2:
            return f"in all {len(asked)} contexts"
        return listed(CONTEXTS[name] for name in names) or "in no context"

    if not asked:
        return ""
    gained, left = more("layerwise", "function"), more("heads", "layerwise")
    alike = [name for name in asked if name not in left and name not in more("layerwise", "heads")]
    said = (
        "Of the same heads, each in its own place gives more than one sum at one layer "
        f"{where(more('heads', 'function'))}, and sums after their own blocks more than one sum {where(gained)}; "
        f"beside these, each in its own place gives more {where(left)}"
    )
    said += f" and is not told apart {where(alike)}." if alike else "."
    if gained == asked and normed:  # in every context: else the sentence would be of some alone
        said += (
            " So one sum loses by its one layer, as far as the layers and strengths tried tell: both kinds of sums "
            "take the norms after attention at their mean gain. "
            "What sums lack beside that may be those norms', whose scale is each run's own: not tried."
        )
    return said


def _place(together: pd.DataFrame, contexts: list[str]) -> str:
    """Say whether the layer where heads' sums are added decides, context by context, where intervals tell."""
    said, gains = [], []
    for context in contexts:
        rows_of = together[together["context"] == context].set_index("vector")
        if not {"heads", "function", "layerwise"} <= set(rows_of.index):
            continue
        heads, layerwise, one = (rows_of.loc[name] for name in ("heads", "layerwise", "function"))
        each = (
            f"{LABELS[name]} {number(row['accuracy'])} {interval(row['low'], row['high'])}"
            for name, row in (("heads", heads), ("layerwise", layerwise), ("function", one))
        )
        whole = heads["accuracy"] - one["accuracy"]
        if layerwise["low"] > one["high"] and whole > 0:
            gains.append(min((layerwise["accuracy"] - one["accuracy"]) / whole, 1.0))
            share = "all" if gains[-1] == 1 else number(gains[-1])
            verdict = f"sums after their own blocks make up {share} of what one sum lacks"
        elif layerwise["low"] > one["high"]:
            verdict = "sums after their own blocks do better than one sum at one layer, which lacks nothing"
        elif layerwise["high"] < one["low"]:
            verdict = "sums after their own blocks do worse than one sum at one layer"
        else:
            verdict = "sums after their own blocks are not told apart from one sum at one layer"
        said.append(f"{capital(CONTEXTS[context])}: {'; '.join(each)} ({verdict})")
    if not said:
        return ""
    mostly = len(gains) == len(said) and min(gains) >= MOST
    place = " So it is mostly the layers that one vector gets wrong." if mostly else ""
    return f"The same heads in three ways. {'. '.join(said)}.{place}"


def _held_out(together: pd.DataFrame, single: pd.DataFrame) -> str:
    """Say whether heads that other functions rank first do as well, and in which functions they are others at all."""
    rows_of = together[together["context"] == "zero_shot"].set_index("vector")
    if not {"heads", "held_out"} <= set(rows_of.index):
        return ""
    own, other = rows_of.loc["heads"], rows_of.loc["held_out"]
    said = (
        "Heads ranked by all other functions alone, so that the function asked about has no part in which they are, "
        f"give {number(other['accuracy'])} {interval(other['low'], other['high'])} without demonstrations, where "
        f"those ranked by all functions give {number(own['accuracy'])} {interval(own['low'], own['high'])}"
    )
    same = re.search(r"the heads of `heads` in (\d+) of (\d+) functions", str(other["note"]))
    if same:
        said += f"; they are the same heads in {same[1]} of {same[2]} functions"
    cells = single[single["context"] == "zero_shot"].set_index(["vector", "function"])
    own_of, other_of = (cells.loc[vector] for vector in ("heads", "held_out"))
    apart = [
        f"{row.Index} ({number(row.accuracy)} and {number(other_of.accuracy[row.Index])})"
        for row in own_of.itertuples()
        if row.Index in other_of.index and row.low > other_of.high[row.Index]
    ]
    more = "those ranked by all functions do more, by intervals that do not meet, for"
    return f"{said}; {more} {listed(apart)}." if apart else f"{said}."


def _normed(slot: Slot) -> list[str]:
    """Say where the sum of heads' parts is not what they write together: where W_O's output is normalised."""
    layers, normed = slot.model["attention"], _number_normed(slot)
    if not normed:
        return []
    return [
        f"In {normed} of {len(layers)} layers what heads write together is normalised before it joins the residual: "
        "what one head adds depends on what the others write there. In place that is exact; sums are computed at the "
        "norm's mean gain, an approximation."
    ]


def _number_normed(slot: Slot) -> int:
    """Return in how many layers a norm stands after attention."""
    return sum(part.get("joins", "") != "" and part.get("scale") is None for part in slot.model["attention"])


def _means(together: pd.DataFrame) -> str:
    """Say the mean accuracy over functions of every kind of vector in one context."""
    means = together.set_index("vector")["accuracy"]
    parts = [f"{label} {number(means[vector])}" for vector, label in LABELS.items() if vector in means]
    return f"Mean over functions: {', '.join(parts)}."


def _table(single: pd.DataFrame, contexts: list[str], path: str) -> Table:
    cells = single.set_index(["function", "context", "vector"])

    def cell(column: str, *key: str, digits: int = 2) -> str:
        value = cells[column].get(key)
        if value is None or pd.isna(value) or (column == "layer" and value < 0):
            return "–"
        return p_value(value) if column == "p" else number(value, digits)

    table = []
    for function in sorted(set(single[single["context"] != "clean"]["function"])):
        for context in contexts:
            accuracy = [cell("accuracy", function, context, vector) for vector in LABELS]
            chosen = [cell("heads", function, context, "heads", digits=0),
                      cell("layer", function, context, "function", digits=0)]  # fmt: skip
            strength = cells["strength"].get((function, context, "function"))
            chosen.append("–" if strength is None or pd.isna(strength) else f"{strength:g}")
            demonstrated = cell("accuracy", function, "clean", "none")
            trials = cell("trials", function, context, "none", digits=0)
            rank = cell("p", function, context, "heads")
            table.append([function, CONTEXTS[context], trials, demonstrated, *accuracy, rank, *chosen])
    columns = ["function", "prompt", "prompts", "intact, with demonstrations", *LABELS.values(), "rank p of heads",
               "heads used", "function at layer", "strength"]  # fmt: skip
    says = (
        f"Accuracy per function, and the number of heads, layer and strength chosen for it. With demonstrations: the "
        f"intact model on {_demonstrated(single)}. {capital(LABELS['control'])}: their mean. Rank p: of this function "
        f"alone, where there are prompts enough; not corrected for the number of functions."
    )
    return Table(columns, table, says, path, tuple(range(2, len(columns))))


def _demonstrated(single: pd.DataFrame) -> str:
    """Say on how many prompts the intact model was shown demonstrations."""
    counts = single[(single["context"] == "clean") & single["accuracy"].notna()]["trials"]
    numbers = listed(sorted({str(int(count)) for count in counts}, key=int))
    return f"the queries that are asked without demonstrations ({numbers} per function)" if numbers else "no prompt"


SECTION = SlotSection("vectors", "Function vectors", 74, vectors, predicts=True, seen=2)
