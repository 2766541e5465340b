"""Silence the top heads of each family against matched draws: `python -m stages.ablate <slot>`.

Writes data/effects/<slot>.parquet: one row per (intervention, draw, prompt, measure), intact value beside. Heads are
ranked by their score on split a; effects are measured on prompts of split b. An encoder with a masked-LM head is scored
intact, on minimal pairs (pseudo-log-likelihoods); the table's metadata say why the rest is missing.
"""

import json
import logging
import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tqdm import tqdm

from stages.families.iteration.iteration import name
from stages.families.treebank.grammar import ranked
from stages.statistics.control import LEVELS, NONE, matched
from stages.store import params, paths, tables
from stages.store.budget import announce
from stages.store.errors import UserError, run
from stages.tasks.prompt import stream

log = logging.getLogger(__name__)

Head = tuple[int, int]


@dataclass(frozen=True)
class Intervention:
    """Heads to silence, how, and what to call it; `control` tells how well the matched draws are matched."""

    name: str
    k: int
    kind: str
    draw: int
    heads: tuple[Head, ...]
    control: str


def main(slot: str) -> None:
    """Run all interventions on all tasks the intact model can do; say why where there is nothing to silence."""
    settings = params.load()
    record = json.loads(paths.model(slot).read_text(encoding="utf-8"))
    if record["kind"] != "decoder":
        return _encoder(slot, record, settings)
    from stages.model.load import load
    from stages.model.tokens import fitting

    loaded = load(slot)
    judged = tables.read(paths.heads(slot), tables.HEADS)
    mean = [
        i
        for family in settings.ablate.families
        for i in _interventions(slot, judged, record, family, settings.ablate.top, "mean", settings)
    ]
    curve = [
        i
        for k in settings.ablate.curve.ks
        for i in _interventions(slot, judged, record, "retrieval", k, "zero", settings)
    ]
    beside = [one for one in curve if one.k == settings.ablate.curve.blimp_k]
    plan = [(task, rows, mean) for task, rows in _prompts(slot, settings).items() if len(rows)]
    plan += _curve_plan(settings, curve, beside)
    plan += _grammar_plan(slot, judged, record, settings) + _iteration_plan(slot, judged, record, settings)
    plan += _intact_only(settings)
    plan = [(task, fitting(loaded, rows)[0], interventions) for task, rows, interventions in plan]
    tokens = sum(_tokens(loaded, task, rows) * (1 + len(interventions)) for task, rows, interventions in plan)
    log.info(announce(f"ablate {slot}", sum(len(rows) for _, rows, _ in plan), tokens, record["parameters"]))
    means = _mean_outputs(slot, loaded, settings)
    with (
        tables.writer(paths.effects(slot), tables.EFFECTS) as add,
        tqdm(total=sum(len(rows) * (1 + len(done)) for _, rows, done in plan), desc="ablate", unit="pass") as progress,
    ):
        for task, rows, interventions in plan:
            add(_rows(loaded, task, rows, interventions, means, settings.extract.batch_tokens, progress))
        add(_known(slot, settings))


def _encoder(slot: str, record: dict, settings: params.Params) -> None:
    """Score the intact encoder on all minimal pairs, or say why it cannot be; nothing is silenced."""
    if record["kind"] != "masked":
        return _write_empty(slot, "this encoder has no language-model head: it can neither continue nor score text")
    if settings.tasks.blimp is None:
        return _write_empty(slot, "an encoder can score minimal pairs only, and tasks.blimp is not in params")
    from stages.model.load import load
    from stages.model.pseudo import outcomes, work
    from stages.model.tokens import fitting

    loaded = load(slot)
    if loaded.tokenizer.mask_token_id is None:
        return _write_empty(slot, "this model's tokenizer has no mask token: no token can be hidden and asked for")
    rows, _ = fitting(loaded, list(tables.read(paths.prompts("blimp"), tables.PROMPTS).itertuples()))
    log.info(announce(f"ablate {slot}", len(rows), work(loaded, rows), record["parameters"]))
    none, found = Intervention("none", 0, "", 0, (), ""), []
    scored = outcomes(loaded, rows, settings.extract.batch_tokens)
    for row, measures in tqdm(scored, total=len(rows), desc="score", unit="pair"):
        for measure, value in measures.items():
            found.append(_row(none, "blimp", row) | {"measure": measure, "value": value, "intact": value})
    why = "an encoder is scored intact only, on minimal pairs (pseudo-log-likelihoods): no head of it is silenced"
    tables.write(
        paths.effects(slot),
        pd.DataFrame(found, columns=tables.EFFECTS.names),
        tables.EFFECTS.with_metadata({"reason": why}),
    )


