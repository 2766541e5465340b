"""Which earlier heads feed the keys of induction heads: `python -m stages.circuit <slot>`.

An induction head finds the token after an earlier occurrence because that token's key says what came before it; who
writes that into the residual? For the strongest members of `induction`, judged on split a, every earlier head's
contribution to the keys is exchanged, alone, between an intact run (random tokens, repeated) and a corrupted one: as
many other random tokens, none of them twice, so that no position holds what the intact run's queries ask for (resample
patching, Wang+ 2023; positions, length and special tokens stay). Queries and values are always those of the intact run,
so a change is one of keys alone, and of this head alone (`stages.model.paths`).

    single    one source: an earlier head, the rest of an earlier block (MLP, biases), the embedding
    feeders   the heads chosen on split a, together: one alone is a lower bound where heads stand in for each other
    others    all other earlier heads, together
    control   as many other earlier heads, matched: what a rank p is taken against, by the score; by the loss as well
              where `circuit.draws_on_loss` asks for it, of the strongest target alone: each set is a pass of its own
    keys      all keys from the corrupted run: what there is to lose

Feeders are the earlier heads whose noising loses at least `circuit.share` of what the corrupted keys lose, on split a.
All else is reported on split b. Beside each head stands what weights alone say (`stages.model.compose`).
"""

import logging
import sys

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.families.repeats.induction import FAMILY
from stages.statistics import circuit
from stages.store import params, records, tables
from stages.store.errors import run
from stages.tasks.prompt import stream

log = logging.getLogger(__name__)
TOKENS = 2048  # of the variants of a prompt that run together, at most


def main(slot: str) -> None:
    """Patch paths into the strongest induction heads, or say why there are none."""
    settings = params.load()
    record = records.read(slot)
    if why := settings.left_out("circuit"):
        return _write_empty(slot, why)
    if getattr(settings.tasks, FAMILY.task) is None:
        return _write_empty(slot, f"tasks.{FAMILY.task} is not in params")
    if why := tasks.of(FAMILY.task).refuses(record["kind"]):
        return _write_empty(slot, why)
    heads = tables.HEADS.read(slot)
    targets = circuit.targets(heads[heads.family == FAMILY.name], settings.circuit.heads)
    if not targets:
        return _write_empty(slot, "no head above the first layer is a member of induction, judged on split a")
    from stages.model.cost import Work, announce
    from stages.model.load import load
    from stages.model.paths import Unreadable
    from stages.model.tokens import fitting

    loaded = load(slot, lays_out=True)
    prompts = tables.ASKED.read(FAMILY.task)
    count = {"a": settings.circuit.choose, "b": settings.circuit.prompts}
    chosen = pd.concat([prompts[prompts.split == split].sort_values("id").head(count[split]) for split in "ab"])
    rows, encoded = fitting(loaded, list(chosen.itertuples()))
    if {row.split for row in rows} != {"a", "b"}:
        return _write_empty(slot, "the model does not read random repeats of both splits whole")
    work = Work(4 * (1 + len(targets)) * sum(map(len, encoded)))  # a few whole passes' worth of patched keys per target
    if settings.circuit.draws_on_loss:  # all above the strongest target runs again for every set, in both directions
        reported = [tokens for row, tokens in zip(rows, encoded, strict=True) if row.split == "b"]
        above = 1 - targets[0][0] / len(loaded.anatomy.blocks)
        scored = sum(map(len, tasks.of(FAMILY.task).scored(reported)))
        work += Work(above * sum(map(len, reported)), scored) * (2 * settings.circuit.draws)
    log.info(announce(f"circuit {slot}", len(rows), work, loaded))
    try:
        raw, weights = traced(slot, loaded, rows, encoded, targets, settings)
    except Unreadable as why:
        return _write_empty(slot, f"paths into its keys cannot be patched exactly: {why}")
    tables.CIRCUIT.write(raw, slot, asked=len(targets) * len(rows))
    tables.COMPOSITION.write(weights, slot, asked=len(weights))


