"""The grammar of the built-in minimal pairs: each paradigm of BLiMP as a short function over a lexicon with features.

A paradigm writes both sentences of a pair as one template in which `[good|bad]` marks where they differ:

    only_npi_licensor_present:  "[only|even] Anna might ever complain"
    -> "Only Anna might ever complain."  /  "Even Anna might ever complain."

Spelling (a or an, capitals, full stop) is `finish`'s, for all of them. The constructions and their names are BLiMP's
(Warstadt et al. 2020, TACL 8:377); the sentences are ours, with selection restrictions kept so that they make sense.
Number is an index throughout: 0 singular, 1 plural; `pair[number]` is the agreeing form, `pair[1 - number]` the other.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.prompts.prompt import stream
from stages.store.errors import UserError

PATIENCE = 300  # draws in a row without a new pair before the lexicon counts as exhausted
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


class Entry(BaseModel):
    """Base of what the lexicon file holds: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Verb(Entry):
    """A verb with all its forms and what it selects; the file gives the five forms as one string, `_` for a space."""

    base: str
    third: str
    past: str
    participle: str
    ing: str
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

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, entry: dict[str, Any]) -> dict[str, Any]:
        rest = dict(entry) if isinstance(entry, dict) else {}
        forms = [form.replace("_", " ") for form in str(rest.pop("forms", "")).split()]
        if len(forms) != 5:
            raise ValueError(f"{entry}: expected forms: base, third person, past, past participle, -ing")
        return dict(zip(("base", "third", "past", "participle", "ing"), forms, strict=True)) | rest

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
    """The words of `stages/prompts/lexicon/blimp.yaml`, which explains each list."""

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
        regular = re.sub(r"(?<=[^aeiou])y$", "ie", word) + ("es" if re.search(r"(s|x|z|ch|sh)$", word) else "s")
        irregular = self.irregular_plurals.get(word)
        return Noun((word, irregular or regular), kind, gender, irregular is not None)


def load(path: Path) -> Lexicon:
    """Read a lexicon; raises `UserError` naming the file, the list and what it lacks."""
    try:
        return Lexicon.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected the lexicon of the builtin minimal pairs") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


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
            raise UserError(f"tasks.blimp.path: the lexicon has no {what}")
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
    found: dict[str, str] = {}  # good -> bad
    misses = 0
    while len(found) < count:
        template = PARADIGMS[uid].template(Draw(words, rng))
        good, bad = (finish(re.sub(r"\[([^|\]]*)\|([^\]]*)\]", side, template), words) for side in (r"\1", r"\2"))
        misses = misses + 1 if good == bad or good in found else 0
        if misses == 0:
            found[good] = bad
        elif misses == PATIENCE:
            raise UserError(f"tasks.blimp.pairs: {count}; the lexicon gives {uid} only {len(found)} distinct pairs")
    return list(found.items())


def finish(text: str, words: Lexicon) -> str:
    """Spell a drawn sentence: single spaces, a or an by sound, a capital first, a full stop unless it asks."""
    text = re.sub(r" (?=[?.,])", "", " ".join(text.split()))
    text = re.sub(r"\ba (?=(\w+))", lambda match: f"{_article(match[1], words)} ", text)
    return text[0].upper() + text[1:] + ("" if text[-1] in "?." else ".")


def _article(word: str, words: Lexicon) -> str:
    if word in words.a or word in words.an:
        return "an" if word in words.an else "a"
    return "an" if word[0].lower() in "aeiou" else "a"


# Anaphor agreement


@paradigm("anaphor_agreement")
def anaphor_gender_agreement(d: Draw) -> str:
    """A reflexive has the gender of its antecedent."""
    subject, verb = d.gendered(), d.verb("strict", "plain", reflexive=True)
    return f"{subject} {d.tense()(verb)} [{subject.reflexive}|{_other(subject.reflexive)}]"


def _other(reflexive: str) -> str:
    return {"herself": "himself", "himself": "herself"}[reflexive]


@paradigm("anaphor_agreement")
def anaphor_number_agreement(d: Draw) -> str:
    """A reflexive has the number of its antecedent."""
    subject = d.either(d.gendered, partial(d.person, 1))()
    wrong = d.either("himself", "herself") if subject.number else "themselves"
    verb = d.verb("strict", "plain", reflexive=True)
    return f"{subject} {d.tense(subject.number)(verb)} [{subject.reflexive}|{wrong}]"


