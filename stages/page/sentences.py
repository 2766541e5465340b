"""What the figures show, in sentences and numbers computed from the same rows that the figures draw."""

import math
from collections.abc import Iterable

import pandas as pd

from stages import tasks
from stages.page.head_maps import head_name

TASKS = {name: tasks.of(name).label for name in tasks.names()}  # what a task's prompts are called
PAIRED = next(name for name in tasks.names() if tasks.of(name).targets == 2)  # minimal pairs
MEASURES = {  # measure: (what the axis says, decimals)
    "accuracy": ("accuracy", 2),
    "recall": ("recall", 2),
    "logprob": ("log-probability, nats per answer token", 3),
    "loss": ("loss, nats per token", 3),
    "margin": ("margin, nats", 3),
    "ties": ("ties, share of pairs", 2),
    "equal_ids": ("pairs with equal token ids, share", 2),
    "unequal_length": ("pairs of unequal length in tokens, share", 2),
}
PLURAL = {"previous": "previous-token", "duplicate": "duplicate-token"}
PAIRS = {"builtin": "minimal pairs (built in)", "hub": "minimal pairs (BLiMP)", "path": "minimal pairs (from a folder)"}
TIES = 3  # so many of equal value are all named
BROAD = 0.5  # a family with more than this share of all heads says little of any of them
STATISTICS = {
    "mass": "share of attention on the target, mean over queries",
    "over_half": "share of queries with more than half of their attention on the target",
    "hits": "share of queries whose most attended key is the target",
    "hits_word": "share of query words whose most attended other word is the target",
    "effect": "probability that the right first answer token gains",
}


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """Write a number with a real minus sign, never as -0.00; what is not defined is a dash."""
    if value is None or math.isnan(value):
        return "–"
    rounded = round(float(value), digits) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int = 2, sign: bool = False) -> str:
    """Write an interval in brackets, or nothing where it is not defined."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{number(low, digits, sign)}, {number(high, digits, sign)}]"


def beyond(low: float, high: float, level: float = 0.0, digits: int = 2) -> int:
    """Tell on which side of a level an interval lies, both as printed: 1 above, -1 below, 0 not told apart from it."""
    low, high, level = (round(float(value), digits) for value in (low, high, level))
    return 1 if low > level else -1 if high < level else 0


def clear_percents(low: float, high: float, level: float = 0.0) -> int:
    """Tell on which side of a level an interval lies, all of them shares printed in per cent: 1, -1 or 0."""
    return beyond(100 * low, 100 * high, 100 * level, 1)


def percent(share: float, sign: bool = False) -> str:
    """Write a share in per cent."""
    return number(100 * share, 1, sign)


def percents(low: float, high: float, sign: bool = False) -> str:
    """Write an interval of shares in per cent."""
    return interval(100 * low, 100 * high, 1, sign)


def decimals(measure: str) -> int:
    """Return how many decimals a measure is written with."""
    return MEASURES.get(measure, ("", 3))[1]


def lost(task: str, measure: str) -> str:
    """Say what harm to a measure is, for an axis: its rise where less of it is better, else its fall."""
    falls = tasks.of(task).falls if task in TASKS else ("loss",)
    return f"{'rise' if measure in falls else 'fall'} of {MEASURES.get(measure, (measure,))[0]}"


def p_value(p: float) -> str:
    """Write a p- or q-value: two decimals, three below 0.1 where two would round it."""
    if math.isnan(p) or p < 0.001:
        return "–" if math.isnan(p) else "below 0.001"
    return number(p, 2 if p >= 0.1 or math.isclose(p, round(p, 2), abs_tol=1e-9) else 3)


def pairs_name(source: str) -> str:
    """Name the minimal pairs by where they come from: only those of the hub's data set are BLiMP."""
    return PAIRS.get(source, TASKS[PAIRED])


def measured(task: str, measure: str) -> str:
    """Name a measure of a task: accuracy on minimal pairs."""
    return f"{'log-probability' if measure == 'logprob' else measure} on {TASKS.get(task, task)}"


def pointer(slot: str, anchor: str, title: str) -> str:
    """Write a link to a section of a slot; `page.linked` makes it one."""
    return f"[{title}](#{slot}-{anchor})"


def family_heads(family: str) -> str:
    """Name the heads of a family: previous-token heads, grammar heads of arguments."""
    name, _, part = family.partition(":")
    return f"{PLURAL.get(name, name)} heads" + (f" of {part.replace('_', ' ')}" if part else "")


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
        f"{len(alike)} see {f'the last {window} tokens' if window else 'the whole context'}"
        + (f" ({', '.join(f'L{layer}' for layer in alike)})" if len(windows) > 1 and len(alike) <= 8 else "")
        for window, alike in sorted(windows.items())
    ]
    whole = "every layer sees the whole context" if list(windows) == [0] else "of the layers, " + listed(kinds)
    free = model.get("attention_free", [])
    blocks = f" Layers are numbered by block; {len(free)} of {len(free) + len(layers)} hold no measured attention."
    return (
        f"{len(layers)} attention layers with {each} each, {sum(x['heads'] for x in layers)} heads in all; {whole}."
        + (blocks if free else "")
    ).replace("1 key-value heads", "1 key-value head")


