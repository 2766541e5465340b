"""Sets of heads that are silenced together, by name, and the names of params that must be those of families or sets."""

from collections.abc import Iterator

from stages import families
from stages.families.family import Family
from stages.store.named import unknown
from stages.store.params import Params


def silenced_sets() -> dict[str, list[Family]]:
    """Return the families that ask for causal evidence, by the name that they are silenced under."""
    silenced: dict[str, list[Family]] = {}
    for family in families.FAMILIES.values():
        if family.home:
            silenced.setdefault(family.joint or family.name, []).append(family)
    return silenced


def unknown_families(settings: Params) -> Iterator[str]:
    """Yield a mistake for every threshold of a family that there is not."""
    return unknown("classify.thresholds", settings.classify.thresholds, "no such family", families.FAMILIES)


def unknown_sets(settings: Params) -> Iterator[str]:
    """Yield a mistake for every set of heads that the plan is asked for or to leave out and that there is not."""
    swept = settings.plan.sweep.families if settings.plan.sweep else ()
    also = {f"plan.also.{kind}": names for kind, names in settings.plan.also.items()}
    for key, names in ({"plan.leave_out": settings.plan.leave_out, "plan.sweep.families": swept} | also).items():
        yield from unknown(key, names, "not a set of heads", silenced_sets())
