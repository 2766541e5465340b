"""The rows that figures draw and sentences quote, selected and paired from a slot's tables: pure data frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stages import tasks
from stages.families.family import Family
from stages.page.head_maps import head_name

MAIN = {name: tasks.of(name).main for name in tasks.names()}  # task: the measure that claims are made with
BESIDE = {measure for name in tasks.names() for measure in tasks.of(name).beside}  # say something of the prompts alone
SAME = ["family", "task", "measure", "condition"]


@dataclass(frozen=True)
class Change:
    """A change of a measure with its interval, nan where there is none."""

    value: float
    low: float
    high: float

    def harm(self, falls: bool) -> "Change":
        """Return it as harm, positive where it is for the worse: a loss (falls) as it is, others with the sign turned.

        All effects of taking something away are shown in this way; the tables hold changes as they are.
        """
        return self if falls else Change(-self.value, -self.high, -self.low)


def intact(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the intact model's values on whole tasks."""
    return effects[(effects["purpose"] == "none") & (effects["condition"] == "all")]


def by_condition(effects: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return the intact model's main measure per condition of a task."""
    rows = effects[(effects["purpose"] == "none") & (effects["condition"] != "all") & (effects["task"] == task)]
    return rows[rows["measure"] == MAIN.get(task)].sort_values("condition")


def falls(task: str, measure: str) -> bool:
    """Tell whether less of a task's measure is better."""
    return measure in tasks.of(task).falls if task in MAIN else measure == "loss"


def by_place(rows: pd.DataFrame) -> pd.DataFrame:
    """Split needle conditions '<length>@<depth>' into columns; conditions of another shape are left out."""
    parts = rows["condition"].str.extract(r"^(?P<length>\d+)@(?P<depth>[\d.]+)$")
    rows = rows.assign(length=pd.to_numeric(parts["length"]), depth=pd.to_numeric(parts["depth"]))
    return rows.dropna(subset=["length", "depth"]).sort_values(["length", "depth"])


def silenced(effects: pd.DataFrame, families: Mapping[str, Family], kind: str = "") -> pd.DataFrame:
    """Return what silencing a family's heads changes, a row per family, task, measure and condition, in display order.

    Rows are of one kind of ablation, where none is named of the first that has controls. `home`: the task is one that
    the family is asked about; `whole`: over all prompts that it is asked about; `claim`: the measure that a verdict is
    given on; `harm`: the change for the worse, from `harm_low` to `harm_high`, that of control sets `control_harm`;
    `as_harmful`: control sets that do as much harm (empty without controls); `besides`: kind of ablation -> its harm,
    of the other kinds.
    """
    kind = kind or main_kind(effects)
    rows, sets, besides = effects[effects["purpose"] == "family"], asked(families), other_kinds(effects, kind)
    changes = {
        (row.kind, *(getattr(row, name) for name in SAME)): harm(row)
        for row in rows[rows["kind"].isin(besides)].itertuples()
    }
    rows = rows[rows["kind"] == kind].copy()
    homes = {(name, task) for name, family in sets.items() for task in family.home}
    conditions = {(name, family.home_condition) for name, family in sets.items()}
    rows["home"] = _in(rows, ["family", "task"], homes) | (rows["controls"] > 0)
    overall = rows["condition"] == "all"
    both = _in(rows, SAME[:3], set(zip(*(rows.loc[overall, column] for column in SAME[:3]), strict=True)))
    rows["whole"] = overall | (
        _in(rows, ["family", "condition"], conditions) & ~both
    )  # its condition, where 'all' has no row
    rows["claim"] = rows["whole"] & rows["home"] & _main(rows)
    harms = [harm(row) for row in rows.itertuples()]
    rows["harm"] = [each.value for each in harms]
    rows["harm_low"], rows["harm_high"] = [each.low for each in harms], [each.high for each in harms]
    rows["control_harm"] = rows["control_change"] * _signs(rows)
    rows["as_harmful"] = (rows["p"] * (1 + rows["controls"])).round() - 1
    keys = list(zip(*(rows[name] for name in SAME), strict=True))
    rows["besides"] = [{kind: changes[kind, *key] for kind in besides if (kind, *key) in changes} for key in keys]
    order = {name: place for place, name in enumerate(sets)}
    rows["place"] = rows["family"].map(order).fillna(len(order))
    places = {task: place for place, task in enumerate(MAIN)}
    rows["task_place"] = rows["task"].map(places).fillna(len(places))
    return rows.sort_values(["place", "family", "home", "task_place", "task", "measure", "condition"],
                            ascending=[True, True, False, True, True, True, True], kind="stable")  # fmt: skip


def more_claims(slot: Any, families: Mapping[str, Family]) -> pd.DataFrame:
    """Return the claims of a slot's longer study with more control sets, as `silenced` has them; none without it."""
    of_study = slot.longer["plan"].slot.effects if "plan" in slot.longer else slot.effects.head(0)
    rows = silenced(of_study, families)
    return rows[rows["claim"] & rows["q"].notna()]


def harm(row: Any) -> Change:
    """Return a row's change (columns task, measure, change, low, high) as harm."""
    return Change(row.change, row.low, row.high).harm(falls(row.task, row.measure))


def _signs(rows: pd.DataFrame) -> np.ndarray:
    """Return 1 for every row whose measure is worse when it rises, -1 for the others."""
    return np.array([1.0 if falls(*pair) else -1.0 for pair in zip(rows["task"], rows["measure"], strict=True)])


def _in(rows: pd.DataFrame, columns: list[str], keys: set[tuple]) -> pd.Series:
    """Tell which rows have one of the keys in these columns."""
    return pd.Series([key in keys for key in zip(*(rows[column] for column in columns), strict=True)], rows.index, bool)


def _main(rows: pd.DataFrame) -> pd.Series:
    """Tell which rows have the measure that claims are about: that with a q-value, else the task's main one."""
    judged = rows["q"].notna()
    has = judged.groupby([rows["family"], rows["task"]]).transform("any") if len(rows) else judged
    return judged | (~has & (rows["measure"] == rows["task"].map(MAIN)))


def main_kind(effects: pd.DataFrame) -> str:
    """Return the first kind of ablation that control sets were run with; without any, the first of families, or ''."""
    kinds = [
        *effects.loc[effects["purpose"] == "control", "kind"],
        *effects.loc[effects["purpose"] == "family", "kind"],
    ]
    return kinds[0] if kinds else ""


def other_kinds(effects: pd.DataFrame, kind: str = "") -> list[str]:
    """Return the kinds of ablation that families were silenced with besides one, where none is named the main one."""
    kinds = dict.fromkeys(effects.loc[effects["purpose"] == "family", "kind"])
    return [other for other in kinds if other != (kind or main_kind(effects))]


def asked(families: Mapping[str, Family]) -> dict[str, Family]:
    """Return the families that ask for causal evidence, by the name that they are silenced under."""
    sets: dict[str, Family] = {}
    for family in families.values():
        if family.home:
            sets.setdefault(family.joint or family.name, family)
    return sets


def threshold(slot: Any, family: Family) -> float:
    """Return the threshold of membership that was in force for a slot; the built-in one where none is known."""
    known = slot.reliability.set_index("family")["threshold"].dropna()
    return float(known.get(family.name, family.threshold))


def control_sets(effects: pd.DataFrame, claims: pd.DataFrame, kind: str = "") -> pd.DataFrame:
    """Return the control sets of claims, one row each: family, task, measure, condition, change, harm, heads, draw.

    kind: of ablation, as of `silenced`.
    """
    rows = effects[(effects["purpose"] == "control") & (effects["kind"] == (kind or main_kind(effects)))]
    rows = rows.assign(harm=rows["change"] * _signs(rows))
    return rows[[*SAME, "change", "harm", "heads", "draw"]].merge(claims[SAME], on=SAME)


def dots(claims: pd.DataFrame, controls: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Return the rows of the effects figure: families with intervals ('family') and their control sets ('control')."""
    apart = (claims["p"] <= alpha) & (claims["harm"] > 0)
    own = claims.assign(series="family", apart=apart.astype(int), low=claims["harm_low"], high=claims["harm_high"])
    other = controls.assign(series="control", apart=0, low=np.nan, high=np.nan)
    keep = ["family", "series", "harm", "low", "high", "heads", "apart"]
    return pd.concat([part[keep] for part in (own, other) if len(part)], ignore_index=True).dropna(subset="harm")


def single_heads(causal: pd.DataFrame) -> pd.DataFrame:
    """Return a slot's causal table with the name of every head, its effects as harm: first_order, exact, low, high."""
    signs = _signs(causal)
    low, high = (np.where(signs > 0, causal[ends[0]], -causal[ends[1]]) for ends in (("low", "high"), ("high", "low")))
    return causal.assign(
        name=[head_name(*pair) for pair in zip(causal["layer"], causal["head"], strict=True)],
        first_order=causal["first_order"] * signs,
        exact=causal["exact"] * signs,
        low=low,
        high=high,
    )


def silenced_in(effects: pd.DataFrame) -> dict[str, list[str]]:
    """Return head -> families that it is silenced with."""
    rows = effects[effects["purpose"] == "family"].drop_duplicates(["family", "heads"])
    names: dict[str, list[str]] = {}
    for family, heads in zip(rows["family"], rows["heads"], strict=True):
        for head in heads.split():
            if family not in names.setdefault(head, []):
                names[head].append(family)
    return names


def concentration(heads: pd.DataFrame) -> pd.DataFrame:
    """Return heads by rank of their indirect effect on split a, with the share that the first carry on split b.

    share: sum of the split-b effects so far, of all positive ones on split b; `of` = heads in all. Only heads with a
    positive effect on split a are ranked.
    """
    rows = heads[heads["family"] == "function"].dropna(subset=["score_a", "score_b"])
    top = rows[rows["score_a"] > 0].sort_values(["score_a", "layer", "head"], ascending=[False, True, True])
    total = rows["score_b"].clip(lower=0).sum()
    top = top if total > 0 else top.head(0)
    return pd.DataFrame(
        {
            "rank": range(1, len(top) + 1),
            "share": (top["score_b"].cumsum() / total).to_list(),
            "score": top["score_b"].to_list(),
            "name": [head_name(*pair) for pair in zip(top["layer"], top["head"], strict=True)],
            "of": len(rows),
        }
    )


def overlap(table: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Return one row per unordered pair of different families, in display order, with the text of its cell."""
    place = {family: i for i, family in enumerate([*order, *sorted(set(table["family_a"]) | set(table["family_b"]))])}
    place = {family: list(place).index(family) for family in place}
    rows = table[table["family_a"] != table["family_b"]].copy()
    swap = rows["family_a"].map(place) > rows["family_b"].map(place)
    for a, b in (("family_a", "family_b"), ("members_a", "members_b")):
        rows[a], rows[b] = rows[a].where(~swap, rows[b]), rows[b].where(~swap, rows[a])
    rows = rows.drop_duplicates(["family_a", "family_b"])
    text = [f"{c:.2f}".replace("-", "−") if c == c else "" for c in rows["corrected"]]
    return rows.assign(text=text).sort_values(["family_a", "family_b"], key=lambda names: names.map(place))
