"""All head families, by the task that they are measured on.

A family is a `FAMILY` (or several, `FAMILIES`) in a file of its task's folder. To add one, add a file. An `OUTCOMES`
there is what is said of checkpoints beside their heads.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from stages.families.family import Family, Outcomes

HERE = Path(__file__).parent


@cache
def of(task: str) -> dict[str, Family]:
    """Return the families measured on one task, by name, in display order; no other task's files are read."""
    families = []
    for module in _modules(task):
        families += [*getattr(module, "FAMILIES", ()), *filter(None, [getattr(module, "FAMILY", None)])]
    return {family.name: family for family in sorted(families, key=lambda family: family.order)}


def outcomes(task: str) -> Outcomes | None:
    """Return what is said of checkpoints on a task's prompts beside their heads; None where nothing is."""
    return next((module.OUTCOMES for module in _modules(task) if hasattr(module, "OUTCOMES")), None)


def _modules(task: str) -> list[ModuleType]:
    files = sorted((HERE / task).glob("[a-z]*.py"))
    return [import_module(f"{__name__}.{task}.{file.stem}") for file in files]


@cache
def _all() -> dict[str, Family]:
    tasks = sorted(folder.name for folder in HERE.iterdir() if folder.is_dir() and any(folder.glob("*.py")))
    families = [family for task in tasks for family in of(task).values()]
    return {family.name: family for family in sorted(families, key=lambda family: family.order)}


def __getattr__(name: str) -> dict[str, Family]:
    """Give `FAMILIES`, all of them by name, when it is asked for: a stage of one task does not import the others'."""
    if name == "FAMILIES":
        return _all()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
