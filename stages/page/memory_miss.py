"""What section 'The MLP as a store' says of misses: subjects that no store can hold."""

from typing import Any

import pandas as pd

from stages.page.memory_read import FEW, Read, shown, subjects
from stages.page.page import Note, Table
from stages.page.sentences import beyond, number

CLASSES = {
    "known": "known", "rare": "rare, real", "invented": "invented", "matched_real": "real, as many tokens as the next",
    "matched_invented": "invented, as many tokens",
}  # fmt: skip
ASKED = {
    "main": "none", "shown": "two sets", "main_after": "none, facts inserted", "shown_after": "two sets, facts inserted"
}  # fmt: skip
TYPES = {"right": "right", "object": "another subject's", "echo": "an echo of the name", "number": "a number",
         "other": "other"}  # fmt: skip
SCORES = {
    "logprob": "the name's log-probability", "tokens": "its number of tokens", "written": "length of the output",
    "largest": "most active unit", "nearest": "cosine with the nearest known key",
    "usual": "how usual the key is in text",
}  # fmt: skip


def blocks(read: Read, path: str) -> list:
    """Say how a miss is answered and whether the key tells it; list answers and scores."""
    said = [_missed(read), _after(read), _scores(read)]
    return [*map(Note, said), *_answers(read, path), *_areas(read, path)]


def _missed(read: Read) -> str:
    """Say how answers about invented subjects differ from those about known ones."""
    gap = read.cell(part="miss", what="main", condition="gap", measure="entropy")
    if gap is None:
        return ""
    longer = "; invented names are longer and rarer as well" if _longer(read) else ""
    said = (
        f"A miss: predictions of the answer's first token have {shown(gap, 2, True)} nats more entropy for invented "
        f"subjects than for known ones{_side(gap, longer)}{subjects(gap)}."
    )
    matched = read.cell(part="miss", what="main", condition="gap_matched", measure="entropy")
    area = read.cell(part="miss", what="area", condition="gap_matched", measure="logprob")
    rarer = "; the invented names are rarer still" if area is not None and area["value"] > 0.9 else ""
    if matched is not None:
        said += (
            f" Than for real ones of as many tokens: {shown(matched, 2, True)} nats more"
            f"{_side(matched, rarer)}{subjects(matched)}."
        )
    agreed = {name: read.cell(part="miss", what="shown", condition=name, measure="agreement") for name in CLASSES}
    known, invented = agreed["known"], agreed["invented"]
    if known is not None and invented is not None:
        less = read.cell(part="miss", what="shown", condition="gap", measure="agreement")
        said += (
            f" After two different sets of demonstrations the answers agree in {shown(known)} for known and in "
            f"{shown(invented)} for invented subjects{subjects(invented)}, a difference of {shown(less, 2, True)}"
            f"{_agreeing(less, known, invented, 'known subjects', 'invented ones')}."
        )
    real, made = agreed["matched_real"], agreed["matched_invented"]
    less = read.cell(part="miss", what="shown", condition="gap_matched", measure="agreement")
    if real is not None and made is not None and less is not None:
        said += (
            f" Real and invented ones of as many tokens: {shown(real)} and {shown(made)}{subjects(made)}, a difference "
            f"of {shown(less, 2, True)}{_agreeing(less, real, made, 'real ones', 'invented ones')}."
        )
    objects = {
        what: read.cell(part="miss", what=what, condition="invented", measure="object") for what in ("main", "shown")
    }
    if all(cell is not None for cell in objects.values()):
        said += (
            f" Another subject's answer is what an invented one gets in {shown(objects['main'])} "
            f"without demonstrations and in {shown(objects['shown'])} after them."
        )
    return said


def _agreeing(less: Any, real: Any, made: Any, more: str, fewer: str) -> str:
    """Say about which of two classes answers agree more often; less: the difference of both."""
    few = min(real["clusters"], made["clusters"]) < FEW or less is None or pd.isna(less["low"])
    side = 0 if few else beyond(less["low"], less["high"])
    return f": answers about {more if side > 0 else fewer} agree more often" if side else ": not told apart"


def _side(gap: Any, more: str = "") -> str:
    """Say on which side of 0 a gap of entropy lies; more: what else tells the classes apart."""
    if pd.isna(gap["low"]):
        return ""
    said = {1: f": a miss is less certain{more}", -1: ": a miss is more certain", 0: ": not told apart"}
    return said[beyond(gap["low"], gap["high"])]


