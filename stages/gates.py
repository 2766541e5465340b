"""Which heads need more than a few first tokens and a window: `python -m stages.gates <slot>`; what a cut cache costs.

1. Gates: on needle prompts of split a, every key head, and every query head, alone sees sinks and a window, at every
   position from the first. What moves is the last hidden state before the answer, and the answer's log-probability;
   beside it stands the attention that the intact head gives to what is cut. Key heads: on all prompts. Query heads: on
   the first few, and on all where they move the state by at least caching.NEAR of what counts there.
2. Policy: key heads ranked by that (and by other rankings, and at random) keep everything, the rest streams: recall of
   needles and loss on text, split b. The policy at half is written for serving engines, with all gates.
3. StreamingLLM's table (Xiao+ 2023): all heads stream, with fewer sinks, positions as in the text and re-counted.
"""

import json
import logging
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.statistics import caching
from stages.store import files, params, paths, records, tables
from stages.store.errors import run
from stages.tasks import of as task_of
from stages.tasks.prompt import stream
from stages.tasks.text.task import STRIDE

log = logging.getLogger(__name__)
NEEDLE, TEXT = "needle", "text"
GROUP = 512  # tokens of the needle prompts that run together, at most
TOGETHER = 2  # passages of text that run together, at most
TABLES = (tables.GATES, tables.CACHE, tables.STREAMING)


def main(slot: str) -> None:
    """Measure gates, try policies, or say why not."""
    settings = params.load()
    record = records.read(slot)
    if record["kind"] != "decoder":
        return _write_empty(slot, "only a model that reads left to right keeps a cache of past keys")
    if why := settings.left_out("gates"):
        return _write_empty(slot, why)
    missing = [task for task in (NEEDLE, TEXT) if getattr(settings.tasks, task) is None]
    if len(missing) == 2:
        return _write_empty(slot, "neither tasks.needle nor tasks.text is in params")
    from stages.model.load import load
    from stages.model.paths import Unreadable

    loaded = load(slot, lays_out=True)
    try:
        rows, asked, policy = measured(slot, loaded, record, settings)
    except Unreadable as why:
        return _write_empty(slot, f"heads cannot be made to stream exactly: {why}")
    for table, of_table, names in zip(TABLES, rows, asked, strict=True):
        lacking = f"tasks.{missing[0]} is not in params" if missing else "no prompt is long enough to lose a key"
        table.write(pd.DataFrame(of_table), slot, asked=names, otherwise=lacking)
    files.write_text(paths.cache_policy(slot), json.dumps(policy, indent=1) + "\n")


def measured(slot: str, loaded, record: dict, settings) -> tuple[tuple[list[dict], ...], tuple[int, ...], dict]:
    """Return the rows of GATES, CACHE and STREAMING, how many names each was asked for, and the policy."""
    from stages.model.cost import Work, announce
    from stages.model.streaming import Cut

    asked = settings.gates
    cut = Cut(asked.sinks, asked.window)
    heads = tables.HEADS.read(slot)
    needles = {split: _needles(loaded, settings, cut, split) for split in "ab"}
    needles["a"], needles["b"] = needles["a"][: asked.choose], needles["b"][: asked.report]
    passages = _passages(loaded, settings)
    done = [*needles["a"], *needles["b"], *passages]
    log.info(announce(f"gates {slot}", len(done), Work(_work(needles, passages, settings, loaded)), loaded))
    first, others = needles["a"][: asked.heads], needles["a"][asked.heads :]
    every = set(loaded.anatomy.heads)
    gates = _gates(loaded, first, cut, every, weighed=True)
    chosen = caching.screened(gates, asked.small)
    gates += _gates(loaded, others, cut, chosen)
    tried = []
    if gates:
        tried = caching.policies(
            _rankings(pd.DataFrame(gates), heads),
            asked.shares,
            asked.draws,
            stream(settings.seed, f"gates/{slot}"),
            asked.controlled,
            asked.compared,
        )
    cache = _recalled(loaded, needles["b"], cut, tried) if needles["b"] and tried else []
    streaming: list[dict] = []
    if passages:
        lost, streaming = _texts(loaded, passages, cut, tried, asked)
        cache += lost
    names = len(first) * _number_alone(loaded, every) + len(others) * _number_alone(loaded, chosen)
    policies = (1 + len(tried), 1 + len(_on_text(tried, asked))) if tried else (0, 0)  # the full cache among them
    tries = len(needles["b"]) * policies[0] + len(passages) * policies[1]
    counts = names, tries, len(passages) * (1 + len(set(asked.sinks_tried)))
    return (gates, cache, streaming), counts, _policy(slot, loaded, record, gates, tried, settings)


