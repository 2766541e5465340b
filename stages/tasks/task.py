"""What a task is: where its prompts come from, which tokens are scored, and what the scores say.

A task knows neither torch nor tokenizers nor tables: `scored` and `measures` are given a prompt's tokens and what a
model makes of them, and return positions and numbers. Adding a task is adding a folder (see `stages.tasks`).

Legend: T token, N scored token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import AfterValidator

from stages.store import source
from stages.store.errors import UserError
from stages.store.section import Place, Section
from stages.tasks.prompt import Prompt, few_enough

IMAGES_UNSCORED = "nothing is asked of a model of images that losing a head could change: its heads are looked at only"


class Source(Section):
    """Where a task's prompts come from: `builtin` (path = the lexicon), `path` (your file or folder) or `hub`."""

    source: Literal["builtin", "path", "hub"] = "builtin"
    path: Place


def _demonstration(template: str) -> str:
    if template.count("{x}") != 1 or template.count("{y}") != 1:
        raise ValueError("must contain {x} once and {y} once")
    if template.index("{x}") > template.index("{y}"):
        raise ValueError("{x} must come before {y}")
    before, _, rest = template.partition("{x}")
    between, _, after = rest.partition("{y}")
    if not between or not before + after:
        raise ValueError("something must stand between {x} and {y}, and before or after both")
    return template


Template = Annotated[str, AfterValidator(_demonstration)]  # one demonstration of y for x, as params.yaml writes it


class Read(Protocol):
    """One sequence as a model reads it: ids and special (T,), and the positions of the target's tokens (N,)."""

    ids: np.ndarray
    special: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        """Return T."""


class Answered(Protocol):
    """What a model makes of scored tokens: log-probabilities (N,), nats, and whether each is the argmax (N,)."""

    logprob: np.ndarray
    top: np.ndarray


def unscored(read: Sequence[Read], answered: Sequence[Answered]) -> dict[str, float]:
    """Say nothing: only attention is looked at."""
    return {}


def whole_target(read: Sequence[Read]) -> tuple[np.ndarray, ...]:
    """Score every token of the target."""
    return tuple(tokens.target for tokens in read)


def mean_loss(read: Sequence[Read], answered: Sequence[Answered]) -> dict[str, float]:
    """Return the mean negative log-probability of the scored tokens, nats per token; nothing where none is scored."""
    if not len(answered[0].logprob):
        return {}
    return {"loss": -float(answered[0].logprob.mean(dtype=np.float64))}


def recalled(read: Sequence[Read], answered: Sequence[Answered]) -> dict[str, float]:
    """Return the share of scored tokens that are the argmax, and their mean log-probability (nats)."""
    (answer,) = answered
    return {"recall": float(answer.top.mean()), "logprob": float(answer.logprob.mean())}


