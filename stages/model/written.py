"""What a model writes by itself, as text: greedy decoding, judged by its letters and not by its tokens.

A tokenizer splits a text in one way; a model may write the same letters in other tokens (` tren` `tolt` `s` where the
split is ` tren` `tol` `ts`), the more so the stranger the word. Teacher forcing counts that as wrong. Here the answer
is written out, token by token, as long as its text can still become the wanted one: most wrong answers end at once.
"""

from collections.abc import Sequence

import numpy as np

from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.score import Batch
from stages.model.unread import likeliest


def writes(loaded: Loaded, batch: Batch, wanted: Sequence[str]) -> list[str]:
    """Return how far each prompt's greedily written text agrees with a wanted one: its longest prefix that was written.

    batch: prompts with targets, scored at all of their targets' tokens; wanted: the text that should come, per prompt,
    as the target begins. Equal to `wanted` where all of it is written.
    """
    given = []  # per prompt: ids that were written, all argmax
    for tokens, scored in zip(batch.prompts, batch.intact, strict=True):
        right = len(scored.top) if scored.top.all() else int(np.argmin(scored.top))
        given.append(tokens.ids[tokens.target[:right]].tolist())
    texts = [_text(loaded, tokens, ids) for tokens, ids in zip(batch.prompts, given, strict=True)]
    agreed = [_common(text, want) for text, want in zip(texts, wanted, strict=True)]
    going = [place for place, want in enumerate(wanted) if agreed[place] != want]
    while going:
        tails, rows = [], []
        for place in going:
            tokens = batch.prompts[place]
            tails.append(np.r_[tokens.ids[batch.cut : tokens.target[0]], given[place]].astype(np.int64))
            rows.append(np.array([len(tails[-1]) - 1]))
        best = likeliest(forward(loaded, tails, rows, batch.following(going), whole=False)).tolist()
        still = []
        for place, token in zip(going, best, strict=True):
            given[place].append(token)
            text = _text(loaded, batch.prompts[place], given[place])
            agreed[place] = _common(text, wanted[place])
            whole = text.rstrip("\ufffd")  # a character of which some bytes are written
            if agreed[place] == whole and whole != wanted[place] and len(given[place]) < 4 * len(wanted[place]):
                still.append(place)
        going = still
    return agreed


def _text(loaded: Loaded, tokens, written: list[int]) -> str:
    """Return the text of written ids; with the prompt before them, as some tokenizers drop a leading space."""
    before = tokens.ids[max(int(tokens.target[0]) - 4, 0) : tokens.target[0]].tolist()
    whole, start = (
        loaded.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for ids in (before + written, before)
    )
    return whole[len(start) :]


def _common(text: str, wanted: str) -> str:
    """Return the longest prefix of both."""
    length = next((at for at, pair in enumerate(zip(text, wanted, strict=False)) if len(set(pair)) > 1), None)
    return text[: min(len(text), len(wanted)) if length is None else length]
