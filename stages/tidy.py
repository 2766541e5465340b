"""Remove what belongs to no key of params.yaml: `python -m stages.tidy`, before any stage reads a folder whole.

A task that was taken out would still lie in data/asked, and a clone, which pulls today's files alone, would call every
stage that reads this folder changed. What is removed stays in DVC's cache, or in git.
"""

import json
import logging
import shutil
from pathlib import Path

from stages.store import files, keys, params
from stages.store.errors import run

log = logging.getLogger(__name__)


def main() -> None:
    """Remove what is stale and leave today's keys in the folders that are read whole."""
    settings = params.load()
    for path in keys.stale(settings):
        log.info("%s: removed: not in params.yaml", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    asked = sorted(name for name, task in settings.tasks if task is not None)
    for folder in keys.BY_TASK:
        files.write_text(Path(folder, keys.KEYS), json.dumps(asked) + "\n")
    files.write_text(Path("reports/recipes", keys.KEYS), json.dumps(sorted(settings.recipes)) + "\n")


if __name__ == "__main__":
    run(main)