def intact(row: pd.Series, task: str) -> str:
    """Say how the intact model does on a whole task, named `task`."""
    digits = decimals(row["measure"])
    value = f"{number(row['value'], digits)} {interval(row['low'], row['high'], digits)}".strip()
    return f"{row['measure']} on {task} {value} over {int(row['trials'])} trials"


def spread(rows: pd.DataFrame, what: str) -> str:
    """Say which conditions of a task are the best and the worst."""
    values = rows.set_index("condition")["value"]
    best, worst = number(values.max()), number(values.min())
    trials = sorted({int(count) for count in rows["trials"]})
    each = f"{trials[0]} to {trials[-1]}" if len(trials) > 1 else f"{trials[0]}"
    if best == worst:
        return f"All {len(rows)} {what} stand at {best} ({each} trials each)."
    return (
        f"Best of {len(rows)} {what} ({each} trials each): {tied(values, values.max())} with {best}; "
        f"worst: {tied(values, values.min())} with {worst}."
    )


def tied(values: pd.Series, value: float, digits: int = 2) -> str:
    """Name all that are printed with the same number as a value (index: names); of more than three, how many."""
    names = [str(name) for name, other in values.items() if number(other, digits) == number(value, digits)]
    return listed(names) if len(names) <= TIES else f"{len(names)} of them ({listed(names[:2])} among them)"


def members(heads: pd.DataFrame) -> str:
    """Say how many heads belong to a family, which families are the largest, and what broad families add."""
    total = heads[["layer", "head"]].drop_duplicates()
    heads = heads.assign(family=heads["family"].str.split(":").str[0])  # grammar counts as one family
    inside = heads[heads["member"] == 1].drop_duplicates(["layer", "head", "family"])
    belong = inside[["layer", "head"]].drop_duplicates()
    counts = inside.groupby("family").size().sort_values(ascending=False, kind="stable")
    if belong.empty:
        return (
            f"None of the {len(total)} heads is a member of any of the {heads['family'].nunique()} families measured."
        )
    text = f"{len(belong)} of {len(total)} heads are members of at least one of {heads['family'].nunique()} families"
    broad = counts[counts > BROAD * len(total)]
    if broad.empty:
        return f"{text}; largest: {listed(f'{name} ({count})' for name, count in counts.head(3).items())}."
    rest = inside[~inside["family"].isin(broad.index)]
    return (
        f"{text}. Broad families drive that: {listed(f'{name} ({count} heads)' for name, count in broad.items())}; "
        f"without {'it' if len(broad) == 1 else 'them'}, {len(rest[['layer', 'head']].drop_duplicates())} heads are "
        "members of another."
    )


def strongest(rows: pd.DataFrame) -> str:
    """Say how many members a family has; name the head with the highest score on split a, with its score on split b."""
    apart = rows.dropna(subset=["score_a", "score_b"])
    chosen, reported = ("score_a", "score_b") if len(apart) else ("score", "score")
    scored = apart if len(apart) else rows
    top = scored.loc[scored[chosen].idxmax()]
    count = int(rows["member"].sum())
    digits = 2 if top[reported] >= 0.1 else 3
    kind = f"{count} member{'s' if count != 1 else ''}" if count else "no member"
    first = int((scored[chosen] == top[chosen]).sum())
    if first > 1:
        return f"{kind} · {first} heads are the highest, with {number(top[chosen], 3)}"
    same = "" if len(apart) else " (chosen on the same prompts)"
    return f"{kind} · {head_name(top['layer'], top['head'])} {number(top[reported], digits)}{same}"


def concentration(rows: pd.DataFrame) -> str:
    """Say how much of the positive indirect effect the top heads carry; rows as in the figure, by rank."""
    if rows.empty:
        return "No head has a positive indirect effect on both halves of the prompts."
    top = rows.iloc[min(5, len(rows)) - 1]
    count, total = int(top["rank"]), int(rows["of"].iloc[0])
    return (
        f"The top {count} of {total} heads, chosen on one half of the prompts, carry {top['share']:.0%} of all "
        f"positive indirect effect on the other half ({rows.iloc[0]['name']} alone {rows.iloc[0]['share']:.0%}); "
        f"spread evenly, {count} heads would carry {count / total:.0%}."
    )


def overlap(rows: pd.DataFrame) -> str:
    """Name the pair of families that overlaps most beyond chance; rows: one per unordered pair."""
    defined = rows[rows["corrected"].notna()]
    if defined.empty:
        return "No two families have members, so that no overlap is defined."
    top = defined.loc[defined["corrected"].idxmax()]
    apart = int((defined["shared"] == 0).sum())
    return (
        f"Beyond chance, {top['family_a']} and {top['family_b']} overlap most: {int(top['shared'])} heads in both, "
        f"chance-corrected Jaccard {number(top['corrected'])}; {apart} of {len(defined)} pairs share no head."
    )
