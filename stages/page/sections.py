"""What stands on the page for one slot, section by section; what could not be measured is said, never left out."""

import pandas as pd

from stages.families.family import Family
from stages.page import charts, counting, gaps, grammar, head_maps, iteration, rows, sentences
from stages.page.head_maps import PREFIX
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Section, Table
from stages.page.sentences import MEASURES, TASKS, number

SERIES = [
    (charts.BLUE, "circle", "the family's top heads"),
    (charts.GREY, "square", "matched random heads (the control)"),
    (charts.ORANGE, "diamond", "difference, its interval excludes 0"),
    (charts.ORANGE, "hollow diamond", "difference, 0 not excluded"),
]


def build(slot: Slot, families: dict[str, Family], tasks: list[str], counted: pd.DataFrame) -> list[Section]:
    """Return all sections of a slot, or one that says that it has no results; `counted`: the n-gram baselines."""
    if not slot.model:
        text = f"No results yet: {slot.path('model.json')} does not exist. Run `dvc repro`."
        return [Section("model", "What was studied", [Note(text)])]
    parts = {
        ("model", "What was studied"): studied(slot),
        ("intact", "What the intact model can do"): intact(slot),
        ("counting", "What counting words can do"): counting.counting(slot, counted),
        ("heads", "The heads"): heads(slot, families),
        ("grammar", "Grammar heads"): grammar.grammar(slot),
        ("iteration", "Stepping through a string"): iteration.iteration(slot, counted),
        ("effects", "What happens without them"): effects(slot, families),
        ("retrieval", "Retrieval heads, one after another"): curve(slot),
        ("vectors", "Function vectors"): vectors(slot),
        ("overlap", "Heads in several families"): overlap(slot, families),
        ("missing", "Not measurable"): gaps.missing(slot, families, tasks),
    }
    return gaps.limits(slot, [Section(anchor, title, blocks) for (anchor, title), blocks in parts.items()])


def studied(slot: Slot) -> list:
    """Say where the model comes from, under what terms, and what it is made of."""
    model = slot.model
    facts = [
        ["model", " ".join(filter(None, [model.get("name"), model.get("revision")])) + f" ({model.get('source')})"],
        [
            "architecture",
            f"{model.get('architecture')} ({model.get('kind')}), {model.get('parameters', 0):,} parameters",
        ],
        ["weights", f"{model.get('stored')}; computed in {model.get('dtype')}"],
        ["licence", str(model.get("licence"))],
        ["software", ", ".join(f"{name} {version}" for name, version in sorted(model.get("versions", {}).items()))],
    ]
    files = [[name, digest] for name, digest in sorted(model.get("files", {}).items())]
    blocks = [Note(f"{model.get('origin', '')} {sentences.anatomy(model)}"), Table([], facts)]
    if files:
        blocks.append(
            Table(
                ["file", "sha256"],
                files,
                folded=f"Checksums of the weights ({len(files)} file{'s' * (len(files) > 1)})",
            )
        )
    return blocks


def intact(slot: Slot) -> list:
    """Show accuracy and trials of the untouched model."""
    whole = rows.intact(slot.effects)
    whole = whole[whole["task"] != "iteration"]  # has a section of its own: only some functions are scored here
    path = slot.path("effects.csv")
    if whole.empty:
        return [Note(f"No task was measured on the intact model ({path} has no such rows).")]
    table = [
        [TASKS.get(r["task"], r["task"]), MEASURES.get(r["measure"], (r["measure"],))[0], number(r["value"], d),
         sentences.interval(r["low"], r["high"], d), str(int(r["trials"]))]
        for _, r in whole.iterrows() for d in [sentences.decimals(r["measure"])]
    ]  # fmt: skip
    best = whole[whole["measure"].isin(["accuracy", "recall"])]
    says = "; ".join(sentences.intact(r) for _, r in best.iterrows())
    says = f"The intact model: {says}." if says else "Only losses were measured on the intact model."
    blocks = [Table(["task", "measure", "value", "95 % interval", "trials"], table, says, path, (2, 3, 4))]
    figure = []
    for task, what in (("blimp", "phenomena"), ("icl", "functions")):
        found = rows.by_group(slot.effects, task)
        if len(found):
            chart = charts.groups(found, "accuracy", counting.CHANCE.get(task))
            label = f"{TASKS[task].capitalize()} by {'phenomenon' if task == 'blimp' else 'function'}"
            figure.append(Chart(chart, label, sentences.spread(found, what)))
    places = rows.by_place(rows.by_group(slot.effects, "needle"))
    if len(places):
        says = sentences.spread(places, "places (tokens@depth)")
        figure.append(Chart(charts.grid(places, "recall"), "Needle recall by length and depth", says))
    if figure:
        line = "Bars with 95 % intervals; the dashed line is chance (0.5 for minimal pairs)."
        blocks.append(Figure(figure, line, path))
    return blocks


