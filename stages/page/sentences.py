"""What the figures show, in sentences and numbers computed from the same rows that the figures draw."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from stages.page.head_maps import head_name

TASKS = {
    "blimp": "minimal pairs",
    "icl": "in-context functions",
    "needle": "needles",
    "repeats": "random repeats",
    "text": "text",
    "treebank": "parsed sentences",
    "iteration": "strings and tapes",
}
MEASURES = {  # measure: (what the axis says, decimals)
    "accuracy": ("accuracy", 2),
    "recall": ("recall", 2),
    "logprob": ("log-probability, nats per answer token", 3),
    "loss": ("loss, nats per token", 3),
    "margin": ("margin, nats", 3),
}
PLURAL = {"previous": "previous-token", "duplicate": "duplicate-token"}


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """Write a number with a real minus sign, never as -0.00; what is not defined is a dash."""
    if value is None or math.isnan(value):
        return "–"
    rounded = round(float(value), digits) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int = 2, sign: bool = False) -> str:
    """Write an interval in brackets, or nothing where it is not defined."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{number(low, digits, sign)}, {number(high, digits, sign)}]"


def percent(share: float, sign: bool = False) -> str:
    """Write a share in per cent."""
    return number(100 * share, 1, sign)


def percents(low: float, high: float, sign: bool = False) -> str:
    """Write an interval of shares in per cent."""
    return interval(100 * low, 100 * high, 1, sign)


def change(row: Any, prefix: str = "") -> str:
    """Write a row's change with its interval: that of the family (''), or of its control ('control_')."""
    return _change(row.measure, *(getattr(row, f"{prefix}{column}") for column in ("change", "low", "high")))


def versus(row: Any) -> str:
    """Write a row's difference from its control, with its interval."""
    return _change(row.measure, row.versus_control, row.versus_low, row.versus_high)


def _change(measure: str, centre: float, low: float, high: float) -> str:
    digits = decimals(measure)
    if any(0 < abs(bound) < 0.5 * 10**-digits for bound in (low, high)):
        digits += 1  # a bound that is not 0 must not read as 0
    return f"{number(centre, digits, True)} {interval(low, high, digits, True)}".strip()


def decimals(measure: str) -> int:
    """Return how many decimals a measure is written with."""
    return MEASURES.get(measure, ("", 3))[1]


def measured(task: str, measure: str) -> str:
    """Name a measure of a task: accuracy on minimal pairs."""
    return f"{'log-probability' if measure == 'logprob' else measure} on {TASKS.get(task, task)}"


def family_heads(family: str) -> str:
    """Name the heads of a family: previous-token heads."""
    return f"{PLURAL.get(family, family)} heads"


def capital(text: str) -> str:
    """Begin a text with a capital letter and leave the rest alone."""
    return text[:1].upper() + text[1:]


def listed(words: Iterable[str]) -> str:
    """Join words with commas and a final 'and'."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def anatomy(model: dict) -> str:
    """Say how many layers, heads and kinds of attention a model has."""
    layers = model.get("attention", [])
    if not layers:
        return "Its anatomy is not recorded."
    shapes = sorted({(x["heads"], x["kv_heads"], x["head_size"]) for x in layers})
    each = " or ".join(f"{h} query heads over {kv} key-value heads of size {size}" for h, kv, size in shapes)
    windows: dict[int, list[int]] = {}
    for x in layers:
        windows.setdefault(x.get("window") or 0, []).append(x["layer"])
    kinds = [
        f"{len(found)} see {f'the last {window} tokens' if window else 'the whole context'}"
        + (f" ({', '.join(f'L{layer}' for layer in found)})" if len(windows) > 1 and len(found) <= 8 else "")
        for window, found in sorted(windows.items())
    ]
    whole = "every layer sees the whole context" if list(windows) == [0] else "of the layers, " + listed(kinds)
    return (
        f"{len(layers)} attention layers with {each} each, {sum(x['heads'] for x in layers)} heads in all; {whole}."
    ).replace("1 key-value heads", "1 key-value head")


def intact(row: pd.Series) -> str:
    """Say how the intact model does on a whole task."""
    digits = decimals(row["measure"])
    value = f"{number(row['value'], digits)} {interval(row['low'], row['high'], digits)}".strip()
    return f"{measured(row['task'], row['measure'])} {value} over {int(row['trials'])} trials"


def spread(rows: pd.DataFrame, what: str) -> str:
    """Say which groups of a task are the best and the worst."""
    best, worst = rows.loc[rows["value"].idxmax()], rows.loc[rows["value"].idxmin()]
    if best["value"] == worst["value"]:
        return f"All {len(rows)} {what} stand at {number(best['value'])}."
    return (
        f"Best of {len(rows)} {what}: {best['group']} with {number(best['value'])} ({int(best['trials'])} trials); "
        f"worst: {worst['group']} with {number(worst['value'])} ({int(worst['trials'])} trials)."
    )


def members(heads: pd.DataFrame) -> str:
    """Say how many heads belong to a family, and which families are the largest."""
    total = heads[["layer", "head"]].drop_duplicates()
    heads = heads.assign(family=heads["family"].str.split(":").str[0])  # grammar counts as one family
    inside = heads[heads["member"] == 1].drop_duplicates(["layer", "head", "family"])
    belong = inside[["layer", "head"]].drop_duplicates()
    counts = inside.groupby("family").size().sort_values(ascending=False, kind="stable")
    if belong.empty:
        return (
            f"None of the {len(total)} heads is a member of any of the {heads['family'].nunique()} families measured."
        )
    return (
        f"{len(belong)} of {len(total)} heads are members of at least one of {heads['family'].nunique()} families; "
        f"largest: {listed(f'{name} ({count})' for name, count in counts.head(3).items())}."
    )


def strongest(rows: pd.DataFrame) -> str:
    """Name a family's strongest head, its score and how many members there are."""
    top = rows.loc[rows["score"].idxmax()]
    count = int(rows["member"].sum())
    digits = 2 if top["score"] >= 0.1 else 3
    kind = f"{count} member{'s' if count != 1 else ''}" if count else "no member"
    return f"{kind} · {head_name(top['layer'], top['head'])} {number(top['score'], digits)}"


