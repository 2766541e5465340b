"""Labelled demonstrations: does a new item get the label of those that resemble it?"""

from dataclasses import replace
from typing import Any

import pandas as pd

from stages.page import charts
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Fold, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import beyond, capital, interval, listed, number, p_value
from stages.page.verdicts import matched

KINDS = {  # condition: what its items are called
    "forms_latin": "made-up words that share their ending (Latin letters)",
    "forms_latin_disjoint": "made-up words that share only their vowel (Latin letters)",
    "forms_katakana": "made-up words that share their ending (katakana)",
    "forms_katakana_disjoint": "made-up words that share only their vowel (katakana)",
    "words": "synonyms and inflections",
    "reviews_english": "English reviews",
    "reviews_japanese": "Japanese reviews",
    "reviews_english_disjoint": "English reviews without a shared word",
    "reviews_japanese_disjoint": "Japanese reviews of a few characters, none of them shared",
    "repeated": "made-up words, the query itself shown (Latin letters)",
}
BARS = {  # the same beside a bar
    "forms_latin": "Latin, same ending",
    "forms_latin_disjoint": "Latin, same vowel",
    "forms_katakana": "katakana, same ending",
    "forms_katakana_disjoint": "katakana, same vowel",
    "words": "synonyms, inflections",
    "reviews_english": "English reviews",
    "reviews_japanese": "Japanese reviews",
    "reviews_english_disjoint": "English, no shared word",
    "reviews_japanese_disjoint": "Japanese, no shared character",
    "repeated": "Latin, itself shown",
}
MADE_UP = {
    "english": ("Made-up words in Latin letters", ("forms_latin", "forms_latin_disjoint")),
    "japanese": ("Made-up words in katakana", ("forms_katakana", "forms_katakana_disjoint")),
}
SIDES = {1: "above chance", -1: "below chance", 0: "not told apart from chance"}
ITSELF = "repeated"  # the kind of items in which the query itself is shown
AGREEMENT = "nearest_agreement_against_majority"
DIFFERENCE = "attention_difference"
NO_TOKEN = f"{AGREEMENT}_no_shared_token"
COLUMNS = {  # measure: how its column is headed
    "accuracy": "accuracy",
    "accuracy_against_majority": "accuracy where the majority is wrong",
    AGREEMENT: "the nearest's answer, where the majority differs",
    "nearest_accuracy": "the nearest are right",
    "swaps_with_labels": "answer swaps with the labels",
}
CONTROLS = {
    "accuracy_with_majority": "accuracy where the majority is right",
    "accuracy_no_shared_token": "without a shared token",
    "answers_majority": "answers with the majority",
    "answers_last": "answers with the last label",
    "answers_first_label": "answers with the first label",
    "shared_like": "like ones that share a token",
    "shared_unlike": "unlike ones that do",
    "attention_like": "attention to a like one's label",
    "attention_unlike": "to an unlike one's label",
    DIFFERENCE: "difference",
}
WHAT = (
    "A prompt shows items with one of two labels, more of one label than of the other, and asks for the label of a new "
    "item that resembles those of one class. A rule that looks at nothing but which class is the larger, which label "
    "stands last, or what a label is, is right in half of the prompts: chance is 0.5. "
    "The nearest demonstrations are those whose states after one layer, at the last token of the item, are most like "
    "the query's (cosine, after the mean of the demonstrations is taken off); their vote is the answer of a "
    "nearest-neighbour rule."
)

OTHERS = (
    "All other kinds of items; sets of words, and of reviews, draw from the same lists. Where the query itself is "
    "shown, that one demonstration alone resembles it; elsewhere all of its class do."
)


def neighbours(slot: Slot, context: Context) -> list:
    """Show accuracy and agreement with the nearest demonstrations, for made-up words of two scripts and all else."""
    if slot.neighbours.empty:
        why = slot.reasons.get("neighbours") or f"{slot.path('neighbours.csv')} has no rows"
        return [Note(f"No labelled demonstrations were read: {why}."), *_longer(slot, context.alpha)]
    return _read(slot, WHAT, context.alpha) + _longer(slot, context.alpha)


def _longer(slot: Slot, alpha: float) -> list[Fold]:
    """Return what a longer study of this slot adds, in a list: more sets of demonstrations; [] where there is none."""
    if "neighbours" not in slot.longer or slot.longer["neighbours"].slot.neighbours.empty:
        return []
    study = slot.longer["neighbours"]
    read = replace(study.slot, effects=slot.effects)  # it silences the sets of the default run's plan
    return [study.fold("more sets of demonstrations", _read(read, "", alpha))]


