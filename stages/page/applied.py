"""Function vectors beyond their own prompts, said and drawn: what was tried, composed functions, plain text."""

from typing import Any

import pandas as pd

from stages.page import sums_chart
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.sentences import capital, interval, listed, number, p_value
from stages.page.sums_chart import ADDED, SOURCES, SUMS
from stages.tasks.icl.continuation import SHOWS

ALL = "all"  # the rows of all functions together
LEFT_OUT = "not measured: "
COMPOSED = (
    "Composed functions: one function's answer is what the next one is asked (Todd+ 2024, section 3.3). No word made "
    "or chose a vector of the first function (some may have shown the second one, with another answer), and no answer "
    "that counts begins what either function alone, or copying, gives. "
    "Written in place at the last token: the sum of both functions' mean outputs, less those after demonstrations of "
    "copying, which a sum counts twice. Controls keep the first function's and exchange what the second adds: for "
    "random vectors as long, head by head, and for other functions'."
)
TEXTS = (
    "In plain text, which asks for nothing, the mean outputs of the function's heads are written in place at the last "
    "token read, or their sum is added after one layer. What the likeliest next token is then "
    "shows which function was written only where the function can be seen in one token."
)
WRITTEN = {"heads": "mean outputs in place", "function": "their sum added after one layer"}


def sweep(slot: Slot) -> list:
    """Show every layer and strength that was tried, on the prompts that the choice was made on."""
    rows, path = slot.sweep, slot.path("sweep.csv")
    added = rows[rows["vector"].isin(ADDED)]
    if added.empty:
        return []
    order = [ALL, *sorted(set(added["function"]) - {ALL})]
    cards = [
        Chart(sums_chart.sweep(of_function), "all functions" if name == ALL else name)
        for name, of_function in ((name, added[added["function"] == name]) for name in order)
    ]
    colours = [(colour, "circle", label) for label, colour in ADDED.values()]
    strengths = [f"{strength:g}" for strength in sorted(set(added["strength"]))]
    lines = ["full line", "dashed", "dotted", "dash and dot"]
    named = [f"{strength} ({lines[place % 4]})" for place, strength in enumerate(strengths)]
    prompts = sorted({int(count) for count in added[added["function"] != ALL]["trials"]})
    settings = len(added[(added["function"] == order[-1]) & (added["vector"] == added["vector"].iloc[0])])
    says = (
        f"What the choice was made on: accuracy without demonstrations on {listed(map(str, prompts))} prompts per "
        f"function of one half, by the layer after which a vector is added and its strength, {listed(named)}; rings: "
        f"chosen (of all functions together: by any of them). The best of {settings} values of a vector is there by "
        f"luck as well: nothing is claimed from these prompts, and what was chosen is reported above on the other half."
    )
    return [Figure(cards, says, path, "cards", colours), *_numbers(rows)]


def _numbers(rows: pd.DataFrame) -> list[Note]:
    """Say the mean accuracy by number of heads, on the same prompts."""
    heads = rows[(rows["function"] == ALL) & (rows["vector"] == "heads")].sort_values("heads")
    if len(heads) < 2:
        return []
    each = listed(f"{int(row.heads)} {number(row.accuracy)}" for row in heads.itertuples())
    return [Note(f"On the same prompts, mean outputs in place, by the number of heads: {each}.")]


def composed(slot: Slot, alpha: float) -> list:
    """Show whether the sum of two vectors is a vector of the composed function, or why that was not measured."""
    rows, path = slot.composed, slot.path("composed.csv")
    if rows.empty:
        why = slot.reasons.get("composed")
        return [Note(f"No composed function was asked: {why or f'{path} has no rows'}.")]
    left_out = rows[rows["note"].str.startswith(LEFT_OUT)]
    reasons = "; ".join(f"{row.function} ({row.note.removeprefix(LEFT_OUT)})" for row in left_out.itertuples())
    measured = rows[rows["accuracy"].notna()]
    if measured.empty:
        return [Note(f"No composed function was measured: {reasons}.")]
    together = measured[(measured["function"] == ALL) & (measured["beside"] == "")]
    kinds = together.assign(kind=_kind(together)).set_index("kind")
    blocks = [Note(_claim(kinds, measured, alpha) + (f" Left out: {reasons}." if reasons else "")), Note(COMPOSED)]
    single = measured[(measured["function"] != ALL) & (measured["beside"] == "")]
    single = single.assign(kind=_kind(single))
    drawn = single[single["kind"].isin(SUMS)]
    legend = [(colour, shape, label) for name, (label, colour, shape) in SUMS.items() if name in set(drawn["kind"])]
    says = "Composed functions on words of the other half, each word asked once; of controls the mean over draws."
    blocks.append(Figure([Chart(sums_chart.sums(drawn))], says, path, "single", legend))
    return [*blocks, _sums_table(single, measured, path)]


