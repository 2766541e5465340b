"""What two runs measure besides heads: intact models, what silencing does, function vectors, all other metrics."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from stages.families.family import Family
from stages.page import charts, rows, verdicts
from stages.page.compare_runs import Run, differing, flat, same_model, same_prompts, same_tokens
from stages.page.page import Chart, Figure, Note, Table
from stages.page.sentences import TASKS, capital, decimals, interval, listed, lost, number, p_value

PER_TOKEN = {"loss", "logprob", "margin"}  # nats of token sequences: of no common unit where texts are cut otherwise
CONTEXTS = {"zero_shot": "without demonstrations", "shuffled": "after shuffled labels", "natural": "in natural text"}
TOGETHER = "all"  # the rows of all functions


def intact(a: Run, b: Run) -> list:
    """Return the intact models' values with intervals side by side."""
    parts = [_whole(rows.intact(run.effects)) for run in (a, b)]
    keys = sorted(set(parts[0].index) | set(parts[1].index), key=_place)
    if not keys:
        return [Note(f"No value of the intact models to compare.{_why(a, b, 'effects')}")]
    cells = []
    for task, measure in keys:
        pair = [part.loc[(task, measure)] if (task, measure) in part.index else None for part in parts]
        cells.append([
            f"{TASKS.get(task, task)}: {measure}", *(_value(row, measure) for row in pair),
            *_difference(pair, measure, comparable(a, b, measure)), prompts_said(a, b, task),
        ])  # fmt: skip
    columns = ["task: measure", a.label, b.label, "difference", "intervals", "prompts"]
    says = (
        "Intervals: 95 %, over prompts; n: how many. Two that overlap do not show that both are equal: these "
        f"tables do not hold the interval of the difference.{_why(a, b, 'effects')}"
    )
    if same_model(a, b) and (moved := _moved(a, b, parts)):
        says += f" The same model on the same prompts should give the same value, and does not: {listed(moved)}."
    if not same_tokens(a, b):
        says += (
            " The models are not known to cut text into the same tokens: loss, log-probability and margin have no "
            "common unit, so that no difference is given."
        )
    if a.model.get("kind") != b.model.get("kind") and all(len(part) for part in parts):
        kinds = [str(run.model.get("kind", "of unknown kind")) for run in (a, b)]
        says += f" The models are of other kinds ({kinds[0]} and {kinds[1]}): a measure of one name asks another thing."
    return [Table(columns, cells, f"{says} Data: `{a.path('effects')}` and `{b.path('effects')}`.", "", (1, 2, 3))]


def _moved(a: Run, b: Run, parts: list[pd.DataFrame]) -> list[str]:
    """Return the values that differ though their prompts are the same."""
    keys = sorted(set(parts[0].index) & set(parts[1].index), key=_place)
    return [
        f"{TASKS.get(task, task)}: {measure}"
        for task, measure in keys
        if same_prompts(a, b, task)
        and number(parts[0].loc[(task, measure), "value"], 9) != number(parts[1].loc[(task, measure), "value"], 9)
    ]


def _whole(part: pd.DataFrame) -> pd.DataFrame:
    part = part[~part["measure"].isin(rows.BESIDE)].drop_duplicates(["task", "measure"])
    return part.set_index(["task", "measure"])


def _place(key: tuple[str, str]) -> tuple[int, str, str]:
    tasks = list(rows.MAIN)
    return (tasks.index(key[0]) if key[0] in tasks else len(tasks), *key)


def comparable(a: Run, b: Run, measure: str) -> bool:
    """Tell whether a measure has one unit in both runs."""
    return measure not in PER_TOKEN or same_tokens(a, b)


def _value(row: Any, measure: str) -> str:
    if row is None or pd.isna(row["value"]):
        return "–"
    digits = decimals(measure)
    text = f"{number(row['value'], digits)} {interval(row['low'], row['high'], digits)}".strip()
    return f"{text}, n = {int(row['trials'])}"


def _difference(pair: list[Any], measure: str, common: bool) -> list[str]:
    """Write the difference of two values, and whether their intervals overlap."""
    if not common or any(row is None or pd.isna(row["value"]) for row in pair):
        return ["–", "–"]
    first, second = pair
    apart = first["low"] > second["high"] or second["low"] > first["high"]
    defined = not any(pd.isna(row[end]) for row in pair for end in ("low", "high"))
    if all(first[name] == second[name] for name in ("value", "low", "high")):
        return ["0", "equal"]
    difference = number(second["value"] - first["value"], decimals(measure), True)
    return [difference, ("apart" if apart else "overlap") if defined else "–"]


def prompts_said(a: Run, b: Run, task: str) -> str:
    """Say whether a task's prompts are the same in both runs."""
    return {True: "the same", False: "others", None: "not recorded"}[same_prompts(a, b, task)]


