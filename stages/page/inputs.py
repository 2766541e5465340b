"""What the page reads of one slot: the git-tracked files in reports/slots/<slot>/, checked and typed.

A file that is missing or has no rows is an empty frame with the right columns: the page then says so in a sentence.
"""

import csv
import json
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from stages.families import FAMILIES
from stages.store.errors import UserError

TEXT = set(  # columns of names; all others are numbers, empty where not defined
    "family note family_a family_b purpose kind task condition measure matching function context vector label "
    "direction label_group relation effect_task tried class target source language beside of ordering category method "
    "positions a b what".split()
)
COLUMNS = {
    "heads": "layer head family score score_a score_b score_null baseline low high q member member_a prompts note",
    "overlap": "family_a family_b members_a members_b shared jaccard expected corrected",
    "reliability": "family spearman members threshold prompts effect_task effect_rho effect_p",
    "effects": "purpose family k kind draw heads members task condition measure value intact change low high trials "
    "clusters controls control_change p p_floor q overlap matching note",
    "causal": "layer head task measure change low high q first_order exact note",
    "agreement": "task measure heads rank_correlation sign_agreement top",
    "steering": "function layer context vector accuracy low high trials clusters heads strength tried controls "
    "control_accuracy p p_floor overlap matching note",
    "extrapolation": "function kind class tokens context accuracy low high trials clusters note",
    "sweep": "function vector layer strength heads accuracy logprob trials chosen",
    "composed": "function context vector beside accuracy low high logprob trials clusters heads controls "
    "control_largest p p_floor note",
    "continued": "function vector source of share low high change change_low change_high seen seen_shown kept "
    "kept_shown trials clusters controls control_share control_largest p p_floor note",
    "grammar": "label direction label_group queries trials layer head accuracy low high best_offset baseline gain "
    "gain_low gain_high mass mass_null sink sink_elsewhere rise rise_low rise_high others others_low others_high "
    "members note",
    "circuit": "target place purpose direction source kind layer head feeder previous composition copying intact value "
    "effect low high share loss loss_effect loss_low loss_high trials clusters controls control_largest p p_floor "
    "loss_control_largest loss_p loss_p_floor rho rho_p matching note",
    "shifts": "function inverse space vector kind layer factor asked measure value low high value_null p trials note",
    "readings": "function vector norm answers random p p_floor elsewhere inputs inputs_random tokens random_tokens",
    "switch": "family k kind heads members passed_over task condition measure value intact change low high trials "
    "clusters controls control_change p p_floor matching note other beyond beyond_low beyond_high beyond_trials pairs "
    "beyond_p beyond_p_floor beyond_note",
    "iteration": "function relation layer head share low high share_null best_offset baseline mass mass_null trials "
    "members symbols symbols_low symbols_high symbols_chance tapes tapes_low tapes_high tapes_chance prompts",
    "gates": "layer head key_head layer_window change low high logprob key_change key_low key_high key_logprob mass "
    "mass_answer wu induction echo prompts key_prompts weighed",
    "gates_overlap": "a b threshold_a threshold_b heads_a heads_b shared heads spearman",
    "cache": "task measure method share kept kept_heads entries value low high change change_low change_high prompts "
    "clusters draws draws_mean draws_best draws_close draws_worse p p_floor",
    "streaming": "sinks positions length loss change low high passages tokens",
    "sinks": "part input layer head measure threshold value low high prompts note",
    "probes": "kind target layer value low high majority shuffled guess tokens blocks spread outliers note",
    "orders": "ordering category context vector accuracy low high rival rival_low rival_high lead lead_low "
    "lead_high guess learned learned_low learned_high trials clusters heads controls control_accuracy p p_floor "
    "overlap matching note",
    "images": "layer kind tokens norm ratio low high attention attention_low attention_high attention_null most images "
    "dip modes_p",
    "neighbours": "condition language measure value low high p p_floor trials clusters note",
    "memory": "part what layer condition measure value low high p p_floor trials clusters note",
}
NAMES = {
    "effects": {"heads"},
    "extrapolation": {"tokens"},
    "shifts": {"space", "asked"},
    "sinks": {"part", "input"},
    "memory": {"part"},
    "switch": {"heads", "passed_over", "matching", "other", "beyond_note"},
    "cache": {"kept_heads"},
    "readings": {"tokens", "random_tokens"},
}  # table: columns of names there, of numbers elsewhere
SOURCES = "task source place prompts a b clusters conditions prompt example"
COUNTING = "baseline task condition measure value low high trials"


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
    causal: pd.DataFrame
    agreement: pd.DataFrame
    steering: pd.DataFrame
    extrapolation: pd.DataFrame
    sweep: pd.DataFrame
    composed: pd.DataFrame
    continued: pd.DataFrame
    grammar: pd.DataFrame
    iteration: pd.DataFrame
    circuit: pd.DataFrame
    switch: pd.DataFrame
    shifts: pd.DataFrame
    readings: pd.DataFrame
    neighbours: pd.DataFrame
    memory: pd.DataFrame
    gates: pd.DataFrame
    gates_overlap: pd.DataFrame
    cache: pd.DataFrame
    streaming: pd.DataFrame
    sinks: pd.DataFrame
    probes: pd.DataFrame
    orders: pd.DataFrame
    images: pd.DataFrame
    policy: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, Any] = field(default_factory=dict)
    longer: dict[str, Any] = field(default_factory=dict)  # stage: `stages.page.longer.Study`

    @property
    def decoder(self) -> bool:
        """Whether the model is one: every position sees only what comes before."""
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
    frames = {
        table: frame(folder / f"{table}.csv", columns.split(), TEXT | NAMES.get(table, set()))
        for table, columns in COLUMNS.items()
    }
    summaries = {"model": _json(folder / "model.json"), "metrics": _json(folder / "metrics.json")}
    summaries |= {"policy": _json(folder / "cache.json"), "examples": _json(folder / "examples.json")}
    _check_heads(folder, frames["heads"], summaries["model"])
    return Slot(name, folder, **summaries, **frames)


