"""The functions asked about, from procedure to knowledge, and where their words and right answers come from.

The order was fixed before anything was measured. `form`: the answer is made of the word's letters, whatever the word
means. `order`: the next of a row, which numbers have by rule. `rule`: a regular ending, beside words
that have an irregular one. `knowledge`: nothing in the word says what the answer is, so that a made-up word has none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stages.tasks.lexicon import plural


@dataclass(frozen=True)
class Function:
    """One function.

    like: the function of task icl whose pairs give demonstrations and usual words. rare: the list of rare.yaml with
    its rare words ("" for numbers). invented: what made-up words look like (`invented.words`). answer: the rule that
    gives the right answer of a made-up word, and of a rare word that stands without one; None where no rule does.
    regular: whether a pair is regular, where some are not. common: the lists of rare.yaml with more common words, that
    are and that are not.
    """

    name: str
    kind: Literal["form", "order", "rule", "knowledge"]
    like: str
    rare: str
    invented: Literal["noun", "verb", "adjective", "country", "number"]
    answer: Callable[[str], str] | None = None
    regular: Callable[[str, str], bool] | None = None
    common: tuple[str, str] = ("", "")


def lower(word: str) -> str:
    """Write a word in lower case."""
    return word.lower()


def same(word: str) -> str:
    """Copy a word."""
    return word


FUNCTIONS = {
    function.name: function
    for function in (
        Function("copy", "form", "capitalize", "nouns", "noun", same),
        Function("first_letter", "form", "first_letter", "nouns", "noun", lambda word: word[0]),
        Function("capitalize", "form", "capitalize", "nouns", "noun", str.capitalize),
        Function("lowercase", "form", "lowercase", "nouns", "noun", lower),
        Function("successor", "order", "successor", "", "number", lambda word: str(int(word) + 1)),
        Function("comparative", "rule", "comparative", "adjectives", "adjective", lambda word: f"{word}er"),
        Function("singular-plural", "rule", "singular-plural", "nouns", "noun", plural,
                 lambda word, answer: answer == plural(word), ("regular_nouns", "irregular_nouns")),
        Function("present-past", "rule", "present-past", "verbs", "verb", lambda word: f"{word}ed",
                 lambda word, answer: answer.endswith("ed") and len(answer) > len(word),
                 ("regular_verbs", "irregular_verbs")),
        Function("english-spanish", "knowledge", "english-spanish", "translations", "noun"),
        Function("antonym", "knowledge", "antonym", "antonyms", "adjective"),
        Function("country-capital", "knowledge", "country-capital", "capitals", "country"),
    )
}  # fmt: skip
