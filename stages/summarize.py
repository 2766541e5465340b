"""Condense one slot's results into the git-tracked files that people diff: `python -m stages.summarize <slot>`.

Writes reports/slots/<slot>/: model.json, metrics.json, heads.csv, overlap.csv, reliability.csv, grammar.csv,
iteration.csv, circuit.csv, effects.csv, causal.csv, agreement.csv, switch.csv, steering.csv, sweep.csv, composed.csv,
continued.csv, extrapolation.csv, neighbours.csv, orders.csv, shifts.csv, readings.csv, gates.csv, gates_overlap.csv,
cache.csv, streaming.csv, sinks.csv, probes.csv, images.csv, memory.csv. Every interval is a 95 % one over clusters of
prompts (stages/statistics/intervals.py); effects are paired on the same prompts.
"""

import importlib.metadata
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from stages import tasks
from stages.families import FAMILIES
from stages.statistics import (
    arcs,
    caching,
    causal,
    circuit,
    composed,
    continued,
    effects,
    extrapolation,
    memory,
    neighbours,
    norms,
    orders,
    shifts,
    sinks,
    steering,
    stepping,
    sweep,
    switch,
)
from stages.statistics.ranks import score_with_effect
from stages.statistics.verdict import jaccard
from stages.store import files, params, parquet, paths, records, tables
from stages.store.cost import announce
from stages.store.errors import run
from stages.store.metrics import extrapolated, measured, metrics
from stages.tasks.icl.prompts import natural_text
from stages.tasks.prompt import stream

log = logging.getLogger(__name__)
ALWAYS, SUMMED = 4300, 15  # small calculations that any slot takes; rows that are summed up in the time of one
PACKAGES = ("torch", "transformers", "numpy", "pyarrow", "scipy", "dvc")


def main(slot: str) -> None:
    """Read the slot's tables, write its summaries."""
    settings = params.load()
    folder = paths.report(slot)
    log.info(_announced(slot))
    heads = tables.HEADS.read(slot)
    of_sets, switched = silenced(slot, heads, folder, settings)
    single, agreement = _single_heads(slot, settings)
    under_vectors, classes = steered(slot, heads, folder, settings)
    traced = circuits(slot, heads, folder, settings)
    grammar, steps = _grammar(slot, heads, settings), _steps(slot, heads, settings)
    _csv(
        folder / "heads.csv",
        heads.assign(member=heads.member.astype(int), member_a=heads.member_a.astype(int)),
        "layer head family score score_a score_b score_null baseline low high q member member_a prompts note",
    )
    _csv(folder / "overlap.csv", overlap(heads))
    with_effect = with_single_effect(heads, single, settings.classify.resamples, settings.seed)
    _csv(folder / "reliability.csv", reliability(heads, settings.classify.thresholds).merge(with_effect, "left"))
    _csv(folder / "causal.csv", single, " ".join(causal.CAUSAL))
    _csv(folder / "agreement.csv", agreement, " ".join(causal.AGREEMENT))
    summed, texts = _applied(slot)
    _csv(folder / "composed.csv", summed)
    _csv(folder / "continued.csv", texts)
    moved = shifts.table(tables.SHIFTS.read(slot), tables.OFFSETS.read(slot))
    _csv(folder / "shifts.csv", moved)
    _csv(folder / "readings.csv", shifts.read(tables.READINGS.read(slot)))
    sunk = _sinks(slot)
    _csv(folder / "sinks.csv", sunk, " ".join(sinks.COLUMNS))
    _csv(folder / "probes.csv", tables.PROBES.read(slot), " ".join(sinks.PROBES))
    stepped = _orders(slot, settings)
    _csv(folder / "orders.csv", stepped)
    labelled = resembled(slot, heads, folder, settings)
    stored = remembered(slot, heads, folder, settings)
    looked = norms.table(tables.NORMS.read(slot))
    _csv(folder / "images.csv", looked)
    _csv(folder / "grammar.csv", grammar)
    _csv(folder / "iteration.csv", steps)
    files.write_text(folder / "model.json", _json(_model(slot, settings)))
    mains = {name: tasks.of(name).main for name in tasks.names() if tasks.of(name).main}
    numbers = metrics(heads, of_sets, under_vectors, grammar, steps, _sink_rate(slot, settings), mains)
    numbers |= extrapolated(classes)
    if (share := orders.made_up_order(stepped)) is not None:
        numbers.setdefault("extrapolation", {}).setdefault("successor", {})["made_up_order"] = share
    applied = {"composed": composed.metrics(summed), "text": continued.metrics(texts)}
    if any(applied.values()):
        numbers["vectors"] = numbers.get("vectors", {}) | {name: of for name, of in applied.items() if of}
    numbers |= {"circuit": of_circuit} if (of_circuit := circuit.metrics(traced)) else {}
    numbers |= {"shifts": of_shifts} if (of_shifts := shifts.metrics(moved)) else {}
    numbers |= neighbours.metrics(labelled)
    numbers |= memory.metrics(stored)
    numbers |= {"sinks": of_sinks} if (of_sinks := sinks.metrics(sunk)) else {}
    numbers |= {"orders": of_orders} if (of_orders := orders.metrics(stepped)) else {}
    numbers |= {"images": of_images} if (of_images := norms.metrics(looked)) else {}
    numbers |= {"switch": of_switch} if (of_switch := switch.metrics(switched)) else {}
    numbers |= cached(slot, heads, folder, settings)
    files.write_text(folder / "metrics.json", _json(measured(numbers)))