def _why(a: Run, b: Run, table: str) -> str:
    reasons = [f"{run.label}: {run.missing[table]}" for run in (a, b) if table in run.missing]
    return f" Missing: {'; '.join(reasons)}." if reasons else ""


def effects(a: Run, b: Run, families: Mapping[str, Family]) -> list:
    """Return what silencing the same families does in both runs: verdicts, a chart per task, a table."""
    claims = [_claims(run, families) for run in (a, b)]
    keys = list(dict.fromkeys(key for part in claims for key in part))
    if not keys:
        return [Note(f"No family was silenced in either.{_why(a, b, 'effects')}")]
    blocks = [Note(
        "Each run silences the best heads of a family that it chose itself, on half of its own prompts, and ranks the "
        "harm among its own control sets of as many other heads. Told apart in one run alone is no test of "
        f"the difference between the runs. Told apart: rank p at most {_both_alphas(a, b)}.{_why(a, b, 'effects')}"
    ), Note(verdict(a, b, claims, keys))]  # fmt: skip
    blocks += [_cards(a, b, claims)] if any(claims) else []
    cells = []
    for key in keys:
        pair = [part.get(key) for part in claims]
        family, task, measure = key
        cells.append([family, f"{TASKS.get(task, task)}: {measure}", *(cell for row in pair for cell in _effect(row)),
                      prompts_said(a, b, task)])  # fmt: skip
    columns = ["family", "task: measure"]
    columns += [f"{name}, {run.label}" for run in (a, b) for name in ("heads", "harm", "as harmful: rank p (floor)")]
    says = (
        "Harm: + is worse, for these heads, 95 % interval over prompts; – where there is none. As harmful: control "
        f"sets that do as much harm. Data: `{a.path('effects')}` and `{b.path('effects')}`."
    )
    return [*blocks, Table([*columns, "prompts"], cells, says, "", (3, 4, 6, 7))]


def _claims(run: Run, families: Mapping[str, Family]) -> dict[tuple[str, str, str], Any]:
    silenced = rows.silenced(run.effects, families)
    silenced = silenced[silenced["claim"] & ~silenced["measure"].isin(rows.BESIDE)] if len(silenced) else silenced
    return {(row.family, row.task, row.measure): row for row in silenced.itertuples()}


def alpha(run: Run) -> float:
    """Return the largest p-value that tells apart in a run; 0.05 where its params do not say."""
    return float(run.params.get("classify.alpha", 0.05))


def _both_alphas(a: Run, b: Run) -> str:
    first, second = f"{alpha(a):g}", f"{alpha(b):g}"
    return first if first == second else f"{first} in {a.label}, {second} in {b.label}"


def standing(row: Any, run: Run) -> str:
    """Say how a claim stands in its run: 'apart', 'not apart' or 'not ranked'."""
    if row is None or pd.isna(row.change) or pd.isna(row.p) or not row.controls > 0:
        return "not ranked"
    return "apart" if row.p <= alpha(run) and row.harm > 0 else "not apart"


def verdict(a: Run, b: Run, claims: list[dict], keys: list[tuple[str, str, str]]) -> str:
    """Say which claims are told apart from control sets in both runs, in one or in none, and which are not ranked."""
    groups: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        stand = tuple(standing(part.get(key), run) for part, run in zip(claims, (a, b), strict=True))
        groups.setdefault(stand, []).append(f"{verdicts.plain(key[0])} on {TASKS.get(key[1], key[1])}")
    texts = {
        ("apart", "apart"): "More harmful than its control sets, told apart by rank, in both",
        ("apart", "not apart"): f"Told apart in {a.label}, not in {b.label}",
        ("not apart", "apart"): f"Told apart in {b.label}, not in {a.label}",
        ("not apart", "not apart"): "Not told apart in either",
        ("apart", "not ranked"): f"Told apart in {a.label}, not ranked in {b.label}",
        ("not ranked", "apart"): f"Told apart in {b.label}, not ranked in {a.label}",
        ("not apart", "not ranked"): f"Not told apart in {a.label}, not ranked in {b.label}",
        ("not ranked", "not apart"): f"Not told apart in {b.label}, not ranked in {a.label}",
        ("not ranked", "not ranked"): "Ranked in neither",
    }
    return " ".join(f"{text}: {listed(groups[stand])}." for stand, text in texts.items() if stand in groups)