def _needles(loaded, settings, cut, split: str) -> list[tuple]:
    """Return the shortest needle prompts of a split that lose a key, in turn over depths, with their tokens."""
    from stages.model.tokens import fitting

    if settings.tasks.needle is None:
        return []
    prompts = tables.ASKED.read(NEEDLE)
    prompts = prompts[(prompts.split == split) & (prompts.category == str(min(settings.tasks.needle.lengths)))]
    place = prompts.groupby("condition").cumcount()
    prompts = prompts.assign(place=place).sort_values(["place", "condition", "id"])
    rows, encoded = fitting(loaded, list(prompts.itertuples()))
    return [
        pair for pair in zip(rows, encoded, strict=True) if len(pair[1].target) and pair[1].target[0] > cut.size + 1
    ]


def _passages(loaded, settings) -> list[tuple]:
    """Return long passages of split b, cut to the longest length asked for, with their tokens."""
    from stages.model.tokens import fitting

    if settings.tasks.text is None:
        return []
    prompts = tables.ASKED.read(TEXT)
    prompts = prompts[(prompts.split == "b") & (prompts.role == "long")].sort_values("id")
    rows, encoded = fitting(loaded, list(prompts.head(settings.gates.passages).itertuples()))
    end = max(settings.gates.lengths)
    cut = [
        (row, replace(tokens, ids=tokens.ids[:end], special=tokens.special[:end]))
        for row, tokens in zip(rows, encoded, strict=True)
    ]
    if short := [row.id for row, tokens in cut if len(tokens) < end]:
        log.warning("%d passages are shorter than gates.lengths = %d tokens and are left out", len(short), end)
    return [pair for pair in cut if len(pair[1]) == end]


def _work(needles: dict, passages: list, settings, loaded) -> int:
    """Return about how many tokens run through the whole model."""
    asked, layers = settings.gates, loaded.anatomy.layers
    size = asked.sinks + asked.window
    key_heads, heads = sum(layer.kv_heads for layer in layers.values()), len(loaded.anatomy.heads)
    tails = {split: [len(tokens) - size for _, tokens in pairs] for split, pairs in needles.items()}
    drawn, others = asked.draws * len(asked.controlled), {*asked.compared, caching.HALF}
    chosen = 2 + len({*asked.shares, *asked.controlled, *others}) + 2 * len(others)  # all, none, gate's, two rankings'
    alone = sum(tails["a"]) * key_heads / 2 + sum(tails["a"][: asked.heads]) * heads / 2
    on_text = 2 * len(asked.sinks_tried) + chosen + drawn * asked.draws_on_text
    text = (max(asked.lengths) - size) * len(passages) * on_text
    return int(alone + sum(tails["b"]) * (chosen + drawn) + text)


def _alike(pairs: list[tuple]) -> list[list[tuple]]:
    """Return prompts in groups of about one length, GROUP tokens at most (one prompt at least): few are padding."""
    groups: list[list[tuple]] = []
    for row, tokens in sorted(pairs, key=lambda pair: (len(pair[1]), pair[0].id)):
        if not groups or (len(groups[-1]) + 1) * len(tokens) > GROUP:
            groups.append([])
        groups[-1].append((row, tokens))
    return groups


