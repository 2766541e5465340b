"""Paths and names of params that stages refuse, some of them only after hours: said before anything runs."""

from collections.abc import Iterator

from stages.checks.finding import MEND, Finding
from stages.families import FAMILIES
from stages.model.silence import KINDS
from stages.plan import _sets
from stages.store import params, paths, source
from stages.tidy import _deps, unreadable


def findings(settings: params.Params) -> list[Finding]:
    """Check what the deps of dvc.yaml and the stages `classify`, `plan` and `ablate` ask of params."""
    return [Finding(f"{paths.PARAMS}: {mistake}", MEND) for mistake in (*_paths(settings), *_names(settings))]


def _paths(settings: params.Params) -> Iterator[str]:
    for key, path in _deps(settings):
        if why := unreadable(path):
            yield f"{key} = {source.shown(path)}: {why}"


def _names(settings: params.Params) -> Iterator[str]:
    """Yield the names that are not among those allowed, as the stages' own messages do."""
    plan = settings.plan
    for key, names, what, allowed in (
        ("classify.thresholds", settings.classify.thresholds, "no such family", FAMILIES),
        ("plan.leave_out", plan.leave_out, "not a set of heads", _sets(FAMILIES.values())),
        ("plan.kinds", plan.kinds, "no such way to silence", KINDS),
    ):
        for name in sorted(set(names) - set(allowed)):
            yield f"{key}: {source.shown(name)}: {what}; allowed: {', '.join(allowed)}"