def _announced(slot: str) -> str:
    """Return the stage's announcement: the rows of the slot's own tables."""
    there = [t.path(slot) for t in vars(tables).values() if isinstance(t, tables.Table) and t.place.count("{}") == 1]
    rows = [parquet.number_of_rows(path) for path in there if path.exists()]
    return announce(f"summarize {slot}", {"tables": len(rows), "rows": sum(rows)}, ALWAYS + sum(rows) / SUMMED)


def cached(slot: str, heads: pd.DataFrame, folder: Path, settings: params.Params) -> dict:
    """Write what heads, caches and text lose where heads stream; return the metrics."""
    record = records.read(slot)
    windows = {layer["layer"]: layer.get("window") for layer in record["attention"]}
    measured = caching.gates(tables.GATES.read(slot), heads, windows)
    small = settings.gates.small if settings.gates else 0.0  # of no row where gates are left out
    thresholds = {"gate": small, "logprob": small, "mass": 0.05, "mass_answer": 0.05}
    for definition, family in (("wu", "retrieval"), ("induction", "induction"), ("echo", "duplicate")):
        thresholds[definition] = settings.classify.thresholds.get(family, FAMILIES[family].threshold)
    curve = caching.table(tables.CACHE.read(slot))
    _csv(folder / "gates.csv", measured)
    _csv(folder / "gates_overlap.csv", caching.overlap(measured, thresholds))
    _csv(folder / "cache.csv", curve)
    _csv(folder / "streaming.csv", caching.streamed(tables.STREAMING.read(slot)))
    return caching.metrics(measured, curve, small)


