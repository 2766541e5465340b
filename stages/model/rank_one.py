"""Writing a pair of key and value into an MLP: W' = W + delta (C^-1 k)^T / (k^T C^-1 k), so that W' k = W k + delta.

Of all changes of W that give k this value, this one moves the values of other keys least, in the mean over keys with
second moment C (Meng+ NeurIPS 2022, https://arxiv.org/abs/2202.05262, eq. 2; for many pairs at once https://arxiv.org/
abs/2210.07229). It has rank one: the same as a LoRA with r = alpha = 1, A = (C^-1 k)^T / (k^T C^-1 k) and B = delta.
k is the mean key at the subject's last token; delta is found by a short descent on the loss of the object, added to
what the writer gives there (before any norm, which forgets its length: so its length is bounded by the output's).

Legend: B prompt, F channel of the key, D residual width, N scored token, V vocabulary, R pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from stages.families.family import Tokens
from stages.model.forward import forward, prefill, remembering, resuming
from stages.model.load import Loaded
from stages.model.mlp import Writer, keys, places, reading, storing, writing
from stages.model.prefixes import frozen
from stages.model.rows import Rows, alike
from stages.model.score import Scored

RIDGE = 0.01  # of C's mean diagonal
RATE, BOUND, DECAY, GOAL = 0.8, 1.0, 0.02, 0.05  # of the descent; BOUND: |delta| over |W k|; GOAL: loss that is enough
SLOW = 0.2  # the rate of `trained`, whose two factors move together
PASSAGES, FEW = 10, 4  # texts that run together; rows of logits that are reduced at once
ROWS = 128  # prompts that run together: the LM head costs less a row, the more there are


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


@dataclass(frozen=True)
class Metric:
    """C, factored once: what `readers` divide by."""

    factor_FF: torch.Tensor

    def solve(self, keys_RF: torch.Tensor) -> torch.Tensor:
        """Return C^-1 k of every key, (R, F), in double precision."""
        return torch.cholesky_solve(keys_RF.double().T, self.factor_FF).T


def metric(moment_FF: torch.Tensor, preserved_RF: torch.Tensor | None = None, weight: float = 0.0) -> Metric:
    """Return C with a ridge, and with the second moment of keys to be preserved, times a weight."""
    size = len(moment_FF)
    if preserved_RF is not None and len(preserved_RF):
        moment_FF = moment_FF + weight * preserved_RF.T @ preserved_RF / len(preserved_RF)
    ridge = RIDGE * moment_FF.diagonal().mean() * torch.eye(size).to(moment_FF)
    return Metric(torch.linalg.cholesky((moment_FF + ridge).double()))


def readers(of: Metric, keys_RF: torch.Tensor) -> torch.Tensor:
    """Return a (R, F) with a_r . k_r = 1: C^-1 k / (k^T C^-1 k), each pair alone."""
    inverse_RF = of.solve(keys_RF)
    return (inverse_RF / (inverse_RF * keys_RF).sum(1, keepdim=True)).to(keys_RF)


def joint_readers(of: Metric, keys_RF: torch.Tensor) -> torch.Tensor:
    """Return a (R, F) with a_r . k_s = 1 where r = s, else 0: all pairs at once, (K C^-1 K^T)^-1 K C^-1."""
    inverse_RF = of.solve(keys_RF)
    return torch.linalg.solve(inverse_RF @ keys_RF.double().T, inverse_RF).float()


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
    loaded: Loaded, writer: Writer, layer: int, prompts: Sequence[Tokens], asked: str, steps: int, kl: float = 0.0
) -> tuple[torch.Tensor, np.ndarray]:
    """Return delta (R, D) that makes each prompt's target likely, added to the writer's output, and the loss left.

    Adam on the mean loss of the target's tokens; a prompt is left alone once its loss is below `GOAL`. kl: weight of
    KL(intact, edited) right after the subject, where nothing has been asked yet (as Meng+ 2022 weigh it, eq. 4).
    """
    first = min(int(tokens.spans[asked][0][1][0]) for tokens in prompts)  # what all begin with runs once
    cut = alike([tokens.ids for tokens in prompts], first) if loaded.caches else 0
    prefix = frozen(prefill(loaded, [prompts[0].ids[:cut]])) if cut else None
    ids, at = [t.ids[cut : t.target[-1]] for t in prompts], [int(t.spans[asked][0][1][-1]) - cut for t in prompts]
    rows = [tokens.target - 1 - cut for tokens in prompts]
    goals = [torch.from_numpy(tokens.ids[tokens.target]) for tokens in prompts]
    ends = [np.array([place]) for place in at]
    intact_RV = forward(loaded, ids, ends, prefix).log_softmax(-1) if kl else None
    with remembering(loaded) as residuals, reading(loaded, {layer: writer}) as read:
        forward(loaded, ids, cache=prefix, headless=True)
    width = max(map(len, ids))
    output_RD = read[layer][1][places(at, width)].clone()
    residual_RTD, length_R1 = residuals.get(layer), output_RD.norm(dim=1, keepdim=True)
    delta_RD = torch.zeros_like(output_RD, requires_grad=True)
    losses, going = np.full(len(prompts), np.inf), np.arange(len(prompts))
    unit_RD = torch.zeros_like(output_RD, requires_grad=True)  # delta in lengths of the output: one rate for all models
    optimizer = torch.optim.Adam([unit_RD], lr=RATE / output_RD.shape[1] ** 0.5)
    for step in tqdm(range(steps + 1), desc="descent", unit="step"):
        delta_RD = unit_RD * length_R1
        picked = going.tolist()
        own, wide = [ids[number] for number in picked], max(len(ids[number]) for number in picked)
        residual = None if residual_RTD is None else residual_RTD[picked][:, :wide]
        values = output_RD[picked] + delta_RD[picked]
        with (
            resuming(loaded, layer, residual),
            writing(loaded, writer.path, places([at[number] for number in picked], wide), values),
        ):
            logits_NV = forward(loaded, own, [rows[number] for number in picked], prefix, gradients=True)
            after_RV = forward(loaded, own, [ends[n] for n in picked], prefix, gradients=True) if kl else None
        goal_N = torch.cat([goals[number] for number in picked]).to(logits_NV.device)
        loss_N = torch.nn.functional.cross_entropy(logits_NV, goal_N, reduction="none")
        loss_R = torch.stack([part.mean() for part in loss_N.split([len(rows[number]) for number in picked])])
        losses[going] = loss_R.detach().cpu().numpy()
        if step == steps or (losses[going] <= GOAL).all():
            break
        optimizer.zero_grad()
        waiting = torch.from_numpy(losses[going] > GOAL).to(loss_R)
        before = unit_RD.detach().clone()
        objective_R = loss_R + DECAY * unit_RD[picked].square().sum(1)
        if kl:
            before_RV, moved_RV = intact_RV[picked], intact_RV[picked] - after_RV.log_softmax(-1)
            objective_R = objective_R + kl * (before_RV.exp() * moved_RV).sum(-1)
        (waiting @ objective_R).backward()
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

    A is drawn, B begins at 0 (Hu+ ICLR 2022); as many steps of Adam, at a rate of its own; a prompt is left alone once
    its loss is below `GOAL`, as in `descended`. Lengths and rates are by the prompt's own keys and values, whatever
    prompts run beside it.
    """
    ids, rows = [t.ids[: t.target[-1]] for t in prompts], [tokens.target - 1 for tokens in prompts]
    with remembering(loaded) as residuals, reading(loaded, {layer: writer}) as read:
        forward(loaded, ids, headless=True)
    keys_R1, values_R1 = (_lengths(x, ids) for x in read[layer])
    generator = torch.Generator().manual_seed(seed)
    drawn_RF = torch.randn(len(prompts), read[layer][0].shape[1], generator=generator).to(keys_R1) / keys_R1 / 4
    lengths_R1 = drawn_RF.norm(dim=1, keepdim=True)
    unit_RF = (drawn_RF / lengths_R1).requires_grad_(True)  # Adam steps by its rate whatever the gradient's scale is,
    unit_RD = torch.zeros(len(prompts), read[layer][1].shape[1]).to(keys_R1).requires_grad_(True)  # so in own lengths
    rates = [{"params": [tensor], "lr": SLOW / tensor.shape[1] ** 0.5} for tensor in (unit_RF, unit_RD)]
    optimizer = torch.optim.Adam(rates)
    goal_N = torch.cat([torch.from_numpy(tokens.ids[tokens.target]) for tokens in prompts]).to(keys_R1.device)
    for _ in range(steps):
        a_RF, b_RD = unit_RF * lengths_R1, unit_RD * values_R1
        with resuming(loaded, layer, residuals.get(layer)), storing(loaded, writer, a_RF[:, None], b_RD[:, None]):
            logits_NV = forward(loaded, ids, rows, gradients=True)
        loss_N = torch.nn.functional.cross_entropy(logits_NV, goal_N, reduction="none")
        loss_R = torch.stack([part.mean() for part in loss_N.split([len(of_prompt) for of_prompt in rows])])
        waiting_R = loss_R > GOAL
        if not waiting_R.any():
            break
        before = [tensor.detach().clone() for tensor in (unit_RF, unit_RD)]
        optimizer.zero_grad()
        loss_R[waiting_R].sum().backward()
        optimizer.step()
        with torch.no_grad():  # those that are done stay: Adam would move them on
            for tensor, kept in zip((unit_RF, unit_RD), before, strict=True):
                tensor.copy_(torch.where(waiting_R[:, None], tensor, kept))
    return (unit_RF * lengths_R1).detach(), (unit_RD * values_R1).detach()


