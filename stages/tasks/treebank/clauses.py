"""Clauses of the built-in treebank and what they are made of, as dependency trees.

Content words are heads: case, cop, aux and mark hang on them; conjuncts hang on the first; a relative pronoun has its
function in its own clause, and a clause as complement is ccomp with its own subject, xcomp without.
"""

from dataclasses import replace

from stages.tasks.treebank.phrases import (
    EVENT,
    SIMPLE,
    STATE,
    Noun,
    Tense,
    active,
    adjunct,
    bare,
    copula,
    graded,
    manner,
    passive,
    phrase,
    someone,
    where,
)
from stages.tasks.treebank.tree import Tree
from stages.tasks.treebank.words import PEOPLE, PLACES, Draw, Verb

OBJECTS = ("text", "picture", "food", "garment", "device", "furniture", "vehicle", "animal")
THINGS = (*OBJECTS, *PLACES, "plan")
Shares = tuple[float, float, float, float]  # of verbs with an object, with two, with one and a particle, with none
ANY: Shares = (0.42, 0.25, 0.17, 0.16)
PLAIN: dict[bool, tuple[Tense, ...]] = {past: tuple(t for t in EVENT[past] if t[1] != "ing") for past in EVENT}


def relative(draw: Draw, noun: Noun) -> Tree:
    """Return a relative clause of a noun: who is tired, that my sister bought, the doctor admires, which was sold."""
    human = noun.kind in PEOPLE
    pronoun = draw.either("who", "who", "who", "that") if human else draw.either("that", "that", "which")
    form = draw.weighted(*((0.45, 0.15, 0.2, 0.2) if human else (0, 0.25, 0.45, 0.3)))
    verbs = (*draw.words.transitive, *draw.words.state) if human else draw.words.transitive
    fitting = [verb for verb in verbs if noun.kind in verb.objects]
    if form > 1 and not fitting:
        form = 1
    if form == 0:
        tree = action(draw, 0, noun.number).before(Tree(pronoun, "nsubj"))
    elif form == 1:
        tree = quality(draw, noun).before(Tree(pronoun, "nsubj"))
    elif form == 2:
        verb = draw.pick(fitting)
        subject = someone(draw, 0, subject=True)
        tenses = STATE if verb in draw.words.state else EVENT
        tree = active(draw, verb, subject.number, tenses[draw.past]).before(subject.tree.labeled("nsubj"))
        filler = draw.either(pronoun.replace("who", "whom"), "")
        tree = tree.before(Tree(filler, "obj")) if filler else tree
    else:
        verb = draw.pick([verb for verb in fitting if verb not in draw.words.state] or fitting)
        tree = agent(draw, passive(draw, verb, noun.number), 0.5).before(Tree(pronoun, "nsubj:pass"))
    return tree.labeled("acl:relcl")


def modified(draw: Draw, noun: Noun, share: float) -> Noun:
    """Return a noun phrase, in that share with a relative clause (never a name's, and never after 'and')."""
    if not noun.kind or draw.chance(1 - share) or any(child.label == "conj" for child in noun.tree.right):
        return noun
    return replace(noun, tree=noun.tree.after(relative(draw, noun)))


def agent(draw: Draw, tree: Tree, share: float) -> Tree:
    """Add, in that share, who did it to a passive: by the old plumber."""
    if draw.chance(1 - share):
        return tree
    return tree.after(someone(draw, 0).tree.before(Tree("by", "case")).labeled("obl:agent"))


def embedding(tree: Tree) -> bool:
    """Whether a relative clause stands in a tree: it would swallow an adverb or a phrase that comes after."""
    return any(word.label == "acl:relcl" for word in tree.walk())