def _write_empty(slot: str, why: str) -> None:
    log.info("%s: nothing to score or silence: %s", slot, why)
    tables.write(paths.effects(slot), tables.empty(tables.EFFECTS, why), tables.EFFECTS)


def _interventions(slot, judged, record, family: str, k: int, kind: str, settings) -> list[Intervention]:
    """Return the family's top k by split-a score and its matched draws; nothing where the family was not measured."""
    group = family.removeprefix("grammar:")
    rows = judged[judged.family == family] if group == family else ranked(judged, group)
    rows = rows.dropna(subset="score_a")
    if rows.empty:
        return []
    best = rows.sort_values(["score_a", "layer", "head"], ascending=[False, True, True]).head(k)
    heads = tuple(zip(best.layer.tolist(), best["head"].tolist(), strict=True))
    members = list(zip(rows[rows.member].layer.tolist(), rows[rows.member]["head"].tolist(), strict=True))
    kinds = {layer["layer"]: layer["kind"] for layer in record["attention"]}
    everything = [(layer["layer"], head) for layer in record["attention"] for head in range(layer["heads"])]
    rng = stream(settings.seed, f"ablate/{slot}/{family}/{k}/{kind}")
    number = settings.ablate.curve.draws if kind == "zero" else settings.ablate.draws
    draws = matched(heads, members, kinds, everything, number, rng)
    control = LEVELS[draws[0].level] if draws else NONE
    log.info("%s k=%d %s: %s; control: %s (%d draws)", family, k, kind, _named(heads), control, len(draws))
    return [
        Intervention(family, k, kind, 0, heads, control),
        *[Intervention(f"matched:{family}", k, kind, index, draw.heads, control) for index, draw in enumerate(draws)],
    ]


def _prompts(slot: str, settings: params.Params) -> dict[str, list[Any]]:
    """Return the prompts of split b that mean ablations are measured on, per task."""
    chosen: dict[str, pd.DataFrame] = {}
    ablate = settings.ablate
    for task, count in (("blimp", ablate.blimp), ("icl", ablate.icl), ("repeats", ablate.repeats)):
        table = _split_b(task, settings)
        if task == "icl" and len(table):
            table = table[(table.role == "clean") & table.group.isin(_solved(slot, settings))]
        chosen[task] = _spread(table, count)
    text = _split_b("text", settings)
    chosen["text"] = (
        text[text.role == "long"].head(ablate.text).assign(tokens=ablate.text_tokens) if len(text) else text
    )
    chosen["needle"] = _needles(settings, ablate.needle_tokens, ablate.needles, "needle_tokens")
    return {task: list(table.itertuples()) for task, table in chosen.items()}


def _curve_plan(settings: params.Params, curve, beside) -> list[tuple[str, list[Any], list[Intervention]]]:
    if not curve:
        return []
    needles = _needles(settings, settings.ablate.curve.tokens, settings.ablate.curve.needles, "curve.tokens")
    pairs = _spread(_split_b("blimp", settings), settings.ablate.blimp)
    plan = [("needle", list(needles.itertuples()), curve), ("blimp", list(pairs.itertuples()), beside)]
    return [(task, rows, interventions) for task, rows, interventions in plan if rows and interventions]


def _grammar_plan(slot, judged, record, settings) -> list[tuple[str, list[Any], list[Intervention]]]:
    """Return the best heads of each group of relations, silenced on minimal pairs of every phenomenon."""
    grammar = settings.ablate.grammar
    found = [
        one
        for group in grammar.groups
        for one in _interventions(slot, judged, record, f"grammar:{group}", grammar.top, "mean", settings)
    ]
    pairs = list(_spread(_split_b("blimp", settings), grammar.blimp).itertuples())
    return [("blimp", pairs, found)] if pairs and found else []


def _iteration_plan(slot, judged, record, settings) -> list[tuple[str, list[Any], list[Intervention]]]:
    """Return the best heads of each function of the iteration task, silenced while its tapes are written."""
    plan, table = [], _split_b("iteration", settings)
    for function in settings.ablate.iteration.functions:
        found = _interventions(slot, judged, record, name(function), settings.ablate.iteration.top, "mean", settings)
        prompts = _spread(table[table.group == function], settings.ablate.iteration.prompts)
        plan.append(("iteration", list(prompts.itertuples()), found))
    return [(task, rows, found) for task, rows, found in plan if rows and found]


def _intact_only(settings: params.Params) -> list[tuple[str, list[Any], list[Intervention]]]:
    """Return the minimal pairs that only the intact model is scored on: its accuracy rests on all of them."""
    if settings.tasks.blimp is None:
        return []
    most = max(settings.ablate.blimp, settings.ablate.grammar.blimp)
    done = set(_spread(_split_b("blimp", settings), most).id)  # `_spread` takes the first ones of a fixed order
    pairs = tables.read(paths.prompts("blimp"), tables.PROMPTS)
    rest = list(pairs[~pairs.id.isin(done)].itertuples())
    return [("blimp", rest, [])] if rest else []


