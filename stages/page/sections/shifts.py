"""Is a function one offset? Offsets of its pairs, its vector and minus it on both members, and what vectors say."""

from typing import Any

import pandas as pd

from stages.page.inputs import Slot
from stages.page.page import Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sections.vectors import LEFT_OUT
from stages.page.sentences import beyond, capital, interval, listed, number, p_value

ALL = "all"
SPACES = {"embedding": "embedding", "state": "state"}
WHAT = (
    "If a function f were a translation, y = x + v for all of its pairs, then the offsets y − x would point one way, "
    "and where f is its own inverse, f(f(x)) = x, no v but 0 would do: v + v = 0. Offsets are looked at among input "
    "embeddings and among states (the residual at the last token of a question, after the layer where the function's "
    "vector is added). Cosine: of two pairs' offsets, on average; of one's with the other's reverse it is the same "
    "with the other sign. Its size is high as well where offsets lie along one line either way. Directions: "
    "participation ratio of the offsets, 1 for one direction, at most the number of pairs. Parallelogram: share of "
    "pairs whose y lies nearest to x plus the other pairs' mean offset. In brackets the controls: the y dealt out "
    "anew, none to its own x; for the parallelogram, no offset added at all."
)
BOTH = (
    "Then questions without demonstrations about x, and others about y, are answered under the function's vector v, "
    "twice it and minus it: here the top heads' mean outputs in place, times 1, 2 or −1. An offset would lead from y "
    "back to x as −v; an instruction to apply f leads from y to f(y), which is x where f is its own inverse, as v. "
    "Nothing right under −v may only mean that it breaks the model: what counts is where v itself leads from y. No "
    "word asked about stands in a prompt that the vector comes from."
)
BROKEN = (
    "Under −v no answer at all is a member of a pair, not even the word itself: it may only break the model, and says "
    "nothing of offsets."
)
SAYS = (
    "Cosine, directions and parallelogram as above. Then the share of pairs whose y is answered to x / whose x is "
    "answered to y. Shown: the intact model, with demonstrations of f from x to y. Zero-shot: accuracy of the heads in "
    "place in section 'Function vectors'. 95 % intervals in the file; rows of fewer than 20 pairs carry no claim."
)
READ = (
    "Each function vector alone as the last residual, read through the model's last norm and unembedding. Answers: "
    "the share of the vocabulary that is less likely than the first token of an answer (split b, on average), 0.5 by "
    "chance; beside it random vectors of the same length, and other functions' vectors. Frequent tokens stand high "
    "under many vectors; so p is the rank among the random ones."
)


def shifts(slot: Slot, context: Context) -> list:
    """Show offsets, answers under v and -v, and readings; one sentence about functions that are their own inverse."""
    rows, path = slot.shifts, slot.path("shifts.csv")
    if rows.empty:
        why = slot.reasons.get("shifts") or slot.reasons.get("steering") or f"{path} has no rows"
        return [Note(f"No function was looked at as an offset: {why}.")]
    said = [_offsets(rows), _inverses(rows), _backwards(rows)]
    blocks = [Note(WHAT), *map(Note, filter(None, said)), Note(BOTH)]
    blocks += [_table(rows, slot.steering, path), _factors(rows, path)]
    return [*blocks, *_readings(slot, context.alpha)]


def _cell(rows: pd.DataFrame, **where: Any) -> Any:
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows.iloc[0] if len(rows) else None


def _answers(rows: pd.DataFrame, function: str, vector: str, factor: float, asked: str, measure: str = "other") -> Any:
    return _cell(rows, function=function, vector=vector, factor=factor, asked=asked, measure=measure)


def _value(row: Any, digits: int = 2) -> str:
    return "–" if row is None else number(row["value"], digits)


def _whole(row: Any) -> str:
    return f"{number(row['value'])} {interval(row['low'], row['high'])}".strip()


def _offsets(rows: pd.DataFrame) -> str:
    """Name the functions whose offsets have the most and the least in common, in each space."""
    parts = []
    for space in SPACES:
        cosines = rows[(rows["space"] == space) & (rows["measure"] == "cosine")].sort_values("value", kind="stable")
        if len(cosines) > 1:
            least, most = cosines.iloc[0], cosines.iloc[-1]
            parts.append(
                f"among {'states' if space == 'state' else 'embeddings'} from {number(least['value'])} for "
                f"{least['function']} (dealt anew {number(least['value_null'])}) to {number(most['value'])} for "
                f"{most['function']} ({number(most['value_null'])})"
            )
    return f"Mean cosine of offsets: {'; '.join(parts)}; one offset would give 1." if parts else ""


def _inverses(rows: pd.DataFrame) -> str:
    """Say of each function that is its own inverse whether one vector, with one sign, leads both ways."""
    steered = rows[rows["space"] == "steering"]
    names = list(dict.fromkeys(steered[steered["inverse"] == 1]["function"]))
    if not names:
        return "None of the functions is its own inverse."
    said = []
    for name in names:
        shown = [_answers(rows, name, "demonstrations", 0, asked) for asked in "xy"]
        said.append(f"{capital(name)} is its own inverse{_of_offsets(rows, name)}.")
        if all(cell is not None for cell in shown):
            said.append(
                f"With demonstrations of it from x to y, asked about x the model answers y in {_whole(shown[0])}, "
                f"asked about y it answers x in {_whole(shown[1])}."
            )
        said += [_both_ways(rows, name, vector) for vector in ("heads", "added")]
    return " ".join(filter(None, said))


