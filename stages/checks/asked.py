"""What params ask for that stages refuse, some of them only after hours: said before anything runs."""

from collections.abc import Iterator
from pathlib import Path

from stages import tasks
from stages.checks.finding import MEND, Finding
from stages.families.sets import unknown_families, unknown_sets
from stages.model.silence import unknown_kinds
from stages.recipes import lesson
from stages.store import named, params, paths
from stages.store.errors import UserError

LONGER = Path(paths.FULL, paths.PARAMS)


def findings(settings: params.Params) -> list[Finding]:
    """Ask the functions that the stages `tidy`, `classify`, `plan` and `ablate` ask, and what builds prompts."""
    mistakes = (
        *named.absent(settings),
        *unknown_families(settings),
        *unknown_sets(settings),
        *unknown_kinds(settings.plan.kinds),
        *unknown_kinds(settings.plan.also, "plan.also"),
    )
    return [
        *(Finding(f"{paths.PARAMS}: {mistake}", MEND) for mistake in mistakes),
        *_prompts(settings),
        *_lessons(settings, paths.PARAMS),
        *_longer(),
    ]


def _prompts(settings: params.Params) -> Iterator[Finding]:
    """Build the prompts of every task that needs no hub, and look for the kinds that later stages ask for by name."""
    kinds: dict[str, list[str]] = {}
    for task, section in settings.tasks:
        if section is None or section.source == "hub" or named.unreadable(section.path):
            continue
        try:
            kinds[task] = sorted({prompt.condition for prompt in tasks.of(task).build(section, settings.seed)})
        except UserError as error:
            yield Finding(str(error), MEND)
    if settings.neighbours and (allowed := kinds.get("neighbours")):
        silenced = settings.neighbours.silenced
        for mistake in named.unknown("neighbours.silenced", silenced, "no such kind", allowed):
            yield Finding(f"{paths.PARAMS}: {mistake}", MEND)


def _lessons(settings: params.Studies, file: Path) -> Iterator[Finding]:
    """Make what every arm of a recipe learns."""
    for name, recipe in settings.recipes.items():
        for arm in recipe.ordered:
            try:
                lesson.create(name, recipe, recipe.arm(arm).arguments)
            except UserError as error:
                yield Finding(str(error).replace(str(paths.PARAMS), str(file), 1), MEND)
                break


def _longer() -> Iterator[Finding]:
    """Read the params of the longer studies."""
    if not LONGER.is_file():
        return
    try:
        yield from _lessons(params.load_studies(LONGER), LONGER)
    except UserError as error:
        yield Finding(str(error), f"mend this key, or git checkout {LONGER}")
