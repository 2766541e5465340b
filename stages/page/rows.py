"""The rows that figures draw and sentences quote, selected and paired from a slot's tables: pure data frames."""

import pandas as pd

from stages.page.head_maps import PREFIX, head_name

KEYS = ["k", "kind", "task", "group", "measure"]
ONLY = {"blimp": ["accuracy"], "icl": ["accuracy"], "needle": ["recall"]}  # measures broken down by group


def intact(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the intact model's values on whole tasks."""
    return effects[(effects["intervention"] == "none") & (effects["group"] == "all")]


def by_group(effects: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return the intact model's main measure per group of a task."""
    rows = effects[(effects["intervention"] == "none") & (effects["group"] != "all") & (effects["task"] == task)]
    return rows[rows["measure"].isin(ONLY.get(task, []))].sort_values("group")


def by_place(rows: pd.DataFrame) -> pd.DataFrame:
    """Split needle groups '<length>@<depth>' into columns; groups of another shape are left out."""
    parts = rows["group"].str.extract(r"^(?P<length>\d+)@(?P<depth>[\d.]+)$")
    rows = rows.assign(length=pd.to_numeric(parts["length"]), depth=pd.to_numeric(parts["depth"]))
    return rows.dropna(subset=["length", "depth"]).sort_values(["length", "depth"])


def pairs(effects: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return a row per effect of a family, with its matched heads' change beside it (`control_*`; empty where none).

    `sure`: the interval of the difference from the matched heads excludes 0.
    """
    return _paired(effects[(effects["kind"] == kind) & (effects["group"] == "all") & ~_grammar(effects)])


def silenced_grammar(effects: pd.DataFrame) -> pd.DataFrame:
    """Return, as `pairs` does, what silencing grammar heads does to minimal pairs: of each phenomenon, and of all."""
    rows = effects[(effects["kind"] == "mean") & (effects["task"] == "blimp") & _grammar(effects)]
    both = _paired(rows)
    return both.assign(family=both["family"].str.removeprefix(PREFIX))


def _grammar(effects: pd.DataFrame) -> pd.Series:
    return effects["intervention"].str.removeprefix("matched:").str.startswith(PREFIX)


def _paired(rows: pd.DataFrame) -> pd.DataFrame:
    matched = rows["intervention"].str.startswith("matched:")
    control = rows[matched].assign(intervention=rows["intervention"].str.removeprefix("matched:"))
    control = control[["intervention", *KEYS, "value", "change", "low", "high", "control", "draws"]]
    control = control.rename(columns={c: f"control_{c}" for c in ("value", "change", "low", "high")})
    control = control.rename(columns={"control": "control_level", "draws": "control_draws"})
    both = rows[~matched & (rows["intervention"] != "none")].merge(control, how="left", on=["intervention", *KEYS])
    both["control"] = both["control"].where(both["control"] != "", both["control_level"].fillna(""))
    both["draws"] = both["draws"].fillna(both["control_draws"])
    both["sure"] = (both["versus_low"] > 0) | (both["versus_high"] < 0)
    return both.rename(columns={"intervention": "family"})


def three(pairs: pd.DataFrame) -> pd.DataFrame:
    """Turn paired effects into the rows of the effects figure: family, matched, difference."""
    sources = {
        "family": ["change", "low", "high"],
        "matched": ["control_change", "control_low", "control_high"],
        "difference": ["versus_control", "versus_low", "versus_high"],
    }
    parts = []
    for series, columns in sources.items():
        part = pairs[["family", *columns]].set_axis(["family", "change", "low", "high"], axis=1)
        parts.append(part.assign(series=series, sure=pairs["sure"] & (series == "difference")))
    return pd.concat(parts).dropna(subset=["change"])


def curve(pairs: pd.DataFrame) -> pd.DataFrame:
    """Turn paired effects over k into the rows of the curve; intervals of a value are those of its change, shifted."""
    parts = []
    for series, prefix in (("retrieval heads", ""), ("matched random heads", "control_")):
        rows = pd.DataFrame({"k": pairs["k"], "value": pairs[f"{prefix}value"]})
        base = pairs[f"{prefix}value"] - pairs[f"{prefix}change"]
        rows = rows.assign(low=base + pairs[f"{prefix}low"], high=base + pairs[f"{prefix}high"])
        rows = rows.dropna(subset=["value"])
        if len(rows):
            start = pd.DataFrame({"k": [0], "value": [base.iloc[0]], "low": None, "high": None})
            parts.append(pd.concat([start.astype(float), rows.astype(float)]).assign(series=series))
    return (
        pd.concat(parts).astype({"k": int}) if parts else pd.DataFrame(columns=["k", "value", "low", "high", "series"])
    )


def concentration(heads: pd.DataFrame) -> pd.DataFrame:
    """Return heads by rank of their positive indirect effect, with the cumulative share; `of` = heads in all."""
    rows = heads[heads["family"] == "function"].dropna(subset=["score"])
    top = rows[rows["score"] > 0].sort_values(["score", "layer", "head"], ascending=[False, True, True])
    return pd.DataFrame(
        {
            "rank": range(1, len(top) + 1),
            "share": (top["score"].cumsum() / top["score"].sum()).to_list(),
            "score": top["score"].to_list(),
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
    for one, other in (("family_a", "family_b"), ("members_a", "members_b")):
        rows[one], rows[other] = rows[one].where(~swap, rows[other]), rows[other].where(~swap, rows[one])
    rows = rows.drop_duplicates(["family_a", "family_b"])
    text = [f"{c:.2f}".replace("-", "−") if c == c else "" for c in rows["corrected"]]
    return rows.assign(text=text).sort_values(["family_a", "family_b"], key=lambda names: names.map(place))
