"""What heads put out where a prompt shows what to do: mean last-token outputs over prompts that are answered right.

Prompts that begin alike (with the same demonstrations) share one run of their beginning.

Legend: B batch row, T token, H head, K head size, D residual width.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from stages.families.family import Tokens
from stages.model.forward import remembering
from stages.model.intervene import Head, capturing
from stages.model.load import Loaded
from stages.model.reduce import brought
from stages.model.score import ENOUGH, Batch, Scored
from stages.model.sharing import near


@dataclass(frozen=True)
class Last:
    """What there is at the last tokens of prompts that run together, by layer, on the CPU.

    outputs: of heads (B, H K); residuals: after blocks (B, D).
    """

    answers: list[Scored]
    outputs: dict[int, torch.Tensor]
    residuals: dict[int, torch.Tensor]


def at_last(loaded: Loaded, prompts: Sequence[Tokens], of_blocks: bool = True) -> Last:
    """Return how prompts that run together are answered, and what heads put out at their last tokens.

    of_blocks: and the residuals after blocks.
    """
    with (
        capturing(loaded) as outputs,
        remembering(loaded, after=True) if of_blocks else nullcontext({}) as residuals,
    ):
        batch = Batch(loaded, prompts, [prompt.target for prompt in prompts])
    tails = [batch.sharing.tail[row] for row in range(len(prompts))]
    at = [int(prompt.target[0]) - 1 - batch.cut for prompt in prompts]
    picked = brought([x[tails, at].float().to(loaded.device) for x in (*outputs.values(), *residuals.values())])
    heads, blocks = picked[: len(outputs)], picked[len(outputs) :]
    outputs, residuals = dict(zip(outputs, heads, strict=True)), dict(zip(residuals, blocks, strict=True))
    return Last(list(batch.intact), outputs, residuals)


def demonstrated(
    loaded: Loaded, prompts: Sequence[Tokens], begins: Sequence[str]
) -> tuple[list[bool], dict[Head, torch.Tensor]]:
    """Return whether each prompt is answered right, and every head's mean output (K,) over those; {} where none is.

    begins: what each prompt begins with; those of one beginning share its run.
    """
    solved, last = [False] * len(prompts), {}
    first = [int(prompt.target[0]) for prompt in prompts]
    for numbers in near(begins, [prompt.ids for prompt in prompts], first, ENOUGH):
        seen = at_last(loaded, [prompts[number] for number in numbers], of_blocks=False)
        for row, (number, scored) in enumerate(zip(numbers, seen.answers, strict=True)):
            solved[number] = scored.solved
            last[number] = {layer: x_BC[row].double() for layer, x_BC in seen.outputs.items()}
    right = [last[number] for number, good in enumerate(solved) if good]
    means: dict[Head, torch.Tensor] = {}
    for layer, part in loaded.anatomy.layers.items() if right else ():
        mean_HK = torch.stack([of_prompt[layer] for of_prompt in right]).mean(0).float()
        size = part.head_size
        means |= {(layer, head): mean_HK[head * size : (head + 1) * size].clone() for head in range(part.heads)}
    return solved, means
