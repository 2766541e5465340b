"""Grammar heads on the page: which head finds which relation, beside the best offset and Clark+ 2019; what for.

A claim is made only where a 95 % interval allows it. Shares are written in per cent, differences in points.
"""

import pandas as pd

from stages.families.treebank.grammar import DIRECTIONS, GROUPS, LABELS
from stages.page import clark, grammar_charts, rows
from stages.page.charts import BLUE, GREY, INK, ORANGE, PALE
from stages.page.grammar_rows import leads, measured, placed, unmeasured
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.sentences import MEASURES, by_chance, controls, interval, listed, number, percent, percents, versus

NAMED = 8  # cells named in a sentence, at most
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
    "both sides of a word), another treebank (WSJ, gold tokens) and other labels (Stanford Dependencies: `cc` hangs on "
    "the first conjunct there, on the next one here; `case`, `obl` and `nmod` have no counterpart), and their head was "
    "chosen on the words it is reported on. Their row for all words is one head for all labels; ours takes each "
    "label's own."
)


def grammar(slot: Slot) -> list:
    """Return the blocks of the section, or the reason why there is none."""
    found = measured(slot.grammar)
    if found.empty:
        why = slot.reasons.get("treebank") or unmeasured(slot) or f"{slot.path('grammar.csv')} has no rows"
        return [Note(f"No grammar head was measured: {why}.")]
    path = slot.path("grammar.csv")
    blocks: list = [Note(findings(slot.grammar, slot.causal))]
    cells = leads(slot.heads, found)
    if len(cells):
        legend = [(ORANGE, "outline", "member"), (ORANGE, "dot", "chosen on the other half of the sentences"),
                  (PALE, "cell", "no better than the best offset")]  # fmt: skip
        chart = Chart(grammar_charts.relation_map(*placed(cells)), "Every relation in every head")
        says = "Columns are heads, layer by layer; point at a cell for its numbers."
        blocks.append(Figure([chart], says, slot.path("heads.csv"), "wide", legend))
    return [*blocks, table(slot.grammar, path), Note(PUBLISHED), *nothing_to_say(found, path), *without(slot)]


def findings(grammar: pd.DataFrame, causal: bool) -> str:
    """Say on how many relations the chosen head beats the best offset, where most, and what all of them find."""
    found = measured(grammar)
    above, below = int((found["gain_low"] > 0).sum()), int((found["gain_high"] < 0).sum())
    top = found.loc[found["gain"].idxmax()]
    text = (
        f"On {above} of {len(found)} relations (a label in one direction) the chosen head finds the right word more "
        f"often than the best fixed offset does: the interval of its gain lies above 0 "
        f"({by_chance(len(found), 0.025)} by chance); on {below} it lies below. "
    )
    if above:
        text += (
            f"Largest gain: {top['relation']}, {top['name']} with {percent(top['accuracy'])} % against "
            f"{percent(top['baseline'])} %, {points(top)} points. "
        )
    whole = grammar[grammar["label"] == "all"]
    if len(whole):
        row = whole.iloc[0]
        text += (
            f"With the chosen head of each label, {percent(row['accuracy'])} % "
            f"{percents(row['low'], row['high'])} of {int(row['trials'])} words find theirs, labels given (UAS); with "
            f"the best offset of each label, {percent(row['baseline'])} %: {points(row)} points. "
        )
    return text + (CAUSAL if causal else "UAS is over dependents, each of which has one head.")


def table(grammar: pd.DataFrame, path: str) -> Table:
    """Return the table in the shape of Clark's Table 1, with the published numbers beside ours."""
    cells, marked = [], []
    whole = grammar[grammar["label"] == "all"].assign(name="by label", relation="all")
    for _, row in pd.concat([whole, measured(grammar)]).iterrows():
        if row["gain_low"] > 0:
            marked.append(len(cells))
        beside = f" ({offset(row['offset'])})" if row["offset"] == row["offset"] else ""
        attention = "–" if row["mass"] != row["mass"] else f"{percent(row['mass'])} ({percent(row['mass_null'])})"
        words = f"{int(row['trials'])}" + (f" of {int(row['queries'])}" if row["queries"] == row["queries"] else "")
        cells.append([
            row["relation"], row["name"], f"{percent(row['accuracy'])} {percents(row['low'], row['high'])}",
            f"{percent(row['baseline'])}{beside}", points(row), attention, words, 
            published(row["label"], row["direction"]),
        ])  # fmt: skip
    columns = ["relation", "head", "accuracy, %", "best offset, %", "gain, points",
               "attention on it (on another word), %", "query words", "Clark+ 2019 (BERT-base, WSJ), %"]  # fmt: skip
    says = (
        "→ head: from the dependent to its head; → dependents: from the head to its dependents of that label. Bold: "
        "the 95 % interval of the gain lies above 0. '1 left': the word before. Query words: those reported on, of "
        "all; the head was chosen on the other half of the sentences."
    )
    return Table(columns, cells, says, path, (2, 3, 4, 5, 6), tuple(marked))


