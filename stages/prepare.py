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
ALL = "all"  # in every summary, the condition of all prompts of a task


def main(task: str) -> None:
    """Build the task's prompts, sort them by id, write them; where a split has none, the table's `reason` says why."""
    settings = params.load()
    sources = {name: source for name, source in settings.tasks if source is not None}
    if task not in sources:
        raise UserError(f"{paths.PARAMS}: tasks.{task}: no such task in params; allowed: {', '.join(sources)}")
    source = sources[task]
    prompts = sorted(tasks.of(task).build(source, settings.seed), key=lambda prompt: prompt.id)
    if any(ALL in (prompt.condition, prompt.category) for prompt in prompts):
        raise UserError(
            f"{source.path}: tasks.{task}: prompts named {ALL!r}: that stands for all together; rename them"
        )
    if why := one_sided(prompts):
        log.warning("%s: %s", task, why)
    rows = [asdict(prompt) for prompt in prompts]
    for table, here, why_not in (
        (tables.PROMPTS, True, ""),
        (tables.ASKED, bool(tasks.of(task).main), "only attention is looked at"),
        (tables.PICTURES, tasks.of(task).reads == "image", "prompts are text"),
    ):
        if here:
            (table.with_reason(why) if why else table).write(rows, task, asked=len(prompts))
        else:
            table.write_empty(task, why=why_not)
    conditions = len({prompt.condition for prompt in prompts})
    log.info("%s: %d prompts in %d conditions", task, len(prompts), conditions)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