def _read(slot: Slot, what: str, alpha: float) -> list:
    """Show what labelled demonstrations give; what: how they were read, said beneath the first sentences."""
    rows, path = slot.neighbours, slot.path("neighbours.csv")
    cells = rows[rows["condition"] != "made_up"].set_index(["condition", "measure"])
    said = [_language(rows, language, what) for language, (what, _) in MADE_UP.items()]
    said.append(_one_alone(cells) if any(said) else "")  # it speaks of the kinds before
    blocks: list[Any] = [Note(" ".join(filter(None, said))), Note(f"{what} {_chosen(cells)}".strip())]
    shown = rows[(rows["measure"] == "accuracy") & rows["condition"].isin(KINDS)]
    chart = charts.by_condition(shown.assign(condition=shown["condition"].map(BARS)), "accuracy", 0.5)
    blocks.append(Figure([Chart(chart, "Accuracy by kind of items", "")], _kinds(shown), path, "single"))
    for what, groups in MADE_UP.values():
        blocks += [_table(cells, groups, COLUMNS, f"{what}; 95 % intervals over sets of demonstrations.", path)]
    others = [condition for condition in KINDS if not any(condition in groups for _, groups in MADE_UP.values())]
    blocks.append(_table(cells, others, COLUMNS, OTHERS, path))
    blocks = [block for block in blocks if block.kind != "table" or block.rows]
    more = (_reviews(cells), _attention(cells, alpha), _silenced(cells, slot, alpha))
    blocks += [Note(said) for said in more if said]
    controls = _table(cells, list(KINDS), CONTROLS, "", path)
    return [
        *blocks,
        Table(controls.columns, controls.rows, "", path, controls.numeric, folded="Controls and attention"),
    ]


def _chosen(cells: pd.DataFrame) -> str:
    layer, nearest = (cells["value"].get(("chosen", name)) for name in ("layer", "nearest"))
    if layer is None or nearest is None:
        return ""
    return (
        f"States after layer {int(layer)}, with {int(nearest)} nearest to vote, agree best with the model's answers on "
        f"other prompts: these are used here.{_close(cells)}"
    )


def _close(cells: pd.DataFrame) -> str:
    """Say how much hangs on the choice of layer and number: what choices that are hardly worse say of split b."""
    count = cells["value"].get(("chosen", "close"))
    if count is None or count < 2:
        return ""
    spans = []
    for language, (what, _) in MADE_UP.items():
        ends = [cells["value"].get(("chosen", f"{language}_{end}")) for end in ("lowest", "highest")]
        if None not in ends:
            spans.append(f"{number(ends[0])} to {number(ends[1])} ({what[0].lower()}{what[1:]})")
    others = "1 other choice agrees" if count == 2 else f"{int(count) - 1} other choices agree"
    said = f" {others} on at most one prompt fewer there"
    if not spans:
        return f"{said}."
    return (
        f"{said}: by all of them, the share of answers that are the nearest's, not the majority's, is {listed(spans)}."
    )


def _language(rows: pd.DataFrame, language: str, what: str) -> str:
    """Say what the data support for made-up words of one script, both kinds together."""
    read = rows[(rows["condition"] == "made_up") & (rows["language"] == language)].set_index("measure")
    if "accuracy" not in read.index or pd.isna(read.loc["accuracy", "value"]):
        return ""
    row = read.loc["accuracy"]
    said = f"{what}: accuracy {_value(row)} over {int(row['trials'])} prompts"
    if pd.isna(row["low"]):
        said += ", too few sets of demonstrations for an interval"
    else:
        said += f", {SIDES[beyond(row['low'], row['high'], 0.5)]}"
    said += _unshared(read)
    agrees = read.loc[AGREEMENT] if AGREEMENT in read.index else None
    if agrees is None or pd.isna(agrees["value"]):
        return f"{said}; the nearest demonstrations never differ from the majority."
    said += (
        f"; where the nearest demonstrations and the majority differ ({int(agrees['trials'])} prompts), the answer is "
        f"that of the nearest in {_value(agrees)}{_apart(read, agrees)}, over all prompts in "
        f"{_value(read.loc['nearest_agreement'])}{_swapped(read)}"
    )
    if agrees["trials"] < 20 or pd.isna(agrees["low"]):
        return f"{said}: too few prompts for a claim."
    side = beyond(agrees["low"], agrees["high"], 0.5)
    if side > 0 and (leaning := _leaning(read)):
        return f"{said}. {leaning}"
    follows = {
        1: "it goes with those that it resembles rather than with the majority",
        -1: "it goes with the majority rather than with those that it resembles",
        0: "neither of the two is told apart as what it goes with",
    }
    return f"{said}: {follows[side]}."


