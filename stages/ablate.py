"""Run the plan: `python -m stages.ablate <slot>` silences the heads of every row of data/plans/<slot>.parquet.

Writes data/effects/<slot>/: effects.parquet, one row per (intervention, prompt, measure) with the intact value beside,
on prompts of split b, and rows of the intact model alone, on prompts that do not depend on the plan; and
first_order.parquet, what gradients say of every head on prompts of split b. An encoder with a masked-LM head is scored
intact, on minimal pairs (pseudo-log-likelihoods); the tables' metadata say why the rest is missing.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from stages import tasks
from stages.store import params, paths, records, tables
from stages.store.errors import run
from stages.store.named import refuse
from stages.tasks.task import IMAGES_UNSCORED

if TYPE_CHECKING:
    from stages.engine.shards import Shard
    from stages.model.cost import Work

log = logging.getLogger(__name__)

SWEEP = ("sweep", "sweep_control")  # purposes of the plan that run in shards of their own
SWEPT = 3  # prompts of a cluster that they take together: a shared prefix is most of what a set of heads costs
ONCE = 24  # prompts of a sweep in one shard: all of the default run, so that what they share runs once for each set
TOGETHER = 2  # prompts of a cluster that are taken together: in-context ones share a prefix, so the second costs little


def main(slot: str) -> None:
    """Run the plan on all tasks the intact model can do; say why where there is nothing to silence."""
    settings = params.load()
    record = records.read(slot)
    if why := settings.left_out("ablate"):
        return _write_empty(slot, why)
    if record["kind"] != "decoder":
        return _encoder(slot, record, settings)
    from stages.engine import shards
    from stages.engine.kept import forget, keys, tables_of
    from stages.engine.means import no_means, text_means
    from stages.model.cost import Work, announce, products
    from stages.model.load import load
    from stages.model.silence import unknown_kinds
    from stages.model.tokens import fitting

    plan = tables.PLANS.read(slot)
    refuse((*unknown_kinds(settings.plan.also, "plan.also"), *unknown_kinds({*plan.kind, *settings.plan.kinds})))
    why_intact = no_means(slot, settings)
    plan = plan.head(0) if why_intact else plan
    loaded = load(slot, attention="sdpa", lays_out=True)
    prompts, length = {}, {}
    for task in settings.ablate.prompts:
        table = silenced_on(slot, task, settings)
        rows, encoded = fitting(loaded, list(table.itertuples()))
        length |= {row.id: len(tokens) for row, tokens in zip(rows, encoded, strict=True)}
        prompts[task] = table[table.id.isin(length)]
    swept = settings.plan.sweep.prompts if settings.plan.sweep else 0
    todo = [
        shard
        for task, table in prompts.items()
        if len(table)
        for shard in planned(task, table, plan, settings.ablate, swept)
    ]
    scored = {row.id for shard in todo for row in shard.prompts}
    rows = {task: list(spread(table, settings.ablate.prompts[task]).itertuples()) for task, table in prompts.items()}
    reported = {(task, row.id) for task, some in rows.items() for row in some}
    for task, table in _rivals(settings).items():
        unscored, encoded = fitting(loaded, list(table[~table.id.isin(scored)].itertuples()))
        length |= {row.id: len(tokens) for row, tokens in zip(unscored, encoded, strict=True)}
        todo += shards.cut(task, unscored, {}, settings.ablate.shard)  # intact: its accuracy rests on all of them
        reported |= {(task, name) for name in table.id}

    def cost(shard: "Shard") -> int:
        """Return how many tokens it runs."""
        passes = tasks.of(shard.task).targets * (1 + len(shard.interventions))
        return passes * sum(length[row.id] for row in shard.prompts)

    tokens = sum(cost(shard) for shard in todo)
    works = [_work(loaded, [shard]) for shard in todo]
    log.info(announce(f"ablate {slot}", sum(len(shard.prompts) for shard in todo), sum(works, Work()), loaded))
    means = {} if why_intact else text_means(slot)
    effects = tables.EFFECTS.with_reason(why_intact) if why_intact else tables.EFFECTS
    limit, folder = settings.extract.batch_tokens, paths.shards(slot, "ablate")
    known = _known(slot, settings, reported)
    names = [name for name in shards.names(loaded, todo) if _told(*name, reported)]
    with (
        effects.writer(slot, asked=len(names) + len(known)) as add,
        tqdm(total=tokens, desc="ablate", unit="token", unit_scale=True) as progress,
    ):
        job, key = shards.effects(slot, means, limit), keys(record, means, limit)
        costs, done = [products(work, loaded) for work in works], lambda number: progress.update(cost(todo[number]))
        for (table,) in tables_of(job, todo, map(key, todo), folder, loaded, done, costs):
            columns = (table[name].to_pylist() for name in ("intervention", "task", "prompt"))
            add(table.filter(pa.array([_told(*name, reported) for name in zip(*columns, strict=True)], pa.bool_())))
        add(known)
    if why_intact:
        tables.FIRST_ORDER.write_empty(slot, why=why_intact)
    else:
        _first_order(slot, loaded, rows, means, settings)
    forget(folder)


def _told(intervention: str, task: str, prompt: str, reported: set[tuple[str, str]]) -> bool:
    """Tell whether a row is written: those of the intact model only on prompts that do not depend on the plan.

    On others it is scored for what is silenced there, and its value stands beside that (`intact`).
    """
    return intervention != "none" or (task, prompt) in reported


def _work(loaded, todo: "Sequence[Shard]") -> "Work":
    """Return the work of shards: what prompts share runs once, and layers below which the same heads are silenced."""
    from stages.model.cost import Work, branched, shared
    from stages.model.outcome import trial

    total = Work()
    for shard in todo:
        trials = [trial(loaded, shard.task, row) for row in shard.prompts]
        rows = sum(len(places) for asked in trials for places in asked.positions)
        once = Work(shared([tokens.ids for asked in trials for tokens in asked.tokens]), rows)
        sets = {(intervention.kind, tuple(sorted(intervention.silences))) for intervention in shard.interventions}
        total += once + Work(once.tokens * branched(loaded, list(sets)), rows * len(sets))
    return total


def planned(
    task: str, prompts: pd.DataFrame, plan: pd.DataFrame, settings: params.Ablate, swept: int = 0
) -> "list[Shard]":
    """Return the shards of one task: its prompts, and which rows of the plan are run on each.

    A set of heads is silenced on `prompts[task]` of the prompts, a single head on the first `single[task]` of these. A
    row with a condition is silenced on prompts of it, wherever the task has it. A sweep runs on `swept` prompts, in
    shards of its own: other interventions run together with what they would run with without it.
    """
    from stages.engine.shards import Intervention, cut

    @cache
    def prompts_of(condition: str, count: int) -> list[Any]:
        inside = prompts[prompts.condition == condition]
        return list(spread(inside if len(inside) else prompts, count).itertuples())

    chosen: dict[str, Any] = {row.id: row for row in spread(prompts, settings.prompts[task]).itertuples()}
    asked: dict[str, list[Intervention]] = {}
    here = plan[plan.tasks.map(lambda asked_on: task in asked_on).astype(bool)]
    sweeping = here.purpose.isin(SWEEP)
    for row in here[~sweeping].itertuples():
        count = (settings.single if row.purpose == "single" else settings.prompts).get(task, 0)
        intervention = Intervention.of(row)
        for prompt in prompts_of(row.condition, count):
            chosen[prompt.id] = prompt
            asked.setdefault(prompt.id, []).append(intervention)
    in_order = sorted(chosen.values(), key=lambda prompt: prompt.id)
    shards = cut(task, in_order, asked, settings.shard)
    if sweeping.any():
        few = sorted(spread(prompts, swept, SWEPT).itertuples(), key=lambda prompt: prompt.id)
        sets = [Intervention.of(row) for row in here[sweeping].itertuples()]
        shards += cut(task, few, {prompt.id: sets for prompt in few}, ONCE)
    return shards


def spread(prompts: pd.DataFrame, count: int, together: int = TOGETHER) -> pd.DataFrame:
    """Take `count` prompts evenly over categories, conditions and clusters; `together` of a cluster follow each other.

    The first n of a larger count are those of a smaller one.
    """
    if prompts.empty:
        return prompts
    table = prompts.sort_values("id")
    cluster = table.groupby("condition").cluster.transform(lambda names: pd.factorize(names)[0])
    turn = table.groupby(["condition", "cluster"]).cumcount() // together
    place = turn * (cluster.max() + 1) + cluster  # all clusters of a condition once, then all of them again
    column = table.groupby("category").condition.transform(lambda names: pd.factorize(names, sort=True)[0])
    table = table.assign(place=place, column=column).sort_values(["place", "column", "category", "condition", "id"])
    return table.head(count)[list(prompts.columns)]


def silenced_on(slot: str, task: str, settings: params.Params) -> pd.DataFrame:
    """Return the prompts of split b that heads may be silenced on; of traced functions, those the model solves."""
    asked, section = tasks.of(task), getattr(settings.tasks, task, None)
    if section is None:
        return pd.DataFrame(columns=tables.PROMPTS.names)
    table = tables.ASKED.read(task)
    table = table[table.split == "b"]
    if asked.roles:
        table = table[table.role.isin(asked.roles)]
    if asked.traced:
        table = table[table.condition.isin(_solved(slot))]
    kept = [row.id for row in table.itertuples() if asked.silenced_on(row, section)]
    return table[table.id.isin(kept)]


def _solved(slot: str) -> list[str]:
    table = tables.INDIRECT.read(slot, columns=["function"])
    return sorted(table.function.unique())


def _rivals(settings: params.Params) -> dict[str, pd.DataFrame]:
    """Return all prompts of the tasks that compare two texts, by task: nothing but this stage scores them."""
    asked = [tasks.of(name) for name, section in settings.tasks if section is not None]
    names = [task.name for task in asked if task.targets > 1 and not task.own_stage]
    return {name: tables.ASKED.read(name) for name in names}


def _first_order(slot: str, loaded, rows: Mapping[str, Sequence[Any]], means: Mapping, settings: params.Params) -> None:
    """Write the first-order effects of all heads on the prompts that sets of heads are silenced on."""
    from stages.model.silence import KINDS

    kinds = tuple(kind for kind in settings.plan.kinds if KINDS[kind].constant)
    asked = {task: prompts for task, prompts in rows.items() if len(prompts)}
    if not asked or not kinds:
        why = "no kind of plan.kinds writes a constant" if asked else "no task has prompts to silence heads on"
        return tables.FIRST_ORDER.write_empty(slot, why=why)
    from stages.engine.kept import Job, keys, tables_of
    from stages.model.first_order import measurable
    from stages.model.load import load

    given = {"means": means, "kinds": kinds, "max_tokens": settings.extract.batch_tokens}
    job = Job(
        partial(load, slot, attention="sdpa", lays_out=True),
        partial(_estimates, **given),
        [tables.FIRST_ORDER.schema],
        [paths.model(slot)],
    )
    key = keys(paths.model(slot).read_text(encoding="utf-8"), given)
    estimates = len(kinds) * sum(len(measurable(loaded, task, prompts)) for task, prompts in asked.items())
    with (
        tables.FIRST_ORDER.writer(slot, asked=estimates) as add,
        tqdm(total=len(asked), desc="first order", unit="task") as progress,
    ):
        todo, folder = list(asked.items()), paths.shards(slot, "ablate")
        for (table,) in tables_of(job, todo, map(key, todo), folder, loaded, lambda _: progress.update()):
            add(table)


def _estimates(loaded, shard: tuple[str, Sequence[Any]], **given: Any) -> list[pd.DataFrame]:
    from stages.model.first_order import first_order

    return [first_order(loaded, *shard, **given)]


def _known(slot: str, settings: params.Params, reported: set[tuple[str, str]]) -> pd.DataFrame:
    """Return what extract knows of the intact model, on all other clean prompts of both splits: nothing runs again.

    reported: (task, prompt) of those whose own scores this stage writes.
    """
    from stages.engine.shards import INTACT, row

    rows = []
    for task, section in settings.tasks:
        table, column = tasks.of(task).extracted
        if section is None or not table:
            continue
        if table == "solved":
            right = tables.SOLVED.read(slot, task, columns=["prompt", column])
        else:
            right = tables.RELATIONS.of_prompts(slot, task, columns=["prompt", column]).drop_duplicates("prompt")
        right = right.set_index("prompt")[column]
        prompts = tables.ASKED.read(task).set_index("id", drop=False)
        rows += [
            row(INTACT, task, prompt, tasks.of(task).main, float(right[prompt.id]))
            for prompt in prompts.loc[right.index].itertuples(index=False)
            if (task, prompt.id) not in reported
        ]
    return pd.DataFrame(rows, columns=tables.EFFECTS.names)


def _encoder(slot: str, record: dict, settings: params.Params) -> None:
    """Score the intact encoder on all minimal pairs, or say why it cannot be; nothing is silenced."""
    if record["kind"] == "vision":
        return _write_empty(slot, IMAGES_UNSCORED)
    if record["kind"] != "masked":
        return _write_empty(slot, "this encoder has no language-model head: it can neither continue nor score text")
    rivals = _rivals(settings)
    if not rivals:
        return _write_empty(slot, "an encoder can score minimal pairs only, and no task of params has any")
    from stages.engine.shards import INTACT
    from stages.engine.shards import row as effect
    from stages.model.cost import announce
    from stages.model.load import load
    from stages.model.pseudo import outcomes, work
    from stages.model.tokens import fitting

    loaded = load(slot, attention="sdpa", lays_out=True)
    if loaded.tokenizer.mask_token_id is None:
        return _write_empty(slot, "this model's tokenizer has no mask token: no token can be hidden and asked for")
    rows, asked = [], 0
    for task, table in rivals.items():
        pairs, _ = fitting(loaded, list(table.itertuples()))
        asked += len(pairs)
        log.info(announce(f"ablate {slot}", len(pairs), work(loaded, pairs), loaded))
        within_word = getattr(getattr(settings.tasks, task), "pseudo", "") == "within_word"
        scored = outcomes(loaded, pairs, settings.extract.batch_tokens, within_word)
        for pair, measures in tqdm(scored, total=len(pairs), desc="score", unit="pair"):
            rows += [effect(INTACT, task, pair, measure, value) for measure, value in measures.items()]
    why = "an encoder is scored intact only, on minimal pairs (pseudo-log-likelihoods): no head of it is silenced"
    table = pd.DataFrame(rows, columns=tables.EFFECTS.names)
    tables.EFFECTS.with_reason(why).write(table, slot, asked=asked)
    tables.FIRST_ORDER.write_empty(slot, why=why)


def _write_empty(slot: str, why: str) -> None:
    log.info("%s: nothing to score or silence: %s", slot, why)
    tables.EFFECTS.write_empty(slot, why=why)
    tables.FIRST_ORDER.write_empty(slot, why=why)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
