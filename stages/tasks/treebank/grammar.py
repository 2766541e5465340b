"""The grammar of the built-in treebank: constructions of English that draw a sentence together with its tree.

Sentence `number` takes the construction of that number, in turn, and draws until it has the right length. Trees follow
Universal Dependencies v2 as the English treebanks apply it.
"""

from collections.abc import Callable

from stages.store import paths
from stages.store.errors import UserError
from stages.tasks.prompt import stream
from stages.tasks.treebank.clauses import (
    PLAIN,
    action,
    actor,
    because,
    clause,
    closed,
    comma,
    complements,
    infinitive,
    modified,
    opened,
    quality,
    quoted,
    state,
    there,
    topic,
    undergone,
    unfinite,
)
from stages.tasks.treebank.phrases import EVENT, STATE, active, adjunct, manner, phrase, someone, when
from stages.tasks.treebank.tree import Sentence, Tree, spell
from stages.tasks.treebank.words import PEOPLE, Draw, Lexicon

DRAWS = 400_000  # in all: about ten minutes
PATIENCE = 100  # draws without a new sentence of the right length before the next construction is tried
CONSTRUCTIONS: dict[str, Callable[[Draw], Tree]] = {}


def construction(build: Callable[[Draw], Tree]) -> Callable[[Draw], Tree]:
    """Register a construction under the name of its function."""
    CONSTRUCTIONS[build.__name__] = build
    return build


def sentences(words: Lexicon, seed: int, count: int, shortest: int, longest: int) -> list[tuple[str, Sentence]]:
    """Draw `count` distinct sentences, each with the name of its construction; the full stop is one of the words.

    A construction that has nothing new of that length for `PATIENCE` draws is given up. More sentences begin with the
    same ones. Raises `UserError` when the grammar finds no more of that length.
    """
    names = list(CONSTRUCTIONS)
    drawn: dict[str, tuple[str, Sentence]] = {}
    draws, given_up = 0, set()
    for number in range(count):
        rng = stream(seed, f"treebank/{number}")
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for _ in range(0 if name in given_up else min(PATIENCE, DRAWS - draws)):
                draws += 1
                tree = CONSTRUCTIONS[name](Draw(words, rng)).after(Tree(".", "punct", tight=True))
                sentence = spell(tree, words.a, words.an)
                if shortest <= len(sentence.words) <= longest and sentence.text not in drawn:
                    drawn[sentence.text] = name, sentence
                    break
            if len(drawn) > number:
                break
            given_up.add(name)
        else:
            raise UserError(
                f"{paths.PARAMS}: tasks.treebank: sentences = {count}, shortest = {shortest}, longest = {longest}; "
                f"the grammar found only {number} sentences of that length in {draws:,} draws"
            )
    return list(drawn.values())


# The constructions


@construction
def transitive(draw: Draw) -> Tree:
    """Someone does something: The nurse from the village has carefully repaired an old lamp."""
    subject = actor(draw)
    tree = action(draw, 1, subject.number, (0.8, 0, 0.2, 0), place=0.4)
    return opened(draw, tree.before(subject.tree.labeled("nsubj")))


@construction
def ditransitive(draw: Draw) -> Tree:
    """Someone gives someone something."""
    subject = actor(draw, 0.15)
    tree = closed(draw, action(draw, 1, subject.number, (0, 1, 0, 0), place=0.1), 0.65)
    return opened(draw, tree.before(subject.tree.labeled("nsubj")))


@construction
def passive_voice(draw: Draw) -> Tree:
    """Something is done: The keys to the old cabinet were stolen by a sailor on Monday."""
    tree = undergone(draw, 1, 0.4)
    return opened(draw, closed(draw, tree.after(adjunct(draw)) if draw.chance(0.3) else tree, 0.5))


@construction
def copular(draw: Draw) -> Tree:
    """Something is somehow, something or somewhere, its subject often far away."""
    subject = modified(draw, topic(draw, 1), 0.45)
    return opened(draw, quality(draw, subject).before(subject.tree.labeled("nsubj")), 0.2)


@construction
def wanting(draw: Draw) -> Tree:
    """Someone wants or starts to do something."""
    subject = actor(draw, 0.2)
    form = draw.weighted(0.25, 0.45, 0.3)
    verb = draw.pick((draw.words.wanting, draw.words.trying, draw.words.starting)[form])
    tree = active(draw, verb, subject.number, STATE[draw.past] if form == 0 else PLAIN[draw.past], how=0)
    inner = unfinite(draw, 1, "ing").labeled("xcomp") if form == 2 else infinitive(draw, 1, "xcomp", said=0.35)
    return opened(draw, tree.after(inner).before(subject.tree.labeled("nsubj")))


