"""Words left out of parsed sentences: what a masked model must fill in, and whether its heads find the grammar.

The corpus is the built-in treebank's grammar over a part of its lexicon, mixed with the agreement frames of
`stages.tasks.treebank.agreement`: sentences with gold trees, one token a word, lower-cased, between [CLS] and [SEP].
15-25 % of the words are to be predicted, of which 80 % are shown as [MASK], 10 % as another word, 10 % as they are
(Devlin+ 2019). It is drawn once, from its arguments alone: all arms and seeds learn from the same sentences, in other
orders and with other words left out, and the 5-gram is counted on exactly these.

What is measured, as in Chen+ ICLR 2024 (arXiv 2309.07311), on held-out sentences and on pairs:
    uas       for every label the head that most often looks from the dependent to its head, chosen on one half of the
              sentences; share of the arcs of the other half that these heads find, labels given (an average over arcs)
    accuracy  share of pairs, equal but for one agreeing word, whose good sentence has the higher pseudo-log-likelihood;
              chance 1/2. A noun of the other number or gender stands between that word and its subject, and subject and
              predicate never occur as such in the corpus
    loss      of held-out sentences, every word left out alone, nats per word

Gold arcs, for `Training.arcs`: every dependent and its head, in both directions, without punctuation.

Legend: B sentence, T token, N arc.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar
from zlib import crc32

import numpy as np
from pydantic import Field, model_validator

from stages.baseline.base import Uniform
from stages.baseline.kneser_ney import KneserNey
from stages.families.family import Relation, Tokens
from stages.families.offset import best_offset, offset_accuracy
from stages.families.treebank import grammar
from stages.recipes.lesson import IGNORED, Batch, Lesson, Pair, Watched
from stages.store.errors import UserError
from stages.store.section import Count
from stages.tasks.prompt import stream
from stages.tasks.treebank import words as treebank_words
from stages.tasks.treebank.agreement import FRAMES, agreement, chosen, fewer, lemmas, subjects
from stages.tasks.treebank.grammar import CONSTRUCTIONS
from stages.tasks.treebank.tree import Sentence, Tree, spell
from stages.tasks.treebank.words import Draw

LEXICON = Path(__file__).parents[1] / "sources/treebank/lexicon.yaml"
PAD, CLS, SEP, MASK = range(4)
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
HELD = 6  # one in so many combinations of subject and predicate is never trained on
PATIENCE = 500  # draws for every pair
ORDER = 5  # of the n-gram
DIRECTION = "dep-to-head"


@dataclass(frozen=True)
class Corpus:
    """Training sentences by length, ids (B, T) with their arcs (dependent, head) by row, and the words by number."""

    ids: dict[int, np.ndarray]
    arcs: dict[int, list[np.ndarray]]
    words: tuple[str, ...]

    @property
    def number(self) -> dict[str, int]:
        """Number by word."""
        return {word: index for index, word in enumerate(self.words)}


class Masked(Lesson):
    """A corpus of `sentences` of `shortest` to `longest` words, `words` of every list of the lexicon.

    agreement: share of sentences that are agreement frames; masked: share of words to be predicted.
    """

    words: Annotated[Count, Field(ge=3)]
    sentences: Annotated[Count, Field(ge=100)]
    shortest: Annotated[Count, Field(ge=5)]
    longest: int = Field(le=40)
    agreement: float = Field(ge=0, le=1)
    masked: float = Field(gt=0, lt=1)

    watched: ClassVar[dict[str, Watched]] = {
        f"uas@{label}": Watched(grammar.name(label, DIRECTION), "hits_word") for label in grammar.LABELS
    }
    onsets: ClassVar[tuple[str, ...]] = ("uas", "accuracy")
    families: ClassVar[str] = "stages/families/treebank"
    mask: ClassVar[int | None] = MASK

    @model_validator(mode="after")
    def _ordered(self) -> "Masked":
        if self.shortest + 4 > self.longest:
            raise ValueError(f"shortest, longest: {self.shortest}, {self.longest}; expected 4 words between them")
        return self

    @property
    def corpus(self) -> Corpus:
        """The training sentences, drawn once per process."""
        return drawn(self)

    @property
    def symbols(self) -> int:
        """Words and special tokens."""
        return len(self.corpus.words)

    @property
    def positions(self) -> int:
        """Words of the longest sentence, [CLS] and [SEP]."""
        return self.longest + 2

    def symbol(self, token: int) -> str:
        """Write a word."""
        return self.corpus.words[token]

    def batch(self, rng: np.random.Generator, size: int, step: int) -> Batch:
        """Draw sentences of one length, drawn by how many there are of it, and leave words out."""
        corpus = self.corpus
        lengths = sorted(corpus.ids)
        counts = np.array([len(corpus.ids[length]) for length in lengths])
        length = lengths[int(rng.choice(len(lengths), p=counts / counts.sum()))]
        rows_B = rng.integers(len(corpus.ids[length]), size=size)
        ids_BT = corpus.ids[length][rows_B]
        hidden_BT = rng.random(ids_BT.shape) < self.masked
        hidden_BT[np.arange(size), 1 + rng.integers(length, size=size)] = True  # one word at least
        hidden_BT &= (ids_BT != CLS) & (ids_BT != SEP)
        how_BT, other_BT = rng.random(ids_BT.shape), rng.integers(len(SPECIAL), len(corpus.words), ids_BT.shape)
        shown_BT = np.where(how_BT < 0.8, MASK, np.where(how_BT < 0.9, other_BT, ids_BT))
        arcs = [corpus.arcs[length][row] for row in rows_B]
        row_N = np.repeat(np.arange(size), [len(pairs) for pairs in arcs])
        one_way_N3 = np.column_stack([row_N, np.concatenate(arcs)])
        return Batch(
            np.where(hidden_BT, shown_BT, ids_BT),
            np.where(hidden_BT, ids_BT, IGNORED),
            arcs_N3=np.concatenate([one_way_N3, one_way_N3[:, [0, 2, 1]]]),
        )

    def held_out(self, rng: np.random.Generator, count: int) -> list[Tokens]:
        """Draw sentences that are not in the corpus, half of `count`, then as many pairs, all frames in turn.

        Labels with fewer than `grammar.FEWEST` arcs are left out of the measurement.
        """
        known = {sentence.tobytes() for ids_BT in self.corpus.ids.values() for sentence in ids_BT}
        held: list[Tokens] = []
        while len(held) < (count + 1) // 2:
            tokens = self._tokens(f"{len(held):04d}", "sentence", _sentence(self, rng))
            if tokens is not None and tokens.ids.tobytes() not in known:
                known.add(tokens.ids.tobytes())
                held.append(tokens)
        arcs = Counter(name for tokens in held for name, pairs in tokens.arcs.items() for _ in pairs)
        for tokens in held:
            for name in [name for name in tokens.arcs if arcs[name] < grammar.FEWEST]:
                del tokens.arcs[name]
        for _ in range(PATIENCE * count):
            if len(held) == count:
                return held
            pair = self._pair(f"{len(held):04d}", FRAMES[len(held) % len(FRAMES)], rng)
            if pair is not None and pair.ids.tobytes() not in known:
                known.add(pair.ids.tobytes())
                held.append(pair)
        raise UserError(f"a lexicon of {self.words} words a list gives only {len(held)} of {count}; raise words")

    def relation(self, name: str, tokens: Tokens) -> Relation | None:
        """Return dependents of a label and their heads."""
        return grammar.relation(tokens, name) if tokens.arcs else None

    def outcomes(self, tokens: Tokens, logprob: np.ndarray, top: np.ndarray) -> dict[str, float]:
        """Return the loss of a sentence."""
        return {"loss": float(-logprob.mean())}

    def preferred(self, pair: Pair, good: np.ndarray, bad: np.ndarray) -> dict[str, float]:
        """Return whether the good sentence scores higher, in all and by frame."""
        right = super().preferred(pair, good, bad)["accuracy"]
        return {"accuracy": right, f"accuracy@{pair.role}": right}

    def levels(self, held: list[Tokens]) -> dict[tuple[str, str], float]:
        """Return the pairs' level for a 5-gram counted on the corpus, and the arcs' for the best fixed offsets.

        An offset is chosen per label on all held-out sentences, which favours it, and scored where the heads are.
        """
        counted = KneserNey(self._numbered(), Uniform(self.symbols), ORDER)
        right: dict[str, list[float]] = {}
        for pair in held:
            if isinstance(pair, Pair):
                good, bad = (np.array([_logprob(counted, sentence.ids)]) for sentence in (pair, pair.bad))
                for measure, value in self.preferred(pair, good, bad).items():
                    right.setdefault(measure, []).append(value)
        hits = arcs = 0.0
        for label in grammar.LABELS:
            relations = [self.relation(grammar.name(label, DIRECTION), tokens) for tokens in held]
            if some := [relation for relation in relations if relation is not None]:
                offset = best_offset(some)
                for relation in relations[1::2]:  # the half on which heads are reported
                    if relation is not None:
                        hits += offset_accuracy(relation, offset) * len(relation.queries)
                        arcs += len(relation.queries)
        return {(measure, "ngram"): float(np.mean(values)) for measure, values in right.items()} | {
            ("uas", "offset"): hits / max(1.0, arcs)
        }

    def chance(self, count: int) -> dict[str, float]:
        """Return what a coin gets on the pairs."""
        return {"accuracy": 0.5}

    def _numbered(self) -> list[list[int]]:
        return [ids_T[1:].tolist() for ids_BT in self.corpus.ids.values() for ids_T in ids_BT]

    def _pair(self, name: str, frame: str, rng: np.random.Generator) -> Pair | None:
        """Draw a pair whose subject and predicate are never trained on together; None where it does not fit."""
        words = lexicon(self.words)
        tree = agreement(Draw(words, rng), frame, opposite=True)
        good, bad = (self._tokens(name, frame, spell(chosen(tree, which), words.a, words.an)) for which in (0, 1))
        subject = next(child.word for child in tree.left if child.label == "nsubj")
        predicate = chosen(tree, 0).word
        if good is None or bad is None or not withheld(subject, predicate, self.words):
            return None
        return Pair(name, frame, good.ids, good.special, good.target, bad=bad)

    def _tokens(self, name: str, role: str, sentence: Sentence) -> Tokens | None:
        """Number a sentence's words; None where one is not in the corpus or there are too many or too few."""
        number, words = self.corpus.number, _words(sentence)
        if not self.shortest <= len(words) <= self.longest or not all(word in number for word in words):
            return None
        ids = np.array([CLS, *(number[word] for word in words), SEP])
        places = tuple(np.array([index + 1]) for index in range(len(words)))
        arcs: dict[str, list[tuple[int, int]]] = {}
        for index, word in enumerate(sentence.words):
            label = grammar.measured_label(word.label)
            if word.head is not None and label is not None:
                arcs.setdefault(grammar.name(label, DIRECTION), []).append((index, word.head))
        special = np.isin(ids, (CLS, SEP))
        return Tokens(name, role, ids, special, np.flatnonzero(~special), words=places, arcs=arcs)