def heads(slot: Slot, families: dict[str, Family]) -> list:
    """Show all heads in all families, and who the members are."""
    parts = head_maps.by_family(slot.heads, families)
    path = slot.path("heads.csv")
    if not parts:
        other = " outside grammar" if len(slot.heads) else ""
        return [Note(f"No head was scored{other} ({path} has no such rows).")]
    whole = whole_layers(slot.model)
    maps = [Chart(head_maps.head_map(r, families.get(f), whole), f, sentences.strongest(r)) for f, r in parts]
    says = (
        f"{sentences.members(slot.heads)} Rows are layers, from 0 at the top, columns are heads; point at a cell for "
    )
    says += "its numbers." + (" Layers that see the whole context are bold." if whole else "")
    legend = [(charts.ORANGE, "outline", "member"), (charts.GREY, "dot", "verdict has a note"),
              (charts.PALE, "cell", "not scored")]  # fmt: skip
    table = [_member_row(family, found, families.get(family), slot.reliability) for family, found in parts]
    table += _grammar_row(slot)
    columns = ["family", "looks from → to", "member at", "members", "split-half ρ", "top members, strongest first"]
    return [
        Figure(maps, says, path, "maps", legend),
        Table(columns, table, "ρ: rank correlation of the scores of two disjoint halves of the prompts.",
              slot.path("reliability.csv"), (2, 3, 4)),
    ]  # fmt: skip


def whole_layers(model: dict) -> list[int]:
    """Return the layers that see the whole context, of a model that also has others; [] where all do."""
    layers = model.get("attention", [])
    return [x["layer"] for x in layers if not x.get("window")] if any(x.get("window") for x in layers) else []