def steered(slot: str, heads: pd.DataFrame, folder: Path, settings: params.Params) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the tables of function vectors, of what was tried for them and of classes of words; return first and last.

    The last is accuracy on usual, rare and made-up words (empty where the model was not asked).
    """
    raw, answers = tables.STEERING.read(slot), tables.ANSWERS.read(slot)
    under_vectors = steering.table(raw, tables.STEERING.skipped(slot), _texts(raw, settings))
    counted = tables.NGRAM.read(only=[("task", "==", extrapolation.TASK.name)])
    classes = extrapolation.table(answers, raw, counted, settings.trace.solved_above)
    _csv(folder / "steering.csv", under_vectors, " ".join(steering.COLUMNS))
    _csv(folder / "sweep.csv", sweep.table(raw))
    _csv(folder / "extrapolation.csv", classes)
    return under_vectors, classes


def _texts(raw_steering: pd.DataFrame, settings: params.Params) -> dict[str, str]:
    """Return, by natural prompt that was steered, the text it is asked in."""
    natural = raw_steering[raw_steering.context == steering.NATURAL].prompt.unique()
    return {prompt: natural_text(prompt, settings.tasks.icl) for prompt in natural}


def _sinks(slot: str) -> pd.DataFrame:
    """Return who looks at the first token on which input (empty where nothing was read)."""
    return sinks.table(tables.SINK_HEADS.read(slot), tables.SINK_TOKENS.read(slot))


def resembled(slot: str, heads: pd.DataFrame, folder: Path, settings: params.Params) -> pd.DataFrame:
    """Write and return the table of labelled demonstrations (empty where none were read)."""
    read, attention = tables.NEIGHBOURS.read(slot), tables.NEIGHBOURS_ATTENTION.read(slot)
    silenced, chosen = tables.NEIGHBOURS_SILENCED.read(slot), tables.NEIGHBOURS.note("chosen", slot)
    labelled = neighbours.table(read, attention, silenced, chosen)
    _csv(folder / "neighbours.csv", labelled, " ".join(neighbours.COLUMNS))
    return labelled


def _orders(slot: str, settings: params.Params) -> pd.DataFrame:
    """Return the table of next words (empty where none were asked)."""
    section = settings.tasks.orders
    length = section.length if section else 2  # of no row where the task is left out
    return orders.table(tables.ORDERS.read(slot), tables.ORDERS.skipped(slot), length)


def remembered(slot: str, heads: pd.DataFrame, folder: Path, settings: params.Params) -> pd.DataFrame:
    """Write and return the table of facts looked up, inserted and missed (empty where none were asked)."""
    stored = memory.table(tables.MEMORY.read(slot), tables.MEMORY.note("chosen", slot))
    _csv(folder / "memory.csv", stored)
    return stored


def _asked(settings: params.Params) -> list[str]:
    return sorted(name for name, task in settings.tasks if task is not None)


def _vocabulary(slot: str) -> int:
    """Return how many tokens a guess is among: 1 of a model of images, which is asked for none."""
    return records.read(slot)["vocabulary"] or 1


def silenced(
    slot: str, heads: pd.DataFrame, folder: Path, settings: params.Params
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write and return what sets of heads do, and what one family's do that are not another's (empty unasked).

    One task's raw rows are in memory at a time.
    """
    of_sets, plan = ("purpose", "!=", "single"), tables.PLANS.read(slot)
    raws = (tables.EFFECTS.read(slot, only=[("task", "==", task), of_sets]) for task in _asked(settings))
    table = effects.table(raws, plan, _vocabulary(slot))
    _csv(folder / "effects.csv", table, " ".join(effects.COLUMNS))
    raw = tables.EFFECTS.read(slot, only=[("purpose", "in", ["sweep", "sweep_control"])])
    switched = switch.table(raw, plan, float(np.log(_vocabulary(slot))))
    _csv(folder / "switch.csv", switched)
    return table, switched


