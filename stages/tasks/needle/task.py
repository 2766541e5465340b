"""Needles: is the fact's answer found again in a long text?

recall = share of answer tokens that are the argmax given the right ones before (Wu+ take the share of answer words
found); logprob = mean over the answer's tokens (nats).
"""

from stages.tasks.needle.settings import Settings
from stages.tasks.task import Task, recalled

TASK = Task(
    name="needle",
    order=3,
    label="needles",
    unit="facts",
    settings=Settings,
    measures=recalled,
    main="recall",
    smooth="logprob",
    needs="decoder",
    silenced_on=lambda prompt, settings: prompt.category == str(min(settings.lengths)),
    extracted=("relations", "recalled"),
    parts="condition",
    part=("length and depth", "lengths and depths"),
)
