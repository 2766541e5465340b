"""The MLP as a key-value store: look up, insert, miss, and what of it holds."""

from typing import Any

import pandas as pd

from stages.page.inputs import Slot
from stages.page.memory_chart import by_layer, by_number
from stages.page.memory_claims import claims, rows_of
from stages.page.memory_longer import folded
from stages.page.memory_read import FEW, MEASURES, Read, shown, subjects
from stages.page.page import Chart, Figure, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import beyond, listed, number, p_value

WHAT = (
    "An MLP's output matrix can be read as a store, W = Σ v kᵀ: what the MLP reads is a key k, what it writes is the "
    "value W k. Three claims are tried on facts such as a country's capital. Look-up: one output is changed at one "
    "token, of an MLP at the subject's last token, of an attention layer at the prompt's last token: the mean over "
    "other subjects is put in, or another subject's output, and it is seen whose answer comes out. Insert: a pair is "
    "added, W + δ aᵀ, which is a LoRA of rank one; a in closed form from the key and the keys of plain text, so that "
    "other keys are moved little. Miss: subjects with invented names are asked, which no store can hold. Layers are "
    "chosen on split a by the other subject's answers, all else is said of split b (names of equally many tokens are "
    "of both: nothing was chosen on them). An answer is judged by its first token in look-ups, whole in insertions, "
    "and by the text that is written in misses."
)
INSERTED = {  # what: how a row is called
    "edit": "in closed form",
    "identity": "control: C = identity (keys of text left out)",
    "random": "control: a random δ of the same length",
    "descent": "control: a LoRA of rank one by descent",
    "true": "true facts overwritten",
    "true_preserved": "the same, known keys of split a preserved",
}
GROUPED = {
    "joint": "{n} at once, solved jointly", "joint_preserved": "{n} at once, jointly, known keys of split a preserved",
    "summed": "{n} at once, single edits summed",
}  # fmt: skip
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


def memory(slot: Slot, context: Context) -> list:
    """Show what is looked up where, what can be inserted, and what a miss looks like."""
    rows, path = slot.memory, slot.path("memory.csv")
    if rows.empty:
        why = slot.reasons.get("memory") or f"{path} has no rows"
        return [Note(f"MLPs were not read as a store: {why}.")]
    read = Read.of(rows)
    if read is None:
        return [Note("Nothing was looked up: the model answers not one of the known facts right.")]
    said = [_looked_up(read), _word(read), _elsewhere(read), _units(read), _counted(read, context)]
    blocks: list[Any] = [Note(WHAT), *_claims(read, path), Note(" ".join(filter(None, said)))]
    blocks += _figure(read, path)
    blocks += [Note(" ".join(filter(None, [_inserted(read), _written(read), _true(read)])))]
    blocks += _insertions(read, path)
    blocks += [Note(_together(read)), *_numbers(read, path)]
    blocks += [Note(" ".join(filter(None, [_missed(read), _after(read), _scores(read)])))]
    blocks += [*_answers(read, path), *_areas(read, path), *folded(slot)]
    return [block for block in blocks if block.kind != "note" or block.text]


def _looked_up(read: Read) -> str:
    """Say whether one layer's MLP output decides whose answer is given."""
    same = {"part": "lookup", "group": read.relation}
    intact = read.cell(what="intact", measure="own", **same)
    donor = read.cell(what="interchange", layer=read.layer, measure="donor", **same)
    if intact is None or donor is None:
        return ""
    kept = read.cells(what="interchange", measure="own", **same)
    others, gave = kept[kept["layer"] != read.layer], read.cells(what="interchange", measure="donor", **same)
    gave = gave[gave["layer"] != read.layer]
    said = (
        f"The intact model answers {shown(intact)} of {int(intact['trials'])} known facts right. With another "
        f"subject's MLP output of layer {read.layer} put in at the subject, it gives that subject's answer in "
        f"{shown(donor)}{subjects(donor)}"
    )
    if len(others):
        said += (
            f"; of every other layer, in at most {number(gave['value'].max())}, while the own answer stays in at least "
            f"{number(others['value'].min())} (layer {int(others.loc[others['value'].idxmin(), 'layer'])})"
        )
        alone = donor["clusters"] >= FEW and donor["low"] > 0.5 and others["value"].min() > 0.5
        said += ": of the MLPs, one decides it" if alone else ": no one MLP is shown to decide it alone"
    mean = read.cell(what="mean", layer=read.layer, measure="own", **same)
    if mean is not None:
        said += f". With the mean put in there, {shown(mean)} are still right"
        if pd.notna(mean["p"]):
            said += (
                f" (rank among all layers p = {p_value(mean['p'])}, floor of so many layers {p_value(mean['p_floor'])})"
            )
    return f"{said}."


