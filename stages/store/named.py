"""What params name that their own schema cannot know: said by one function each, to the stage that needs it and doctor.

Names of families and sets are known in stages/families, ways to silence in stages/model; paths are looked at here.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.store import paths, source
from stages.store.errors import UserError
from stages.store.params import Params


def refuse(mistakes: Iterable[str]) -> None:
    """Raise the first mistake, if there is any, as a `UserError` that names the file."""
    for mistake in mistakes:
        raise UserError(f"{paths.PARAMS}: {mistake}")


def unknown(key: str, names: Iterable[str], what: str, allowed: Iterable[str]) -> Iterator[str]:
    """Yield a mistake for every name of a key of params that is not allowed; what: what it is not."""
    for name in sorted(set(names) - set(allowed)):
        yield f"{key}: {source.shown(name)}: {what}; allowed: {', '.join(allowed)}"


def absent(settings: Params) -> Iterator[str]:
    """Yield a mistake for every path that dvc.yaml has as a dep and that is not there, or that DVC cannot read."""
    for key, path in deps(settings):
        if why := unreadable(path):
            yield f"{key} = {source.shown(path)}: {why}"


def unreadable(path: str) -> str:
    """Return why DVC, which reads every file of a path to know whether it has changed, cannot; or ''."""
    if not os.path.exists(path):  # Path.exists raises where a name is too long
        return "no such file or folder"
    inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    try:
        for file in inside if os.path.isdir(path) else [Path(path)]:
            source.regular(file, "files")  # DVC, too, would wait for a pipe
    except UserError as error:
        return str(error)
    return ""


def deps(settings: Params) -> Iterator[tuple[str, str]]:
    """Yield the keys of params whose values dvc.yaml has as deps, and the values."""
    yield from ((f"tasks.{name}.path", task.path) for name, task in settings.tasks if task is not None)
    yield "ngram.path", settings.ngram.path
    for name, recipe in settings.recipes.items():
        yield from ((f"recipes.{name}.{key}", getattr(recipe, key)) for key in ("reads", "words", "families"))
