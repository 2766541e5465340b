"""Nearest neighbours in context: `python -m stages.neighbours <slot>` reads labelled demonstrations.

Writes data/neighbours/<slot>/: answers.parquet, one row per prompt: the answer, what a vote of the nearest
demonstrations (by the model's own states), the majority and the last label say, tokens shared, attention of the
induction heads; attention.parquet, that of the plan's control sets; and silenced.parquet, answers with these heads and
with the control sets silenced.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.statistics.neighbours import MADE_UP, agreeing, choose, votes
from stages.store import params, paths, records, tables
from stages.store.errors import UserError, run

log = logging.getLogger(__name__)
TASK, FAMILY = "neighbours", "induction"


def main(slot: str) -> None:
    """Read all prompts, choose the vote on split a, silence the induction heads on split b."""
    settings = params.load()
    record = records.read(slot)
    if why := settings.left_out("neighbours"):
        return _write_empty(slot, why)
    if getattr(settings.tasks, TASK) is None:
        return _write_empty(slot, f"tasks.{TASK} is not in params")
    if why := tasks.of(TASK).refuses(record["kind"]):
        return _write_empty(slot, why)
    from stages.engine import shards
    from stages.engine.kept import forget, keys, tables_of
    from stages.engine.local import each
    from stages.engine.means import no_means, text_means
    from stages.model.cost import Work, announce
    from stages.model.demonstrations import readings
    from stages.model.load import load
    from stages.model.tokens import fitting

    loaded = load(slot, attention="sdpa", lays_out=True)
    table = tables.ASKED.read(TASK)
    if unknown := sorted(set(settings.neighbours.silenced) - set(table.condition)):
        allowed = ", ".join(sorted(set(table.condition)))
        raise UserError(f"{paths.PARAMS}: neighbours.silenced = {unknown[0]!r}: no such kind; allowed: {allowed}")
    plan = planned(tables.PLANS.read(slot), settings.plan.kinds[0])
    interventions = tuple(shards.Intervention.of(row) for row in plan.itertuples())
    looking = {i.draw: i.silences for i in interventions}  # 0: the family's
    heads = sorted({head for of_set in looking.values() for head in of_set})
    rows, encoded = fitting(loaded, list(table.itertuples()))
    if not rows:
        return _write_empty(slot, "all prompts are longer than the model reads")
    asked = _asked(rows, settings.neighbours)
    length = {row.id: len(tokens) for row, tokens in zip(rows, encoded, strict=True)}
    work = Work(sum(length.values()) + len(interventions) * sum(length[row.id] for row in asked))
    log.info(announce(f"neighbours {slot}", len(rows), work, loaded))
    sets: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        sets.setdefault((shown(row.id), labelling(row.id)), []).append(row)

    def of_set(some: list[Any]) -> list[Any]:
        return [replace(reading, row=None) for reading in readings(loaded, TASK, some, heads)]  # rows do not travel

    whole = list(sets.values())
    every = tqdm(each(of_set, whole, loaded), desc=TASK, total=len(whole), unit="set")
    read = [
        replace(reading, row=row)
        for some, of_some in zip(whole, every, strict=True)
        for row, reading in zip(some, of_some, strict=True)
    ]
    result, chosen = prompt_rows(read, list(loaded.anatomy.layers), settings.neighbours.nearest)
    attention = attention_rows(read, heads, looking)
    result = result.merge(attention[attention.draw == 0].drop(columns="draw"), "left", "prompt")
    tables.NEIGHBOURS.noting(chosen=chosen).write(result.sort_values("prompt"), slot, asked=len(rows))
    beside = attention[attention.draw > 0].sort_values(["prompt", "draw"])
    lacking, draws = "no control set of induction heads is in the plan", len(looking.keys() - {0})
    tables.NEIGHBOURS_ATTENTION.write(beside, slot, asked=len(rows) * draws, otherwise=lacking)
    why = settings.left_out("ablate") or no_means(slot, settings)
    if why or not interventions or not asked:
        why = why or ("no induction heads, by split a, to silence" if asked else "no prompts to silence heads on")
        return tables.NEIGHBOURS_SILENCED.write_empty(slot, why=why)
    todo = shards.cut(TASK, asked, {row.id: interventions for row in asked}, settings.ablate.shard)
    means, limit = text_means(slot), settings.extract.batch_tokens
    job, key, folder = shards.effects(slot, means, limit), keys(record, means, limit), paths.shards(slot, TASK)
    with (
        tables.NEIGHBOURS_SILENCED.writer(slot, asked=len(shards.names(loaded, todo))) as add,
        tqdm(total=len(todo), desc="silence", unit="shard") as progress,
    ):
        for (table,) in tables_of(job, todo, map(key, todo), folder, loaded, lambda _: progress.update()):
            add(table)
    forget(folder)


def planned(plan: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return what is silenced here: the family's best heads and their control sets, not those of a sweep over it.

    Nothing where none of these heads is a member: the best heads that are not are no induction heads.
    """
    rows = plan[(plan.family == FAMILY) & (plan.kind == kind) & plan.purpose.isin(("family", "control"))]
    return rows if rows[rows.purpose == "family"].members.any() else rows.head(0)