def _word(read: Read) -> str:
    """Say what the same ablation does where nothing has to be known."""
    parts, harmed, fewest = [], [], FEW
    for group, what in (("copy", "copying a word"), ("capitalize", "capitalising one")):
        intact = read.cell(part="lookup", what="intact", group=group, measure="own")
        left = read.cell(part="lookup", what="mean", group=group, measure="own", layer=read.layer)
        if intact is not None and left is not None:
            others = read.cells(part="lookup", what="mean", group=group, measure="own")
            least = others[others["layer"] != read.layer]["value"].min()
            parts.append(
                f"{what} stays right in {shown(left)} of {int(left['trials'])}"
                + (f" (any other layer's: at least {number(least)})" if pd.notna(least) else "")
            )
            harmed += [what.split()[0]] * bool(left["high"] < 1)
            fewest = min(fewest, int(left["clusters"]))
    if not parts:
        return ""
    side = f"so more than knowledge is lost, {listed(harmed)} as well" if harmed else "they can do without it"
    few = f" ({fewest} words, too few for a claim)" if fewest < FEW else ""
    same = "The same ablation where nothing has to be known, on words that are right otherwise"
    return f"{same}: {'; '.join(parts)}: {side}{few}."


def _elsewhere(read: Read) -> str:
    """Say what attention outputs at the last token carry."""
    same = {"part": "lookup", "group": read.relation, "what": "attention_interchange", "measure": "donor"}
    donor = read.cell(layer=read.attention, **same)
    if donor is None:
        return ""
    others = read.cells(**same)
    others = others[others["layer"] != read.attention]["value"]
    rest = f", of every other layer's in at most {number(others.max())}" if len(others) else ""
    return (
        f"Attention outputs at the prompt's last token: layer {read.attention}'s, taken from another subject, brings "
        f"that subject's answer in {shown(donor)}{subjects(donor)}{rest}."
    )


def _units(read: Read) -> str:
    """Say how high the answer stands in what active units write, beside its controls."""
    cells = [
        read.cell(part="lookup", what="promoted", measure=measure)
        for measure in ("units", "units_shuffled", "embedding", "embedding_shuffled")
    ]
    if any(cell is None for cell in cells):
        return ""
    units, shuffled, embedding, other = cells
    told = pd.notna(embedding["low"]) and embedding["low"] > units["high"] and units["clusters"] >= FEW
    verdict = ": the embedding alone ranks it higher, so that this shows no knowledge of these units" if told else ""
    return (
        f"Read through the unembedding{subjects(units)}, the answer stands above "
        f"{shown(units)} of the vocabulary in what the ten most active units write (0.5 by chance; "
        f"{shown(shuffled)} for other subjects' answers), and above {shown(embedding, 3)} in the "
        f"subject's input embedding, before any MLP ({number(other['value'], 3)} for other answers){verdict}."
    )


def _counted(read: Read, context: Context) -> str:
    rows = context.counted
    rows = rows[(rows["task"] == "facts") & (rows["group"] == read.relation) & (rows["measure"] == "accuracy")]
    said = [f"{'of the text' if row.baseline == 'ngram' else 'of text and prompt'} {number(row.value)}"
            for row in rows.itertuples()]  # fmt: skip
    return f"Right answers of all facts asked by counting words, n-grams {', '.join(said)}." if said else ""