def published(label: str, direction: str) -> str:
    """Write what Clark+ 2019 printed for a relation: accuracy (best offset), and their label."""
    one = clark.ALL if label == "all" else clark.COUNTERPARTS.get(label) if direction == "dep-to-head" else None
    if one is None:
        return "–"
    return f"{one.accuracy:.1f} ({one.baseline:.1f}, {offset(-one.offset)}) {one.label}"


def offset(words: float) -> str:
    """Write an offset (query - key, in words) as a side: 1 left."""
    return f"{abs(int(words))} {'left' if words > 0 else 'right'}"


def points(row: pd.Series) -> str:
    """Write a gain with its interval in points."""
    return f"{percent(row['gain'], True)} {percents(row['gain_low'], row['gain_high'], True)}".strip()


def nothing_to_say(found: pd.DataFrame, path: str) -> list:
    """Show the rise of attention to first and special tokens where the relation is absent, chosen heads and others."""
    found = found[found["rise"].notna()]
    if found.empty:
        return [Note("Whether heads look at first and special tokens when their relation is absent was not measured.")]
    above, below = int((found["rise_low"] > 0).sum()), int((found["rise_high"] < 0).sum())
    beyond = found["others_low"] > 0
    says = (
        f"{SILENT} It does in the chosen heads of {above} of {len(found)} relations (the interval of the rise lies "
        f"above 0; on {below} it lies below); on {int(beyond.sum())} of {int(found['others_low'].notna().sum())} it "
        f"rises more than in the model's other heads (the interval of the difference lies above 0)."
    )
    data = found.assign(
        beyond=beyond.astype(int), low=found["rise_low"], high=found["rise_high"],
        interval=[percents(*pair, sign=True) for pair in zip(found["rise_low"], found["rise_high"], strict=True)],
        difference=[percents(*pair, sign=True) for pair in zip(found["others_low"], found["others_high"], strict=True)],
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


def without(slot: Slot) -> list:
    """Show what silencing the best heads of each group of relations does to minimal pairs, phenomenon by phenomenon."""
    found = rows.silenced_grammar(slot.effects)
    path = slot.path("effects.csv")
    if found.empty:
        return [Note(f"Grammar heads were not silenced ({path} has no such rows).")] if slot.causal else []
    found["family"] = found["family"].str.replace("_", " ")
    names = [group.replace("_", " ") for group in GROUPS]
    phenomena = sorted(set(found["group"]), key=lambda group: (group != "all", group))
    cards = []
    for measure, part in found.groupby("measure", sort=True):
        part = part.dropna(subset="versus_control")
        bounds = zip(part["versus_low"], part["versus_high"], strict=True)
        data = part.assign(
            text=[number(value, 2, True) for value in part["versus_control"]],
            interval=[interval(*pair, 3, True) for pair in bounds],
        )
        if len(data):
            keep = "family group change control_change versus_control text interval sure trials".split()
            there = [group for group in names if group in set(data["family"])]
            chart = grammar_charts.without(data[keep], measure, there, phenomena)
            label = f"Without them: difference in {MEASURES.get(measure, (measure,))[0]}"
            cards.append(Chart(chart, label, excluding(part)))
    if not cards:
        return [Note(f"Grammar heads were silenced, but there is no matched control ({path}).")]
    k = listed(str(k) for k in sorted(set(found["k"].astype(int))))
    says = (
        f"Without them: the {k} heads that lead most over the best offset in a group of relations are replaced by "
        f"their mean output, and compared with as many matched random heads on the same minimal pairs. "
        f"{cells_said(found)} {controls(found)}"
    )
    return [Figure(cards, says, path, "cards", [(INK, "outline", "the interval of the difference excludes 0")])]


def cells_said(found: pd.DataFrame) -> str:
    """Say how many cells exclude 0, and how many would by chance."""
    tested = found[found["versus_low"].notna()]
    single, whole = tested[tested["group"] != "all"], tested[tested["group"] == "all"]
    return (
        f"Of {len(single)} cells (group, phenomenon, measure), {int(single['sure'].sum())} exclude 0 "
        f"({by_chance(len(single))} by chance); over all phenomena, {int(whole['sure'].sum())} of {len(whole)} "
        f"({by_chance(len(whole))} by chance)."
    )


def excluding(found: pd.DataFrame) -> str:
    """Name the cells of one measure that exclude 0, all phenomena first, then the largest."""
    sure = found[found["sure"]].copy()
    if sure.empty:
        return "No cell excludes 0."
    sure = sure.assign(size=-sure["versus_control"].abs(), single=sure["group"] != "all").sort_values(
        ["single", "size"]
    )
    named = [f"{r.family} on {r.group} {versus(r)}" for r in sure.head(NAMED).itertuples()]
    more = f" and {len(sure) - NAMED} more" if len(sure) > NAMED else ""
    return f"Excludes 0: {', '.join(named) if more else listed(named)}{more}."
