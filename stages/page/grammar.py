"""Grammar heads on the page: which head finds which relation, beside the best offset and Clark+ 2019; what for.

Shares are written in per cent, differences in points.
"""

import pandas as pd

from stages.families.treebank.grammar import DIRECTIONS, LABELS
from stages.page import clark, grammar_charts, rows, verdicts
from stages.page.charts import BLUE, GREY, ORANGE, PALE
from stages.page.grammar_rows import TASK, leads, measured, placed, unmeasured
from stages.page.head_maps import PREFIX
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.section import Context
from stages.page.sentences import clear_percents, percent, percents

CAUSAL = (
    "A causal model sees only what came before: an arc is scored in the direction in which its key word ends before "
    "the query word begins, and in no other."
)
SILENT = (
    "Attention to first and special tokens is read as 'nothing to say' (Clark+ 2019, arXiv 1906.04341). Then it must "
    "rise where a head's relation is absent: at words of the same sentences that do not have it, against words that do."
)
PUBLISHED = (
    "Clark+ 2019: accuracy and, in brackets, best offset, as printed by the notebook behind Table 1 of arXiv "
    "1906.04341, with their label; all from the dependent to its head. That is another model (BERT-base, which sees "
    "both sides of a word), another set (WSJ, gold tokens) and other labels (Stanford Dependencies: `cc` hangs on "
    "the first conjunct there, on the next one here; `case`, `obl` and `nmod` have no counterpart), and their head was "
    "chosen on the words it is reported on. Their row for all words is one head for all labels; ours takes each "
    "label's own, and stands beside it only where it, too, runs from the dependent to its head alone."
)


def grammar(slot: Slot, context: Context) -> list:
    """Return the blocks of the section, or the reason why there is none."""
    relations = measured(slot.grammar)
    if relations.empty:
        why = slot.reasons.get(TASK) or unmeasured(slot) or f"{slot.path('grammar.csv')} has no rows"
        return [Note(f"No grammar head was measured: {why}.")]
    path = slot.path("grammar.csv")
    blocks: list = [Note(findings(slot.grammar, slot.decoder))]
    cells = leads(slot.heads, relations)
    if len(cells):
        legend = [(ORANGE, "outline", "member"), (ORANGE, "dot", "chosen on the other half of the sentences"),
                  (PALE, "cell", "no better than the best offset")]  # fmt: skip
        chart = Chart(grammar_charts.relation_map(*placed(cells)), "Every relation in every head")
        says = "Columns are heads, layer by layer; point at a cell for its numbers."
        blocks.append(Figure([chart], says, slot.path("heads.csv"), "wide", legend))
    return [
        *blocks,
        table(slot.grammar, path),
        Note(PUBLISHED),
        *nothing_to_say(relations, path),
        *without(slot, context),
    ]


def findings(grammar: pd.DataFrame, causal: bool) -> str:
    """Say what the chosen heads gain over the best offset: in the middle, at most, and over all words."""
    gains = measured(grammar)
    top, worst = gains.loc[gains["gain"].idxmax()], gains.loc[gains["gain"].idxmin()]
    text = (
        f"Over {len(gains)} relations (a label in one direction) the chosen head finds the right word more often than "
        f"the best fixed offset does by {percent(gains['gain'].median(), True)} points in the median. Largest: "
        f"{_gain(top)}; smallest: {_gain(worst)}. "
    )
    for _, row in grammar[grammar["label"] == "all"].iterrows():
        text += whole(row)
    return text + (CAUSAL if causal else "UAS is over dependents, each of which has one head.")


def _gain(row: pd.Series) -> str:
    return (
        f"{row['relation']}, {row['name']} with {percent(row['accuracy'])} % against {percent(row['baseline'])} %, "
        f"{points(row)} points ({int(row['trials'])} query words)"
    )


def whole(row: pd.Series) -> str:
    """Say what all chosen heads find together: UAS if all look from the dependent to its head, else a hit rate."""
    what = "are found by the chosen heads from their dependents, labels given (UAS)"
    if row["direction"] != "dep-to-head":
        what = "are found, labels given, over both directions (a hit rate, not a UAS: any dependent of a head counts)"
    return (
        f"With the chosen head of each label, {percent(row['accuracy'])} % {percents(row['low'], row['high'])} of "
        f"{int(row['trials'])} words {what}; with the best offset of each label, {percent(row['baseline'])} %: "
        f"{points(row)} points. "
    )