def _figure(read: Read, path: str) -> list:
    charts = []
    for name, what in (("", "MLP outputs, at the subject"), ("attention_", "Attention outputs, at the last token")):
        parts = [
            read.cells(part="lookup", group=group, what=f"{name}{done}", measure=measure).assign(line=line)
            for line, group, done, measure in (
                ("donor", read.relation, "interchange", "donor"), ("own", read.relation, "mean", "own"),
                ("copy", "copy", "mean", "own"), ("capitalize", "capitalize", "mean", "own"),
            )
        ]  # fmt: skip
        rows = pd.concat([part for part in parts if len(part)] or parts[:1])
        if len(rows):
            charts.append(Chart(by_layer(rows), what, ""))
    if not charts:
        return []
    says = "One layer's output changed at one token, on prompts that the intact model answers right (split b)."
    return [Figure(charts, says, path, "cards")]


def _inserted(read: Read) -> str:
    """Say whether an inserted fact is recalled, in other words too, and what else it moves."""
    same = {"part": "insert", "group": "invented", "layer": read.layer}
    cells = {measure: read.cell(what="edit", measure=measure, **same) for measure in MEASURES}
    if cells["efficacy"] is None:
        return "Nothing was inserted."
    said = (
        f"Inserted into layer {read.layer}, one fact at a time: {shown(cells['efficacy'])} of "
        f"{int(cells['efficacy']['clusters'])} invented facts are recalled{subjects(cells['efficacy'])}"
    )
    if cells["paraphrase"] is not None:
        said += f", {shown(cells['paraphrase'])} in words that the edit has not seen"
    if cells["neighbours"] is not None:
        said += f"; known subjects stay right in {shown(cells['neighbours'])}"
    random = read.cell(what="random", measure="efficacy", **same)
    if random is not None:
        said += f"; with a random δ of the same length {shown(random)} are recalled"
    kl, other = cells["text_kl"], read.cell(what="identity", measure="text_kl", **same)
    if kl is not None and other is not None:
        said += (
            f". Plain text: loss {shown(cells['text_loss'], 3, True)} nats a token, KL {number(kl['value'], 4)}; with "
            f"C = identity, KL {number(other['value'], 4)}"
        )
        if kl["value"] > 0:
            said += f", about {number(other['value'] / kl['value'], 0)} times as much"
    hijacked = cells["hijacked"]
    if hijacked is not None:
        said += f". Another invented name gets the object as well in {shown(hijacked)} of pairs"
        if hijacked["low"] > 0.05:
            said += ": the key is not the name's alone"
    return f"{said}."


def _claims(read: Read, path: str) -> list:
    rows, heads = rows_of(claims(read.layer, read.relation), read.cells)
    says = (
        "Claim by claim: the bars were fixed after trials on Gemma 3 270M, so that they are no test of that model; "
        "95 % intervals over subjects, of text over passages. Number: of subjects, of a difference of two classes' "
        "both."
    )
    return [Table(["claim", "bar", "measured", "number", "verdict"], rows, says, path, (1, 2, 3), tuple(heads))]


def _written(read: Read) -> str:
    """Say what the adapter of the first fact is, as it was read back from its file."""
    second, reload = (read.cell(part="insert", what="adapter", measure=name) for name in ("second_singular", "reload"))
    if second is None or reload is None:
        return ""
    rank = "so it has rank one up to rounding" if second["value"] <= 100 else "which is more than rounding"
    return (
        "Written as a LoRA and read back: the second singular value of the changed weight's difference is "
        f"{number(second['value'], 1)} millionths of the first, {rank}; merged, logits after the fact's prompt differ "
        f"from the tried edit's by at most {number(reload['value'] / 1e6, 5)}."
    )


def _sizes(read: Read) -> list[int]:
    whats = read.cells(part="insert", measure="efficacy")["what"]
    return sorted(int(what.partition("-")[2]) for what in whats if what.startswith("joint-"))


