"""Checkpoints of a recipe measured as any model is: attention by `measure`, outcomes by `score`, heads silenced.

Legend: B batch, H head, T query token, S key token.
"""

from collections.abc import Iterator

import numpy as np
import torch

from stages.heads.family import Tokens
from stages.model.anatomy import find
from stages.model.build import numbered, read
from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.measure import measure, weighing
from stages.model.score import Batch
from stages.recipes.task import Task
from stages.store import paths

Row = tuple[str, str, str, float, float]  # measure, head ('' = the whole model), sequence, value, null


def opened(recipe: str, arm: str, seed: int, step: int, task: Task) -> Loaded:
    """Load a checkpoint and find its anatomy."""
    model = read(paths.checkpoint(recipe, arm, seed, step))
    return Loaded(model, numbered(task.symbols), find(model), "decoder")


def measured(loaded: Loaded, task: Task, held: list[Tokens]) -> Iterator[Row]:
    """Yield the model's outcomes on every held-out sequence and every head's attention on the watched relations."""
    names = dict.fromkeys(watched.relation for watched in task.watched.values())
    relations = [{r: found for r in names if (found := task.relation(r, one)) is not None} for one in held]
    found = measure(loaded, held, relations)
    for tokens, means, scored in zip(held, found.means, found.scored, strict=True):
        for outcome, value in task.outcomes(tokens, scored.logprob, scored.top).items():
            yield outcome, "", tokens.prompt, float(value), np.nan
        for name, (relation, statistic, only) in task.watched.items():
            for layer, head in loaded.anatomy.heads:
                if relation in means and only in (None, layer):
                    values = means[relation].values
                    null = float(values["null"][layer, head]) if statistic == "mass" else np.nan
                    yield name, f"L{layer}H{head}", tokens.prompt, float(values[statistic][layer, head]), null


def silenced(loaded: Loaded, task: Task, held: list[Tokens]) -> Iterator[Row]:
    """Yield the outcomes without each head (zero ablation), as measures `<outcome>@without <head>`."""
    batch = Batch(loaded, held, [tokens.target for tokens in held])
    for layer, head in loaded.anatomy.heads:
        zero = torch.zeros(loaded.anatomy.layers[layer].head_size)
        for tokens, scored in zip(held, batch.ablated({(layer, head): zero}, everywhere=True), strict=True):
            for outcome, value in task.outcomes(tokens, scored.logprob, scored.top).items():
                if "@" not in outcome:
                    yield f"{outcome}@without L{layer}H{head}", "", tokens.prompt, float(value), np.nan


def pictured(loaded: Loaded, task: Task, tokens: Tokens) -> Iterator[tuple]:
    """Yield (head, query, token, prediction, key, token looked at, weight) of one sequence, from its first target on.

    Where the task says so, the targets are written by the model itself, greedily.
    """
    ids, first = tokens.ids, int(tokens.target[0])
    if task.decoded:
        ids = ids[:first]
        for _ in tokens.target:
            ids = np.append(ids, int(forward(loaded, [ids], [np.array([len(ids) - 1])])[0].argmax()))
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor | None, start: int) -> None:
        seen[layer] = weights_BHTS[0]

    with weighing(loaded, keep):
        predicted = forward(loaded, [ids], [np.arange(len(ids))]).argmax(1).tolist()
    words = [task.symbol(int(token)) for token in ids]
    for layer, head in loaded.anatomy.heads:
        for query in range(first - 1, len(ids) - 1):
            for key in range(query + 1):
                weight = float(seen[layer][head, query, key])
                yield f"L{layer}H{head}", query, words[query], task.symbol(predicted[query]), key, words[key], weight