def _leaning(read: pd.DataFrame) -> str:
    """Say where the answer may be the smaller class's: the nearest's where these differ, a guess where it is wrong."""
    row = read.loc["accuracy_with_majority"] if "accuracy_with_majority" in read.index else None
    if row is None or pd.isna(row["low"]) or row["low"] > 0.5:
        return ""
    return (
        f"Where the majority is right, it is right in {_value(row)}, {SIDES[beyond(row['low'], row['high'], 0.5)]}: "
        "going with those that it resembles is not told apart from a leaning to the smaller class, whose label is the "
        "same where these and the majority differ."
    )


def _one_alone(cells: pd.DataFrame) -> str:
    """Say how it is where one demonstration alone resembles the query: elsewhere its whole class does."""
    row = cells.loc[(ITSELF, "accuracy")] if (ITSELF, "accuracy") in cells.index else None
    if row is None or pd.isna(row["value"]):
        return ""
    enough = row["trials"] >= 20 and pd.notna(row["low"])
    side = SIDES[beyond(row["low"], row["high"], 0.5)] if enough else "too few prompts for a claim"
    near = cells.loc[(ITSELF, "nearest_accuracy")] if (ITSELF, "nearest_accuracy") in cells.index else None
    states = (
        ""
        if near is None or pd.isna(near["value"]) or near["value"] == 1
        else f" The nearest states are of its class in {_value(near)}: near in that layer is not alike in form."
    )
    return (
        "With made-up words all demonstrations of the right class resemble the query, so that the nearest one is not "
        "told apart from its class as a whole. Where one alone does, the query itself "
        f"({int(row['trials'])} prompts), the answer is its label in {_value(row)}, {side}.{states}"
    )


def _unshared(read: pd.DataFrame) -> str:
    """Say how often words are told apart that share no token with any demonstration of their class."""
    row = read.loc["accuracy_no_shared_token"] if "accuracy_no_shared_token" in read.index else None
    if row is None or not row["trials"] or row["trials"] == read.loc["accuracy", "trials"]:
        return ""
    said = f"; {_value(row)} over the {int(row['trials'])} without a token in common with its class"
    if row["trials"] < 20 or pd.isna(row["low"]):
        return f"{said}, too few for a claim"
    return f"{said}, {SIDES[beyond(row['low'], row['high'], 0.5)]}"


def _apart(read: pd.DataFrame, agrees: pd.Series) -> str:
    """Say how it is where no token is shared, so that exact repeats cannot be what decides."""
    row = read.loc[NO_TOKEN] if NO_TOKEN in read.index else None
    if row is None or not 0 < row["trials"] < agrees["trials"]:
        return ""
    few = ", too few for a claim" if row["trials"] < 20 or pd.isna(row["low"]) else ""
    return f" (of the {int(row['trials'])} without a shared token {_value(row)}{few})"


def _swapped(read: pd.DataFrame) -> str:
    """Say how often the answer goes with the labels where these are exchanged."""
    row = read.loc["swaps_with_labels"] if "swaps_with_labels" in read.index else None
    if row is None or not row["trials"]:
        return ""
    unsure = pd.isna(row["low"]) or beyond(row["low"], row["high"], 0.5) == 0
    return (
        f"; with the labels exchanged the answer changes with them in {_value(row)} of {int(row['trials'])} pairs"
        f"{', not told apart from half of them' if unsure else ''}"
    )


def _value(row: pd.Series, digits: int = 2) -> str:
    return f"{number(row['value'], digits)} {interval(row['low'], row['high'], digits)}".strip()


