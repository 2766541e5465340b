"""What heads put out where a prompt shows what to do: mean last-token outputs over prompts that are answered right.

Prompts that begin alike (with the same demonstrations) share one run of their beginning.

Legend: B batch row, T token, H head, K head size.
"""

from collections.abc import Sequence

import torch

from stages.families.family import Tokens
from stages.model.intervene import Head, capturing
from stages.model.load import Loaded
from stages.model.reduce import brought
from stages.model.score import ENOUGH, Batch, Scored
from stages.model.sharing import near


def last_outputs(loaded: Loaded, prompts: Sequence[Tokens]) -> tuple[list[Scored], dict[int, torch.Tensor]]:
    """Return how prompts that run together are answered, and what heads put out at their last tokens.

    The outputs are (B, H K) by layer, on the CPU.
    """
    with capturing(loaded) as outputs_BTHK:
        batch = Batch(loaded, prompts, [prompt.target for prompt in prompts])
    tails = [batch.sharing.tail[row] for row in range(len(prompts))]
    at = [int(prompt.target[0]) - 1 - batch.cut for prompt in prompts]
    of_layers = brought([x[tails, at].to(loaded.device) for x in outputs_BTHK.values()])
    return list(batch.intact), dict(zip(outputs_BTHK, of_layers, strict=True))


def demonstrated(
    loaded: Loaded, prompts: Sequence[Tokens], begins: Sequence[str]
) -> tuple[list[bool], dict[Head, torch.Tensor]]:
    """Return whether each prompt is answered right, and every head's mean output (K,) over those; {} where none is.

    begins: what each prompt begins with; those of one beginning share its run.
    """
    solved, last = [False] * len(prompts), {}
    first = [int(prompt.target[0]) for prompt in prompts]
    for numbers in near(begins, [prompt.ids for prompt in prompts], first, ENOUGH):
        answers, outputs = last_outputs(loaded, [prompts[number] for number in numbers])
        for row, (number, scored) in enumerate(zip(numbers, answers, strict=True)):
            solved[number] = scored.solved
            last[number] = {layer: x_BC[row].double() for layer, x_BC in outputs.items()}
    right = [last[number] for number, good in enumerate(solved) if good]
    means: dict[Head, torch.Tensor] = {}
    for layer, part in loaded.anatomy.layers.items() if right else ():
        mean_HK = torch.stack([of_prompt[layer] for of_prompt in right]).mean(0).float()
        size = part.head_size
        means |= {(layer, head): mean_HK[head * size : (head + 1) * size].clone() for head in range(part.heads)}
    return solved, means