def _kind(rows: pd.DataFrame) -> pd.Series:
    return rows["vector"].where(rows["context"] == "zero_shot", "demonstrations")


def _value(row: Any) -> str:
    return f"{number(row['accuracy'])} {interval(row['low'], row['high'])}".strip()


def _claim(kinds: pd.DataFrame, measured: pd.DataFrame, alpha: float) -> str:
    """Say what sums of vectors do over all composed functions, and whether their controls do as much."""
    names = sorted(set(measured["function"]) - {ALL})
    demonstrated = f" and {_value(kinds.loc['demonstrations'])} after them" if "demonstrations" in kinds.index else ""
    said = (
        f"Composed functions ({listed(names)}), over {int(kinds.loc['none', 'trials'])} words: the intact model's "
        f"accuracy is {_value(kinds.loc['none'])} without demonstrations{demonstrated}."
    )
    parts = [f"the first function's vector alone gives {_value(kinds.loc['inner'])}",
             f"the second's {_value(kinds.loc['outer'])}", f"their sum {_value(kinds.loc['sum'])}"]  # fmt: skip
    if "own" in kinds.index:
        parts.append(f"the composed function's own {_value(kinds.loc['own'])}")
    parts.append(f"the two stored vectors, each added after its layer, {_value(kinds.loc['added'])}")
    said += f" {capital(listed(parts))}."
    if "analogy" not in kinds.index:
        return f"{said} Copying is not answered after demonstrations, so that nothing was taken off the sum."
    analogy = kinds.loc["analogy"]
    said += f" The sum less the vector of copying gives {_value(analogy)}"
    draws = int(analogy["controls"])
    if pd.isna(analogy["p"]):
        return f"{said}; it is not ranked ({analogy['note'] or 'no random vector was drawn'})."
    as_good = round(analogy["p"] * (1 + draws)) - 1
    said += (
        f"; with random vectors in the second one's place {as_good or 'none'} of {draws} draws "
        f"{'is' if as_good < 2 else 'are'} as accurate: rank p = {p_value(analogy['p'])}"
        f"{', its floor' * (as_good == 0)}"
    )
    if analogy["p"] > alpha:
        return f"{said}; not told apart from them.{_others(measured)}"
    return f"{said}.{_others(measured)}"


def _others(measured: pd.DataFrame) -> str:
    """Say whether any other function in the second one's place does as well."""
    others = measured[(measured["vector"] == "other") & (measured["beside"] != "")]
    analogy = measured[measured["vector"] == "analogy"].set_index("function")["accuracy"]
    if others.empty:
        return ""
    as_good = others[others["accuracy"] >= others["function"].map(analogy) - 1e-9]
    named = "; ".join(f"{row.beside} for {row.function}" for row in as_good.itertuples())
    text = f" Of {len(others)} pairs with another function in the second one's place, {len(as_good) or 'none'} "
    verb = "does" if len(as_good) < 2 else "do"
    best = others.loc[(others["accuracy"] - others["function"].map(analogy)).idxmax()]
    nearest = ""
    if as_good.empty:
        own = number(analogy[best["function"]])
        nearest = f"; nearest comes {best['beside']} for {best['function']} ({number(best['accuracy'])} beside {own})"
    return f"{text}{verb} as well{f' ({named})' if named and len(as_good) <= 4 else nearest}."


def _sums_table(single: pd.DataFrame, measured: pd.DataFrame, path: str) -> Table:
    cells = single.set_index(["function", "kind"])
    largest = (
        measured[(measured["vector"] == "other") & (measured["beside"] != "")].groupby("function")["accuracy"].max()
    )
    kinds = ["none", "demonstrations", "inner", "outer", "sum", "analogy", "own", "added", "random"]
    rows = []
    for name in sorted(set(single["function"])):
        values = [number(cells["accuracy"].get((name, kind))) for kind in kinds]
        p = cells["p"].get((name, "analogy"))
        trials = number(cells["trials"].get((name, "none")), 0)
        other = number(largest.get(name))
        rows.append([name, trials, *values, other, "–" if p is None else p_value(p)])
    columns = ["function", "words", "nothing", "after demonstrations", "first alone", "second alone", "sum",
               "sum less copying", "own vector", "stored vectors added", "random (mean)", "best other function",
               "rank p"]  # fmt: skip
    says = "Accuracy on composed answers; rank p: of the sum less copying among random vectors, of this function alone."
    return Table(columns, rows, says, path, tuple(range(1, len(columns))), folded="All numbers of composed functions")