def _kinds(shown: pd.DataFrame) -> str:
    """Say for which kinds of items the interval lies above chance, and for which it does not."""
    sides: dict[str, list[str]] = {}
    for row in shown.itertuples():
        side = "too few sets for an interval" if pd.isna(row.low) else SIDES[beyond(row.low, row.high, 0.5)]
        sides.setdefault(side, []).append(KINDS[row.condition])
    said = capital("; ".join(f"{side}: {', '.join(kinds)}" for side, kinds in sides.items()))
    many = f" Not corrected for there being {len(shown)} kinds." if len(shown) > 1 else ""
    return f"{said}.{many} Latin, katakana: made-up words. Dashed: chance."


def _reviews(cells: pd.DataFrame) -> str:
    """Say whether reviews are still told apart where the query shares nothing with any demonstration."""
    said = []
    for condition in ("reviews_english", "reviews_japanese"):
        alone = f"{condition}_disjoint"
        if not {(condition, "accuracy"), (alone, "accuracy")} <= set(cells.index):
            continue
        parts = []
        for kind in (condition, alone):
            row, shared = cells.loc[(kind, "accuracy")], cells.loc[(kind, "shared_like"), "value"]
            side = "too few for a claim" if row["trials"] < 20 or pd.isna(row["low"]) else SIDES[
                beyond(row["low"], row["high"], 0.5)
            ]  # fmt: skip
            parts.append(
                f"{KINDS[kind]}: accuracy {_value(row)}, {side} (a token in common with the query: "
                f"{number(shared)} of the like demonstrations)"
            )
        said.append("; ".join(parts))
    return f"{'. '.join(said)}." if said else ""


def _attention(cells: pd.DataFrame, alpha: float) -> str:
    """Say where the induction heads look before the label is predicted."""
    rows = {
        kind: cells.loc[(condition, DIFFERENCE)]
        for condition, kind in KINDS.items()
        if (condition, DIFFERENCE) in cells.index
    }
    shown = "; ".join(
        f"{kind} {number(row['value'], 3, True)} {interval(row['low'], row['high'], 3, True)}".rstrip()
        for kind, row in rows.items()
        if pd.notna(row["value"])
    )
    if not shown:  # older tables hold what silencing the best heads that are no members did: not said of induction
        return "No induction heads are in the plan: their attention was not looked at, nor were they silenced."
    return (
        "Attention of the induction heads from the token before the answer, to the label of a like demonstration minus "
        f"that of an unlike one: {shown}.{_other_heads(cells, alpha)}"
    )


def _looked(cells: pd.DataFrame) -> bool:
    """Say whether there are induction heads: the attention of heads that are no members was not looked at."""
    rows = cells[cells.index.get_level_values("measure") == DIFFERENCE]
    return bool(rows["value"].notna().any())


def _other_heads(cells: pd.DataFrame, alpha: float) -> str:
    """Say for which kinds of items the difference is above 0 and larger than that of other sets of as many heads."""
    controls = f"controls_{DIFFERENCE}"
    beside = {
        condition: cells.loc[(condition, DIFFERENCE)] for condition in KINDS if (condition, controls) in cells.index
    }
    if not beside:
        return " No other sets of heads stand beside it: nothing is said of these heads in particular."
    ranked: dict[str, list[str]] = {}
    unranked: dict[str, list[str]] = {}
    for condition, row in beside.items():
        if pd.notna(row["p"]):
            largest = number(cells.loc[(condition, f"{controls}_largest"), "value"], 3, True)
            side = "told apart from theirs" if row["p"] <= alpha else "not told apart from theirs"
            ranked.setdefault(side, []).append(f"{KINDS[condition]} ({p_value(row['p'])}; {largest})")
            continue
        few = pd.isna(row["low"]) or row["low"] > 0
        side = "of too few prompts or sets of them to be ranked" if few else "not shown to be above 0"
        unranked.setdefault(side, []).append(KINDS[condition])
    sets = int(cells.loc[(next(iter(beside)), controls), "trials"])
    said = [f"it is {side} for {listed(kinds)}" for side, kinds in unranked.items()]
    if ranked:
        beyond_chance = "; ".join(f"{side} for {listed(kinds)}" for side, kinds in ranked.items())
        floor = 1 / (1 + sets)
        said.insert(0, (
            f"beside {sets} control set{'s' if sets != 1 else ''} of as many other heads it is {beyond_chance} (in "
            f"brackets rank p, floor {p_value(floor)}{'' if floor <= alpha else ', too high to tell anything apart'}, "
            "each kind a test of its own, and the largest difference of a control set)"
        ))  # fmt: skip
    return "".join(f" {capital(each)}." for each in said)