def _of_offsets(rows: pd.DataFrame, name: str) -> str:
    """Say of a function that is its own inverse whether its offsets have a direction or at least a line in common."""
    cells = [_cell(rows, function=name, space="state", measure=measure) for measure in ("cosine", "axis")]
    if any(cell is None for cell in cells):
        return ""
    values = [f"{_value(cell)} ({number(cell['value_null'])} dealt anew)" for cell in cells]
    return f"; among states the cosine of its offsets is {values[0]} on average, its size {values[1]}"


def _both_ways(rows: pd.DataFrame, name: str, vector: str) -> str:
    """Say whether a vector leads from x to y and, with the same sign, from y to x: what no offset but 0 does."""
    there, back, minus = (
        _answers(rows, name, vector, factor, asked) for factor, asked in ((1, "x"), (1, "y"), (-1, "y"))
    )
    change = _cell(rows, function=name, vector=vector, measure="plus_less_minus")
    nothing = [_answers(rows, name, "none", 0, asked) for asked in "xy"]
    if change is None or there is None or any(row is None for row in nothing):
        return ""
    label = "The heads in place" if vector == "heads" else f"Added ({there['kind'].replace('_', ' ')})"
    text = (
        f"{label}, v: from x to y in {_whole(there)} of {int(there['trials'])} pairs ({number(nothing[0]['value'])} "
        f"with nothing), from y to x in {_whole(back)} ({number(nothing[1]['value'])}); −v: from y to x in "
        f"{_whole(minus)}"
    )
    gains = [_cell(rows, function=name, vector=vector, measure="plus_less_nothing", asked=asked) for asked in "xy"]
    if any(row is None or row["note"] or pd.isna(row["low"]) for row in (*gains, change)):
        return f"{text}: too few pairs to tell."
    leads = [beyond(row["low"], row["high"]) > 0 for row in gains]
    if not leads[0]:
        return f"{text}: v does not lead from x to y beyond doubt, so that nothing follows from where it leads from y."
    side = beyond(change["low"], change["high"])
    if leads[1] and side > 0:
        if _silent(rows, name, vector):
            return f"{text}: v leads both ways with one sign, as no offset does. {BROKEN}"
        return f"{text}: v leads both ways with one sign, and more often back than −v does; an offset does neither."
    if side < 0:
        return f"{text}: minus the vector leads back more often than the vector, as for an offset."
    return f"{text}: which of the two signs leads back is not told apart."


def _silent(rows: pd.DataFrame, name: str, vector: str) -> bool:
    """Tell whether under minus the vector no answer is of a pair: neither the other member nor the word itself."""
    cells = [_answers(rows, name, vector, -1, asked, measure) for asked in "xy" for measure in ("other", "echo")]
    return all(cell is not None and cell["value"] == 0 for cell in cells)


def _backwards(rows: pd.DataFrame) -> str:
    """Say over all functions how far minus the vector undoes what the vector does."""
    there, minus = _answers(rows, ALL, "heads", 1, "x"), _answers(rows, ALL, "heads", -1, "y")
    if there is None or minus is None:
        return ""
    tried = rows[(rows["vector"] == "heads") & (rows["factor"] == 1) & (rows["function"] != ALL) & (rows["trials"] > 0)]
    text = (
        f"Over the {int(there['trials'])} pairs of {tried['function'].nunique()} functions, v leads from x to y in "
        f"{_whole(there)}, −v from y back to x in {_whole(minus)}"
    )
    if pd.isna(there["low"]) or pd.isna(minus["low"]):
        return f"{text}."
    if beyond(there["low"], there["high"], minus["high"]) > 0:
        if _silent(rows, ALL, "heads"):
            return f"{text}: −v does not undo what v does. {BROKEN}"
        return f"{text}: what v does, −v undoes less often, or not at all."
    if beyond(minus["low"], minus["high"], there["high"]) > 0:
        return f"{text}: −v leads back more often than v leads there."
    return f"{text}: the two are not told apart."


