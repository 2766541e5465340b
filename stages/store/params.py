"""What users write in params.yaml: one frozen pydantic model per section; unknown keys and wild values are errors.

`load` validates the whole file, so that a misspelt key is found by the first stage that runs. The sections of tasks lie
in the tasks' own folders, those of recipes in `stages.recipes.settings`: they are found there when params are read.
"""

import hashlib
import json
import re
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, create_model, field_validator, model_validator

from stages.store import paths, source
from stages.store.errors import UserError
from stages.store.section import Count, Name, Natural, Place, Positive, Section, Share

Draws = Annotated[Count, Field(le=9999)]  # sets or vectors at random: a rank among so many takes hours already
Kind = Annotated[str, Field(pattern=r"^[a-z_]+$")]  # a function of stages/model/silence.py, which ablate asks
PREPARES = {"steer": ("extrapolation",), "neighbours": ("neighbours",)}  # longer study: tasks whose prompts are its own
BESIDE = {  # longer study: other sections that it hangs on
    "circuit": ("classify",),
    "gates": ("classify",),
    "neighbours": ("classify", "plan", "ablate"),
    "plan": ("classify", "ablate"),
    "steer": ("trace", "ngram"),
}


PLAIN = {"valid tuple": "list", "Tuple": "List", "valid dictionary": "section", "Dictionary": "Section",
         " after validation,": ","}  # fmt: skip