def _member_row(name: str, found: pd.DataFrame, family: Family | None, reliability: pd.DataFrame) -> list[str]:
    inside = found[found["member"] == 1].sort_values(["score", "layer", "head"], ascending=[False, True, True])
    names = [head_maps.head_name(*pair) for pair in zip(inside["layer"], inside["head"], strict=True)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    measured = reliability[reliability["family"] == name]
    rho = measured["spearman"].iloc[0] if len(measured) else None
    threshold = measured["threshold"].iloc[0] if len(measured) else family.threshold if family else None
    bar = "–" if threshold is None or pd.isna(threshold) else f"{threshold:g}"
    relation = family.relation_text if family else "–"
    return [name, relation, bar, str(len(names)), number(rho), (", ".join(names[:10]) + more) or "none"]


def _grammar_row(slot: Slot) -> list[list[str]]:
    """Return one row for all relations of grammar: who is a member of any, and the median of their reliability."""
    inside = slot.heads[slot.heads["family"].str.startswith(PREFIX) & (slot.heads["member"] == 1)]
    found = slot.reliability[slot.reliability["family"].str.startswith(PREFIX)]["spearman"].dropna()
    if not slot.heads["family"].str.startswith(PREFIX).any():
        return []
    counts = inside.groupby(["layer", "head"]).size().sort_values(ascending=False, kind="stable")
    names = [f"{head_maps.head_name(*key)} in {count}" for key, count in counts.head(5).items()]
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    rho = f"{number(found.median())} (median of {len(found)})" if len(found) else "–"
    top = f"{', '.join(names)}{more}; see Grammar heads" if names else "none"
    return [["grammar", "a word → its head or dependents, by label", "best offset", str(len(counts)), rho, top]]


def effects(slot: Slot, families: dict[str, Family]) -> list:
    """Show what silencing each family changes, beside matched heads."""
    pairs = rows.pairs(slot.effects, "mean")
    path = slot.path("effects.csv")
    if pairs.empty:
        return [Note(f"No family was ablated ({path} has no rows with kind = mean).")]
    order = [f for f in [*families, *sorted(set(pairs["family"]) - set(families))] if f in set(pairs["family"])]
    pairs = pairs.sort_values("family", key=lambda names: names.map(order.index), kind="stable")
    cards, table, marked = [], [], []
    for (task, measure), found in pairs.groupby(["task", "measure"], sort=False):
        name, digits = MEASURES.get(measure, (measure, 3))
        chart = charts.effects(rows.three(found), name, order)
        label = sentences.capital(f"{TASKS.get(task, task)}: {name.split(',')[0]}")
        cards.append(Chart(chart, label, sentences.task_effects(found)))
        for r in found.itertuples():
            if r.sure:
                marked.append(len(table))
            cells = [
                sentences.change(r),
                sentences.change(r, "control_"),
                sentences.versus(r) + (" ●" if r.sure else ""),
            ]
            table.append([label, r.family, number(r.value - r.change, digits), *cells, str(int(r.trials))])
    k = sentences.listed(str(k) for k in sorted(set(pairs["k"].astype(int))))
    note = (
        f"The top {k} heads of each family are replaced by their mean output and compared with as many random heads, "
        "on the same prompts. Higher accuracy, recall, log-probability and margin are better; lower loss is better."
    )
    columns = ["task: measure", "family", "intact", "family silenced", "matched silenced", "difference", "trials"]
    says = "Bold, with ●: the 95 % interval of the difference excludes 0. Intact: the same prompts, nothing silenced."
    return [
        Note(note),
        Figure(cards, f"{sentences.effects(pairs)} {sentences.controls(pairs)}", path, "cards", SERIES),
        Table(columns, table, says, path, (2, 3, 4, 5, 6), tuple(marked)),
    ]


def curve(slot: Slot) -> list:
    """Show recall against the number of retrieval heads silenced."""
    pairs = rows.pairs(slot.effects, "zero")
    pairs = pairs[pairs["family"] == "retrieval"].sort_values("k")
    path = slot.path("effects.csv")
    found = pairs[pairs["task"] == "needle"]
    if found.empty:
        why = slot.reasons.get("needle") or slot.reasons.get("retrieval")
        return [Note(f"The retrieval curve was not measured: {why or f'{path} has no rows with kind = zero'}.")]
    cards = [
        Chart(charts.curve(rows.curve(part), MEASURES.get(m, (m,))[0], m == "recall"),
              sentences.capital(MEASURES.get(m, (m,))[0]), sentences.curve(part))
        for m, part in found.groupby("measure", sort=False)
    ]  # fmt: skip
    beside = [sentences.beside(r) for _, r in pairs[pairs["task"] != "needle"].iterrows()]
    says = " ".join(beside) or "No other task was measured beside it."
    legend = [(colour, shape, name) for name, (colour, shape) in charts.CURVE.items()]
    return [Figure(cards, f"{says} {sentences.controls(found, 'k')}", path, "cards", legend)]


def vectors(slot: Slot) -> list:
    """Show what function vectors do without demonstrations, and how few heads carry the effect."""
    path = slot.path("steering.csv")
    labels = {vector: label.split(":")[0] for vector, (label, _, _) in charts.VECTORS.items()}
    steered = slot.steering[slot.steering["vector"].isin(labels)]
    contexts = [c for c in ("zero_shot", "shuffled") if c in set(steered["context"])]
    blocks = []
    if contexts:
        cards = [
            Chart(charts.steering(steered[steered["context"] == c]), f"{c.replace('_', '-').capitalize()} prompts",
                  sentences.steering(steered, c, labels))
            for c in contexts
        ]  # fmt: skip
        legend = [(colour, shape, label) for label, colour, shape in charts.VECTORS.values()]
        says = "Layer, number of heads and strength were chosen on one half of the prompts; this is the other half."
        blocks += [Figure(cards, says, path, "cards", legend), _steering_table(steered, contexts, labels, path)]
    else:
        why = slot.reasons.get("function") or slot.reasons.get("icl") or slot.reasons.get("steering")
        blocks.append(Note(f"No function vector was tested: {why or f'{path} has no rows'}."))
    shares = rows.concentration(slot.heads)
    if len(shares):
        chart = Chart(charts.concentration(shares), "Concentration of the indirect effect", "")
        blocks.append(Figure([chart], sentences.concentration(shares), slot.path("heads.csv"), "single"))
    else:
        blocks.append(Note(sentences.concentration(shares)))
    return blocks


def _steering_table(steered: pd.DataFrame, contexts: list[str], labels: dict[str, str], path: str) -> Table:
    first = steered.groupby(["function", "context", "vector"]).first()

    def cell(column: str, *key: str) -> str:
        value = first[column].get(key)
        if value is None or pd.isna(value) or (column == "layer" and value < 0):
            return "–"
        return number(value) if column == "accuracy" else f"{value:g}"

    table = []
    for name in sorted(set(steered["function"])):
        demonstrated = cell("accuracy", name, "clean", "none")
        for c in contexts:
            accuracy = [cell("accuracy", name, c, vector) for vector in labels]
            setting = [cell("heads", name, c, "heads"), *(cell(x, name, c, "function") for x in ("layer", "strength"))]
            table.append([name, c.replace("_", "-"), demonstrated, *accuracy, *setting])
    columns = [
        "function",
        "prompt",
        "intact, with demonstrations",
        *labels.values(),
        "heads used",
        "function at layer",
        "strength",
    ]
    says = "Accuracy per function, and the number of heads, layer and strength chosen for it."
    return Table(columns, table, says, path, tuple(range(2, len(columns))))


def overlap(slot: Slot, families: dict[str, Family]) -> list:
    """Show how many heads families share beyond chance."""
    found = rows.overlap(slot.overlap, list(families))
    says = sentences.overlap(found)
    if not found["corrected"].notna().any():
        return [Note(says)]
    there = set(found["family_a"]) | set(found["family_b"])
    order = [f for f in families if f in there] + sorted(there - set(families))
    text = "Numbers are chance-corrected Jaccard indices: 1 = the same heads, 0 = chance; grey = not defined."
    return [Figure([Chart(charts.overlap(found, order))], f"{says} {text}", slot.path("overlap.csv"), "single")]
