"""The claims of section 'The MLP as a store', each with its bar, which trials on Gemma 3 270M suggested."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stages.page.memory_read import FEW
from stages.page.sentences import interval, number
from stages.statistics.memory import EXACT


@dataclass(frozen=True)
class Claim:
    """What is claimed, where its number stands in memory.csv, and the bar: `above` it the claim holds, or below."""

    says: str
    where: dict[str, Any]
    bar: float
    above: bool = True
    digits: int = 2


def claims(layer: int, relation: str) -> list[Claim | str]:
    """Return all claims; a text heads those that follow."""
    look, edit = {"part": "lookup", "condition": relation}, {"part": "insert", "what": "edit", "layer": layer}
    edit |= {"condition": "invented"}
    return [
        "One MLP decides which subject is read",
        Claim("its output, of another subject, brings that subject's answer",
              look | {"what": "interchange", "layer": layer, "measure": "donor"}, 0.80),
        Claim("of any other layer, the own answer stays: the least of all layers",
              look | {"what": "interchange", "measure": "own", "not": layer}, 0.85),
        Claim("it is knowledge that is lost: with its mean put in, copying a word stays right",
              {"part": "lookup", "what": "mean", "condition": "copy", "measure": "own", "layer": layer}, 0.85),
        "A LoRA of rank one inserts a pair",
        Claim("an invented fact is recalled", edit | {"measure": "efficacy"}, 0.95),
        Claim("in words that the edit has not seen", edit | {"measure": "paraphrase"}, 0.85),
        Claim("known subjects stay right", edit | {"measure": "neighbours"}, 0.97),
        Claim("plain text: nats a token lost", edit | {"measure": "text_loss"}, 0.02, False, 3),
        Claim("control: a random δ of the same length is recalled", edit | {"what": "random", "measure": "efficacy"},
              0.05, False),
        Claim("control: with C = identity, text KL is so many times as large",
              edit | {"measure": "text_kl", "ratio": "identity"}, 10, True, 0),
        Claim("second singular value of the change over the first, millionths",
              edit | {"what": "adapter", "measure": "second_singular"}, 100, False, 1),
        Claim("adapter read from its file, merged: largest difference of logits, millionths",
              edit | {"what": "adapter", "measure": "reload"}, 1000, False, 0),
        "It edits a true one, where others are preserved",
        Claim("other known subjects stay right, keys of split a preserved",
              {"part": "insert", "what": "true_preserved", "measure": "neighbours"}, 0.93),
        "Pairs add up",
        Claim("ten facts solved jointly are recalled", edit | {"what": "joint-10", "measure": "efficacy"}, 0.85),
        Claim("ten single edits summed are recalled", edit | {"what": "summed-10", "measure": "efficacy"}, 0.85),
        "A miss is seen in what is answered",
        Claim("entropy, nats more for invented names than for real ones of as many tokens",
              {"part": "miss", "what": "main", "condition": "gap_matched", "measure": "entropy"}, 0.0),
        Claim("answers after two sets of demonstrations agree more often for the real ones",
              {"part": "miss", "what": "shown", "condition": "gap_matched", "measure": "agreement"}, 0.0),
    ]  # fmt: skip


def rows_of(listed: list[Claim | str], cells: Callable[..., pd.DataFrame]) -> tuple[list[list[str]], list[int]]:
    """Return the table's rows and which of them are headings; a claim without a number says so."""
    rows, heads = [], []
    for claim in listed:
        if isinstance(claim, str):
            heads.append(len(rows))
            rows.append([claim, "", "", "", ""])
            continue
        row, bar = _measured(claim, cells), f"{'≥' if claim.above else '≤'} {number(claim.bar, _digits(claim.bar))}"
        if claim.bar == 0:
            bar = "> 0"
        if row is None:
            rows.append([claim.says, bar, "–", "–", "not measured"])
            continue
        value = f"{number(row['value'], claim.digits)} {interval(row['low'], row['high'], claim.digits)}".strip()
        rows.append([claim.says, bar, value, str(int(row["clusters"])), verdict(claim, row)])
    return rows, heads


def verdict(claim: Claim, row: Any) -> str:
    """Say whether a claim holds: the number, as printed, and all of its interval where there is one.

    Nothing holds of too few subjects, nor without an interval where there could be one.
    """
    sign = 1 if claim.above else -1
    value, low, high = (round(float(row[name]), claim.digits) for name in ("value", "low", "high"))
    end = low if claim.above else high
    holds = sign * (value - claim.bar) > 0 or (value == claim.bar and claim.bar != 0)
    if not holds:
        return "does not hold"
    if claim.where["measure"] in EXACT:
        return "holds"
    if row["clusters"] < FEW or "fewer than" in str(row["note"]):
        return "too few for a claim"
    if np.isnan(end):
        return "holds" if "ratio" in claim.where else "too few for a claim"
    clear = sign * (end - claim.bar) > 0 or (end == claim.bar and claim.bar != 0)
    return "holds" if clear else "holds; the interval goes beyond the bar"


def _measured(claim: Claim, cells: Callable[..., pd.DataFrame]) -> Any:
    where = dict(claim.where)
    other, ratio = where.pop("not", None), where.pop("ratio", None)
    rows = cells(**where)
    rows = rows[rows["value"].notna() & (rows["layer"] != other)] if other is not None else rows[rows["value"].notna()]
    if rows.empty:
        return None
    row = rows.sort_values(["value", "layer"]).iloc[0]
    if ratio is None:
        return row
    above = cells(**where | {"what": ratio})
    if above.empty or not row["value"] > 0:
        return None
    return row.to_dict() | {"value": above["value"].iloc[0] / row["value"], "low": np.nan, "high": np.nan}


def _digits(bar: float) -> int:
    return 0 if bar == int(bar) else 2
