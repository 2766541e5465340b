"""Heads of two runs: maps, members gained and lost; by place where shapes are equal, by relative depth where not."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from stages.families.family import Family
from stages.page import compare_charts
from stages.page.compare_runs import Run, grid, same_model, same_prompts, same_shape
from stages.page.head_maps import PREFIX, head_map, head_name, scale_top, whole_layers
from stages.page.page import Chart, Figure, Note, Table
from stages.page.sentences import interval, listed, number

DIGITS = 3
QUARTERS = ["first", "second", "third", "last"]


def heads(a: Run, b: Run, families: Mapping[str, Family]) -> list:
    """Return maps and tables of the families that either run measured."""
    if missing := [f"{run.label}: {run.missing['heads']}" for run in (a, b) if "heads" in run.missing]:
        return [Note(f"Heads are not compared ({'; '.join(missing)}).")]
    names = [*families, *sorted((set(a.heads["family"]) | set(b.heads["family"])) - set(families))]
    scored = [{name for name, part in run.heads.groupby("family") if part["score"].notna().any()} for run in (a, b)]
    both = [name for name in names if name in scored[0] & scored[1]]
    plain = [name for name in both if not name.startswith(PREFIX)]
    blocks = [Note(how(a, b)), *alone(a, b, names, scored)]
    if not both:
        return [*blocks, Note("No family has scores in both.")]
    if not same_shape(a, b):
        charts = [replace(chart, label=f"{name}: {chart.label}")
                  for name in plain for chart in beside(a, b, families.get(name), name)]  # fmt: skip
        both_maps = [Figure(charts, "Scores, layer x head; members are outlined.", "", "maps")] if charts else []
        return [*blocks, *by_depth(a, b, plain), *depth_tables(a, b, both), *both_maps]
    pairs = {name: paired(a, b, name) for name in both}
    moved = [name for name in plain if changed(pairs[name])]
    still = [name for name in both if not changed(pairs[name])]
    if still:
        text = f"Scores and membership are equal in every head, to the last decimal kept: {listed(folded(still))}."
        if loose := [name for name in still if _unequal(pairs[name], "low", "high")]:
            text += f" Of these, intervals differ in {listed(folded(loose))}."
        blocks.append(Note(text))
    grammar = [name for name in both if name.startswith(PREFIX) and name not in still]
    blocks += [table(a, b, pairs, moved, "")] if moved else []
    blocks += (
        [table(a, b, pairs, grammar, f"Grammar, label by label ({len(grammar)} relations that differ)")]
        if grammar
        else []
    )
    return blocks + [maps(a, b, pairs[name], families.get(name), name) for name in moved]


def how(a: Run, b: Run) -> str:
    """Say how heads of two runs are put side by side, and what that may not be taken for."""
    if not same_shape(a, b):
        return (
            f"The tables have other shapes ({shape(a)} in {a.label}, {shape(b)} in {b.label}): no head of one is a "
            "head of the other, and layers are compared by relative depth, 0 for the first block and 1 for the last. "
            "The highest score of a layer also grows with the number of its heads."
        )
    place = "" if same_model(a, b) else (
        " The models' files are not known to be the same: a head at the same place may be the same head trained or "
        "stored otherwise, or another head; the tables cannot tell."
    )  # fmt: skip
    return (
        f"Both have {shape(a)}. Difference: {b.label} minus {a.label}; a member gained has a whole outline there, a "
        f"member lost a dashed one. Intervals are over the prompts of one run; "
        f"whether two overlap is no test of their difference. A head near a threshold may turn on a small change."
        f"{place}"
    )


def shape(run: Run) -> str:
    """Say how many layers and heads a run's table has."""
    places = grid(run)
    return f"{len({layer for layer, _ in places})} layers with {len(places)} heads"


def alone(a: Run, b: Run, names: list[str], scored: list[set[str]]) -> list[Note]:
    """Say which families have scores in one run alone."""
    notes = []
    for run, here, there in ((a, *scored), (b, *scored[::-1])):
        if only := [name for name in names if name in here - there]:
            notes.append(Note(f"Measured in {run.label} alone: {listed(folded(only))}."))
    return notes


def folded(names: list[str]) -> list[str]:
    """Name families, the relations of grammar as one count."""
    grammar = [name for name in names if name.startswith(PREFIX)]
    plain = [name for name in names if name not in grammar]
    return plain + ([f"{len(grammar)} grammar relation{'s' if len(grammar) > 1 else ''}"] if grammar else [])


