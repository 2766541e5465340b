"""Writing a pair of key and value into an MLP: W' = W + delta (C^-1 k)^T / (k^T C^-1 k), so that W' k = W k + delta.

Of all changes of W that give k this value, this one moves the values of other keys least, in the mean over keys with
second moment C (Meng+ NeurIPS 2022, https://arxiv.org/abs/2202.05262, eq. 2; for many pairs at once https://arxiv.org/
abs/2210.07229). It has rank one: the same as a LoRA with r = alpha = 1, A = (C^-1 k)^T / (k^T C^-1 k) and B = delta.
k is the mean key at the subject's last token; delta is found by a short descent on the loss of the object, added to
what the writer gives there (before any norm, which forgets its length: so its length is bounded by the output's).

Legend: B prompt, F channel of the key, D residual width, N scored token, V vocabulary, R pair.
"""

from collections.abc import Sequence

import numpy as np
import torch

from stages.families.family import Tokens
from stages.model.forward import forward, remembering, resuming
from stages.model.load import Loaded
from stages.model.mlp import Writer, keys, places, reading, storing, writing
from stages.model.score import Batch, Scored

RIDGE = 0.01  # of C's mean diagonal
RATE, BOUND, DECAY, GOAL = 0.2, 1.0, 0.02, 0.05  # of the descent; BOUND: |delta| over |W k|; GOAL: loss that is enough
ROWS = 48  # prompts that run together


def second_moment(loaded: Loaded, writer: Writer, texts: Sequence[Tokens]) -> tuple[torch.Tensor, int]:
    """Return C (F, F), the uncentred second moment of keys over ordinary tokens, and their number."""
    total, count = None, 0
    for start in range(0, len(texts), 4):
        part = texts[start : start + 4]
        k_BTF = keys(loaded, writer, [tokens.ids for tokens in part])
        for row, tokens in enumerate(part):
            k_TF = k_BTF[row, : len(tokens)][torch.from_numpy(~tokens.special)].float()
            total = k_TF.T @ k_TF + (0 if total is None else total)
            count += len(k_TF)
    return total / max(count, 1), count


def metric(moment_FF: torch.Tensor, preserved_RF: torch.Tensor | None = None, weight: float = 0.0) -> torch.Tensor:
    """Return C with a ridge, and with the second moment of keys to be preserved, times a weight."""
    size = len(moment_FF)
    if preserved_RF is not None and len(preserved_RF):
        moment_FF = moment_FF + weight * preserved_RF.T @ preserved_RF / len(preserved_RF)
    return moment_FF + RIDGE * moment_FF.diagonal().mean() * torch.eye(size).to(moment_FF)


def readers(metric_FF: torch.Tensor, keys_RF: torch.Tensor) -> torch.Tensor:
    """Return a (R, F) with a_r . k_r = 1: C^-1 k / (k^T C^-1 k), each pair alone."""
    inverse_RF = torch.linalg.solve(metric_FF.double(), keys_RF.double().T).T
    return (inverse_RF / (inverse_RF * keys_RF).sum(1, keepdim=True)).to(keys_RF)


def joint_readers(metric_FF: torch.Tensor, keys_RF: torch.Tensor) -> torch.Tensor:
    """Return a (R, F) with a_r . k_s = 1 where r = s, else 0: all pairs at once, (K C^-1 K^T)^-1 K C^-1."""
    keys_RF = keys_RF.double()
    inverse_RF = torch.linalg.solve(metric_FF.double(), keys_RF.T).T
    return torch.linalg.solve(inverse_RF @ keys_RF.T, inverse_RF).float()


def mean_keys(loaded: Loaded, writer: Writer, prompts: Sequence[Sequence[Tokens]], asked: str) -> torch.Tensor:
    """Return (R, F): the mean key at the subject's last token over each pair's prompts."""
    flat = [tokens for of_pair in prompts for tokens in of_pair]
    at = [int(tokens.spans[asked][0][1][-1]) for tokens in flat]
    picked = []
    for start in range(0, len(flat), ROWS):
        k_BTF = keys(loaded, writer, [tokens.ids for tokens in flat[start : start + ROWS]])
        picked.append(k_BTF[torch.arange(len(k_BTF)), at[start : start + ROWS]])
    every, ends = torch.cat(picked), np.cumsum([len(of_pair) for of_pair in prompts])[:-1].tolist()
    return torch.stack([part.mean(0) for part in every.tensor_split(ends)])