def _single_heads(slot: str, settings: params.Params) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of single heads and of how well estimates agree with exact effects; task by task, as above."""

    def streams(name: str) -> np.random.Generator:
        return stream(settings.seed, f"summarize/causal/{slot}/{name}")

    parts, kind, limit = [], settings.plan.kinds[0], float(np.log(_vocabulary(slot)))
    for task in _asked(settings):
        only = [("task", "==", task), ("kind", "==", kind)]
        estimates = tables.FIRST_ORDER.read(slot, only=only)
        alone = tables.EFFECTS.read(slot, only=[*only, ("purpose", "==", "single")])
        parts.append(causal.tables(estimates, alone, kind, settings.classify.resamples, streams, limit))
    single, agreement = (
        pd.concat([part for part in of_tasks if len(part)] or [of_tasks[0]], ignore_index=True)
        for of_tasks in zip(*parts, strict=True)
    )
    return single, agreement


def overlap(heads: pd.DataFrame) -> pd.DataFrame:
    """Return the chance-corrected Jaccard overlap of the members of every two families; grammar counts as one."""
    members = {
        name: rows.groupby(["layer", "head"]).member.any().to_numpy(bool)
        for name, rows in heads.groupby(heads.family.str.split(":").str[0], sort=False)
    }
    rows = []
    for a, b in combinations_with_replacement(members, 2):
        counts = {"family_a": a, "family_b": b, "members_a": int(members[a].sum()), "members_b": int(members[b].sum())}
        rows.append(counts | jaccard(members[a], members[b]))
    return pd.DataFrame(rows, columns="family_a family_b members_a members_b shared jaccard expected corrected".split())


def reliability(heads: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """Return the rank correlation of the two splits' scores over heads, per family, and the threshold in force.

    thresholds: params classify.thresholds, by family; the families' own elsewhere.
    """
    rows = []
    for name, of_family in heads.groupby("family", sort=False):
        both = of_family.dropna(subset=["score_a", "score_b"])
        alike = both.score_a.nunique() < 2 or both.score_b.nunique() < 2
        rows.append(
            {
                "family": name,
                "spearman": np.nan if alike else spearmanr(both.score_a, both.score_b).statistic,
                "members": int(of_family.member.sum()),
                "threshold": thresholds.get(name, FAMILIES[name].threshold),
                "prompts": int(of_family.prompts.max()),
            }
        )
    return pd.DataFrame(rows, columns=["family", "spearman", "members", "threshold", "prompts"])


def with_single_effect(heads: pd.DataFrame, single: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Return whether a family's score goes with the harm of losing single heads on its home task, per family.

    single: as causal.csv, of which first-order changes count. Scores come from split a, effects from split b: no prompt
    is in both. Columns family, effect_task, effect_rho (Spearman over heads), effect_p (permutation within layers); no
    row for a family without a home task that effects were measured on.
    """
    rows = []
    for name, of_family in heads.groupby("family", sort=False):
        for task in FAMILIES[name].home:
            of_task = single[(single.task == task) & single.first_order.notna()]
            if of_task.empty:
                continue
            measure = tasks.of(task).smooth
            both = of_family.merge(of_task[of_task.measure == measure], on=["layer", "head"])
            harm_H = both.first_order.to_numpy(float) * (1 if measure in tasks.of(task).falls else -1)
            rng = stream(seed, f"summarize/effect/{name}/{task}")
            rho, p = score_with_effect(both.score_a.to_numpy(float), harm_H, both.layer.to_numpy(), rng, resamples)
            rows.append({"family": name, "effect_task": task, "effect_rho": rho, "effect_p": p})
            break  # the first home task that was measured
    return pd.DataFrame(rows, columns=["family", "effect_task", "effect_rho", "effect_p"])


def _relations(
    slot: str, task: str, settings: params.Params, columns: Sequence[str]
) -> Callable[[str], pd.DataFrame] | None:
    """Return what reads some columns of one relation of a task, or None where the task was not measured."""
    if getattr(settings.tasks, task) is None or tables.RELATIONS.reason(slot, task):
        return None
    names = [name for name in tables.RELATIONS.names if name in columns]
    return lambda relation: tables.RELATIONS.read(slot, task, columns=names, only=[("relation", "==", relation)])


def _sink_rate(slot: str, settings: params.Params) -> float | None:
    """Return the share of (prompt, layer, head) whose mean attention to the sinks is above 0.3 (Gu+ ICLR 2025)."""
    sink = FAMILIES["sink"]
    relations = _relations(slot, sink.task, settings, ["layer", "head", "mass"])
    return None if relations is None else float((relations(sink.name).mass > sink.threshold).mean())


