"""What a longer study says of facts written into MLPs: a LoRA by descent, a KL term, other layers, and noise."""

import pandas as pd

from stages.page.inputs import Slot
from stages.page.memory_read import FEW, MEASURES, Read, shown, subjects
from stages.page.page import Fold, Note, Table
from stages.page.sentences import beyond, listed, number

COLUMNS = MEASURES | {"subject_kl": "KL after the name, nats"}
BETTER = {"efficacy": 1, "paraphrase": 1, "neighbours": 1}  # measures of which more is better; of all others less is
SAYS = (
    "Facts written into an MLP one at a time, with 95 % intervals over facts; below a row, what it has more than the "
    "edit in closed form at the chosen layer has, on the same facts. KL after the name: of what is predicted right "
    "after it, in words that the edit has not seen."
)


def folded(slot: Slot) -> list[Fold]:
    """Return what a longer study of this slot adds, in a list; [] where there is none."""
    if "memory" not in slot.longer:
        return []
    study = slot.longer["memory"]
    read, path = Read.of(study.slot.memory), study.slot.path("memory.csv")
    if read is None:
        return []
    said = [_descended(read), *_pulled(read), _layers(read), _noised(read)]
    notes = [Note(text) for text in said if text]
    return [study.fold("other ways to insert, other layers, noise", [*notes, *_table(read, path)])]


def _cell(read: Read, what: str, layer: int, measure: str) -> pd.Series | None:
    return read.cell(part="insert", what=what, layer=layer, condition="invented", measure=measure)


def _apart(read: Read, what: str, layer: int) -> str:
    """Say in which measures an insertion differs from the edit at the chosen layer, fact by fact."""
    worse, better, same, few = [], [], [], False
    for measure, name in COLUMNS.items():
        less = _cell(read, f"{what}_less_edit", layer, measure)
        if less is None:
            continue
        digits = _digits(measure)
        few |= bool(less["clusters"] < FEW)
        side = beyond(less["low"], less["high"], 0, digits) if pd.notna(less["low"]) else 0
        side *= BETTER.get(measure, -1)
        if side:
            (better if side > 0 else worse).append(f"{name} {shown(less, digits, True)}")
        else:
            same.append(name.removesuffix(", nats"))
    parts = [f"better in: {', '.join(better)}"] * bool(better) + [f"worse in: {', '.join(worse)}"] * bool(worse)
    parts += [f"not told apart in: {', '.join(same)}"] * bool(same)
    return f"{'; '.join(parts)}{' (too few facts for a claim)' * few}"


def _digits(measure: str) -> int:
    return 2 if measure in ("efficacy", "paraphrase", "neighbours", "hijacked") else 3


def _descended(read: Read) -> str:
    """Say what a LoRA of rank one gives that is trained on the fact alone."""
    of_facts = _cell(read, "descent", read.layer, "efficacy")
    if of_facts is None:
        return ""
    return (
        f"A LoRA of rank one found by descent on the loss of one fact alone, stopped once that is small, in the same "
        f"matrix of layer {read.layer}{subjects(of_facts)}: {shown(of_facts)} are recalled. Beside the closed form: "
        f"{_apart(read, 'descent', read.layer)}."
    )


def _pulled(read: Read) -> list[str]:
    """Say what a KL term in the descent of values changes, weight by weight."""
    whats = sorted(set(read.cells(part="insert", measure="efficacy")["what"]))
    weights = sorted(float(what[3:]) for what in whats if what.startswith("kl-") and what.count("_") == 0)
    parts = []
    for weight in weights:
        what = f"kl-{weight:g}"
        moved, plain = (_cell(read, name, read.layer, "subject_kl") for name in (what, "edit"))
        kl = "" if moved is None else f"it moves by {shown(moved, 3)} nats (without the term {shown(plain, 3)}); "
        parts.append(
            f"A KL term of weight {weight:g} in the descent that finds the value, to hold what is predicted after "
            f"the name: {kl}beside the edit without it, {_apart(read, what, read.layer)}."
        )
    return parts


