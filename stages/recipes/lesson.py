"""What a recipe teaches: batches to learn from, held-out sequences to be measured on, and what is scored on them.

A lesson is one module here that defines `LESSON`, a class of `Lesson`: its fields are the arguments that the user
writes in params.yaml under `recipes.<recipe>.train.arguments`, its methods make the data, and `recipes.<recipe>.task`
names its module. Pure numpy: no torch, no model.

Legend: B batch, T token.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import ValidationError

from stages.families.family import Relation, Tokens
from stages.recipes.settings import Recipe, Training
from stages.store import source
from stages.store.errors import UserError
from stages.store.section import Section

IGNORED = -100  # label of a position whose prediction is not trained


@dataclass(frozen=True)
class Batch:
    """What one training step sees; int64, images float32.

    ids_BT: token ids, or images (B, rows, columns); labels_BT: per position, the token that the model should predict
    there, or `IGNORED`.
    positions_BT: position ids where they are not 0, 1, 2 ...
    arcs_N3: (row, query, key) of the attention that `Training.arcs` rewards or punishes.
    pixels_BTP: numbers that every token should give besides.
    """

    ids_BT: np.ndarray
    labels_BT: np.ndarray
    positions_BT: np.ndarray | None = None
    arcs_N3: np.ndarray | None = None
    pixels_BTP: np.ndarray | None = None


@dataclass(frozen=True)
class Pair(Tokens):
    """A held-out sequence and the one that it should be preferred to."""

    bad: Tokens | None = None


class Watched(NamedTuple):
    """Attention that is watched: of which relation, which statistic of `measure`, in one layer or (None) in any."""

    relation: str
    statistic: Literal["mass", "over_half", "hits", "hits_word"] = "mass"
    layer: int | None = None


class Lesson(Section):
    """Base of all lessons: arguments as fields; what every subclass defines is below.

    watched: measure -> which heads' attention it is, at every checkpoint.
    falls: measures that are better when lower.
    onsets: measures whose onsets are compared, in the order in which theory expects them; the last is what is learned.
    solved: measure -> the level from which on it counts as solved.

    decoded: what is pictured is written by the model itself, from the first target on.
    families: what recipes name as `families`: the folder of families whose relations it looks at.
    trained: models are trained from scratch; False: `train` lists revisions of a pretrained model.

    mask: token that hides another one, for models that fill gaps; None for those that read from left to right.

    Outcomes are also broken down: `<measure>@<part>` is a measure on a part of the sequences. Where the parts are
    watched relations between words, their average over arcs, each with its own best head, is the measure (uas).
    """

    watched: ClassVar[dict[str, Watched]]
    falls: ClassVar[frozenset[str]] = frozenset({"loss"})
    onsets: ClassVar[tuple[str, ...]]
    solved: ClassVar[dict[str, float]] = {}
    decoded: ClassVar[bool] = False
    families: ClassVar[str] = "stages/families"
    trained: ClassVar[bool] = True
    mask: ClassVar[int | None] = None

    @property
    def symbols(self) -> int:
        """Number of different tokens."""
        raise NotImplementedError

    @property
    def positions(self) -> int:
        """Length of the longest sequence, tokens."""
        raise NotImplementedError

    def symbol(self, token: int) -> str:
        """Write a token."""
        return str(token)

    def batch(self, rng: np.random.Generator, size: int, step: int) -> Batch:
        """Draw `size` training sequences; `step`: updates so far, for lessons that begin easier or harder."""
        raise NotImplementedError

    def held_out(self, rng: np.random.Generator, count: int) -> list[Tokens]:
        """Draw `count` sequences that no training batch holds; `target` = the positions whose tokens are scored.

        Every other one is of split a: no sequence may lie in both halves.
        """
        raise NotImplementedError

    def shown(self, held: list[Tokens]) -> int:
        """Return which held-out sequence is pictured."""
        return 0

    def relation(self, name: str, tokens: Tokens) -> Relation | None:
        """Find one of the watched relations in a held-out sequence; None where it has none."""
        raise NotImplementedError

    def outcomes(self, tokens: Tokens, logprob: np.ndarray, top: np.ndarray) -> dict[str, float]:
        """Turn a held-out sequence's scored tokens into measures; one that it does not define is left out.

        logprob: natural log-probability of every target token, (N,); top: it is the model's argmax, (N,).
        """
        raise NotImplementedError

    def preferred(self, pair: Pair, good: np.ndarray, bad: np.ndarray) -> dict[str, float]:
        """Turn both sequences' log-probabilities into measures: a tie is half right."""
        margin = float(good.astype(float).sum() - bad.astype(float).sum())
        return {"accuracy": 0.5 if margin == 0 else float(margin > 0)}

    def levels(self, held: list[Tokens]) -> dict[tuple[str, str], float]:
        """Return what simpler means reach on the held-out sequences: (measure, name of the means) -> value."""
        return {}

    def chance(self, count: int) -> dict[str, float]:
        """Return what the best guess gets on `count` held-out sequences, by measure, where that is known exactly."""
        return {}

    @property
    def remarks(self) -> str:
        """What a reader of its results must know about the measures, in sentences."""
        return ""


def names() -> list[str]:
    """Return the names of all lessons."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [path.stem for path in files if "\nLESSON = " in path.read_text(encoding="utf-8")]


def of(name: str) -> type[Lesson]:
    """Return the lesson of a name."""
    return import_module(f"stages.recipes.{name}").LESSON


def create(name: str, recipe: Recipe, arguments: dict) -> Lesson:
    """Build the lesson of a recipe from its arguments.

    Raises `UserError` naming the key in params.yaml when the lesson or an argument is not known.
    """
    where = f"params.yaml: recipes.{name}"
    if recipe.task not in names():
        raise UserError(f"{where}.task = {recipe.task!r}: no such lesson; allowed: {', '.join(names())}")
    kind = of(recipe.task)
    if kind.trained != isinstance(recipe.train, Training):
        needs = "is trained from scratch: architecture, optimizer, steps ..." if kind.trained else "needs revisions"
        raise UserError(f"{where}.task = {recipe.task!r}: this lesson {needs}; allowed under train: see README.md")
    try:
        return kind(**arguments)
    except ValidationError as error:
        # what the user wrote comes first
        first = min(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden")
        key = ".".join(map(str, (_written(recipe, arguments), *first["loc"])))
        allowed = f"; allowed: {', '.join(kind.model_fields)}" if first["type"] == "extra_forbidden" else ""
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}.{key} = {source.shown(first['input'])}: {what}{allowed}") from None


def _written(recipe: Recipe, arguments: dict) -> str:
    """Return where in a recipe the arguments of a lesson stand: under `train`, or in the arm that changes them."""
    if arguments == recipe.train.arguments:
        return "train.arguments"
    arms = [name for name in recipe.arms if arguments == recipe.arm(name).arguments]
    return f"arms.{arms[0]}.arguments" if arms else "first.arguments"
