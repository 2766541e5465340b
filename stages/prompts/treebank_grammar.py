"""The grammar of the built-in treebank: English sentences drawn as trees, labelled as Universal Dependencies do.

A tree is drawn top down by short functions, one per kind of phrase, then read from left to right. What can stand
between a word and its head (adverbs, adjectives, prepositional phrases, relative clauses) comes and goes at random, so
that no fixed distance finds the head. Subjects agree with their verbs across whatever stands between.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stages.prompts.prompt import Span
from stages.store.errors import UserError

VOWELS = tuple("aeiou")


@dataclass
class Node:
    """A word with its dependents, in order, before and after it; `tight`: no space before it."""

    form: str
    label: str = "root"
    left: list["Node"] = field(default_factory=list)
    right: list["Node"] = field(default_factory=list)
    tight: bool = False

    def words(self) -> list[tuple["Node", "Node | None"]]:
        """Return all words of the tree in order, each with its head."""
        before = [pair for child in self.left for pair in child.words()]
        after = [pair for child in self.right for pair in child.words()]
        own = {id(child) for child in (*self.left, *self.right)}
        inside = [(node, self if id(node) in own else head) for node, head in (*before, (self, None), *after)]
        return inside


def load(path: Path) -> dict[str, Any]:
    """Read the lexicon; raises `UserError` where it is missing, no YAML or lacks a list."""
    try:
        words = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected the lexicon of the builtin treebank") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    keys = "nouns names compounds adjectives degrees numbers adverbs frequencies manners verbs prepositions".split()
    keys.append("subordinators")
    missing = [key for key in keys if not isinstance(words, dict) or not words.get(key)]
    if missing:
        raise UserError(f"{path}: no {', '.join(missing)}; expected the keys {', '.join(keys)}")
    return words


def read(tree: Node) -> tuple[str, tuple[Span, ...]]:
    """Return a sentence's text and its spans: every word, and every arc in both directions."""
    words, text, at = tree.words(), "", {}
    for place, (node, _) in enumerate(words):
        form = node.form
        if form == "a" and words[place + 1][0].form.startswith(VOWELS):
            form = "an"
        form = form[0].upper() + form[1:] if place == 0 else form
        text += "" if node.tight or place == 0 else " "
        at[id(node)] = (len(text), len(text) + len(form))
        text += form
    spans = [Span("word", *at[id(node)], *at[id(node)]) for node, _ in words]
    for node, head in words:
        if head is not None:
            spans.append(Span(f"grammar:{node.label}:dep-to-head", *at[id(node)], *at[id(head)]))
            spans.append(Span(f"grammar:{node.label}:head-to-dep", *at[id(head)], *at[id(node)]))
    return text, tuple(spans)


