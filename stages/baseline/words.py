"""From text to words and their numbers: lower-cased words and punctuation marks, one by one.

`Wasn't` is one word, `,` another. Upper case and white space are lost, on both sides of every comparison.
"""

import re
from collections.abc import Iterable, Sequence

from stages.baseline.base import UNKNOWN

END = 1  # the end of a sentence, predicted like a word
WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"'”’)])\s+")


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return WORD.findall(text.lower().translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'}))


def sentences(paragraphs: Iterable[str]) -> list[list[str]]:
    """Return the sentences of paragraphs as words; a sentence ends after . ! ? and a quote, before white space.

    `Mr. Smith` is cut in two.
    """
    pieces = (piece for paragraph in paragraphs for piece in SENTENCE_END.split(paragraph))
    return [found for piece in pieces if (found := words(piece))]


class Vocabulary:
    """Words by number: <unk> = 0, the end of a sentence = 1, then the words in order of first occurrence."""

    def __init__(self, seen: Iterable[str]) -> None:
        self.number = {word: index for index, word in enumerate(dict.fromkeys(seen), start=END + 1)}
        self.size = END + 1 + len(self.number)

    def widened(self, prompt: Iterable[str]) -> dict[str, int]:
        """Return numbers, from `size` on, for a prompt's words that are not in the vocabulary."""
        new = dict.fromkeys(word for word in prompt if word not in self.number)
        return {word: index for index, word in enumerate(new, start=self.size)}

    def encode(self, sequence: Sequence[str], more: dict[str, int]) -> list[int]:
        """Return the words' numbers; `more`: as made by `widened`. Words of neither are <unk>."""
        return [self.number.get(word, more.get(word, UNKNOWN)) for word in sequence]
