"""Words that nobody has seen, by rule: English sounds in an English order, from a random stream. Pure Python.

A made-up word is one or two syllables: onset, vowel, and between or after them consonants that English allows there.
How it may end depends on what is asked of it, so that the regular rule gives one answer: a noun ends so that its plural
takes a plain -s (thus no hiss, no -y, no -f, no -o, no -man), a verb or an adjective in two consonants, so that -ed and
-er double nothing, and in none that English bends irregularly (-nk and -ng: sank; -nd: bound; -pt: crept). Whether a
word exists is not known by rule: `taken` are those that do (real.txt holds all that these rules can make of a list of
American English, Debian's wamerican-large 2020.12.07).
"""

import re
from collections.abc import Iterator, Set

import numpy as np

from stages.tasks.prompt import few_enough

ONSETS = (
    "b bl br d dr f fl fr g gl gr h j k kl kr l m n p pl pr r s sk sl sm sn sp spl spr st str sw t thr tr v w z"
).split()
VOWELS = "a e i o u".split()
MIDDLES = "b bb d dd g lb ld lm lt mb mp nd nt rb rd rg rk rm rt sk st tt v z".split()
ENDS = {
    "noun": "b d g l m n p r t ft lb lt lp mp nd nk nt rb rk rm rn rp sk".split(),
    "verb": "ft lk lp lsh lt mp rb rk rm rp rt sk".split(),
    "adjective": "ck ft lk lp lt mp rk rm rt sk".split(),
}
COUNTRIES = "ia land stan ania ovia ora una esia".split()
LONG = 3  # so many words to one of two syllables: short ones have about as many tokens as long real ones
NUMBERS = 100_000, 1_000_000  # six digits


def words(kind: str, rng: np.random.Generator, taken: Set[str]) -> Iterator[str]:
    """Yield different made-up words; kind: noun, verb, adjective, country or number. Ask for what is `enough`.

    taken: words in lower case that are not made up.
    """
    given: set[str] = set()
    while True:
        word = _one(kind, rng)
        if word.lower() not in taken and word not in given and not word.endswith("man"):
            given.add(word)
            yield word


def enough(kind: str, number: int, asked: str) -> None:
    """Raise `UserError` unless so many words can be drawn: half of what the rules make, the rest is long to come upon.

    asked: the keys of params that ask for them, with their values.
    """
    if kind == "number":
        made = NUMBERS[1] - NUMBERS[0]
    else:
        longer = (
            len(MIDDLES) * len(COUNTRIES) if kind == "country" else (1 + len(MIDDLES) * len(VOWELS)) * len(ENDS[kind])
        )
        made = len(ONSETS) * len(VOWELS) * longer
    few_enough(asked, number, f"made-up words ({kind})", made // 2)


def makes(kind: str) -> re.Pattern:
    """Return the pattern of all words in lower case that can be made: to look for real ones among them."""
    onset, vowel, middle = ("|".join(parts) for parts in (ONSETS, VOWELS, MIDDLES))
    if kind == "country":
        return re.compile(f"({onset})({vowel})({middle})({'|'.join(COUNTRIES)})")
    return re.compile(f"({onset})({vowel})(({middle})({vowel}))?({'|'.join(ENDS[kind])})")


def _one(kind: str, rng: np.random.Generator) -> str:
    if kind == "number":
        return str(rng.integers(*NUMBERS))

    def of(parts: list[str]) -> str:
        return parts[rng.integers(len(parts))]

    word = of(ONSETS) + of(VOWELS)
    if kind == "country":
        return (word + of(MIDDLES) + of(COUNTRIES)).capitalize()
    if rng.integers(LONG) == 0:
        word += of(MIDDLES) + of(VOWELS)
    return word + of(ENDS[kind])
