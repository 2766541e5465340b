"""Build function vectors and test them: `python -m stages.steer <slot>`.

Writes data/vectors/<slot>/: vectors.safetensors, of each vector a row per layer after which it is added; the same for
llama.cpp in control/ (GGUF, one file each); and steering.parquet. For every function the model solves
10-shot: heads ranked by indirect effect on split a; number of heads, layer and strength chosen on zero-shot prompts of
split a; everything reported on split b, zero-shot, shuffled and in natural text, beside the intact model with
demonstrations.
    none           the prompt as it is
    heads          the top heads' mean outputs, each written into its own slot at the last token
    held_out       as `heads`, with as many heads that all OTHER functions rank first
    function       their sum through W_O, times strength, added to the residual after one block (Todd+ 2024)
    layerwise      the heads' sums layer by layer, each added after its own block
    random         a random vector of the norm of `function`, at its layer; several draws
    layer_average  the mean residual after a block over clean prompts, added in the same way (Todd+'s baseline)
    control        as `heads`, with as many OTHER heads of the same or the nearest layers; several sets
Control sets: stages/statistics/vector_heads.py; their ranks: stages/statistics/steering.py.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from stages import tasks
from stages.statistics.vector_heads import ADDED, Ranking, Setting, ranked, ranking
from stages.store import files, params, paths, records, tables
from stages.store.errors import UserError, run
from stages.store.folders import replacing

if TYPE_CHECKING:
    import torch

    from stages.model.intervene import Edit, Head
    from stages.model.load import Loaded
    from stages.model.score import Scored
    from stages.model.vectors import Parts

log = logging.getLogger(__name__)
TASK = "icl"
ELSEWHERE = ("none", "heads", "function", "random", "control")  # what other tasks' prompts are answered under
DRAWN = 3  # random vectors and control sets there, at most: a mean to stand beside, no rank
KEPT = pa.schema(  # the vectors that were chosen: what is added after a layer, before its strength
    {"function": pa.string(), "vector": pa.string(), "strength": pa.float64(), "heads": pa.int32()}
    | {"layer": pa.int32(), "added": pa.list_(pa.float32())}
)
NAMED = ("name", "revision", "origin", "licence", "dtype", "files")  # of the record, in what travels
UNCHANGED = 1e-5  # nats: no prompt's answer moves by more under an edit that does not arrive


@dataclass(frozen=True)
class Outcome:
    """How one prompt (a row of the prompts table) was answered under one setting."""

    prompt: tuple
    setting: Setting
    scored: "Scored"


@dataclass(frozen=True)
class Chosen:
    """A vector as it is stored: its strength, how many heads it is of, what is added, layer -> (D,)."""

    strength: float
    heads: int
    added: "dict[int, torch.Tensor]"

    @property
    def provenance(self) -> dict:
        """Return what is said of it: after which layers its rows are added, times which strength."""
        return {"layers": list(self.added), "strength": self.strength, "heads": self.heads}


@dataclass(frozen=True)
class Vectors:
    """What can be written or added for one function: mean outputs (K,) per head, mean residuals (D,) per layer."""

    loaded: "Loaded"
    ranking: Ranking
    parts: "Parts"
    averages: "Mapping[int, torch.Tensor]"
    elsewhere: "Sequence[Head]"  # all heads, ranked by their effects on the other functions; none without any

    def heads(self, setting: Setting) -> "Sequence[Head]":
        """Return the heads of a setting."""
        return self.elsewhere[: setting.heads] if setting.vector == "held_out" else self.ranking.of(setting)

    def edit(self, setting: Setting) -> "Edit":
        """Turn a setting into an edit of the last token."""
        from stages.model.intervene import Edit
        from stages.model.vectors import in_place

        if setting.vector == "none":
            return Edit()
        if setting.vector in ("heads", "held_out", "control"):
            return in_place(self.parts.means, self.heads(setting))
        return Edit(added={at: x_D * setting.strength for at, x_D in self.added(setting).items()})

    def added(self, setting: Setting) -> "dict[int, torch.Tensor]":
        """Return what is added, before its strength: layer -> vector (D,)."""
        if setting.vector == "layer_average":
            return {setting.layer: self.averages[setting.layer]}
        heads = self.ranking.of(setting)
        if setting.vector == "layerwise":
            layers = sorted({layer for layer, _ in heads})
            return {at: self.parts.together([head for head in heads if head[0] == at]) for at in layers}
        sum_D = self.parts.together(heads)
        return {setting.layer: self.ranking.randomly(sum_D, setting) if setting.vector == "random" else sum_D}


class Answering:
    """Prompts of one function, run up to their last tokens, to be answered under any settings."""

    def __init__(self, vectors: Vectors, prompts: pd.DataFrame) -> None:
        from stages.model.score import LastTokens
        from stages.model.tokens import encode

        self.vectors, self.prompts = vectors, list(prompts.itertuples())
        self.last = LastTokens(vectors.loaded, [encode(vectors.loaded, row) for row in self.prompts])
        self.scores: dict[Setting, tuple[Scored, ...]] = {}

    def under(self, settings: Sequence[Setting]) -> list[Outcome]:
        """Score the answers under each setting, prompt by prompt; a setting that changes no prompt's is an error."""
        intact = Setting("none")
        fresh = [setting for setting in dict.fromkeys((intact, *settings)) if setting not in self.scores]
        answers = self.last.edited([[self.vectors.edit(setting) for setting in fresh]] * len(self.prompts))
        self.scores |= dict(zip(fresh, zip(*answers, strict=True), strict=True))
        for setting in settings:
            pairs = zip(self.scores[setting], self.scores[intact], strict=True)
            if setting != intact and max(np.abs(a.logprob - b.logprob).max() for a, b in pairs) < UNCHANGED:
                raise UserError(f"steering with {setting} changed no logit of {self.prompts[0].id} and those after it")
        return [
            Outcome(prompt, setting, self.scores[setting][number])
            for number, prompt in enumerate(self.prompts)
            for setting in settings
        ]