def complements(draw: Draw, depth: int, shares: Shares) -> tuple[Verb, list[Tree]]:
    """Return a verb of a kind drawn by its share, and its objects."""
    words = draw.words
    form = draw.weighted(*shares)
    verb = draw.pick((words.transitive, words.ditransitive, words.particle, words.intransitive)[form])
    if form == 3:
        return verb, []
    kind = draw.either(*verb.objects)
    thing = someone(draw, depth) if kind == "person" else phrase(draw, kind, depth)
    objects = [modified(draw, thing, 0.2 * depth).tree.labeled("obj")]
    if form == 1:
        objects.insert(0, someone(draw, 0).tree.labeled("iobj"))
    elif form == 2:
        last = len(list(objects[0].walk())) <= 4 and draw.chance(0.6)  # put the lamp down; put down the very old lamp
        objects.insert(int(last), Tree(verb.particle, "compound:prt"))
    return verb, objects


def action(
    draw: Draw, depth: int, number: int, shares: Shares = ANY, simple: bool = False, place: float = 0.25
) -> Tree:
    """Return what someone does, without the subject: has not often lent the student a book in the library."""
    verb, objects = complements(draw, depth, shares)
    tree = active(draw, verb, number, (SIMPLE[draw.past],) if simple else EVENT[draw.past])
    tree = tree.after(*objects)
    if embedding(tree):
        return tree
    if (
        len(list(tree.walk())) < 9
        and not draw.words.adverbs.of_manner.intersection(child.word for child in tree.left)
        and draw.chance(0.2)
    ):
        tree = tree.after(manner(draw, verb))
    return tree.after(adjunct(draw)) if draw.chance(place) else tree


def unfinite(draw: Draw, depth: int, form: str, shares: Shares = ANY) -> Tree:
    """Return what someone does as `base` or `ing` without subject: quickly repair the old car."""
    verb, objects = complements(draw, depth, shares)
    tree = Tree(getattr(verb, form), left=(manner(draw, verb),) if draw.chance(0.25) else ()).after(*objects)
    if embedding(tree):
        return tree
    return tree.after(adjunct(draw)) if draw.chance(0.2) else tree


def infinitive(draw: Draw, depth: int, label: str, said: float = 0) -> Tree:
    """Return a clause with to, in the share `said` of saying something: to admit that the car was old."""
    if draw.chance(said):
        what = clause(draw).before(Tree("that", "mark")).labeled("ccomp")
        tree = Tree(draw.pick(draw.words.saying).base).after(what)
    else:
        tree = unfinite(draw, depth, "base")
    return tree.before(Tree("to", "mark")).labeled(label)


def quality(draw: Draw, noun: Noun) -> Tree:
    """Return a predicate that is no verb, with its copula: is very old, will not be a doctor, was in the park."""
    form = draw.weighted(0.6, 0.25, 0.15)
    if form == 1 and noun.kind in PEOPLE:
        tree = bare(draw, "person", noun.number).tree
        tree = tree if noun.number else tree.before(Tree("a", "det"))
    elif form == 2 and noun.kind not in (*PLACES, "plan", "event"):
        tree = where(draw)
    else:
        tree = state(draw, noun.kind or "person")
    return tree.before(*copula(draw, noun.number))


def state(draw: Draw, kind: str) -> Tree:
    """Return an adjective that a noun of that kind can be: extremely old, old and heavy."""
    kind = "person" if kind in PEOPLE else kind
    pool = draw.words.moods if kind == "person" else draw.words.adjectives[kind]
    words = draw.some(pool, 1 + draw.chance(0.2))
    first, *others = [graded(draw, word, 0.35) for word in words]
    return first.after(*(other.before(Tree("and", "cc")).labeled("conj") for other in others))


def clause(draw: Draw, depth: int = 0, simple: bool = False) -> Tree:
    """Return a clause with its subject, of any kind that fits inside another; `simple`: in a plain tense."""
    form = draw.weighted(0.5, 0.25, *((0, 0) if simple else (0.14, 0.11)))
    if form == 0:
        subject = someone(draw, depth, subject=True)
        return action(draw, 0, subject.number, simple=simple).before(subject.tree.labeled("nsubj"))
    if form == 1:
        return undergone(draw, depth, 0.3, simple)
    if form == 3:
        return there(draw, 0.1)
    subject = topic(draw, depth)
    return quality(draw, subject).before(subject.tree.labeled("nsubj"))