def traced(slot: str, loaded, rows: list, encoded: list, targets: list, settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of CIRCUIT and COMPOSITION; split a first: it says which heads are feeders."""
    from stages.engine.local import each
    from stages.model.paths import Paths

    found = Paths(loaded, encoded[0].ids, [layer for layer, _ in targets])
    feeders: dict = {}
    sets: dict = {}

    def patched(index: int) -> list[dict]:
        row, tokens = rows[index], encoded[index]
        other = corrupted(loaded, tokens, stream(settings.seed, f"circuit/{row.id}"))
        clean, noise = found.run(tokens.ids), found.run(other)
        table = []
        for place, target in enumerate(targets, start=1):
            same = {"target": circuit.name(target), "place": place, "split": row.split, "cluster": row.cluster}
            ranked = settings.circuit.draws_on_loss and place == 1
            lost = (*circuit.LOST, "control") if ranked else circuit.LOST
            results = _prompt(found, clean, noise, target, tokens, sets.get(target), lost)
            table += [same | {"prompt": row.id} | result for result in results]
        return table

    table: list[dict] = []
    for split in "ab":
        order = sorted((at for at, row in enumerate(rows) if row.split == split), key=lambda at: rows[at].id)
        if split == "b":
            feeders = {
                target: circuit.feeders(pd.DataFrame(table), target, settings.circuit.share) for target in targets
            }
            for target in targets:
                rng = stream(settings.seed, f"circuit/{slot}/{circuit.name(target)}")
                sets[target] = circuit.sets(feeders[target], target, loaded.anatomy, settings.circuit.draws, rng)
                log.info("%s: feeders %s", circuit.name(target), " ".join(map(circuit.name, feeders[target])) or "none")
        of_prompts = each(patched, order, loaded)
        for of_prompt in tqdm(of_prompts, desc=f"circuit, split {split}", total=len(order), unit="prompt"):
            table += of_prompt
    return pd.DataFrame(table)[tables.CIRCUIT.names], _weights(found, found.run(encoded[order[-1]].ids), targets)


def corrupted(loaded, tokens, rng: np.random.Generator) -> np.ndarray:
    """Return as many other ordinary tokens (T,), none of them twice; special tokens stay."""
    from stages.model.tokens import ordinary

    ids, free = tokens.ids.copy(), ~tokens.special
    others = np.setdiff1d(ordinary(loaded.tokenizer), tokens.ids)
    ids[free] = rng.choice(others, size=int(free.sum()), replace=len(others) < free.sum())
    return ids


def _prompt(
    found, clean, noise, target: tuple[int, int], tokens, sets: dict | None, lost: tuple[str, ...]
) -> list[dict]:
    """Return results of one prompt and target: purpose, sources, draw, direction, score and loss.

    sets: (purpose, draw) -> heads patched together, on split b; None on split a, where heads are noised alone.
    lost: purposes that the loss is measured of on split b, beside single feeders.
    """
    import torch

    from stages.model.paths import mass, pieces

    (layer, head), relation = target, FAMILY.relation(tokens)
    sources, change_NTD = found.sources(layer), found.changes(clean, noise, layer)
    asked = [("single", 0, [number]) for number, source in enumerate(sources)]
    asked = asked if sets is not None else [item for item in asked if sources[item[2][0]].kind == "head"]
    at = {(source.layer, source.head): number for number, source in enumerate(sources)}
    asked += [(purpose, draw, [at[member] for member in heads]) for (purpose, draw), heads in (sets or {}).items()]
    feeding = {at[head] for (purpose, _), heads in (sets or {}).items() if purpose == "feeders" for head in heads}
    scored = tasks.of(FAMILY.task).scored([tokens])[0]
    losing = sets is not None and found.loaded.kind == "decoder" and len(scored) > 0
    results, outputs = [], []

    def measure(run, change_NTD, direction: str, items: list) -> None:
        for piece in pieces(len(items), len(tokens), TOKENS):
            reads_NTD = found.put(run, layer, change_NTD[piece])
            weights_NTS, output_NTK = found.attend(clean, reads_NTD, layer, head, outputs=True)
            for place, score in enumerate(mass(weights_NTS, relation)):
                purpose, draw, numbers = items[piece][place]
                result = {"purpose": purpose, "draw": draw, "direction": direction, "score": score, "loss": None}
                results.append(result | {"sources": " ".join(sources[number].name for number in numbers)})
                if losing and (purpose in lost or (purpose == "single" and numbers[0] in feeding)):
                    outputs.append((results[-1], output_NTK[place].clone()))

    nothing = change_NTD[:1] * 0
    measure(clean, nothing, "", [("intact", 0, [])])
    measure(noise, nothing, "", [("keys", 0, [])])
    together = torch.stack([change_NTD[numbers].sum(0) for _, _, numbers in asked])
    measure(clean, together, "noising", asked)
    if sets is not None:
        measure(noise, -together, "denoising", asked)
    if outputs:
        stacked = torch.stack([output_TK for _, output_TK in outputs])
        for piece in pieces(len(outputs), len(tokens), TOKENS):
            for (result, _), loss in zip(
                outputs[piece], found.losses(clean, layer, head, stacked[piece], scored), strict=True
            ):
                result["loss"] = loss
    return results


def _weights(found, run, targets: list) -> list[dict]:
    """Return K-composition of every earlier head with every target, and copying scores of the targets' layers."""
    from stages.model.compose import copying, k_composition, maps, token_map

    last = found.layers[-1]
    heads = [head for head in found.loaded.anatomy.heads if head[0] <= last]
    linear = {head: maps(found, run, *head) for head in heads}
    rows = []
    for target in targets:
        for earlier in heads:
            if earlier[0] < target[0] and linear[earlier] is not None and linear[target] is not None:
                value = k_composition(linear[earlier], linear[target])
                rows.append({"target": circuit.name(target), "layer": earlier[0], "head": earlier[1],
                             "measure": "k_composition", "value": value})  # fmt: skip
    layers = {layer for layer, _ in targets} & {*found.after}  # else what a head writes is not known
    copies = [head for head in heads if head[0] in layers and linear[head] is not None]
    tokens_DD = token_map(found.loaded) if copies else None
    for head in copies if tokens_DD is not None else []:
        value = copying(linear[head], tokens_DD)
        rows.append({"target": "", "layer": head[0], "head": head[1], "measure": "copying", "value": value})
    return rows


def _write_empty(slot: str, why: str) -> None:
    log.info("%s: no circuit: %s", slot, why)
    tables.CIRCUIT.write_empty(slot, why=why)
    tables.COMPOSITION.write_empty(slot, why=why)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
