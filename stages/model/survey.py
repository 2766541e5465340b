"""A pretrained checkpoint measured on prompts as a slot is: every head on every attentional family, outcomes beside."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from stages.heads.streaming import RECENT
from stages.model.forward import batches
from stages.model.load import Loaded
from stages.model.measure import measure
from stages.model.tokens import encode, longest
from stages.recipes.families import GRAMMAR, OUTCOMES, Asked, Families, grammar
from stages.store.errors import UserError

log = logging.getLogger(__name__)
BATCH_TOKENS = 2048  # in a batch, at most (one prompt at least)
Row = tuple[str, str, str, float, float, float]  # measure, head ("" = the whole model), sequence, value, null, weight


def measured(loaded: Loaded, task: Families, held: Sequence[Asked]) -> list[Row]:
    """Return the model's outcomes on every prompt and every head's statistic of every family there, in this order."""
    order = [*OUTCOMES, *task.watched, "grammar"]
    return sorted(_measured(loaded, task, held), key=lambda row: order.index(row[0]))


def _measured(loaded: Loaded, task: Families, held: Sequence[Asked]) -> Iterator[Row]:
    """Yield these rows batch by batch.

    Prompts that the model cannot read whole, or has no use for, are left out. Raises `UserError` when none is left.
    """
    encoded = [(asked, task.scored(asked, encode(loaded, asked.row))) for asked in held if _sensible(loaded, asked)]
    kept = [(asked, tokens) for asked, tokens in encoded if len(tokens) <= longest(loaded)]
    if not kept:
        raise UserError(f"{type(loaded.model).__name__}: it can read none of the prompts of {', '.join(task.tasks)}")
    log.debug("%d of %d prompts are measured", len(kept), len(held))
    sizes = [len(tokens.target) for _, tokens in kept]
    arcs, hits = {}, {}
    for chosen in batches([tokens for _, tokens in kept], BATCH_TOKENS, sizes):
        batch = [kept[index][1] for index in chosen]
        relations = [task.relations(*kept[index]) for index in chosen]
        found = measure(loaded, batch, relations)
        for index, mine, means, scored in zip(chosen, relations, found.means, found.scored, strict=True):
            asked, tokens = kept[index]
            if scored is not None and len(tokens.target):
                for outcome, value in task.results(asked, scored.logprob, scored.top).items():
                    yield outcome, "", asked.sequence, float(value), np.nan, 1.0
            if asked.task == GRAMMAR:
                arcs[asked.sequence] = mine
                hits[asked.sequence] = {name: one.values["hits_word"] for name, one in means.items()}
                continue
            for name, one in means.items():
                statistic = task.watched[name].statistic
                for layer, head in loaded.anatomy.heads:
                    if name != "streaming" or _streams(loaded, layer):
                        null = float(one.values["null"][layer, head]) if statistic == "mass" else np.nan
                        value = float(one.values[statistic][layer, head])
                        yield name, f"L{layer}H{head}", asked.sequence, value, null, 1.0
    for sentence, (share, by_offset) in grammar(arcs, hits).items():
        yield "grammar", "", sentence, share, by_offset, 1.0


def _sensible(loaded: Loaded, asked: Asked) -> bool:
    """Say whether a prompt makes sense to a model: an encoder writes no continuation."""
    return loaded.kind == "decoder" or asked.task != "needle"


def _streams(loaded: Loaded, layer: int) -> bool:
    """Say whether a layer's streaming says anything: it has a cache of past keys, longer than what streaming keeps."""
    return loaded.kind == "decoder" and (loaded.anatomy.layers[layer].window or RECENT + 1) > RECENT
