"""What comes next, in orders that a model knows or is told: looked up, known, or only copied."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from stages.page import orders_chart, verdicts
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import beyond, interval, listed, number, p_value

TASK = "orders"
KNOWN, MADE_UP = "known", "made_up"  # all known orders together; made-up ones
LEFT_OUT = "not measured: "
FEWEST = 20  # words that a sentence may rest on
WAYS = {
    "not_stated": "not stated",
    "stated": "stated",
    "shuffled": "stated in another order",
    "backwards": "stated, word before",
}
SHOWN = [(KNOWN, "not_stated"), (KNOWN, "shuffled"), (MADE_UP, "not_stated"), (MADE_UP, "stated"),
         (MADE_UP, "backwards")]  # fmt: skip
WHAT = (
    "Plus one, as a function of words: after demonstrations of steps in an order, the next word is asked. Neither the "
    "word asked about nor its answer stands in a demonstration. Known orders are letters, numbers in words, months and "
    "weekdays: as they are, not stated, with demonstrations from all of them, and stated ahead of demonstrations in "
    "another order, which these follow. Made-up orders are rows of words that do not exist. In an order that is stated "
    "the answer stands right after the word: looking up and stepping on is enough, nothing has to be known. Copying "
    "what followed, as induction does, is one way to run that rule; where demonstrations ask for the word before, it "
    "is wrong."
)
VECTOR = (
    "Without demonstrations, the mean outputs that the top heads of section 'Function vectors' have where known "
    "orders are continued right are written in place at the last token. They are from prompts that demonstrate steps "
    "of all known orders, none with a word that is asked here or its answer; how many heads was chosen on other words."
)


def orders(slot: Slot, context: Context) -> list:
    """Show right and rival answers by order, and what the vector of the step does without demonstrations."""
    table, path = slot.orders, slot.path("orders.csv")
    measured = table[table["accuracy"].notna()]
    if measured.empty:
        return [Note(f"No order was asked about: {slot.reasons.get(TASK) or f'{path} has no rows'}.")]
    clean = {(row["ordering"], row["category"]): row for _, row in measured[measured["context"] == "clean"].iterrows()}
    said = [known(clean), made_up(clean), shuffled(clean), backwards(clean)]
    legend = [(colour, shape, label) for label, colour, shape in orders_chart.ANSWERS.values()]
    says = (
        "Lines: 95 % intervals over runs of successive words (known) and over orders (made up). Strokes: a guess "
        "among the words that are stated, where it is known. Single orders: below."
    )
    figure = Figure([Chart(orders_chart.answers(_drawn(clean)))], says, path, "single", legend)
    left_out = [row.note.removeprefix(LEFT_OUT) for row in table.itertuples() if row.note.startswith(LEFT_OUT)]
    blocks = [Note(WHAT), figure, Note(" ".join(filter(None, said)))]
    if left_out:
        blocks.append(Note(f"The vector of the step was not measured: {'; '.join(left_out)}."))
    else:
        text = vector(measured[measured["context"] == "zero_shot"], clean, context.alpha)
        blocks += [Note(text)] if text else []
    return [*blocks, _table(measured, path)]


def value(row: Any, name: str = "") -> str:
    """Write a share with its interval: accuracy, or that of another column of shares."""
    low, high = (row[f"{name}_{end}".strip("_")] for end in ("low", "high"))
    return f"{number(row[name or 'accuracy'])} {interval(low, high)}".strip()


def known(clean: dict[tuple[str, str], Any]) -> str:
    """Say how well known orders are continued, and each of them; few words of one carry no claim."""
    row = clean.get((KNOWN, "not_stated"))
    if row is None:
        return ""
    single = {name: cell for (name, way), cell in clean.items() if way == "not_stated" and name not in (KNOWN, MADE_UP)}
    each = listed(f"{name} {number(cell['accuracy'])} of {int(cell['trials'])}" for name, cell in single.items())
    few = [name for name, cell in single.items() if cell["trials"] < FEWEST]
    said = f"Known orders, not stated: right in {value(row)} of {int(row['trials'])} words"
    if not single:
        return f"{said}."
    if len(few) == len(single):
        return f"{said} ({each}: too few for a claim each)."
    return f"{said} ({each}{f'; too few for a claim: {listed(few)}' if few else ''})."


def made_up(clean: dict[tuple[str, str], Any]) -> str:
    """Say whether a step is taken in made-up orders once they are stated."""
    stated, without = (clean.get((MADE_UP, way)) for way in ("stated", "not_stated"))
    if stated is None or without is None:
        return ""
    said = f"Made-up orders, stated: right in {value(stated)} of {int(stated['trials'])} words"
    said += f" (a guess among those that are stated: {number(stated['guess'])}), not stated, where the answer stands "
    said += f"nowhere, in {value(without)}"
    if not _enough(stated):
        return f"{said}: too few to tell."
    if carries(clean):
        return f"{said}: the word that is stated next is found more often than by guessing, though it does not exist."
    return f"{said}: not told apart from guessing, so that no step to the next word is seen."


def carries(clean: dict[tuple[str, str], Any]) -> bool:
    """Tell whether more words are right in made-up orders that are stated than a guess among their words gets."""
    stated = clean.get((MADE_UP, "stated"))
    return stated is not None and _enough(stated) and beyond(stated["low"], stated["high"], stated["guess"]) > 0


def shuffled(clean: dict[tuple[str, str], Any]) -> str:
    """Say whether the model follows the order that it is told or the one that it may know."""
    row = clean.get((KNOWN, "shuffled"))
    if row is None:
        return ""
    said = (
        f"Known words stated in another order: the word that follows there in {value(row)} of {int(row['trials'])}, "
        f"the one that is known to follow in {value(row, 'rival')}"
    )
    if not _enough(row):
        return f"{said}: too few to tell."
    side = beyond(row["lead_low"], row["lead_high"])
    verdicts = {1: "what is stated counts more than what may be known", -1: "what may be known counts more",
                0: "which of the two counts more is not told apart"}  # fmt: skip
    return f"{said}: {verdicts[side]}."


def backwards(clean: dict[tuple[str, str], Any]) -> str:
    """Say whether a step back is taken as it is demonstrated, or the word after copied all the same."""
    row = clean.get((MADE_UP, "backwards"))
    if row is None:
        return ""
    said = (
        f"Asked for the word before, after demonstrations of that: right in {value(row)} of {int(row['trials'])}, the "
        f"word after instead in {value(row, 'rival')}"
    )
    if not _enough(row):
        return f"{said}: too few to tell."
    side = beyond(row["lead_low"], row["lead_high"])
    if side < 0:
        so = "; the steps on need be no more than such copying" if carries(clean) else ""
        return f"{said}: what followed is copied more often than the step back is taken as demonstrated{so}."
    if side > 0:
        return f"{said}: the step is taken the way it is demonstrated, which copying what followed would not do."
    copied = carries(clean) and beyond(row["low"], row["high"], row["guess"]) <= 0
    so = "; that the steps on are more than copying is not shown" if copied else ""
    return f"{said}: the two are not told apart{so}."


def vector(rows: pd.DataFrame, clean: dict[tuple[str, str], Any], alpha: float) -> str:
    """Say what the vector of the step does in known orders, on steps that it was not shown, and in made-up ones.

    clean: rows after demonstrations, by order and way of giving it.
    """
    at = {(row["ordering"], row["category"], row["vector"]): row for _, row in rows.iterrows()}
    heads = [key for key in at if key[2] == "heads" and key[0] != KNOWN]
    if not heads:
        return ""
    parts = []
    for order, way, _ in heads:
        row, none = (at.get((order, way, name)) for name in ("heads", "none"))
        name = f"made-up orders, {WAYS[way]}," if order == MADE_UP else order
        beside = f"{number(none['accuracy'])} with nothing"
        beside += f", {number(row['control_accuracy'])} under control sets" if row["controls"] > 0 else ""
        parts.append(f"{name} {value(row)} of {int(row['trials'])} ({beside})")
    said = f"{VECTOR}{_controls(at.values())} {int(at[heads[0]]['heads'])} heads: {'; '.join(parts)}."
    known, told = (
        [at.get((order, way, name)) for name in ("heads", "none")]
        for order, way in ((KNOWN, "not_stated"), (MADE_UP, "stated"))
    )
    claims = [_not_shown(*known, alpha)] if known[0] is not None else []
    claims += [_steps(*told, clean.get((MADE_UP, "stated")), known, alpha)] if told[0] is not None else []
    return " ".join([said, *claims])


def _controls(rows: Iterable[Any]) -> str:
    """Say what the control sets are: the same for all words."""
    ranked = [row for row in rows if row["controls"] > 0]
    if not ranked:
        return ""
    matching, shared = ranked[0]["matching"], ranked[0]["overlap"]
    overlap = "" if pd.isna(shared) else f"; two of them share {number(shared)} (mean Jaccard index)"
    return f" A control set is as many other heads, written in the same way: {verdicts.matched(matching)}{overlap}."


def _works(row: Any, none: Any, alpha: float) -> bool:
    """Tell whether more is right than with nothing written, and than under almost every control set."""
    return _enough(row) and beyond(row["low"], row["high"], none["accuracy"]) > 0 and row["p"] <= alpha


def _not_shown(row: Any, none: Any, alpha: float) -> str:
    """Say whether the vector steps in known orders where no demonstration showed the step."""
    said = f"In known orders, together: {value(row)} of {int(row['trials'])} words"
    if not _enough(row):
        return f"{said}, too few to tell."
    rank = verdicts.as_accurate(row, alpha) if row["accuracy"] else ""
    if _works(row, none, alpha):
        others = f"under as many other heads {number(row['control_accuracy'])} of the words are right, mean over sets"
        return (
            f"{said}{rank}. So what is written is more than the pairs that were shown: next words come that "
            f"none of these held; {others}. What the same heads write for other functions was not tried here."
        )
    beside = {1: "", 0: ": not told apart from nothing", -1: ": fewer than with nothing"}
    return f"{said}{beside[beyond(row['low'], row['high'], none['accuracy'])]}{rank}."


def _steps(row: Any, none: Any, shown: Any, known: list[Any], alpha: float) -> str:
    """Say whether the vector steps in made-up orders that are stated, or writes words of the orders that it is from.

    shown: the same words after demonstrations, which a vector that steps would come near; None where they were not
    asked. known: known orders, under it and with nothing written.
    """
    if not _enough(row):
        return "The made-up orders are too few to tell."
    if beyond(row["low"], row["high"], max(none["accuracy"], row["guess"])) > 0:
        if not _works(row, none, alpha):
            said = "In made-up orders that are stated more words are right than with nothing and than by guessing"
            return f"{said}{verdicts.as_accurate(row, alpha)}."
        return "In made-up orders that are stated it steps on: it is no store of the words that it was learned from."
    if beyond(row["learned_low"], row["learned_high"], max(0.5, none["learned_high"])) > 0:
        return (
            f"In made-up orders that are stated no step is seen; in {value(row, 'learned')} the answer begins as a "
            "word of what it was learned from: with the vector come those words, not the step alone."
        )
    said = "In made-up orders that are stated no step is seen that it adds"
    if known[0] is None or shown is None or not _works(*known, alpha):
        return f"{said}."
    if beyond(row["low"], row["high"], shown["low"]) < 0:
        return (
            f"{said}: {value(row)} are right, after demonstrations {value(shown)}. It calls up next words that the "
            "model knows."
        )
    return (
        f"{said}: more than {number(row['high'])} is excluded, but after demonstrations, too, only {value(shown)} are "
        "right. Whether it steps, or calls up next words that the model knows, is not settled."
    )


def _enough(*cells: Any) -> bool:
    return all(row["trials"] >= FEWEST and not pd.isna(row["low"]) for row in cells)


def _drawn(clean: dict[tuple[str, str], Any]) -> pd.DataFrame:
    rows = []
    for order, way in SHOWN:
        if (order, way) not in clean:
            continue
        row, name = clean[order, way], "made-up orders" if order == MADE_UP else "known orders"
        for kind, column, low, high in (("right", "accuracy", "low", "high"), ("rival", "rival", "rival_low",
                                                                              "rival_high")):  # fmt: skip
            if not pd.isna(row[column]):
                shown = {"shown": f"{name}: {WAYS[way]}", "kind": kind, "trials": row["trials"]}
                guess = {"guess": row["guess"] if kind == "right" else None}
                rows.append(shown | {"value": row[column], "low": row[low], "high": row[high]} | guess)
    return pd.DataFrame(rows)


def _table(measured: pd.DataFrame, path: str) -> Table:
    names = {KNOWN: "all known", MADE_UP: "made-up"}
    written = {"none": "nothing", "heads": "heads in place", "control": "control sets"}
    lines = [
        [
            names.get(row["ordering"], row["ordering"]),
            WAYS[row["category"]],
            "after demonstrations" if row["context"] == "clean" else written[row["vector"]],
            value(row),
            value(row, "rival"),
            value(row, "learned"),
            p_value(row["p"]),
            str(int(row["trials"])),
        ]
        for _, row in measured.iterrows()
    ]
    columns = ["order", "given", "written", "right", "rival", "begins as a word of a known order",
               "rank p of heads", "words"]  # fmt: skip
    folded = f"Every order, way of giving it and vector ({len(lines)} rows)"
    says = (
        "Without demonstrations where something, or nothing, is written. Rows of fewer than 20 words carry no claim "
        "and no rank. Control sets are written where anything is right under the heads: elsewhere none can do worse."
    )
    return Table(columns, lines, says, path, (3, 4, 5, 6, 7), folded=folded)


SECTION = SlotSection(TASK, "What comes next?", 78, orders, predicts=True, seen=3)
