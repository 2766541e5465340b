"""A parsed sentence: words with their places in a text, each with its head and label, and the relations they give.

The built-in grammar grows a `Tree`, files give words that `place` finds in their text; both end as a `Sentence`.
Labels and attachment are those of Universal Dependencies v2 (de Marneffe et al. 2021, CL 47:255).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from stages.tasks.prompt import Span

ROOT = "root"


@dataclass(frozen=True)
class Word:
    """A syntactic word: characters [start, end) of the text; `head` is another word's index, None at the root."""

    start: int
    end: int
    head: int | None
    label: str


@dataclass(frozen=True)
class Sentence:
    """A text with its words in order."""

    text: str
    words: tuple[Word, ...]

    def relations(self) -> tuple[Span, ...]:
        """Return a span per word, then every arc in both directions; words that share a span count as one."""
        places = {(word.start, word.end): None for word in self.words}
        spans = [Span("word", *place, *place) for place in places]
        for word in self.words:
            head = None if word.head is None else self.words[word.head]
            if head is None or (head.start, head.end) == (word.start, word.end):
                continue
            name = f"grammar:{word.label}"
            spans.append(Span(f"{name}:dep-to-head", word.start, word.end, head.start, head.end))
            spans.append(Span(f"{name}:head-to-dep", head.start, head.end, word.start, word.end))
        return tuple(dict.fromkeys(spans))


@dataclass(frozen=True)
class Tree:
    """A word with its dependents to the left and right, in order; `tight`: no space before it."""

    word: str
    label: str = ROOT
    left: tuple["Tree", ...] = ()
    right: tuple["Tree", ...] = ()
    tight: bool = False

    def labeled(self, label: str) -> "Tree":
        """Return the tree as a dependent of that label."""
        return replace(self, label=label)

    def before(self, *trees: "Tree") -> "Tree":
        """Return the tree with more dependents at its left end: before all that it has."""
        return replace(self, left=(*trees, *self.left))

    def after(self, *trees: "Tree") -> "Tree":
        """Return the tree with more dependents at its right end: after all that it has."""
        return replace(self, right=(*self.right, *trees))

    def walk(self) -> Iterator["Tree"]:
        """Yield the tree and its descendants in the order of the words."""
        for tree in self.left:
            yield from tree.walk()
        yield self
        for tree in self.right:
            yield from tree.walk()


def spell(tree: Tree, a: Iterable[str] = (), an: Iterable[str] = ()) -> Sentence:
    """Write a tree as a sentence: spaces, a capital first, and a or an by the next word (exceptions in `a`, `an`)."""
    order = list(tree.walk())
    index = {id(node): number for number, node in enumerate(order)}
    heads = {id(child): index[id(node)] for node in order for child in (*node.left, *node.right)}
    if len(index) < len(order):
        raise ValueError("a tree occurs twice in itself")
    text, words = "", []
    for number, node in enumerate(order):
        form = node.word
        if form == "a" and node.label == "det":
            form = _article(order[number + 1].word, a, an)
        text += "" if node.tight or not text else " "
        text += form if text else form[0].upper() + form[1:]
        words.append(Word(len(text) - len(form), len(text), heads.get(id(node)), node.label))
    return Sentence(text, tuple(words))


def _article(following: str, a: Iterable[str], an: Iterable[str]) -> str:
    if following in an or (following[0].lower() in "aeiou" and following not in a):
        return "an"
    return "a"


def place(text: str, forms: Sequence[str]) -> list[tuple[int, int]] | None:
    """Find forms one after the other in a text, nothing but white space between them; None where they differ.

    White space inside a form (`10 000`) stands for any in the text.
    """
    spans, end = [], 0
    for form in forms:
        pattern = r"\s*(" + r"\s+".join(map(re.escape, form.split())) + ")"
        match = re.compile(pattern).match(text, end)
        if not form.split() or match is None:
            return None
        spans.append(match.span(1))
        end = match.end()
    return None if text[end:].strip() else spans