def _check_heads(folder: Path, heads: pd.DataFrame, model: dict[str, Any]) -> None:
    """Raise `UserError` unless heads.csv has as many rows for every head of the model, all of known families."""
    there = heads.groupby(["layer", "head"]).size()
    known = [(part["layer"], head) for part in model.get("attention", ()) for head in range(part["heads"])]
    if len(heads) and (there.nunique() > 1 or list(there.index) != known):
        raise UserError(
            f"{folder / 'heads.csv'}: not the same number of rows for each head in {folder / 'model.json'}: cut, or of "
            "another model; run dvc repro"
        )
    if unknown := sorted(set(heads["family"]) - set(FAMILIES)):
        raise UserError(f"{folder / 'heads.csv'}: family {unknown[0]!r} is none of stages/families; run dvc repro")


def counting(path: Path) -> pd.DataFrame:
    """Read what the n-gram baselines can do, with the columns in `COUNTING`; it is the same for every slot."""
    return frame(path, COUNTING.split(), {*TEXT, "baseline"})


def sources(path: Path) -> pd.DataFrame:
    """Read where the prompts of every task come from, with the columns in `SOURCES`."""
    return frame(path, SOURCES.split(), {"task", "source", "place", "prompt", "example"})


def frame(path: Path, columns: list[str], text: Set[str] = TEXT) -> pd.DataFrame:
    """Read a CSV file, its columns checked and typed; a missing file is an empty frame."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        _rectangular(path, len(frame.columns))
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


def _rectangular(path: Path, columns: int) -> None:
    """Raise `UserError` where a row has fewer cells than there are columns: pandas reads a cut one as empty cells."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        for row in rows:
            if row and len(row) != columns:
                raise UserError(f"{path}:{rows.line_num}: {len(row)} cells, {columns} columns: cut; run dvc repro")


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(f"{path}: not JSON ({error}); run dvc repro") from None
    if not isinstance(read, dict):
        raise UserError(f"{path}: holds a {type(read).__name__}; expected an object; run dvc repro")
    return read
