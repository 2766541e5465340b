"""How to read the page: definitions, thresholds, sources, and where the data lie."""

import pandas as pd

from stages.families.family import Family
from stages.page.head_maps import PREFIX
from stages.page.inputs import COLUMNS, Slot
from stages.page.inputs import COUNTING as COUNTED
from stages.page.page import Note, Section, Table
from stages.page.rows import threshold
from stages.page.sentences import STATISTICS, TASKS
from stages.store.paths import COUNTING, SOURCES

FILES = {
    "model.json": "origin, checksums, anatomy, versions, reasons for what is missing",
    "metrics.json": "the numbers that `dvc metrics diff` compares",
    "heads.csv": "every head in every family: score, null, baseline, interval, q-value, verdict",
    "reliability.csv": "split-half rank correlation, members and threshold per family",
    "overlap.csv": "heads shared by two families",
    "switch.csv": "in-context learning without heads of one family that are not another's",
    "effects.csv": "the intact model, every set of heads silenced, and the family's rank among its control sets",
    "causal.csv": "every single head: first-order change, and the exact one where it was silenced alone",
    "agreement.csv": "how well first-order changes agree with exact ones, per task",
    "grammar.csv": "the best head of every grammatical relation, against the best offset and against its own sinks",
    "iteration.csv": "whether tapes are written, and the best head per function and relation, against the best offset",
    "circuit.csv": "what paths from earlier heads into the keys of induction heads carry, beside all other heads",
    "extrapolation.csv": "answers to usual, rare and made-up words per function, with demonstrations and with vectors",
    "orders.csv": "the next word of known and made-up orders, stated or not, and under the vector of the step",
    "neighbours.csv": "labels given to new items, the vote of the nearest demonstrations, answers without heads",
    "memory.csv": "facts: MLP and attention outputs replaced by layer, facts inserted, answers about invented subjects",
    "steering.csv": "accuracy with and without function vectors, and the top heads' rank among control sets",
    "sweep.csv": "settings of function vectors that were tried, and what they gave on the prompts that chose",
    "shifts.csv": "offsets of a function's pairs, and both members of pairs under its vector, twice it and minus it",
    "readings.csv": "likeliest tokens of every function vector, read through the unembedding, beside random ones",
    "sinks.csv": "who looks at the first token, on which input; what is fetched there; lengths of residuals",
    "probes.csv": "what linear probes read from one token's state, layer by layer",
    "composed.csv": "composed functions under sums of two functions' vectors",
    "gates.csv": "what is lost when a head, or a key head, sees only sinks and a window, beside its other scores",
    "gates_overlap.csv": "definitions of a head that needs the far past: heads of each, of both, rank correlation",
    "cache.csv": "recall and loss when some key heads keep all and the others stream",
    "streaming.csv": "loss on text when all heads stream, by number of sinks and length",
    "images.csv": "of models of images: norms of patches, class token and registers, and the attention they get",
    "continued.csv": "next tokens of plain text under function vectors",
}
ORIGIN = (
    "Builtin prompts are written, or drawn at random, by this repository; each task can read other data instead "
    "(`tasks.<task>.source` in params.yaml). Some prompts are there to choose on, the others to report on; those that "
    "share text count as one that is independent. The example is the first that is reported on, a long one without its "
    "middle: what is scored stands in « », a rival of it behind |; where nothing is scored, a relation that attention "
    "is compared with may follow in brackets. ⏎ ends a line."
)
GAIN = "grammar.gain."  # of the names of metrics, one per label and direction
READING = (
    "A score is not a verdict. Its null is the mass that the same queries give an average other visible key (where the "
    "score counts queries with more than half of it on the target: how many give another key that much); for "
    "families that a fixed offset could fake, the baseline is the best fixed offset's accuracy. Intervals of scores "
    "are 95 % intervals over prompts, those of one cluster (below) kept together, as those of effects are. A head is "
    "a member when its score reaches the threshold, the one-sided sign-flip test of score minus null has q < {alpha:g} "
    "(Benjamini-Hochberg over the heads of a family), the score exceeds the null by at least {margin:g} (for indirect "
    "effects the null is 0 and the threshold is enough), and, where there is a baseline, the lower bound exceeds it "
    "(which below 8 clusters of prompts cannot be shown). "
    "Streaming has no test: its mass says whether a cut cache would lose anything.",
    "The score of a grammar head is over words, not tokens: attention to a word is the sum over its pieces, attention "
    "from a word the mean, and the word itself and special tokens are taken out. It is the share of query words whose "
    "most attended word is a right one; its null is the best fixed offset in words for that label and direction. A "
    "head word with several dependents of one label counts once, and any of them is a hit. The best head is chosen "
    "on one half of the sentences and reported on the other. Beating every fixed offset is necessary for syntax, not "
    "sufficient: a head that looks at the last verb, whatever the tree, beats it too on some labels, and so many heads "
    "are members of some.",
    "A claim about what heads do needs an ablation. The best heads of a family, its members by one half of the "
    "prompts and in the order of their scores there (the best non-members, marked, where it has none), are silenced "
    "on prompts of the other half: something else is written where they write. Mean ablation writes a head's mean "
    "output on text, zero ablation zeros. Silencing any heads does damage, so the family is ranked among control "
    "sets: as many other heads, of the same or the nearest layers and, where enough are left, of the same kind of "
    "attention. Members of families that are tested in this way (for this, by all prompts or by the half that sets "
    "are chosen on) are left out as long as a third of the heads remains; those of the families with most members are"
    " let in first, and every claim says which its control sets hold. The rank p is (1 + control sets that do at "
    "least as much harm) / (1 + control sets); it cannot fall below its floor, 1 / (1 + control sets), so that at the"
    " floor no control set did as much. q is p after Benjamini-Hochberg over all claims of the slot in one way of "
    "silencing: every family on the main measure of every task that it is asked about. On other tasks no control sets "
    "are run: the harm there only shows whether the damage is general. Where heads are few, control sets overlap: "
    "their mean Jaccard index is given, and the more they share, the less a rank among them says.",
    "Intervals of effects are over clusters of prompts (Student's t, corrected for skewness after Hall 1992; Wilson's "
    "for shares), for exactly the heads that were silenced: they say nothing of other heads. Below 8 clusters there is "
    "none. Where the intact model cannot do a task, nothing can be lost, and there is no rank. A value worse than a "
    "uniform guess is noted: the model was pushed to where it never is, and the size of the damage then says little.",
    "First-order effects are gradients: of a task's measure at a head's output z, times (what silencing would write - "
    "z), summed over positions, for all heads in one backward pass. They are estimates; the agreement with heads that "
    "were silenced one by one, over a random sample and those that the page names, is given as it is.",
    "Every choice (the top heads, the best head under a map, a layer, a strength) is made on one half of the prompts "
    "and reported on the other. Prompts of one cluster (a passage, a fact, a set of demonstrations, a sentence) stay "
    "in one half. That does not keep all text apart: passages of one length share none, but short and long ones are "
    "cut from the same text and split by themselves, so that a short one of one half can lie in a long one of the "
    "other; sentences around needles come from one text for both halves; and where two in-context functions ask about "
    "one word, that bare question can stand in both, with another answer in each. Layers, heads and tokens count from "
    "0: L5H1 is head 1 of layer 5.",
)


