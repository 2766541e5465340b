"""What is written in silenced heads' places where it is their mean: over the task of text, or why there is none."""

import torch

from stages import tasks
from stages.model.load import Loaded
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
    mean = [("split", "==", "a"), ("role", "==", tasks.of(text).mean_role)]  # one row of each head
    rows = tables.OUTPUTS.read(slot, text, columns=["layer", "head", "output"], only=mean)
    sizes = {number: layer.head_size for number, layer in loaded.anatomy.layers.items()}
    of_heads = zip(rows.layer, rows["head"], rows.output, strict=True)
    return {(layer, head): torch.from_numpy(z[: sizes[layer]].copy()) for layer, head, z in of_heads}
