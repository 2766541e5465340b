"""What section 'The MLP as a store' says of look-ups: whose answer comes out when one output is changed."""

import pandas as pd

from stages.page.memory_chart import by_layer
from stages.page.memory_read import FEW, Read, shown, subjects
from stages.page.page import Chart, Figure, Note
from stages.page.section import Context
from stages.page.sentences import listed, number, p_value


def blocks(read: Read, path: str, context: Context) -> list:
    """Say what one MLP, attention and the word itself carry; draw all layers."""
    decided = " ".join(filter(None, [_looked_up(read), _word(read)]))
    beside = " ".join(filter(None, [_units(read), _counted(read, context)]))
    return [Note(decided), Note(_elsewhere(read)), *_figure(read, path), Note(beside)]


def _looked_up(read: Read) -> str:
    """Say whether one layer's MLP output decides whose answer is given."""
    same = {"part": "lookup", "condition": read.relation}
    intact = read.cell(what="intact", measure="own", **same)
    donor = read.cell(what="interchange", layer=read.layer, measure="donor", **same)
    if intact is None or donor is None:
        return ""
    kept = read.cells(what="interchange", measure="own", **same)
    others, gave = kept[kept["layer"] != read.layer], read.cells(what="interchange", measure="donor", **same)
    gave = gave[gave["layer"] != read.layer]
    said = (
        f"The intact model answers {shown(intact)} of {int(intact['trials'])} known facts{read.together()} right. With "
        f"another subject's MLP output of layer {read.layer} put in at the subject, it gives that subject's answer in "
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
    parts, harmed, unsure, fewest = [], [], [], FEW
    for condition, what in (("copy", "copying a word"), ("capitalize", "capitalising one")):
        intact = read.cell(part="lookup", what="intact", condition=condition, measure="own")
        left = read.cell(part="lookup", what="mean", condition=condition, measure="own", layer=read.layer)
        if intact is not None and left is not None:
            others = read.cells(part="lookup", what="mean", condition=condition, measure="own")
            least = others[others["layer"] != read.layer]["value"].min()
            parts.append(
                f"{what} stays right in {shown(left)} of {int(left['trials'])}"
                + (f" (any other layer's: at least {number(least)})" if pd.notna(least) else "")
            )
            harmed += [what.split()[0]] * bool(left["high"] < 1)
            unsure += [what.split()[0]] * bool(pd.isna(left["high"]))
            fewest = min(fewest, int(left["clusters"]))
    if not parts:
        return ""
    side = f"so more than knowledge is lost, {listed(harmed)} as well" if harmed else "they can do without it"
    if unsure and not harmed:
        side = f"whether {listed(unsure)} can do without it is not told"
    few = f" ({fewest} words, too few for a claim)" if fewest < FEW else ""
    same = "The same ablation where nothing has to be known, on words that are right otherwise"
    return f"{same}: {'; '.join(parts)}: {side}{few}."


def _elsewhere(read: Read) -> str:
    """Say what attention outputs at the last token carry."""
    same = {"part": "lookup", "condition": read.relation, "what": "attention_interchange", "measure": "donor"}
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
        read.cell(part="lookup", what="promoted", condition=read.relation, measure=measure)
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
    rows = rows[(rows["task"] == "facts") & (rows["condition"] == read.relation) & (rows["measure"] == "accuracy")]
    said = [f"{'of the text' if row.baseline == 'ngram' else 'of text and prompt'} {number(row.value)}"
            for row in rows.itertuples()]  # fmt: skip
    return f"Right answers of all facts asked by counting words, n-grams {', '.join(said)}." if said else ""


def _figure(read: Read, path: str) -> list:
    charts = []
    for name, what in (("", "MLP outputs, at the subject"), ("attention_", "Attention outputs, at the last token")):
        parts = [
            read.cells(part="lookup", condition=condition, what=f"{name}{done}", measure=measure).assign(line=line)
            for line, condition, done, measure in (
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
