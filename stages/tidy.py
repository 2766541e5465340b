"""Remove what belongs to no key of params.yaml: `python -m stages.tidy`, before any stage reads a folder whole.

A task that was taken out would still lie in data/asked, and a clone, which pulls today's files alone, would call every
stage that reads this folder changed. What is removed stays in DVC's cache, or in git.

data/asked/keys.json holds the settings of all tasks as well. Stages depend on it in place of the param `tasks`, whose
copies, one for each of them, would fill dvc.lock: DVC reads and writes that file whole after every stage.

Paths of params that are deps in dvc.yaml are looked at here, since DVC does not say which key a missing file is from.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from stages import tasks
from stages.store import files, keys, params, paths, source
from stages.store.errors import UserError, run

log = logging.getLogger(__name__)
ASKED = "data/asked"  # whose keys come with their settings


def main() -> None:
    """Remove what is stale and leave today's keys in the folders that are read whole."""
    settings = params.load()
    for key, path in _deps(settings):
        if why := unreadable(path):
            raise UserError(f"{paths.PARAMS}: {key} = {source.shown(path)}: {why}")
    for path in keys.stale(settings):
        log.info("%s: removed: not in params.yaml", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    sections = {name: getattr(settings.tasks, name) for name in sorted(tasks.names())}
    asked = {name: section.model_dump(mode="json") for name, section in sections.items() if section is not None}
    for folder in keys.BY_TASK:
        content = asked if folder == ASKED else list(asked)
        files.write_text(Path(folder, keys.KEYS), json.dumps(content) + "\n")
    files.write_text(Path("reports/recipes", keys.KEYS), json.dumps(sorted(settings.recipes)) + "\n")


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


def _deps(settings: params.Params) -> Iterator[tuple[str, str]]:
    """Yield the keys of params whose values dvc.yaml has as deps, and the values."""
    yield from ((f"tasks.{name}.path", task.path) for name, task in settings.tasks if task is not None)
    yield "ngram.path", settings.ngram.path
    for name, recipe in settings.recipes.items():
        yield from ((f"recipes.{name}.{key}", getattr(recipe, key)) for key in ("reads", "words", "families"))


if __name__ == "__main__":
    run(main)
