"""The words of the built-in minimal pairs, with their features, and random choices among them.

Selection restrictions are kept, so that sentences make sense. Number is an index throughout: 0 singular, 1 plural;
`pair[number]` is the agreeing form, `pair[1 - number]` the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from stages.store import paths
from stages.store.errors import UserError
from stages.tasks.lexicon import Entry, Forms, plural, read

BE = (("is", "are"), ("was", "were"))
NOT_BE = (("isn't", "aren't"), ("wasn't", "weren't"))
HAVE = (("has", "have"), ("hasn't", "haven't"))
SINGULAR_PRONOUNS = {"feminine": ("she", "her", "herself"), "masculine": ("he", "him", "himself")}
KEYS = {  # that the grammar asks for by name
    "names": {"feminine", "masculine"},
    "people": {"feminine", "masculine", "neutral"},
    "things": {"device", "garment", "fruit", "pastry", "meal", "place"},
    "weak_quantifiers": {"singular", "plural"},
    "strong_quantifiers": {"singular", "plural"},
}
Pair = tuple[str, str]
Texts = Annotated[tuple[str, ...], Field(min_length=2)]


class Verb(Forms):
    """A verb with all its forms and what it selects."""

    objects: tuple[str, ...] = ()
    """Kinds of noun that can be its object."""
    themes: tuple[str, ...] = ()
    """Nouns that undergo it, with or without a causer."""
    sentient: bool = False
    """Its subject must be able to think."""
    reflexive: bool = False
    """People do it to themselves."""
    progressive: bool = True
    """Its -ing form after 'is' is natural, and is the verb."""

    @property
    def tensed(self) -> bool:
        """Its present and past differ: 'hurt' agrees with any subject."""
        return self.base != self.past

    @property
    def present(self) -> Pair:
        """Third person singular and plural."""
        return self.third, self.base


class Participle(Entry):
    """A past participle used as an adjective, with the past it must not be mistaken for."""

    participle: str
    past: str
    nouns: Texts


Verbs = Annotated[tuple[Verb, ...], Field(min_length=2)]


@dataclass(frozen=True)
class Noun:
    """A noun: `forms[0]` singular, `forms[1]` plural; gender is '' for things."""

    forms: Pair
    kind: str = ""
    gender: str = ""
    irregular: bool = False


@dataclass(frozen=True)
class Phrase:
    """A noun phrase and what agrees with it."""

    text: str
    number: int = 0
    gender: str = "neutral"

    def __str__(self) -> str:
        """Return the words, so that a phrase can stand in a template."""
        return self.text

    @property
    def pronouns(self) -> tuple[str, str, str]:
        """Subject, object and reflexive pronoun of a plural or gendered phrase."""
        return ("they", "them", "themselves") if self.number else SINGULAR_PRONOUNS[self.gender]

    @property
    def reflexive(self) -> str:
        """Himself, herself or themselves."""
        return self.pronouns[2]


class Lexicon(Entry):
    """The words of `stages/sources/blimp/lexicon.yaml`, which explains each list."""

    names: dict[str, Texts]
    people: dict[str, Texts]
    things: dict[str, Texts]
    irregular_plurals: dict[str, str]
    relational: Texts
    adjectives: dict[str, Texts]
    strict: Verbs
    plain: Verbs
    droppable: Verbs
    intransitive: Verbs
    unaccusative: Verbs
    alternating: Verbs
    never_inchoative: Texts
    believe: Verbs
    know: Verbs
    perceive: Verbs
    picture: Verbs
    upset: Verbs
    object_raising: Verbs
    object_control: Verbs
    subject_raising: Verbs
    subject_control: Verbs
    raising_adjectives: Texts
    control_adjectives: Texts
    tough_adjectives: Texts
    factual_adjectives: Texts
    participles: Annotated[tuple[Participle, ...], Field(min_length=2)]
    state_adjectives: Texts
    determiners: tuple[Pair, ...]
    cardinals: Texts
    weak_quantifiers: dict[str, Texts]
    strong_quantifiers: dict[str, Texts]
    modals: Texts
    adverbs: Texts
    sentence_adverbs: Texts
    a: tuple[str, ...]
    an: tuple[str, ...]

    @model_validator(mode="after")
    def _closed(self) -> "Lexicon":
        for name, keys in KEYS.items():
            if missing := sorted(keys - set(getattr(self, name))):
                raise ValueError(f"{name}: no {missing}")
        kinds = {"person", *self.things}
        for verb in (*self.strict, *self.plain, *self.droppable):
            if not verb.objects or not kinds.issuperset(verb.objects):
                raise ValueError(f"{verb.base}: objects {list(verb.objects)}; expected some of {sorted(kinds)}")
        if missing := sorted(kinds - set(self.adjectives)):
            raise ValueError(f"adjectives: no list for {missing}")
        if unknown := sorted(set(self.never_inchoative) - {verb.base for verb in self.strict}):
            raise ValueError(f"never_inchoative: {unknown} not among the strict verbs")
        return self

    @cached_property
    def nouns(self) -> tuple[Noun, ...]:
        """All people and things."""
        people = [self.inflect(word, "person", gender) for gender, words in self.people.items() for word in words]
        return (*people, *(self.inflect(word, kind) for kind, words in self.things.items() for word in words))

    def inflect(self, word: str, kind: str = "", gender: str = "") -> Noun:
        """Give a noun its plural: listed, or by the spelling rules of -s, -es and -ies."""
        irregular = self.irregular_plurals.get(word)
        return Noun((word, irregular or plural(word)), kind, gender, irregular is not None)


def load(path: Path) -> Lexicon:
    """Read a lexicon; raises `UserError` naming the file, the list and what it lacks."""
    return read(path, Lexicon, "minimal pairs")


class Draw:
    """The random choices of one pair; no content word is drawn twice."""

    def __init__(self, words: Lexicon, rng: np.random.Generator) -> None:
        """Draw from `words` with `rng`."""
        self.words = words
        self._rng = rng
        self._used: list[Any] = []

    def either(self, *options: Any) -> Any:
        """One of the options."""
        return options[int(self._rng.integers(len(options)))]

    def pick(self, pool: Sequence[Any], what: str = "word") -> Any:
        """One of the words, none that this pair already has (unless the pool holds no other)."""
        if not pool:
            raise UserError(f"{paths.PARAMS}: tasks.blimp.path: the lexicon has no {what}")
        word = self.either(*([word for word in pool if word not in self._used] or pool))
        self._used.append(word)
        return word

    def number(self) -> int:
        """Singular or plural."""
        return self.either(0, 1)

    def noun(self, *kinds: str, gender: str | None = None, irregular: bool | None = None) -> Noun:
        """A noun of one of the kinds (default all), with that gender and kind of plural if given."""
        return self.pick(
            [
                noun
                for noun in self.words.nouns
                if (not kinds or noun.kind in kinds)
                and (gender is None or noun.gender == gender)
                and (irregular is None or noun.irregular == irregular)
            ],
            f"noun of kind {kinds or 'any'}, gender {gender or 'any'}, irregular {irregular or 'any'}",
        )

    def verb(self, *lists: str, kind: str | None = None, **features: bool) -> Verb:
        """A verb of these lists that takes objects of that kind and has the features (`sentient=True`)."""
        verbs = [verb for name in lists for verb in getattr(self.words, name) if kind is None or kind in verb.objects]
        fitting = [verb for verb in verbs if all(getattr(verb, key) == on for key, on in features.items())]
        return self.pick(fitting, f"verb in {lists} for {kind or 'any object'} with {features}")

    def name(self, gender: str | None = None) -> Phrase:
        """A first name."""
        gender = gender or self.either("feminine", "masculine")
        return Phrase(self.pick(self.words.names[gender]), 0, gender)

    def person(self, number: int | None = None, gender: str | None = None) -> Phrase:
        """A definite person or people: the doctors."""
        number = self.number() if number is None else number
        noun = self.noun("person", gender=gender)
        return Phrase(f"the {noun.forms[number]}", number, noun.gender)

    def gendered(self) -> Phrase:
        """A singular name or person of known gender: Anna, the king."""
        gender = self.either("feminine", "masculine")
        return self.either(self.name, partial(self.person, 0))(gender=gender)

    def someone(self, number: int | None = None) -> Phrase:
        """A name or a definite person."""
        return self.person(number) if number == 1 else self.either(self.name, partial(self.person, number))()

    def object(self, verb: Verb) -> Phrase:
        """An object that the verb selects: Anna, the doctors, a lamp, these books."""
        return self.phrase(self.either(*verb.objects))

    def phrase(self, kind: str) -> Phrase:
        """A noun phrase of that kind."""
        if kind == "person":
            return self.someone()
        number = self.number()
        determiner = self.either(("the", "the"), ("a", "some"), *self.words.determiners)[number]
        return Phrase(f"{determiner} {self.noun(kind).forms[number]}", number)

    def adjective(self, kind: str) -> str:
        """An adjective for a noun of that kind."""
        return self.pick(self.words.adjectives[kind])

    def action(self, *features: str) -> tuple[Verb, str]:
        """What people do: an intransitive verb and '', or a transitive verb and its object."""
        if self.either(True, False):
            return self.verb("intransitive"), ""
        verb = self.verb("strict", "plain", "droppable", **dict.fromkeys(features, True))
        return verb, str(self.object(verb))

    def tense(self, number: int = 0, progressive: bool = False) -> Callable[[Verb], str]:
        """A tense, as the function from a verb to its form with a subject of that number."""
        modal, be = self.either(*self.words.modals), self.either(*BE)[number]
        tenses = [
            lambda verb: verb.past,
            lambda verb: verb.present[number],
            lambda verb: f"had {verb.participle}",
            lambda verb: f"{HAVE[0][number]} {verb.participle}",
            lambda verb: f"{modal} {verb.base}",
            lambda verb: f"{be} {verb.ing}",
        ]
        return self.either(*tenses[: None if progressive else -1])

    def before(self, verb: Verb) -> str:
        """The verb in a past tense, for a subordinate clause."""
        return self.either(verb.past, verb.past, f"had {verb.participle}")

    def passive(self, number: int) -> str:
        """What comes before the participle: was, has been."""
        return self.either(BE[1][number], NOT_BE[1][number], f"{HAVE[0][number]} been", "had been", "will be")

    def question(self) -> tuple[str, Callable[[Verb], str]]:
        """An auxiliary that suits any subject and the form it wants of the verb: did, had, will."""
        if self.either(True, False):
            return self.either("did", *self.words.modals), lambda verb: verb.base
        return "had", lambda verb: verb.participle

    def predicate(self, kind: str) -> tuple[Pair, str]:
        """A predicate for a subject of that kind: its finite verb (singular, plural) and the rest."""
        if kind != "person":
            return self.either(*BE, *NOT_BE, ("looks", "look"), ("seems", "seem")), self.adjective(kind)
        form = self.either("be", "have", "present")
        verb, rest = self.action(*(["progressive"] if form == "be" else ["tensed"] if form == "present" else []))
        if form == "be":
            return self.either(*BE, *NOT_BE), f"{verb.ing} {rest}"
        return (self.either(*HAVE), f"{verb.participle} {rest}") if form == "have" else (verb.present, rest)