# Argument structure


@paradigm("argument_structure")
def animate_subject_trans(d: Draw) -> str:
    """Some verbs want a subject that thinks."""
    number, verb = d.number(), d.verb("strict", sentient=True)
    actor, thing = d.noun("person").forms[number], d.noun("device", "garment", "fruit", "pastry", "meal").forms[number]
    return f"the [{actor}|{thing}] {d.tense(number)(verb)} {d.object(verb)}"


@paradigm("argument_structure")
def animate_subject_passive(d: Draw) -> str:
    """The same verbs want the noun after 'by' to think."""
    number, verb = d.number(), d.verb("strict", sentient=True)
    actor, thing = d.noun("person").forms[number], d.noun("device", "garment", "fruit", "pastry", "meal").forms[number]
    patient = d.object(verb)
    return f"{patient} {d.passive(patient.number)} {verb.participle} by the [{actor}|{thing}]"


@paradigm("argument_structure")
def causative(d: Draw) -> str:
    """Only some intransitive verbs can be given a causer."""
    verb, never, subject = d.verb("alternating"), d.verb("unaccusative"), d.someone()
    tense, number = d.tense(subject.number, progressive=True), d.number()
    theme = d.words.inflect(d.pick(verb.themes)).forms[number]
    return f"{subject} [{tense(verb)}|{tense(never)}] {d.either(('the', 'the'), *d.words.determiners)[number]} {theme}"


@paradigm("argument_structure")
def inchoative(d: Draw) -> str:
    """Only some transitive verbs describe a change without its causer."""
    verb, number = d.verb("alternating"), d.number()
    never = d.pick([strict for strict in d.words.strict if strict.base in d.words.never_inchoative])
    theme = d.words.inflect(d.pick(verb.themes)).forms[number]
    tense = d.tense(number, progressive=never.progressive)
    return f"{d.either(('the', 'the'), *d.words.determiners)[number]} {theme} [{tense(verb)}|{tense(never)}]"


@paradigm("argument_structure", drop_argument={"free": "droppable"}, intransitive={"free": "intransitive"})
def missing_object(d: Draw, free: str) -> str:
    """Some verbs cannot leave their object out."""
    subject, verb, strict = d.someone(), d.verb(free), d.verb("strict")
    tense = d.tense(subject.number, progressive=strict.progressive)
    return f"{subject} [{tense(verb)}|{tense(strict)}]"


@paradigm("argument_structure")
def transitive(d: Draw) -> str:
    """Some verbs cannot have an object."""
    subject, verb, never = d.someone(), d.verb("strict"), d.verb("intransitive")
    tense = d.tense(subject.number, progressive=verb.progressive)
    return f"{subject} [{tense(verb)}|{tense(never)}] {d.object(verb)}"


@paradigm("argument_structure", passive_1={"by": True}, passive_2={"by": False})
def passive(d: Draw, by: bool) -> str:
    """Only a verb with an object has a passive."""
    subject, verb, never = d.someone(), d.verb("strict", "plain", kind="person"), d.verb("intransitive")
    agent = f"by {d.someone()}" if by else ""
    return f"{subject} {d.passive(subject.number)} [{verb.participle}|{never.participle}] {agent}"


# Binding


@paradigm("binding")
def principle_A_c_command(d: Draw) -> str:
    """A reflexive is bound by the subject, not by a noun inside the subject's relative clause."""
    number, gender = d.number(), d.either("feminine", "masculine")
    head = d.person(number, None if number else gender)
    inside = d.name("masculine" if gender == "feminine" else "feminine")
    inner, verb = d.verb("strict", "plain", kind="person"), d.verb("strict", "plain", reflexive=True)
    clause = f"{d.either('who', 'that')} {d.before(inner)} {inside}"
    return f"{head} {clause} {d.tense(number)(verb)} [{head.reflexive}|{inside.reflexive}]"


@paradigm("binding")
def principle_A_case_1(d: Draw) -> str:
    """The subject of a finite clause is no reflexive."""
    subject = d.either(d.gendered, partial(d.person, 1))()
    matrix, verb = d.verb("believe"), d.verb("strict", "plain")
    pronouns = f"[{subject.pronouns[0]}|{subject.reflexive}]"
    return f"{subject} {d.tense(subject.number)(matrix)} that {pronouns} {d.before(verb)} {d.object(verb)}"