def _tokens(loaded, task: str, rows) -> int:
    from stages.model.outcome import trial

    return sum(len(tokens) for row in rows for tokens in trial(loaded, task, row).tokens)


def _split_b(task: str, settings: params.Params) -> pd.DataFrame:
    if getattr(settings.tasks, task) is None:
        return pd.DataFrame(columns=tables.PROMPTS.names)
    table = tables.read(paths.prompts(task), tables.PROMPTS)
    return table[table.split == "b"]


def _needles(settings: params.Params, length: int, count: int, key: str) -> pd.DataFrame:
    if settings.tasks.needle is not None and length not in settings.tasks.needle.lengths:
        allowed = ", ".join(map(str, settings.tasks.needle.lengths))
        raise UserError(f"{paths.PARAMS}: ablate.{key} = {length}: allowed: one of tasks.needle.lengths ({allowed})")
    table = _split_b("needle", settings)
    found = _spread(table[table.category == str(length)], count)
    if len(found) < count:
        log.warning("ablate.%s: %d needles of split b have this length, %d were asked for", key, len(found), count)
    return found


def _spread(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Take `count` prompts evenly over groups; within a group, one cluster after the other."""
    if table.empty:
        return table
    turn = table.sort_values("id").groupby("group").cluster.transform(lambda names: pd.factorize(names)[0])
    table = table.assign(turn=turn).sort_values(["group", "turn", "id"])
    return table.assign(place=table.groupby("group").cumcount()).sort_values(["place", "group"]).head(count)


def _solved(slot: str, settings: params.Params) -> list[str]:
    table = tables.read(paths.indirect(slot), tables.INDIRECT, columns=["function"])
    return sorted(table.function.unique())


def _mean_outputs(slot: str, loaded, settings: params.Params) -> dict:
    """Return every head's mean output over ordinary positions of text, split a (None of it without text)."""
    if settings.tasks.text is None:
        raise UserError(f"{paths.PARAMS}: tasks.text is missing: mean ablation needs the heads' mean outputs over text")
    from stages.model.vectors import mean_outputs

    outputs = tables.read(paths.outputs(slot, "text"))
    return mean_outputs(outputs[(outputs.split == "a") & (outputs.role == "long")], loaded)


def _rows(loaded, task: str, rows, interventions: list[Intervention], means, max_tokens: int, progress) -> pd.DataFrame:
    """Score prompts intact and under each intervention; one row per intervention, prompt and measure."""
    from stages.model.outcome import outcomes

    def silence(one: Intervention):
        values = {head: means[head] if one.kind == "mean" else means[head] * 0 for head in one.heads}
        return lambda batch: batch.ablated(values, everywhere=one.kind == "zero")

    found = []
    everything = [Intervention("none", 0, "", 0, (), ""), *interventions]
    for row, results in outcomes(loaded, task, rows, max_tokens, [silence(one) for one in interventions]):
        progress.update(len(everything))
        for one, measures in zip(everything, results, strict=True):
            for measure, value in measures.items():
                found.append(_row(one, task, row) | {"measure": measure, "value": value, "intact": results[0][measure]})
    return pd.DataFrame(found)[tables.EFFECTS.names]


def _row(one: Intervention, task: str, row) -> dict[str, Any]:
    return {
        "intervention": one.name,
        "k": one.k,
        "kind": one.kind,
        "draw": one.draw,
        "heads": _named(one.heads),
        "control": one.control,
        "task": task,
        "group": row.group,
        "category": row.category,
        "cluster": row.cluster,
        "prompt": row.id,
    }


def _known(slot: str, settings: params.Params) -> pd.DataFrame:
    """Return what extract knows of the intact model, on all clean prompts of both splits: nothing runs again."""
    found = []
    none = Intervention("none", 0, "", 0, (), "")
    for task, measure in (("icl", "accuracy"), ("needle", "recall")):
        if getattr(settings.tasks, task) is None:
            continue
        icl = task == "icl"
        path, column = (paths.outputs(slot, task), "solved") if icl else (paths.relations(slot, task), "recalled")
        right = tables.read(path, columns=["prompt", column]).drop_duplicates("prompt").set_index("prompt")[column]
        prompts = tables.read(paths.prompts(task), tables.PROMPTS).set_index("id", drop=False)
        for row in prompts.loc[right.index].itertuples(index=False):
            value = float(right[row.id])
            found.append(_row(none, task, row) | {"measure": measure, "value": value, "intact": value})
    return pd.DataFrame(found, columns=tables.EFFECTS.names)


def _named(heads) -> str:
    return " ".join(f"L{layer}H{head}" for layer, head in heads)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