def _gates(loaded, pairs: list, cut, alone: set, weighed: bool = False) -> list[dict]:
    """Return what prompts lose when each key head, and each query head of `alone`, streams alone.

    weighed: also the attention of these query heads to what is cut.
    """
    from stages.engine.local import each
    from stages.model.reduce import brought
    from stages.model.streaming import Streams

    def of_group(group: list[tuple]) -> list[dict]:
        rows: list[dict] = []
        streams = Streams(loaded, [tokens for _, tokens in group], [tokens.target for _, tokens in group], cut)
        masses = [_masses(loaded, tokens, cut) if weighed else {} for _, tokens in group]
        of_layers = [_alone(loaded, layer, alone) for layer in loaded.anatomy.layers]
        which = [number for of_layer in of_layers for number in range(len(group)) for _ in of_layer]
        asked = [one for of_layer in of_layers for _ in group for one in of_layer]
        scored, moved = [], []  # as rows come: hidden states are large
        for number, outcome in zip(which, streams.under(which, [heads for *_, heads in asked]), strict=True):
            scored.append(outcome.scored)
            moved.append(_moved(outcome, streams.intact[number]))
        changes = brought(moved)
        for number, (layer, head, key_head, _), own, change in zip(which, asked, scored, changes, strict=True):
            row, intact = group[number][0], streams.intact[number]
            logprob = float((own.logprob - intact.scored.logprob).mean())
            mass, at_answer = masses[number].get((layer, head), (None, None))
            lost = {"prompt": row.id, "split": row.split, "cluster": row.cluster, "layer": layer, "head": head,
                    "key_head": key_head, "change": float(change), "logprob": logprob, "mass": mass,
                    "mass_answer": at_answer}  # fmt: skip
            rows.append(lost)
            of = loaded.anatomy.layers[layer]
            if head == caching.ALONE and of.kv_heads == of.heads:  # its one reader loses the same alone
                mass, at_answer = masses[number].get((layer, key_head), (None, None))
                rows.append(lost | {"head": key_head, "mass": mass, "mass_answer": at_answer})
        return rows

    groups = _alike(pairs)
    every = tqdm(each(of_group, groups, loaded), desc="gates", total=len(groups), unit="group of prompts")
    return [row for rows in every for row in rows]


def _moved(outcome, intact):
    """Return by what part of itself the last hidden state moves, mean over scored positions, on the device."""
    moved_R = (outcome.hidden_RD - intact.hidden_RD).norm(dim=1) / intact.hidden_RD.norm(dim=1)
    return moved_R.mean()


def _alone(loaded, layer: int, alone: set) -> list[tuple[int, int, int, set]]:
    """Return (layer, head or ALONE, key head, heads that stream): all key heads, then query heads of `alone`."""
    from stages.model.streaming import of_key_head

    of = loaded.anatomy.layers[layer]
    readers = {key_head: of_key_head(loaded, layer, key_head) for key_head in range(of.kv_heads)}
    together = [(layer, caching.ALONE, key_head, set(heads)) for key_head, heads in readers.items()]
    if of.kv_heads == of.heads:
        return together
    return together + [(*at, key_head, {at}) for key_head, heads in readers.items() for at in heads if at in alone]


def _number_alone(loaded, alone: set) -> int:
    """Return how many rows a prompt has: a key head with one reader has one more, which is its reader's."""
    layers = loaded.anatomy.layers
    readers = sum(of.kv_heads for of in layers.values() if of.kv_heads == of.heads)
    return readers + sum(len(_alone(loaded, layer, alone)) for layer in layers)


def _masses(loaded, tokens, cut) -> dict:
    """Return, per (layer, head), the attention to what a cut hides: over all queries that lose keys; before answers."""
    import torch

    from stages.model.forward import forward
    from stages.model.measure import weighing
    from stages.model.reduce import brought

    sums: dict = {}
    count = len(tokens) - 1
    asked_2T = torch.zeros(2, count, dtype=torch.float64)
    asked_2T[0, cut.size :] = 1 / max(1, count - cut.size)
    asked_2T[1, tokens.target - 1] = 1 / len(tokens.target)
    asked_2T = asked_2T.to(loaded.device)

    def reduce(layer: int, weights_BHTS, visible_BTS, start: int) -> None:
        queries, keys = weights_BHTS.shape[2:]
        lost_TS = ~cut.seen(start, queries, keys, weights_BHTS.device)
        lost_HT = (weights_BHTS[0] * lost_TS).sum(2).double().to(loaded.device)
        sums[layer] = sums.get(layer, 0) + lost_HT @ asked_2T[:, start : start + queries].T  # (H, 2)

    with torch.no_grad(), weighing(loaded, reduce):
        forward(loaded, [tokens.ids[:count]], headless=True)
    masses = zip(sums, brought(list(sums.values())), strict=True)
    return {(layer, head): tuple(values) for layer, of in masses for head, values in enumerate(of.tolist())}