def sections(slots: list[Slot], families: dict[str, Family], alpha: float, margin: float) -> list[Section]:
    """Return the sections that stand once, after all slots."""
    reading = [Note(text.format(alpha=alpha, margin=margin)) for text in READING]
    table = [
        [f.name, f.relation_text, f.task, STATISTICS[f.statistic], _member_at(slots, f), f.source]
        for f in families.values() if not f.name.startswith(PREFIX)
    ]  # fmt: skip
    if grammatical := [f for f in families.values() if f.name.startswith(PREFIX)]:
        first = grammatical[0]
        table.append([
            "grammar, one per label and direction", "dependent word → its head; head → its dependents", first.task,
            STATISTICS[first.statistic], "above the best offset", first.source,
        ])  # fmt: skip
    columns = ["family", "looks from → to", "task", "score", "member at", "source"]
    files = [
        [slot.path(file), what, COLUMNS.get(file.removesuffix(".csv"), "").replace(" ", ", ")]
        for slot in slots for file, what in FILES.items()
    ]  # fmt: skip
    files.append([COUNTING.as_posix(), "what counting words can do on the same prompts", COUNTED.replace(" ", ", ")])
    return [
        Section("methods", "Methods in short", [*reading, Table(columns, table, numeric=())], seen=1),
        Section("data", "Where the data lie", [
            Note("All paths are relative to the repository. `dvc repro` makes every one of them again."),
            Table(["file", "what it holds", "columns"], files),
        ]),
    ]  # fmt: skip


