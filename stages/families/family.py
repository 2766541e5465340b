"""A head family is a relation between positions: from which queries to which keys a head of that family looks.

`Tokens` is one prompt in a model's tokens; a family's `relation` turns it into the query positions that have the
relation and, for each, the keys it should look at. Measuring is `stages.model.measure`'s work, verdicts are
`stages.statistics.verdict`'s; a family itself knows neither torch nor tables.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.sparse import csr_array

CLASS, REGISTER = -1, -2  # ids of an image's tokens that are no patches; patches are numbered from 0, row by row
WORD = "word"  # the annotated relation of a word with itself: it says where the words are


@dataclass(frozen=True)
class Tokens:
    """One tokenised prompt: what a relation may look at.

    ids, special: (T,), token ids and whether a token is special (BOS, [CLS] ...); of an image `CLASS`, `REGISTER` or
        the number of the patch.
    target: positions of the tokens of targets[0]; each is predicted by the position before it.
    spans: name -> list of (query token positions, key token positions), from the prompt's character spans.
    words: token positions of each annotated word, in order; a token may belong to several.
    arcs: name -> list of (query word, key word), indices into `words`.
    pixels, columns: of an image, (C, H, W) as the model reads it, and its patches in a row.
    """

    prompt: str
    role: str
    ids: np.ndarray
    special: np.ndarray
    target: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    spans: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    words: tuple[np.ndarray, ...] = ()
    arcs: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    pixels: np.ndarray | None = None
    columns: int = 0

    @property
    def read(self) -> np.ndarray:
        """What a forward pass is given: the ids, or an image's pixels."""
        return self.ids if self.pixels is None else self.pixels

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Relation:
    """Query positions (Q,) and, for each, the target keys as a (Q, T) boolean matrix, dense or sparse (CSR)."""

    queries: np.ndarray
    keys: np.ndarray | csr_array
    words: bool = False  # queries and keys are indices into `Tokens.words`
    sink: bool = False  # a learned sink, which is no token, is a target as well

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The targets one by one: of each the row of its query in `queries`, and its position; by row, then key."""
        rows, keys = self.keys.nonzero()
        return rows.astype(np.int64), keys.astype(np.int64)

    @property
    def dense(self) -> np.ndarray:
        """The matrix, with all that is no target."""
        return self.keys if isinstance(self.keys, np.ndarray) else self.keys.toarray()


@dataclass(frozen=True)
class Family:
    """One family of heads: what it looks at, how it is scored, when a head is a member, and who found it.

    relation: Tokens -> Relation, or None where a prompt has none; None for families that are not attentional.
    statistic: 'mass' (share of attention), 'over_half' (share of queries with more than half of it on target), 'hits'
        (share of queries with the argmax on target), 'hits_word' (the same over words: queries and keys of the relation
        are indices into `Tokens.words`) or 'effect'.
    content: a fixed offset could fake it, so the lower bound must also beat the best fixed offset.
    tested: False where mass says nothing against chance, so that there is no p-value.
    home: tasks that the family's heads are asked about by silencing them; none: no causal evidence is sought.
    home_condition: the condition of prompts of its home tasks that it is asked about; '' for all.
    joint: families with the same `joint` name are silenced together, under it: their best heads in any of them.
    within: families whose relation holds every pair of this one's (where both are asked): a head with enough attention
        here has it there as well, so that members in both are no finding.
    """

    name: str
    order: int
    task: str
    threshold: float
    convention: bool
    statistic: Literal["mass", "over_half", "hits", "hits_word", "effect"]
    content: bool
    relation_text: str
    source: str
    relation: Callable[[Tokens], Relation | None] | None = None
    tested: bool = True
    solved_only: bool = False
    home: tuple[str, ...] = ()
    home_condition: str = ""
    joint: str = ""
    within: tuple[str, ...] = ()


def target(tokens: Tokens) -> np.ndarray:
    """Score every token of the target."""
    return tokens.target


@dataclass(frozen=True)
class Outcomes:
    """What is said, beside the heads measured on a task's prompts, of the model: where checkpoints are measured.

    names: the measures, in the order in which they are shown; falls: those of which less is better.
    measures: log-probabilities of the scored tokens (N,), nats, and whether each is the argmax -> measure -> value.
    scored: a prompt's tokens -> positions that are scored, (N,). The position before predicts.
    """

    names: tuple[str, ...]
    measures: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    falls: tuple[str, ...] = ()
    scored: Callable[[Tokens], np.ndarray] = target


def quarters(logprob: np.ndarray) -> tuple[float, float] | None:
    """Return the mean loss, nats per token, in the first and in the last quarter; None where there are none."""
    quarter = len(logprob) // 4
    return (-logprob[:quarter].mean(), -logprob[-quarter:].mean()) if quarter else None


def one_key(length: int, queries: np.ndarray, keys: np.ndarray) -> Relation | None:
    """Build the relation in which query i looks at the single key i."""
    if not len(queries):
        return None
    return sparse(length, queries, np.asarray(keys)[:, None])


def sparse(length: int, queries: np.ndarray, keys_QN: np.ndarray, sink: bool = False) -> Relation:
    """Build the relation in which query i looks at the keys keys_QN[i], no key twice; what is below 0 is none."""
    rows, columns = np.nonzero(keys_QN >= 0)
    targets = np.ones(len(rows), dtype=bool)
    matrix = csr_array((targets, (rows, keys_QN[rows, columns])), shape=(len(queries), length))
    return Relation(np.asarray(queries), matrix, sink=sink)


def where(queries: np.ndarray, keys: np.ndarray) -> Relation | None:
    """Keep the queries that have a target key; None if none has."""
    has = keys.any(axis=1)
    return Relation(np.asarray(queries)[has], keys[has]) if has.any() else None