def _layers(read: Read) -> str:
    """Say where else facts can be written, and whether they are recalled in other words there."""
    cells = read.cells(part="insert", what="edit", condition="invented")
    layers = sorted(set(cells["layer"]) - {read.layer})
    at = {m: cells[cells["measure"] == m].set_index("layer") for m in ("efficacy", "paraphrase")}
    if not layers or at["paraphrase"].empty:
        return ""
    recalled = [
        f"layer {layer:.0f} {number(at['efficacy'].value[layer])} and {number(at['paraphrase'].value[layer])}"
        for layer in sorted([*layers, read.layer])
    ]
    apart = [text for measure in (*BETTER, "hijacked") if (text := _sides(read, layers, measure))]
    return (
        f"The same edit written into other layers, recalled and recalled in other words: {', '.join(recalled)}. Beside "
        f"the chosen layer {read.layer}, fact by fact (95 % intervals, each layer by itself): "
        f"{'; '.join(apart) or 'no layer is told apart'}."
    )


def _sides(read: Read, layers: list, measure: str) -> str:
    """Say at which layers a measure is larger or smaller than at the chosen one; '' where it is at none."""
    sides: dict[int, list[str]] = {1: [], -1: []}
    for layer in layers:
        less = _cell(read, "edit_less_edit", layer, measure)
        side = 0 if less is None or pd.isna(less["low"]) else beyond(less["low"], less["high"])
        if side:
            sides[side].append(f"{layer:.0f} ({number(less['value'], 2, True)})")
    said = {1: "more at", -1: "fewer at"}
    parts = [f"{said[side]} layer{'s' * (len(at) > 1)} {listed(at)}" for side, at in sides.items() if at]
    return f"{COLUMNS[measure]}: {', '.join(parts)}" if parts else ""


def _noised(read: Read) -> str:
    """Say what one intact output brings back under noise on the name (causal tracing)."""
    same = {"part": "lookup", "condition": read.relation, "measure": "own"}
    noise = read.cell(what="noise", layer=-1, **same)
    mlp = read.cell(what="restored", layer=read.layer, **same)
    attention = read.cell(what="attention_restored", layer=read.attention, **same)
    if noise is None or mlp is None or attention is None:
        return ""
    rest = read.cells(what="restored", **same)
    rest = rest[rest["layer"] != read.layer]
    most = rest.loc[rest["value"].idxmax()]
    others = f" (of all other layers', at most {number(most['value'])}, layer {most['layer']:.0f})" if len(rest) else ""
    return (
        f"Under noise on the name's embeddings {shown(noise)} of {noise['trials']:.0f} facts{read.together()} that are "
        f"right otherwise stay right; with the intact MLP output of layer {read.layer} put back at the name's last "
        f"token, {shown(mlp)}{others}; with the intact attention output of layer {read.attention} at the prompt's "
        f"last token, {shown(attention)}. Both layers were chosen on split a, without noise."
    )


def _table(read: Read, path: str) -> list[Table]:
    rows, marked = [], []
    names = {"edit": "in closed form", "identity": "control: C = identity", "random": "control: random δ"}
    names |= {"descent": "LoRA by descent"}
    cells = read.cells(part="insert", measure="efficacy", condition="invented")
    weights = sorted({what for what in cells["what"] if what.startswith("kl-") and "_" not in what})
    names |= {what: f"in closed form, KL term of weight {what[3:]}" for what in weights}
    for what, name in names.items():
        for layer in sorted(cells[cells["what"] == what]["layer"].unique()):
            of_measures = [_cell(read, what, layer, measure) for measure in COLUMNS]
            if what == "edit" and layer == read.layer:
                marked.append(len(rows))
            values = [shown(cell, _digits(measure)) for measure, cell in zip(COLUMNS, of_measures, strict=True)]
            rows.append([name, f"{layer:.0f}", f"{of_measures[0]['clusters']:.0f}", *values])
            less = [_cell(read, f"{what}_less_edit", layer, measure) for measure in COLUMNS]
            if any(cell is not None for cell in less):
                values = [shown(cell, _digits(m), True) for m, cell in zip(COLUMNS, less, strict=True)]
                rows.append(["… less the chosen layer's edit", f"{layer:.0f}", "", *values])
    columns = ["edit", "layer", "facts", *COLUMNS.values()]
    return [Table(columns, rows, SAYS, path, tuple(range(1, len(columns))), tuple(marked))]