def table(grammar: pd.DataFrame, path: str) -> Table:
    """Return the table in the shape of Clark's Table 1, with the published numbers beside ours."""
    cells, marked = [], []
    together = grammar[grammar["label"] == "all"].assign(name="by label")
    names = together["direction"].map({"dep-to-head": "all → head (UAS)", "head-to-dep": "all → dependents"})
    together["relation"] = names.fillna("all (hit rate, both directions)")
    for _, row in pd.concat([together, measured(grammar)]).iterrows():
        if clear_percents(row["gain_low"], row["gain_high"]) > 0:
            marked.append(len(cells))
        beside = f" ({offset(row['best_offset'])})" if row["best_offset"] == row["best_offset"] else ""
        attention = "–" if row["mass"] != row["mass"] else f"{percent(row['mass'])} ({percent(row['mass_null'])})"
        words = f"{int(row['trials'])}" + (f" of {int(row['queries'])}" if row["queries"] == row["queries"] else "")
        cells.append([
            row["relation"], row["name"], f"{percent(row['accuracy'])} {percents(row['low'], row['high'])}",
            f"{percent(row['baseline'])}{beside}", points(row), attention, words, 
            published(row["label"], row["direction"]),
        ])  # fmt: skip
    columns = ["relation", "head", "accuracy, %", "best offset, %", "gain, points",
               "attention on it (on another word), %", "query words",
               "another model and set: Clark+ 2019 (BERT-base, WSJ), %"]  # fmt: skip
    says = (
        "→ head: from the dependent to its head; → dependents: from the head to its dependents of that label. Bold: "
        "the 95 % interval of the gain lies above 0. '1 left': the word before. Query words: those reported on, of "
        "all; the head was chosen on the other half of the sentences."
    )
    return Table(columns, cells, says, path, (2, 3, 4, 5, 6), tuple(marked))


def published(label: str, direction: str) -> str:
    """Write what Clark+ 2019 printed for a relation: accuracy (best offset), and their label."""
    line = (clark.ALL if label == "all" else clark.COUNTERPARTS.get(label)) if direction == "dep-to-head" else None
    if line is None:
        return "–"
    return f"{line.accuracy:.1f} ({line.baseline:.1f}, {offset(-line.offset)}) {line.label}"


def offset(words: float) -> str:
    """Write an offset (query - key, in words) as a side: 1 left."""
    return f"{abs(int(words))} {'left' if words > 0 else 'right'}"


def points(row: pd.Series) -> str:
    """Write a gain with its interval in points."""
    return f"{percent(row['gain'], True)} {percents(row['gain_low'], row['gain_high'], True)}".strip()


def nothing_to_say(relations: pd.DataFrame, path: str) -> list:
    """Show the rise of attention to first and special tokens where the relation is absent, chosen heads and others."""
    relations = relations[relations["rise"].notna()]
    if relations.empty:
        return [Note("Whether heads look at first and special tokens when their relation is absent was not measured.")]
    beyond = [clear_percents(*pair) > 0 for pair in zip(relations["others_low"], relations["others_high"], strict=True)]
    top = relations.loc[relations["rise"].idxmax()]
    says = (
        f"{SILENT} Over {len(relations)} relations it rises by {percent(relations['rise'].median(), True)} points in "
        f"the median in the chosen heads, and by {percent(relations['others'].median(), True)} in the model's other "
        "heads. "
        f"Largest rise: {top['relation']}, {top['name']}, {percent(top['rise'], True)} "
        f"{percents(top['rise_low'], top['rise_high'], True)}."
    )
    low, high, others_low, others_high = (
        relations[name] for name in "rise_low rise_high others_low others_high".split()
    )
    data = relations.assign(
        beyond=[int(more) for more in beyond], low=low, high=high,
        interval=[percents(*pair, sign=True) for pair in zip(low, high, strict=True)],
        difference=[percents(*pair, sign=True) for pair in zip(others_low, others_high, strict=True)],
    )  # fmt: skip
    keep = "label name sink sink_elsewhere rise low high interval others difference beyond trials".split()
    ends = data[["low", "high", "others"]].stack()
    domain = (min(0.0, float(ends.min())), max(0.0, float(ends.max())))
    cards = []
    for direction, words in DIRECTIONS.items():
        part = data[data["direction"] == direction]
        if len(part):
            there = [label for label in LABELS if label in set(part["label"])]
            cards.append(Chart(grammar_charts.rise(part[keep], there, domain), f"Nothing to say: {words}"))
    legend = [(ORANGE, "circle", "chosen head, rises more than the others"),
              (BLUE, "hollow circle", "chosen head, not told apart from them, or less"),
              (GREY, "square", "the other heads' mean")]  # fmt: skip
    return [Figure(cards, says, path, "cards", legend)]


def without(slot: Slot, context: Context) -> list:
    """Say where it stands what silencing the best heads of each group of relations does to minimal pairs."""
    silenced = rows.silenced(slot.effects, context.families)
    claims = silenced[silenced["family"].str.startswith(PREFIX) & silenced["claim"]]
    if claims.empty:
        why = f"Grammar heads were not silenced ({slot.path('effects.csv')} has no such rows)."
        return [Note(why)] if slot.decoder else []
    return [Note(verdicts.elsewhere(slot, claims))]
