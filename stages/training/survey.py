"""A pretrained checkpoint measured on prompts as a slot is: every head on every attentional family, outcomes beside."""

import logging
from collections.abc import Sequence

import numpy as np

from stages import tasks
from stages.families.text.streaming import RECENT
from stages.model.forward import batches
from stages.model.load import Loaded
from stages.model.measure import measure
from stages.model.tokens import encode, longest
from stages.recipes.families import Asked, Families
from stages.store.errors import UserError
from stages.training.checkpoint import Row, attention, offsets

log = logging.getLogger(__name__)
BATCH_TOKENS = 2048  # in a batch, at most (one prompt at least)


def measured(loaded: Loaded, lesson: Families, held: Sequence[Asked]) -> list[Row]:
    """Return the model's outcomes on every prompt and every head's statistic of every family there, in this order.

    Prompts that the model cannot read whole, or has no use for, are left out. Raises `UserError` when none is left.
    """
    encoded = [
        (asked, lesson.scored(asked, encode(loaded, asked.row)))
        for asked in held
        if not tasks.of(asked.task).refuses(loaded.kind)
    ]
    kept = [(asked, tokens) for asked, tokens in encoded if len(tokens) <= longest(loaded)]
    if not kept:
        raise UserError(f"{type(loaded.model).__name__}: it can read none of the prompts of {', '.join(lesson.tasks)}")
    log.debug("%d of %d prompts are measured", len(kept), len(held))
    relations = lesson.relations([tokens for _, tokens in kept], [asked.task for asked, _ in kept])
    best, rows = offsets(relations), []
    streaming = {f"L{layer}H{head}" for layer, head in loaded.anatomy.heads if _streams(loaded, layer)}
    for chosen in batches([tokens for _, tokens in kept], BATCH_TOKENS, [len(tokens.target) for _, tokens in kept]):
        masses = measure(loaded, [kept[index][1] for index in chosen], [relations[index] for index in chosen])
        for index, means, scored in zip(chosen, masses.means, masses.scored, strict=True):
            asked, tokens = kept[index]
            if scored is not None and len(tokens.target):
                results = lesson.results(asked, scored.logprob, scored.top)
                rows += [(outcome, "", asked.sequence, float(value), np.nan, 1.0) for outcome, value in results.items()]
            looked = attention(loaded, lesson, asked.sequence, relations[index], means, best)
            rows += [row for row in looked if row[0] != "streaming" or row[1] in streaming]
    order = [*lesson.outcome_names, *lesson.watched]
    return sorted(rows, key=lambda row: order.index(row[0]))


def _streams(loaded: Loaded, layer: int) -> bool:
    """Say whether a layer's streaming says anything: it has a cache of past keys, longer than what streaming keeps."""
    return loaded.kind == "decoder" and (loaded.anatomy.layers[layer].window or RECENT + 1) > RECENT
