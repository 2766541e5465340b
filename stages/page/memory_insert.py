"""What section 'The MLP as a store' says of insertions: one fact at a time, together, over true ones."""

import pandas as pd

from stages.page.memory_chart import by_number
from stages.page.memory_read import FEW, MEASURES, Read, shown, subjects
from stages.page.page import Chart, Figure, Note, Table
from stages.page.sentences import beyond, listed, number

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


def blocks(read: Read, path: str) -> list:
    """Say what single insertions give and what many at once; list and draw them."""
    said = [_inserted(read), _written(read), _true(read)]
    alone = [*map(Note, said), *_insertions(read, path)]
    return [*alone, Note(_together(read)), *_numbers(read, path)]


def _inserted(read: Read) -> str:
    """Say whether an inserted fact is recalled, in other words too, and what else it moves."""
    same = {"part": "insert", "condition": "invented", "layer": read.layer}
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
            cells = [read.cells(part="insert", what="edit", layer=read.layer, condition="invented", measure=measure)]
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