def continued(slot: Slot, alpha: float) -> list:
    """Show what plain text is continued with under a function's vector, or why that was not measured."""
    rows, path = slot.continued, slot.path("continued.csv")
    if rows.empty:
        why = slot.reasons.get("continued")
        return [Note(f"No plain text was continued under a function vector: {why or f'{path} has no rows'}.")]
    blocks: list = []
    for function, of_function in rows.groupby("function"):
        said = SHOWS[function].said if function in SHOWS else f"as {function} says"
        claims = [_text_claim(of_function, vector, said, alpha) for vector in WRITTEN]
        blocks.append(Note(" ".join(claim for claim in claims if claim)))
        cards = [
            Chart(sums_chart.texts(_shown(of_function, vector), said), f"{function}, {label}")
            for vector, label in WRITTEN.items()
            if vector in set(of_function["vector"])
        ]
        legend = [(colour, shape, label) for label, colour, shape in SOURCES.values()]
        says = f"Share of likeliest next tokens {said}, by what is written at the last token of a plain text."
        blocks.append(Figure(cards, says, path, "cards", legend))
    return [blocks[0], Note(TEXTS), *blocks[1:]]


def _shown(rows: pd.DataFrame, vector: str) -> pd.DataFrame:
    """Return the rows of one chart: nothing, the function's own, other functions', random."""
    some = rows[(rows["vector"] == vector) | (rows["vector"] == "none")]
    order = {"": 0, "own": 1, "other": 2, "random": 3}
    names = {"": "nothing", "random": "random vectors"}
    some = some.assign(place=some["source"].map(order), shown=some["source"].map(names).fillna(some["of"]))
    return some.sort_values(["place", "shown"])


def _text_claim(rows: pd.DataFrame, vector: str, said: str, alpha: float) -> str:
    """Say what one way to write a function does to plain text, against random vectors and other functions'."""
    of_vector = rows[rows["vector"] == vector]
    own = of_vector[of_vector["source"] == "own"]
    if own.empty:
        return ""
    own, none = own.iloc[0], rows[rows["vector"] == "none"].iloc[0]
    others = of_vector[of_vector["source"] == "other"]
    text = (
        f"Plain text with {own['of']} written ({WRITTEN[vector]}): {_share(own)} of next tokens are {said}, over "
        f"{int(own['trials'])} places in {int(own['clusters'])} passages; with nothing written {_share(none)}"
    )
    draws = int(own["controls"])
    if pd.isna(own["p"]):
        text += f"; it is not ranked ({own['note'] or 'no random vector was drawn'})"
    else:
        as_high = round(own["p"] * (1 + draws)) - 1
        text += (
            f"; {as_high or 'none'} of {draws} random vectors as long {'gives' if as_high < 2 else 'give'} as many "
            f"(largest {number(own['control_largest'])}): rank p = {p_value(own['p'])}{', its floor' * (as_high == 0)}"
            f"{'; not told apart from them' if own['p'] > alpha else ''}"
        )
    if len(others):
        top = others.loc[others["share"].idxmax()]
        as_high = int((others["share"] >= own["share"] - 1e-9).sum())
        text += (
            f". Of {len(others)} other functions' vectors {as_high or 'none'} {'gives' if as_high < 2 else 'give'} as "
            f"many (largest: {top['of']}, {_share(top)}"
            f"{', an interval that overlaps' * bool(own['low'] <= top['high'] and not as_high)})"
        )
    if own["change_low"] > 0:
        text += (
            f". Of its {number(own['share'])}, {number(own['seen_shown'])} are words of the text read so far and "
            f"{number(own['kept_shown'])} the intact model's own next word, both but for case"
        )
    return f"{text}."


def _share(row: Any) -> str:
    return f"{number(row['share'])} {interval(row['low'], row['high'])}".strip()