@paradigm("binding")
def principle_A_case_2(d: Draw) -> str:
    """A reflexive is the subject of a gerund, not of a finite verb."""
    subject = d.either(d.gendered, partial(d.person, 1))()
    matrix, verb = d.verb("picture"), d.verb("strict", "plain", "droppable", progressive=True)
    finite = d.either(verb.past, verb.present[subject.number])
    return f"{subject} {d.tense(subject.number)(matrix)} {subject.reflexive} [{verb.ing}|{finite}] {d.object(verb)}"


@paradigm("binding")
def principle_A_domain_1(d: Draw) -> str:
    """A reflexive is bound within its own clause; a pronoun may reach out of it."""
    outer, inner = d.name("feminine"), d.name("masculine")
    outer, inner = d.either((outer, inner), (inner, outer))
    matrix, verb = d.verb("believe"), d.verb("strict", "plain", reflexive=True)
    return f"{outer} {d.tense()(matrix)} that {inner} {d.before(verb)} [{outer.pronouns[1]}|{outer.reflexive}]"


@paradigm("binding")
def principle_A_domain_2(d: Draw) -> str:
    """A reflexive agrees with the subject of its own clause, not with the one above."""
    outer = d.gendered()
    inner = d.either(partial(d.name, _opposite(outer)), partial(d.person, 1))()
    matrix, verb = d.verb("believe"), d.verb("strict", "plain", reflexive=True)
    return f"{outer} {d.tense()(matrix)} that {inner} {d.before(verb)} [{inner.reflexive}|{outer.reflexive}]"


def _opposite(phrase: Phrase) -> str:
    return "masculine" if phrase.gender == "feminine" else "feminine"


@paradigm("binding")
def principle_A_domain_3(d: Draw) -> str:
    """The same with the two subjects swapped."""
    outer = d.name()
    inner = d.name(_opposite(outer))
    link = f"{d.tense()(d.verb('believe'))} that"
    verb = d.before(d.verb("strict", "plain", reflexive=True))
    return f"[{outer} {link} {inner}|{inner} {link} {outer}] {verb} {inner.reflexive}"


@paradigm("binding")
def principle_A_reconstruction(d: Draw) -> str:
    """A clefted reflexive is the object of its clause, not the subject."""
    subject = d.either(d.gendered, partial(d.person, 1))()
    verb = d.before(d.verb("strict", "plain", reflexive=True))
    return f"it was {subject.reflexive} that [{subject} {verb}|{verb} {subject}]"


# Control and raising


def _there(d: Draw, number: int) -> str:
    """Who is where: no doctors in the museum."""
    quantifier = d.either(*d.words.weak_quantifiers["plural" if number else "singular"])
    return f"{quantifier} {d.noun('person').forms[number]} in the {d.noun('place').forms[0]}"


@paradigm("control_raising")
def existential_there_object_raising(d: Draw) -> str:
    """'There' can be raised, not persuaded."""
    subject, raising, control = d.someone(), d.verb("object_raising"), d.verb("object_control")
    tense = d.tense(subject.number)
    return f"{subject} [{tense(raising)}|{tense(control)}] there to be {_there(d, d.number())}"


@paradigm("control_raising")
def existential_there_subject_raising(d: Draw) -> str:
    """'There' can seem, not try."""
    number = d.number()
    if d.either(True, False):
        raising, control = d.verb("subject_raising"), d.verb("subject_control")
        good, bad = d.either((raising.past, control.past), (raising.present[number], control.present[number]))
    else:
        be = d.either(*BE)[number]
        good, bad = f"{be} {d.pick(d.words.raising_adjectives)}", f"{be} {d.pick(d.words.control_adjectives)}"
    return f"there [{good}|{bad}] to be {_there(d, number)}"


@paradigm("control_raising")
def expletive_it_object_raising(d: Draw) -> str:
    """'It' can be raised, not persuaded."""
    subject, raising, control = d.someone(), d.verb("object_raising"), d.verb("object_control")
    tense, (verb, rest) = d.tense(subject.number), d.action()
    fact = f"{d.pick(d.words.factual_adjectives)} that {d.someone()} {d.before(verb)} {rest}"
    return f"{subject} [{tense(raising)}|{tense(control)}] it to be {fact}"