def labelling(prompt: str) -> str:
    """Return 'given' or 'swapped', how the two classes are called in a prompt, from its id."""
    return prompt.rpartition("#")[2]


def shown(prompt: str) -> str:
    """Return the set of demonstrations that a prompt shows, from its id: those of a cluster may show several."""
    return prompt.rpartition("/")[0]


def _asked(rows: list, settings: params.Neighbours) -> list:
    """Return the prompts that heads are silenced on: the first sets of split b of some kinds, labels as given."""
    chosen = []
    for condition in settings.silenced:
        inside = [
            row for row in rows if row.condition == condition and row.split == "b" and labelling(row.id) == "given"
        ]
        sets = list(dict.fromkeys(shown(row.id) for row in inside))[: settings.sets]
        chosen += [row for row in inside if shown(row.id) in sets]
    return sorted(chosen, key=lambda row: row.id)


def prompt_rows(read: list, layers: list[int], nearest: tuple[int, ...]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the rows of `tables.NEIGHBOURS` and which layer and number of nearest demonstrations split a chose.

    read: a `Reading` per prompt; layers: of its similarities; nearest: numbers of demonstrations that may vote. With
    the choice stands how much hangs on it (`_close`).
    """
    votes_PLK = np.array([np.stack([votes(r.similarity, r.like, k) for k in nearest], axis=1) for r in read])
    right_P = np.array([float(r.measures["accuracy"]) for r in read])
    first = np.array([r.row.split == "a" for r in read])
    layer, k, agreement = choose(right_P[first], votes_PLK[first])
    chosen = {"layer": layers[layer], "nearest": nearest[k], "agreement": round(agreement, 5)}
    chosen |= _close(read, votes_PLK, right_P, first)
    labels = sorted({target for r in read for target in r.row.targets})
    rows = [
        {
            "prompt": r.row.id,
            "split": r.row.split,
            "condition": r.row.condition,
            "category": r.row.category,
            "cluster": r.row.cluster,
            "role": labelling(r.row.id),
            "right_label": r.row.targets[0].strip(),
            "answer": "" if r.measures["margin"] == 0 else r.row.targets[int(r.measures["margin"] < 0)].strip(),
            "accuracy": r.measures["accuracy"],
            "margin": r.measures["margin"],
            "majority_right": bool(r.like.mean() > 0.5),
            "last_right": bool(r.like[-1]),
            "first_label_right": r.row.targets[0] == labels[0],
            "nearest_right": bool(votes_PLK[place, layer, k]),
            "shared_like": float(r.shared[r.like].mean()),
            "shared_unlike": float(r.shared[~r.like].mean()),
        }
        for place, r in enumerate(read)
    ]
    return pd.DataFrame(rows), chosen


def attention_rows(read: list, heads: Sequence[tuple], looking: Mapping[int, Sequence[tuple]]) -> pd.DataFrame:
    """Return, per prompt and set of heads, attention to labels of demonstrations like the query and unlike it.

    read: a `Reading` per prompt, of the attention of heads; looking: draw -> heads of a set, which are among them.
    """
    places = {draw: [heads.index(head) for head in of_set] for draw, of_set in looking.items()}
    rows = []
    for r in read:
        like_h, unlike_h = (r.attention[:, of_class].mean(1) for of_class in (r.like, ~r.like))
        for draw, of_set in places.items():
            means = {"attention_like": like_h[of_set].mean(), "attention_unlike": unlike_h[of_set].mean()}
            rows.append({"prompt": r.row.id, "draw": draw} | means)
    return pd.DataFrame(rows, columns=tables.NEIGHBOURS_ATTENTION.names)


def _close(read: list, votes_PLK: np.ndarray, right_P: np.ndarray, first_P: np.ndarray) -> dict[str, float]:
    """Return what split b says under all choices that split a hardly tells from the best: one prompt fewer at most.

    close: how many such choices of layer and number there are, the best among them; <language>_lowest, _highest: of
    made-up words, the share of answers that are the nearest's where these and the majority differ.
    """
    agree_PLK = agreeing(right_P, votes_PLK)
    agreeing_LK = agree_PLK[first_P].sum(axis=0)
    close_LK = agreeing_LK >= agreeing_LK.max() - 1
    found: dict[str, float] = {"close": int(close_LK.sum())}
    majority_P = np.array([r.like.mean() > 0.5 for r in read])
    for language, conditions in MADE_UP.items():
        asked_P = ~first_P & np.array([r.row.condition in conditions for r in read], dtype=bool)
        differ_PC = (votes_PLK != majority_P[:, None, None])[asked_P][:, close_LK]
        agree_PC = agree_PLK[asked_P][:, close_LK]
        shares = [agree_P[differ_P].mean() for agree_P, differ_P in zip(agree_PC.T, differ_PC.T, strict=True)
                  if differ_P.any()]  # fmt: skip
        if shares:
            found |= {f"{language}_lowest": round(min(shares), 5), f"{language}_highest": round(max(shares), 5)}
    return found


def _write_empty(slot: str, why: str) -> None:
    log.info("%s: no nearest neighbours: %s", slot, why)
    tables.NEIGHBOURS.write_empty(slot, why=why)
    tables.NEIGHBOURS_ATTENTION.write_empty(slot, why=why)
    tables.NEIGHBOURS_SILENCED.write_empty(slot, why=why)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