def _member_at(slots: list[Slot], family: Family) -> str:
    """Write the threshold in force, and the built-in one where params set another."""
    used = sorted({threshold(slot, family) for slot in slots}) or [family.threshold]
    if used == [family.threshold]:
        return f"{family.threshold:g}" + (" (our convention)" if family.convention else "")
    return f"{' or '.join(f'{value:g}' for value in used)} (set in params; {family.threshold:g} without)"


def prompts(sources: pd.DataFrame) -> list[Section]:
    """Return the section on where the prompts of every task come from, with one of each; sources: prompts.csv."""
    if sources.empty:
        return []
    body = [
        [TASKS.get(row.task, row.task), f"{row.source}: `{row.place}`", f"{row.prompts:.0f}",
         f"{row.a:.0f} / {row.b:.0f}", f"{row.clusters:.0f}", row.example]
        for row in sources.itertuples()
    ]  # fmt: skip
    return [Section("prompts", "Where the prompts come from", [
        Note(ORIGIN),
        Table(["task", "source", "prompts", "to choose / to report", "independent", "example"], body, "",
              SOURCES.as_posix(), numeric=(2, 3, 4)),
    ], seen=1)]  # fmt: skip


def compared(slots: list[Slot]) -> list[Section]:
    """Return a section that puts the metrics of several slots side by side; none for one slot."""
    flat = {slot.name: dict(_flat(slot.metrics)) for slot in slots if slot.metrics}
    if len(flat) < 2:
        return []
    keys = sorted({key for values in flat.values() for key in values})
    rows = {key: [in_words(key), *(_cell(values, key) for values in flat.values())] for key in keys}
    says = (
        "A dash: not measurable for that model. Names are those of `metrics.json`, with tasks as the page calls them."
    )
    numeric = tuple(range(1, len(flat) + 1))
    gains = [row for key, row in rows.items() if key.startswith(GAIN)]
    rest = [row for row in rows.values() if row not in gains]
    shared = [row for row in rest if len(row) - row.count("–") > 2]  # of two models at least
    alone = [row for row in rest if row not in shared]
    tables = [Table(["measure", *flat], shared, says, "", numeric)]
    if alone:
        folded = f"Measured of one model alone ({len(alone)})"
        tables.append(Table(["measure", *flat], alone, "", "", numeric, folded=folded))
    if gains:
        folded = f"Accuracy of grammar heads beyond the best offset ({len(gains)} relations)"
        gains = [[name.removeprefix(in_words(GAIN)), *values] for name, *values in gains]
        tables.append(Table(["relation", *flat], gains, "", "", numeric, folded=folded))
    return [Section("compared", "Side by side", tables)]


def in_words(key: str) -> str:
    """Name a metric as the page does: 'blimp.accuracy' is 'minimal pairs, accuracy'."""
    return ", ".join(TASKS.get(part, part).replace("_", " ") for part in key.split("."))


def _cell(values: dict[str, float], key: str) -> str:
    return f"{values[key]:.4g}".replace("-", "−") if key in values else "–"


def _flat(values: dict, prefix: str = "") -> list[tuple[str, float]]:
    numbers = []
    for key, value in values.items():
        if isinstance(value, dict):
            numbers += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            numbers.append((f"{prefix}{key}", value))
    return numbers
