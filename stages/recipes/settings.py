"""What users write under `recipes`: how small models are trained, or whose checkpoints are read, and how measured."""

import hashlib
import json
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Discriminator,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from stages.store.section import Count, Name, Natural, Positive, Section

STEPS = 10**9  # of a training that others did, at most
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a running mean, which at 1 would never hear of a step


class Architecture(Section):
    """A GPT-2, Llama, (masked) BERT or ViT built small: `inner` = hidden units of its MLPs, 0 = attention only.

    BERT and ViT are not built without MLPs; bag: MLPs alone (stages/training/bag.py), `heads` mean nothing to it.
    registers: learned tokens before all others (of lessons about states).

    embedding_range, attention_range: standard deviation at the start of the token embeddings and of the query and key
    weights (GPT-2), where it is not initializer_range; small query and key weights start from uniform attention.
    """

    type: Literal["gpt2", "llama", "bert", "vit", "bag"]
    layers: Count
    heads: Count
    width: Count
    inner: Natural
    activation: Literal["relu", "gelu_new", "silu"] = "gelu_new"
    initializer_range: Annotated[float, Field(gt=0, le=10)]
    registers: Natural = 0
    positions: Literal["learned", "sinusoids"] = "learned"
    amplitude: Positive = 0.2
    embedding_range: Positive | None = None
    attention_range: Positive | None = None

    @model_serializer(mode="wrap")
    def _without_registers(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out registers where there are none: results made before there were any keep their hash."""
        content = write(self)
        return content if self.registers else {key: value for key, value in content.items() if key != "registers"}

    @model_validator(mode="after")
    def _ranges(self) -> "Architecture":
        if self.type != "gpt2" and (self.embedding_range or self.attention_range):
            raise ValueError(f"embedding_range and attention_range are of gpt2, not of {self.type}")
        return self

    @model_validator(mode="after")
    def _divides(self) -> "Architecture":
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} is not divisible by heads: {self.heads}")
        if self.type == "llama" and self.width // self.heads % 2:
            raise ValueError(
                f"width: {self.width} / heads: {self.heads} is odd; llama turns pairs of a head's channels"
            )
        if self.type in ("bert", "vit", "bag") and not self.inner:
            raise ValueError(f"inner: 0; {self.type} needs MLPs")
        if self.type == "vit" and self.inner % self.width:
            raise ValueError(f"inner: {self.inner} is no multiple of width: {self.width}; vit needs one")
        return self


class Optimizer(Section):
    """AdamW: warm-up to `learning_rate`, then constant or down to 0 along a cosine; gradients clipped by norm."""

    learning_rate: Positive
    schedule: Literal["constant", "cosine"]
    warmup: Natural
    decay: Annotated[float, Field(ge=0)]
    betas: tuple[Decay, Decay]
    clip: Positive


class Checkpoints(Section):
    """When weights are kept: step 0, `even` evenly spaced steps up to the last, `early` logarithmically spaced ones."""

    even: Count
    early: Natural = 0


class First(Section):
    """What a model learns before: other `arguments` of the same task, for `steps` (transfer); `first`: before that."""

    arguments: dict[str, Any]
    steps: Count
    first: "First | None" = None


class Training(Section):
    """One model trained from scratch, `seeds` times.

    arcs: factor of the loss term on attention along the task's arcs; negative rewards it, positive punishes it.
    """

    arguments: dict[str, Any]
    architecture: Architecture
    optimizer: Optimizer
    steps: Count
    batch: Count
    seeds: Count
    checkpoints: Checkpoints
    first: First | None = None
    arcs: float = 0.0

    @model_validator(mode="after")
    def _kept_at_most_once(self) -> "Training":
        if max(self.checkpoints.even, self.checkpoints.early) > self.steps:
            raise ValueError(f"checkpoints: {self.checkpoints}: more than steps: {self.steps}")
        return self

    @property
    def before(self) -> "list[First]":
        """What is learned before, in its order."""
        stages, stage = [], self.first
        while stage is not None:
            stages, stage = [stage, *stages], stage.first
        return stages

    @property
    def kept(self) -> list[int]:
        """Steps at which a checkpoint is kept, ascending; step n = after n updates."""
        even = {round(self.steps * index / self.checkpoints.even) for index in range(self.checkpoints.even + 1)}
        early = range(self.checkpoints.early)
        return sorted(even | {round(self.steps ** (index / self.checkpoints.early)) for index in early})


class Revisions(Section):
    """Checkpoints that others trained, in the place of a `Training`: revisions of a model, by training step.

    revisions: training step -> commit (`hub`, 40 hex digits) or subfolder of the folder `name` (`path`).
    """

    arguments: dict[str, Any]
    source: Literal["hub", "path"]
    name: str = Field(min_length=1)
    revisions: dict[Annotated[int, Field(ge=0, le=STEPS)], Annotated[str, Field(min_length=1)]] = Field(min_length=2)

    @field_validator("revisions")
    @classmethod
    def _pinned(cls, revisions: dict[int, str], info: ValidationInfo) -> dict[int, str]:
        for step, revision in revisions.items():
            if info.data.get("source") == "hub" and not re.fullmatch("[0-9a-f]{40}", revision):
                raise ValueError(f"step {step}: {revision!r} is no full commit; allowed: 40 hex digits")
        return revisions

    @property
    def before(self) -> "list[First]":
        """What is learned before, as of a `Training`: nothing that is known here."""
        return []

    @property
    def kept(self) -> list[int]:
        """Training steps of the revisions, ascending."""
        return sorted(self.revisions)

    @property
    def steps(self) -> int:
        """The last step."""
        return max(self.revisions)

    @property
    def seeds(self) -> int:
        """Revisions are of one run."""
        return 1


VARIANTS = {"[training]": Training, "[revisions]": Revisions}  # what may stand under `train`


def _variant(value: Any) -> str:
    """Tell which of the two a user wrote: a `Training` has no source."""
    if isinstance(value, dict):
        return "[revisions]" if {"source", "revisions"} & set(value) else "[training]"
    return "[revisions]" if isinstance(value, Revisions) else "[training]"


def _window(value: Any) -> int | str:
    factor = isinstance(value, str) and re.fullmatch(r"x\d+(\.\d+)?", value)
    if (type(value) is int and 1 <= value <= STEPS) or (factor and 1 < float(value[1:]) <= STEPS):
        return value
    raise ValueError(f"allowed: a number of steps up to {STEPS:,}, such as 200, or a factor above 1, such as x4")


class Measuring(Section):
    """How checkpoints are measured: held-out sequences, where a rise counts as one, bootstrap samples.

    window: a number of steps, or a factor by which the step grows (`x4`) for checkpoints that double apart.
    """

    sequences: Annotated[Count, Field(ge=8)]
    window: Annotated[int | str, PlainValidator(_window)]
    bootstrap: Annotated[Count, Field(ge=200)]

    @property
    def steps(self) -> int:
        """The window as a number of steps; 0 where it is a factor."""
        return self.window if isinstance(self.window, int) else 0

    @property
    def factor(self) -> float | None:
        """The window as a factor on 1 + step; None where it is a number of steps."""
        return float(self.window[1:]) if isinstance(self.window, str) else None


class Recipe(Section):
    """A lesson (`task`: stages/recipes/<task>.py), how a model learns it, variants (`arms`), how they are measured.

    `train` is a `Training`, or `Revisions` where others did the training. `reads`, `words`: the code and the words that
    the lesson's data come from besides, deps of `train` and `dynamics` in dvc.yaml. `families`: the folder whose
    relations are measured, a dep of `dynamics`.

    An arm changes keys of `train`, such as {architecture: {layers: 1}}; `main` is the arm that the others control.
    """

    task: Name
    reads: str = Field(min_length=1)
    words: str = Field(min_length=1)
    families: str = Field(min_length=1)
    train: Annotated[
        Annotated[Training, Tag("[training]")] | Annotated[Revisions, Tag("[revisions]")], Discriminator(_variant)
    ]
    main: Name
    arms: dict[Name, dict[str, Any]] = Field(min_length=1)
    study: Measuring

    def arm(self, name: str) -> Training | Revisions:
        """Return what an arm trains: `train` with the arm's keys in their places."""
        return type(self.train).model_validate(_changed(self.train.model_dump(), self.arms[name]))

    @property
    def ordered(self) -> list[str]:
        """Names of the arms, the main one first, then by name."""
        return [self.main, *sorted(set(self.arms) - {self.main})]

    @model_validator(mode="after")
    def _arms(self) -> "Recipe":
        if self.main not in self.arms:
            raise ValueError(f"main: {self.main} is none of arms: {', '.join(self.arms)}")
        for name in self.arms:
            try:
                self.arm(name)
            except ValidationError as error:
                first = error.errors()[0]
                what = first["msg"].removeprefix("Value error, ")
                if first["type"] == "extra_forbidden":
                    what = f"unknown key; allowed: {', '.join(_fields(type(self.train), first['loc'][:-1]))}"
                raise ValueError(f"arm {name}: {'.'.join(map(str, first['loc']))}: {what}") from None
        return self


def _fields(section: Any, where: tuple[Any, ...]) -> list[str]:
    """Return the keys allowed at a key path of a section."""
    for part in where:
        annotation = section.model_fields[part].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    return sorted(section.model_fields)


def digest(seed: int, recipe: Recipe) -> str:
    """Return the sha256 of all that a recipe's results depend on in params: the seed and the recipe, as sorted JSON."""
    content = json.dumps(
        {"seed": seed, "recipe": recipe.model_dump(mode="json", exclude={"reads", "words", "families"})}, sort_keys=True
    )
    return hashlib.sha256(content.encode()).hexdigest()


def _changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the changes in it; dictionaries are changed key by key."""
    both = [key for key in changes if isinstance(changes[key], dict) and isinstance(base.get(key), dict)]
    return base | changes | {key: _changed(base[key], changes[key]) for key in both}
