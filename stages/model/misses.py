"""What a model answers where it cannot know: the text, its entropy, and how much its key looks like a known one.

Legend: B prompt, F channel of the key, R stored key, V vocabulary.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from transformers import DynamicCache

from stages.families.family import Tokens
from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.rank_one import Metric
from stages.model.rows import Rows

ROWS = 128  # prompts that run together
WRITTEN = 4  # tokens of an answer, at most


def answers(loaded: Loaded, prompts: Sequence[Tokens]) -> tuple[list[str], np.ndarray]:
    """Return what greedy decoding writes after each prompt, to a line's end or `WRITTEN` tokens, and the entropy.

    Entropy (nats, (B,)) is that of the first token. Prompts of one length run together, what they share at the start
    once.
    """
    texts, entropy = [""] * len(prompts), np.zeros(len(prompts))
    asked = [tokens.ids[: tokens.target[0]] for tokens in prompts]
    for length in sorted({len(ids) for ids in asked}):
        numbers = [number for number, ids in enumerate(asked) if len(ids) == length]
        for start in range(0, len(numbers), ROWS):
            part = numbers[start : start + ROWS]
            ids_B, nats_B = _written(loaded, [asked[number] for number in part])
            for number, ids, nats in zip(part, ids_B, nats_B, strict=True):
                texts[number] = loaded.tokenizer.decode(ids, skip_special_tokens=True).partition("\n")[0].strip()
                entropy[number] = nats
    return texts, entropy


def _written(loaded: Loaded, ids: list[np.ndarray]) -> tuple[list[list[int]], list[float]]:
    """Return greedy continuations of texts of one length, to a line's end, and the entropy of their first tokens."""
    shared = int((np.stack(ids) == ids[0]).all(0)[:-1].cumprod().sum()) if loaded.caches else 0
    cache, new = None, [row[shared:] for row in ids]
    if loaded.caches:
        cache = DynamicCache()
        if shared:
            forward(loaded, [ids[0][:shared]], cache=cache, headless=True)
            cache.batch_repeat_interleave(len(ids))
    written: list[list[int]] = [[] for _ in ids]
    entropy, going = [], list(range(len(ids)))
    for step in range(WRITTEN):
        logits_BV = forward(loaded, new, [np.array([len(row) - 1]) for row in new], cache)
        if not step:
            entropy = [_entropy(logits_V) for logits_V in logits_BV]
        best_B = logits_BV.argmax(-1).cpu().numpy()
        for number, token in zip(going, best_B, strict=True):
            written[number].append(int(token))
        left = [place for place, token in enumerate(best_B) if "\n" not in loaded.tokenizer.decode([token])]
        if not left or step == WRITTEN - 1:
            break
        new = [best_B[place : place + 1] if loaded.caches else np.append(new[place], best_B[place]) for place in left]
        if cache is not None and len(left) < len(going):
            cache.batch_select_indices(torch.tensor(left, device=loaded.device))
        going = [going[place] for place in left]
    return written, entropy


def _entropy(logits_V: torch.Tensor) -> float:
    logp_V = logits_V.log_softmax(-1)
    return -float((logp_V.exp() * logp_V).sum())


def kind_of(text: str, right: str, name: str, objects: Collection[str]) -> str:
    """Return what an answer is: right, another subject's object, an echo of the name, a number, or other.

    An echo begins with the name's first three letters. What follows the object is not looked at.
    """
    if right and begins(text, right):
        return "right"
    if any(begins(text, other) for other in objects):
        return "object"
    if text[:3] and name.lower().startswith(text[:3].lower()):
        return "echo"
    return "number" if text[:1].isdigit() else "other"


def begins(text: str, answer: str) -> bool:
    """Return whether a text begins with an answer, whole."""
    return text.startswith(answer) and not text[len(answer) : len(answer) + 1].isalnum()


def name_logprobs(loaded: Loaded, prompts: Sequence[Tokens], names: Sequence[np.ndarray]) -> np.ndarray:
    """Return the log-probability (nats, B) of each subject's name, all its tokens, given what stands before it."""
    return np.array(
        [
            float(scored.logprob.sum())
            for start in range(0, len(prompts), ROWS)
            for scored in Rows(loaded, prompts[start : start + ROWS], list(names[start : start + ROWS])).intact
        ]
    )


def hits(keys_BF: torch.Tensor, values_BD: torch.Tensor, stored_RF: torch.Tensor, metric: Metric) -> dict:
    """Return scores (B,) of whether a key hits the store; the larger, the more like a hit.

    written: the length of the MLP's output; largest: the most active unit; nearest: the largest cosine with a stored
    key; usual: minus k^T C^-1 k, how ordinary the key is among keys of text.
    """
    unit_BF, stored = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-12) for x in (keys_BF, stored_RF))
    unusual_B = (metric.solve(keys_BF) * keys_BF).sum(1)
    scores = {
        "written": values_BD.norm(dim=1),
        "largest": keys_BF.abs().amax(1),
        "nearest": (unit_BF @ stored.T).amax(1),
        "usual": -unusual_B,
    }
    return {name: score.float().cpu().numpy() for name, score in scores.items()}
