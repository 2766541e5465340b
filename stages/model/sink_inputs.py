"""What sinks are looked for on: natural text, random tokens, one token repeated, and texts that begin otherwise.

    natural   passages as they are, with the token that every prompt of this model begins with, where there is one
    random    ordinary tokens drawn at random in place of the text
    repeated  one of them over and over
    moved     an ordinary token put before all of a passage: the first token is no longer in the first position
    without   a passage without its first special token

Natural, random and repeated are Gu+'s (ICLR 2025); `moved` and `without` tell the first position from the first token.

Legend: T token.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stages.families.family import Tokens
from stages.model.load import Loaded
from stages.model.tokens import ordinary

INPUTS = ("natural", "random", "repeated", "moved", "without")


def inputs(loaded: Loaded, passages: Sequence[Tokens], rng: np.random.Generator) -> dict[str, list[Tokens]]:
    """Return the prompts of every kind of input, as many and as long as the passages; no `without` where none is first.

    Images are read as they are: their class token is no input that could be exchanged.
    rng: draws the random tokens.
    """
    if loaded.images is not None:
        return {"natural": list(passages)}
    words = ordinary(loaded.tokenizer)
    made: dict[str, list[Tokens]] = {"natural": list(passages), "random": [], "repeated": [], "moved": []}
    begun = all(len(tokens) > 2 and tokens.special[0] for tokens in passages)
    if begun:
        made["without"] = [_part(tokens, slice(1, None)) for tokens in passages]
    for tokens in passages:
        drawn, text = rng.choice(words, len(tokens)), ~tokens.special
        made["random"].append(replace(tokens, ids=np.where(text, drawn, tokens.ids)))
        made["repeated"].append(replace(tokens, ids=np.where(text, drawn[0], tokens.ids)))
        last = np.flatnonzero(text)[-1]  # gives way, so that the length stays
        kept = np.delete(np.arange(len(tokens)), last)
        moved = _part(tokens, kept)
        ids, special = np.r_[drawn[0], moved.ids], np.r_[False, moved.special]
        made["moved"].append(replace(moved, ids=ids, special=special))
    return made


def _part(tokens: Tokens, kept: slice | np.ndarray) -> Tokens:
    return Tokens(tokens.prompt, tokens.role, tokens.ids[kept], tokens.special[kept])


def punctuation(loaded: Loaded, tokens: Tokens) -> np.ndarray:
    """Return which tokens (T,) are of punctuation marks alone; special ones are none."""
    texts = [loaded.tokenizer.decode([int(index)]).strip() for index in tokens.ids]
    marks = [bool(text) and not any(character.isalnum() or character.isspace() for character in text) for text in texts]
    return np.array(marks, dtype=bool) & ~tokens.special