def _lengths(x_ND: torch.Tensor, ids: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the mean length (R, 1) of each prompt's vectors, without padding; given of all of them, (R T, D)."""
    length_RT = x_ND.norm(dim=1).reshape(len(ids), -1)
    return torch.stack([length_T[: len(own)].mean() for length_T, own in zip(length_RT, ids, strict=True)])[:, None]


def answered(
    loaded: Loaded, writer: Writer, prompts: Sequence[Tokens], keys: torch.Tensor, values: torch.Tensor
) -> list[Scored]:
    """Return how targets are scored under edits: each prompt its own, (B, R, F), or all alike, (R, F)."""
    scored: list[Scored | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), number))
    for start in tqdm(range(0, len(order), ROWS), desc="edits", unit="batch"):
        part = order[start : start + ROWS]
        own = part if keys.dim() == 3 else slice(None)
        with storing(loaded, writer, keys[own], values[own]):
            batch = Rows(loaded, [prompts[n] for n in part], [prompts[n].target for n in part], kept=False)
        for number, result in zip(part, batch.intact, strict=True):
            scored[number] = result
    return scored


@torch.no_grad()
def drift(
    loaded: Loaded,
    writer: Writer,
    layer: int,
    texts: Sequence[np.ndarray],
    edits: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what each set of edits, text n under edit n, adds to the loss of texts (B,) and the mean KL (B,).

    Both in nats per token; edits: keys (B, F) and values (B, D) of one pair per text.
    """
    result = [(np.zeros(len(texts)), np.zeros(len(texts))) for _ in edits]
    for start in range(0, len(texts), PASSAGES):
        ids, own = list(texts[start : start + PASSAGES]), slice(start, start + PASSAGES)
        at = [np.arange(len(row) - 1) for row in ids]
        goal_N = torch.from_numpy(np.concatenate([row[1:] for row in ids]))
        with remembering(loaded) as residuals:
            intact_NV = forward(loaded, ids, at)
        residual = residuals.get(layer)
        ends = np.cumsum([len(rows) for rows in at])[:-1]
        for (keys_BF, values_BD), (change_B, divergence_B) in zip(edits, result, strict=True):
            with resuming(loaded, layer, residual), storing(loaded, writer, keys_BF[own, None], values_BD[own, None]):
                edited_NV = forward(loaded, ids, at)
            of_tokens = _divergence(intact_NV, edited_NV, goal_N.to(intact_NV.device))
            for total_B, each_N in zip((change_B, divergence_B), of_tokens, strict=True):
                total_B[own] = [part.mean() for part in np.split(each_N, ends)]
    return result


def _divergence(intact_NV: torch.Tensor, edited_NV: torch.Tensor, goal_N: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Return what the loss of goals grows by and KL(intact, edited), (N,) each; a few rows at once."""
    losses, divergences = [], []
    for intact, edited, goal in zip(*(x.split(FEW) for x in (intact_NV, edited_NV, goal_N)), strict=True):
        before, after = intact.log_softmax(-1), edited.log_softmax(-1)
        losses.append((before.gather(1, goal[:, None]) - after.gather(1, goal[:, None]))[:, 0])
        divergences.append((before.exp() * (before - after)).sum(-1))
    return torch.cat(losses).cpu().numpy(), torch.cat(divergences).cpu().numpy()
