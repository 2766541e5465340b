"""What users write in params.yaml: one frozen pydantic model per section; unknown keys and wild values are errors.

`load` validates the whole file, so that a misspelt key is found by the first stage that runs.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from stages.store import paths
from stages.store.errors import UserError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Kind = Annotated[str, Field(pattern=r"^[a-z_]+$")]  # a function of stages/model/silence.py, which ablate checks
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
SHOWN = 200  # characters of a wrong value in a message


def _distinct(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("each value may stand once")
    return values


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(Section):
    """Where a slot's weights come from."""

    source: Literal["package", "hub", "path"]
    name: str = Field(min_length=1)
    revision: str = ""

    @model_validator(mode="after")
    def _pinned(self) -> "Model":
        if self.source == "hub" and len(self.revision) != 40:
            raise ValueError("revision: a hub model is pinned by its full commit, 40 hex digits")
        return self


class Task(Section):
    """Where a task's prompts come from: `builtin` (path = the lexicon), `path` (your file or folder) or `hub`."""

    source: Literal["builtin", "path", "hub"] = "builtin"
    path: str


class Text(Task):
    """Plain English: long passages for positions and windows, short ones for sinks."""

    source: Literal["builtin", "path"] = "builtin"
    passages: Count
    tokens: Annotated[int, Field(ge=32)]
    short_passages: Count
    short_tokens: Annotated[int, Field(ge=8)] = 64


class Blimp(Task):
    """Minimal pairs."""

    hub: str = "nyu-mll/blimp"
    revision: str = ""
    pairs: Count
    leading_space: bool
    bos: bool


class Icl(Task):
    """In-context functions."""

    source: Literal["builtin", "path"] = "builtin"
    functions: tuple[str, ...]
    shots: Annotated[int, Field(ge=2)]
    sets: Annotated[int, Field(ge=2)]
    queries: Count
    template: str

    @model_validator(mode="after")
    def _slots(self) -> "Icl":
        if self.template.count("{x}") != 1 or self.template.count("{y}") != 1:
            raise ValueError("template: must contain {x} once and {y} once")
        return self


class Needle(Task):
    """One odd fact in a haystack of plain text (`path`), and a question about it."""

    source: Literal["builtin", "path"] = "builtin"
    lengths: tuple[Annotated[int, Field(ge=50)], ...] = Field(min_length=1)
    depths: tuple[Share, ...] = Field(min_length=1)
    trials: Annotated[int, Field(ge=2)]


class Repeats(Task):
    """Random ordinary tokens, repeated."""

    source: Literal["builtin"] = "builtin"
    prompts: Count
    shortest: Annotated[int, Field(ge=4)]
    longest: Annotated[int, Field(ge=4)]
    copies: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _ordered(self) -> "Repeats":
        if self.longest < self.shortest:
            raise ValueError(f"longest: {self.longest} is below shortest: {self.shortest}")
        return self


class Treebank(Task):
    """Parsed sentences (Universal Dependencies): from our generator, CoNLL-U files (`path`) or the `datasets` hub."""

    hub: str = "commul/universal_dependencies"
    config: str = "en_ewt"
    revision: str = ""
    sentences: Count
    shortest: Annotated[int, Field(ge=2)]
    longest: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _ordered(self) -> "Treebank":
        if self.longest < self.shortest:
            raise ValueError(f"longest: {self.longest} is below shortest: {self.shortest}")
        return self


class Iteration(Task):
    """Strings of letters and their tapes: `prompts` per function, each with `examples` solved ones (lines) before.

    Strings have `shortest` to `longest` symbols; no example is as long as the last string.
    """

    source: Literal["builtin"] = "builtin"
    prompts: Annotated[int, Field(ge=2)]
    examples: Count
    shortest: Annotated[int, Field(ge=2)]
    longest: Count

    @model_validator(mode="after")
    def _ordered(self) -> "Iteration":
        if self.longest <= self.shortest:
            raise ValueError(f"longest: {self.longest} is not above shortest: {self.shortest}; lengths must vary")
        return self