def _after(read: Read) -> str:
    """Say what answers about the same subjects are once all facts are inserted jointly."""
    right = read.cell(part="miss", what="main_after", condition="invented", measure="right")
    change = {
        (condition, measure): read.cell(part="miss", what=f"{what}_change", condition=condition, measure=measure)
        for condition in ("known", "invented")
        for what, measure in (("main", "entropy"), ("shown", "agreement"))
    }
    if right is None or any(cell is None for cell in change.values()):
        return ""
    apart = {key: pd.notna(cell["low"]) and beyond(cell["low"], cell["high"]) for key, cell in change.items()}
    said = (
        f"With all facts inserted jointly, known keys of split a preserved, {shown(right)} of these "
        "invented names get their object as the text that "
        f"is written{subjects(right)}; the entropy of their first token changes by "
        f"{shown(change['invented', 'entropy'], 2, True)} nats, of known subjects' by "
        f"{shown(change['known', 'entropy'], 2, True)}; the agreement of answers after the two sets changes by "
        f"{shown(change['invented', 'agreement'], 2, True)}, of known subjects by "
        f"{shown(change['known', 'agreement'], 2, True)}"
    )
    few = change["invented", "entropy"]["clusters"] < FEW
    closed = not few and apart["invented", "entropy"] == -1
    return said + (": an inserted name is no longer answered as a miss." if closed and right["low"] > 0.5 else ".")


def _longer(read: Read) -> bool:
    """Say whether the length of a name alone tells known subjects from invented ones."""
    area = read.cell(part="miss", what="area", condition="gap", measure="tokens")
    return area is not None and area["value"] < 0.5


def _answers(read: Read, path: str) -> list:
    table = []
    for name, called in CLASSES.items():
        for what, how in ASKED.items():
            entropy = read.cell(part="miss", what=what, condition=name, measure="entropy")
            if entropy is not None:
                cells = [
                    None
                    if measure == "right" and name.endswith("invented") and not what.endswith("after")
                    else read.cell(part="miss", what=what, condition=name, measure=measure)
                    for measure in TYPES
                ]
                table.append([called, how, str(int(entropy["clusters"])), shown(entropy), *map(shown, cells)])
    says = (
        "What is answered, to the end of the line; invented subjects have no right answer before they are given one; "
        "an echo begins as the name does. Facts inserted: all of them jointly, known ones of split a "
        "preserved. 95 % intervals over subjects."
    )
    columns = ["subjects", "demonstrations", "number", "entropy, nats", *TYPES.values()]
    return [Table(columns, table, says, path, tuple(range(2, 4 + len(TYPES))))] if table else []


def _scores(read: Read) -> str:
    """Say whether any score of a hit tells real from invented names better than the name itself does."""
    cells = read.cells(part="miss", what="area", condition="gap_matched")
    values = cells.set_index("measure")["value"].dropna()
    if "logprob" not in values.index:
        return ""
    trivial = [name for name in ("logprob", "tokens") if name in values.index]
    others = [name for name in values.index if name not in trivial]
    if not others:
        return ""
    size = (values - 0.5).abs()
    best = size[others].idxmax()
    more = "no more than the name itself says"
    if size[best] > size[trivial].max():
        more = f"the best of {len(others)} tried on these names, which is no evidence that it says more than the name"
    few = ""
    if cells["trials"].iloc[0] < 2 * FEW:
        few, more = f" ({int(cells['trials'].iloc[0])} names)", "too few for a claim"
    return (
        "Can the key itself tell a miss? Real against invented names of equally many tokens: the best score of a "
        f"hit, {SCORES[best]}, reaches an area of {number(values[best])} (0.5 tells nothing, 0 as much as 1), "
        "the name's own log-probability "
        f"{number(values['logprob'])}{few}: {more}."
    )


def _areas(read: Read, path: str) -> list:
    table = []
    for measure, name in SCORES.items():
        cells = [
            read.cell(part="miss", what="area", condition=condition, measure=measure)
            for condition in ("gap", "gap_matched")
        ]
        if any(cell is not None for cell in cells):
            table.append([name, *("–" if cell is None else f"{number(cell['value'])} ({int(cell['trials'])})"
                                  for cell in cells)])  # fmt: skip
    columns = ["score", "known against invented", "real against invented, as many tokens"]
    says = (
        "Area under the curve: the chance that a real subject scores above an invented one, 0.5 tells nothing; in "
        f"brackets, how many subjects. Keys and outputs of layer {read.layer}'s MLP; the first two rows are what "
        "the name alone says."
    )
    return [Table(columns, table, says, path, (1, 2), folded="Scores of a hit")] if table else []
