"""Condense one slot's results into the git-tracked files that people diff: `python -m stages.summarize <slot>`.

Writes reports/slots/<slot>/: model.json, metrics.json, heads.csv, overlap.csv, reliability.csv, grammar.csv,
iteration.csv, effects.csv, steering.csv. Every interval is a 95 % bootstrap over clusters of prompts; effects are
paired on the same prompts.
"""

import importlib.metadata
import json
import sys
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from stages.families import FAMILIES
from stages.statistics import arcs, stepping
from stages.statistics.verdict import bootstrap, bounds, jaccard, over_draws, resampled
from stages.store import params, paths, tables
from stages.store.errors import run
from stages.store.metrics import VECTORS, metrics
from stages.tasks.prompt import stream

SAMPLES = 2000  # bootstrap samples
PACKAGES = ("torch", "transformers", "numpy", "pyarrow", "scipy", "dvc")
EFFECT_COLUMNS = (
    "intervention k kind task group measure value change low high trials control draws "
    "versus_control versus_low versus_high"
).split()


def main(slot: str) -> None:
    """Read the slot's tables, write its summaries."""
    settings = params.load()
    folder = paths.report(slot)
    heads = tables.read(paths.heads(slot), tables.HEADS)
    effects = summarize_effects(tables.read(paths.effects(slot), tables.EFFECTS), settings.seed)
    steering = summarize_steering(tables.read(paths.steering(slot), tables.STEERING), settings.seed)
    steering = pd.concat([_demonstrated(effects, steering), steering])
    grammar, steps = _grammar(slot, heads, settings), _steps(slot, heads, settings)
    _csv(
        folder / "heads.csv",
        heads.assign(member=heads.member.astype(int)),
        "layer head family score null baseline low high q member prompts note",
    )
    _csv(folder / "overlap.csv", overlap(heads))
    _csv(folder / "reliability.csv", reliability(heads))
    _csv(folder / "effects.csv", effects, " ".join(EFFECT_COLUMNS))
    _csv(folder / "steering.csv", steering, "function layer context vector accuracy low high trials heads strength")
    _csv(folder / "grammar.csv", grammar)
    _csv(folder / "iteration.csv", steps)
    tables.write_text(folder / "model.json", _json(_model(slot, settings)))
    tables.write_text(
        folder / "metrics.json", _json(metrics(heads, effects, steering, grammar, steps, _sink_rate(slot, settings)))
    )


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
    return pd.DataFrame(rows, columns="family_a family_b members_a members_b both jaccard expected corrected".split())


def reliability(heads: pd.DataFrame) -> pd.DataFrame:
    """Return the rank correlation of the two splits' scores over heads, per family."""
    rows = []
    for name, mine in heads.groupby("family", sort=False):
        both = mine.dropna(subset=["score_a", "score_b"])
        rank = spearmanr(both.score_a, both.score_b).statistic if both.score_a.nunique() > 1 else np.nan
        rows.append(
            {
                "family": name,
                "spearman": rank,
                "members": int(mine.member.sum()),
                "threshold": FAMILIES[name].threshold,
                "prompts": int(mine.prompts.max()),
            }
        )
    return pd.DataFrame(rows, columns=["family", "spearman", "members", "threshold", "prompts"])