class Tasks(Section):
    """The tasks of this run; leave one out and its families are not measured."""

    text: Text | None = None
    blimp: Blimp | None = None
    icl: Icl | None = None
    needle: Needle | None = None
    repeats: Repeats | None = None
    treebank: Treebank | None = None
    iteration: Iteration | None = None


class Ngram(Section):
    """The n-gram baseline: what counting the words of a text can do."""

    path: str = Field(min_length=1)
    order: Annotated[int, Field(ge=2, le=9)]


class Extract(Section):
    """How prompts go through the model."""

    batch_tokens: Count


class Trace(Section):
    """Indirect effects of single heads on shuffled in-context prompts."""

    prompts: Count
    solved_above: Share


class Classify(Section):
    """From scores to verdicts."""

    resamples: Annotated[int, Field(ge=10_000)]
    bootstrap: Annotated[int, Field(ge=200)]
    alpha: Annotated[float, Field(gt=0, lt=1)]
    margin: Share
    thresholds: dict[str, float] = {}


class Plan(Section):
    """Which heads are silenced: the best of every family that asks for causal evidence, against control sets."""

    leave_out: tuple[str, ...]
    top: Count
    least: Count
    draws: Count
    kinds: Annotated[tuple[Kind, ...], AfterValidator(_distinct)] = Field(min_length=1)
    specificity: tuple[Name, ...]
    named: Annotated[int, Field(ge=0)]
    sample: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _enough(self) -> "Plan":
        if self.least > self.top:
            raise ValueError(f"least: {self.least} is above top: {self.top}")
        return self


class Ablate(Section):
    """How many prompts of split b every intervention is run on, per task, and how long they may be."""

    prompts: dict[Name, Count]
    single: dict[Name, Count]
    needle_tokens: Count
    text_tokens: Count
    shard: Count


class Steer(Section):
    """Function vectors: what is tried on split a."""

    heads: tuple[Count, ...] = Field(min_length=1)
    strengths: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    layer_step: Count
    queries: Annotated[int, Field(ge=2)]
    draws: Count


class Architecture(Section):
    """A GPT-2, Llama or (masked) BERT built small: `inner` = hidden units of its MLPs, 0 = attention only (no BERT).

    embedding_range, attention_range: standard deviation at the start of the token embeddings and of the query and key
    weights (GPT-2), where it is not initializer_range; small query and key weights start from uniform attention.
    """

    type: Literal["gpt2", "llama", "bert"]
    layers: Count
    heads: Count
    width: Count
    inner: Annotated[int, Field(ge=0)]
    activation: Literal["relu", "gelu_new", "silu"] = "gelu_new"
    initializer_range: Positive
    positions: Literal["learned", "sinusoids"] = "learned"
    amplitude: Positive = 0.2
    embedding_range: Positive | None = None
    attention_range: Positive | None = None

    @model_validator(mode="after")
    def _ranges(self) -> "Architecture":
        if self.type != "gpt2" and (self.embedding_range or self.attention_range):
            raise ValueError(f"embedding_range and attention_range are of gpt2, not of {self.type}")
        return self

    @model_validator(mode="after")
    def _divides(self) -> "Architecture":
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} is not divisible by heads: {self.heads}")
        if self.type == "bert" and not self.inner:
            raise ValueError("inner: 0; bert needs MLPs")
        return self


class Optimizer(Section):
    """AdamW: warm-up to `learning_rate`, then constant or down to 0 along a cosine; gradients clipped by norm."""

    learning_rate: Positive
    schedule: Literal["constant", "cosine"]
    warmup: Annotated[int, Field(ge=0)]
    decay: Annotated[float, Field(ge=0)]
    betas: tuple[Share, Share]
    clip: Positive


