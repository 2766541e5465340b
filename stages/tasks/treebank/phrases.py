"""Noun phrases and verb groups of the built-in treebank, as dependency trees.

What stands between a dependent and its head is drawn anew each time (none to three adjectives, possessors, numbers,
compounds, prepositional phrases, adverbs, negation), so that no fixed distance in words finds the head.
"""

from dataclasses import dataclass, replace

from stages.tasks.treebank.tree import Tree
from stages.tasks.treebank.words import PEOPLE, PLACES, SCARCE, Draw, Verb


@dataclass(frozen=True)
class Noun:
    """A noun phrase, its number, and its kind of noun ('' for names and pronouns)."""

    tree: Tree
    number: int
    kind: str = ""


# Noun phrases


def someone(draw: Draw, depth: int, subject: bool = False) -> Noun:
    """Return a person: a name, a pronoun (she, them) or a noun phrase."""
    form = draw.weighted(0.12, 0.1, 0.78)
    if form == 0:
        return Noun(Tree(draw.pick(draw.words.names)), 0)
    if form == 1:
        pronoun = draw.pick(draw.words.pronouns)
        return Noun(Tree(pronoun[0 if subject else 1]), int(pronoun in draw.words.pronouns[-2:]))
    return phrase(draw, PEOPLE[draw.weighted(0.7, 0.15, 0.15)], depth, subject)


def phrase(draw: Draw, kind: str, depth: int, subject: bool = False) -> Noun:
    """Return a noun phrase with random modifiers; what follows its noun nests at most `depth` deep.

    An object takes only prepositional phrases that could not belong to the verb.
    """
    options = dict(draw.words.attributes.get(kind, {}))
    if subject:
        options |= draw.words.subject_attributes.get(kind, {})
    relational = kind in ("relative", "keeper")
    attribute = draw.chance(0.8 if relational else 0.35) and bool(depth and options)
    noun = bare(draw, kind)
    if relational and attribute:
        tree = noun.tree.before(Tree("the", "det"))
    elif kind == "relative":
        tree = noun.tree.before(possessor(draw, depth))
    else:
        tree = determined(draw, noun, depth)
    if attribute:
        preposition = draw.pick(list(options))
        tree = tree.after(prepositional(draw, preposition, draw.either(*options[preposition]), depth - 1, "nmod"))
    if depth and draw.chance(0.08):
        other = determined(draw, bare(draw, kind), 0)
        return Noun(tree.after(other.before(Tree("and", "cc")).labeled("conj")), 1, kind)
    return Noun(tree, noun.number, kind)


def bare(draw: Draw, kind: str, number: int | None = None) -> Noun:
    """Return a noun with its compound words and adjectives, without determiner."""
    number = draw.number(kind) if number is None else number
    *modifiers, head = [draw.pick(draw.words.nouns[kind])]
    compounds = draw.words.compounds.get(kind, ())
    if compounds and draw.chance(0.25):
        *modifiers, head = draw.pick(compounds).split()
    parts = [Tree(word, "compound") for word in modifiers]
    return Noun(Tree(draw.words.inflect(head, number), left=(*adjectives(draw, kind), *parts)), number, kind)


def adjectives(draw: Draw, kind: str) -> list[Tree]:
    """Return none to three adjectives: a very old wooden, an old and very heavy."""
    count = draw.weighted(0.47, 0.28, 0.18, 0.07)
    classifying = draw.words.classifying.get(kind, ())
    last = [Tree(draw.pick(classifying), "amod")] if count and classifying and draw.chance(0.3) else []
    words = draw.some(draw.words.adjectives.get(kind, ()), count - len(last))
    gradable = [graded(draw, word, 0 if place else 0.2) for place, word in enumerate(words)]
    if len(gradable) == 2 and draw.chance(0.25):
        first, second = gradable
        gradable = [first.after(second.before(Tree("and", "cc")).labeled("conj"))]
    return [adjective.labeled("amod") for adjective in gradable] + last


def graded(draw: Draw, adjective: str, share: float) -> Tree:
    """Return an adjective, in that share with a degree: very old."""
    tree = Tree(adjective)
    return tree.before(Tree(draw.pick(draw.words.adverbs.degree), "advmod")) if draw.chance(share) else tree


