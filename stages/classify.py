"""Judge every head for every family: `python -m stages.classify <slot>` writes data/heads/<slot>.parquet."""

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

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
PROMPTS = {"prompt", "split", "cluster", "relation", "queries", "baseline", "baseline_a", "recalled"}  # read of each
NAMES = ["relation", "prompt"]  # of a row, but for its head
HELD = 1 << 26  # numbers of a column that are held at once: .25 GB
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
    judged, missing = [], {}
    log.info(_announced(slot, settings, len(heads)))
    asked = [
        family
        for family in FAMILIES.values()  # but those that are neither asked for nor possible
        if getattr(settings.tasks, family.task) is not None or not tasks.of(family.task).refuses(record["kind"])
    ]
    every = tqdm(_measured(slot, asked, settings, heads), desc=f"classify {slot}", total=len(asked), unit="family")
    for family, measured, why in every:
        if family.name == "streaming" and record["kind"] != "decoder":
            why = why or "an encoder keeps no cache of past keys"
        if measured is None or why:
            missing[family.name] = why
            continue
        name = f"classify/{slot}/{family.name}"
        columns = judge(family, *measured.arrays, settings.classify, stream(settings.seed, name))
        columns |= {"member_a": np.zeros(len(heads), dtype=bool), "lead_a": np.full(len(heads), np.nan)}
        if len((own := measured.on_a()).prompts):  # judged again without any prompt that effects are reported on
            on_a = judge(family, *own.arrays, settings.classify, stream(settings.seed, f"{name}/a"))
            beaten = np.where(np.isnan(on_a["baseline"]), on_a["score_null"], on_a["baseline"])
            columns |= {"member_a": on_a["member"], "lead_a": on_a["score"] - beaten}
        table = heads.assign(family=family.name, **columns, prompts=len(measured.prompts))
        if family.name == "streaming":
            narrow = table.layer.map(lambda layer: (windows[layer] or RECENT + 1) <= RECENT)
            table.loc[narrow, ["member", "member_a", "note"]] = [False, False, "by architecture"]
        judged.append(table)
        log.info("%-10s %2d members, top %s", family.name, table.member.sum(), _top(table))
    rows = pd.concat(judged) if judged else pd.DataFrame(columns=tables.HEADS.names)
    tables.HEADS.noting(not_measured=missing).write(rows, slot, asked=len(asked) - len(missing))


def _announced(slot: str, settings: params.Params, heads: int) -> str:
    """Return the stage's announcement: every head's interval in each family, and rows that are read for them."""
    asked = {family.task for family in FAMILIES.values() if getattr(settings.tasks, family.task) is not None}
    asked = {task for task in asked if tables.RELATIONS.path(slot, task).exists()}
    asked = {task for task in asked if not tables.RELATIONS.reason(slot, task)}
    rows = sum(parquet.number_of_rows(tables.RELATIONS.path(slot, task)) for task in asked)
    families = sum(family.task in asked for family in FAMILIES.values())
    counts = {"families": families, "heads": heads, "rows": rows}
    return announce(f"classify {slot}", counts, families * heads + rows / JUDGED)


