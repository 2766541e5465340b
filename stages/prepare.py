"""Prepare one task's prompts: `python -m stages.prepare <task>` writes data/prompts/<task>.parquet.

And data/asked/<task>.parquet, the same where the prompts are scored, none where only attention is looked at; and
data/pictures/<task>.parquet, the same where they are images.
"""

import logging
import sys
from dataclasses import asdict

from stages import tasks
from stages.store import params, paths, tables
from stages.store.errors import UserError, run
from stages.tasks.task import one_sided

log = logging.getLogger(__name__)


def main(task: str) -> None:
    """Build the task's prompts, sort them by id, write them; where a split has none, the table's `reason` says why."""
    settings = params.load()
    source = getattr(settings.tasks, task, None)
    if source is None:
        raise UserError(f"{paths.PARAMS}: tasks.{task}: no such task in params")
    prompts = sorted(tasks.of(task).build(source, settings.seed), key=lambda prompt: prompt.id)
    why, schema = one_sided(prompts), tables.PROMPTS
    if why:
        log.warning("%s: %s", task, why)
        schema = schema.with_metadata({"reason": why})
    rows = [asdict(prompt) for prompt in prompts]
    tables.write(paths.prompts(task), rows, schema)
    for path, here, why_not in (
        (paths.asked(task), bool(tasks.of(task).main), "only attention is looked at"),
        (paths.pictures(task), tasks.of(task).reads == "image", "prompts are text"),
    ):
        tables.write(path, rows if here else tables.empty(tables.PROMPTS, why_not), schema)
    groups = len({prompt.group for prompt in prompts})
    log.info("%s: %d prompts in %d groups", task, len(prompts), groups)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
