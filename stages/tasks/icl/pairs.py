"""From prompts of in-context functions back to their pairs (x, y), and from a word to the prompt that asks for it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

INVOLUTION = "involution"  # the kind, in the lexicon, of a function that is its own inverse: f(f(x)) = x
LEAST = 8  # pairs whose y is asked as well, before a list of pairs can say that a function is its own inverse


@dataclass(frozen=True)
class Frame:
    """What stands around x and y, as `tasks.icl.template` has it.

    >>> frame = Frame("Q: {x}\\nA: {y}\\n\\n")
    >>> frame.question("hot"), frame.word("Q: up\\nA: down\\n\\nQ: hot\\nA:"), frame.white
    ('Q: hot\\nA:', 'hot', ' ')
    """

    template: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """Return what stands before x, between x and y, and after y."""
        before, _, rest = self.template.partition("{x}")
        middle, _, after = rest.partition("{y}")
        return before, middle, after

    @property
    def colon(self) -> str:
        """What ends a question; the white space after it belongs to the answer."""
        return self.parts[1].rstrip()

    @property
    def white(self) -> str:
        """The white space that an answer begins with."""
        return self.parts[1][len(self.colon) :]

    def demonstration(self, x: str, y: str) -> str:
        """Return the text that shows what y is to x."""
        before, middle, after = self.parts
        return before + x + middle + y + after

    def question(self, word: str) -> str:
        """Return the prompt without demonstrations that asks about a word."""
        return self.parts[0] + word + self.colon

    def word(self, text: str) -> str:
        """Return the word that a prompt asks about, the last one of its text."""
        return self._cut(text)[1]

    def instead(self, text: str, word: str) -> str:
        """Return the prompt with another word in the place of the one it asks about, demonstrations as they are."""
        return self._cut(text)[0] + self.question(word)

    def shown(self, text: str) -> list[tuple[str, str]]:
        """Return the pairs that a prompt demonstrates."""
        before, middle, after = map(re.escape, self.parts)
        return re.findall(f"{before}(.+?){middle}(.+?){after or '(?=' + (before or '$') + '|$)'}", self._cut(text)[0])

    def _cut(self, text: str) -> tuple[str, str]:
        before, _, after = self.parts
        whole, between = text.removesuffix(self.colon), after + before
        context, found, word = whole.rpartition(between) if between else ("", "", whole)
        return (context + after, word) if found else ("", whole.removeprefix(before))

    def holds(self, x: str, y: str) -> bool:
        """Tell whether a pair can be read back from what demonstrates it and asks for it.

        >>> Frame("{x} -> {y}\\n").holds("up", "down"), Frame("{x} {y}\\n").holds("New York", "US")
        (True, False)
        """
        text = 2 * self.demonstration(x, y) + self.question(x)
        return self.shown(text) == [(x, y)] * 2 and self.word(text) == x


def own_inverse(kind: str, pairs: Iterable[tuple[str, str]]) -> bool:
    """Tell whether a function is its own inverse: its lexicon says so, or most of its pairs do.

    kind: the lexicon's word for the function; pairs: those that are known. Of the pairs with x unlike y whose y is an x
    as well (`LEAST` at least), more than half lead back to x.
    """
    if kind == INVOLUTION:
        return True
    output: Mapping[str, str] = dict(pairs)
    back = [output[y] == x for x, y in output.items() if x != y and y in output]
    return len(back) >= LEAST and 2 * sum(back) > len(back)
