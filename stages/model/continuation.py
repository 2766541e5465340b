"""The likeliest next token of texts under edits of their last token; what stands before it runs once.

Legend: B batch row, N text, T token, D residual width.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from stages.model.forward import Pass, Waiting, forward, prefill, remembering, resuming, together
from stages.model.intervene import Edit, editing
from stages.model.load import Loaded
from stages.model.prefixes import continuing, frozen
from stages.model.score import ROWS
from stages.model.unread import Unread, likeliest


def next_tokens(loaded: Loaded, texts: Sequence[np.ndarray], edits: Sequence[Edit]) -> np.ndarray:
    """Return the argmax after each text under each edit, ids (edits, texts).

    texts: token ids. Texts of one length run together, under as many edits at once as make `ROWS` rows. Where
    continuing a cache is not proven for the model (`Loaded.caches`), an edit costs the whole text.
    """
    ids = np.zeros((len(edits), len(texts)), dtype=np.int64)
    for length in sorted({len(text) for text in texts}):
        numbers = [number for number, text in enumerate(texts) if len(text) == length]
        ids[:, numbers] = _of_one_length(loaded, [texts[number] for number in numbers], edits)
    return ids


def _of_one_length(loaded: Loaded, texts: Sequence[np.ndarray], edits: Sequence[Edit]) -> np.ndarray:
    start = len(texts[0]) - 1 if loaded.caches else 0  # where the tokens begin that run under edits
    prefixes, tails = None, [text[start:] for text in texts]
    if start:
        prefixes = frozen(prefill(loaded, [text[:start] for text in texts]))
    every_N = torch.arange(len(texts), device=loaded.device)
    with remembering(loaded) as residuals_NTD:
        forward(loaded, tails, cache=None if prefixes is None else continuing(prefixes, every_N), headless=True)
    residuals_NTD = dict(residuals_NTD)  # as they are now: edited passes go by the same hooks
    ids = np.zeros((len(edits), len(texts)), dtype=np.int64)
    top, at_once, last = max(loaded.anatomy.layers), max(ROWS // len(texts), 1), len(tails[0]) - 1
    order = sorted(range(len(edits)), key=lambda number: edits[number].first(top))
    chunks = [order[place : place + at_once] for place in range(0, len(order), at_once)]

    def run(chosen: Sequence[int], waiting: Waiting) -> torch.Tensor | Unread | None:
        layer, which_B = edits[chosen[0]].first(top), every_N.repeat(len(chosen))
        residual_BTD = residuals_NTD[layer][which_B] if layer in residuals_NTD else None
        asked = [edits[number] for number in chosen for _ in texts]
        cache = None if prefixes is None else continuing(prefixes, which_B)
        rows = [np.array([last])] * len(which_B)
        with resuming(loaded, layer, residual_BTD), editing(loaded, asked, last):
            return forward(loaded, tails * len(chosen), rows, cache, waiting=waiting, whole=False)

    passes = [Pass(partial(run, chosen), len(chosen) * len(texts), likeliest) for chosen in chunks]
    for chosen, best_B in zip(chunks, together(loaded, passes), strict=True):
        ids[chosen] = best_B.reshape(len(chosen), len(texts))
    return ids