def paired(a: Run, b: Run, family: str) -> pd.DataFrame:
    """Return one row per head: score, low, high and member of both runs (_1, _2), `difference`, `turned`."""
    keep = ["layer", "head", "score", "low", "high", "member"]
    parts = [run.heads.loc[run.heads["family"] == family, keep] for run in (a, b)]
    rows = parts[0].merge(parts[1], on=["layer", "head"], suffixes=("_1", "_2"), how="outer")
    before, after = rows["member_1"] == 1, rows["member_2"] == 1
    turned = pd.Series("", index=rows.index).mask(after & ~before, "gained").mask(before & ~after, "lost")
    rows = rows.assign(difference=rows["score_2"] - rows["score_1"], turned=turned)
    return rows.sort_values(["layer", "head"], ignore_index=True)


def changed(rows: pd.DataFrame) -> bool:
    """Tell whether any head has another score or another verdict."""
    return _unequal(rows, "score", "member")


def _unequal(rows: pd.DataFrame, *columns: str) -> bool:
    return any(not rows[f"{name}_1"].equals(rows[f"{name}_2"]) for name in columns)


def maps(a: Run, b: Run, rows: pd.DataFrame, family: Family | None, name: str) -> Figure:
    """Draw both maps on one colour scale and their difference."""
    charts = beside(a, b, family, name)
    whole = whole_layers(b.model)
    charts.append(Chart(compare_charts.difference_map(rows, (a.label, b.label), whole), "difference"))
    says = f"{name}: {turns(rows, b.label)} {largest(rows)}"
    return Figure(charts, says, "", "maps")


def beside(a: Run, b: Run, family: Family | None, name: str) -> list[Chart]:
    """Draw a family's maps of both runs on one colour scale."""
    parts = [run.heads[run.heads["family"] == name] for run in (a, b)]
    if family is not None:
        family = replace(family, threshold=max(scale_top(part["score"], family) for part in parts))
    maps = [head_map(part, family, whole_layers(run.model)) for part, run in zip(parts, (a, b), strict=True)]
    return [Chart(drawn, run.label) for drawn, run in zip(maps, (a, b), strict=True)]


def turns(rows: pd.DataFrame, label: str) -> str:
    """Say which members the second run gains and loses, each with both scores."""
    before, after = int((rows["member_1"] == 1).sum()), int((rows["member_2"] == 1).sum())
    said = [f"{before} member{'s' if before != 1 else ''}, then {after}."]
    for turned in ("gained", "lost"):
        part = rows[rows["turned"] == turned]
        if len(part):
            said.append(f"{label} {'gains' if turned == 'gained' else 'loses'} {listed(_moves(part))}.")
    if not (rows["turned"] != "").any():
        said.append("None is gained or lost.")
    return " ".join(said)


def _moves(rows: pd.DataFrame) -> list[str]:
    return [
        f"{head_name(row.layer, row.head)} ({_score(row.score_1, row.low_1, row.high_1)} to "
        f"{_score(row.score_2, row.low_2, row.high_2)}{', intervals overlap' if overlapping(row) else ''})"
        for row in rows.itertuples()
    ]


def _score(score: float, low: float, high: float) -> str:
    return f"{number(score, DIGITS)} {interval(low, high, DIGITS)}".strip()


def overlapping(row) -> bool:
    """Tell whether a head's two intervals have a value in common; False where one is not defined."""
    return bool(row.low_1 <= row.high_2 and row.low_2 <= row.high_1)


def largest(rows: pd.DataFrame) -> str:
    """Name the head whose score differs most."""
    if not rows["difference"].abs().max() > 0:
        return "No score differs."
    row = rows.loc[rows["difference"].abs().idxmax()]
    count = int((rows["difference"].abs() > 0).sum())
    return (
        f"Scores differ in {count} of {len(rows)} heads, most in {head_name(row['layer'], row['head'])} "
        f"({number(row['difference'], DIGITS, True)})."
    )


def table(a: Run, b: Run, pairs: dict[str, pd.DataFrame], names: list[str], fold: str) -> Table:
    """Return a row per family: members of both, gained, lost, rank correlation, largest difference, threshold."""
    cells = []
    for name in names:
        rows = pairs[name]
        turned = [rows[rows["turned"] == kind] for kind in ("gained", "lost")]
        both = int(((rows["member_1"] == 1) & (rows["member_2"] == 1)).sum())
        cells.append([
            name, *(str(int((rows[f"member_{i}"] == 1).sum())) for i in (1, 2)), str(both),
            *(", ".join(_named(part)) or "none" for part in turned), number(correlation(rows)), difference(rows),
            _both([threshold(run, name) for run in (a, b)]),
        ])  # fmt: skip
    columns = ["family", f"members, {a.label}", f"members, {b.label}", "in both", "gained", "lost", "rank correlation",
               "largest difference", "threshold"]  # fmt: skip
    says = (
        f"Rank correlation: Spearman's, of the scores of all heads. Data: `{a.path('heads')}` and `{b.path('heads')}`."
    )
    return Table(columns, cells, "" if fold else says, "", (1, 2, 3, 6), folded=fold)


def _named(rows: pd.DataFrame) -> list[str]:
    return [head_name(*pair) for pair in zip(rows["layer"], rows["head"], strict=True)]