def effects(pairs: pd.DataFrame) -> str:
    """Say how many of the differences from matched heads exclude 0, and how many would by chance."""
    tested = pairs[pairs["versus_low"].notna()]
    if tested.empty:
        return "No difference from matched heads could be measured."
    sure = tested[tested["sure"]]
    return (
        f"Of {len(tested)} differences from matched heads, {len(sure)} {'excludes' if len(sure) == 1 else 'exclude'} 0 "
        f"({by_chance(len(tested))} if no family mattered)."
    )


def by_chance(count: int, share: float = 0.05) -> str:
    """Say how many of a number of intervals would exclude 0 (on one side: half as many) though nothing is there."""
    return f"about {math.ceil(share * count)} would"


def task_effects(pairs: pd.DataFrame) -> str:
    """Name the families whose difference from matched heads excludes 0 on one task."""
    sure = pairs[pairs["sure"]]
    sure = sure.reindex(sure["versus_control"].abs().sort_values(ascending=False, kind="stable").index)
    if sure.empty:
        return "No difference excludes 0." if pairs["versus_low"].notna().any() else "No control was possible."
    return f"Differs from matched heads: {listed(f'{row.family} {versus(row)}' for row in sure.itertuples())}."


def controls(pairs: pd.DataFrame, by: str = "family") -> str:
    """Say how the matched heads were matched and how many distinct draws there were, by family or k."""
    levels: dict[str, dict[str, list[str]]] = {}
    for key, found in pairs.groupby(by, sort=False):
        row = found.iloc[0]
        draws = str(int(row["draws"])) if row["draws"] > 0 else "none"
        name = f"k = {key}" if by == "k" else str(key)
        levels.setdefault(row["control"] or "level not recorded", {}).setdefault(draws, []).append(name)
    parts = []
    for level, draws in levels.items():
        single = len(draws) == len(levels) == 1
        counts = "; ".join(n if single else f"{n} ({listed(keys)})" for n, keys in draws.items())
        parts.append(f"{level}; distinct draws: {counts}")
    return f"Matched heads: {'. '.join(parts)}."


def curve(pairs: pd.DataFrame) -> str:
    """Say what silencing more and more retrieval heads does to one measure, beside matched heads."""
    pairs = pairs.sort_values("k")
    first, digits = pairs.iloc[0], decimals(pairs["measure"].iloc[0])
    name = measured(first["task"], first["measure"])
    ks = ", ".join(str(int(k)) for k in pairs["k"])
    values = ", ".join(number(value, digits) for value in pairs["value"])
    intact = number(first["value"] - first["change"], digits)
    text = f"{name[0].upper()}{name[1:]}: {intact} intact; with {ks} retrieval heads silenced, {values}"
    if pairs["versus_control"].isna().all():
        return f"{text}; there is no matched control."
    controls = ", ".join(number(value, digits) for value in pairs["control_value"])
    widest = pairs.loc[pairs["versus_control"].abs().idxmax()]
    return (
        f"{text}; with as many matched heads, {controls}. "
        f"Largest difference {versus(widest)}, at {int(widest['k'])}; {int(first['trials'])} trials."
    )


def beside(row: pd.Series) -> str:
    """Say what silencing the same heads does to another task, as a check that the damage is not general."""
    text = f"Silencing {int(row['k'])} of them changes {measured(row['task'], row['measure'])} by {change(row)}"
    if math.isnan(row["versus_control"]):
        return f"{text}; there is no matched control."
    return f"{text}; matched heads by {change(row, 'control_')}; difference {versus(row)}."


def steering(rows: pd.DataFrame, context: str, labels: dict[str, str]) -> str:
    """Say the mean accuracy over functions of every kind of vector in one context."""
    rows = rows[rows["context"] == context]
    means = rows.groupby("vector")["accuracy"].mean()
    parts = [f"{labels[vector]} {number(means[vector])}" for vector in labels if vector in means]
    name = context.replace("_", "-").capitalize()
    return f"{name}, mean over {rows['function'].nunique()} functions: {', '.join(parts)}."


def concentration(rows: pd.DataFrame) -> str:
    """Say how much of the positive indirect effect the top heads carry; rows as in the figure, by rank."""
    if rows.empty:
        return "No head has a positive indirect effect."
    top = rows.iloc[min(5, len(rows)) - 1]
    count, total = int(top["rank"]), int(rows["of"].iloc[0])
    return (
        f"The top {count} of {total} heads carry {top['share']:.0%} of all positive indirect effect "
        f"({rows.iloc[0]['name']} alone {rows.iloc[0]['share']:.0%}); spread evenly, {count} heads would carry "
        f"{count / total:.0%}."
    )


def overlap(rows: pd.DataFrame) -> str:
    """Name the pair of families that overlaps most beyond chance; rows: one per unordered pair."""
    defined = rows[rows["corrected"].notna()]
    if defined.empty:
        return "No two families have members, so that no overlap is defined."
    top = defined.loc[defined["corrected"].idxmax()]
    apart = int((defined["both"] == 0).sum())
    return (
        f"Beyond chance, {top['family_a']} and {top['family_b']} overlap most: {int(top['both'])} heads in both, "
        f"chance-corrected Jaccard {number(top['corrected'])}; {apart} of {len(defined)} pairs share no head."
    )