def _rankings(gates: pd.DataFrame, heads: pd.DataFrame) -> dict[str, list]:
    """Return every method's key heads, the best first."""
    together = gates[gates["head"] == caching.ALONE].groupby(["layer", "key_head"]).change.mean()
    rankings = {"gate": caching.ranked(together.to_dict())}
    wu = heads[heads.family == "retrieval"].dropna(subset=["score_a"])
    if len(wu):
        groups = gates[gates["head"] != caching.ALONE].drop_duplicates(["layer", "head"])[["layer", "head", "key_head"]]
        best = wu.merge(groups, on=["layer", "head"]).groupby(["layer", "key_head"]).score_a.max().to_dict()
        rankings["retrieval"] = caching.ranked({at: best.get(at, 0.0) for at in together.index})
    return rankings | {"first": sorted(rankings["gate"])}


def _windows(loaded) -> dict:
    layers = loaded.anatomy.layers
    return {(layer, key_head): of.window for layer, of in layers.items() for key_head in range(of.kv_heads)}


def _streaming_heads(loaded, full: list) -> set:
    """Return the query heads of all key heads that do not keep all."""
    from stages.model.streaming import of_key_head

    others = [at for at in _windows(loaded) if at not in full]
    return {head for layer, key_head in others for head in of_key_head(loaded, layer, key_head)}


def _rows(loaded, pairs: list, cut, tried: list, streams, values) -> list[dict]:
    """Return rows of CACHE: prompts under every policy, the full cache first; values: scores -> measure -> values."""
    windows, rows = _windows(loaded), []
    policies = [("full", 1.0, 0, sorted(windows)), *tried]
    every = streams.every([_streaming_heads(loaded, full) for *_, full in policies], cut)
    for (method, share, draw, full), scored in zip(policies, every, strict=True):
        for measure, of_prompts in values(scored).items():
            for (row, tokens), value in zip(pairs, of_prompts, strict=True):
                left = caching.entries(full, windows, len(tokens), cut.size)
                rows.append(
                    {"measure": measure, "method": method, "share": share, "kept": len(full), "draw": draw,
                     "kept_heads": caching.name(full), "entries": left, "prompt": row.id, "cluster": row.cluster,
                     "value": value}
                )  # fmt: skip
    return rows


def _recalled(loaded, pairs: list, cut, tried: list) -> list[dict]:
    from stages.engine.local import each
    from stages.model.streaming import Streams

    task = task_of(NEEDLE)

    def of_group(group: list[tuple]) -> list[dict]:
        streams = Streams(loaded, [tokens for _, tokens in group], [tokens.target for _, tokens in group], cut)

        def values(scored: list) -> dict[str, list[float]]:
            measures = [task.measures([of[1]], [own]) for of, own in zip(group, scored, strict=True)]
            return {measure: [of[measure] for of in measures] for measure in measures[0]}

        return [{"task": NEEDLE} | row for row in _rows(loaded, group, cut, tried, streams, values)]

    groups = _alike(pairs)
    every = tqdm(each(of_group, groups, loaded), desc="cache", total=len(groups), unit="group of prompts")
    return [row for rows in every for row in rows]


def _on_text(tried: list, asked) -> list:
    """Return the policies that are tried on text: random ones only where that is asked for."""
    return [policy for policy in tried if policy[0] != "random" or asked.draws_on_text]