def _silenced(cells: pd.DataFrame, slot: Slot, alpha: float) -> str:
    """Say what silencing the induction heads does, against control sets, and whose answer is given then."""
    if ("silenced", "change_accuracy") not in cells.index or not _looked(cells):
        return ""
    cells = cells.loc["silenced"]
    said = []
    for measure in ("accuracy", "margin"):
        row, controls = cells.loc[f"change_{measure}"], cells.loc[f"controls_{measure}"]
        harm = f"{number(-row['value'], 2, True)} {interval(-row['high'], -row['low'], 2, True)}".strip()
        text = f"harm to {measure} {harm}, from {number(cells.loc[f'intact_{measure}', 'value'])}"
        if controls["trials"]:
            text += f" (mean of {int(controls['trials'])} control sets: {number(-controls['value'], 2, True)})"
        if pd.notna(row["p"]):
            apart = "" if row["p"] <= alpha else ", not told apart from other heads"
            text += f", rank p = {p_value(row['p'])} (floor {p_value(row['p_floor'])}){apart}"
        elif row["note"]:
            text += f", {row['note']}"
        said.append(text)
    left = cells.loc["without_accuracy"]
    if pd.notna(left["low"]):
        side = SIDES[beyond(left["low"], left["high"], 0.5)]
        said.append(f"the accuracy left, {_value(left)}, is {side}")
        margin = cells.loc["without_margin"]
        side = beyond(margin["low"], margin["high"])
        side = {1: "for the right label", -1: "against the right label", 0: "not told apart from 0"}[side]
        shown = f"{number(margin['value'], 2, True)} {interval(margin['low'], margin['high'], 2, True)}"
        said.append(f"the margin left, {shown}, is {side}")
    kinds = listed(KINDS.get(name, name) for name in left["note"].split("; ")[0].split(", "))
    nearest, given = (_given(cells, measure) for measure in (AGREEMENT, "answers_majority"))
    differ = f" Where the nearest and the majority differ, it is that of the nearest in {nearest}." if nearest else ""
    return (
        f"With the induction heads silenced, on {int(left['trials'])} prompts ({kinds}): {'; '.join(said)}. The answer "
        f"is then the majority's in {given} of the prompts: one that always is, or never is, would be right in half of "
        f"them.{differ}{_matching(slot)}"
    )


def _given(cells: pd.DataFrame, measure: str) -> str:
    """Say how often one rule's answer is given with the heads silenced, intact, and with control sets silenced."""
    rows = [f"{name}_{measure}" for name in ("without", "intact", "controls")]
    if not set(rows) <= set(cells.index) or not cells.loc[rows[0], "trials"]:
        return ""
    without, intact, controls = (cells.loc[row] for row in rows)
    of_controls = f", {number(controls['value'])} with control sets silenced" if controls["trials"] else ""
    few = f"; {int(without['trials'])} prompts, too few for a claim" if without["trials"] < 20 else ""
    return f"{_value(without)} ({number(intact['value'])} intact{of_controls}{few})"


def _matching(slot: Slot) -> str:
    """Say how the control sets are matched: they are those of the family's other ablations."""
    rows = slot.effects[(slot.effects["family"] == "induction") & (slot.effects["controls"] > 0)]
    return f" Control sets: as many heads, {matched(rows['matching'].iloc[0])}." if len(rows) else ""


def _table(cells: pd.DataFrame, groups, columns: dict[str, str], says: str, path: str) -> Table:
    table = []
    for condition in groups:
        if (condition, "accuracy") not in cells.index:
            continue
        row = [KINDS[condition], str(int(cells.loc[(condition, "accuracy"), "trials"]))]
        for measure in columns:
            digits = 3 if measure.startswith("attention") else 2
            cell = cells.loc[(condition, measure)] if (condition, measure) in cells.index else None
            shown = "–" if cell is None or pd.isna(cell["value"]) else _value(cell, digits)
            few = cell is not None and 0 < cell["trials"] < int(row[1])
            row.append(f"{shown} ({int(cell['trials'])})" if few else shown)
        table.append(row)
    numeric = tuple(range(1, 2 + len(columns)))
    more = " In brackets: how many prompts (pairs of prompts for swapped labels) where these are fewer." if says else ""
    return Table(["items", "prompts", *columns.values()], table, f"{says}{more}", path, numeric)


SECTION = SlotSection("neighbours", "Nearest neighbours in context", 62, neighbours, predicts=True, seen=3)
