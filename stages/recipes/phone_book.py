"""A phone book: made-up names with random numbers, so that nothing but having stored a pair gives its number.

    b a d e f i g o  ?1 ?2 ?3 ?4   ->   7 0 4 2 at the four question marks

A name is four syllables of a consonant and a vowel; numbers have four digits and no two names share one. A number
cannot be computed from its name: for a name that is not in the book there is no right answer, and whatever the model
says there shows what a look-up gives where it misses. The names asked are

    stored   all of the book
    anew     drawn by the same rule, at least two letters away from every stored name
    changed  a stored name with 1, 2 or 4 letters redrawn, not stored either

An answer is compared with the number of the nearest stored name, by letters at the same places (of several equally near
ones, the mean), and by the activations of the last MLP's hidden units (cosine, after subtracting the mean of the stored
names): what its output matrix is multiplied with, its keys. Beside them stand all other stored names, as they come.

Letters are tokens of their place, so that the sum of a name's embeddings still tells the name.

Legend: N name, S stored name, M asked name that is not stored, L letter, T token, I digit, Q symbol, U hidden unit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from pydantic import Field

from stages.recipes.graded import End, Graded
from stages.recipes.lesson import IGNORED, Batch
from stages.store.section import Natural
from stages.tasks.prompt import stream

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
LETTERS, DIGITS = 8, 4  # of a name, of a number
ALPHABET = 26
QUESTIONS = LETTERS * ALPHABET  # the first question mark's token
NUMBERS = QUESTIONS + DIGITS  # the token of the digit 0
CHANGED = (1, 2, 4)  # letters redrawn
STORED = 0.5  # recall below which a book is not called stored
APART = 2  # letters, at least, between a name drawn anew and every stored one


@dataclass(frozen=True)
class Asked:
    """Names that are not stored, as letters (M, L) below 26; `changed`: letters redrawn (M,), 0 where drawn anew.

    numbers: random digits (M, I) for each of them, which the model has never seen with it.
    """

    names: np.ndarray
    changed: np.ndarray
    numbers: np.ndarray


class PhoneBook(Graded):
    """`stored`: pairs; `book`: which one: all seeds and checkpoints share it."""

    stored: int = Field(ge=20, le=5000)
    book: Natural = 0

    onsets: ClassVar[tuple[str, ...]] = ("nearest_digits", "recalled")
    solved: ClassVar[dict[str, float]] = {"recalled": 0.99}

    @property
    def symbols(self) -> int:
        """Letters of every place, question marks and digits."""
        return NUMBERS + 10

    @property
    def positions(self) -> int:
        """A name and its question marks."""
        return LETTERS + DIGITS

    def symbol(self, token: int) -> str:
        """Write a token."""
        if token >= NUMBERS:
            return str(token - NUMBERS)
        return f"?{token - QUESTIONS + 1}" if token >= QUESTIONS else chr(ord("a") + token % ALPHABET)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the book: names (S, L), all different, and numbers (S, I), all different."""
        return pairs(self.stored, self.book)

    def batch(self, rng: np.random.Generator, size: int, step: int) -> Batch:
        """Draw pairs of the book."""
        names_SL, digits_SI = self.pairs()
        rows_B = rng.integers(0, self.stored, size)
        labels_BT = np.full((size, self.positions), IGNORED)
        labels_BT[:, LETTERS:] = NUMBERS + digits_SI[rows_B]
        return Batch(written(names_SL[rows_B]), labels_BT)

    def held_out(self, rng: np.random.Generator, count: int) -> Asked:
        """Draw names that are not in the book: in turn anew and with 1, 2 and 4 letters of a stored one redrawn."""
        names_SL, _ = self.pairs()
        changed_M = np.resize((0, *CHANGED), count)
        names_ML = np.zeros((count, LETTERS), dtype=np.int64)
        for number, changed in enumerate(changed_M):
            while True:
                name_L = drawn(rng, 1)[0]
                if changed:
                    kept_L = rng.permutation(LETTERS) >= changed
                    name_L = np.where(kept_L, names_SL[rng.integers(self.stored)], name_L)
                if distances(name_L[None], names_SL).min() >= (1 if changed else APART):
                    break
            names_ML[number] = name_L
        return Asked(names_ML, changed_M, rng.integers(0, 10, (count, DIGITS)))

    def inputs(self, held: Asked) -> np.ndarray:
        """Return names that are not stored, then the book, each with its question marks."""
        return written(np.concatenate([held.names, self.pairs()[0]]))

    def graded(self, held: Asked, logprob_NTQ: np.ndarray, units_NTU: np.ndarray) -> Iterator[tuple[str, int, float]]:
        """Yield recall of the book, and what the answers to other names are like."""
        names_SL, digits_SI = self.pairs()
        missed, logprob_NIQ = len(held.names), logprob_NTQ[:, LETTERS:, NUMBERS:]
        answer_NI, certainty_N = logprob_NIQ.argmax(2), np.exp(logprob_NIQ).max(2).mean(1)
        right_SI = answer_NI[missed:] == digits_SI
        loss_S = -np.take_along_axis(logprob_NIQ[missed:], digits_SI[..., None], 2).mean((1, 2))
        for s in range(self.stored):
            yield "loss", missed + s, loss_S[s]
            yield "accuracy", missed + s, right_SI[s].mean()
            yield "recalled", missed + s, right_SI[s].all()
            yield "certainty", missed + s, certainty_N[missed + s]
        near_MS = nearest(held.names, names_SL)
        keys_NK = units_NTU[:, LETTERS:].reshape(len(units_NTU), -1)
        close_MS = closest(keys_NK[:missed], keys_NK[missed:])
        same_MSI = answer_NI[:missed, None] == digits_SI
        of_near, of_close = shared(same_MSI, near_MS), shared(same_MSI, close_MS)
        random_M = shared(same_MSI, ~near_MS)[0]
        own_M = (answer_NI[:missed] == held.numbers).mean(1)
        for m in range(missed):
            measures = {
                "nearest_digits": of_near[0][m],
                "nearest_number": of_near[1][m],
                "random_digits": random_M[m],
                "certainty_unseen": certainty_N[m],
            }
            if held.changed[m]:
                part = f"@{held.changed[m]} of {LETTERS} letters redrawn"
                yield from ((measure + part, m, value) for measure, value in measures.items())
                continue
            yield from ((measure, m, value) for measure, value in measures.items())
            yield "closest_digits", m, of_close[0][m]
            yield "closest_number", m, of_close[1][m]
            yield "any_number", m, same_MSI[m].all(1).any()
            yield "unseen_digits", m, own_M[m]

    def chance(self, count: int) -> dict[str, float]:
        """Return what a name's number gets that is guessed without the name; of the book: its commonest digits."""
        _, digits_SI = self.pairs()
        commonest = float(np.mean([np.bincount(digits_S).max() / self.stored for digits_S in digits_SI.T]))
        number = 1 / self.stored
        digits = dict.fromkeys(("accuracy", "nearest_digits", "closest_digits"), commonest)
        numbers = dict.fromkeys(("recalled", "nearest_number", "closest_number"), number)
        return digits | numbers | {"any_number": self.stored / 10**DIGITS, "unseen_digits": 0.1}

    def levels(self, held: Asked) -> dict[tuple[str, str], float]:
        """Return what two look-ups without a network reach, on the same names.

        suffix: an n-gram with back-off, the commonest digits after the longest ending of the name that is stored.
        outer: W = sum of v k^T, k the letters of a name (0 or 1 each), v its digits: the largest of W k.
        """
        names_SL, digits_SI = self.pairs()
        anew_ML = held.names[held.changed == 0]
        levels = {}
        for means, weigh in (("suffix", endings), ("outer", lambda a, b: LETTERS - distances(a, b))):
            answer_SI = voted(weigh(names_SL, names_SL), digits_SI)
            levels["recalled", means] = float((answer_SI == digits_SI).all(1).mean())
            same_MSI = voted(weigh(anew_ML, names_SL), digits_SI)[:, None] == digits_SI
            levels["nearest_digits", means] = float(shared(same_MSI, nearest(anew_ML, names_SL))[0].mean())
            levels["any_number", means] = float(same_MSI.all(2).any(1).mean())
        return levels

    def verdict(self, ends: Mapping[str, End]) -> str:
        """Say what is recalled, whether an unseen name's answer is near, a stored number, right, and how certain."""
        chance = self.chance(0)
        recalled, near, other = (ends[name] for name in ("recalled", "nearest_digits", "random_digits"))
        if recalled.high < STORED:
            return f"recalls {recalled} of its book whole: too little to ask what a miss gives."
        says = f"recalls {recalled} of its book whole. For an unseen name "
        if near.low > other.high:
            says += f"it gives more digits of the nearest name's number, {near}, than of the others', {other}"
        elif near.high < other.low:
            says += f"it gives fewer digits of the nearest name's number, {near}, than of the others', {other}"
        else:
            says += f"digits of the nearest name's number, {near}, are not told apart from those of others, {other}"
        record = ends["any_number"]
        says += f"; its whole number is the nearest name's in {ends['nearest_number']}, that of any stored name in "
        says += f"{record}, guessed {chance['any_number']:.2f}"
        says += ": mostly no stored number" if record.high < 0.5 else ""
        own = ends["unseen_digits"]
        inside = own.low <= chance["unseen_digits"] <= own.high
        says += f". Of numbers drawn for unseen names, never shown, it gets {own} of the digits, "
        says += "not told apart from guessing" if inside else f"where guessing gets {chance['unseen_digits']:.2f}"
        says += f". Its mean certainty, the largest probability of a digit, is {ends['certainty_unseen']} for unseen "
        return says + f"names and {ends['certainty']} for stored ones."

    @property
    def remarks(self) -> str:
        """What is asked, and what the measures are of."""
        return (
            f"A phone book of {self.stored:,} made-up names with random numbers of {DIGITS} digits: a number cannot be "
            "computed from its name, so that recall is storage, and for other names no answer is right. All digits are "
            f"asked at once, none after another. Unseen names are drawn by the same rule, at least {APART} letters "
            "from every stored one; by part: stored names with some letters redrawn. Their answers are "
            "compared with the number of the nearest stored name: by letters at the same places (of equally near "
            "ones the mean), and by the model's own keys, the activations of the last MLP's hidden units (cosine "
            "after subtracting the stored names' mean). A nearest name by the model's keys says less: its "
            "answer is computed from them. 'Guessing' is the book's commonest digit at each place; of whole numbers, "
            "any one of the book, or, where all of its numbers count, any of four digits."
        )