def _together(read: Read) -> str:
    """Say whether facts that are inserted together are recalled, as a sum and solved jointly."""
    parts, told = [], []
    for size in _sizes(read):
        cells = [read.cell(part="insert", what=f"{what}-{size}", measure="efficacy") for what in ("joint", "summed")]
        less = read.cell(part="insert", what=f"joint_less_summed-{size}", measure="efficacy")
        if any(cell is None for cell in (*cells, less)):
            continue
        parts.append(
            f"{size} at once, solved jointly {shown(cells[0])} are recalled, as the sum of {size} edits "
            f"{shown(cells[1])}, a difference of {shown(less, 2, True)}"
        )
        if less["clusters"] >= FEW and pd.notna(less["low"]):
            told.append((size, beyond(less["low"], less["high"])))
    if not parts:
        return ""
    lost = [str(size) for size, side in told if side > 0]
    won = [str(size) for size, side in told if side < 0]
    verdict = "too few facts for a claim" if not told else "at no number are the two told apart"
    if lost:
        verdict = f"with {listed(lost)}, edits do not add up by themselves"
    elif won:
        verdict = f"with {listed(won)}, the sum does better"
    known = [
        read.cell(part="insert", what=f"{what}-{_sizes(read)[-1]}", measure="neighbours")
        for what in ("joint", "joint_preserved")
    ]
    if all(cell is not None for cell in known):
        verdict += (
            f". Under the {_sizes(read)[-1]} solved jointly, known subjects stay right in {shown(known[0])}"
            f"{subjects(known[0])}; with the keys of those of split a preserved, in {shown(known[1])}"
        )
    groups = "Facts in groups, every fact once per size (intervals over facts, for these groups)"
    return f"{groups}: {'; '.join(parts)}: {verdict}."


def _numbers(read: Read, path: str) -> list:
    parts = []
    for what in GROUPED:
        lines = {"efficacy": what} if what == "summed" else {"efficacy": what, "neighbours": f"{what} known"}
        for measure, line in lines.items():
            cells = [read.cells(part="insert", what="edit", layer=read.layer, group="invented", measure=measure)]
            cells = [of_one.assign(facts=1) for of_one in cells if what != "joint_preserved"]
            cells += [
                read.cells(part="insert", what=f"{what}-{size}", measure=measure).assign(facts=size)
                for size in _sizes(read)
            ]
            parts += [cell.assign(line=line) for cell in cells if len(cell)]
    rows = pd.concat(parts) if parts else pd.DataFrame()
    if rows.empty or rows["facts"].nunique() < 2:
        return []
    says = (
        "Facts inserted at once against what is recalled, and known subjects that stay right under them: one is asked "
        "for each fact. 95 % intervals over facts."
    )
    return [Figure([Chart(by_number(rows), "Number of facts and recall", "")], says, path, "cards")]


def _true(read: Read) -> str:
    """Say what overwriting true facts does to other true facts."""
    plain, kept = (
        {measure: read.cell(part="insert", what=what, measure=measure) for measure in ("efficacy", "neighbours")}
        for what in ("true", "true_preserved")
    )
    if any(cell is None for cells in (plain, kept) for cell in cells.values()):
        return ""
    return (
        f"True facts overwritten: {shown(plain['efficacy'])} are recalled as written, and other known subjects stay "
        f"right in {shown(plain['neighbours'])}; with the keys of known subjects of split a preserved, in "
        f"{shown(kept['neighbours'])}, recalled {shown(kept['efficacy'])}{subjects(plain['efficacy'])}."
    )


def _insertions(read: Read, path: str) -> list:
    table = []
    names = INSERTED | {f"{what}-{n}": name.format(n=n) for n in _sizes(read) for what, name in GROUPED.items()}
    for what, name in names.items():
        for layer in sorted(read.cells(part="insert", what=what)["layer"].unique()):
            cells = [read.cell(part="insert", what=what, layer=layer, measure=measure) for measure in MEASURES]
            if cells[0] is not None:
                values = [
                    shown(cell, 3 if m.startswith("text") else 2) for m, cell in zip(MEASURES, cells, strict=True)
                ]
                table.append([name, str(int(layer)), str(int(cells[0]["clusters"])), *values])
    if not table:
        return []
    says = (
        "Facts written into an MLP; 95 % intervals over facts. Known subjects: those that the intact model answers "
        "right. Text: each fact is tried on a passage of split b. The first fact, and all jointly with known "
        "ones preserved, lie in "
        f"data/memory/{path.split('/')[-2]}/adapters/ as adapters that peft reads."
    )
    return [
        Table(["edit", "layer", "facts", *MEASURES.values()], table, says, path, tuple(range(1, 3 + len(MEASURES))))
    ]


