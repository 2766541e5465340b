"""The rows of memory.csv, as the sections that show them address and write them."""

from typing import Any

import pandas as pd

from stages.page.sentences import interval, number
from stages.statistics.memory import ALL

FEW = 20  # subjects that a claim rests on, at least
MEASURES = {
    "efficacy": "recalled", "paraphrase": "in other words", "neighbours": "known subjects still right",
    "hijacked": "other invented names that get the object", "text_loss": "text loss, nats", "text_kl": "text KL, nats",
}  # fmt: skip


def relations(rows: pd.DataFrame) -> list[str]:
    """Return the relations whose known facts were looked up, `ALL` first where there are several."""
    asked = rows[(rows["part"] == "lookup") & (rows["what"] == "interchange")]["condition"]
    return sorted(set(asked), key=lambda name: (name != ALL, name))


def relation_of(rows: pd.DataFrame) -> str:
    """Return the condition that known facts stand under: all relations together where there are several."""
    return next(iter(relations(rows)), "")


class Read:
    """The rows of memory.csv, addressed by name; `layer` and `attention` are what split a chose."""

    def __init__(self, rows: pd.DataFrame, relation: str, layer: int, attention: int) -> None:
        self.rows, self.relation, self.layer, self.attention = rows, relation, layer, attention

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "Read | None":
        """Return the rows with what split a chose, None where it chose nothing."""
        chosen = rows[rows["part"] == "chosen"].set_index("measure")["value"]
        if "mlp" not in chosen.index:
            return None
        return cls(rows, relation_of(rows), int(chosen["mlp"]), int(chosen["attention"]))

    def together(self) -> str:
        """Name the relation where there are several, or say how many are taken together; '' where there is one."""
        known = relations(self.rows)
        if len(known) < 2:
            return ""
        return f" (of {len(known) - 1} relations)" if self.relation == ALL else f" of {self.relation}"

    def cells(self, **where: Any) -> pd.DataFrame:
        """Return the rows with these values."""
        rows = self.rows
        for column, value in where.items():
            rows = rows[rows[column] == value]
        return rows

    def cell(self, **where: Any) -> Any:
        """Return one row, None where there is none or it has no value."""
        rows = self.cells(**where)
        return rows.iloc[0] if len(rows) and pd.notna(rows["value"].iloc[0]) else None


def shown(row: Any, digits: int = 2, sign: bool = False) -> str:
    """Write a row's value with its interval; no row is a dash."""
    if row is None:
        return "–"
    return f"{number(row['value'], digits, sign)} {interval(row['low'], row['high'], digits, sign)}".strip()


def subjects(row: Any) -> str:
    """Write how many subjects a row rests on, and whether they are too few."""
    few = ", too few for a claim" if row["clusters"] < FEW else ""
    return f" ({int(row['clusters'])} subjects{few})"
