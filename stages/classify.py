"""Judge every head for every family: `python -m stages.classify <slot>` writes data/heads/<slot>.parquet."""

import logging
import sys

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.families import FAMILIES
from stages.families.family import Family
from stages.families.sets import unknown_families
from stages.families.text.streaming import RECENT
from stages.families.treebank.grammar import FEWEST
from stages.statistics.verdict import judge
from stages.store import params, parquet, records, tables
from stages.store.cost import announce
from stages.store.errors import run
from stages.store.named import refuse
from stages.tasks.prompt import stream

log = logging.getLogger(__name__)
JUDGED = 160  # rows read, checked and put in place in the time of a small calculation


def main(slot: str) -> None:
    """Judge all families whose task was measured; the others' reasons go to the table's metadata."""
    settings = params.load()
    refuse(unknown_families(settings))
    record = records.read(slot)
    windows = {layer["layer"]: layer["window"] for layer in record["attention"]}
    heads = pd.DataFrame(
        [(part["layer"], h) for part in record["attention"] for h in range(part["heads"])], columns=["layer", "head"]
    )
    judged, missing, asked = [], {}, 0
    log.info(_announced(slot, settings, len(heads)))
    for family in tqdm(FAMILIES.values(), desc=f"classify {slot}", unit="family"):
        if getattr(settings.tasks, family.task) is None and tasks.of(family.task).refuses(record["kind"]):
            continue  # neither asked for nor possible
        asked += 1
        values, why = _values(slot, family, settings)
        if family.name == "streaming" and record["kind"] != "decoder":
            why = why or "an encoder keeps no cache of past keys"
        if why:
            missing[family.name] = why
            continue
        arrays = _arrays(values, heads, family.statistic == "hits_word")
        columns = judge(family, *arrays, settings.classify, stream(settings.seed, f"classify/{slot}/{family.name}"))
        columns |= {"member_a": np.zeros(len(heads), dtype=bool), "lead_a": np.full(len(heads), np.nan)}
        if len(own := _on_a(values, family)):  # judged again without any prompt that effects are reported on
            arrays = _arrays(own, heads, family.statistic == "hits_word")
            rng = stream(settings.seed, f"classify/{slot}/{family.name}/a")
            on_a = judge(family, *arrays, settings.classify, rng)
            beaten = np.where(np.isnan(on_a["baseline"]), on_a["score_null"], on_a["baseline"])
            columns |= {"member_a": on_a["member"], "lead_a": on_a["score"] - beaten}
        table = heads.assign(family=family.name, **columns, prompts=values.prompt.nunique())
        if family.name == "streaming":
            narrow = table.layer.map(lambda layer: (windows[layer] or RECENT + 1) <= RECENT)
            table.loc[narrow, ["member", "member_a", "note"]] = [False, False, "by architecture"]
        judged.append(table)
        log.info("%-10s %2d members, top %s", family.name, table.member.sum(), _top(table))
    rows = pd.concat(judged) if judged else pd.DataFrame(columns=tables.HEADS.names)
    tables.HEADS.noting(not_measured=missing).write(rows, slot, asked=asked - len(missing))


def _announced(slot: str, settings: params.Params, heads: int) -> str:
    """Return the stage's announcement: every head's interval in each family, and rows that are read for them."""
    asked = {family.task for family in FAMILIES.values() if getattr(settings.tasks, family.task) is not None}
    asked = {task for task in asked if tables.RELATIONS.path(slot, task).exists()}
    asked = {task for task in asked if not tables.RELATIONS.reason(slot, task)}
    rows = sum(parquet.number_of_rows(tables.RELATIONS.path(slot, task)) for task in asked)
    families = sum(family.task in asked for family in FAMILIES.values())
    counts = {"families": families, "heads": heads, "rows": rows}
    return announce(f"classify {slot}", counts, families * heads + rows / JUDGED)


def _values(slot: str, family: Family, settings: params.Params) -> tuple[pd.DataFrame, str]:
    """Return one row per (prompt, layer, head) with value, value_null and baselines, or why there is none."""
    if getattr(settings.tasks, family.task) is None:
        return pd.DataFrame(), f"task {family.task} is not in params"
    effect = family.statistic == "effect"
    if why := tables.INDIRECT.reason(slot) if effect else tables.RELATIONS.reason(slot, family.task):
        return pd.DataFrame(), why
    if effect:
        table = tables.INDIRECT.read(slot)
        return table.assign(value=table.effect, value_null=0.0, baseline=np.nan, baseline_a=np.nan), ""
    known = (
        "prompt",
        "split",
        "cluster",
        "layer",
        "head",
        "queries",
        "mass_null",
        "over_half_null",
        "baseline",
        "baseline_a",
        "recalled",
    )
    columns = [name for name in tables.RELATIONS.names if name in (*known, family.statistic)]
    table = tables.RELATIONS.read(slot, family.task, columns=columns, only=[("relation", "==", family.name)])
    if table.empty:
        short = "no prompt has this relation (too short, or the answer is cut into other tokens)"
        return table, "the model has no such tokens" if tasks.of(family.task).reads == "image" else short
    if family.statistic == "hits_word":
        counts = table.drop_duplicates("prompt").groupby("split").queries.sum().reindex(["a", "b"], fill_value=0)
        if counts.min() < FEWEST:
            return table, f"{counts.min()} query words in one half of the sentences: fewer than {FEWEST}"
    if family.solved_only:
        trials = table.prompt.nunique()
        table = table[table.recalled == 1]
        log.info("%s: %d of %d trials answered in full", family.name, table.prompt.nunique(), trials)
        if table.empty:
            return table, f"the intact model answers none of {trials} trials in full"
    null = {"hits_word": "baseline", "over_half": "over_half_null"}.get(family.statistic, "mass_null")
    return table.assign(value=table[family.statistic], value_null=table[null]), ""


def _on_a(values: pd.DataFrame, family: Family) -> pd.DataFrame:
    """Return the rows of split a, beside the offset that is the best there: split b has no say in it either."""
    rows = values[values.split == "a"]
    rows = rows.assign(baseline=rows.baseline_a)
    return rows.assign(value_null=rows.baseline) if family.statistic == "hits_word" else rows


def _arrays(values: pd.DataFrame, heads: pd.DataFrame, over_words: bool = False) -> tuple[np.ndarray, ...]:
    """Return values, null (P, H each), baseline, cluster, split and weight (P, each), prompts sorted by id."""
    order = pd.MultiIndex.from_frame(heads)
    wide = {
        name: values.pivot(index="prompt", columns=["layer", "head"], values=name)[order]
        for name in ("value", "value_null")
    }
    first = values.drop_duplicates("prompt").set_index("prompt").loc[wide["value"].index]
    arrays = [wide["value"].to_numpy(float), wide["value_null"].to_numpy(float), first.baseline.to_numpy(float)]
    weights = first.queries.to_numpy(float) if over_words else np.ones(len(first))
    return (*arrays, first.cluster.to_numpy(str), first.split.to_numpy(str), weights)


def _top(table: pd.DataFrame) -> str:
    best = table.nlargest(4, "score")
    return ", ".join(f"L{row.layer}H{row.head} {row.score:.2f}" for row in best.itertuples())


if __name__ == "__main__":
    run(main, *sys.argv[1:])
