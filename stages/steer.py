"""Build function vectors and test them: `python -m stages.steer <slot>`.

Writes data/vectors/<slot>.safetensors and data/vectors/<slot>.steering.parquet. For every function the model solves
10-shot: heads ranked by indirect effect on split a; number of heads, layer and strength chosen on zero-shot prompts of
split a; everything reported on split b, zero-shot and shuffled.
    none           the prompt as it is
    heads          the top heads' mean outputs, each written into its own slot at the last token
    function       their sum through W_O, times strength, added to the residual after one block (Todd+ 2024)
    layer_average  the mean residual after a block over clean prompts, added in the same way (Todd+'s baseline)
    random         as many random other heads as `heads`, written in place; several draws
"""

import json
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.store import params, paths, tables
from stages.store.budget import announce
from stages.store.errors import UserError, run
from stages.tasks.prompt import stream

if TYPE_CHECKING:
    from stages.model.score import LastToken, Scored

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """One way to steer: which vector, where, how strong, from how many heads."""

    vector: str
    layer: int = -1
    strength: float = 0.0
    heads: int = 0
    draw: int = 0


def main(slot: str) -> None:
    """Steer every solved function, or say why there is none."""
    settings = params.load()
    why = tables.reason(paths.indirect(slot))
    if why:
        return _write_empty(slot, why)
    from safetensors.torch import save

    from stages.model.load import load
    from stages.model.tokens import fitting
    from stages.model.vectors import mean_outputs

    loaded = load(slot, attention="sdpa")
    prompts = tables.read(paths.prompts("icl"), tables.PROMPTS)
    prompts = prompts[prompts.group.isin(tables.read(paths.indirect(slot), columns=["function"]).function)]
    prompts = _across_sets(prompts[prompts.id.isin({row.id for row in fitting(loaded, list(prompts.itertuples()))[0]})])
    outputs = tables.read(paths.outputs(slot, "icl"))
    traced = tables.read(paths.indirect(slot), tables.INDIRECT)
    if not (traced.split == "a").any():
        why = "no prompt of split a was traced, so no heads can be chosen: tasks.icl.sets has to be 4 at least"
        return _write_empty(slot, why)
    ranked = _ranked(traced)
    log.info(_announced(slot, settings.steer, len(loaded.anatomy.layers), traced.function.nunique()))
    vectors, found, provenance = {}, [], {}
    for function in tqdm(sorted(traced.function.unique()), desc="steer", unit="function"):
        good = outputs[(outputs.group == function) & (outputs.split == "a") & outputs.solved.astype(bool)]
        means = mean_outputs(good, loaded)
        rows = prompts[prompts.group == function]
        averages = _layer_averages(
            loaded, rows[(rows.role == "clean") & rows.id.isin(good.prompt)].head(settings.trace.prompts)
        )
        rng = stream(settings.seed, f"steer/{slot}/{function}")
        study = Study(loaded, settings.steer, means, averages, ranked, rng)
        half = settings.steer.queries // 2
        choose = rows[(rows.role == "zero_shot") & (rows.split == "a")].head(half)
        tried, chosen = study.choose(list(choose.itertuples()))
        found += [_row(function, row, setting, False, scored) for row, setting, scored in tried]
        for context in ("zero_shot", "shuffled"):
            test = rows[(rows.role == context) & (rows.split == "b")].head(half)
            for row in test.itertuples():
                for setting, scored in zip(chosen, study.run(row, study.ready(row), chosen), strict=True):
                    found.append(_row(function, row, setting, True, scored))
        for setting in chosen:
            if setting.vector in ("function", "layer_average"):
                vectors[f"{function}.{setting.vector}"] = study.vector(setting).cpu().contiguous()
                provenance[f"{function}.{setting.vector}"] = {
                    "layer": setting.layer,
                    "strength": setting.strength,
                    "heads": setting.heads,
                }
    table = pd.DataFrame(found)[tables.STEERING.names]
    tables.write(paths.steering(slot), table, tables.STEERING)
    note = json.dumps(
        {"slot": slot, "heads": [list(h) for h in ranked[: max(settings.steer.heads)]], "vectors": provenance},
        sort_keys=True,
    )
    with tables.replacing(paths.vectors(slot)) as temporary:
        temporary.write_bytes(save(vectors, metadata={"provenance": note}))


