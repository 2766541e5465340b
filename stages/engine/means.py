"""Mean outputs of heads that `extract` took: over text, for silenced heads' places; over solved prompts, for vectors.

Legend: K head size, D residual width.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from stages import tasks
from stages.model.intervene import Head
from stages.store import params, tables
from stages.store.table import Table


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
    mean = [
        ("split", "==", "a"),
        ("role", "==", tasks.of(_text()).mean_role),
        ("prompts", ">", 0),
    ]  # a row of each head
    return tables.OUTPUTS.read(slot, _text(), columns=list(columns), only=mean)


def text_means(slot: str) -> dict[Head, torch.Tensor]:
    """Return every head's mean output (K,) over ordinary positions of split a's prompts (long text), by head."""
    rows = _rows(slot, "layer", "head", "output")
    of_heads = zip(rows.layer, rows["head"], rows.output, strict=True)
    return {(layer, head): torch.from_numpy(z_K.copy()) for layer, head, z_K in of_heads}


def solved_means(slot: str, task: str) -> dict[tuple[str, str], dict[Head, torch.Tensor]]:
    """Return every head's mean output (K,) at the last token of split a's prompts that the model answers right.

    By (condition, half of the demonstration sets; '' for both), of those that have any.
    """
    return {part: _by(rows, ["layer", "head"], "output") for part, rows in _solved(tables.OUTPUTS, slot, task)}


def solved_residuals(slot: str, task: str) -> dict[str, dict[int, torch.Tensor]]:
    """Return the mean residual (D,) after every block there, over both halves, by condition and layer."""
    parts = _solved(tables.RESIDUALS, slot, task)
    return {condition: _by(rows, "layer", "residual") for (condition, half), rows in parts if not half}


def _solved(table: Table, slot: str, task: str) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    rows = table.read(slot, task, only=[("split", "==", "a")])
    for condition, of_condition in rows[rows.prompts > 0].groupby("condition"):
        yield (condition, ""), of_condition
        for half, of_half in of_condition.groupby("half"):
            yield (condition, half), of_half


def _by(rows: pd.DataFrame, names: str | list[str], column: str) -> dict:
    """Return the mean of a column of vectors over groups of prompts, each prompt alike, by head or by layer."""
    return {
        name: torch.from_numpy(np.average(np.stack(of_name[column]), axis=0, weights=of_name.prompts)).float()
        for name, of_name in rows.groupby(names)
    }