@construction
def saying(draw: Draw) -> Tree:
    """Someone says, at some place or time, that something is the case."""
    return opened(draw, quoted(draw, actor(draw, 0.15), said=True), 0.2)


@construction
def thinking(draw: Draw) -> Tree:
    """Someone thinks something."""
    return quoted(draw, actor(draw, 0.3), said=False)


@construction
def persuading(draw: Draw) -> Tree:
    """Someone makes someone do something."""
    subject, other = actor(draw, 0.1), someone(draw, 1)
    tree = active(draw, draw.pick(draw.words.persuading), subject.number, EVENT[draw.past])
    tree = tree.after(modified(draw, other, 0.2).tree.labeled("obj"), infinitive(draw, 0, "xcomp", said=0.35))
    return tree.before(subject.tree.labeled("nsubj"))


@construction
def clause_first(draw: Draw) -> Tree:
    """A subordinate clause, then the main one."""
    subject = someone(draw, 1, subject=True)
    form = draw.weighted(0.4, 0.15, 0.45)
    if form == 0:
        tree = action(draw, 0, subject.number).before(subject.tree.labeled("nsubj"))
    elif form == 1:
        tree = quality(draw, subject).before(subject.tree.labeled("nsubj"))
    else:
        tree = quoted(draw, subject, said=True)
    return tree.before(because(draw).after(comma()))


@construction
def clause_last(draw: Draw) -> Tree:
    """The main clause, then a subordinate one or a purpose."""
    subject = actor(draw, 0.1)
    if draw.chance(0.3):
        tree = active(draw, draw.pick(draw.words.going), subject.number, EVENT[draw.past])
        tree = tree.after(*([adjunct(draw)] if draw.chance(0.4) else []), infinitive(draw, 0, "advcl"))
    else:
        tree = action(draw, 0, subject.number, place=0.1).after(because(draw))
    return tree.before(subject.tree.labeled("nsubj"))


@construction
def two_actions(draw: Draw) -> Tree:
    """Someone does two things."""
    subject = actor(draw, 0.2)
    weights = (0.6, 0.15, 0.15, 0.1)
    tense = (draw.either(*EVENT[draw.past]),)
    verb, objects = complements(draw, 0, weights)
    tree = active(draw, verb, subject.number, tense).after(*objects)
    verb, objects = complements(draw, 0, weights)
    if draw.chance(0.35):
        verb = draw.pick(draw.words.saying)
        objects = [clause(draw).before(Tree("that", "mark")).labeled("ccomp")]
    form = getattr(verb, tense[0][1], verb.base if subject.number else verb.third)
    second = Tree(form, "conj", left=(Tree("and", "cc"), *([manner(draw, verb)] if draw.chance(0.4) else []))).after(
        *objects
    )
    if draw.chance(0.3) and not any(child.label == "ccomp" for child in second.right):
        second = second.after(adjunct(draw))
    return opened(draw, tree.after(second).before(subject.tree.labeled("nsubj")), 0.2)


@construction
def two_clauses(draw: Draw) -> Tree:
    """Two clauses side by side."""
    second = clause(draw)
    word = draw.either("and", "but")
    tree = clause(draw, 1)
    return tree.after(second.before(comma(), Tree(word, "cc")).labeled("conj"))


@construction
def center_embedded(draw: Draw) -> Tree:
    """A subject with a relative clause before its own verb: The poets that the old judge admires are singing."""
    subject = phrase(draw, PEOPLE[draw.weighted(0.6, 0.2, 0.2)], 0, subject=True)
    subject = modified(draw, subject, 1)
    tree = action(draw, 0, subject.number, place=0.2) if draw.chance(0.6) else quality(draw, subject)
    return tree.before(subject.tree.labeled("nsubj"))


@construction
def existential(draw: Draw) -> Tree:
    """There is something somewhere."""
    return opened(draw, there(draw, 0.45), 0.25)


@construction
def seeming(draw: Draw) -> Tree:
    """Someone or something seems somehow."""
    subject = modified(draw, topic(draw, 1), 0.3)
    tree = active(draw, draw.pick(draw.words.seeming), subject.number, STATE[draw.past], how=0)
    tree = tree.after(state(draw, subject.kind or "person").labeled("xcomp"))
    if not subject.kind or subject.kind in PEOPLE:
        tree = tree.after(when(draw)) if draw.chance(0.4) else tree
    return opened(draw, tree.before(subject.tree.labeled("nsubj")), 0.2)
