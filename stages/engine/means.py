"""What is written in silenced heads' places where it is their mean: over the task of text, or why there is none."""

import pandas as pd
import torch

from stages import tasks
from stages.model.load import Loaded
from stages.store import params, tables


def no_means(slot: str, settings: params.Params) -> str:
    """Return why there are no mean outputs of heads, which are taken over long texts of split a, or ''."""
    if getattr(settings.tasks, _text()) is None:
        return f"no head is silenced: tasks.{_text()}, over which their mean outputs are taken, is not in params"
    if len(_rows(slot, "layer")):
        return ""
    why = tables.OUTPUTS.reason(slot, _text()) or "the model reads none of these texts whole"
    return f"no head is silenced: there are no long texts over which their mean outputs are taken ({why})"


def _text() -> str:
    return next(name for name in tasks.names() if tasks.of(name).outputs == "mean")


def _rows(slot: str, *columns: str) -> pd.DataFrame:
    mean = [("split", "==", "a"), ("role", "==", tasks.of(_text()).mean_role)]  # one row of each head
    return tables.OUTPUTS.read(slot, _text(), columns=list(columns), only=mean)


def text_means(slot: str, loaded: Loaded) -> dict[tuple[int, int], torch.Tensor]:
    """Return every head's mean output (K,) over ordinary positions of split a's prompts (long text), by head."""
    rows = _rows(slot, "layer", "head", "output")
    sizes = {number: layer.head_size for number, layer in loaded.anatomy.layers.items()}
    of_heads = zip(rows.layer, rows["head"], rows.output, strict=True)
    return {(layer, head): torch.from_numpy(z[: sizes[layer]].copy()) for layer, head, z in of_heads}
