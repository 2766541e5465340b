"""Checkpoints of a recipe measured as any model is: attention by `measure`, outcomes by `score`, heads silenced.

Legend: B batch, H head, T query token, S key token.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from stages.families.family import Relation, Tokens
from stages.families.offset import best_offset, offset_accuracy
from stages.model import pseudo
from stages.model.anatomy import find
from stages.model.forward import forward
from stages.model.intervene import ablating
from stages.model.load import Loaded
from stages.model.measure import Means, measure, put, weighing
from stages.model.score import Batch, Scored
from stages.recipes.lesson import Lesson, Pair
from stages.store import paths
from stages.training.build import numbered, read

Row = tuple[str, str, str, float, float, float]  # measure, head ('' = the whole model), sequence, value, null, weight
COPIES = 8192  # tokens of masked copies that run together


def opened(recipe: str, arm: str, seed: int, step: int, lesson: Lesson) -> Loaded:
    """Load a checkpoint and find its anatomy."""
    masked = lesson.mask is not None
    model = read(paths.checkpoint(recipe, arm, seed, step), masked)
    return Loaded(model, numbered(lesson.symbols, lesson.mask), find(model), "masked" if masked else "decoder")


def measured(loaded: Loaded, lesson: Lesson, held: list[Tokens]) -> Iterator[Row]:
    """Yield the model's outcomes on every held-out sequence and every head's attention on the watched relations."""
    names = dict.fromkeys(watched.relation for watched in lesson.watched.values())
    relations = [_relations(lesson, names, tokens) for tokens in held]
    sequences = _sequences(held)
    masses = measure(loaded, sequences, [*relations, *({} for _ in sequences[len(held) :])])
    scored = masses.scored if lesson.mask is None else pseudo.score(loaded, sequences, COPIES)
    yield from _outcomes(lesson, held, scored)
    best = offsets(relations)
    for tokens, related, means in zip(held, relations, masses.means, strict=False):
        yield from attention(loaded, lesson, tokens.prompt, related, means, best)


def _relations(lesson: Lesson, names: Iterable[str], tokens: Tokens) -> dict[str, Relation]:
    """Return the relations that a sequence has, by name."""
    relations = {name: lesson.relation(name, tokens) for name in names}
    return {name: relation for name, relation in relations.items() if relation is not None}


def offsets(relations: Sequence[Mapping[str, Relation]]) -> dict[str, int]:
    """Return the fixed offset that hits most queries of each relation between words, on all sequences, as for slots."""
    words: dict[str, list[Relation]] = {}
    for related in relations:
        for name, relation in related.items():
            if relation.words:
                words.setdefault(name, []).append(relation)
    return {name: best_offset(some) for name, some in words.items()}


def attention(
    loaded: Loaded,
    lesson: Lesson,
    sequence: str,
    relations: Mapping[str, Relation],
    means: Mapping[str, Means],
    best: Mapping[str, int],
) -> Iterator[Row]:
    """Yield every head's attention on the watched relations of one sequence.

    A relation between words weighs as many queries as the sequence has of it, and its null is what its best fixed
    offset (`best`) hits there.
    """
    for name, (relation, statistic, only) in lesson.watched.items():
        if relation not in means:
            continue
        weight, null = 1.0, np.nan
        if relations[relation].words:
            weight, null = float(means[relation].count), offset_accuracy(relations[relation], best[relation])
        values = means[relation].values
        for layer, head in loaded.anatomy.heads:
            if only in (None, layer):
                null = float(values["mass_null"][layer, head]) if statistic == "mass" else null
                yield name, f"L{layer}H{head}", sequence, float(values[statistic][layer, head]), null, weight


def _sequences(held: list[Tokens]) -> list[Tokens]:
    """Return what is scored: the held-out sequences, then the bad ones of pairs, in the same order."""
    return [*held, *(tokens.bad for tokens in held if isinstance(tokens, Pair))]


def _outcomes(lesson: Lesson, held: list[Tokens], scored: Sequence[Scored], suffix: str = "") -> Iterator[Row]:
    """Yield outcomes from the scores of all sequences; with a suffix only whole measures."""
    bad = iter(scored[len(held) :])
    for tokens, answer in zip(held, scored, strict=False):
        if isinstance(tokens, Pair):
            results = lesson.preferred(tokens, answer.logprob, next(bad).logprob)
        else:
            results = lesson.outcomes(tokens, answer.logprob, answer.top)
        for outcome, value in results.items():
            if not (suffix and "@" in outcome):
                yield outcome + suffix, "", tokens.prompt, float(value), np.nan, 1.0


def silenced(loaded: Loaded, lesson: Lesson, held: list[Tokens]) -> Iterator[Row]:
    """Yield the outcomes without each head (zero ablation), as measures `<outcome>@without <head>`."""
    sequences = _sequences(held)
    batch = Batch(loaded, sequences, [tokens.target for tokens in sequences]) if lesson.mask is None else None
    for layer, head in loaded.anatomy.heads:
        zero = {(layer, head): torch.zeros(loaded.anatomy.layers[layer].head_size)}
        if batch is not None:
            scored = batch.ablated(zero, everywhere=True)
        else:
            with ablating(loaded, zero, None):
                scored = pseudo.score(loaded, sequences, COPIES)
        yield from _outcomes(lesson, held, scored, f"@without L{layer}H{head}")


def pictured(loaded: Loaded, lesson: Lesson, tokens: Tokens) -> Iterator[tuple]:
    """Yield (head, query, token, prediction, key, token looked at, weight) of one sequence, from its first target on.

    Where the lesson says so, the targets are written by the model itself, greedily. A model that fills gaps looks at
    the whole sequence, and predicts each token with that one left out.
    """
    ids, first = tokens.ids, int(tokens.target[0])
    if lesson.decoded:
        ids = ids[:first]
        for _ in tokens.target:
            ids = np.append(ids, int(forward(loaded, [ids], [np.array([len(ids) - 1])])[0].argmax()))
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor | None, start: int) -> None:
        put(seen, layer, weights_BHTS[0], start, len(ids))

    with weighing(loaded, keep):
        predicted = forward(loaded, [ids], [np.arange(len(ids))]).argmax(1).tolist()
    queries = range(first - 1, len(ids) - 1)
    if lesson.mask is not None:
        queries = tokens.target.tolist()
        gaps = [np.where(np.arange(len(ids)) == place, lesson.mask, ids) for place in queries]
        filled = forward(loaded, gaps, [np.array([place]) for place in queries]).argmax(1).tolist()
        predicted = dict(zip(queries, filled, strict=True))
    words = [lesson.symbol(int(token)) for token in ids]
    for layer, head in loaded.anatomy.heads:
        for query in queries:
            for key in range(query + 1 if lesson.mask is None else len(ids)):
                weight = float(seen[layer][head, query, key])
                yield f"L{layer}H{head}", query, words[query], lesson.symbol(predicted[query]), key, words[key], weight
