"""What is written in silenced heads' places where it is their mean: over the task of text, or why there is none."""

import torch

from stages import tasks
from stages.model.load import Loaded
from stages.model.vectors import mean_outputs
from stages.store import params, tables


def no_means(settings: params.Params) -> str:
    """Return that the task of text is left out, over which heads' mean outputs are taken, or ''."""
    if getattr(settings.tasks, _text()) is not None:
        return ""
    return f"no head is silenced: tasks.{_text()}, over which their mean outputs are taken, is not in params"


def _text() -> str:
    return next(name for name in tasks.names() if tasks.of(name).outputs == "mean")


def text_means(slot: str, loaded: Loaded, settings: params.Params) -> dict[tuple[int, int], torch.Tensor]:
    """Return every head's mean output (K,) over ordinary positions of split a's prompts (long text), by head."""
    text = _text()
    outputs = tables.OUTPUTS.read(slot, text, only=[("split", "==", "a")])
    return mean_outputs(outputs[outputs.role == tasks.of(text).mean_role], loaded)