def main(slot: str) -> None:
    """Steer every solved function, or say why there is none."""
    settings = params.load()
    why = settings.left_out("steer") or tables.INDIRECT.reason(slot)
    if why:
        return _write_empty(slot, why)
    traced = tables.INDIRECT.read(slot)
    if not (traced.split == "a").any():
        why = f"no prompt of split a was traced, so no heads can be chosen: tasks.{TASK}.sets has to be 4 at least"
        return _write_empty(slot, why)
    import torch
    from safetensors.torch import save

    from stages.engine.kept import Job, forget, keys, tables_of
    from stages.engine.means import solved_means, solved_residuals
    from stages.model.load import load

    loaded = load(slot, attention="sdpa", lays_out=True)
    prompts = tables.ASKED.read(TASK)
    prompts = prompts[prompts.condition.isin(traced.function)]
    prompts = _across_sets(_read_whole(loaded, prompts))
    elsewhere = _elsewhere(loaded, settings)
    shown = tables.SOLVED.read(slot, TASK)
    kinds = {number: layer.kind for number, layer in loaded.anatomy.layers.items()}
    order = ranking(traced, kinds, settings.steer, settings.seed, f"steer/{slot}")
    functions = sorted(traced.function.unique())
    skipped = {name: why for name, why in tables.INDIRECT.skipped(slot).items() if name not in functions}
    means, residuals = solved_means(slot, TASK), solved_residuals(slot, TASK)
    todo = []
    for function in functions:
        of_function, clean = prompts[prompts.condition == function], shown[shown.condition == function]
        asked = _asked(of_function, settings.steer)
        if missing := [name for name, some in asked.items() if some.empty and name != "natural"]:
            skipped[function] = f"no prompt to {' and '.join(missing)} fits the model"
            continue
        others = ranked(traced[traced.function != function])
        of_elsewhere = elsewhere[elsewhere.condition == function]
        of_clean = means[function, ""], residuals[function]
        todo.append(Steered(function, of_function, clean, *of_clean, of_elsewhere, others))
    log.info(_announced(slot, loaded, todo, settings.steer))
    record = records.read(slot)
    work, folder = partial(_steered, order=order, settings=settings.steer), paths.shards(slot, "steer")
    job = Job(
        partial(load, slot, attention="sdpa", lays_out=True), work, [tables.STEERING.schema, KEPT], [paths.model(slot)]
    )
    key = keys(record, order.heads, order.seed, repr(settings.steer))
    rows, chosen = [], {}
    with tqdm(total=len(todo), desc="steer", unit="function") as progress:
        for steering, added in tables_of(job, todo, map(key, todo), folder, loaded, lambda _: progress.update()):
            rows.append(steering)
            for row in added.to_pylist():
                name = f"{row['function']}.{row['vector']}"
                made = chosen.setdefault(name, Chosen(row["strength"], row["heads"], {}))
                made.added[row["layer"]] = torch.tensor(row["added"])
    for function, why in skipped.items():
        log.info("%s: not steered: %s", function, why)
    if not rows:
        return _write_empty(slot, "; ".join(f"{function}: {why}" for function, why in skipped.items()))
    asked = sum(map(len, (of for shard in todo for of in shard.asked(settings.steer))))
    with tables.STEERING.noting(skipped=skipped).writer(slot, asked=asked) as add:
        for table in rows:
            add(table)
    heads = [list(head) for head in order.heads[: max(settings.steer.heads)]]
    made = {"slot": slot, "model": {name: record[name] for name in NAMED if name in record}, "heads": heads}
    made["vectors"] = {name: of.provenance for name, of in chosen.items()}
    _export(slot, loaded, chosen)
    with files.replacing(paths.vectors(slot)) as temporary:
        added = {name: torch.stack(list(of.added.values())) for name, of in chosen.items()}
        temporary.write_bytes(save(added, metadata={"provenance": json.dumps(made, sort_keys=True)}))
    forget(folder)