def circuits(slot: str, heads: pd.DataFrame, folder: Path, settings: params.Params) -> pd.DataFrame:
    """Write and return what feeds the keys of induction heads (empty where no path was patched)."""

    def streams(name: str) -> np.random.Generator:
        return stream(settings.seed, f"{name}/{slot}")

    record = records.read(slot)
    raw, weights = tables.CIRCUIT.read(slot), tables.COMPOSITION.read(slot)
    kinds = {layer["layer"]: layer["kind"] for layer in record["attention"]}
    traced = circuit.table(raw, weights, heads, streams, settings.classify.resamples, kinds)
    _csv(folder / "circuit.csv", traced, " ".join(circuit.COLUMNS))
    return traced


def _grammar(slot: str, heads: pd.DataFrame, settings: params.Params) -> pd.DataFrame:
    """Return the best head per grammatical relation (empty without a treebank)."""
    relations = _relations(slot, arcs.TASK, settings, arcs.READ)
    if relations is None:
        return pd.DataFrame(columns=arcs.COLUMNS)
    return arcs.table(relations, heads, tables.HEADS.note("not_measured", slot))


def _steps(slot: str, heads: pd.DataFrame, settings: params.Params) -> pd.DataFrame:
    """Return the best head per function and relation of the iteration task (empty where it was not measured)."""
    relations = _relations(slot, stepping.TASK, settings, stepping.READ)
    return pd.DataFrame(columns=stepping.COLUMNS) if relations is None else stepping.table(relations, heads)


def _applied(slot: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of sums of function vectors and of plain text under them (empty where nothing was asked)."""
    summed = composed.table(tables.COMPOSED.read(slot), tables.COMPOSED.skipped(slot))
    return summed, continued.table(tables.CONTINUED.read(slot))


def _model(slot: str, settings: params.Params) -> dict:
    """Return the slot's record with versions and everything that was not measured, with reasons."""
    record = records.read(slot)
    missing = {f"family {name}": why for name, why in tables.HEADS.note("not_measured", slot).items()}
    named = {"ablation": tables.EFFECTS, "circuit": tables.CIRCUIT, "steering": tables.STEERING}
    named |= {"extrapolation": tables.ANSWERS, "composed": tables.COMPOSED, "continued": tables.CONTINUED}
    named |= {neighbours.TASK: tables.NEIGHBOURS, "shifts": tables.SHIFTS, "gates": tables.GATES}
    named |= {"orders": tables.ORDERS, "sinks": tables.SINK_HEADS, "probes": tables.PROBES, "memory": tables.MEMORY}
    for label, table in named.items():
        if why := table.reason(slot):
            missing[label] = why
    if why := _unswept(slot, settings):
        missing["switch"] = why
    if record["skipped"]:
        missing["attention modules"] = "; ".join(f"{name}: {why}" for name, why in sorted(record["skipped"].items()))
    versions = {name: importlib.metadata.version(name).split("+")[0] for name in PACKAGES}
    return record | {"layers": len(record["attention"]), "versions": versions, "not_measured": missing}


def _unswept(slot: str, settings: params.Params) -> str:
    """Return why no two families are silenced without each other, '' where they are."""
    swept, skipped = settings.plan.sweep, tables.PLANS.skipped(slot)
    if (tables.PLANS.read(slot).purpose == "sweep").any():
        return tables.EFFECTS.reason(slot)
    if swept is None or (why := tables.PLANS.reason(slot)):
        return "plan.sweep is not in params" if swept is None else why
    lacking = [f"{name} heads are not silenced: {skipped[name]}" for name in swept.families if name in skipped]
    few = f"fewer than {min(swept.numbers)} heads of a family are not the other's, or no task in params asks about both"
    return "; ".join(lacking) or few


def _csv(path, table: pd.DataFrame, columns: str = "") -> None:
    table = table[columns.split()] if columns else table
    files.write_text(path, table.to_csv(index=False, float_format="%.5f", lineterminator="\n"))


def _json(value: dict) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


if __name__ == "__main__":
    run(main, *sys.argv[1:])