class Study:
    """Everything that can be tried on one function's prompts."""

    def __init__(self, loaded, settings: params.Steer, means, averages, ranked, rng: np.random.Generator) -> None:
        self.loaded, self.settings, self.means, self.averages, self.ranked = loaded, settings, means, averages, ranked
        self.layers = list(loaded.anatomy.layers)[:: settings.layer_step]
        self.numbers = sorted({min(number, len(ranked)) for number in settings.heads})
        self.shuffled = [rng.permutation(len(loaded.anatomy.heads)) for _ in range(settings.draws)]

    def choose(self, rows) -> tuple[list, list[Setting]]:
        """Try settings on split a; return all outcomes (row, setting, correct) and the chosen settings to report.

        The number of heads is the best for `heads`; `function` uses the same, at its best layer and strength.
        """
        counts = [Setting("heads", heads=number) for number in self.numbers]
        ready = [(row, self.ready(row)) for row in rows]
        tried = self._try(ready, counts)
        number = _best(tried, counts).heads
        added = {
            vector: [
                Setting(vector, layer, strength, number if vector == "function" else 0)
                for layer in self.layers
                for strength in self.settings.strengths
            ]
            for vector in ("function", "layer_average")
        }
        more = self._try(ready, [setting for options in added.values() for setting in options])
        chosen = [
            Setting("none"),
            Setting("heads", heads=number),
            *[_best(more, options) for options in added.values()],
        ]
        chosen += [Setting("random", heads=number, draw=draw) for draw in range(len(self.shuffled))]
        return tried + more, chosen

    def _try(self, ready, settings: list[Setting]) -> list:
        return [
            (row, setting, scored)
            for row, last in ready
            for setting, scored in zip(settings, self.run(row, last, settings), strict=True)
        ]

    def ready(self, row) -> "LastToken":
        """Run a prompt up to its last token."""
        from stages.model.score import LastToken
        from stages.model.tokens import encode

        return LastToken(self.loaded, encode(self.loaded, row))

    def run(self, row, last: "LastToken", settings: list[Setting]) -> "list[Scored]":
        """Score the answer under each setting; a setting that changes no logit is an error."""
        intact, *scored = last.edited([self.edit(setting) for setting in (Setting("none"), *settings)])
        for setting, result in zip(settings, scored, strict=True):
            if setting.vector != "none" and (result.logprob == intact.logprob).all():
                raise UserError(f"steering with {setting} changed no logit of {row.id}")
        return scored

    def edit(self, setting: Setting):
        """Turn a setting into an edit of the last token."""
        from stages.model.intervene import Edit
        from stages.model.vectors import in_place

        if setting.vector == "none":
            return Edit()
        if setting.vector in ("heads", "random"):
            order = self.ranked if setting.vector == "heads" else self._others(setting)
            return in_place(self.means, order[: setting.heads])
        return Edit(added={setting.layer: self.vector(setting) * setting.strength})

    def _others(self, setting: Setting) -> list[tuple[int, int]]:
        """Return the heads that are not among the top ones, in this draw's random order."""
        top = set(self.ranked[: setting.heads])
        order = [self.loaded.anatomy.heads[index] for index in self.shuffled[setting.draw]]
        return [head for head in order if head not in top]

    def vector(self, setting: Setting):
        """Return the added vector (D,) before its strength."""
        from stages.model.vectors import function_vector

        if setting.vector == "layer_average":
            return self.averages[setting.layer]
        return function_vector(self.loaded, self.means, self.ranked[: setting.heads])


def _ranked(traced: pd.DataFrame) -> list[tuple[int, int]]:
    """Rank heads by average indirect effect over functions, on split a."""
    effects = (
        traced[traced.split == "a"]
        .groupby(["layer", "head", "function"])
        .effect.mean()
        .groupby(["layer", "head"])
        .mean()
    )
    order = effects.reset_index().sort_values(["effect", "layer", "head"], ascending=[False, True, True])
    return list(zip(order.layer.tolist(), order["head"].tolist(), strict=True))


def _across_sets(prompts: pd.DataFrame) -> pd.DataFrame:
    """Order prompts so that the first n of a function come from as many sets of demonstrations as there are."""
    return prompts.assign(query=prompts.id.str.rpartition("-")[2]).sort_values(["query", "id"])


def _announced(slot: str, settings: params.Steer, layers: int, functions: int) -> str:
    """Return the stage's announcement; an edited run is about two tokens with a row of the LM head each."""
    added = 2 * len(range(0, layers, settings.layer_step)) * len(settings.strengths)
    half = settings.queries // 2
    runs = half * (len(settings.heads) + added) + 2 * half * (4 + settings.draws)
    parameters = json.loads(paths.model(slot).read_text(encoding="utf-8"))["parameters"]
    return announce(f"steer {slot}", 3 * half * functions, 8 * runs * functions, parameters)


def _layer_averages(loaded, rows: pd.DataFrame) -> dict:
    """Return the mean residual after every block at the last prompt token of clean prompts, (D,) each."""
    import torch

    from stages.model.forward import forward
    from stages.model.tokens import encode

    sums: dict[int, torch.Tensor] = {}
    handles = []
    for index, layer in loaded.anatomy.layers.items():

        def keep(module, args, output, index=index):
            last = (output[0] if isinstance(output, tuple) else output)[0, -1].double()
            sums[index] = sums.get(index, 0) + last

        handles.append(loaded.model.get_submodule(layer.block).register_forward_hook(keep))
    try:
        for row in rows.itertuples():
            tokens = encode(loaded, row)
            forward(loaded, [tokens.ids[: int(tokens.target[0])]], headless=True)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: (value / len(rows)).float() for layer, value in sums.items()}


def _best(tried: list, options: list[Setting]) -> Setting:
    """Return the most accurate setting; among equals, the one under which the answers are likeliest."""

    def merit(setting: Setting) -> tuple[float, float]:
        mine = [scored for _, other, scored in tried if other == setting]
        return np.mean([scored.solved for scored in mine]), np.mean([scored.logprob.mean() for scored in mine])

    return max(options, key=merit)


def _row(function: str, row, setting: Setting, chosen: bool, scored: "Scored") -> dict:
    same = {"function": function, "prompt": row.id, "split": row.split, "cluster": row.cluster, "context": row.role}
    return same | {
        "vector": setting.vector,
        "layer": setting.layer,
        "strength": setting.strength,
        "heads": setting.heads,
        "draw": setting.draw,
        "chosen": chosen,
        "correct": scored.solved,
        "logprob": float(scored.logprob.mean()),
    }


def _write_empty(slot: str, why: str) -> None:
    from safetensors.numpy import save

    log.info("%s: nothing to steer: %s", slot, why)
    tables.write(paths.steering(slot), tables.empty(tables.STEERING, why), tables.STEERING)
    with tables.replacing(paths.vectors(slot)) as temporary:
        temporary.write_bytes(
            save({}, metadata={"provenance": json.dumps({"reason": why, "slot": slot}, sort_keys=True)})
        )


if __name__ == "__main__":
    run(main, *sys.argv[1:])