class Speaker:
    """Draws trees: one random stream, one lexicon."""

    def __init__(self, words: dict[str, Any], rng: np.random.Generator) -> None:
        self.words_of, self.rng = words, rng

    def one(self, *keys: str) -> str:
        """Draw a word of a list."""
        found = self.words_of
        for key in keys:
            found = found[key]
        return str(found[self.rng.integers(len(found))])

    def maybe(self, chance: float) -> bool:
        """Draw a yes with this probability."""
        return bool(self.rng.random() < chance)

    def noun_phrase(self, label: str, kind: str, depth: int = 0, plain: bool = False) -> tuple[Node, bool]:
        """Draw a noun phrase and whether it is plural; `plain`: nothing after the noun; deeper ones are shorter."""
        if kind == "person" and self.maybe(0.15):
            return Node(self.one("names"), label), False
        singular, *irregular = self.one("nouns", kind).split("/")
        plural = self.maybe(0.4)
        noun = Node((irregular or [f"{singular}s"])[0] if plural else singular, label)
        if depth < 2 and self.maybe(0.2):
            noun.left.append(self._owner(depth))
        else:
            some = ["the", "the", "these", "some", "many"] if plural else ["the", "the", "a", "this", "every"]
            noun.left.append(Node(some[self.rng.integers(len(some))], "det"))
            if plural and noun.left[0].form in ("the", "these") and self.maybe(0.4):
                noun.left.append(Node(self.one("numbers"), "nummod"))
        count = int(self.rng.choice(3, p=[0.45, 0.35, 0.2]))
        for adjective in dict.fromkeys(self.one("adjectives", kind) for _ in range(count)):
            very = [Node(self.one("degrees"), "advmod")] if self.maybe(0.15) else []
            noun.left.append(Node(adjective, "amod", left=very))
        count = int(self.rng.choice(3, p=[0.78, 0.16, 0.06]))
        for other in dict.fromkeys(self.one("compounds", kind) for _ in range(count)):
            noun.left.append(Node(other, "compound"))
        if not plain and depth < 2:
            if self.maybe(0.28 - 0.12 * depth):
                noun.right.append(self._inside(depth))
            if depth == 0 and self.maybe(0.28):
                noun.right.append(self._relative(kind, plural))
        if not plain and depth == 0 and not noun.right and self.maybe(0.12):
            other, _ = self.noun_phrase("conj", kind, depth=2)
            other.left.insert(0, Node("and", "cc"))
            noun.right.append(other)
            plural = True
        return noun, plural

    def _owner(self, depth: int) -> Node:
        if self.maybe(0.4):
            return Node(["his", "her", "their", "our", "my"][self.rng.integers(5)], "nmod:poss")
        owner, plural = self.noun_phrase("nmod:poss", "person", depth=2, plain=True)
        owner.right.append(Node("'" if plural and owner.form.endswith("s") else "'s", "case", tight=True))
        return owner

    def _inside(self, depth: int) -> Node:
        """Draw a prepositional phrase inside a noun phrase."""
        preposition = self.one("prepositions", "noun")
        kind = "object" if preposition == "with" else "place"
        other, _ = self.noun_phrase("nmod", kind, depth=depth + 1)
        other.left.insert(0, Node(preposition, "case"))
        return other

    def _relative(self, kind: str, plural: bool) -> Node:
        """Draw a relative clause: its noun is the subject, or the object, of the verb."""
        animate = kind in ("person", "animal")
        who = "who" if kind == "person" and self.maybe(0.5) else "that"
        if animate and self.maybe(0.5):
            clause = self.predicate(plural, kind, "acl:relcl", depth=1)
            clause.left.insert(
                0, Node(who, "nsubj:pass" if any(n.label == "aux:pass" for n in clause.left) else "nsubj")
            )
            return clause
        subject, many = self.noun_phrase("nsubj", "person", depth=2, plain=True)
        verb = self.verb("social" if animate else "transitive", many, "acl:relcl")
        verb.left[:0] = [Node(who if animate else "that", "obj"), subject]
        return verb

    def verb(self, kind: str, plural: bool, label: str, passive: bool = False) -> Node:
        """Draw a verb with its auxiliaries and adverbs, agreeing with its subject."""
        forms = self.one("verbs", kind).split("/")
        base = forms[0]
        past = f"{base}d" if base.endswith("e") else f"{base}ed"
        third, past, participle = forms[1:] if len(forms) == 4 else (f"{base}s", past, past)
        tense = self.rng.choice(["past", "present", "modal", "perfect"], p=[0.35, 0.2, 0.25, 0.2])
        left = []
        if tense == "modal":
            left.append(Node(["will", "can", "must", "should", "may"][self.rng.integers(5)], "aux"))
        elif tense == "perfect":
            left.append(Node("have" if plural else "has", "aux"))
        if left and self.maybe(0.25):
            left.append(Node("not", "advmod"))
        if self.maybe(0.3) and (left or not passive):
            left.append(Node(self.one("adverbs"), "advmod"))
        if passive:
            be = {"modal": "be", "perfect": "been", "past": "were" if plural else "was"}
            left.append(Node(be.get(str(tense), "are" if plural else "is"), "aux:pass"))
            if not any(node.label == "advmod" for node in left) and self.maybe(0.5):
                left.append(Node(self.one("adverbs"), "advmod"))
            return Node(participle, label, left=left)
        form = {"past": past, "present": base if plural else third, "modal": base, "perfect": participle}[str(tense)]
        return Node(form, label, left=left)

    def predicate(self, plural: bool, kind: str, label: str, depth: int = 0, what: str = "") -> Node:
        """Draw a verb phrase for a subject of this number and kind; `what`: which, else any simple one."""
        simple = ["transitive", "social", "intransitive", "copula", "passive"]
        what = what or simple[self.rng.integers(len(simple))]
        if what == "copula" or (kind not in ("person", "animal") and what != "passive"):
            return self._copula(plural, kind, label, depth)
        if what == "passive":
            return self._passive(plural, kind, label, depth)
        if kind == "animal" and what not in ("social", "intransitive"):
            what = "social"
        verb = self.verb(what, plural, label)
        if what == "giving":
            verb.right.append(self.noun_phrase("iobj", "person", depth=1 + depth, plain=True)[0])
        if what in ("transitive", "giving"):
            verb.right.append(self.noun_phrase("obj", "object", depth=depth)[0])
        if what == "social":
            verb.right.append(self.noun_phrase("obj", "person" if self.maybe(0.6) else "animal", depth=depth)[0])
        return self._around(verb, depth, 0.75 if what == "intransitive" else 0.3)

    def _around(self, verb: Node, depth: int, chance: float) -> Node:
        """Add where or how, after the verb."""
        if self.maybe(0.2) and not any(node.label == "cop" for node in verb.left):
            verb.right.append(Node(self.one("manners"), "advmod"))
        if depth < 2 and self.maybe(chance):
            place, _ = self.noun_phrase("obl", "place", depth=1 + depth)
            place.left.insert(0, Node(self.one("prepositions", "place"), "case"))
            verb.right.append(place)
        return verb

    def _copula(self, plural: bool, kind: str, label: str, depth: int) -> Node:
        past = self.maybe(0.5)
        be = Node(("were" if plural else "was") if past else ("are" if plural else "is"), "cop")
        left = [be]
        if self.maybe(0.25):
            left = [Node(["will", "must", "may"][self.rng.integers(3)], "aux"), Node("be", "cop")]
        if self.maybe(0.3):
            left.insert(1, Node(self.one("frequencies"), "advmod"))
        if kind == "person" and not plural and self.maybe(0.3):
            head = Node(self.one("nouns", "person").split("/")[0], label, left=[*left, Node("a", "det")])
            head.left += [Node(self.one("adjectives", "person"), "amod")] if self.maybe(0.6) else []
            return head
        head = Node(self.one("adjectives", kind), label, left=left)
        head.left += [Node(self.one("degrees"), "advmod")] if self.maybe(0.5) else []
        if self.maybe(0.2):
            other = Node(self.one("adjectives", kind), "conj", left=[Node("and", "cc")])
            if other.form != head.form:
                head.right.append(other)
        return self._around(head, depth + 1, 0.25) if kind in ("person", "animal") else head

    def _passive(self, plural: bool, kind: str, label: str, depth: int) -> Node:
        verb = self.verb("social" if kind in ("person", "animal") else "transitive", plural, label, passive=True)
        if self.maybe(0.45):
            agent, _ = self.noun_phrase("obl:agent", "person", depth=1 + depth)
            agent.left.insert(0, Node("by", "case"))
            verb.right.append(agent)
            return verb
        return self._around(verb, depth, 0.5)

    def clause(self, label: str, what: str = "", depth: int = 0) -> Node:
        """Draw a subject with its predicate; without `what`, any simple one."""
        simple = ["transitive", "social", "intransitive", "copula", "passive"]
        what = what or simple[self.rng.integers(len(simple))]
        kinds = {"copula": ["person", "animal", "object", "place", "idea"], "passive": ["object", "object", "person"]}
        kinds |= {"social": ["person", "person", "animal"], "intransitive": ["person", "person", "animal"]}
        some = kinds.get(what, ["person"])
        kind = some[self.rng.integers(len(some))]
        subject, plural = self.noun_phrase("nsubj:pass" if what == "passive" else "nsubj", kind, depth=depth)
        head = self.predicate(plural, kind, label, depth, what)
        head.left.insert(0, subject)
        return head

    def sentence(self, what: str) -> Node:
        """Draw a whole sentence of one construction."""
        tree = CONSTRUCTIONS[what](self)
        if self.maybe(0.12):
            place, _ = self.noun_phrase("obl", "place", depth=1, plain=True)
            place.left.insert(0, Node(self.one("prepositions", "place"), "case"))
            tree.left[:0] = [place, Node(",", "punct", tight=True)]
        tree.right.append(Node(".", "punct", tight=True))
        return tree