def _missed(read: Read) -> str:
    """Say how answers about invented subjects differ from those about known ones."""
    gap = read.cell(part="miss", what="main", group="gap", measure="entropy")
    if gap is None:
        return ""
    longer = "; invented names are longer and rarer as well" if _longer(read) else ""
    said = (
        f"A miss: predictions of the answer's first token have {shown(gap, 2, True)} nats more entropy for invented "
        f"subjects than for known ones{_side(gap, longer)}{subjects(gap)}."
    )
    matched = read.cell(part="miss", what="main", group="gap_matched", measure="entropy")
    area = read.cell(part="miss", what="area", group="gap_matched", measure="logprob")
    rarer = "; the invented names are rarer still" if area is not None and area["value"] > 0.9 else ""
    if matched is not None:
        said += (
            f" Than for real ones of as many tokens: {shown(matched, 2, True)} nats more"
            f"{_side(matched, rarer)}{subjects(matched)}."
        )
    agreed = {name: read.cell(part="miss", what="shown", group=name, measure="agreement") for name in CLASSES}
    known, invented = agreed["known"], agreed["invented"]
    if known is not None and invented is not None:
        less = read.cell(part="miss", what="shown", group="gap", measure="agreement")
        apart = less is not None and less["low"] > 0 and min(known["clusters"], invented["clusters"]) >= FEW
        said += (
            f" After two different sets of demonstrations the answers agree in {shown(known)} for known and in "
            f"{shown(invented)} for invented subjects{subjects(invented)}, a difference of {shown(less, 2, True)}"
            f"{': answers about known subjects agree more often' if apart else ': not told apart'}."
        )
    real, made = agreed["matched_real"], agreed["matched_invented"]
    less = read.cell(part="miss", what="shown", group="gap_matched", measure="agreement")
    if real is not None and made is not None and less is not None:
        apart = less["low"] > 0 and min(real["clusters"], made["clusters"]) >= FEW
        said += (
            f" Real and invented ones of as many tokens: {shown(real)} and {shown(made)}{subjects(made)}, a difference "
            f"of {shown(less, 2, True)}{': the same holds' if apart else ': not told apart'}."
        )
    objects = {
        what: read.cell(part="miss", what=what, group="invented", measure="object") for what in ("main", "shown")
    }
    if all(cell is not None for cell in objects.values()):
        said += (
            f" Another subject's answer is what an invented one gets in {shown(objects['main'])} "
            f"without demonstrations and in {shown(objects['shown'])} after them."
        )
    return said


def _side(gap: Any, more: str = "") -> str:
    """Say on which side of 0 a gap of entropy lies; more: what else tells the classes apart."""
    if pd.isna(gap["low"]):
        return ""
    said = {1: f": a miss is less certain{more}", -1: ": a miss is more certain", 0: ": not told apart"}
    return said[beyond(gap["low"], gap["high"])]


def _after(read: Read) -> str:
    """Say what answers about the same subjects are once all facts are inserted jointly."""
    right = read.cell(part="miss", what="main_after", group="invented", measure="right")
    change = {
        (group, measure): read.cell(part="miss", what=f"{what}_change", group=group, measure=measure)
        for group in ("known", "invented")
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
    area = read.cell(part="miss", what="area", group="gap", measure="tokens")
    return area is not None and area["value"] < 0.5


def _answers(read: Read, path: str) -> list:
    table = []
    for name, called in CLASSES.items():
        for what, how in ASKED.items():
            entropy = read.cell(part="miss", what=what, group=name, measure="entropy")
            if entropy is not None:
                cells = [
                    None
                    if measure == "right" and name.endswith("invented") and not what.endswith("after")
                    else read.cell(part="miss", what=what, group=name, measure=measure)
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
    cells = read.cells(part="miss", what="area", group="gap_matched")
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
        cells = [read.cell(part="miss", what="area", group=group, measure=measure) for group in ("gap", "gap_matched")]
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


SECTION = SlotSection("memory", "The MLP as a store of facts", 84, memory, predicts=True)