def descended(
    loaded: Loaded, writer: Writer, layer: int, prompts: Sequence[Tokens], asked: str, steps: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Return delta (R, D) that makes each prompt's target likely, added to the writer's output, and the loss left.

    Adam on the mean loss of the target's tokens; a prompt is left alone once its loss is below `GOAL`.
    """
    ids, at = [t.ids[: t.target[-1]] for t in prompts], [int(t.spans[asked][0][1][-1]) for t in prompts]
    rows = [tokens.target - 1 for tokens in prompts]
    goals = [torch.from_numpy(tokens.ids[tokens.target]) for tokens in prompts]
    with remembering(loaded) as residuals, reading(loaded, {layer: writer}) as read:
        forward(loaded, ids, headless=True)
    width = max(map(len, ids))
    output_RD = read[layer][1][places(at, width)].clone()
    residual_RTD, length_R1 = residuals.get(layer), output_RD.norm(dim=1, keepdim=True)
    delta_RD = torch.zeros_like(output_RD, requires_grad=True)
    losses, going = np.full(len(prompts), np.inf), np.arange(len(prompts))
    unit_RD = torch.zeros_like(output_RD, requires_grad=True)  # delta in lengths of the output: one rate for all models
    optimizer = torch.optim.Adam([unit_RD], lr=RATE / output_RD.shape[1] ** 0.5)
    for step in range(steps + 1):
        delta_RD = unit_RD * length_R1
        picked = going.tolist()
        own, wide = [ids[number] for number in picked], max(len(ids[number]) for number in picked)
        residual = None if residual_RTD is None else residual_RTD[picked][:, :wide]
        values = output_RD[picked] + delta_RD[picked]
        with (
            resuming(loaded, layer, residual),
            writing(loaded, writer.path, places([at[number] for number in picked], wide), values),
        ):
            logits_NV = forward(loaded, own, [rows[number] for number in picked], gradients=True)
        goal_N = torch.cat([goals[number] for number in picked]).to(logits_NV.device)
        loss_N = torch.nn.functional.cross_entropy(logits_NV, goal_N, reduction="none")
        loss_R = torch.stack([part.mean() for part in loss_N.split([len(rows[number]) for number in picked])])
        losses[going] = loss_R.detach().cpu().numpy()
        if step == steps or (losses[going] <= GOAL).all():
            break
        optimizer.zero_grad()
        waiting = torch.from_numpy(losses[going] > GOAL).to(loss_R)
        before = unit_RD.detach().clone()
        (waiting @ (loss_R + DECAY * unit_RD[picked].square().sum(1))).backward()
        optimizer.step()
        with torch.no_grad():  # those that are done stay; no delta is longer than the bound
            done = losses <= GOAL
            unit_RD[done] = before[done]
            unit_RD *= (BOUND / unit_RD.norm(dim=1, keepdim=True).clamp(min=BOUND)).clamp(max=1)
        going = going[losses[going] > GOAL]
    return (unit_RD * length_R1).detach(), losses


def trained(
    loaded: Loaded, writer: Writer, layer: int, prompts: Sequence[Tokens], steps: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (R, F) and (R, D) of a LoRA of rank one per prompt, found by descent on its loss alone: the control.

    A is drawn, B begins at 0 (Hu+ ICLR 2022); as many steps of Adam at the rate that values are sought with.
    """
    ids, rows = [t.ids[: t.target[-1]] for t in prompts], [tokens.target - 1 for tokens in prompts]
    with remembering(loaded) as residuals, reading(loaded, {layer: writer}) as read:
        forward(loaded, ids, headless=True)
    key_F, value_D = read[layer][0][0], read[layer][1].norm(dim=1).mean()
    generator = torch.Generator().manual_seed(seed)
    drawn_RF = torch.randn(len(prompts), len(key_F), generator=generator).to(key_F)
    a_RF = (drawn_RF / read[layer][0].norm(dim=1).mean() / 4).requires_grad_(True)
    b_RD = torch.zeros(len(prompts), read[layer][1].shape[1]).to(key_F).requires_grad_(True)
    rates = [{"params": [tensor], "lr": RATE * float(size) / tensor.shape[1] ** 0.5}
             for tensor, size in ((a_RF, a_RF.detach().norm(dim=1).mean()), (b_RD, value_D))]  # fmt: skip
    optimizer = torch.optim.Adam(rates)
    goal_N = torch.cat([torch.from_numpy(tokens.ids[tokens.target]) for tokens in prompts]).to(key_F.device)
    for _ in range(steps):
        with resuming(loaded, layer, residuals.get(layer)), storing(loaded, writer, a_RF[:, None], b_RD[:, None]):
            logits_NV = forward(loaded, ids, rows, gradients=True)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits_NV, goal_N, reduction="sum").backward()
        optimizer.step()
    return a_RF.detach(), b_RD.detach()


def answered(
    loaded: Loaded, writer: Writer, layer: int, prompts: Sequence[Tokens], keys_R: torch.Tensor, values_R: torch.Tensor
) -> tuple[list[Scored], list[Scored]]:
    """Return how targets are scored intact and under edits: each prompt its own, (B, 1, F), or all alike, (R, F)."""
    intact: list[Scored] = []
    edited: list[Scored] = []
    for start in range(0, len(prompts), ROWS):
        part = prompts[start : start + ROWS]
        batch = Batch(loaded, part, [tokens.target for tokens in part], share=False)
        own = slice(start, start + ROWS) if keys_R.dim() == 3 else slice(None)
        with storing(loaded, writer, keys_R[own], values_R[own]):
            edited += batch.again(layer)
        intact += batch.intact
    return intact, edited


@torch.no_grad()
def drift(
    loaded: Loaded, writer: Writer, layer: int, ids: np.ndarray, edits: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> list[tuple[float, float]]:
    """Return, per edit, what it adds to the loss of a text (nats per token) and the mean KL of its predictions."""
    at = [np.arange(len(ids) - 1)]
    with remembering(loaded) as residuals:
        intact_NV = forward(loaded, [ids], at).log_softmax(-1)
    goal_N1 = torch.from_numpy(np.asarray(ids[1:])).to(intact_NV.device)[:, None]
    changes, residual = [], residuals.get(layer)
    for keys_RF, values_RD in edits:
        with resuming(loaded, layer, residual), storing(loaded, writer, keys_RF, values_RD):
            edited_NV = forward(loaded, [ids], at).log_softmax(-1)
        change = float((intact_NV.gather(1, goal_N1) - edited_NV.gather(1, goal_N1)).mean())
        divergence = float((intact_NV.exp() * (intact_NV - edited_NV)).sum(-1).mean())
        changes.append((change, divergence))
    return changes