def _saying(speak: Speaker) -> Node:
    subject, plural = speak.noun_phrase("nsubj", "person", depth=1)
    verb = speak.verb("saying", plural, "root")
    said = speak.clause("ccomp", depth=1)
    if speak.maybe(0.75):
        said.left.insert(0, Node("that", "mark"))
    verb.left.insert(0, subject)
    verb.right.append(said)
    return verb


def _wanting(speak: Speaker) -> Node:
    subject, plural = speak.noun_phrase("nsubj", "person", depth=int(speak.maybe(0.5)))
    verb = speak.verb("wanting", plural, "root")
    verb.left.insert(0, subject)
    if speak.maybe(0.25):
        verb.right.append(Node(["again", "today"][speak.rng.integers(2)], "advmod"))
    what = ["transitive", "social", "intransitive", "giving"][speak.rng.integers(4)]
    to_do = speak.predicate(True, "person", "xcomp", depth=0, what=what)
    to_do.form, to_do.left = _base(speak, what), [Node("to", "mark")]
    if speak.maybe(0.15):
        to_do.left.append(Node("never", "advmod"))
    verb.right.append(to_do)
    return verb


def _base(speak: Speaker, what: str) -> str:
    return speak.one("verbs", what).split("/")[0]


def _because(speak: Speaker) -> Node:
    main, reason = speak.clause("root", depth=1), speak.clause("advcl", depth=1)
    reason.left.insert(0, Node(speak.one("subordinators"), "mark"))
    if speak.maybe(0.4):
        main.left[:0] = [reason, Node(",", "punct", tight=True)]
    else:
        main.right.append(reason)
    return main