def _cards(a: Run, b: Run, claims: list[dict]) -> Figure:
    """Draw, per task, the families of both runs one under the other, each with its control sets."""
    parts: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for run, part in zip((a, b), claims, strict=True):
        if not part:
            continue
        own = pd.DataFrame(part.values())
        controls = rows.control_sets(run.effects, own)
        for key, same in own.groupby(["task", "measure"], sort=False):
            others = controls[(controls["task"] == key[0]) & (controls["measure"] == key[1])]
            dots = rows.dots(same, others, alpha(run))
            parts.setdefault(key, []).append(dots.assign(family=dots["family"] + f" · {run.label}", of=dots["family"]))
    cards = []
    for (task, measure), frames in parts.items():
        if comparable(a, b, measure):
            frames = [pd.concat(frames, ignore_index=True)]
        for dots in (frame for frame in frames if len(frame)):
            order = list(dict.fromkeys(dots.sort_values("of", kind="stable")["family"]))
            chart = charts.effects(dots.drop(columns="of"), lost(task, measure), order)
            cards.append(Chart(chart, capital(f"{TASKS.get(task, task)}: {measure}")))
    legend = [(charts.BLUE, "diamond", "a family's best heads, told apart from control sets"),
              (charts.BLUE, "hollow diamond", "not told apart, no harm, or no control set"),
              (charts.GREY, "circle", "one control set each")]  # fmt: skip
    says = "Right of 0 is worse. Lines: 95 % intervals for these heads over prompts."
    return Figure(cards, says, "", "cards", legend)


def _effect(row: Any) -> list[str]:
    if row is None:
        return ["–"] * 3
    floor = "" if pd.isna(row.p) or pd.isna(row.p_floor) else f" ({p_value(row.p_floor)})"
    rank = verdicts.rank(row)
    return [row.heads, verdicts.harm(row), rank if rank == "–" else f"{rank}: {p_value(row.p)}{floor}"]


def steering(a: Run, b: Run) -> list:
    """Return the accuracy under every kind of vector, over all functions together, in both runs."""
    parts = [run.steering[run.steering["function"] == TOGETHER] for run in (a, b)]
    parts = [part[part["vector"].isin(charts.VECTORS)].drop_duplicates(["context", "vector"]) for part in parts]
    if not any(len(part) for part in parts):
        return [Note(f"No function vector was tested over all functions in either.{_why(a, b, 'steering')}")]
    kept = [part.set_index(["context", "vector"]) for part in parts]
    contexts = [name for name in CONTEXTS if any(name in set(part["context"]) for part in parts)]
    cells, cards = [], []
    for context in contexts:
        for vector, (label, _, _) in charts.VECTORS.items():
            pair = [part.loc[(context, vector)] if (context, vector) in part.index else None for part in kept]
            if all(row is None for row in pair):
                continue
            values = [None if row is None else row.rename({"accuracy": "value"}) for row in pair]
            cells.append([
                CONTEXTS[context], label.split(":")[0], *(_value(row, "accuracy") for row in values),
                *_difference(values, "accuracy", True), *("–" if row is None else p_value(row["p"]) for row in pair),
            ])  # fmt: skip
        dots = [
            part[part["context"] == context].assign(function=run.label) for part, run in zip(parts, (a, b), strict=True)
        ]
        cards.append(Chart(charts.steering(pd.concat(dots, ignore_index=True)), capital(CONTEXTS[context])))
    columns = [
        "context",
        "vector",
        a.label,
        b.label,
        "difference",
        "intervals",
        f"rank p, {a.label}",
        f"rank p, {b.label}",
    ]
    says = (
        "Accuracy over all functions that a run steered; n: prompts. Each run chose layer, heads and strength. "
        f"Prompts of in-context functions: {prompts_said(a, b, 'icl')}.{_why(a, b, 'steering')} "
        f"Data: `{a.path('steering')}` and `{b.path('steering')}`."
    )
    legend = [(colour, shape, label) for label, colour, shape in charts.VECTORS.values()]
    return [
        Figure(cards, "Lines: 95 % intervals over prompts.", "", "cards", legend),
        Table(columns, cells, says, "", (2, 3, 4, 6, 7)),
    ]


def metrics(a: Run, b: Run) -> list:
    """Return all keys of metrics.json that differ, which have no intervals."""
    both = [flat(run.metrics) for run in (a, b)]
    if not any(both):
        return [Note("Neither has a metrics.json.")]
    other = differing(*both)
    alike = len(set(both[0]) | set(both[1])) - len(other)
    if not other:
        return [Note(f"All {alike} numbers of both files metrics.json are equal.")]
    says = f"{len(other)} numbers of metrics.json differ or are in one file alone, {alike} are equal"
    return [
        Note(f"{says}. They have no intervals: what they may be taken for stands in the tables above."),
        Table(
            ["metric", a.label, b.label], [list(row) for row in other], "", "", (1, 2), folded=f"{len(other)} metrics"
        ),
    ]
