"""What the page reads of one slot: the git-tracked files in reports/slots/<slot>/, checked and typed.

A file that is missing or has no rows is an empty frame with the right columns: the page then says so in a sentence.
"""

import json
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.store.errors import UserError

TEXT = {"family", "note", "family_a", "family_b", "intervention", "kind", "task", "group", "measure", "control"}
TEXT |= {
    "function",
    "context",
    "vector",
    "label",
    "direction",
    "relation",
}  # others are numbers, empty where not defined
COLUMNS = {
    "heads": "layer head family score null baseline low high q member prompts note",
    "overlap": "family_a family_b members_a members_b both jaccard expected corrected",
    "reliability": "family spearman members threshold prompts",
    "effects": "intervention k kind task group measure value change low high trials control draws "
    "versus_control versus_low versus_high",
    "steering": "function layer context vector accuracy low high trials heads strength",
    "grammar": "label direction group queries trials layer head accuracy low high offset baseline gain gain_low "
    "gain_high mass mass_null sink sink_elsewhere rise rise_low rise_high others others_low others_high members note",
    "iteration": "function relation layer head share low high null offset baseline mass mass_null trials members "
    "symbols symbols_low symbols_high symbols_chance tapes tapes_low tapes_high tapes_chance prompts",
}
COUNTING = "baseline task group measure value low high trials"


@dataclass(frozen=True)
class Slot:
    """The results of one slot; frames have the columns in `COLUMNS`."""

    name: str
    folder: Path
    model: dict[str, Any]
    metrics: dict[str, Any]
    heads: pd.DataFrame
    overlap: pd.DataFrame
    reliability: pd.DataFrame
    effects: pd.DataFrame
    steering: pd.DataFrame
    grammar: pd.DataFrame
    iteration: pd.DataFrame

    @property
    def causal(self) -> bool:
        """Whether every position sees only what comes before."""
        return self.model.get("kind") == "decoder"

    @property
    def reasons(self) -> dict[str, str]:
        """Why tasks and families have no number, by their names."""
        return {what.removeprefix("family "): why for what, why in self.model.get("not_measured", {}).items()}

    @property
    def title(self) -> str:
        """The model's name, never without how its weights were stored: quantised weights are another model."""
        stored = self.model.get("stored")
        return self.model.get("name", "no results yet") + (f" ({stored})" if stored else "")

    def path(self, file: str) -> str:
        """Return the path of one of the slot's files, from the repository's folder."""
        return (self.folder / file).as_posix()


def read(name: str, folder: Path) -> Slot:
    """Read a slot's files; a damaged file or a missing column is a `UserError` naming it."""
    frames = {table: frame(folder / f"{table}.csv", columns.split()) for table, columns in COLUMNS.items()}
    return Slot(name, folder, _json(folder / "model.json"), _json(folder / "metrics.json"), **frames)


def counting(path: Path) -> pd.DataFrame:
    """Read what the n-gram baselines can do, with the columns in `COUNTING`; it is the same for every slot."""
    return frame(path, COUNTING.split(), {*TEXT, "baseline"})


def frame(path: Path, columns: list[str], text: Set[str] = TEXT) -> pd.DataFrame:
    """Read a CSV file, its columns checked and typed; a missing file is an empty frame."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        frame = pd.DataFrame(columns=columns, dtype=str)
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable CSV file ({str(error).splitlines()[0]}); run dvc repro") from None
    if missing := [column for column in columns if column not in frame]:
        raise UserError(f"{path}: no column {', '.join(missing)}; expected {', '.join(columns)}; run dvc repro")
    for column in columns:
        if column not in text:
            try:
                frame[column] = pd.to_numeric(frame[column].replace("", None))
            except ValueError as error:
                raise UserError(f"{path}: column {column}: {error}; expected a number or nothing") from None
    return frame[columns]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}); run dvc repro") from None