def _distinct(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("each value may stand once")
    return values


def _tasks(names: Any) -> Any:
    """Check that names, or the keys of a dictionary, are folders of stages/tasks."""
    known = import_module("stages.tasks").names()
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is no task; allowed: {', '.join(known)}")
    return names


def _placement(value: Any) -> Any:
    """Check a device_map; accelerate places each module by one key, so that none may lie within another's."""
    if value is None or value == "auto":
        return value
    if not isinstance(value, dict) or not value or not all(isinstance(path, str) for path in value):
        raise ValueError("allowed: auto, or for each module path the number of a GPU, cpu or disk")
    for path, place in value.items():
        if (type(place) is not int or place < 0) and place not in ("cpu", "disk"):
            raise ValueError(f"{path}: {place!r} is no place; allowed: the number of a GPU, cpu, disk")
        if outer := [other for other in value if other != path and f"{path}.".startswith(f"{other}." if other else "")]:
            raise ValueError(f"{path!r} lies within {outer[0]!r}: name each module once")
    return value


class Model(Section):
    """Where a slot's weights come from, what they are rounded to, and where they lie while the model runs.

    dtype: of weights and passes; what is made of them (sums, log-probabilities, means) is float32 whatever it is.
    device_map: None for one device; else as transformers reads it, "auto" or module path -> GPU, "cpu" or "disk".
    """

    source: Literal["package", "hub", "path"]
    name: Place
    revision: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device_map: Annotated[Any, AfterValidator(_placement)] = None

    @model_validator(mode="after")
    def _pinned(self) -> "Model":
        if self.source == "hub" and not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ValueError("revision: a hub model is pinned by its full commit, 40 hex digits")
        return self


class Tasks(Section):
    """The tasks of this run; leave one out (its key, not null) and its families are not measured.

    One field per folder of stages/tasks, None where the task is left out; `whole` adds them. `for name, task in
    settings.tasks` goes through all of them in display order.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _left_out(cls, given: Any) -> Any:
        if given is None:  # dvc.yaml asks for its path
            raise ValueError("allowed: the task's section, or no key at all; null leaves no task out")
        return given

    @model_validator(mode="after")
    def _some(self) -> "Tasks":
        if all(task is None for _, task in self):
            raise ValueError("no task: at least one is needed")
        return self


class Ngram(Section):
    """The n-gram baseline: what counting the words of a text can do."""

    path: Place
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

    resamples: Annotated[Count, Field(ge=10_000)]
    alpha: Annotated[float, Field(gt=0, lt=1)]
    margin: Share
    thresholds: dict[str, Share] = Field(default_factory=dict)


class Sweep(Section):
    """Two families against each other: so many heads of each that are not the other's are silenced.

    controlled: the numbers that control sets are drawn for; prompts: of split b that every such set is run on.
    """

    families: Annotated[tuple[Name, Name], AfterValidator(_distinct)]
    numbers: Annotated[tuple[Count, ...], AfterValidator(_distinct)] = Field(min_length=1)
    controlled: Annotated[tuple[Count, ...], AfterValidator(_distinct)]
    prompts: Count

    @model_validator(mode="after")
    def _among(self) -> "Sweep":
        if others := sorted(set(self.controlled) - set(self.numbers)):
            raise ValueError(f"controlled: {others[0]} is not among numbers: {list(self.numbers)}")
        return self


class Plan(Section):
    """Which heads are silenced: the best of every family that asks for causal evidence, against control sets."""

    leave_out: Annotated[tuple[str, ...], AfterValidator(_distinct)]
    top: Count
    least: Count
    draws: Draws
    kinds: Annotated[tuple[Kind, ...], AfterValidator(_distinct)] = Field(min_length=1)
    also: dict[Kind, Annotated[tuple[str, ...], AfterValidator(_distinct)]]
    controlled: Annotated[tuple[Kind, ...], AfterValidator(_distinct)] = Field(min_length=1)
    specificity: Annotated[tuple[Name, ...], AfterValidator(_tasks), AfterValidator(_distinct)]
    named: Natural
    sample: Natural
    sweep: Sweep | None

    @model_validator(mode="after")
    def _enough(self) -> "Plan":
        if self.least > self.top:
            raise ValueError(f"least: {self.least} is above top: {self.top}")
        if twice := sorted({*self.also} & {*self.kinds}):
            raise ValueError(f"also: {twice[0]} is one of kinds, which all families have; take it out of also")
        if self.kinds[0] not in self.controlled:
            raise ValueError(f"controlled: has to name {self.kinds[0]}, the first of kinds: claims are made with it")
        if other := [kind for kind in self.controlled if kind not in (*self.kinds, *self.also)]:
            allowed = ", ".join((*self.kinds, *self.also))
            raise ValueError(f"controlled: {other[0]} is no way that heads are silenced in; allowed: {allowed}")
        return self


class Ablate(Section):
    """How many prompts of split b every intervention is run on, per task."""

    prompts: Annotated[dict[Name, Count], AfterValidator(_tasks)]
    single: Annotated[dict[Name, Count], AfterValidator(_tasks)]
    shard: Count


class Steer(Section):
    """Function vectors: what is tried on split a, and how much is reported on split b."""

    heads: Annotated[tuple[Count, ...], AfterValidator(_distinct)] = Field(min_length=1)
    strengths: Annotated[tuple[Positive, ...], AfterValidator(_distinct)] = Field(min_length=1)
    layer_step: Count
    choose: Count
    zero_shot: Count
    shuffled: Count
    natural: Natural
    random: Draws
    draws: Draws


class Apply(Section):
    """Function vectors where they were not made: on composed functions and in plain text, against random vectors."""

    choose: Count
    passages: Count
    cuts: Annotated[tuple[Annotated[Count, Field(ge=2)], ...], AfterValidator(_distinct)] = Field(min_length=1)
    draws: Draws


class Shifts(Section):
    """Functions as offsets: pairs per function, and random vectors to read beside each function's."""

    pairs: Count
    random: Draws


class Orders(Section):
    """The vector of the next word, from known orders to made-up ones: heads tried, and control sets beside them."""

    heads: Annotated[tuple[Count, ...], AfterValidator(_distinct)] = Field(min_length=1)
    draws: Draws


class Circuit(Section):
    """Paths into the keys of induction heads: how many of those, and on how many prompts of each split."""

    heads: Count
    choose: Count
    prompts: Count
    share: Share
    draws: Draws
    draws_on_loss: bool


class Neighbours(Section):
    """Labelled demonstrations: how many of the nearest may vote; kinds of items, and sets of each, to silence on."""

    nearest: Annotated[tuple[Count, ...], AfterValidator(_distinct)] = Field(min_length=1)
    silenced: Annotated[tuple[Name, ...], AfterValidator(_distinct)]
    sets: Count

    @model_validator(mode="after")
    def _odd(self) -> "Neighbours":
        if even := [k for k in self.nearest if k % 2 == 0]:
            raise ValueError(f"nearest: {even[0]} is even: a vote could be a tie")
        return self


class Gates(Section):
    """Heads that see a few first tokens and a window: which can, and what a cache cut by it costs."""

    sinks: Natural
    window: Count
    small: Share
    choose: Count
    heads: Count
    report: Count
    shares: Annotated[tuple[Share, ...], AfterValidator(_distinct)] = Field(min_length=1)
    controlled: Annotated[tuple[Share, ...], AfterValidator(_distinct)] = Field(min_length=1)
    draws: Draws
    draws_on_text: bool
    compared: Annotated[tuple[Share, ...], AfterValidator(_distinct)] = Field(min_length=1)
    passages: Count
    lengths: Annotated[tuple[Count, ...], AfterValidator(_distinct)] = Field(min_length=1)
    sinks_tried: Annotated[tuple[Natural, ...], AfterValidator(_distinct)] = Field(min_length=1)

    @model_validator(mode="after")
    def _longer(self) -> "Gates":
        longest = self.window + max(self.sinks, *self.sinks_tried)
        if list(self.lengths) != sorted(self.lengths) or self.lengths[0] <= longest:
            raise ValueError(f"lengths: {list(self.lengths)} must rise from above sinks + window = {longest}")
        return self


class Sinks(Section):
    """Sinks: short passages read, each on every kind of input; passages, tokens, layers and shuffles of probes."""

    prompts: Count
    passages: Count
    tokens: Annotated[Count, Field(ge=8)]
    layer_step: Count
    shuffles: Annotated[Count, Field(ge=20)]


class Memory(Section):
    """The MLP as a store of facts: how many are looked up, inserted and missed, and how long an insertion is sought."""

    choose: Count
    report: Count
    traced: Natural
    facts: Count
    steps: Count
    neighbours: Count
    together: Annotated[tuple[Annotated[Count, Field(ge=2)], ...], AfterValidator(_distinct)]
    true_facts: Natural
    descended: Natural
    kl: Annotated[tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(_distinct)]
    layers: Annotated[tuple[Natural, ...], AfterValidator(_distinct)]
    text: Annotated[Count, Field(ge=2)]
    missed: Count


class Examples(Section):
    """What heads look at in real prompts, on their cards: how many heads are kept, and tokens of a prompt."""

    heads: Count
    tokens: Annotated[Count, Field(ge=8)]


class Report(Section):
    """The page."""

    title: str


class Studies(Section):
    """Recipes, which both params files have.

    Each is a `stages.recipes.settings.Recipe`; `studies` and `whole` say so to pydantic.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    recipes: dict[Name, Any]

    def __reduce__(self) -> tuple:
        """Pickle as a dictionary: the classes of `studies` and `whole` are made anew in every process."""
        return _validated, (self.model_dump(exclude_unset=True),)


class Longer(Studies):
    """The whole of full/params.yaml: recipes, and sections of stages that run at larger sizes in these slots.

    tasks: sections that stand in the place of the default run's for the studies that prepare these tasks (`PREPARES`);
    the others read the default run's prompts. `studies` gives it a field per task.
    """

    slots: Annotated[tuple[Name, ...], AfterValidator(_distinct)] = ()
    tasks: Tasks | None = None
    circuit: Circuit | None = None
    gates: Gates | None = None
    memory: Memory | None = None
    neighbours: Neighbours | None = None
    plan: Plan | None = None
    steer: Steer | None = None

    @field_validator("tasks")
    @classmethod
    def _prepared(cls, tasks: Tasks | None) -> Tasks | None:
        allowed = sorted({task for prepared in PREPARES.values() for task in prepared})
        if other := [name for name, task in tasks or () if task is not None and name not in allowed]:
            raise ValueError(f"{other[0]}: none of the studies prepares this task; allowed: {', '.join(allowed)}")
        return tasks


class Params(Studies):
    """The whole of params.yaml; a section that may be None is left out by writing `null`."""

    models: dict[Name, Model] = Field(min_length=1)
    tasks: Tasks
    ngram: Ngram
    extract: Extract
    trace: Trace
    classify: Classify
    plan: Plan
    ablate: Ablate | None
    steer: Steer | None
    apply: Apply | None
    shifts: Shifts | None
    orders: Orders | None
    circuit: Circuit | None
    neighbours: Neighbours | None
    gates: Gates | None
    sinks: Sinks | None
    memory: Memory | None
    examples: Examples
    report: Report

    def left_out(self, section: str) -> str:
        """Return that a section is null, or ''."""
        return f"left out: {section} is null in params" if getattr(self, section) is None else ""


@cache
def studies() -> type[Longer]:
    """Return `Longer` with what recipes and tasks are: the floors above are asked only when params are read."""
    return create_model("Longer", __base__=Longer, tasks=(_every_task() | None, None), recipes=_recipes())


@cache
def whole() -> type[Params]:
    """Return `Params` with what a recipe is and a field per task."""
    return create_model("Params", __base__=Params, tasks=(_every_task(), ...), recipes=_recipes())


@cache
def _every_task() -> type[Tasks]:
    tasks = import_module("stages.tasks")
    fields = {name: (tasks.of(name).settings | None, None) for name in tasks.names()}
    return create_model("Tasks", __base__=Tasks, **fields)


def _recipes() -> tuple[Any, Any]:
    recipe = import_module("stages.recipes.settings").Recipe
    return dict[Name, recipe], ...


def _kind(content: Any) -> type[Studies]:
    """Return what a file is to hold by the keys that only a params.yaml has: a misspelt one is told by its own kind."""
    default = isinstance(content, dict) and set(content) & (set(Params.model_fields) - set(Longer.model_fields))
    return whole() if default else studies()


def _validated(content: Any) -> Studies:
    return _kind(content).model_validate(content)


def load(path: Path = paths.PARAMS) -> Params:
    """Read and validate params.yaml.

    Raises `UserError` with the file, the key path, the value and what is allowed (the first mistake; the count of all).
    """
    return _checked(path, _content(path), whole())


def load_studies(path: Path = paths.PARAMS) -> Studies:
    """Read and validate a params file as `load` does; one that has nothing but a seed and recipes is whole as well."""
    content = _content(path)
    return _checked(path, content, _kind(content))


def deepened(default: Params, sizes: Longer, stage: str) -> Params:
    """Return the default run's params with a longer study's section, and with those of the tasks that it prepares."""
    given = {task: getattr(sizes.tasks, task) for task in PREPARES.get(stage, ()) if sizes.tasks}
    tasks = default.tasks.model_copy(update={task: section for task, section in given.items() if section is not None})
    return default.model_copy(update={stage: getattr(sizes, stage), "tasks": tasks})


def asked_of(stage: str, settings: Params) -> dict[str, Any]:
    """Return what a longer study was asked, as JSON has it: the seed, its params, and the sha256 of all tasks.

    params: the stage's section, and as `tasks.<task>.<key>` those of the tasks that it prepares. Beside them stand the
    sections that it hangs on as well (`BESIDE`), as a plan does on what carries it out.
    """
    sections = {name: getattr(settings, name) for name in ("tasks", stage, *BESIDE.get(stage, ()))}
    asked = {name: section and section.model_dump(mode="json") for name, section in sections.items()}
    tasks, made = asked.pop("tasks"), dict(asked.pop(stage) or {})
    for task in PREPARES.get(stage, ()):
        made |= {f"tasks.{task}.{key}": value for key, value in (tasks[task] or {}).items()}
    digest = hashlib.sha256(json.dumps(tasks, sort_keys=True).encode()).hexdigest()
    return {"seed": settings.seed, "params": made, "tasks": digest} | asked


def _content(path: Path) -> Any:
    return source.yaml(path, "the params of a run, in the repository's folder")


def _checked(path: Path, content: Any, kind: type[Studies]) -> Any:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(_explain(path, error, kind)) from None


def _explain(path: Path, error: ValidationError, kind: type[Studies]) -> str:
    # a misspelt key is also a missing one: the key that the user wrote comes first
    first = min(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden")
    where = tuple(part for part in first["loc"] if not str(part).startswith("["))  # [key], [training], [revisions]
    key = ".".join(map(str, where)) or "the file"
    what = first["msg"].removeprefix("Value error, ")
    for python, yaml in PLAIN.items():
        what = what.replace(python, yaml)
    if first["type"] == "extra_forbidden":
        allowed = sorted(_allowed(first["loc"][:-1], kind))
        near = get_close_matches(str(where[-1]), allowed, 1) if len(allowed) > 1 else []
        what = f"unknown key; allowed: {', '.join(allowed)}{f'; nearest: {near[0]}' if near else ''}"
    elif first["type"] == "missing":
        what = "missing value" if isinstance(where[-1], int) else "missing key"
    elif first["type"] == "model_type":
        what = f"allowed: a section with keys of {', '.join(sorted(_allowed(first['loc'], kind)))}"
    elif first["type"] == "dict_type":
        what = "allowed: a section, {} where it may be empty"
    value = "" if first["type"] == "missing" else f" = {source.shown(first['input'])}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}: {key}{value}: {what}{more}"


def _allowed(where: tuple[Any, ...], kind: type[Studies]) -> list[str]:
    """Return the keys allowed in the section at a key path."""
    section: Any = kind
    variants = import_module("stages.recipes.settings").VARIANTS
    for part in where:
        fields = getattr(section, "model_fields", {})
        if part in variants:
            section = variants[part]
        elif part in fields:
            annotation = fields[part].annotation
            options = [a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")]
            section = options[0] if options else None
    return list(getattr(section, "model_fields", {}))
