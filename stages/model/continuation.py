"""The likeliest next token of texts under edits of their last token; what stands before it runs once.

Legend: B batch row, T token, D residual width.
"""

from collections.abc import Sequence

import numpy as np
from transformers import DynamicCache

from stages.model.forward import continuing, forward, remembering, resuming, side_by_side
from stages.model.intervene import Edit, editing
from stages.model.load import Loaded


def next_tokens(loaded: Loaded, texts: Sequence[np.ndarray], edits: Sequence[Edit]) -> np.ndarray:
    """Return the argmax after each text under each edit, ids (edits, texts).

    texts: token ids. Texts of one length run together. Where continuing a cache is not proven for the model
    (`Loaded.caches`), an edit costs the whole text.
    """
    ids = np.zeros((len(edits), len(texts)), dtype=np.int64)
    top = max(loaded.anatomy.layers)
    for length in sorted({len(text) for text in texts}):
        numbers = [number for number, text in enumerate(texts) if len(text) == length]
        together = [texts[number] for number in numbers]
        start = length - 1 if loaded.caches else 0
        prefixes = None
        with remembering(loaded) as residuals_BTD:
            if loaded.caches and start:
                cache = DynamicCache()
                forward(loaded, [text[:start] for text in together], cache=cache, headless=True)
                prefixes = side_by_side([(cache, row) for row in range(len(together))], start)
            tails, rows = [text[start:] for text in together], [np.array([length - 1 - start])] * len(together)
            forward(loaded, tails, cache=_continued(loaded, prefixes, len(together)), headless=True)
        residuals_BTD = dict(residuals_BTD)
        for number, edit in enumerate(edits):
            layer, cache = edit.first(top), _continued(loaded, prefixes, len(together))
            with (
                resuming(loaded, layer, residuals_BTD.get(layer)),
                editing(loaded, [edit] * len(together), length - 1 - start),
            ):
                ids[number, numbers] = forward(loaded, tails, rows, cache).argmax(-1).cpu().numpy()
    return ids


def _continued(loaded: Loaded, prefixes, rows: int):
    import torch

    return None if prefixes is None else continuing(prefixes, torch.arange(rows, device=loaded.model.device))
