"""Prompts of task facts that a model can read, and the rows that are made of them."""

from typing import Any

import pandas as pd

from stages.tasks.facts.task import MAIN


class Prompts:
    """The prompts of the task that the model can read, by condition, class, split and role, ordered by their ids."""

    def __init__(self, loaded: Any, table: pd.DataFrame) -> None:
        from stages.model.tokens import fitting

        self.rows, self.tokens = fitting(loaded, list(table.sort_values("id").itertuples()))

    def of(self, most: int, role: str = MAIN, **where: str) -> tuple[list, list]:
        """Return rows and tokens of at most so many prompts."""
        picked = [
            number
            for number, row in enumerate(self.rows)
            if row.role == role and all(getattr(row, name) == value for name, value in where.items())
        ][:most]
        return [self.rows[number] for number in picked], [self.tokens[number] for number in picked]

    def roles(self, kind: str) -> list[str]:
        """Return the roles of a numbered kind."""
        return sorted({row.role for row in self.rows if row.role.startswith(f"{kind}-")})


def fact_row(part: str, what: str, layer: int, row: Any, measure: str, value: float, condition: str = "") -> dict:
    """Return a row of `tables.MEMORY`."""
    same = {"part": part, "what": what, "layer": layer, "condition": condition or row.condition, "split": row.split}
    return same | {"cluster": row.cluster, "measure": measure, "value": float(value)}