@dataclass(frozen=True)
class Task:
    """One task.

    name, order: of its folder, and its place among the others where they are shown.
    label: what its prompts are called in a sentence ("minimal pairs").
    unit: what its clusters are called: the units that the bootstrap resamples, such as "facts".
    settings: the section of params.yaml, `tasks.<name>`.
    targets: how many continuations of a prompt are scored: 2 are rivals, scored whole (models that fill gaps can too).
    scored: the sequences of one prompt, one per target -> the positions scored in each. The position before predicts.
    measures: those sequences and what a model makes of them -> measure -> value of the prompt.
    main: the measure that claims are made with; "" where nothing is scored.
    smooth: the measure that gradients are taken of: a mean, or for rivals a difference, of log-probabilities.
    falls: measures of which less is better.
    beside: measures that say something about the prompts, not about the model's skill; they stand beside `main`.
    chance: measure -> what a guess gets, where that is one number.
    chance_in: part (of `parts`) -> what a guess gets in `main` there, where parts differ in that.
    needs: "decoder" where a continuation is written, else "".
    reads: what a prompt is: "text", or an "image" (its `text` is a data URI of a PNG).
    roles: roles of the prompts that extract measures and counting answers; () for all.
    silenced_on: whether heads are silenced on a prompt: (its row, the task's section of params) -> yes or no.
    traced: its parts are functions that `trace` looks for in heads, where the model solves them.
    steered: whether `steer` also answers one of its prompts of role zero_shot and split b: (its row, its tokens with
        their spans) -> yes or no. Its `condition` is a function of a traced task, whose vectors it is answered under,
        and its `category` then stands as the context. None: it answers none.
    extracted: the table of extract ("solved", "relations") and its column that hold `main` of every prompt already.
    outputs: which head outputs extract averages over prompts: those at the "last" token of prompts that the model
        answers right (and residuals there), their "mean" over a prompt's ordinary tokens, or "" for none.
    half: cluster -> the half of its split's clusters, '0' or '1', that means at the last token are taken over apart.
    mean_role: role of the prompts whose mean outputs are written in silenced heads' places, "" for all; of the first
        task in display order that keeps means.
    parts: the column of the prompts that results are broken down by, "condition" or "category"; "" for none.
    part: what such a part is called, one and many: ("phenomenon", "phenomena").
    own_section: the page has a section for it alone: it stands in none that lists all tasks.
    own_stage: a stage of its own scores its prompts, intact and silenced; ablate does not.
    counted: both n-gram baselines (`stages.baseline.outcome.Baselines`) and a prompt -> baseline -> measure -> value;
        None where counting words says nothing.
    """

    name: str
    order: int
    label: str
    unit: str
    settings: type[Source]
    measures: Callable[[Sequence[Read], Sequence[Answered]], dict[str, float]] = unscored
    main: str = ""
    smooth: str = ""
    scored: Callable[[Sequence[Read]], tuple[np.ndarray, ...]] = whole_target
    targets: int = 1
    falls: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    chance: Mapping[str, float] = field(default_factory=dict)
    chance_in: Mapping[str, float] = field(default_factory=dict)
    needs: Literal["decoder", ""] = ""
    reads: Literal["text", "image"] = "text"
    roles: tuple[str, ...] = ()
    silenced_on: Callable[[Any, Any], bool] = lambda prompt, settings: True
    traced: bool = False
    steered: Callable[[Any, Any], bool] | None = None
    extracted: tuple[str, str] = ("", "")
    outputs: Literal["last", "mean", ""] = ""
    half: Callable[[str], str] = lambda cluster: ""
    mean_role: str = ""
    parts: Literal["condition", "category", ""] = ""
    part: tuple[str, str] = ("", "")
    own_section: bool = False
    own_stage: bool = False
    counted: Callable[[Any, Any], dict[str, dict[str, float]]] | None = None

    def build(self, settings: Source, seed: int) -> list[Prompt]:
        """Build the prompts by the folder's prompts.py; both splits get some of each role where there are two clusters.

        Raises `UserError` where the source is missing, malformed or too small.
        """
        prompts = import_module(f"stages.tasks.{self.name}.prompts").build(settings, seed)
        if not prompts:
            raise UserError(f"{settings.path}: nothing in it is a prompt of tasks.{self.name}; expected one at least")
        few_enough(f"tasks.{self.name}", len(prompts))
        for prompt in prompts:  # of the hub: what files hold was looked at where they are read
            if found := source.CONTROL.search("".join((prompt.text, *prompt.targets))):
                raise UserError(f"{prompt.id}: {found[0]!r} is a control character; expected text")
        return in_both_splits(prompts)

    def refuses(self, kind: str) -> str:
        """Return why a model of a kind (decoder, encoder, masked, vision) cannot be asked, or ''."""
        if (self.reads == "image") != (kind == "vision"):
            return "a model of text reads no images" if self.reads == "image" else "a model of images reads no text"
        return "an encoder writes no continuation" if self.needs == "decoder" and kind != "decoder" else ""


def in_both_splits(prompts: list[Prompt]) -> list[Prompt]:
    """Return the prompts; where all of a role are in one split (few prompts), its clusters take turns instead."""
    moved: dict[str, str] = {}  # cluster -> split
    for role in dict.fromkeys(prompt.role for prompt in prompts):
        inside = [prompt for prompt in prompts if prompt.role == role]
        if len({prompt.split for prompt in inside}) == 1:
            clusters = dict.fromkeys(prompt.cluster for prompt in inside)
            moved |= {cluster: "ab"[number % 2] for number, cluster in enumerate(clusters)}
    return [replace(p, split=moved[p.cluster]) if p.cluster in moved else p for p in prompts]


def one_sided(prompts: Sequence[Prompt]) -> str:
    """Return why a role has prompts in one split only, or ''."""
    for role in dict.fromkeys(prompt.role for prompt in prompts):
        inside = [prompt for prompt in prompts if prompt.role == role]
        if len({prompt.split for prompt in inside}) < 2:
            return f"all {role} prompts are of one cluster: nothing is left to report on; ask for more"
    return ""
