"""What a model makes of prompts that share demonstrations: states, attention from the last token, rival answers.

One run per set of demonstrations (`stages.model.score.Batch`: what the prompts share runs once). A state is the
residual after a block.

Legend: B sequence, T token, H head, L layer, D residual width, S key token, P shared token.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stages import tasks
from stages.model.intervene import Head
from stages.model.load import Loaded
from stages.model.measure import weighing
from stages.model.outcome import outcome, trial
from stages.model.reduce import brought
from stages.model.score import Batch


@dataclass(frozen=True)
class Reading:
    """One prompt as the model read it.

    measures: measure -> value; similarity: (L, n), cosine of the query's state with each demonstration's, at the last
    token of each, the mean of the demonstrations' states taken off first (all states of a layer share a large part,
    which says nothing of any); like: (n,), whether a demonstration is of the query's class; attention: (H, n), from the
    token that predicts the label to the tokens of each demonstration's label, of every head that is looked at; shared:
    (n,), whether a demonstration has a token in common with the query.
    """

    row: Any
    measures: dict[str, float]
    similarity: np.ndarray
    like: np.ndarray
    attention: np.ndarray
    shared: np.ndarray


def readings(loaded: Loaded, task: str, rows: Sequence[Any], heads: Sequence[Head]) -> list[Reading]:
    """Read prompts that share their demonstrations; heads: those whose attention is looked at."""
    trials = [trial(loaded, task, row) for row in rows]
    sequences = [tokens for asked in trials for tokens in asked.tokens]
    positions = [at for asked in trials for at in asked.positions]
    looked = {layer: [head for at, head in heads if at == layer] for layer, _ in heads}
    rivals, share = tasks.of(task).targets, loaded.anatomy.observed
    plan = Batch.plan(loaded, sequences, positions, share)
    # The query that predicts each trial's label: its row among those that follow beginnings, its place there.
    last = [(plan.tail[n * rivals], int(of.tokens[0].target[0]) - 1 - plan.cut) for n, of in enumerate(trials)]
    weights: dict[tuple[int, int], torch.Tensor] = {}  # layer, trial -> (heads looked at, S) of that query

    def keep(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int) -> None:
        queries, keys = weights_BHTS.shape[2:]
        if layer not in looked or keys <= plan.cut:  # a beginning's queries predict no label
            return
        for number, (row, at) in enumerate(last):
            if start <= at < start + queries:
                weights[layer, number] = weights_BHTS[row, looked[layer], at - start]

    with weighing(loaded, keep), _states(loaded) as states:
        batch = Batch(loaded, sequences, positions, share)
    result = []
    asked_for = [_demonstrations(asked.tokens[0].spans) for asked in trials]
    queries = [next(iter(asked.tokens[0].spans.values()))[0][0] for asked in trials]
    read = []  # of each prompt: states (L, n + 1, D) of its demonstrations and query, attention (heads, S)
    for number, asked in enumerate(trials):
        at = number * rivals
        row = plan.tail[at]
        ends = [int(tokens[-1]) for tokens in (*asked_for[number][0], queries[number])]
        # one run alone where no beginning is shared: a prompt then has no place among them
        of_layers = [list(runs.values()) for runs in states.values()]
        runs = ([x[plan.beginning[at]] for x in run[:-1]] + [run[-1][row]] for run in of_layers)
        read.append(torch.stack([torch.cat(run)[ends].float().to(loaded.device) for run in runs]))
        seen = [weights[layer, number][looked[layer].index(head)].to(loaded.device) for layer, head in heads]
        read.append(torch.stack(seen) if seen else read[-1].new_zeros(0, len(asked.tokens[0])))
    read = iter(brought(read))
    for number, asked in enumerate(trials):
        first, at, (items, labels, like), query = asked.tokens[0], number * rivals, asked_for[number], queries[number]
        states_LnD, seen_hS = next(read).numpy(), next(read)
        seen = [seen_hS[:, torch.from_numpy(key)].sum(1) for key in labels]
        own = set(first.ids[query].tolist())
        result.append(
            Reading(
                asked.row,
                outcome(task, asked.tokens, batch.intact[at : at + rivals]),
                cosines(states_LnD[:, -1], states_LnD[:, :-1]),
                like,
                torch.stack(seen, dim=1).numpy(),
                np.array([bool(own & set(first.ids[item].tolist())) for item in items]),
            )
        )
    return result


def cosines(query_LD: np.ndarray, items_LnD: np.ndarray) -> np.ndarray:
    """Return cosines (L, n) after the mean of the items is taken off both."""
    middle_L1D = items_LnD.mean(axis=1, keepdims=True)
    items_LnD, query_LD = items_LnD - middle_L1D, query_LD - middle_L1D[:, 0]
    norms = np.linalg.norm(items_LnD, axis=2) * np.linalg.norm(query_LD, axis=1)[:, None]
    return np.einsum("lnd,ld->ln", items_LnD, query_LD) / np.maximum(norms, 1e-12)


def _demonstrations(spans: Mapping[str, Sequence]) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Return tokens of items and of labels, in the order of the prompt, and whether each is of the query's class."""
    shown = [
        (item, label, kind == "like")
        for kind in ("like", "unlike")
        for (_, item), (_, label) in zip(spans[kind], spans[f"{kind}_label"], strict=True)
    ]
    items, labels, like = zip(*sorted(shown, key=lambda one: int(one[0][0])), strict=True)
    return list(items), list(labels), np.array(like)


@contextmanager
def _states(loaded: Loaded) -> Iterator[dict[int, dict[int, torch.Tensor]]]:
    """Collect residuals after every attention layer's block, of beginnings (N, P, D) and tails (B, T, D), per run."""
    states: dict[int, dict[int, torch.Tensor]] = {}
    with ExitStack() as stack:
        for number, layer in loaded.anatomy.layers.items():

            def keep(module: Any, args: tuple, output: Any, number: int = number) -> None:
                x_BTD = output[0] if isinstance(output, tuple | list) else output
                runs = states.setdefault(number, {})
                run = len(runs) - 1 if loaded.chunks.start else len(runs)  # a later chunk: the same run goes on
                loaded.chunks.keep(runs, run, x_BTD)

            block = loaded.model.get_submodule(layer.block)
            stack.callback(block.register_forward_hook(keep).remove)
        yield states
