"""What a model answers where it cannot know: the first token, its entropy, and how much its key looks like a known one.

Legend: B prompt, F channel of the key, R stored key, V vocabulary.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch

from stages.families.family import Tokens
from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.score import Batch

ROWS = 48  # prompts that run together


def first_answers(loaded: Loaded, prompts: Sequence[Tokens]) -> tuple[np.ndarray, np.ndarray]:
    """Return the argmax after each prompt and the entropy (nats) of the prediction, (B,) each.

    Prompts that begin with the same demonstrations share one run of them.
    """
    best, entropy = [], []
    for start in range(0, len(prompts), ROWS):
        part = prompts[start : start + ROWS]
        batch = Batch(loaded, part, [tokens.target[:1] for tokens in part])
        logits_BV = forward(loaded, batch.tails, batch.rows, batch.prefix)
        best.append(logits_BV.argmax(-1).cpu().numpy())
        for logits_V in logits_BV:
            logp_V = logits_V.log_softmax(-1)
            entropy.append(-float((logp_V.exp() * logp_V).sum()))
    return np.concatenate(best), np.array(entropy)


def kind_of(loaded: Loaded, token: int, right: int, name: str, objects: Collection[int]) -> str:
    """Return what a first token of an answer is: right, another object, an echo of the name, a number, or other."""
    text = loaded.tokenizer.decode([token]).strip()
    if token == right:
        return "right"
    if token in objects:
        return "object"
    if text and name.lower().startswith(text.lower()):
        return "echo"
    return "number" if text[:1].isdigit() else "other"


def name_logprobs(loaded: Loaded, prompts: Sequence[Tokens], names: Sequence[np.ndarray]) -> np.ndarray:
    """Return the log-probability (nats, B) of each subject's name, all its tokens, given what stands before it."""
    return np.array(
        [
            float(scored.logprob.sum())
            for start in range(0, len(prompts), ROWS)
            for scored in Batch(
                loaded, prompts[start : start + ROWS], list(names[start : start + ROWS]), share=False
            ).intact
        ]
    )


def hits(keys_BF: torch.Tensor, values_BD: torch.Tensor, stored_RF: torch.Tensor, metric_FF: torch.Tensor) -> dict:
    """Return scores (B,) of whether a key hits the store; the larger, the more like a hit.

    written: the length of the MLP's output; largest: the most active unit; nearest: the largest cosine with a stored
    key; usual: minus k^T C^-1 k, how ordinary the key is among keys of text.
    """
    unit_BF, stored = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-12) for x in (keys_BF, stored_RF))
    unusual_B = (torch.linalg.solve(metric_FF.double(), keys_BF.double().T).T * keys_BF).sum(1)
    scores = {
        "written": values_BD.norm(dim=1),
        "largest": keys_BF.abs().amax(1),
        "nearest": (unit_BF @ stored.T).amax(1),
        "usual": -unusual_B,
    }
    return {name: score.float().cpu().numpy() for name, score in scores.items()}