def _and(speak: Speaker) -> Node:
    first, second = speak.clause("root", depth=1), speak.clause("conj", depth=1)
    if speak.maybe(0.5):  # shared subject: active verbs only, so that it is the subject of both
        subject, plural = speak.noun_phrase("nsubj", "person", depth=1)
        first = speak.predicate(plural, "person", "root", 1, "transitive")
        second = speak.predicate(plural, "person", "conj", 1, "social")
        first.left.insert(0, subject)
    second.left.insert(0, Node(["and", "but", "or"][speak.rng.integers(3)], "cc"))
    first.right.append(second)
    return first


CONSTRUCTIONS: dict[str, Callable[[Speaker], Node]] = {
    "transitive": lambda speak: speak.clause("root", "transitive"),
    "social": lambda speak: speak.clause("root", "social"),
    "intransitive": lambda speak: speak.clause("root", "intransitive"),
    "copula": lambda speak: speak.clause("root", "copula"),
    "passive": lambda speak: speak.clause("root", "passive"),
    "giving": lambda speak: speak.clause("root", "giving"),
    "giving again": lambda speak: speak.clause("root", "giving", depth=1),
    "saying": _saying,
    "saying again": _saying,
    "wanting": _wanting,
    "wanting again": _wanting,
    "because": _because,
    "because again": _because,
    "and": _and,
    "and again": _and,
}
