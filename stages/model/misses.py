"""What a model answers where it cannot know: the text, its entropy, and how much its key looks like a known one.

Legend: B prompt, F channel of the key, R stored key, V vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import torch
from tqdm import tqdm
from transformers import Cache

from stages.families.family import Tokens
from stages.model.forward import Pass, Waiting, forward, prefill, together
from stages.model.load import Loaded
from stages.model.prefixes import empty
from stages.model.rank_one import Metric
from stages.model.reduce import brought
from stages.model.rows import Rows

ROWS = 128  # prompts that run together
WRITTEN = 4  # tokens of an answer, at most


@dataclass
class _Alike:
    """Prompts of one length: `numbers` of those still written, the ids that they run next, what has been written."""

    numbers: list[int]
    new: list[np.ndarray]
    cache: Cache | None

    @classmethod
    def begun(cls, loaded: Loaded, numbers: list[int], ids: list[np.ndarray]) -> "_Alike":
        """Run what they share at the start, once."""
        shared = int((np.stack(ids) == ids[0]).all(0)[:-1].cumprod().sum()) if loaded.caches else 0
        cache = empty(loaded) if loaded.caches else None
        if shared:
            cache = prefill(loaded, [ids[0][:shared]])
            cache.reorder_cache(torch.zeros(len(ids), dtype=torch.long))
        return cls(numbers, [row[shared:] for row in ids], cache)

    def run(self, loaded: Loaded, waiting: Waiting) -> torch.Tensor | None:
        """Run what comes next; its logits are those of the last tokens."""
        return forward(loaded, self.new, [np.array([len(row) - 1]) for row in self.new], self.cache, waiting=waiting)

    def follow(self, loaded: Loaded, best_B: np.ndarray) -> None:
        """Go on with the tokens written, where these do not end a line."""
        left = [place for place, token in enumerate(best_B) if "\n" not in loaded.tokenizer.decode([token])]
        self.new = [
            best_B[place : place + 1] if loaded.caches else np.append(self.new[place], best_B[place]) for place in left
        ]
        if self.cache is not None and 0 < len(left) < len(best_B):
            self.cache.reorder_cache(torch.tensor(left))
        self.numbers = [self.numbers[place] for place in left]


def answers(loaded: Loaded, prompts: Sequence[Tokens]) -> tuple[list[str], np.ndarray]:
    """Return what greedy decoding writes after each prompt, to a line's end or `WRITTEN` tokens, and the entropy.

    Entropy (nats, (B,)) is that of the first token. Prompts of one length run together, what they share at the start
    once; the LM head reads all lengths at once.
    """
    written: list[list[int]] = [[] for _ in prompts]
    entropy, asked = np.zeros(len(prompts)), [tokens.ids[: tokens.target[0]] for tokens in prompts]
    order = sorted(range(len(prompts)), key=lambda number: len(asked[number]))
    for start in tqdm(range(0, len(order), ROWS), desc="answers", unit="batch"):
        alike = groupby(order[start : start + ROWS], lambda number: len(asked[number]))
        parts = [list(numbers) for _, numbers in alike]
        groups = [_Alike.begun(loaded, numbers, [asked[number] for number in numbers]) for numbers in parts]
        for step in range(WRITTEN):
            groups = [group for group in groups if group.numbers]
            passes = [
                Pass(partial(group.run, loaded), len(group.numbers), partial(_next, step == 0)) for group in groups
            ]
            for group, (best_B, nats_B) in zip(groups, list(together(loaded, passes)), strict=True):
                for number, token in zip(group.numbers, best_B, strict=True):
                    written[number].append(int(token))
                if step == 0:
                    entropy[group.numbers] = nats_B
                group.follow(loaded, best_B)
    texts = [loaded.tokenizer.decode(ids, skip_special_tokens=True).partition("\n")[0].strip() for ids in written]
    return texts, entropy


def _next(first: bool, logits_BV: torch.Tensor) -> tuple[np.ndarray, list[float]]:
    """Return the likeliest tokens and, where they are the first, the entropy before them."""
    best_B = logits_BV.argmax(-1).cpu().numpy()
    nats = torch.stack([_entropy(logits_V) for logits_V in logits_BV]).tolist() if first else []  # one row in memory
    return best_B, nats


def _entropy(logits_V: torch.Tensor) -> torch.Tensor:
    logp_V = logits_V.log_softmax(-1)
    return -(logp_V.exp() * logp_V).sum()


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
    arrays = brought([score.float() for score in scores.values()])
    return {name: score.numpy() for name, score in zip(scores, arrays, strict=True)}