@paradigm("control_raising")
def tough_vs_raising_1(d: Draw) -> str:
    """The subject of 'easy to' is the missing object of the infinitive."""
    verb = d.verb("strict")
    subject, be = d.object(verb), d.either(*BE, *NOT_BE)
    adjectives = f"[{d.pick(d.words.tough_adjectives)}|{d.pick(d.words.raising_adjectives)}]"
    return f"{subject} {be[subject.number]} {adjectives} to {verb.base}"


@paradigm("control_raising")
def tough_vs_raising_2(d: Draw) -> str:
    """The subject of 'likely to' is the subject of the infinitive."""
    subject, verb, be = d.someone(), d.verb("strict"), d.either(*BE, *NOT_BE)
    adjectives = f"[{d.pick(d.words.raising_adjectives)}|{d.pick(d.words.tough_adjectives)}]"
    return f"{subject} {be[subject.number]} {adjectives} to {verb.base} {d.object(verb)}"


# Determiner-noun agreement


@paradigm(
    "determiner_noun_agreement",
    determiner_noun_agreement_1={"changes": "noun"},
    determiner_noun_agreement_2={"changes": "determiner"},
    determiner_noun_agreement_irregular_1={"changes": "noun", "irregular": True},
    determiner_noun_agreement_irregular_2={"changes": "determiner", "irregular": True},
    determiner_noun_agreement_with_adjective_1={"changes": "noun", "adjective": True},
    determiner_noun_agreement_with_adj_2={"changes": "determiner", "adjective": True},
    determiner_noun_agreement_with_adj_irregular_1={"changes": "noun", "adjective": True, "irregular": True},
    determiner_noun_agreement_with_adj_irregular_2={"changes": "determiner", "adjective": True, "irregular": True},
)
def determiner_noun(d: Draw, changes: str, adjective: bool = False, irregular: bool = False) -> str:
    """This book, these books; the noun or the determiner is wrong."""
    subject, noun, number = d.someone(), d.noun(irregular=irregular), d.number()
    verb = d.verb("strict", "plain", kind=noun.kind)
    determiners, between = d.either(*d.words.determiners), d.adjective(noun.kind) if adjective else ""
    determiner, word = determiners[number], noun.forms[number]
    if changes == "noun":
        word = f"[{word}|{noun.forms[1 - number]}]"
    else:
        determiner = f"[{determiner}|{determiners[1 - number]}]"
    return f"{subject} {d.tense(subject.number)(verb)} {determiner} {between} {word}"


# Ellipsis


@paradigm("ellipsis", ellipsis_n_bar_1={"moved": True}, ellipsis_n_bar_2={"moved": False})
def ellipsis_n_bar(d: Draw, moved: bool) -> str:
    """After a number the noun can be left out with its adjective, but not without it."""
    noun = d.noun(*d.words.things)
    verb = d.tense()(d.verb("plain", "droppable", kind=noun.kind))
    word, first, second = noun.forms[1], *(d.adjective(noun.kind) for _ in "12")
    two, three = d.pick(d.words.cardinals), d.pick((*d.words.cardinals, "several"))
    link = f"and {d.name()} {verb} {three}"
    good, bad = (
        (f"{first} {word} {link}", f"{word} {link} {first}")
        if moved
        else (f"{word} {link} {second} {word}", f"{first} {word} {link} {second}")
    )
    return f"{d.name()} {verb} {two} [{good}|{bad}]"


# Filler-gap dependencies


@paradigm("filler_gap_dependency")
def wh_questions_object_gap(d: Draw) -> str:
    """After 'what' the clause must lack its object."""
    verb, matrix, subject = d.verb("strict"), d.verb("perceive"), d.someone()
    kind = d.either(*verb.objects)
    item = f"the {d.noun(kind).forms[d.number()]}"
    clause = f"{d.someone()} {d.before(verb)}"
    wh = "who" if kind == "person" else "what"
    return f"{subject} {d.tense(subject.number)(matrix)} [{item} that {clause}|{wh} {clause} {item}]"


