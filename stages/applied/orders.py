"""Ask for the next word of known and made-up orders.

Writes one row per prompt of task `orders` and edit. With demonstrations: the intact model. Without: the vector of the
step to the next word, learned from demonstrations of known orders, on steps that none of these demonstrates. z: the top
heads' mean outputs (those that `steer` ranks by all functions of task icl) over prompts of split a that are answered
right, of all known orders that are solved there. (Every such prompt demonstrates all known orders: of one alone a small
model copies answers that stand there. So there is no vector of one order.) How many heads: under which most words of
split a are right without demonstrations.
    none     the prompt as it is
    heads    z, in place at the last token
    control  as `heads`, with as many OTHER heads of the same or the nearest layers; several sets; not where the heads
             answer nothing right: no other set can do worse
Control sets: stages/statistics/vector_heads.py; their ranks: stages/statistics/orders.py.
All else is reported on split b, on all orders.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.applied.stored import provenance
from stages.statistics.control import Pool
from stages.statistics.vector_heads import FAMILY, Ranking, Setting
from stages.store import params, records, tables
from stages.tasks.orders.task import KNOWN, MADE_UP

if TYPE_CHECKING:
    import torch

    from stages.model.intervene import Head
    from stages.model.load import Loaded

log = logging.getLogger(__name__)
TASK = "orders"
ORDERED = ["prompt", "vector", "draw"]


def measure(slot: str, settings: params.Params, model: "Callable[[], Loaded]") -> None:
    """Ask all prompts, or say why there are none; model: loads it, or returns it again."""
    record = records.read(slot)
    if why := settings.left_out("orders") or tasks.unasked(TASK, record["kind"], settings.tasks):
        return tables.ORDERS.write_empty(slot, why=why)
    from stages.model.cost import Work, announce, shared
    from stages.model.tokens import fitting

    loaded = model()
    rows, encoded = fitting(loaded, list(tables.ASKED.read(TASK).itertuples()))
    if not any(row.role == "clean" for row in rows):
        return tables.ORDERS.write_empty(slot, why="no prompt with demonstrations fits the model")
    answer = sum(len(tokens.target) for row, tokens in zip(rows, encoded, strict=True) if row.role == "zero_shot")
    edited = answer * (len(settings.orders.heads) + settings.orders.draws)
    work = Work(shared([tokens.ids for tokens in encoded])) + Work(edited, edited)
    log.info(announce(f"orders {slot}", len(rows), work, loaded))
    answers, means = learned(loaded, _of(rows, "clean", "a"), settings.trace.solved_above)
    answers += shown(loaded, _of(rows, "clean", "b"))
    asked_of, skipped = sum(row.role == "clean" for row in rows), {}
    made = provenance(slot)
    if "reason" in made or not means:
        skipped["vector"] = made.get("reason") or "no known order is solved after demonstrations (split a)"
    else:
        asked = {split: _of(rows, "zero_shot", split) for split in "ab"}
        heads = [(layer, head) for layer, head in made["heads"]]
        kinds = {number: layer.kind for number, layer in loaded.anatomy.layers.items()}
        pool = Pool(tuple(sorted(loaded.anatomy.heads)), kinds, {FAMILY: set(heads)})
        order = Ranking(heads, pool, settings.orders.draws, settings.seed, f"orders/{slot}")
        number = chosen(loaded, asked["a"], means, heads, settings.orders.heads)
        asked_of += len(asked["b"])
        answers += written(loaded, asked["b"], means, order, number)
    answered = pd.DataFrame(answers).sort_values(ORDERED)
    tables.ORDERS.noting(skipped=skipped).write(answered, slot, asked=asked_of)


def learned(loaded: "Loaded", rows: Sequence, solved_above: float) -> tuple[list[dict], "dict[Head, torch.Tensor]"]:
    """Return rows of ORDERS, and mean outputs (K,) per head over right answers in orders that are solved.

    rows: of the prompts table, with demonstrations. Orders of which fewer words are right are not solved.
    """
    from stages.model.demonstrated import demonstrated
    from stages.model.tokens import encode_all

    answers, means, right = [], {}, {}
    for kind in dict.fromkeys(row.condition for row in rows):
        of_kind = [row for row in rows if row.condition == kind]
        solved, of_heads = demonstrated(loaded, encode_all(loaded, of_kind), [_before(row) for row in of_kind])
        answers += [_row(row) | {"correct": good} for row, good in zip(of_kind, solved, strict=True)]
        if of_heads and np.mean(solved) >= solved_above:
            means[kind], right[kind] = of_heads, sum(solved)
    share = {kind: number / sum(right.values()) for kind, number in right.items()}
    heads = next(iter(means.values()), {})
    return answers, {head: sum(means[kind][head] * part for kind, part in share.items()) for head in heads}


def shown(loaded: "Loaded", rows: Sequence) -> list[dict]:
    """Return rows of ORDERS: how the intact model answers after demonstrations, and whether it gives the rival answer.

    Prompts that begin alike share one run of their beginning.
    """
    from stages.model.score import ENOUGH, Batch
    from stages.model.sharing import near
    from stages.model.tokens import encode

    asked = [(row, number) for row in rows for number in range(len(row.targets))]
    every = [encode(loaded, row, number) for row, number in asked]
    begins, first = [_before(row) for row, _ in asked], [int(tokens.target[0]) for tokens in every]
    solved: dict[int, list[bool]] = {}  # by place in rows
    places = [place for place, row in enumerate(rows) for _ in row.targets]
    for numbers in tqdm(near(begins, [tokens.ids for tokens in every], first, ENOUGH), desc=TASK, unit="batch"):
        encoded = [every[number] for number in numbers]
        batch = Batch(loaded, encoded, [tokens.target for tokens in encoded])
        for number, scored in zip(numbers, batch.intact, strict=True):
            solved.setdefault(places[number], []).append(scored.solved)
    answers = [
        _row(row) | dict(zip(("correct", "rival"), solved[place], strict=False)) for place, row in enumerate(rows)
    ]
    return answers


def chosen(
    loaded: "Loaded",
    rows: Sequence,
    means: "Mapping[Head, torch.Tensor]",
    heads: "Sequence[Head]",
    numbers: Sequence[int],
) -> int:
    """Return the number of heads under which most words are right, or likeliest.

    rows: of the prompts table, without demonstrations, of split a; means: of `learned`.
    """
    from stages.model.score import LastTokens
    from stages.model.tokens import encode_all
    from stages.model.vectors import in_place

    tried = sorted({min(most, len(heads)) for most in numbers})
    edits = [in_place(means, heads[:number]) for number in tried]
    answers = LastTokens(loaded, encode_all(loaded, rows)).edited([edits] * len(rows))
    merits = [
        (np.mean([scored.solved for scored in of_edit]), np.mean([scored.logprob.mean() for scored in of_edit]))
        for of_edit in zip(*answers, strict=True)
    ]
    return tried[max(range(len(tried)), key=merits.__getitem__)]


def written(
    loaded: "Loaded", rows: Sequence, means: "Mapping[Head, torch.Tensor]", order: Ranking, number: int
) -> list[dict]:
    """Return rows of ORDERS: of what the module says is written, with so many heads; rows: of split b."""
    told = under(loaded, rows, means, [Setting("none"), Setting("heads", heads=number)], order)
    right = {_way(row["ordering"], row["category"]) for row in told if row["vector"] == "heads" and row["correct"]}
    again = [row for row in rows if _way(row.condition, row.category) in right]
    draws = range(1, len(order.control_sets(number)) + 1)
    controls = [Setting("control", heads=number, draw=draw) for draw in draws]
    return told + (under(loaded, again, means, controls, order) if again and controls else [])


def under(
    loaded: "Loaded",
    rows: Sequence,
    means: "Mapping[Head, torch.Tensor]",
    settings: Sequence[Setting],
    order: Ranking,
) -> list[dict]:
    """Return rows of ORDERS: how prompts are answered when heads' means are written at their last tokens."""
    from stages.model.score import LastTokens
    from stages.model.tokens import beginning, encode, encode_all, starts_as
    from stages.model.vectors import in_place

    words = [word for of_order in KNOWN.values() for word in of_order]
    encoded = encode_all(loaded, rows)
    white = rows[0].targets[0][: -len(rows[0].targets[0].lstrip())]
    instead = [rows[0]._replace(targets=(white + word,)) for word in words]
    known = {beginning(loaded, encode(loaded, row)) for row in instead}
    edits = [in_place(means, order.of(setting)) for setting in settings]
    answers = LastTokens(loaded, encoded).edited([edits] * len(rows))
    return [
        _row(row)
        | {"vector": setting.vector, "heads": setting.heads, "draw": setting.draw}
        | {"names": " ".join(f"L{layer}H{head}" for layer, head in order.of(setting))}
        | {"matching": order.matching(setting), "correct": scored.solved}
        | {"learned": any(starts_as(tokens, scored.best, begun) for begun in known)}
        for row, tokens, of_prompt in zip(rows, encoded, answers, strict=True)
        for setting, scored in zip(settings, of_prompt, strict=True)
    ]


def _of(rows: Sequence, role: str, split: str) -> list:
    return [row for row in rows if row.role == role and row.split == split]


def _way(ordering: str, category: str) -> tuple[bool, str]:
    """Return what words are ranked by: whether their order is made up, and how it is given."""
    return ordering == MADE_UP, category


def _before(row) -> str:
    """Return the text that a prompt shares with the others of its order: all before the word asked about."""
    return row.text[: row.relations[0]["key_start"]]


def _row(row) -> dict:
    same = {
        "prompt": row.id,
        "ordering": row.condition,
        "category": row.category,
        "split": row.split,
        "cluster": row.cluster,
    }
    return same | {
        "context": row.role,
        "vector": "none",
        "heads": 0,
        "draw": 0,
        "names": "",
        "matching": "",
        "rival": None,
        "learned": None,
    }
