"""The grammar of the built-in minimal pairs: each paradigm of BLiMP as a short function over a lexicon with features.

A paradigm writes both sentences of a pair as one template in which `[good|bad]` marks where they differ:

    only_npi_licensor_present:  "[only|even] Anna might ever complain"
    -> "Only Anna might ever complain."  /  "Even Anna might ever complain."

Spelling (a or an, capitals, full stop) is `finish`'s, for all of them. The constructions and their names are BLiMP's
(Warstadt et al. 2020, TACL 8:377); the sentences are ours. This module holds the register; the paradigms are in
`agreement`, `structure` and `extraction`, words and random choices in `words`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from stages.store import paths
from stages.store.errors import UserError
from stages.tasks.blimp.words import Draw, Lexicon, Pair
from stages.tasks.prompt import stream

PATIENCE = 300  # draws in a row without a new pair before the lexicon counts as exhausted


@dataclass(frozen=True)
class Paradigm:
    """A named construction: `template` draws one pair as a sentence with `[good|bad]` in it."""

    uid: str
    phenomenon: str
    template: Callable[[Draw], str]


PARADIGMS: dict[str, Paradigm] = {}


def paradigm(phenomenon: str, **variants: dict[str, Any]) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Register a template function under its own name, or once per variant: UID = keyword arguments."""

    def register(template: Callable[..., str]) -> Callable[..., str]:
        for uid, options in (variants or {template.__name__: {}}).items():
            PARADIGMS[uid] = Paradigm(uid, phenomenon, partial(template, **options))
        return template

    return register


def pairs(uid: str, words: Lexicon, seed: int, count: int) -> list[Pair]:
    """Draw the first `count` distinct (good, bad) pairs of a paradigm; more pairs begin with the same ones.

    Raises `UserError` when the lexicon has no more.
    """
    rng = stream(seed, f"blimp/{uid}")
    drawn: dict[str, str] = {}  # good -> bad
    misses = 0
    while len(drawn) < count:
        template = PARADIGMS[uid].template(Draw(words, rng))
        good, bad = (finish(re.sub(r"\[([^|\]]*)\|([^\]]*)\]", side, template), words) for side in (r"\1", r"\2"))
        misses = misses + 1 if good == bad or good in drawn else 0
        if misses == 0:
            drawn[good] = bad
        elif misses == PATIENCE:
            raise UserError(
                f"{paths.PARAMS}: tasks.blimp.pairs: {count}; the lexicon gives {uid} only {len(drawn)} distinct pairs"
            )
    return list(drawn.items())


def finish(text: str, words: Lexicon) -> str:
    """Spell a drawn sentence: single spaces, a or an by sound, a capital first, a full stop unless it asks."""
    text = re.sub(r" (?=[?.,])", "", " ".join(text.split()))
    text = re.sub(r"\ba (?=(\w+))", lambda match: f"{_article(match[1], words)} ", text)
    return text[0].upper() + text[1:] + ("" if text[-1] in "?." else ".")


def _article(word: str, words: Lexicon) -> str:
    if word in words.a or word in words.an:
        return "an" if word in words.an else "a"
    return "an" if word[0].lower() in "aeiou" else "a"