def correlation(rows: pd.DataFrame) -> float:
    """Return Spearman's rank correlation of both scores; nan where one is constant."""
    rows = rows.dropna(subset=["score_1", "score_2"])
    if len(rows) < 3 or rows["score_1"].nunique() < 2 or rows["score_2"].nunique() < 2:
        return float("nan")
    return float(rows["score_1"].rank().corr(rows["score_2"].rank()))


def difference(rows: pd.DataFrame) -> str:
    """Write the largest difference of a score with its head."""
    if not rows["difference"].abs().max() > 0:
        return "–" if rows["difference"].isna().all() else "0"
    row = rows.loc[rows["difference"].abs().idxmax()]
    return f"{head_name(row['layer'], row['head'])} {number(row['difference'], DIGITS, True)}"


def threshold(run: Run, family: str) -> str:
    """Return the threshold of membership that a run's table of reliability gives."""
    rows = run.reliability.loc[run.reliability["family"] == family, "threshold"].dropna()
    return f"{rows.iloc[0]:g}" if len(rows) else "–"


def _both(values: list[str]) -> str:
    return values[0] if values[0] == values[1] else f"{values[0]}, then {values[1]}"


def depths(run: Run, family: str) -> pd.DataFrame:
    """Return a family's heads with their relative depth: a block's number by that of the last."""
    rows = run.heads[run.heads["family"] == family].dropna(subset=["score"])
    last = max(int(run.model.get("layers", 0)) - 1, int(run.heads["layer"].max()), 1)
    names = [head_name(*pair) for pair in zip(rows["layer"], rows["head"], strict=True)]
    return rows.assign(depth=rows["layer"] / last, name=names, run=run.label)


def by_depth(a: Run, b: Run, names: list[str]) -> list[Figure]:
    """Draw the highest score of every layer of both runs, a chart per family."""
    charts = []
    for name in names:
        parts = [depths(run, name) for run in (a, b)]
        tops = pd.concat([part.loc[part.groupby("layer")["score"].idxmax()] for part in parts], ignore_index=True)
        chart = compare_charts.profile(tops[["run", "depth", "score", "name"]], (a.label, b.label))
        charts.append(Chart(chart, name))
    says = "The highest score of every layer over relative depth; a point's head is in its tooltip."
    return [Figure(charts, says, "", "cards", compare_charts.legend((a.label, b.label)))] if charts else []


def depth_tables(a: Run, b: Run, names: list[str]) -> list[Table]:
    """Return members and the highest score per quarter of depth, a row per family."""
    plain, grammar = ([n for n in names if n.startswith(PREFIX) == inside] for inside in (False, True))
    says = (
        "Members: how many, of how many heads; their median relative depth in brackets. By quarter of depth: the "
        f"highest score in {a.label}, in {b.label}, and the difference. Data: `{a.path('heads')}` and "
        f"`{b.path('heads')}`."
    )
    columns = ["family", f"members, {a.label}", f"members, {b.label}", *(f"{name} quarter" for name in QUARTERS)]
    fold = f"Grammar, label by label ({len(grammar)} relations)"
    return [
        Table(columns, [_depth_cells(a, b, name) for name in part], text, "", folded=folds)
        for part, text, folds in ((plain, says, ""), (grammar, "", fold))
        if part
    ]


def _depth_cells(a: Run, b: Run, name: str) -> list[str]:
    parts = [depths(run, name) for run in (a, b)]
    cells = [name]
    for part in parts:
        inside = part[part["member"] == 1]
        where = f" ({number(inside['depth'].median())})" if len(inside) else ""
        cells.append(f"{len(inside)} of {len(part)}{where}")
    quarters = [part.groupby((part["depth"] * 4).clip(upper=3).astype(int))["score"].max() for part in parts]
    for quarter in range(len(QUARTERS)):
        first, second = (tops.get(quarter, float("nan")) for tops in quarters)
        cells.append(f"{number(first)}, {number(second)} ({number(second - first, 2, True)})")
    return cells


def equal_scores(a: Run, b: Run, tasks: Mapping[str, str]) -> tuple[int, int, float]:
    """Return (equal, all, largest difference) of the scores that rest on the same model and the same prompts.

    tasks: family -> the task that it is measured on.
    """
    if not same_model(a, b):
        return 0, 0, 0.0
    keys = ["layer", "head", "family"]
    parts = [run.heads[[*keys, "score"]].dropna(subset=["score"]) for run in (a, b)]
    rows = parts[0].merge(parts[1], on=keys, suffixes=("_1", "_2"))
    same = {name for name in set(rows["family"]) if same_prompts(a, b, tasks.get(name, ""))}
    rows = rows[rows["family"].isin(same)]
    apart = (rows["score_2"] - rows["score_1"]).abs()
    return int((apart == 0).sum()), len(rows), float(apart.max()) if len(rows) else 0.0
