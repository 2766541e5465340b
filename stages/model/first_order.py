"""What silencing each head would change, to first order: one forward and one backward pass for all heads at once.

For a measure m of a prompt and a head whose output is z_t, replaced by r (its mean output over text, or 0),

    m(r) - m(z)  is about  sum over t of  dm/dz_t . (r - z_t)

(attribution patching: Nanda 2023; Syed+ 2023, arXiv 2310.10348; for r = 0 the head importance of Michel+ NeurIPS 2019,
arXiv 1905.10650). Positions are those of the exact ablation: all of them for zero, all but the special ones for mean.
It is exact where m is linear in z, and wrong where a softmax or a norm saturates: so it stands beside exact effects
wherever it is shown.

A measure is a weighted sum of log-probabilities of scored tokens, which is all that `stages.tasks` ask gradients of.

Legend: B sequence, T token, H head, K head size, N scored row, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from stages import tasks
from stages.model.forward import batches, forward
from stages.model.intervene import Head, tracking
from stages.model.load import Loaded
from stages.model.outcome import Trial, trial
from stages.model.reduce import brought
from stages.model.silence import KINDS, Writable
from stages.model.unread import Unread
from stages.store import tables

WEIGHTS = {  # measure -> weights of the scored tokens' log-probabilities, per sequence
    "loss": lambda counts: [np.full(count, -1 / count) for count in counts],
    "logprob": lambda counts: [np.full(count, 1 / count) for count in counts],
    "margin": lambda counts: [np.ones(counts[0]), -np.ones(counts[1])],
}


def first_order(
    loaded: Loaded,
    task: str,
    rows: Sequence[Any],
    means: Mapping[Head, torch.Tensor],
    kinds: Sequence[str],
    max_tokens: int,
) -> pd.DataFrame:
    """Return the estimates as rows of `tables.FIRST_ORDER`: by prompt in the order given, kind, layer and head.

    A prompt too short to have a scored token has no rows.

    rows: of the prompts table; means: mean output (K,) of every head; kinds: of `silence.KINDS`,
    those that write no constant are left out; max_tokens: padded tokens in a batch, at most (one prompt at least).
    """
    measure, kinds = tasks.of(task).smooth, [kind for kind in kinds if KINDS[kind].constant]
    layer, head = np.array(loaded.anatomy.heads).T
    changes: dict[str, dict[str, np.ndarray]] = {}  # prompt -> kind -> (L H,)
    for trials in _batches(measurable(loaded, task, rows), max_tokens):
        for index, change in enumerate(_changes(loaded, trials, measure, means, kinds)):
            changes[trials[index].row.id] = change
    columns = []
    for row in [row for row in rows if row.id in changes]:
        for kind in kinds:
            same = {"kind": kind, "task": task, "cluster": row.cluster, "prompt": row.id, "measure": measure}
            columns.append(pd.DataFrame({"layer": layer, "head": head, "change": changes[row.id][kind]} | same))
    if not columns:
        return pd.DataFrame(columns=tables.FIRST_ORDER.names)
    return pd.concat(columns, ignore_index=True)[tables.FIRST_ORDER.names]


def measurable(loaded: Loaded, task: str, rows: Sequence[Any]) -> list[Trial]:
    """Return the prompts that have a scored token, of a task with a differentiable measure."""
    asked = [trial(loaded, task, row) for row in rows] if tasks.of(task).smooth else []
    return [prompt for prompt in asked if any(map(len, prompt.positions))]


def _changes(loaded: Loaded, trials: Sequence[Trial], measure: str, means, kinds) -> list[dict[str, np.ndarray]]:
    """Return per prompt and kind the estimate of every head, in the order of the anatomy."""
    sequences = [tokens for asked in trials for tokens in asked.tokens]
    positions = [places for asked in trials for places in asked.positions]
    weights = [weight for asked in trials for weight in WEIGHTS[measure]([len(places) for places in asked.positions])]
    owner_B = np.repeat(np.arange(len(trials)), [len(asked.tokens) for asked in trials])
    device = loaded.device
    targets_N = torch.from_numpy(
        np.concatenate([tokens.ids[places] for tokens, places in zip(sequences, positions, strict=True)])
    ).to(device)
    with tracking(loaded) as outputs:
        ids, rows = [tokens.ids for tokens in sequences], [places - 1 for places in positions]
        logits_NV = forward(loaded, ids, rows, gradients=True, whole=False)
        weights_N = torch.from_numpy(np.concatenate(weights)).float().to(device)
        if isinstance(logits_NV, Unread):  # a graph would hold several copies of the logits, a megabyte a row each
            logits_NV.hidden_ND.backward(logits_NV.gradient(targets_N, weights_N))
        else:
            logprob_N = logits_NV.gather(1, targets_N[:, None])[:, 0] - logits_NV.logsumexp(1)
            (logprob_N * weights_N.to(logprob_N)).sum().backward()
    width = max(map(len, sequences))
    real_BT, ordinary_BT = (torch.zeros(len(sequences), width, dtype=torch.bool, device=device) for _ in range(2))
    for row, tokens in enumerate(sequences):
        real_BT[row, : len(tokens)] = True
        ordinary_BT[row, : len(tokens)] = torch.from_numpy(~tokens.special)
    changed: dict[tuple[int, str], torch.Tensor] = {}  # by layer and kind, (B, H)
    for number, layer in loaded.anatomy.layers.items():
        width = layer.heads * layer.head_size
        z_BTHK, gradient_BTHK = (
            values[..., :width].float().unflatten(-1, (layer.heads, layer.head_size))
            for values in (outputs[number].detach(), outputs[number].grad)
        )
        for kind in kinds:
            writes = [KINDS[kind].write((number, head), Writable(means)) for head in range(layer.heads)]
            put_HK = torch.stack(writes).to(z_BTHK)
            edited_BT = (real_BT if KINDS[kind].everywhere else ordinary_BT).to(z_BTHK.device)
            change_BTH = (gradient_BTHK * (put_HK - z_BTHK)).sum(-1)
            change_BTH = change_BTH.where(edited_BT[..., None], 0.0)  # padding may be nan
            changed[number, kind] = change_BTH.double().sum(1).float().to(device)
    changes: list[dict[str, list[np.ndarray]]] = [{kind: [] for kind in kinds} for _ in trials]
    for (_, kind), change_BH in zip(changed, brought(list(changed.values())), strict=True):
        for prompt in range(len(trials)):
            changes[prompt][kind].append(change_BH.numpy()[owner_B == prompt].sum(0))
    return [{kind: np.concatenate(parts) for kind, parts in change.items()} for change in changes]


def _batches(trials: Sequence[Trial], max_tokens: int) -> Iterator[list[Trial]]:
    """Yield trials that run together: by length; every prompt whole, as a gradient reaches all of its positions."""
    widest = [max(asked.tokens, key=len) for asked in trials]
    scored = [sum(map(len, asked.positions)) for asked in trials]
    sequences = max((len(asked.tokens) for asked in trials), default=1)
    for batch in batches(widest, max_tokens // sequences, scored):
        yield [trials[index] for index in batch]