@paradigm(
    "filler_gap_dependency",
    wh_questions_subject_gap={"far": False},
    wh_questions_subject_gap_long_distance={"far": True},
)
def wh_questions_subject(d: Draw, far: bool) -> str:
    """After 'who' the clause must lack a noun phrase."""
    subject, matrix, verb = d.someone(), d.verb("perceive"), d.verb("strict")
    item = str(d.person())
    if far:
        item += f" that {d.someone()} {d.before(d.verb('strict', kind='person'))}"
    return f"{subject} {d.tense(subject.number)(matrix)} [{item} that|who {item}] {d.before(verb)} {d.object(verb)}"


@paradigm(
    "filler_gap_dependency",
    wh_vs_that_no_gap={"gap": False, "far": False},
    wh_vs_that_no_gap_long_distance={"gap": False, "far": True},
    wh_vs_that_with_gap={"gap": True, "far": False},
    wh_vs_that_with_gap_long_distance={"gap": True, "far": True},
)
def wh_vs_that(d: Draw, gap: bool, far: bool) -> str:
    """A clause with a gap starts with a wh-word, one without starts with 'that'."""
    subject, matrix, verb = d.someone(), d.verb("know"), d.verb("strict")
    kind = d.either(*verb.objects)
    wh = "who" if kind == "person" else "what"
    inner = str(d.person())
    if far:
        action, rest = d.action()
        inner += f" {d.either('who', 'that')} {d.before(action)} {rest}"
    start, end = (f"[{wh}|that]", "") if gap else (f"[that|{wh}]", d.phrase(kind))
    return f"{subject} {d.tense(subject.number)(matrix)} {start} {inner} {d.before(verb)} {end}"


# Irregular forms


@paradigm("irregular_forms")
def irregular_past_participle_adjectives(d: Draw) -> str:
    """The participle is the adjective, not the past."""
    entry, number = d.pick(d.words.participles), d.number()
    noun = d.words.inflect(d.pick(entry.nouns)).forms[number]
    state = f"{d.either(*BE, *NOT_BE)[number]} {d.pick(d.words.state_adjectives)}"
    rest = d.either(state, f"belonged to {d.someone()}", f"{d.either('surprised', 'pleased')} {d.someone()}")
    return f"the [{entry.participle}|{entry.past}] {noun} {rest}"


@paradigm("irregular_forms")
def irregular_past_participle_verbs(d: Draw) -> str:
    """The past is the finite verb, not the participle."""
    verbs = (*d.words.strict, *d.words.plain, *d.words.droppable)
    verb = d.pick([verb for verb in verbs if verb.past != verb.participle])
    return f"{d.someone()} [{verb.past}|{verb.participle}] {d.object(verb)}"


# Islands


@paradigm("island_effects")
def adjunct_island(d: Draw) -> str:
    """Nothing can be asked out of an adjunct clause."""
    aux, form = d.question()
    kind = d.either("person", *d.words.things)
    verbs = [d.verb("strict", "plain", kind=kind, progressive=True) for _ in "12"]
    clause, other = f"{d.either('before', 'after', 'while', 'without')} {verbs[1].ing}", d.phrase(kind)
    wh = "who" if kind == "person" else "what"
    return f"{wh} {aux} {d.someone()} {form(verbs[0])} [{clause} {other}|{other} {clause}]?"


@paradigm("island_effects")
def complex_NP_island(d: Draw) -> str:
    """Nothing can be asked out of a relative clause."""
    aux, form = d.question()
    inner, outer = (d.verb("strict", kind="person") for _ in "12")
    island, other, verb = f"{d.person()} {d.either('who', 'that')} {d.before(inner)}", d.someone(), form(outer)
    return f"who {aux} [{island} {other} {verb}|{other} {verb} {island}]?"


@paradigm("island_effects")
def coordinate_structure_constraint_complex_left_branch(d: Draw) -> str:
    """A wh-determiner cannot leave its noun, not even out of two clauses at once."""
    kind = d.either(*d.words.things)
    noun, wh, be = d.noun(kind).forms[1], d.either("which", "whose", "what"), d.either("is", "was")
    first, second = (d.verb("strict", "plain", kind=kind, progressive=True).ing for _ in "12")
    asked = f"{be} {d.either(d.name(), d.person(0))} {first}"
    return f"{wh} [{noun} {asked}|{asked} {noun}] and {d.name()} {second}?"