def determined(draw: Draw, noun: Noun, depth: int) -> Tree:
    """Put a determiner, a possessor or a number, or two of them, before a bare noun."""
    tree = noun.tree
    numbers = draw.words.numbers[:2] if noun.kind in SCARCE else draw.words.numbers
    number = Tree(draw.pick(numbers), "nummod") if noun.number and draw.chance(0.4) else None
    if number:
        tree = tree.before(number)
    if draw.chance(0 if noun.kind == "keeper" else 0.2):
        return tree.before(possessor(draw, depth))
    determiner = draw.either(*draw.words.determiners)[noun.number]
    if number and determiner == "some":
        return tree
    return tree.before(Tree(determiner, "det"))


def possessor(draw: Draw, depth: int) -> Tree:
    """Return whose it is: my, Anna's, the old teacher's."""
    form = draw.weighted(0.4, 0.2, 0.4 if depth else 0.25)
    if form == 0:
        return Tree(draw.pick(draw.words.possessives), "nmod:poss")
    if form == 1:
        owner, plural = Tree(draw.pick(draw.words.names)), False
    else:
        noun = bare(draw, "person")
        owner = noun.tree.before(Tree("the", "det"))
        plural = noun.number == 1 and noun.tree.word.endswith("s")
    return owner.labeled("nmod:poss").after(Tree("'" if plural else "'s", "case", tight=True))


def prepositional(draw: Draw, preposition: str, kind: str, depth: int, label: str) -> Tree:
    """Return a noun phrase with its preposition: about the old museum."""
    noun = phrase(draw, kind, depth).tree
    return noun.before(Tree(preposition, "case")).labeled(label)


def where(draw: Draw) -> Tree:
    """Return where something happens: in the old library."""
    return prepositional(draw, draw.either(*draw.words.places), draw.either(*PLACES), 0, "obl")


def when(draw: Draw) -> Tree:
    """Return when something happens: on Monday, in the morning, during the long meeting."""
    if draw.chance(0.4):
        return prepositional(draw, draw.either(*draw.words.around), "event", 0, "obl")
    preposition = draw.either(*draw.words.times)
    *determiner, noun = draw.pick(draw.words.times[preposition]).split()
    return Tree(noun, "obl", left=(Tree(preposition, "case"), *(Tree(word, "det") for word in determiner)))


def adjunct(draw: Draw) -> Tree:
    """Return where or when something happens."""
    return where(draw) if draw.chance(0.55) else when(draw)


def manner(draw: Draw, verb: Verb) -> Tree:
    """Return how something is done: carefully, or, without an object, calmly."""
    adverbs = draw.words.adverbs
    return Tree(draw.pick(adverbs.manner if verb.objects else adverbs.calm), "advmod")


# Verb groups: (auxiliaries, form of the verb, adverbs that suit), the first auxiliary agreeing

Tense = tuple[str, str, str]
AGREE = {"have": ("has", "have"), "are": ("is", "are"), "were": ("was", "were"), "do": ("does", "do")}
MODALS = ("could", "might", "may", "should")
SIMPLE: dict[bool, Tense] = {True: ("", "past", "past"), False: ("have", "participle", "perfect")}
EVENT: dict[bool, tuple[Tense, ...]] = {
    True: (
        ("", "past", "past"),
        ("", "past", "past"),
        ("had", "participle", "perfect"),
        ("were", "ing", "progressive"),
        ("might have", "participle", "modal"),
        ("had been", "ing", "progressive"),
    ),
    False: (
        ("", "present", "present"),
        ("have", "participle", "perfect"),
        ("are", "ing", "progressive"),
        ("will", "base", "future"),
        ("should", "base", "modal"),
        ("may have", "participle", "modal"),
        ("have been", "ing", "progressive"),
    ),
}
STATE: dict[bool, tuple[Tense, ...]] = {
    True: (("", "past", "copula"), ("", "past", "copula"), ("had", "participle", "copula")),
    False: (("", "present", "copula"), ("", "present", "copula"), ("may", "base", "modal")),
}
PASSIVE: dict[bool, tuple[str, ...]] = {
    True: ("were", "were", "had been", "were being", "could be", "might have been"),
    False: ("have been", "have been", "will be", "are being", "should be", "may have been"),
}
COPULA: dict[bool, tuple[str, ...]] = {
    True: ("were", "were", "were", "had been", "might have been"),
    False: ("are", "are", "have been", "will be", "should be", "may be"),
}


