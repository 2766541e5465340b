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
from stages.model.score import ENOUGH, Batch
from stages.model.sharing import near


def demonstrated(
    loaded: Loaded, prompts: Sequence[Tokens], begins: Sequence[str]
) -> tuple[list[bool], dict[Head, torch.Tensor]]:
    """Return whether each prompt is answered right, and every head's mean output (K,) over those; {} where none is.

    begins: what each prompt begins with; those of one beginning share its run.
    """
    solved, last = [False] * len(prompts), {}
    first = [int(prompt.target[0]) for prompt in prompts]
    for numbers in near(begins, [prompt.ids for prompt in prompts], first, ENOUGH):
        tokens = [prompts[number] for number in numbers]
        with capturing(loaded) as outputs_BTHK:
            batch = Batch(loaded, tokens, [prompt.target for prompt in tokens])
        tails = [batch.sharing.tail[row] for row in range(len(numbers))]
        at = [int(prompt.target[0]) - 1 - batch.cut for prompt in tokens]
        of_layers = brought([x[tails, at].double().to(loaded.device) for x in outputs_BTHK.values()])
        for row, (number, scored) in enumerate(zip(numbers, batch.intact, strict=True)):
            solved[number] = scored.solved
            last[number] = {layer: x_BC[row] for layer, x_BC in zip(outputs_BTHK, of_layers, strict=True)}
    right = [last[number] for number, good in enumerate(solved) if good]
    means: dict[Head, torch.Tensor] = {}
    for layer, part in loaded.anatomy.layers.items() if right else ():
        mean_HK = torch.stack([of_prompt[layer] for of_prompt in right]).mean(0).float()
        size = part.head_size
        means |= {(layer, head): mean_HK[head * size : (head + 1) * size].clone() for head in range(part.heads)}
    return solved, means