def _texts(loaded, pairs: list, cut, tried: list, asked) -> tuple[list[dict], list[dict]]:
    """Return the rows of CACHE on text, of random sets only where that is asked for, and those of STREAMING."""
    from stages.engine.local import each
    from stages.model.paths import Unreadable
    from stages.model.streaming import Cut, Streams, whole_model

    start = asked.window + max(asked.sinks, *asked.sinks_tried)
    positions = np.arange(start, max(asked.lengths), STRIDE)
    smallest = Cut(min(asked.sinks, *asked.sinks_tried), asked.window)
    chosen = _on_text(tried, asked)

    def losses(scored: list) -> dict[str, list[float]]:
        return {"loss": [-float(own.logprob.mean(dtype=np.float64)) for own in scored]}

    def cells(group: list, scored: list, sinks: int, counted: str) -> list[dict]:
        made: list[dict] = []
        for (row, _), own in zip(group, scored, strict=True):
            for low, high in pairwise([start, *asked.lengths]):
                inside = (positions >= low) & (positions < high)
                if inside.any():
                    loss = -float(own.logprob[inside].mean(dtype=np.float64))
                    made.append(
                        {"prompt": row.id, "cluster": row.cluster, "sinks": sinks, "positions": counted,
                         "length": high, "tokens": int(inside.sum()), "loss": loss}
                    )  # fmt: skip
        return made

    def of_group(group: list) -> tuple[list[dict], list[dict]]:
        streams = Streams(loaded, [tokens for _, tokens in group], [positions] * len(group), smallest)
        lost = _rows(loaded, group, cut, chosen, streams, losses) if chosen else []
        streamed = cells(group, [outcome.scored for outcome in streams.intact], -1, "text")
        for sinks in asked.sinks_tried:
            for recount in (False, True) if sinks else (False,):  # without sinks there is nothing to re-count
                try:
                    (scored,) = streams.every([whole_model(loaded)], Cut(sinks, asked.window, recount))
                except Unreadable as why:
                    if not recount:
                        raise
                    if group is groups[0]:  # all say the same
                        log.info("positions in the cache: %s", why)
                    continue
                streamed += cells(group, scored, sinks, "cache" if recount else "text")
        return [{"task": TEXT} | row for row in lost], streamed

    groups = [pairs[place : place + TOGETHER] for place in range(0, len(pairs), TOGETHER)]
    every = list(tqdm(each(of_group, groups, loaded), desc="text", total=len(groups), unit="group of passages"))
    rows, streamed = ([row for of in every for row in of[which]] for which in (0, 1))
    return rows, streamed


def _policy(slot: str, loaded, record: dict, gates: list, tried: list, settings) -> dict:
    """Return what a serving engine reads: a kind for every key head, and what it rests on."""
    asked = settings.gates
    at_half = next((full for method, share, _, full in tried if method == "gate" and share == caching.HALF), None)
    if at_half is None:
        return {"slot": slot, "heads": [], "reason": "no gates were measured"}
    of_keys = pd.DataFrame(gates)
    of_keys = of_keys[of_keys["head"] == caching.ALONE]
    change = of_keys.groupby(["layer", "key_head"]).change.mean()
    rows = [
        {"layer": layer, "kv_head": key_head, "kind": "full" if (layer, key_head) in at_half else "streaming",
         "gate": round(float(change[layer, key_head]), 5), "model_window": window}
        for (layer, key_head), window in sorted(_windows(loaded).items())
    ]  # fmt: skip
    return {
        "slot": slot, "model": record["name"], "revision": record["revision"], "sinks": asked.sinks,
        "window": asked.window, "share_full": caching.HALF, "heads": rows,
        "provenance": {
            "gate": "relative change of the last hidden state before the answer when this key head alone streams",
            "task": NEEDLE, "split": "a", "prompts": int(of_keys.prompt.nunique()), "seed": settings.seed,
            "positions": "as in the text",
        },
    }  # fmt: skip


def _write_empty(slot: str, why: str) -> None:
    log.info("%s: no gates: %s", slot, why)
    for table in TABLES:
        table.write_empty(slot, why=why)
    files.write_text(paths.cache_policy(slot), json.dumps({"slot": slot, "heads": [], "reason": why}, indent=1) + "\n")


if __name__ == "__main__":
    run(main, *sys.argv[1:])
