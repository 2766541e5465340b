"""Sentences in which agreement needs structure: between a subject and what agrees with it stands another noun.

    the pilot near the old doctors sleeps        the sisters who thanked the uncle have admired themselves

A word that agrees is written `good|bad` in the tree: `chosen` takes one of them, so that a sentence and its
ungrammatical twin differ in that word alone. What stands between the two, a phrase or a relative clause of either kind,
says nothing about the subject: its noun is of the other number (or gender) in a minimal pair and of any in what is
trained on. Verbs in relative clauses are in the past, determiners are `the`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from stages.tasks.treebank.clauses import state
from stages.tasks.treebank.phrases import adjectives, where
from stages.tasks.treebank.tree import Tree
from stages.tasks.treebank.words import Draw, Lexicon, Verb

SUBJECTS = ("person", "relative")  # kinds of noun that stand as subjects here
PHRASES = ("near", "behind", "with")
FRAMES = ("verb after a phrase", "verb after a relative clause", "reflexive number", "reflexive gender")


def agreement(draw: Draw, frame: str, opposite: bool) -> Tree:
    """Return a sentence of one of FRAMES, the agreeing word as `good|bad`; `opposite`: the noun between disagrees."""
    gendered = frame.startswith("reflexive")
    number = 0 if frame == "reflexive gender" else int(draw.chance(0.5))
    first = draw.chance(0.5)
    own = _named(draw, number, first if gendered and not number else None)
    if frame == "reflexive gender":
        other = _named(draw, 0, not first if opposite else draw.chance(0.5))
    else:
        there = 1 - number if opposite else int(draw.chance(0.5))
        other = _named(draw, there, draw.chance(0.5) if gendered and not there else None)
    phrase = draw.chance(0.4) if gendered else frame == "verb after a phrase"
    subject = own.after(_phrase(draw, other) if phrase else _clause(draw, other)).labeled("nsubj")
    predicate = _reflexive(draw, frame, number, first) if gendered else _finite(draw, number)
    return predicate.before(subject).after(Tree(".", "punct", tight=True))


def chosen(tree: Tree, which: int) -> Tree:
    """Take the good (0) or the bad (1) form of every word that is written as both."""
    word = tree.word.split("|")[which] if "|" in tree.word else tree.word
    left, right = (tuple(chosen(child, which) for child in side) for side in (tree.left, tree.right))
    return replace(tree, word=word, left=left, right=right)


def subjects(tree: Tree, antecedent: str = "", inherited: str = "") -> Iterator[tuple[str, str]]:
    """Yield (noun, word that it is the subject of) of a sentence.

    A relative pronoun stands for its noun; further predicates (conj, xcomp, advcl) share the subject where they have
    none of their own.
    """
    children = (*tree.left, *tree.right)
    own = [child.word for child in children if child.label.startswith("nsubj")]
    if tree.label == "acl:relcl" and own and own[0] in ("who", "that", "which"):
        own = [antecedent]
    own = own or ([inherited] if inherited else [])
    yield from ((noun, tree.word) for noun in own)
    for child in children:
        shared = own[0] if own and child.label in ("conj", "xcomp", "advcl") else ""
        yield from subjects(child, tree.word, shared)


def lemmas(words: Lexicon) -> dict[str, str]:
    """Return inflected form -> noun in the singular, or base of the verb; of nouns only those of SUBJECTS."""
    verbs = [verb for name in type(words).model_fields for verb in _verbs(getattr(words, name))]
    bases = {form: verb.base for verb in verbs for form in (verb.third, verb.past, verb.participle, verb.ing)}
    for kind in SUBJECTS:
        nouns = {*words.nouns[kind], *(compound.split()[-1] for compound in words.compounds.get(kind, ()))}
        bases |= {words.inflect(noun, number): noun for noun in nouns for number in (0, 1)}
    return bases


def fewer(words: Lexicon, count: int) -> Lexicon:
    """Return a lexicon with at most `count` entries of every long list, evenly spaced over it.

    Function words and the relatives, most of which have a gender, stay; verbs that take people are thinned apart.
    """
    people, others = ([verb for verb in words.transitive if _human(verb) == human] for human in (True, False))
    changes: dict[str, Any] = {
        "transitive": (*_thinned(people, count), *_thinned(others, count)),
        "nouns": {kind: pool if kind == "relative" else _thinned(pool, count) for kind, pool in words.nouns.items()},
        "compounds": {kind: _thinned(pool, max(1, count // 3)) for kind, pool in words.compounds.items()},
    }
    for name in ("adjectives", "classifying"):
        changes[name] = {kind: _thinned(pool, count) for kind, pool in getattr(words, name).items()}
    for name in ("adverbs", "subordinators"):
        lists = getattr(words, name)
        update = {key: _thinned(getattr(lists, key), max(2, count // 2)) for key in type(lists).model_fields}
        changes[name] = lists.model_copy(update=update)
    verbs = [name for name in type(words).model_fields if _verbs(getattr(words, name)) and name != "transitive"]
    for name in ("names", "moods", "numbers", *verbs):
        changes[name] = _thinned(getattr(words, name), count)
    return words.model_copy(update=changes)


def _thinned(pool: Sequence[Any], count: int) -> tuple:
    return tuple(pool[index * len(pool) // count] for index in range(count)) if len(pool) > count else tuple(pool)


def _human(verb: Verb) -> bool:
    return not {"person", "relative"}.isdisjoint(verb.objects)


def _verbs(value) -> list[Verb]:
    return [verb for verb in value if isinstance(verb, Verb)] if isinstance(value, tuple) else []


def _named(draw: Draw, number: int, feminine: bool | None) -> Tree:
    """Return `the`, none to three adjectives and a noun: of a gender where one is asked for."""
    pool = [noun for kind in SUBJECTS for noun in draw.words.nouns[kind]]
    if feminine is not None:
        pool = [noun for noun in pool if noun in (draw.words.feminine if feminine else draw.words.masculine)]
    noun = Tree(draw.words.inflect(draw.pick(pool), number))
    return noun.before(Tree("the", "det"), *adjectives(draw, "person"))


def _phrase(draw: Draw, other: Tree) -> Tree:
    return other.before(Tree(draw.either(*PHRASES), "case")).labeled("nmod")


def _clause(draw: Draw, other: Tree) -> Tree:
    """Return who thanked the doctors, or that the doctors thanked."""
    verb = draw.pick([verb for verb in draw.words.transitive if _human(verb)])
    pronoun = draw.either("who", "that")
    tree = Tree(verb.past, "acl:relcl")
    if draw.chance(0.5):
        return tree.before(Tree(pronoun, "nsubj")).after(other.labeled("obj"))
    return tree.before(Tree(pronoun.replace("who", "whom"), "obj"), other.labeled("nsubj"))


def _finite(draw: Draw, number: int) -> Tree:
    """Return a predicate whose first word agrees: sleeps|sleep, is|are tired, has|have slept in the park."""

    def agreeing(singular: str, plural: str) -> str:
        return f"{plural}|{singular}" if number else f"{singular}|{plural}"

    form = draw.weighted(0.4, 0.3, 0.3)
    if form == 1:
        be = draw.either(("is", "are"), ("was", "were"))
        return state(draw, "person").before(Tree(agreeing(*be), "cop"))
    verb = draw.pick(draw.words.intransitive)
    if form == 0:
        tree = Tree(agreeing(verb.third, verb.base))
    else:
        auxiliary, inner = draw.either((("has", "have"), verb.participle), (("is", "are"), verb.ing))
        tree = Tree(inner).before(Tree(agreeing(*auxiliary), "aux"))
    return tree.after(where(draw)) if draw.chance(0.4) else tree


def _reflexive(draw: Draw, frame: str, number: int, feminine: bool) -> Tree:
    """Return thanked herself|themselves, or herself|himself where the gender is at stake."""
    verb = draw.pick([verb for verb in draw.words.transitive if _human(verb)])
    hers, his, theirs = draw.words.reflexives
    own = theirs if number else (hers if feminine else his)
    wrong = (his if feminine else hers) if frame == "reflexive gender" or number else theirs
    return Tree(verb.past).after(Tree(f"{own}|{wrong}", "obj"))
