"""Parsed sentences: attention is compared with their trees; nothing is scored."""

from stages.tasks.task import Task
from stages.tasks.treebank.settings import Settings

TASK = Task(name="treebank", order=5, label="parsed sentences", unit="sentences", settings=Settings)
