"""Part lookup: one layer's output is changed at one token, layer by layer, and it is seen whose answer comes out."""

from typing import Any

import numpy as np
from tqdm import tqdm

from stages.facts.asked import Prompts, fact_row
from stages.store import params
from stages.tasks.facts.task import ASKED, CAPITALIZE, COPY, KNOWN

NO_DONOR = (
    "not one of {} known facts of split {} that are answered right has another of its relation to be interchanged with "
    "whose answer begins with another token"
)
ATTENTION = "attention_"  # before the name of what is done to attention outputs, not to MLPs'
LAYERS = 6  # that are changed in one pass, in copies of the prompts


def look_up(loaded: Any, writers: dict, asked: Prompts, settings: params.Params) -> tuple[list[dict], dict]:
    """Return the rows of part lookup and what split a chose: layers, and the numbers that they were chosen by.

    A fact that no other can be interchanged with (see `lookup.donors`) has no row of an interchange.
    """
    from stages.model import lookup

    rows, chosen, means, shares = [], {}, {}, {}
    sizes = {"a": settings.memory.choose, "b": settings.memory.report}
    for split, size in sizes.items():
        of_split, tokens = asked.of(size, category=KNOWN, split=split)
        if not tokens:
            return rows, {"why": f"no known fact of split {split} is asked that the model can read"}
        read = lookup.ask(loaded, writers, tokens, ASKED)
        rows += [
            fact_row("lookup", "intact", -1, r, "own", right) for r, right in zip(of_split, read.right, strict=True)
        ]
        if not read.right.any():
            return rows, {"why": f"not one of {len(tokens)} known facts of split {split} is answered right"}
        donors, able = lookup.donors(read, [row.condition for row in of_split]), np.flatnonzero(read.right)
        paired = np.flatnonzero(donors != np.arange(len(donors)))  # the others' own output brings their own answer
        if not len(paired):
            return rows, {"why": NO_DONOR.format(len(able), split)}
        for layer in tqdm(loaded.anatomy.layers, desc=f"look up, split {split}", unit="layer"):
            changes = []
            for kind, name in ((lookup.MLP, ""), (lookup.ATTENTION, ATTENTION)):
                given = read.given(kind).get(layer)
                if given is None:
                    continue
                if split == "a":
                    means[kind, layer] = given.mean(0)
                changes.append((kind, f"{name}interchange", given[donors]))
                if split == "b":
                    changes.append((kind, f"{name}mean", means[kind, layer].expand_as(given)))
            written = [(kind, layer, values) for kind, _, values in changes]
            best_of = lookup.replaced(loaded, writers, read, written)
            for (kind, what, _), best in zip(changes, best_of, strict=True):
                own, other = best == read.answers, best == read.answers[donors]
                swapped = what.endswith("interchange")
                for measure, hit in (("own", own), *((("donor", other),) if swapped else ())):
                    picked = paired if swapped else able
                    rows += [fact_row("lookup", what, layer, of_split[n], measure, hit[n]) for n in picked]
                if split == "a":
                    shares[kind, layer] = float(other[paired].mean()), -float(own[paired].mean())
        if split == "a":
            for kind in (lookup.MLP, lookup.ATTENTION):
                layer = max((at for of, at in shares if of == kind), key=lambda at: (shares[kind, at], -at))
                chosen |= {kind: layer, f"{kind}_donor": round(shares[kind, layer][0], 5)}
            continue
        traced = settings.memory.traced and lookup.restored(loaded, writers, read, ASKED, settings.seed)
        for kind, layer, best in traced or ():
            name = {"none": "noise", lookup.MLP: "restored", lookup.ATTENTION: f"{ATTENTION}restored"}[kind]
            picked = able[: settings.memory.traced]
            rows += [fact_row("lookup", name, layer, of_split[n], "own", best[n] == read.answers[n]) for n in picked]
        for number, values in zip(
            able, lookup.promoted(loaded, writers[chosen[lookup.MLP]], chosen[lookup.MLP], read, able), strict=True
        ):
            for measure, value in values.items():
                rows.append(fact_row("lookup", "promoted", chosen[lookup.MLP], of_split[number], measure, value))
    for condition in (COPY, CAPITALIZE):
        rows += _procedure(loaded, writers, asked, condition)
    return rows, chosen


def _procedure(loaded: Any, writers: dict, asked: Prompts, condition: str) -> list[dict]:
    """Return what mean ablation of MLP outputs at a word does where the word is only to be copied or capitalised."""
    from stages.model import lookup

    (_, first), (of_split, second) = (asked.of(len(asked.rows), condition=condition, split=split) for split in "ab")
    if not first or not second:
        return []
    means = lookup.ask(loaded, writers, first, ASKED).values
    read = lookup.ask(loaded, writers, second, ASKED)
    rows = [fact_row("lookup", "intact", -1, r, "own", right) for r, right in zip(of_split, read.right, strict=True)]
    written = {layer: means[layer].mean(0).expand_as(given) for layer, given in read.values.items()}
    for start in range(0, len(written), LAYERS):
        layers = list(written)[start : start + LAYERS]
        changes = [(lookup.MLP, layer, written[layer]) for layer in layers]
        for layer, best in zip(layers, lookup.replaced(loaded, writers, read, changes), strict=True):
            hit = best == read.answers
            rows += [fact_row("lookup", "mean", layer, of_split[n], "own", hit[n]) for n in np.flatnonzero(read.right)]
    return rows
