"""Prepare one task's prompts: `python -m stages.prepare <task>` writes data/prompts/<task>.parquet."""

import importlib
import logging
import sys
from dataclasses import asdict

from stages.store import params, paths, tables
from stages.store.errors import UserError, run

log = logging.getLogger(__name__)


def main(task: str) -> None:
    """Build the task's prompts by its own module, sort them by id, write them."""
    settings = params.load()
    source = getattr(settings.tasks, task, None)
    if source is None:
        raise UserError(f"{paths.PARAMS}: tasks.{task}: no such task in params")
    prompts = importlib.import_module(f"stages.tasks.{task}.prompts").build(source, settings.seed)
    prompts = sorted(prompts, key=lambda prompt: prompt.id)
    tables.write(paths.prompts(task), [asdict(prompt) for prompt in prompts], tables.PROMPTS)
    groups = len({prompt.group for prompt in prompts})
    log.info("%s: %d prompts in %d groups", task, len(prompts), groups)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
