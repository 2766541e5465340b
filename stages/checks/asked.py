"""Paths and names of params that stages refuse, some of them only after hours: said before anything runs."""

from stages.checks.finding import MEND, Finding
from stages.families.sets import unknown_families, unknown_sets
from stages.model.silence import unknown_kinds
from stages.store import named, params, paths


def findings(settings: params.Params) -> list[Finding]:
    """Ask the functions that the stages `tidy`, `classify`, `plan` and `ablate` ask."""
    mistakes = (
        *named.absent(settings),
        *unknown_families(settings),
        *unknown_sets(settings),
        *unknown_kinds(settings.plan.kinds),
        *unknown_kinds(settings.plan.also, "plan.also"),
    )
    return [Finding(f"{paths.PARAMS}: {mistake}", MEND) for mistake in mistakes]