@dataclass(frozen=True, eq=False)  # tables have no one truth of being equal
class Steered:
    """A shard: a function, its rows of the prompts table, other tasks' prompts that are asked for it.

    clean: its rows of SOLVED; means, residuals: heads' mean outputs (K,) and the mean residuals (D,) after blocks, over
    clean prompts of split a that the model solves; others: all heads, ranked by their effects on the other functions;
    none without any.
    """

    function: str
    prompts: pd.DataFrame
    clean: pd.DataFrame
    means: "Mapping[Head, torch.Tensor]"
    residuals: "Mapping[int, torch.Tensor]"
    elsewhere: pd.DataFrame
    others: "Sequence[Head]"

    def asked(self, settings: params.Steer) -> list[pd.DataFrame]:
        """Return all prompts that rows are about, by context: intact with demonstrations, under vectors, elsewhere."""
        by_purpose = _asked(self.prompts, settings)
        clean = _clean(by_purpose["zero_shot"], self.prompts, self.clean)
        others = [some.head(settings.zero_shot) for _, some in self.elsewhere.groupby("category")]
        return [clean, *by_purpose.values(), *others]


def _steered(loaded, shard: Steered, order: Ranking, settings: params.Steer) -> tuple[pd.DataFrame, list[dict]]:
    """Steer a function: rows of the steering table, and the vectors chosen (`KEPT`)."""
    from stages.model.vectors import Parts

    function, asked = shard.function, _asked(shard.prompts, settings)
    vectors = Vectors(loaded, order, Parts(loaded, shard.means), shard.residuals, shard.others)
    tried, best = choose(Answering(vectors, asked["choose"]), settings)
    rows = [_row(function, outcome, False, vectors) for outcome in tried]
    rows += _demonstrated(function, asked["zero_shot"], shard.prompts, shard.clean)
    for context in ("zero_shot", "shuffled", "natural"):
        if asked[context].empty:
            continue
        outcomes = Answering(vectors, asked[context]).under(best)
        rows += [_row(function, outcome, True, vectors) for outcome in outcomes]
    rows += _steered_elsewhere(function, vectors, best, shard.elsewhere, settings)
    added = [
        {"function": function, "vector": setting.vector, "strength": setting.strength, "heads": setting.heads}
        | {"layer": layer, "added": x_D.cpu().tolist()}
        for setting in best
        if setting.vector in ADDED
        for layer, x_D in vectors.added(setting).items()
    ]
    return pd.DataFrame(rows)[tables.STEERING.names], added