@paradigm("island_effects")
def coordinate_structure_constraint_object_extraction(d: Draw) -> str:
    """One half of a coordination cannot be asked for."""
    (aux, form), verb = d.question(), d.verb("strict", kind="person")
    first, second = d.name(), d.someone()
    return f"who {aux} {first} [and {second} {form(verb)}|{form(verb)} and {second}]?"


@paradigm(
    "island_effects",
    left_branch_island_echo_question={"echo": True},
    left_branch_island_simple_question={"echo": False},
)
def left_branch_island(d: Draw, echo: bool) -> str:
    """A wh-determiner cannot leave its noun."""
    aux, form = d.question()
    aux = "will" if echo and aux == "did" else aux  # outside a question 'did' is emphatic
    noun = d.noun(*d.words.things)
    verb, wh = form(d.verb("strict", "plain", kind=noun.kind)), d.either("which", "whose")
    subject, word = d.someone(), noun.forms[d.number()]
    good = f"{subject} {aux} {verb} {wh} {word}" if echo else f"{wh} {word} {aux} {subject} {verb}"
    return f"[{good}|{wh} {aux} {subject} {verb} {word}]?"


@paradigm("island_effects")
def sentential_subject_island(d: Draw) -> str:
    """Nothing can be asked out of a clause that is the subject."""
    (aux, form), verb = d.question(), d.verb("strict", kind="person", progressive=True)
    event, other, upset = f"{d.someone(0)}'s {verb.ing}", d.someone(), form(d.verb("upset"))
    return f"who {aux} {event} [{other} {upset}|{upset} {other}]?"


@paradigm("island_effects")
def wh_island(d: Draw) -> str:
    """Nothing can be asked out of an embedded question."""
    aux, form = d.question()
    subject = d.either(d.gendered, partial(d.person, 1))()
    matrix, verb = form(d.verb("know")), d.before(d.verb("strict", kind="person"))
    return f"who {aux} {subject} {matrix} [{subject.pronouns[0]}|who] {verb}?"


# Negative polarity items


def _perfect(d: Draw) -> tuple[str, str]:
    """An auxiliary that suits a singular subject, and the rest of the predicate."""
    (verb, rest), aux = d.action(), d.either("has", "had", *d.words.modals)
    return aux, f"{verb.participle if aux in ('has', 'had') else verb.base} {rest}"


@paradigm("npi_licensing")
def matrix_question_npi_licensor_present(d: Draw) -> str:
    """A question allows 'ever', a statement does not."""
    subject, (aux, rest) = d.someone(0), _perfect(d)
    return f"[{aux} {subject}|{subject} {aux}] ever {rest}[?|.]"


@paradigm("npi_licensing", npi_present_1={"even": "even"}, npi_present_2={"even": ""})
def npi_present(d: Draw, even: str) -> str:
    """'Ever' needs a licensor; 'even' is none."""
    subject, (aux, rest) = d.someone(0), _perfect(d)
    return f"{even} {subject} {aux} [{d.pick(d.words.adverbs)}|ever] {rest}"


@paradigm("npi_licensing")
def only_npi_licensor_present(d: Draw) -> str:
    """'Only' allows 'ever', 'even' does not."""
    subject, (aux, rest) = d.someone(0), _perfect(d)
    return f"[only|even] {subject} {aux} ever {rest}"


@paradigm("npi_licensing")
def only_npi_scope(d: Draw) -> str:
    """'Only' must have 'ever' in its scope."""
    subject, inner, (aux, rest) = d.person(0), d.someone(), _perfect(d)
    link = f"{subject} {d.either('who', 'that')}"
    return f"[only {link}|{link} only] {inner} {d.before(d.verb('strict', kind='person'))} {aux} ever {rest}"


@paradigm("npi_licensing")
def sentential_negation_npi_licensor_present(d: Draw) -> str:
    """Negation allows 'ever', an adverb does not."""
    subject, (aux, rest) = d.someone(0), _perfect(d)
    return f"{subject} {aux} [not|{d.pick(d.words.sentence_adverbs)}] ever {rest}"


@paradigm("npi_licensing")
def sentential_negation_npi_scope(d: Draw) -> str:
    """Negation inside a relative clause does not reach 'ever' outside it."""
    subject, inner, (aux, rest) = d.person(0), d.someone(), _perfect(d)
    link, verb = f"{subject} {d.either('who', 'that')} had", d.verb("strict", kind="person").participle
    return f"{link} [{verb} {inner} {aux} not|not {verb} {inner} {aux}] ever {rest}"