def undergone(draw: Draw, depth: int, share: float, simple: bool = False) -> Tree:
    """Return a passive clause, in that share with a relative clause in its subject and with its agent."""
    verb = draw.pick(draw.words.transitive)
    subject = modified(draw, phrase(draw, draw.either(*verb.objects), depth, subject=True), share * depth)
    tree = agent(draw, passive(draw, verb, subject.number, plain=simple), share)
    return tree.before(subject.tree.labeled("nsubj:pass"))


def topic(draw: Draw, depth: int) -> Noun:
    """Return a person or a thing that something can be said of."""
    if draw.chance(0.5):
        return someone(draw, depth, subject=True)
    return phrase(draw, draw.either(*THINGS), depth, subject=True)


def there(draw: Draw, share: float) -> Tree:
    """Return a clause that says there is something somewhere, in that share with a relative clause."""
    noun = bare(draw, draw.either(*(kind for kind in OBJECTS if kind not in ("food", "garment"))))
    determiner = draw.either("some", *draw.words.numbers) if noun.number else "a"
    thing = noun.tree.before(Tree(determiner, "nummod" if determiner in draw.words.numbers else "det"))
    thing = modified(draw, replace(noun, tree=thing), share).tree.labeled("nsubj")
    chain = copula(draw, noun.number)
    be = [tree.label for tree in chain].index("cop")
    tree = Tree(chain[be].word, left=(Tree("there", "expl"), *chain[:be]), right=(*chain[be + 1 :], thing))
    return tree if embedding(thing) else tree.after(where(draw))


def quoted(draw: Draw, subject: Noun, said: bool) -> Tree:
    """Return who says or thinks, in some cases where, when or how, what."""
    verb = draw.pick(draw.words.saying if said else draw.words.thinking)
    tree = active(draw, verb, subject.number, PLAIN[draw.past] if said else STATE[draw.past], how=0)
    between = [manner(draw, verb) if draw.chance(0.4) else adjunct(draw)] if said and draw.chance(0.4) else []
    what = clause(draw, 1)
    if between or draw.chance(0.65):
        what = what.before(Tree("that", "mark"))
    return tree.after(*between, what.labeled("ccomp")).before(subject.tree.labeled("nsubj"))


def actor(draw: Draw, share: float = 0.4) -> Noun:
    """Return the person that a sentence is about, in that share with a relative clause."""
    return modified(draw, someone(draw, 1, subject=True), share)


def opened(draw: Draw, tree: Tree, share: float = 0.3) -> Tree:
    """Put, in that share, an adverb or an adjunct with its comma first: In the old library, ..."""
    if draw.chance(1 - share):
        return tree
    placed = any(child.label in ("obl", "advcl") for child in tree.right)
    opening = Tree(draw.pick(draw.words.adverbs.opening), "advmod") if placed or draw.chance(0.35) else adjunct(draw)
    return tree.before(opening.after(comma()))


def comma() -> Tree:
    """Return a comma; it hangs on what it sets off."""
    return Tree(",", "punct", tight=True)


def because(draw: Draw, reason: float = 0.5, gerund: bool = True) -> Tree:
    """Return an adverbial clause, in the share `reason` of reason, else of time: before she left, after leaving."""
    words = draw.words.subordinators
    form = draw.weighted(reason, (1 - reason) / 2, (1 - reason) / 2 * gerund)
    if form == 0:
        tree, mark = clause(draw), draw.pick(words.reason)
    elif form == 1:
        tree, mark = clause(draw, simple=True), draw.pick(words.time)
    else:
        tree, mark = unfinite(draw, 0, "ing"), draw.pick(words.gerund)
    return tree.before(Tree(mark, "mark")).labeled("advcl")


def closed(draw: Draw, tree: Tree, share: float) -> Tree:
    """Put, in that share, a subordinate clause last, with its own subject."""
    return tree.after(because(draw, 0.5, gerund=False)) if draw.chance(share) else tree