def _export(slot: str, loaded: "Loaded | None", chosen: Mapping[str, Chosen]) -> None:
    """Write the vectors as llama.cpp reads them, one file each, strength multiplied in; none for one after block 0."""
    from stages.model import control_vector

    record = records.read(slot)
    model = f"{record['name']} {record['revision']}".strip()
    with replacing(paths.control_vectors(slot)) as folder:
        written = {}
        for name, vector in chosen.items():
            if min(vector.added) < 1:
                log.info("%s: not written for llama.cpp, which cannot steer after block 0", name)
                continue
            function, _, variant = name.rpartition(".")
            said = {"slot": slot, "model": model, "function": function}
            said |= {"vector": variant, "strength": f"{vector.strength:g}, multiplied in"}
            said |= {"measured": "added at the last token of a prompt only"}
            file = re.sub(r"[^\w.-]", "_", name) + ".gguf"
            kind = loaded.model.config.get_text_config().model_type
            values = {layer: (x_D * vector.strength).numpy() for layer, x_D in vector.added.items()}
            control_vector.write(folder / file, values, kind, len(loaded.anatomy.blocks), said)
            written[file] = said | {"layers": list(vector.added)}
        (folder / "provenance.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def choose(answering: Answering, settings: params.Steer) -> tuple[list[Outcome], list[Setting]]:
    """Try settings on prompts of split a; return all outcomes, and the chosen settings to report.

    The number of heads is the best for `heads`; `function` uses the same, at its best layer and strength.
    """
    order = answering.vectors.ranking
    counts = [Setting("heads", heads=n) for n in sorted({min(n, len(order.heads)) for n in settings.heads})]
    tried = answering.under(counts)
    number = _best(tried, counts).heads
    options = {
        vector: [
            Setting(vector, layer, strength, number if vector == "function" else 0)
            for layer in list(answering.vectors.loaded.anatomy.layers)[:: settings.layer_step]
            for strength in settings.strengths
        ]
        for vector in ("function", "layer_average")
    }
    options["layerwise"] = [Setting("layerwise", strength=strength, heads=number) for strength in settings.strengths]
    more = answering.under([setting for of_vector in options.values() for setting in of_vector])
    best = {vector: _best(more, some) for vector, some in options.items()}
    chosen = [Setting("none"), Setting("heads", heads=number), *best.values()]
    chosen += [Setting("held_out", heads=number)] if answering.vectors.elsewhere else []
    chosen += [replace(best["function"], vector="random", draw=draw) for draw in range(1, settings.random + 1)]
    draws = range(1, len(order.control_sets(number)) + 1)
    return tried + more, chosen + [Setting("control", heads=number, draw=draw) for draw in draws]


def _asked(prompts: pd.DataFrame, settings: params.Steer) -> dict[str, pd.DataFrame]:
    """Return one function's prompts by what they are for: to choose on (split a), zero-shot and shuffled (split b)."""

    def first(role: str, split: str, number: int) -> pd.DataFrame:
        return prompts[(prompts.role == role) & (prompts.split == split)].head(number)

    return {
        "choose": first("zero_shot", "a", settings.choose),
        "zero_shot": first("zero_shot", "b", settings.zero_shot),
        "shuffled": first("shuffled", "b", settings.shuffled),
        "natural": first("natural", "b", settings.natural),
    }


def _demonstrated(function: str, asked: pd.DataFrame, prompts: pd.DataFrame, clean: pd.DataFrame) -> list[dict]:
    """Return rows of the intact model's answers to the same queries with demonstrations, as `extract` saw them.

    asked: zero-shot rows of the prompts table; prompts, clean: as of `Steered`.
    """
    solved = clean.set_index("prompt").solved
    same = {"function": function, "context": "clean", "vector": "none", "layer": -1, "strength": 0.0, "heads": 0}
    same |= {"draw": 0, "chosen": True, "names": "", "matching": ""}
    return [
        same | {"prompt": row.id, "split": row.split, "cluster": row.cluster, "correct": bool(solved[row.id])}
        for row in _clean(asked, prompts, clean).itertuples()
    ]


def _clean(asked: pd.DataFrame, prompts: pd.DataFrame, clean: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the prompts table that ask zero-shot queries with demonstrations, as `_demonstrated`."""
    names = asked.id.str.replace("#zero_shot", "#clean", regex=False)
    return prompts[prompts.id.isin(names) & prompts.id.isin(clean.prompt)]


def _elsewhere(loaded, settings: params.Params) -> pd.DataFrame:
    """Return the prompts of other tasks that are answered under the vectors (`stages.tasks.task.Task.steered`)."""
    asked = {name: tasks.of(name).steered for name, task in settings.tasks if task is not None}
    chosen = [_read_whole(loaded, _zero_shot(name), steered) for name, steered in asked.items() if steered is not None]
    return pd.concat(chosen or [pd.DataFrame(columns=tables.PROMPTS.names)], ignore_index=True)


def _zero_shot(task: str) -> pd.DataFrame:
    prompts = tables.ASKED.read(task)
    return prompts[(prompts.role == "zero_shot") & (prompts.split == "b")]


def _steered_elsewhere(
    function: str, vectors: Vectors, best: Sequence[Setting], prompts: pd.DataFrame, settings: params.Steer
) -> list[dict]:
    """Return rows of other tasks' prompts of a function; the context is their category."""
    chosen = [setting for setting in best if setting.vector in ELSEWHERE and setting.draw <= DRAWN]
    rows = []
    for category, asked in prompts.groupby("category"):
        outcomes = Answering(vectors, asked.head(settings.zero_shot)).under(chosen)
        rows += [_row(function, outcome, True, vectors) | {"context": category} for outcome in outcomes]
    return rows


def _read_whole(loaded, prompts: pd.DataFrame, asked: Callable[..., bool] | None = None) -> pd.DataFrame:
    """Return the prompts that the model reads whole; asked: of these, those for which it holds (row, tokens)."""
    from stages.model.tokens import fitting

    read = zip(*fitting(loaded, list(prompts.itertuples())), strict=True) if len(prompts) else ()
    kept = {row.id for row, tokens in read if asked is None or asked(row, tokens)}
    return prompts[prompts.id.isin(kept)]


def _across_sets(prompts: pd.DataFrame) -> pd.DataFrame:
    """Order prompts so that the first n of a function come from as many sets of demonstrations as there are."""
    return prompts.assign(query=prompts.id.str.rpartition("-")[2]).sort_values(["query", "id"])


def _announced(slot: str, loaded, todo: "Sequence[Steered]", settings: params.Steer) -> str:
    """Return the stage's announcement: prompts run once, and their answers once under each setting."""
    from stages.model.cost import Work, announce
    from stages.model.tokens import encode_all

    layers = len(range(0, len(loaded.anatomy.layers), settings.layer_step))
    tried = len(settings.heads) + 2 * layers * len(settings.strengths)
    chosen = 6 + settings.random + settings.draws
    there = 3 + min(DRAWN, settings.random) + min(DRAWN, settings.draws)
    work, count = Work(), 0
    for shard in todo:
        asked = [
            (prompts, tried if purpose == "choose" else chosen)
            for purpose, prompts in _asked(shard.prompts, settings).items()
        ]
        of_others = shard.elsewhere.groupby("category")
        asked += [(prompts.head(settings.zero_shot), there) for _, prompts in of_others]
        for prompts, runs in asked:
            encoded = encode_all(loaded, prompts.itertuples())
            answer = sum(len(tokens.target) for tokens in encoded)
            work += Work(sum(map(len, encoded))) + Work(answer, answer) * runs
            count += len(encoded)
    return announce(f"steer {slot}", count, work, loaded)


def _best(tried: list[Outcome], options: list[Setting]) -> Setting:
    """Return the most accurate setting; among equals, the one under which the answers are likeliest."""

    def merit(setting: Setting) -> tuple[float, float]:
        scores = [outcome.scored for outcome in tried if outcome.setting == setting]
        return np.mean([scored.solved for scored in scores]), np.mean([scored.logprob.mean() for scored in scores])

    return max(options, key=merit)


def _row(function: str, outcome: Outcome, chosen: bool, vectors: Vectors) -> dict:
    prompt, setting = outcome.prompt, outcome.setting
    row = {"function": function, "prompt": prompt.id, "split": prompt.split, "cluster": prompt.cluster}
    row |= {"context": prompt.role, "vector": setting.vector, "layer": setting.layer, "strength": setting.strength}
    row |= {"heads": setting.heads, "draw": setting.draw, "chosen": chosen, "correct": outcome.scored.solved}
    row |= {"names": " ".join(f"L{layer}H{head}" for layer, head in vectors.heads(setting))}
    return row | {"matching": vectors.ranking.matching(setting), "logprob": float(outcome.scored.logprob.mean())}


def _write_empty(slot: str, why: str) -> None:
    from safetensors.numpy import save

    log.info("%s: nothing to steer: %s", slot, why)
    tables.STEERING.write_empty(slot, why=why)
    _export(slot, None, {})
    with files.replacing(paths.vectors(slot)) as temporary:
        temporary.write_bytes(
            save({}, metadata={"provenance": json.dumps({"reason": why, "slot": slot}, sort_keys=True)})
        )


if __name__ == "__main__":
    run(main, *sys.argv[1:])