def _table(rows: pd.DataFrame, steering: pd.DataFrame, path: str) -> Table:
    steered = steering[(steering["context"] == "zero_shot") & (steering["vector"] == "heads")].set_index("function")
    lines, marked = [], []
    for function in [name for name in dict.fromkeys(rows["function"]) if name != ALL]:
        of_function = rows[rows["function"] == function]
        inverse = (of_function["inverse"] == 1).any()
        marked += [len(lines)] if inverse else []
        line = [function, "yes" if inverse else "no"]
        for space in SPACES:
            for measure, digits in (("cosine", 2), ("dimensions", 1)):
                cell = _cell(of_function, space=space, measure=measure)
                line.append("–" if cell is None else f"{_value(cell, digits)} ({number(cell['value_null'], digits)})")
            hit, near = (_cell(of_function, space=space, measure=name) for name in ("parallelogram", "nearest"))
            line.append("–" if hit is None else f"{_value(hit)} ({_value(near)})")
        for vector, factor in (("demonstrations", 0), *(("heads", factor) for factor in (1, 2, -1))):
            line.append(" / ".join(_value(_answers(rows, function, vector, factor, asked)) for asked in "xy"))
        line.append(number(steered["accuracy"].get(function, float("nan"))))
        counts = of_function[of_function["measure"] == "other"]["trials"]
        lines.append([*line, str(int(counts.max())) if len(counts) else "0"])
    columns = ["function", "own inverse"]
    columns += [f"{name}, {space}" for space in SPACES for name in ("cosine", "directions", "parallelogram")]
    columns += ["shown", "v", "2v", "−v"]
    columns += ["zero-shot", "pairs asked"]
    says = " ".join(filter(None, [SAYS, _missing(lines, steering)]))
    return Table(columns, lines, says, path, tuple(range(2, len(columns))), tuple(marked))


def _missing(lines: list[list[str]], steering: pd.DataFrame) -> str:
    """Say of which functions no pair was asked, and which are not in the table at all."""
    unasked = [line[0] for line in lines if line[-1] == "0"]
    noted = steering[steering["note"].fillna("").str.startswith(LEFT_OUT)]
    absent = sorted(set(noted["function"]) - {line[0] for line in lines})
    said = (
        f"No pair of {listed(unasked)} is asked: a pair is left out where one of its words stands in a demonstration, "
        "or on the half of the prompts that the vector is from."
        if unasked
        else ""
    )
    return f"{said} Without a vector, and not here: {listed(absent)}.".strip() if absent else said


def _factors(rows: pd.DataFrame, path: str) -> Table:
    """List every share with its interval, the echoed ones too, also of the best added vector."""
    labels = {"none": "nothing", "added": "added", "heads": "heads in place", "demonstrations": "demonstrations"}
    lines = []
    steered = rows[(rows["space"] == "steering") & (rows["measure"] == "other")]
    for row in steered.to_dict("records"):
        echo = _answers(rows, row["function"], row["vector"], row["factor"], row["asked"], "echo")
        label = labels[row["vector"]] + (
            f" ({row['kind'].replace('_', ' ')})" if row["vector"] == "added" and row["kind"] else ""
        )
        factor = "–" if not row["factor"] else f"{row['factor']:+g}".replace("-", "−")
        lines.append([row["function"], label, factor, row["asked"], _whole(row), "–" if echo is None else _whole(echo),
                      str(int(row["trials"]))])  # fmt: skip
    columns = ["function", "vector", "times", "asked about", "other member", "the word itself", "pairs"]
    says = (
        "Added: the most accurate on split a of the sum at one layer, sums in each layer and the mean residual. The "
        "word itself: the first token answered is its, where the right answer begins with another."
    )
    return Table(
        columns, lines, says, path, (2, 4, 5, 6), folded=f"Every vector, multiple and member ({len(lines)} rows)"
    )


def _readings(slot: Slot, alpha: float) -> list:
    rows, path = slot.readings, slot.path("readings.csv")
    if rows.empty:
        return []
    names = {"function": "function", "layer_average": "layer average"}
    lines = [
        [row["function"], names.get(row["vector"], row["vector"]), _shown(row["tokens"]), _shown(row["random_tokens"]),
         *(number(row[name]) for name in ("answers", "random", "elsewhere")), p_value(row["p"]), number(row["inputs"])]
        for row in rows.to_dict("records")
    ]  # fmt: skip
    columns = ["function", "vector", "likeliest tokens", "of a random vector", "answers", "random", "others' vectors",
               "rank p", "words asked about"]  # fmt: skip
    said = []
    for kind, of_kind in rows.groupby("vector", sort=False):
        apart = of_kind[(of_kind["p"] <= alpha) & (of_kind["answers"] > of_kind["elsewhere"])]
        count = f"{len(apart)} of {len(of_kind)}"
        which = f" ({listed(apart['function'])})" if 0 < len(apart) <= 4 else ""
        said.append(f"{count} of kind {names.get(kind, kind)}{which}")
    floor, beaten = rows["p_floor"].max(), int((rows["inputs"] >= rows["answers"]).sum())
    text = (
        f"{READ} Answers stand higher than under random vectors (p at most {p_value(alpha)}; floor {p_value(floor)}; "
        f"not corrected for the number of functions) and higher than under other functions' vectors, on average, in "
        f"{listed(said)}. The words asked about stand as high as the answers, or higher, in {beaten} of {len(rows)}."
    )
    if floor > alpha:
        text = f"{READ} With so few random vectors p cannot fall below {p_value(floor)}: nothing is told apart."
    return [Note(text), Table(columns, lines, "", path, (4, 5, 6, 7, 8))]


def _shown(tokens: str) -> str:
    return " · ".join(token.strip() or "␣" for token in tokens.split("|"))


SECTION = SlotSection("shifts", "Is a function one offset?", 76, shifts, predicts=True, seen=4)