class Checkpoints(Section):
    """When weights are kept: step 0, `even` evenly spaced steps up to the last, `early` logarithmically spaced ones."""

    even: Count
    early: Annotated[int, Field(ge=0)] = 0


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

    @property
    def before(self) -> "list[First]":
        """What is learned before, in its order."""
        found, one = [], self.first
        while one is not None:
            found, one = [one, *found], one.first
        return found

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
    revisions: dict[Annotated[int, Field(ge=0)], Annotated[str, Field(min_length=1)]] = Field(min_length=2)

    @field_validator("revisions")
    @classmethod
    def _pinned(cls, revisions: dict[int, str], info: ValidationInfo) -> dict[int, str]:
        for step, revision in revisions.items():
            if info.data.get("source") == "hub" and not re.fullmatch("[0-9a-f]{40}", revision):
                raise ValueError(f"step {step}: {revision!r} is no full commit; allowed: 40 hex digits")
        return revisions

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
    if (type(value) is int and value >= 1) or (factor and float(value[1:]) > 1):
        return value
    raise ValueError("allowed: a number of steps, such as 200, or a factor above 1, such as x4")


class Study(Section):
    """How checkpoints are measured: held-out sequences, where a rise counts as one, bootstrap samples.

    window: a number of steps, or a factor by which the step grows (`x4`) for checkpoints that double apart.
    """

    sequences: Annotated[int, Field(ge=8)]
    window: Annotated[int | str, PlainValidator(_window)]
    bootstrap: Annotated[int, Field(ge=200)]

    @property
    def steps(self) -> int:
        """The window as a number of steps; 0 where it is a factor."""
        return self.window if isinstance(self.window, int) else 0

    @property
    def factor(self) -> float | None:
        """The window as a factor on 1 + step; None where it is a number of steps."""
        return float(self.window[1:]) if isinstance(self.window, str) else None


class Recipe(Section):
    """A task (stages/recipes/<task>.py), how a model learns it, variants of that (`arms`), and how they are measured.

    `train` is a `Training`, or `Revisions` where others did the training.

    An arm changes keys of `train`, such as {architecture: {layers: 1}}; `main` is the arm that the others control.
    """

    task: Name
    train: Annotated[
        Annotated[Training, Tag("[training]")] | Annotated[Revisions, Tag("[revisions]")], Discriminator(_variant)
    ]
    main: Name
    arms: dict[Name, dict[str, Any]] = Field(min_length=1)
    study: Study

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
                raise ValueError(f"arm {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        return self


def digest(seed: int, recipe: Recipe) -> str:
    """Return the sha256 of all that a recipe's results depend on in params: the seed and the recipe, as sorted JSON."""
    content = json.dumps({"seed": seed, "recipe": recipe.model_dump(mode="json")}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the changes in it; dictionaries are changed key by key."""
    both = [key for key in changes if isinstance(changes[key], dict) and isinstance(base.get(key), dict)]
    return base | changes | {key: _changed(base[key], changes[key]) for key in both}


class Report(Section):
    """The page."""

    title: str


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    models: dict[Name, Model] = Field(min_length=1)
    tasks: Tasks
    ngram: Ngram
    extract: Extract
    trace: Trace
    classify: Classify
    plan: Plan
    ablate: Ablate
    steer: Steer
    recipes: dict[Name, Recipe] = Field(min_length=1)
    report: Report


def load(path: Path = paths.PARAMS) -> Params:
    """Read and validate params.yaml.

    Raises `UserError` with the file, the key path, the value and what is allowed (the first mistake; the count of all).
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the repository's folder") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise UserError(_explain(path, error)) from None


def _explain(path: Path, error: ValidationError) -> str:
    # a misspelt key is also a missing one: the key that the user wrote comes first
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where = tuple(part for part in first["loc"] if not str(part).startswith("["))  # [key], [training], [revisions]
    key = ".".join(map(str, where)) or "the file"
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        what = f"unknown key; allowed: {', '.join(sorted(_allowed(first['loc'][:-1])))}"
    elif first["type"] == "missing":
        what = "missing key"
    shown = repr(first["input"])
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    value = "" if first["type"] == "missing" else f" = {shown}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}: {key}{value}: {what}{more}"


def _allowed(where: tuple[Any, ...]) -> list[str]:
    """Return the keys allowed in the section at a key path."""
    section: Any = Params
    for part in where:
        fields = getattr(section, "model_fields", {})
        if part in VARIANTS:
            section = VARIANTS[part]
        elif part in fields:
            annotation = fields[part].annotation
            options = [a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")]
            section = options[0] if options else None
    return list(getattr(section, "model_fields", {}))
