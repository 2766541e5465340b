"""The words of the built-in treebank, with their features, and random choices among them.

Number is an index throughout: 0 singular, 1 plural; `pair[number]` is the agreeing form.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from stages.tasks.lexicon import Entry, Forms, plural, read

PEOPLE = ("person", "relative", "keeper")
PLACES = ("place", "business")
SCARCE = (*PLACES, "event", "plan", "keeper")  # seldom many at once
Pair = tuple[str, str]
Texts = Annotated[tuple[str, ...], Field(min_length=1)]


class Verb(Forms):
    """A verb with all its forms and what it goes with."""

    objects: tuple[str, ...] = ()
    """Kinds of noun that can be its object."""
    particle: str = ""
    """The particle of a phrasal verb."""


Verbs = Annotated[tuple[Verb, ...], Field(min_length=1)]


class Adverbs(Entry):
    """Adverbs by where they stand: before an adjective, first in the sentence, or after the auxiliary of a tense."""

    sentence: Texts
    degree: Texts
    manner: Texts
    calm: Texts
    opening: Texts
    past: Texts
    present: Texts
    perfect: Texts
    progressive: Texts
    future: Texts
    modal: Texts
    copula: Texts

    @property
    def of_manner(self) -> set[str]:
        """All that say how."""
        return {*self.manner, *self.calm}


class Subordinators(Entry):
    """Words that open a clause: of reason, of time, of time before an -ing form."""

    reason: Texts
    time: Texts
    gerund: Texts


class Lexicon(Entry):
    """The words of `stages/sources/treebank/lexicon.yaml`, which explains each list."""

    names: Texts
    pronouns: Annotated[tuple[Pair, ...], Field(min_length=4)]
    possessives: Texts
    nouns: dict[str, Texts]
    irregular_plurals: dict[str, str]
    compounds: dict[str, Texts]
    adjectives: dict[str, Texts]
    moods: Texts
    classifying: dict[str, Texts]
    attributes: dict[str, dict[str, Texts]]
    subject_attributes: dict[str, dict[str, Texts]]
    places: Texts
    times: dict[str, Texts]
    around: Texts
    determiners: Annotated[tuple[Pair, ...], Field(min_length=1)]
    numbers: Texts
    transitive: Verbs
    state: Verbs
    ditransitive: Verbs
    intransitive: Verbs
    particle: Verbs
    going: Verbs
    saying: Verbs
    thinking: Verbs
    wanting: Verbs
    trying: Verbs
    starting: Verbs
    persuading: Verbs
    seeming: Verbs
    adverbs: Adverbs
    subordinators: Subordinators
    a: tuple[str, ...]
    an: tuple[str, ...]
    reflexives: Annotated[tuple[str, ...], Field(min_length=3, max_length=3)]
    feminine: Texts
    masculine: Texts

    @model_validator(mode="after")
    def _closed(self) -> "Lexicon":
        if missing := sorted({*PEOPLE, *PLACES, "event"} - set(self.nouns)):
            raise ValueError(f"nouns: no list for {missing}")
        kinds = set(self.nouns)
        for name in ("transitive", "state", "ditransitive", "particle"):
            for verb in getattr(self, name):
                if not verb.objects or not kinds.issuperset(verb.objects):
                    raise ValueError(f"{verb.base}: objects {list(verb.objects)}; expected some of {sorted(kinds)}")
        for name in ("compounds", "adjectives", "classifying", "attributes", "subject_attributes"):
            if unknown := sorted(set(getattr(self, name)) - kinds):
                raise ValueError(f"{name}: {unknown}; expected some of {sorted(kinds)}")
        for table in (self.attributes, self.subject_attributes):
            for kind, options in table.items():
                if unknown := sorted({kind for named in options.values() for kind in named} - kinds):
                    raise ValueError(f"attributes of {kind}: {unknown}; expected some of {sorted(kinds)}")
        return self

    def inflect(self, noun: str, number: int) -> str:
        """Return a noun in that number: its plural is listed, or spelled by the rules of -s, -es and -ies."""
        return self.irregular_plurals.get(noun, plural(noun)) if number else noun


def load(path: Path) -> Lexicon:
    """Read a lexicon; raises `UserError` naming the file, the list and what it lacks."""
    return read(path, Lexicon, "treebank")


class Draw:
    """The random choices of one sentence; no content word is drawn twice, and the whole stands in one time.

    `past`: the sentence tells what was, so that its clauses agree in tense.
    """

    def __init__(self, words: Lexicon, rng: np.random.Generator) -> None:
        """Draw from `words` with `rng`."""
        self.words = words
        self._rng = rng
        self._used: set[str] = set()
        self.past = self.chance(0.6)

    def chance(self, share: float) -> bool:
        """True in that share of all draws."""
        return bool(self._rng.random() < share)

    def either(self, *options: Any) -> Any:
        """One of the options."""
        return options[int(self._rng.integers(len(options)))]

    def weighted(self, *weights: float) -> int:
        """Return an index, in proportion to the weights."""
        return int(np.searchsorted(np.cumsum(weights) / sum(weights), self._rng.random(), side="right"))

    def pick(self, pool: Sequence[Any]) -> Any:
        """One of the words (or verbs), none that this sentence already has unless the pool holds no other."""
        fresh = [word for word in pool if not self._used & set(self._stems(word))]
        word = self.either(*(fresh or pool))
        self._used |= set(self._stems(word))
        return word

    def some(self, pool: Sequence[str], count: int) -> list[str]:
        """Return up to `count` different words in the order of the pool; of a|b only one is taken."""
        chosen = self._rng.permutation(len(pool))[:count]
        return [self.either(*pool[place].split("|")) for place in sorted(chosen)]

    def number(self, kind: str) -> int:
        """Singular or plural."""
        return int(self.chance(0.15 if kind in SCARCE else 0.45))

    @staticmethod
    def _stems(word: Any) -> list[str]:
        return [word.base] if isinstance(word, Verb) else word.split() if isinstance(word, str) else list(word)
