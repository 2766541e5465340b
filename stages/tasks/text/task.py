"""Plain English: what a model that is disturbed anywhere gets worse at."""

from collections.abc import Sequence

import numpy as np

from stages.tasks.task import Read, Task, mean_loss
from stages.tasks.text.settings import Settings

STRIDE = 4  # LM-head rows cost twice what the body costs a token: text is scored at every 4th position


def every_fourth(read: Sequence[Read]) -> tuple[np.ndarray, ...]:
    """Score every `STRIDE`th token."""
    return tuple(np.arange(STRIDE, len(tokens), STRIDE) for tokens in read)


TASK = Task(
    name="text",
    order=0,
    label="text",
    unit="passages",
    settings=Settings,
    scored=every_fourth,
    measures=mean_loss,
    main="loss",
    smooth="loss",
    falls=("loss",),
    silenced_on=lambda prompt, settings: prompt.role == "short",
    outputs="mean",
    mean_role="long",
)
