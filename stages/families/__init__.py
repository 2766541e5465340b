"""All head families, by the task that they are measured on.

A family is a `FAMILY` (or several, `FAMILIES`) in a file of its task's folder. To add one, add a file.
"""

from functools import cache
from importlib import import_module
from pathlib import Path

from stages.families.family import Family

HERE = Path(__file__).parent


@cache
def of(task: str) -> dict[str, Family]:
    """Return the families measured on one task, by name, in display order; no other task's files are read."""
    families = []
    for file in sorted((HERE / task).glob("[a-z]*.py")):
        module = import_module(f"{__name__}.{task}.{file.stem}")
        families += [*getattr(module, "FAMILIES", ()), *filter(None, [getattr(module, "FAMILY", None)])]
    return {family.name: family for family in sorted(families, key=lambda family: family.order)}


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
