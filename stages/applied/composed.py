"""Composed functions without demonstrations, under sums of two functions' vectors (Todd+ ICLR 2024, section 3.3).

Asked of every pair of functions that the model solves after demonstrations (split a), reported on words of split b;
nothing is chosen on them. z: mean outputs of the top heads over prompts of split a that show a function, written in
place at the last token; copy shows neither function.
    none     the prompt as it is
    inner    z of the function that comes first
    outer    z of the one that is applied to its answer
    sum      z inner + z outer
    analogy  z inner + z outer - z copy: what the sum counts twice is taken off (Todd+: v_AC + v_BD - v_AD)
    own      z of the composed function itself
    added    the two stored vectors, each added after its layer with its strength
    random   z inner + a random vector as long as z outer - z copy, head by head; several draws
    other    as `analogy`, with every other function in the outer one's place
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from stages.applied.stored import Stored, missing, read
from stages.store import params, tables
from stages.tasks.composed.task import COPY, parts
from stages.tasks.prompt import stream

if TYPE_CHECKING:
    import torch

    from stages.model.intervene import Edit, Head
    from stages.model.load import Loaded

log = logging.getLogger(__name__)
TASK = "composed"


def measure(slot: str, settings: params.Params, model: "Callable[[], Loaded]") -> None:
    """Write how composed functions are answered, or why they are not asked; model: loads it, or returns it again."""
    if why := settings.left_out("apply") or missing(slot, TASK, settings):
        return tables.COMPOSED.write_empty(slot, why=why)
    prompts = tables.ASKED.read(TASK)
    rows, skipped, asked = composed(model(), read(slot), prompts, settings, slot)
    why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
    tables.COMPOSED.noting(skipped=skipped).write(pd.DataFrame(rows), slot, asked=asked, otherwise=why)


def composed(
    loaded: "Loaded", stored: Stored, prompts: pd.DataFrame, settings: params.Params, slot: str
) -> tuple[list[dict], dict[str, str], int]:
    """Return rows of COMPOSED, why pairs of functions are left out, by name, and how many prompts the others have."""
    from stages.engine.local import each
    from stages.model.cost import Work, announce, shared
    from stages.model.tokens import fitting

    rows, encoded = fitting(loaded, list(prompts.itertuples()))
    answer = {row.id: len(tokens.target) for row, tokens in zip(rows, encoded, strict=True)}
    prompts = prompts[prompts.id.isin(answer)]
    clean, asked = prompts[prompts.role == "clean"], prompts[(prompts.role == "zero_shot") & (prompts.split == "b")]
    conditions = [condition for condition in prompts.condition.unique() if condition != COPY]
    edited = sum(answer[name] for name in asked.id) * (10 + settings.apply.draws)  # about ten vectors and the draws
    work = Work(shared([tokens.ids for tokens in encoded]), sum(answer.values())) + Work(edited, edited)
    log.info(announce(f"apply {slot}, where the model composes all functions", len(prompts), work, loaded))
    copied, copy = _demonstrated(loaded, _first(clean[clean.condition == COPY], "a", settings.apply.choose))

    def of_pair(condition: str) -> tuple[list[dict], str, int]:
        """Return its rows, or why there are none, and how many prompts they are of."""
        inner, outer = parts(condition)
        if unsolved := [name for name in (inner, outer) if name not in stored.means]:
            return [], f"no vector of {' and '.join(unsolved)}", 0
        of_condition = clean[clean.condition == condition]
        tried, own = _demonstrated(loaded, _first(of_condition, "a", settings.apply.choose))
        if not tried or (right := sum(tried) / len(tried)) < settings.trace.solved_above:
            return [], f"accuracy {right:.2f} after demonstrations" if tried else "no prompt fits the model", 0
        shown, bare = of_condition[of_condition.split == "b"], asked[asked.condition == condition]
        same = {"function": condition, "draw": 0, "beside": "", "heads": 0}
        rows = [same | _row(row, "none", scored) for row, scored in _answers(loaded, shown)]
        edits = sums(stored, inner, outer, copy, own, settings.apply.draws, settings.seed, f"apply/{slot}/{condition}")
        return [*rows, *(same | row for row in _under(loaded, bare, edits))], "", len(shown) + len(bare)

    every = tqdm(each(of_pair, conditions, loaded), desc="composed functions", total=len(conditions), unit="pair")
    made = dict(zip(conditions, every, strict=True))
    rows, number = [row for of, *_ in made.values() for row in of], sum(count for *_, count in made.values())
    skipped = {condition: why for condition, (_, why, _) in made.items() if why}
    if not any(copied):
        skipped[COPY] = "no demonstration of copying is answered right: nothing can be taken off a sum"
    return rows, skipped, number


def sums(
    stored: Stored,
    inner: str,
    outer: str,
    copy: "Mapping[Head, torch.Tensor]",
    own: "Mapping[Head, torch.Tensor]",
    draws: int,
    seed: int,
    name: str,
) -> "dict[tuple[str, int, str, int], Edit]":
    """Return (vector, draw, beside, heads) -> edit of the last token, as the module says.

    copy, own: mean outputs of heads, {} where there are none; seed, name: of the random stream.
    """
    from stages.model.intervene import Edit
    from stages.model.vectors import randomly

    heads = stored.heads[: max(stored.numbers[inner], stored.numbers[outer])]
    first, second = stored.means[inner], stored.means[outer]
    written = {("inner", 0, ""): first, ("outer", 0, ""): second}
    written["sum", 0, ""] = {head: first[head] + second[head] for head in heads}
    if own:
        written["own", 0, ""] = own
    if copy:
        written["analogy", 0, ""] = {head: first[head] + second[head] - copy[head] for head in heads}
        others = [other for other in stored.means if other not in (inner, outer)]
        for draw, other in enumerate(others, start=1):
            third = stored.means[other]
            written["other", draw, other] = {head: first[head] + third[head] - copy[head] for head in heads}
        rng = stream(seed, name)
        for draw in range(1, draws + 1):
            step = {head: second[head] - copy[head] for head in heads}
            written["random", draw, ""] = {head: first[head] + randomly(step[head], rng) for head in heads}
    edits = {("none", 0, "", 0): Edit()}
    for key, values in written.items():
        edits[*key, len(heads)] = Edit(heads={head: values[head] for head in heads})
    (layer, vector_D), (other_layer, other_D) = stored.added[inner], stored.added[outer]
    together = {layer: vector_D + other_D} if layer == other_layer else {layer: vector_D, other_layer: other_D}
    return edits | {("added", 0, "", 0): Edit(added=together)}


def _first(prompts: pd.DataFrame, split: str, number: int) -> pd.DataFrame:
    return prompts[prompts.split == split].head(number)


def _demonstrated(loaded: "Loaded", prompts: pd.DataFrame):
    """Return whether each prompt is answered right, and the mean outputs of heads over those that are."""
    from stages.model.demonstrated import demonstrated
    from stages.model.tokens import encode_all

    rows = list(prompts.itertuples())
    return demonstrated(loaded, encode_all(loaded, rows), _shown(rows))


def _answers(loaded: "Loaded", prompts: pd.DataFrame):
    """Yield prompts with demonstrations and how the intact model answers them."""
    from stages.model.score import ENOUGH, Batch
    from stages.model.sharing import near
    from stages.model.tokens import encode_all

    rows = list(prompts.itertuples())
    tokens = encode_all(loaded, rows)
    first = [int(prompt.target[0]) for prompt in tokens]
    for numbers in near(_shown(rows), [prompt.ids for prompt in tokens], first, ENOUGH):
        some = [tokens[number] for number in numbers]
        batch = Batch(loaded, some, [prompt.target for prompt in some])
        yield from zip([rows[number] for number in numbers], batch.intact, strict=True)


def _shown(rows: Sequence) -> list[str]:
    """Return the demonstrations of prompts: what stands before the word asked about."""
    return [row.text[: row.relations[0]["key_start"]] for row in rows]


def _under(loaded: "Loaded", prompts: pd.DataFrame, edits: "Mapping[tuple[str, int, str, int], Edit]") -> list[dict]:
    """Return how prompts are answered under edits of their last tokens."""
    from stages.model.score import LastTokens
    from stages.model.tokens import encode_all

    rows = list(prompts.itertuples())
    if not rows:
        return []
    answers = LastTokens(loaded, encode_all(loaded, rows)).edited([list(edits.values())] * len(rows))
    return [
        _row(row, vector, scored) | {"draw": draw, "beside": beside, "heads": heads}
        for row, of_prompt in zip(rows, answers, strict=True)
        for (vector, draw, beside, heads), scored in zip(edits, of_prompt, strict=True)
    ]


def _row(prompt, vector: str, scored) -> dict:
    row = {"prompt": prompt.id, "split": prompt.split, "cluster": prompt.cluster, "context": prompt.role}
    return row | {"vector": vector, "correct": scored.solved, "logprob": float(scored.logprob.mean())}