@cache
def lexicon(count: int) -> treebank_words.Lexicon:
    """Return the treebank's lexicon with `count` words of each list."""
    return fewer(treebank_words.load(LEXICON), count)


@cache
def _forms(count: int) -> dict[str, str]:
    return lemmas(lexicon(count))


@cache
def _subjects(count: int) -> frozenset[str]:
    words = lexicon(count)
    return frozenset(words.nouns["person"] + words.nouns["relative"])


def withheld(subject: str, predicate: str, count: int) -> bool:
    """Whether a subject and its predicate, in whatever form, are kept for the pairs."""
    forms = _forms(count)
    subject, predicate = (forms.get(word, word) for word in (subject, predicate))
    return subject in _subjects(count) and crc32(f"{subject} {predicate}".encode()) % HELD == 0


@cache
def drawn(lesson: Masked) -> Corpus:
    """Draw the corpus of a lesson: distinct sentences, without the combinations that are kept for the pairs."""
    rng, sentences = stream(0, "recipes/masked/corpus"), {}
    while len(sentences) < lesson.sentences:
        sentence = _sentence(lesson, rng)
        sentences[sentence.text] = sentence
    words = [*SPECIAL, *sorted({word for sentence in sentences.values() for word in _words(sentence)})]
    number = {word: index for index, word in enumerate(words)}
    ids: dict[int, list[list[int]]] = {}
    arcs: dict[int, list[np.ndarray]] = {}
    for sentence in sentences.values():
        length = len(sentence.words)
        ids.setdefault(length, []).append([CLS, *(number[word] for word in _words(sentence)), SEP])
        gold = [(i, word.head) for i, word in enumerate(sentence.words) if word.head is not None]
        gold = [pair for pair in gold if sentence.words[pair[0]].label != "punct"]
        arcs.setdefault(length, []).append(np.array(gold, dtype=np.int64).reshape(-1, 2) + 1)
    return Corpus({length: np.array(rows) for length, rows in sorted(ids.items())}, arcs, tuple(words))


def _sentence(lesson: Masked, rng: np.random.Generator) -> Sentence:
    """Draw one sentence of the mixture, without withheld combinations."""
    words, names = lexicon(lesson.words), list(CONSTRUCTIONS)
    frame = rng.random() < lesson.agreement
    while True:
        draw = Draw(words, rng)
        if frame:
            tree = chosen(agreement(draw, draw.either(*FRAMES), opposite=False), 0)
        else:
            tree = CONSTRUCTIONS[draw.either(*names)](draw).after(Tree(".", "punct", tight=True))
        if lesson.shortest <= sum(1 for _ in tree.walk()) <= lesson.longest and not any(
            withheld(subject, predicate, lesson.words) for subject, predicate in subjects(tree)
        ):
            return spell(tree, words.a, words.an)


def _words(sentence: Sentence) -> list[str]:
    return [sentence.text[word.start : word.end].lower() for word in sentence.words]


def _logprob(model: KneserNey, ids: Sequence[int]) -> float:
    words = [int(word) for word in ids[1:]]  # [SEP] is the end of the sentence
    return math.fsum(math.log(model.probability(word, words[:index])) for index, word in enumerate(words))


LESSON = Masked