def summarize_effects(raw: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return one row per intervention, task, group and measure, each effect beside its control.

    Intervals of matched heads, and of the difference from them, hold the spread over draws as well as over prompts. For
    'none', low and high bound the value and `change` is empty; else they bound the change.
    """
    if raw.empty:
        return pd.DataFrame(columns=EFFECT_COLUMNS)
    none = raw[raw.intervention == "none"].drop_duplicates(["task", "prompt", "measure"])
    rows = [
        _intact(none, task, measure, "all", mine, seed) for (task, measure), mine in none.groupby(["task", "measure"])
    ]
    for (task, measure), mine in none.groupby(["task", "measure"]):
        label = mine.category if task == "blimp" else mine.group
        if task in ("blimp", "icl", "needle"):
            rows += [_intact(none, task, measure, group, part, seed) for group, part in mine.groupby(label)]
    changed = raw[raw.intervention != "none"].assign(change=lambda table: table.value - table.intact, group="all")
    pairs = changed[changed.task == "blimp"]
    changed = pd.concat([changed, pairs.assign(group=pairs.category)])
    keys = ["intervention", "k", "kind", "task", "group", "measure"]
    groups = dict(iter(changed.groupby(keys)))
    for (name, *same), mine in groups.items():
        rows.append(_effect(name, same, mine, groups.get((f"matched:{name}", *same)), seed))
    order = {name: index for index, name in enumerate(["none", *FAMILIES])}
    table = pd.DataFrame(rows, columns=EFFECT_COLUMNS)
    rank = table.intervention.str.removeprefix("matched:").map(order)
    return (
        table.assign(rank=rank)
        .sort_values(["kind", "rank", "k", "intervention", "task", "measure", "group"], kind="stable")
        .drop(columns="rank")
    )


def _effect(name: str, same: list, mine: pd.DataFrame, control: pd.DataFrame | None, seed: int) -> dict:
    """Return one intervention's row; prompts and, for matched heads, draws are resampled."""
    k, kind, task, group, measure = same
    rng = stream(seed, f"summarize/{name}/{k}/{kind}/{task}/{group}/{measure}")
    names = mine.drop_duplicates("prompt").set_index("prompt").cluster.sort_index()
    sides = [mine] if control is None else [mine, control]
    wide = [side.pivot(index="prompt", columns="draw", values="change") for side in sides]
    means_RD = resampled(np.hstack(wide), names.to_numpy(str), SAMPLES, rng)
    own, other = np.split(means_RD, [wide[0].shape[1]], axis=1)
    own_R = over_draws(own, rng)
    low, high = bounds(own_R)
    row = {"intervention": name, "k": k, "kind": kind, "task": task, "group": group, "measure": measure}
    row |= {"value": mine.value.mean(), "change": mine.change.mean(), "low": low, "high": high}
    row |= {"trials": len(names), "control": mine.control.iloc[0], "draws": wide[-1].shape[1]}
    if control is not None:
        low, high = bounds(own_R - over_draws(other, rng))
        beyond = mine.change.mean() - control.change.mean()
        row |= {"versus_control": beyond, "versus_low": low, "versus_high": high}
    elif not name.startswith("matched:"):
        row["draws"] = 0
    return row


def _intact(none: pd.DataFrame, task: str, measure: str, group: str, mine: pd.DataFrame, seed: int) -> dict:
    rng = stream(seed, f"summarize/none/{task}/{measure}/{group}")
    low, high = bootstrap(mine[["value"]].to_numpy(float), mine.cluster.to_numpy(str), SAMPLES, rng)[:, 0]
    row = {"intervention": "none", "k": 0, "kind": "", "task": task, "group": group, "measure": measure}
    return row | {"value": mine.value.mean(), "low": low, "high": high, "trials": len(mine), "draws": 0}


def summarize_steering(raw: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return accuracy per function, context and vector of the chosen settings, on split b; random draws averaged."""
    columns = "function layer context vector accuracy low high trials heads strength".split()
    rows = []
    for (function, context, vector), mine in raw[raw.chosen.astype(bool)].groupby(["function", "context", "vector"]):
        rng = stream(seed, f"summarize/steering/{function}/{context}/{vector}")
        names = mine.drop_duplicates("prompt").set_index("prompt").cluster.sort_index()
        wide = mine.pivot(index="prompt", columns="draw", values="correct").astype(float)
        low, high = bounds(over_draws(resampled(wide.to_numpy(), names.to_numpy(str), SAMPLES, rng), rng))
        first = mine.iloc[0]
        row = {
            "function": function,
            "layer": first.layer,
            "context": context,
            "vector": vector,
            "heads": first["heads"],
        }
        rows.append(
            row
            | {
                "accuracy": mine.correct.mean(),
                "low": low,
                "high": high,
                "trials": len(mine),
                "strength": first.strength,
            }
        )
    table = pd.DataFrame(rows, columns=columns)
    table["vector"] = pd.Categorical(table.vector, VECTORS)
    return table.sort_values(["context", "function", "vector"], ascending=[False, True, True])


def _demonstrated(effects: pd.DataFrame, steering: pd.DataFrame) -> pd.DataFrame:
    """Return the intact accuracy with demonstrations of the functions that were steered, to compare with."""
    clean = effects[(effects.intervention == "none") & (effects.task == "icl") & (effects.measure == "accuracy")]
    clean = clean[clean.group.isin(steering.function)]
    same = {"layer": -1, "context": "clean", "vector": "none", "heads": 0, "strength": 0.0}
    columns = clean.rename(columns={"group": "function", "value": "accuracy"}).assign(**same)
    return columns.reindex(columns=steering.columns)


def _sink_rate(slot: str, settings: params.Params) -> float | None:
    """Return the share of (prompt, layer, head) whose mean attention to the sinks is above 0.3 (Gu+ ICLR 2025)."""
    if settings.tasks.text is None or tables.reason(paths.relations(slot, "text")):
        return None
    table = tables.read(paths.relations(slot, "text"), tables.RELATIONS, ["relation", "mass"])
    return float((table[table.relation == "sink"].mass > FAMILIES["sink"].threshold).mean())


def _grammar(slot: str, heads: pd.DataFrame, settings: params.Params) -> pd.DataFrame:
    """Return the best head per grammatical relation (empty without a treebank)."""
    if settings.tasks.treebank is None or tables.reason(paths.relations(slot, "treebank")):
        return pd.DataFrame(columns=arcs.COLUMNS)
    relations = tables.read(paths.relations(slot, "treebank"), tables.RELATIONS)
    metadata = tables.read_schema(paths.heads(slot)).metadata or {}
    missing = json.loads(metadata.get(b"not_measured", b"{}"))
    causal = json.loads(paths.model(slot).read_text(encoding="utf-8"))["kind"] == "decoder"
    seed = settings.seed
    return arcs.table(relations, heads, missing, causal, lambda name: stream(seed, f"summarize/grammar/{slot}/{name}"))


def _steps(slot: str, heads: pd.DataFrame, settings: params.Params) -> pd.DataFrame:
    """Return the best head per function and relation of the iteration task (empty where it was not measured)."""
    if settings.tasks.iteration is None or tables.reason(paths.relations(slot, "iteration")):
        return pd.DataFrame(columns=stepping.COLUMNS)
    relations = tables.read(paths.relations(slot, "iteration"), tables.RELATIONS)
    return stepping.table(relations, heads, lambda name: stream(settings.seed, f"summarize/{slot}/{name}"))


def _model(slot: str, settings: params.Params) -> dict:
    """Return the slot's record with versions and everything that was not measured, with reasons."""
    record = json.loads(paths.model(slot).read_text(encoding="utf-8"))
    metadata = tables.read_schema(paths.heads(slot)).metadata or {}
    missing = {f"family {name}": why for name, why in json.loads(metadata.get(b"not_measured", b"{}")).items()}
    for label, path in (("ablation", paths.effects(slot)), ("steering", paths.steering(slot))):
        if tables.reason(path):
            missing[label] = tables.reason(path)
    if record["skipped"]:
        missing["attention modules"] = "; ".join(f"{name}: {why}" for name, why in sorted(record["skipped"].items()))
    versions = {name: importlib.metadata.version(name).split("+")[0] for name in PACKAGES}
    return record | {"layers": len(record["attention"]), "versions": versions, "not_measured": missing}


def _csv(path, table: pd.DataFrame, columns: str = "") -> None:
    table = table[columns.split()] if columns else table
    tables.write_text(path, table.to_csv(index=False, float_format="%.5f", lineterminator="\n"))


def _json(value: dict) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    run(main, *sys.argv[1:])