@dataclass(frozen=True)
class Measured:
    """What a family is judged by: rows of prompts, sorted by id, and value and null of every head on each, (P, H).

    over_words: words weigh equally, not prompts, and the null is what the best fixed offset hits.
    """

    prompts: pd.DataFrame
    values_PH: np.ndarray
    null_PH: np.ndarray
    over_words: bool = False

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Values, null (P, H), baseline, cluster, split and weight (P,), as `judge` takes them."""
        rows = self.prompts
        baseline_P, weights_P = rows.baseline.to_numpy(float), np.ones(len(rows))
        null_PH = self.null_PH
        if self.over_words:
            weights_P = rows.queries.to_numpy(float)
            null_PH = np.broadcast_to(baseline_P[:, None], self.values_PH.shape)
        return self.values_PH, null_PH, baseline_P, rows.cluster.to_numpy(str), rows.split.to_numpy(str), weights_P

    def on_a(self) -> "Measured":
        """Return what is of split a, beside the offset that is the best there: split b has no say in it either."""
        first_P = (self.prompts.split == "a").to_numpy()
        rows = self.prompts[first_P]
        rows = rows.assign(baseline=rows.baseline_a)
        return replace(self, prompts=rows, values_PH=self.values_PH[first_P], null_PH=self.null_PH[first_P])


def _measured(
    slot: str, families: Sequence[Family], settings: params.Params, heads: pd.DataFrame
) -> Iterator[tuple[Family, Measured | None, str]]:
    """Yield what each family is judged by, or why there is nothing; families of one task stand together."""
    for task, group in groupby(families, key=lambda family: family.task):
        of_task = list(group)
        effects = of_task[0].statistic == "effect"
        if getattr(settings.tasks, task) is None:
            why = f"task {task} is not in params"
        else:
            why = tables.INDIRECT.reason(slot) if effects else tables.RELATIONS.reason(slot, task)
        if why:
            yield from ((family, None, why) for family in of_task)
        elif effects:
            yield from ((family, _effects(slot, heads), "") for family in of_task)
        else:
            for family, prompts, columns in _of_task(slot, task, of_task, heads):
                yield family, *_judged_by(family, prompts, columns)


def _of_task(
    slot: str, task: str, families: Sequence[Family], heads: pd.DataFrame
) -> Iterator[tuple[Family, pd.DataFrame, dict[str, np.ndarray]]]:
    """Yield each family with the prompts that have its relation, sorted, and columns of their rows by head, (P, H).

    The task's table is gone through once for as many families as `HELD` numbers of each column are of.
    """
    counts = tables.RELATIONS.of_prompts(slot, task, columns=["relation"]).relation.value_counts()
    parts: list[list[Family]] = [[]]
    for family in families:
        if parts[-1] and sum(counts.get(each.name, 0) for each in (*parts[-1], family)) * len(heads) > HELD:
            parts.append([])
        parts[-1].append(family)
    for part in parts:
        only = [("relation", "in", [family.name for family in part])]
        known = [name for name in tables.RELATIONS.names if name in PROMPTS]
        prompts = tables.RELATIONS.of_prompts(slot, task, columns=known, only=only)
        prompts = prompts.sort_values(["relation", "prompt"], ignore_index=True)
        columns = sorted({family.statistic for family in part} | {_null(family) for family in part})
        batches = tables.RELATIONS.batches(slot, task, columns=[*NAMES, "layer", "head", *columns])
        wide = _by_head((batch.to_pandas() for batch in batches), prompts[NAMES], heads, columns)
        for family in part:
            own = (prompts.relation == family.name).to_numpy()
            of_family = {name: values_PH[own] for name, values_PH in zip(columns, wide, strict=True)}
            yield family, prompts[own].reset_index(drop=True), of_family


def _null(family: Family) -> str:
    """Return the column of what a head does by chance; of words, a prompt's own `baseline` is in its place."""
    return "over_half_null" if family.statistic == "over_half" else "mass_null"


def _judged_by(family: Family, prompts: pd.DataFrame, columns: Mapping[str, np.ndarray]) -> tuple[Measured | None, str]:
    """Return what a family is judged by, or why there is nothing."""
    if prompts.empty:
        short = "no prompt has this relation (too short, or the answer is cut into other tokens)"
        return None, "the model has no such tokens" if tasks.of(family.task).reads == "image" else short
    over_words = family.statistic == "hits_word"
    if over_words:
        counts = prompts.groupby("split").queries.sum().reindex(["a", "b"], fill_value=0)
        if counts.min() < FEWEST:
            return None, f"{counts.min()} query words in one half of the sentences: fewer than {FEWEST}"
    values_PH, null_PH = (columns[name].astype(float) for name in (family.statistic, _null(family)))
    if family.solved_only:
        trials, right_P = len(prompts), (prompts.recalled == 1).to_numpy()
        prompts, values_PH, null_PH = prompts[right_P], values_PH[right_P], null_PH[right_P]
        log.info("%s: %d of %d trials answered in full", family.name, len(prompts), trials)
        if prompts.empty:
            return None, f"the intact model answers none of {trials} trials in full"
    return Measured(prompts, values_PH, null_PH, over_words), ""


def _effects(slot: str, heads: pd.DataFrame) -> Measured:
    table = tables.INDIRECT.read(slot)
    prompts = table.drop_duplicates("prompt").sort_values("prompt", ignore_index=True)
    (values_PH,) = _by_head([table], prompts[["prompt"]], heads, ["effect"])
    prompts = prompts.assign(baseline=np.nan, baseline_a=np.nan)
    return Measured(prompts, values_PH.astype(float), np.zeros(values_PH.shape))


def _by_head(
    parts: Iterable[pd.DataFrame], names: pd.DataFrame, heads: pd.DataFrame, columns: Sequence[str]
) -> list[np.ndarray]:
    """Return columns of rows by name and head, (P, H) each; names: those asked for; parts: one of them is in memory."""
    places_P, places_H = (pd.MultiIndex.from_frame(of) for of in (names, heads))
    wide = [np.full((len(names), len(heads)), np.nan, np.float32) for _ in columns]
    for part in parts:
        at_P, at_H = (of.get_indexer(pd.MultiIndex.from_frame(part[of.names])) for of in (places_P, places_H))
        asked = at_P >= 0
        for values_PH, column in zip(wide, columns, strict=True):
            values_PH[at_P[asked], at_H[asked]] = part[column].to_numpy(np.float32)[asked]
    return wide


def _top(table: pd.DataFrame) -> str:
    best = table.nlargest(4, "score")
    return ", ".join(f"L{row.layer}H{row.head} {row.score:.2f}" for row in best.itertuples())


if __name__ == "__main__":
    run(main, *sys.argv[1:])
