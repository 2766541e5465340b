"""How far what demonstrations ask for carries: usual, rare and made-up words, from procedure to knowledge."""

import pandas as pd

from stages.page import carried, classes_chart
from stages.page.carried import ALL, MATCHED, value
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Fold, Note, Table
from stages.page.section import Context, SlotSection

TASK = "extrapolation"
SHOWN = "demonstrations"
VECTORS = {
    "none": "nothing written",
    "heads": "heads in place",
    "control": "other heads in place (mean of sets)",
    "function": "their sum added",
    "random": "random vectors as long added (mean)",
}
WHAT = (
    "Who has learnt a procedure can run it on words never seen before; who has learnt pairs cannot. After "
    "demonstrations, the intact model is asked for usual words, rare real ones and words made up by rule (without "
    "those that are one token of the model's). Functions stand from procedure to knowledge, in an order fixed before "
    "measuring: form (the answer is made of the word's letters), order (the next number: rare ones have two or three "
    "digits, made-up ones six), rule (a regular ending, which rare and made-up words take), knowledge (nothing in the "
    "word says it). What greedy decoding writes has to be the answer, letter by letter, and to end there. "
    "Solved are functions of which enough usual words are right here; section 'Function vectors' asks on other "
    "prompts, where a function may fall on the other side."
)
TOKENS = (
    "More tokens may be harder whatever the word, and made-up words have more of them. So they are compared with rare "
    "real words of as many tokens, in the word and in the answer (strata weighted by n m / (n + m))."
)
STEERED = (
    "With the heads' mean outputs of section 'Function vectors' written at the last token, chosen there on other "
    "prompts. Here, too, an answer has to end, with a newline; its tokens are those of the tokenizer's own split. "
    "Beside them at most three sets of other heads and three random vectors: their means, too few for a rank. "
    "Where nothing written gives 0 they cannot give less."
)
AGAIN = "Made-up words against rare ones of as many tokens."
OF_STUDY = (
    "Heads and layers are those of this study, as its part of section 'Function vectors' has them; here an answer also "
    "has to end, with a newline, and usual words are those of one half."
)


def extrapolation(slot: Slot, context: Context) -> list:
    """Show accuracy by function and class, made-up against rare words at equal tokens, and what vectors do."""
    asked = _asked(slot, TOKENS, STEERED)
    if not asked:
        why = slot.reasons.get(TASK, f"{slot.path('extrapolation.csv')} has no rows")
        return [Note(f"No usual, rare or made-up words were asked: {why}."), *_longer(slot)]
    return [Note(WHAT), *asked, *_longer(slot)]


def _longer(slot: Slot) -> list[Fold]:
    """Return what a longer study of this slot adds, in a list: more words of each class; [] where there is none."""
    study = slot.longer.get("steer")
    asked = _asked(study.slot, AGAIN, OF_STUDY) if study else []
    return [study.fold("more words", asked)] if asked else []


def _asked(slot: Slot, tokens: str, vectors: str) -> list:
    """Show what was asked, [] where nothing was; tokens, vectors: what is said first of equal tokens and of vectors."""
    table, path = slot.extrapolation, slot.path("extrapolation.csv")
    whole = table[table["tokens"] == ALL]
    whole = whole.assign(shown=whole["function"] + " (" + whole["kind"] + ")")
    shown, counted = whole[whole["context"] == SHOWN], whole[whole["context"] == "ngram_prompt"]
    if shown.empty:
        return []
    chart = classes_chart.classes(shown, counted, list(dict.fromkeys(shown["shown"])))
    legend = [
        (colour, shape, label)
        for name, (label, colour, shape) in classes_chart.CLASSES.items()
        if name in set(shown["class"])
    ]
    says = f"Lines are 95 % intervals over words, for these demonstrations. {carried.counting(counted)}".strip()
    solved = shown[~shown["note"].str.startswith(carried.UNSOLVED)]
    said = [carried.carried(solved, _without(table)), carried.knowledge(shown), carried.unsolved(shown),
            carried.ordered(solved), carried.endings(solved)]  # fmt: skip
    blocks = [Figure([Chart(chart)], says, path, "single", legend), Note(" ".join(filter(None, said)))]
    return [*blocks, *_matched(table, tokens, path), *_steered(whole, vectors, path), *_by_tokens(table, path)]


def _without(table: pd.DataFrame) -> list[str]:
    """Return the functions in which no rare word has as many tokens as a made-up one."""
    made_up = dict.fromkeys(table[table["class"] == "made_up"]["function"])
    return [name for name in made_up if name not in {*table[table["tokens"] == MATCHED]["function"], ALL}]


def _matched(table: pd.DataFrame, says: str, path: str) -> list:
    rows = table[table["tokens"] == MATCHED]
    blocks = [Note(f"{says} {carried.at_equal_tokens(rows, _without(table))}".strip())]
    lines = []
    for (function, kind), part in rows.groupby(["function", "kind"], sort=False):
        rare, other, change = (part[part["class"] == name].iloc[0] for name in ("rare", "made_up", carried.DIFFERENCE))
        words = [f"{value(row)} ({int(row['trials'])})" for row in (rare, other)]
        lines.append([f"solved ones of {kind}" if function == ALL else function, *words, value(change, True)])
    if lines:
        columns = ["function", "rare (words)", "made-up (words)", "made-up minus rare"]
        blocks.append(Table(columns, lines, "At equal numbers of tokens.", path, (1, 2, 3)))
    return blocks


def _steered(whole: pd.DataFrame, says: str, path: str) -> list:
    told = whole[whole["context"].isin(VECTORS)]
    if told.empty:
        return []
    at = whole.set_index(["function", "class", "context"])
    lines = []
    for function, kind in dict.fromkeys(zip(told["function"], told["class"], strict=True)):
        rows = [at.loc[(function, kind, name)] if (function, kind, name) in at.index else None for name in VECTORS]
        words = next(int(row["trials"]) for row in rows if row is not None)
        label = "made-up, echoed" if kind == "copied" else kind.replace("_", "-")
        lines.append([function, label, *("–" if row is None else value(row) for row in rows), str(words)])
    columns = ["function", "class", *VECTORS.values(), "words"]
    right = tuple(range(2, len(columns)))
    folded = f"Without demonstrations, by function ({len(lines)} rows)"
    text = f"{says} {carried.steered(told, VECTORS)}".strip()
    return [Note(text), Table(columns, lines, "", path, right, folded=folded)]


def _by_tokens(table: pd.DataFrame, path: str) -> list:
    rows = table[table["tokens"].str.isdigit() & (table["context"] == SHOWN)]
    lines = [
        [row["function"], row["class"].replace("_", "-"), row["tokens"], value(row), str(int(row["trials"]))]
        for _, row in rows.iterrows()
    ]
    columns = ["function", "class", "tokens of the word", "accuracy", "words"]
    folded = f"By the word's number of tokens ({len(lines)} rows; few words each)"
    return [Table(columns, lines, "", path, (2, 3, 4), folded=folded)] if lines else []


SECTION = SlotSection(TASK, "Procedure against knowledge", 88, extrapolation, predicts=True, seen=3)
