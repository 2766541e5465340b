"""Write down every intervention before anything runs: `python -m stages.plan <slot>` writes data/plans/<slot>.parquet.

    family   the best heads of a family: its members, judged on split a alone, the strongest `top` of them by split-a
             score; best non-members, marked, only where fewer than `least` are members. On the family's home tasks, and
             on the tasks that show whether the effect is specific (the first way of `kinds` alone). In every way of
             `kinds`; in those of `also` some families alone, on home tasks.
    control  `draws` matched sets for each of them, on its home tasks (stages/statistics/control.py), in the ways of
             `controlled`, the same sets in each
    single   one head alone, on every task: those that head a family, and a random sample
    sweep    more and more heads of one of two families that are not the other's, on the tasks that both are asked
             about, and sweep_control, sets matched to them: which of the two does the model need there?

Which families have home tasks stands in their files. No torch here: every control can be read, reviewed and tested.
"""

import logging
import sys

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.families.sets import silenced_sets, unknown_sets
from stages.statistics.control import NONE, Head, Pool, controls, matching
from stages.store import params, records, tables
from stages.store.errors import run
from stages.store.named import refuse
from stages.tasks.prompt import stream
from stages.tasks.task import IMAGES_UNSCORED

log = logging.getLogger(__name__)
SILENT = 5  # seconds before a bar is shown: hundreds of control sets take minutes


def main(slot: str) -> None:
    """Plan a decoder's interventions; an encoder's table is empty and says why."""
    settings = params.load()
    record = records.read(slot)
    if record["kind"] != "decoder":
        why = "an encoder is scored intact only: no head of it is silenced"
        why = IMAGES_UNSCORED if record["kind"] == "vision" else why
        return tables.PLANS.write_empty(slot, why=why)
    judged = tables.HEADS.read(slot)
    asked = [name for name, task in settings.tasks if task is not None]
    rows, skipped = plan(slot, judged, record, asked, settings)
    for name, why in skipped.items():
        log.info("%s: not silenced: %s", name, why)
    log.info("plan %s: %d interventions", slot, len(rows))
    tables.PLANS.noting(skipped=skipped).write(rows, slot, asked=len(rows))


def plan(
    slot: str, judged: pd.DataFrame, record: dict, tasks: list[str], settings
) -> tuple[list[dict], dict[str, str]]:
    """Return the rows of PLANS, and why families that ask for evidence are not silenced.

    judged: the heads table; record: data/models/<slot>.json; tasks: those in params.
    """
    refuse(unknown_sets(settings))
    skipped: dict[str, str] = {}
    best: dict[str, pd.DataFrame] = {}
    for name, families in silenced_sets().items():
        scores = judged[judged.family.isin([family.name for family in families])].dropna(subset="score_a")
        if name in settings.plan.leave_out:
            skipped[name] = "left out in params"
        elif not set(families[0].home) & set(tasks):
            skipped[name] = f"tasks.{' and tasks.'.join(families[0].home)} not in params"
        elif scores.empty:
            skipped[name] = "was not measured"
        else:
            best[name] = ranked(scores)
    pool = Pool(
        heads=tuple((part["layer"], head) for part in record["attention"] for head in range(part["heads"])),
        kinds={part["layer"]: part["kind"] for part in record["attention"]},
        members={name: set(_pairs(table[table.member | table.member_a])) for name, table in best.items()},
    )
    rows, named = [], []
    for name, table in tqdm(best.items(), desc=f"plan {slot}", unit="family", delay=SILENT):
        family = silenced_sets()[name][0]
        home = [task for task in family.home if task in tasks]
        beside = [task for task in settings.plan.specificity if task in tasks and task not in home]
        members = table[table.member_a]
        size = max(min(len(members), settings.plan.top), settings.plan.least)
        heads = _pairs(table.head(size))  # members come first
        inside = min(len(members), size)
        rng = stream(settings.seed, f"plan/{slot}/{name}")
        sets = controls(heads, name, pool, settings.plan.draws, rng)
        same = {"family": name, "k": len(heads), "condition": family.home_condition, "members": inside}
        level, first = "" if sets else NONE, settings.plan.kinds[0]
        kinds = [*settings.plan.kinds, *(kind for kind, names in settings.plan.also.items() if name in names)]
        for kind in kinds:
            rows.append(same | _row("family", kind, 0, heads, [*home, *beside] if kind == first else home, level))
        for kind in (kind for kind in kinds if kind in settings.plan.controlled):
            for draw, control in enumerate(sets, start=1):
                level = matching(heads, control, pool)
                rows.append(same | _row("control", kind, draw, control, home, level) | {"members": 0})
        named += heads[: settings.plan.named]
        log.info("%s: %s (%d members); %d control sets", name, written(heads), inside, len(sets))
    rows += sweep(slot, best, pool, tasks, settings) if settings.plan.sweep else []
    home = {task for families in silenced_sets().values() for task in families[0].home}
    asked = [task for task in tasks if task in home]
    asked += [task for task in settings.plan.specificity if task in tasks and task not in asked]
    order = stream(settings.seed, f"plan/{slot}/single").permutation(len(pool.heads))
    alone = sorted({*named, *(pool.heads[place] for place in order[: settings.plan.sample])})
    for head in alone if asked else []:
        row = _row("single", settings.plan.kinds[0], 0, [head], asked, "")
        rows.append({"family": "", "k": 1, "condition": "", "members": 0} | row)
    for row in rows:
        where = row["heads"] if row["purpose"] == "single" else f"{row['family']}/{row['k']}"
        row["id"] = "/".join([row["purpose"], where, row["kind"], *([str(row["draw"])] if row["draw"] else [])])
    return [{name: row[name] for name in tables.PLANS.names} for row in rows], skipped