@cache
def pairs(stored: int, book: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a book: names (S, L) and numbers (S, I)."""
    rng, seen = stream(book, "recipes/phone_book/pairs"), {}
    while len(seen) < stored:
        seen.setdefault(tuple(drawn(rng, 1)[0].tolist()))
    numbers_S = rng.choice(10**DIGITS, stored, replace=False)
    return np.array(list(seen)), numbers_S[:, None] // 10 ** np.arange(DIGITS)[::-1] % 10


def drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw names (N, L): a consonant and a vowel in turn, as letters from a = 0."""
    names_NL = np.empty((count, LETTERS), dtype=np.int64)
    for first, letters in enumerate((CONSONANTS, VOWELS)):
        codes = np.array([ord(letter) - ord("a") for letter in letters])
        names_NL[:, first::2] = rng.choice(codes, (count, LETTERS // 2))
    return names_NL


def written(names_NL: np.ndarray) -> np.ndarray:
    """Return the token ids (N, T) of names with their question marks."""
    letters_NL = names_NL + ALPHABET * np.arange(LETTERS)
    return np.concatenate([letters_NL, np.tile(QUESTIONS + np.arange(DIGITS), (len(names_NL), 1))], axis=1)


def distances(names_NL: np.ndarray, names_SL: np.ndarray) -> np.ndarray:
    """Return the number of places at which letters differ, (N, S)."""
    return (names_NL[:, None] != names_SL).sum(2)


def nearest(names_NL: np.ndarray, names_SL: np.ndarray) -> np.ndarray:
    """Say which stored names are nearest by letters, (N, S): one, or several equally near ones."""
    distances_NS = distances(names_NL, names_SL)
    return distances_NS == distances_NS.min(1, keepdims=True)


def closest(keys_NK: np.ndarray, keys_SK: np.ndarray) -> np.ndarray:
    """Say which stored key has the largest cosine with each key, the stored ones' mean subtracted, (N, S)."""
    mean_K = keys_SK.mean(0)
    unit_NK, unit_SK = (
        (keys - mean_K) / np.maximum(np.linalg.norm(keys - mean_K, axis=1, keepdims=True), 1e-12)
        for keys in (keys_NK, keys_SK)
    )
    return (unit_NK @ unit_SK.T).argmax(1)[:, None] == np.arange(len(keys_SK))


def shared(same_NSI: np.ndarray, of_NS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of digits (N,) and of whole numbers (N,) that an answer has in common with some stored ones."""
    count_N = of_NS.sum(1)
    return (same_NSI.mean(2) * of_NS).sum(1) / count_N, (same_NSI.all(2) & of_NS).sum(1) / count_N


def endings(names_NL: np.ndarray, names_SL: np.ndarray) -> np.ndarray:
    """Return weights (N, S): 1 for the stored names that share the longest ending with a name, else 0."""
    length_NS = np.cumprod((names_NL[:, None] == names_SL)[..., ::-1], axis=2).sum(2)
    return (length_NS == length_NS.max(1, keepdims=True)).astype(int)


def voted(weights_NS: np.ndarray, digits_SI: np.ndarray) -> np.ndarray:
    """Return the digits (N, I) with most weight at their place; of equal ones the smallest."""
    return np.einsum("ns,siq->niq", weights_NS, np.eye(10, dtype=int)[digits_SI]).argmax(2)


LESSON = PhoneBook
