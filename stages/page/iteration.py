"""Stepping through a string on the page: does the model write the tape, and does any head look where it should?

A claim is made only where a 95 % interval allows it: ability against a guess and against counting, the best head
against the best fixed offset. Shares are written in per cent.
"""

import pandas as pd

from stages.families.iteration.iteration import name
from stages.page import rows, verdicts
from stages.page.head_maps import head_name
from stages.page.inputs import Slot
from stages.page.page import Note, Table
from stages.page.section import Context
from stages.page.sentences import capital, clear_percents, listed, number, percent, percents

TASK = "iteration"
TARGETS = {"input": "next input symbol", "separator": "':' before the tape"}
NOTE = (
    "A string is followed by its tape, s(t+1) = f(s(t), x(t+1)), after a few solved examples; small models trained "
    "from scratch on this grow iteration heads, which look from the position that predicts s(t+1) at x(t+1) "
    "(Cabannes+ 2024, arXiv 2406.02128). Here the same is asked of a pretrained model, teacher-forced. A guess knows "
    "the tape so far but not the string; counting is the n-gram control with the prompt counted too. Copying can be "
    "done without stepping: after a symbol, what followed it before. The other functions cannot, so that only there "
    "attention to x(t+1) would be stepping proper."
)


def iteration(slot: Slot, context: Context) -> list:
    """Return the blocks of the section, or the reason why there is none."""
    stepping = slot.iteration[slot.iteration["relation"] == "input"]
    path = slot.path("iteration.csv")
    if stepping.empty:
        why = next((slot.reasons[key] for key in (TASK, name("copy")) if key in slot.reasons), f"{path} has no rows")
        return [Note(f"No head was measured while it steps through a string: {why}.")]
    counted = context.counted
    counts = counted[(counted["task"] == TASK) & (counted["baseline"] == "ngram_prompt")]
    findings = [finding(row, slot.heads, counts) for _, row in stepping.iterrows()]
    findings += [verdicts.elsewhere(slot, claims(slot, context))]
    return [Note(NOTE), *(Note(text) for text in findings if text), table(slot.iteration, path)]


def finding(row: pd.Series, heads: pd.DataFrame, counts: pd.DataFrame) -> str:
    """Say of one function what the model writes, which heads step, and how the best one stands to the best offset."""
    family = heads[heads["family"] == name(row["function"])]
    text = f"{capital(row['function'])}: {written(row, counts)} {members(heads, family[family['member'] == 1])}"
    if (family["score_a"] == 0).all() and len(family):
        return f"{text} On one half of the prompts no head has more than half of its attention there at any position."
    return " ".join([
        text,
        f"The head that does it most on one half of the prompts, {head_name(row['layer'], row['head'])}, has more than",
        f"half of its attention there at {share(row)} of the positions of the other half:",
        f"{beside(row['low'], row['high'], row['baseline'])} what the best fixed offset hits "
        f"({percent(row['baseline'])} %).",
    ])  # fmt: skip


def written(row: pd.Series, counts: pd.DataFrame) -> str:
    """Say how much of the tapes the model writes, against a guess and against counting."""
    low, high, guess = row["symbols_low"], row["symbols_high"], row["symbols_chance"]
    text = f"it writes {percent(row['symbols'])} % {percents(low, high)} of the symbols, "
    text += f"{beside(low, high, guess)} a guess ({percent(guess)} %)"
    of_function = counts[(counts["condition"] == row["function"]) & (counts["measure"] == "symbols")]
    for other in of_function.itertuples():
        value = f"{percent(other.value)} % {percents(other.low, other.high)}"
        text += f", {beside(low, high, other.low, other.high)} counting ({value})"
    text += f", and {percent(row['tapes'])} % of {int(row['prompts'])} whole tapes."
    return (
        text
        if clear_percents(low, high, guess) > 0
        else f"{text} Nothing shows that it can: attention then says where it looks, no more."
    )


def members(heads: pd.DataFrame, inside: pd.DataFrame) -> str:
    """Name the members of a family, and how they score as induction heads, which copy by content."""
    if inside.empty:
        return "No head is a member of the family."
    inside = inside.sort_values("score", ascending=False, kind="stable")
    induction = heads[heads["family"] == "induction"].set_index(["layer", "head"])["score"]
    names = [
        f"{head_name(*pair)} (induction {number(induction.get(pair))})"
        for pair in zip(inside["layer"], inside["head"], strict=True)
    ]
    return f"Members, with their scores as induction heads: {listed(names)}."


def claims(slot: Slot, context: Context) -> pd.DataFrame:
    """Return the claims on what silencing the best heads of the functions does; none where it was not tried."""
    silenced = rows.silenced(slot.effects, context.families)
    functions = {name(function) for function in slot.iteration["function"]}
    return silenced[silenced["family"].isin(functions) & silenced["claim"]]


def beside(low: float, high: float, other_low: float, other_high: float | None = None) -> str:
    """Say on which side of a number, or of another interval, an interval lies."""
    above = clear_percents(low, high, other_low if other_high is None else other_high) > 0
    below = clear_percents(low, high, other_low) < 0
    return "more than" if above else "less than" if below else "not told apart from"


def share(row: pd.Series) -> str:
    """Write the best head's share with its interval."""
    return f"{percent(row['share'])} % {percents(row['low'], row['high'])}"


def table(steps: pd.DataFrame, path: str) -> Table:
    """Return one row per function and relation."""
    cells, marked = [], []
    for _, row in steps.iterrows():
        if clear_percents(row["low"], row["high"], row["baseline"]) > 0:
            marked.append(len(cells))
        cells.append([
            row["function"], TARGETS[row["relation"]], head_name(row["layer"], row["head"]), share(row),
            percent(row["share_null"]), f"{percent(row['baseline'])} ({int(row['best_offset'])} back)",
            f"{percent(row['mass'])} ({percent(row['mass_null'])})", str(int(row["members"])), str(int(row["trials"])),
        ])  # fmt: skip
    columns = ["function", "looks at", "head", "more than half of its attention there, %", "average other key, %",
               "best offset, %", "mean attention (other key), %", "members", "prompts"]  # fmt: skip
    says = (
        "Tape positions, in per cent; the head was chosen on the other half of the prompts. Bold: the 95 % interval "
        "lies above the best fixed offset. Members: of the family, on all prompts; ':' is one family for all functions."
    )
    return Table(
        columns, cells, says, path, (3, 4, 5, 6, 7, 8), tuple(marked), folded="Where heads look on the tape, in numbers"
    )
