"""What counting alone makes of pairs of sentences, answers and repeated sequences, for two baselines.

* `ngram`: the n-gram model of the training text. What collocations decide.
* `ngram_prompt`: the same kind of model counted on the prompt's own earlier words, anew before every word, which backs
  off to `ngram` instead of to uniform. What copying by counting adds.

Both know the words of the training text, <unk>, the end of a sentence, and the words that the prompt shows (these share
the probability of <unk>). Random tokens are no words: there `ngram` is uniform over `TOKENS`.

pair: accuracy = whole-sentence log-probability of the good sentence, its end included, above the bad one's: 1, tie
1/2, else 0; ties = 1 for a tie (equal to 1e-9: such as two unknown words in one place).
answer: of every word, whether it is the argmax, the words before it given. Case is ignored, which can only help.
repeated: the last copy only: loss = mean negative log-probability, nats per token; accuracy = share of argmaxes.
An argmax shared by m words counts 1/m, what a guess among them would be worth.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from stages.baseline.base import UNKNOWN, Distribution, Uniform, Widened
from stages.baseline.kneser_ney import KneserNey
from stages.baseline.words import END, Vocabulary, words

TOKENS = 2**18  # about the largest vocabulary in use (Gemma 3: 262,144): ln 2^18 = 12.48 nats where nothing is known
TIE = 1e-9  # relative difference below which probabilities are equal: sums in another order differ by 1e-15

Reader = Callable[[Sequence[int]], Distribution]  # the words so far -> the model that predicts the next one


def readers(static: Distribution, order: int) -> dict[str, Reader]:
    """Return both baselines on one prompt."""
    return {
        "ngram": lambda earlier: static,
        "ngram_prompt": lambda earlier: KneserNey([earlier], static, order),
    }


class Baselines:
    """Both baselines, from the sentences of a training text."""

    def __init__(self, sentences: Sequence[Sequence[str]], order: int) -> None:
        self.order = order
        self.vocabulary = Vocabulary(word for sentence in sentences for word in sentence)
        numbered = ([*self.vocabulary.encode(sentence, {}), END] for sentence in sentences)
        self.text = KneserNey(numbered, Uniform(self.vocabulary.size), order)

    def pair(self, good: str, bad: str) -> dict[str, dict[str, float]]:
        """Return baseline -> measure -> value of a minimal pair."""
        pair = [words(good), words(bad)]
        more = self.vocabulary.widened(pair[0] + pair[1])
        numbered = [[*self.vocabulary.encode(sentence, more), END] for sentence in pair]
        found = {}
        for name, reader in readers(Widened(self.text, len(more)), self.order).items():
            margin = np.subtract(*(_logprob(reader, sentence) for sentence in numbered))
            tie = abs(margin) < TIE
            found[name] = {"accuracy": 0.5 if tie else float(margin > 0), "ties": float(tie)}
        return found

    def answer(self, text: str, target: str) -> dict[str, np.ndarray]:
        """Return baseline -> whether each word of a target is the argmax (N,); an unknown word is never right."""
        shown, right = words(text), words(target)
        more = self.vocabulary.widened(shown)
        earlier, numbered = self.vocabulary.encode(shown, more), self.vocabulary.encode(right, more)
        return {
            name: np.array(
                [
                    _top(reader, earlier + numbered[:index], word) if word != UNKNOWN else 0.0
                    for index, word in enumerate(numbered)
                ]
            )
            for name, reader in readers(Widened(self.text, len(more)), self.order).items()
        }

    def repeated(self, ordinals: Sequence[int]) -> dict[str, dict[str, float]]:
        """Return baseline -> measure -> value of a random sequence of distinct tokens, repeated."""
        number = {ordinal: index for index, ordinal in enumerate(dict.fromkeys(ordinals))}
        tokens = [number[ordinal] for ordinal in ordinals]
        start = len(tokens) - len(number)
        found = {}
        for name, reader in readers(Uniform(TOKENS), self.order).items():
            right = [_top(reader, tokens[:index], tokens[index]) for index in range(start, len(tokens))]
            loss = -_logprob(reader, tokens, start) / len(number)
            found[name] = {"loss": loss, "accuracy": float(np.mean(right))}
        return found


def _logprob(reader: Reader, sequence: Sequence[int], start: int = 0) -> float:
    """Return the log-probability of a sequence from `start` on, nats."""
    earlier = ((sequence[:index], sequence[index]) for index in range(start, len(sequence)))
    return math.fsum(math.log(reader(before).probability(word, before)) for before, word in earlier)


def _top(reader: Reader, earlier: Sequence[int], word: int) -> float:
    """Return 1 where a word is the argmax, 1/m where it is one of m, else 0."""
    p_V = reader(earlier).distribution(earlier)
    best = p_V >= p_V.max() * (1 - TIE)
    return float(best[word] / best.sum())