def sweep(slot: str, best: dict[str, pd.DataFrame], pool: Pool, tasks: list[str], settings) -> list[dict]:
    """Return rows that silence the first heads of each of two families that are not the other's, and control sets.

    best: family -> its ranked heads. [] where one of the families is not silenced, or no task is home to both.
    """
    asked = settings.plan.sweep
    if missing := [name for name in asked.families if name not in best]:
        log.info("no sweep: %s not silenced", " and ".join(missing))
        return []
    home = [task for task in tasks if all(task in silenced_sets()[name][0].home for name in asked.families)]
    rows, kind = [], settings.plan.kinds[0]
    for name, other in (asked.families, asked.families[::-1]) if home else ():
        order = exclusive(best[name], best[other])
        for number in asked.numbers:
            heads = order[:number]
            if len(heads) < number:
                log.info("no sweep of %d heads of %s: %d are not those of %s", number, name, len(heads), other)
                continue
            rng = stream(settings.seed, f"plan/{slot}/sweep/{name}/{number}")
            sets = controls(heads, name, pool, settings.plan.draws, rng) if number in asked.controlled else []
            inside = len(set(heads) & set(_pairs(best[name][best[name].member_a])))
            same = {"family": name, "condition": "", "members": inside}
            before = _pairs(best[name])[: _pairs(best[name]).index(heads[-1])]
            out = written(head for head in before if head not in heads)
            why = "" if sets else NONE if number in asked.controlled else "no control sets asked for"
            rows.append(
                same
                | _row("sweep", kind, 0, heads, home, "; ".join(filter(None, [f"without {out}" if out else "", why])))
            )
            for draw, control in enumerate(sets, start=1):
                level = matching(heads, control, pool)
                rows.append(same | _row("sweep_control", kind, draw, control, home, level) | {"members": 0})
    return rows


def exclusive(own: pd.DataFrame, other: pd.DataFrame) -> list[Head]:
    """Return the heads of one family, best first, that are not the other's: no members there, nor ranked higher there.

    own, other: all heads of both families, ranked. The sets of the two families never share a head.
    """
    members, place = set(_pairs(other[other.member_a])), {head: at for at, head in enumerate(_pairs(other))}
    return [head for at, head in enumerate(_pairs(own)) if head not in members and at < place.get(head, len(other))]


def ranked(judged: pd.DataFrame) -> pd.DataFrame:
    """Return all heads, members by split a first, then by split-a score: layer, head, score_a, member, member_a.

    judged: rows of the heads table, of one family or of several that are silenced together. Those are scored on
    different scales, so a head's score there is its largest lead over the best offset in any of them.
    """
    rows = judged
    if judged.family.nunique() > 1:
        rows = judged.assign(score_a=judged.lead_a)
    rows = rows.groupby(["layer", "head"], as_index=False)[["score_a", "member", "member_a"]].max()
    rows = rows.astype({"member": bool, "member_a": bool})
    order = ["member_a", "score_a", "layer", "head"]
    return rows.sort_values(order, ascending=[False, False, True, True], kind="stable")


def written(heads) -> str:
    """Write heads as people name them: 'L5H1 L11H2'."""
    return " ".join(f"L{layer}H{head}" for layer, head in heads)


def _row(purpose: str, kind: str, draw: int, heads, tasks: list[str], level: str) -> dict:
    row = {"purpose": purpose, "kind": kind, "draw": draw, "heads": written(heads), "tasks": tasks}
    return row | {"matching": level, "k": len(heads)}


def _pairs(table: pd.DataFrame) -> list[Head]:
    return list(zip(np.asarray(table.layer).tolist(), np.asarray(table["head"]).tolist(), strict=True))


if __name__ == "__main__":
    run(main, *sys.argv[1:])