# Quantifiers


@paradigm("quantifiers")
def existential_there_quantifiers_1(d: Draw) -> str:
    """'There is' takes weak quantifiers only."""
    number = d.number()
    which = "plural" if number else "singular"
    weak, strong = d.pick(d.words.weak_quantifiers[which]), d.pick(d.words.strong_quantifiers[which])
    noun, verb = d.noun("person").forms[number], d.verb("intransitive").ing
    return f"there {d.either(*BE)[number]} [{weak}|{strong}] {noun} {verb} in the {d.noun('place').forms[0]}"


@paradigm("quantifiers")
def existential_there_quantifiers_2(d: Draw) -> str:
    """A strong quantifier is fine where 'there' is a place."""
    number, be = d.number(), d.either(*BE)
    strong = d.pick(d.words.strong_quantifiers["plural" if number else "singular"])
    subject, verb = f"{strong} {d.noun('person').forms[number]}", d.verb("intransitive").ing
    return f"[{subject} {be[number]} there|there {be[number]} {subject}] {verb}"


def _counted(d: Draw, number: str) -> str:
    """Had borrowed ... two lamps, the quantifier left open."""
    noun = d.noun(*d.words.things)
    verb = d.tense(0)(d.verb("plain", "droppable", kind=noun.kind))
    return f"{verb} {number} {d.pick(d.words.cardinals)} {noun.forms[1]}"


@paradigm("quantifiers")
def superlative_quantifiers_1(d: Draw) -> str:
    """'At least' and 'at most' do not stand under 'no'; comparatives do."""
    number = d.either("[more than|at least]", "[fewer than|at most]")
    return f"no {d.noun('person').forms[0]} {_counted(d, number)}"


@paradigm("quantifiers")
def superlative_quantifiers_2(d: Draw) -> str:
    """'At least' and 'at most' stand under any other determiner."""
    determiner = d.either("every", "each", "the", "this", "that")
    return f"[{determiner}|no] {d.noun('person').forms[0]} {_counted(d, d.either('at least', 'at most'))}"


# Subject-verb agreement


@paradigm("subject_verb_agreement")
def distractor_agreement_relational_noun(d: Draw) -> str:
    """The verb agrees with the head, not with the noun next to it."""
    number = d.number()
    head, near = d.words.inflect(d.pick(d.words.relational)), d.person(1 - number)
    finite, rest = d.predicate("person")
    return f"the {head.forms[number]} of {near} [{finite[number]}|{finite[1 - number]}] {rest}"


@paradigm("subject_verb_agreement")
def distractor_agreement_relative_clause(d: Draw) -> str:
    """The verb agrees with the head, not with the noun in its relative clause."""
    number = d.number()
    # strict verbs only: "who saw the doctors sleep" and "who helped them sleep" want the bare form
    head, near, verb = d.person(number), d.person(1 - number), d.verb("strict", kind="person")
    finite, rest = d.predicate("person")
    clause = f"{d.either('who', 'that')} {d.before(verb)} {near}"
    return f"{head} {clause} [{finite[number]}|{finite[1 - number]}] {rest}"


@paradigm(
    "subject_verb_agreement",
    regular_plural_subject_verb_agreement_1={"changes": "verb", "irregular": False},
    regular_plural_subject_verb_agreement_2={"changes": "noun", "irregular": False},
    irregular_plural_subject_verb_agreement_1={"changes": "verb", "irregular": True},
    irregular_plural_subject_verb_agreement_2={"changes": "noun", "irregular": True},
)
def subject_verb(d: Draw, changes: str, irregular: bool) -> str:
    """The doctors sleep, the doctor sleeps; the noun or the verb is wrong."""
    noun, number = d.noun(irregular=irregular), d.number()
    finite, rest = d.predicate(noun.kind)
    if changes == "verb":
        determiner = d.either(("the", "the"), *d.words.determiners)[number]
        return f"{determiner} {noun.forms[number]} [{finite[number]}|{finite[1 - number]}] {rest}"
    return f"the [{noun.forms[number]}|{noun.forms[1 - number]}] {finite[number]} {rest}"
