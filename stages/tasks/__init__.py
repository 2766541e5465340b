"""All tasks: what models are asked, and how their answers are scored.

A task is a folder with a `TASK` in task.py, what params.yaml may say about it in settings.py (`Settings`), and its
prompts in prompts.py (`build`). To add one, add a folder, and its entry under `tasks` in params.yaml.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from stages.store.errors import UserError
from stages.tasks.task import Task

HERE = Path(__file__).parent


@cache
def of(name: str) -> Task:
    """Return a task by its name; raises `UserError` where there is no such folder."""
    if name not in names():
        raise UserError(f"{name}: no such task; allowed: {', '.join(names())}")
    return import_module(f"{__name__}.{name}.task").TASK


@cache
def names() -> tuple[str, ...]:
    """Return the names of all tasks in display order."""
    folders = [file.parent.name for file in HERE.glob("*/task.py")]
    return tuple(sorted(folders, key=lambda name: (import_module(f"{__name__}.{name}.task").TASK.order, name)))


def unasked(name: str, kind: str, asked: Any) -> str:
    """Return why a model of a kind is not asked a task, or '': the task refuses it, or has no entry in params.

    asked: `tasks` of the params.
    """
    return of(name).refuses(kind) or ("" if getattr(asked, name) is not None else f"tasks.{name} is not in params")
