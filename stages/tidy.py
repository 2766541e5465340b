"""Remove what belongs to no key of params.yaml: `python -m stages.tidy`, before any stage reads a folder whole.

A task that was taken out would still lie in data/asked, and a clone, which pulls today's files alone, would call every
stage that reads this folder changed. What is removed stays in DVC's cache, or in git.

data/asked/keys.json holds the settings of all tasks as well. Stages depend on it in place of the param `tasks`, whose
copies, one for each of them, would fill dvc.lock: DVC reads and writes that file whole after every stage.

Paths of params that are deps in dvc.yaml are looked at here, since DVC does not say which key a missing file is from.
And params.yaml whole: DVC sees the keys alone that stages name, so that one which none does (`ablat`) would go unread.
No other stage depends on the file, and none runs again where today's keys stay as they are.
"""

import json
import logging
import shutil
import sys
from pathlib import Path

from stages import tasks
from stages.store import files, keys, named, params
from stages.store.errors import run

log = logging.getLogger(__name__)
ASKED = "data/asked"  # whose keys come with their settings


def main() -> None:
    """Remove what is stale and leave today's keys in the folders that are read whole."""
    settings = params.load()
    named.refuse(named.absent(settings))
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


if __name__ == "__main__":
    run(main, *sys.argv[1:])