def active(draw: Draw, verb: Verb, number: int, tenses: tuple[Tense, ...], how: float = 0.2) -> Tree:
    """Return a verb with its auxiliaries and adverbs, in the share `how` of manner: has probably not often seen."""
    chain, form, adverb = draw.either(*tenses)
    negated = len(tenses) > 1 and draw.chance(0.2)
    if not chain and negated and draw.chance(0.6):
        chain, form, adverb = "did" if form == "past" else "do", "base", ""
    word = (verb.base if number else verb.third) if form == "present" else getattr(verb, form)
    auxiliaries = [Tree(word, "aux") for word in _agreeing(chain, number)]
    return _how(draw, verb, Tree(word, left=tuple(_with_adverbs(draw, auxiliaries, adverb, negated))), how)


def passive(draw: Draw, verb: Verb, number: int, plain: bool = False) -> Tree:
    """Return a passive verb: has probably been carefully repaired; `plain`: was repaired."""
    chain = ("were" if draw.past else "have been") if plain else draw.either(*PASSIVE[draw.past])
    auxiliaries = _auxiliaries(chain, number, "aux:pass")
    left = _with_adverbs(draw, auxiliaries, "" if plain else _time(chain), not plain and draw.chance(0.25))
    return _how(draw, verb, Tree(verb.participle, left=tuple(left)), 0.3)


def copula(draw: Draw, number: int) -> list[Tree]:
    """Return what stands between a subject and a predicate that is no verb: is, has probably not been."""
    chain = draw.either(*COPULA[draw.past])
    adverb = "copula" if " " not in chain else _time(chain)
    return _with_adverbs(draw, _auxiliaries(chain, number, "cop"), adverb, draw.chance(0.25))


def _how(draw: Draw, verb: Verb, tree: Tree, share: float) -> Tree:
    """Put, in that share, an adverb of manner before a verb, but not after another adverb."""
    crowded = tree.left and tree.left[-1].label == "advmod" and tree.left[-1].word not in ("not", "never")
    return tree if crowded or draw.chance(1 - share) else replace(tree, left=(*tree.left, manner(draw, verb)))


def _agreeing(chain: str, number: int) -> list[str]:
    first, *rest = chain.split() or [""]
    return [AGREE.get(first, (first, first))[number], *rest] if first else []


def _auxiliaries(chain: str, number: int, label: str) -> list[Tree]:
    *others, last = _agreeing(chain, number)
    return [*(Tree(word, "aux") for word in others), Tree(last, label)]


def _time(chain: str) -> str:
    first = chain.split()[0]
    named = {"have": "perfect", "had": "perfect", "will": "future", "were": "past"}
    return "progressive" if "being" in chain else named.get(first, "modal")


def _with_adverbs(draw: Draw, auxiliaries: list[Tree], adverb: str, negated: bool) -> list[Tree]:
    """Put adverbs after the first auxiliary: one of the sentence, one of negation or of time (list `adverb`)."""
    adverbs = draw.words.adverbs
    first = auxiliaries[0].word if auxiliaries else ""
    middle = [Tree(draw.pick(adverbs.sentence), "advmod")] if first not in MODALS and draw.chance(0.15) else []
    front, middle = (middle, []) if first in ("did", "do", "does") else ([], middle)  # probably did not see
    if negated and first:
        middle.append(Tree("never" if first in ("has", "have", "had") and draw.chance(0.4) else "not", "advmod"))
    elif negated and adverb == "past":
        middle.append(Tree("never", "advmod"))
    elif adverb and not middle and draw.chance(0.35):
        middle.append(Tree(draw.pick(getattr(adverbs, adverb)), "advmod"))
    return [*front, *auxiliaries[:1], *middle, *auxiliaries[1:]]
