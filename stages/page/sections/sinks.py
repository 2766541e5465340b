"""Sinks: how many heads look at the first token, whether at its place or at itself, and what its state holds."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.stats import false_discovery_control

from stages.page import head_maps, sink_charts, verdicts
from stages.page import rows as paired
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import (
    beyond,
    capital,
    decimals,
    interval,
    listed,
    measured,
    number,
    p_value,
    percent,
    percents,
)
from stages.statistics.sinks import SINK

MARGIN = 0.05  # above chance: less is not called held, as a member's score must exceed its null by so much
ENOUGH = 20  # prompts that a claim rests on
WHAT = (
    "A head with nothing to say must still spend its attention, which sums to 1; the first token is said to get it. "
    "Sink rate (Gu et al., ICLR 2025): the share of heads, over all short passages, whose attention to the first "
    "token, averaged over the queries from it on, is above 0.3; the curve shows other thresholds. Random tokens and "
    "one token repeated have no text to attend to. Whether the place or the token draws it: another token is put "
    "before the passage, or the passage's first special token is left out."
)
OF_IMAGES = (
    "A head with nothing to say must still spend its attention, which sums to 1. Before the patches of every image "
    "stands the class token. Sink rate (Gu et al., ICLR 2025, there of texts): the share of heads, over all images, "
    "whose attention to it, averaged over all tokens as queries, is above 0.3; the curve shows other thresholds. "
    "Nothing else can be put in its place, so that place and token are not told apart."
)
SAID = (
    "Said: of what a head writes into the residual, the share that it fetches from the first position, by norms: much "
    "attention with a small share is a look that says nothing. Value: norm of the first position's value over the "
    "median of the others. Output: norm of all that a head writes at ordinary tokens over the mean of its layer's "
    "heads; a head below 0.5 (a convention) is inactive, wherever it looks."
)
HOLDS = (
    "What ONE token's state holds: a ridge regression from its state (unit norm), as it is embedded (layer -1) and "
    "after every layer that was probed, fitted on some paragraphs and scored on others. Local: the token itself (the "
    "first components of its input embedding), its position, the token after it. Global: the topic (which file of "
    "the text the passage is from) and all other tokens of the passage (the mean of their embeddings). A state that "
    "is the same in every passage gets R² 0 and the dashed accuracy. One token of each kind per passage. Ordinary "
    "ones: one where the most attended token of another passage stands, and beside the one of the largest norm the "
    "nearest of its own passage. A token holds what its probe reads by at least 0.05 above chance (the constant "
    "state, shuffled targets, a guess), with the whole interval, and of the next token and what is global by as much "
    "above what its input embedding tells, which has read nothing else; what its probe reads by less, with the whole "
    "interval, it does not hold, by this margin; between them nothing is settled. It is told apart from an ordinary "
    "one where their intervals do not overlap. Sentences are about the middle layer of those probed (of two the "
    "later one), fixed beforehand."
)
TARGETS = {
    "token": "the token itself, R²",
    "position": "its position, R²",
    "next": "the next token, R²",
    "topic": "the topic, accuracy",
    "rest": "the other tokens, R²",
}
NAMES = {"token": "the token itself", "position": "its position", "next": "the next token", "topic": "the topic",
         "rest": "the other tokens"}  # fmt: skip
INPUT = -1  # the layer of input embeddings
LOCAL, GLOBAL = ("token", "position", "next"), ("topic", "rest")
TOLD = ("next", *GLOBAL)  # what the token itself may tell, without having read anything else
KINDS = {"first": "the first token", "attended": "the most attended other token",
         "largest": "the other token of the largest norm", "ordinary": "an ordinary token",
         "beside": "an ordinary token beside that"}  # fmt: skip


@dataclass(frozen=True)
class _Words:
    """What is read, and what stands first in it."""

    first: str = "the first token"
    passages: str = "passages"
    others: str = "words and punctuation"
    each: str = "token"


FAMILY = "sink"
REDIRECTED = "sink"  # the way to silence heads that sends their attention to the first token
TEXT, IMAGES = _Words(), _Words("the class token", "images", "patches", "patch")


def sinks(slot: Slot, context: Context) -> list:
    """Show the sink rate on every input, heads, lengths of residuals, and probes."""
    rows, path = slot.sinks, slot.path("sinks.csv")
    if rows.empty:
        return [Note(f"No sink was looked for: {slot.reasons.get('sinks') or f'{path} has no rows'}.")]
    vision = slot.model.get("kind") == "vision"
    words = IMAGES if vision else TEXT
    said = [_rate(rows, words), _place(rows), _said(rows, words), _inactive(rows, words), _punctuation(rows)]
    rates = rows[(rows["part"] == "rate") & (rows["measure"] == "first")]
    labels = [(colour, shape, text) for name, (text, colour, shape) in sink_charts.INPUTS.items()
              if name in set(rates["input"])]  # fmt: skip
    layers = rows[(rows["part"] == "layer") & (rows["input"] == "natural")]
    norms = layers[layers["measure"].isin(["norm_first", "norm_largest"])]
    lines = [(colour, shape, text) for name, (text, colour, shape) in sink_charts.KINDS.items()
             if name in ("first", "largest")]  # fmt: skip
    blocks: list = [
        Note(OF_IMAGES if vision else WHAT),
        Note(" ".join(filter(None, said))),
        Figure([Chart(sink_charts.curve(rates))], "Share of heads whose mean attention to the first position is above "
               f"a threshold; bars: 95 % over {words.passages}.", path, "single", labels),
        Note(SAID),
        Figure(_maps(rows, slot.model, words), f"Every head, mean over {words.passages}.", path, "maps"),
        Note(_massive(rows, layers, context.alpha, words)),
        Figure([Chart(sink_charts.norms(norms))], "Norm of the residual after every layer over the median of all "
               f"tokens: that of {words.first}, and the longest of {words.others}.", path, "single", lines),
    ]  # fmt: skip
    redirected = [Note(text)] if (text := _redirected(slot, context)) else []
    return blocks if vision else [*blocks, *redirected, _inputs_table(rows, path), *_probes(slot)]


def _redirected(slot: Slot, context: Context) -> str:
    """Say what heads cost whose attention is sent to the first token, beside other ways to silence them; '' if none."""
    said = []
    for row in paired.silenced(slot.effects, context.families).itertuples():
        if row.claim and REDIRECTED in row.besides and pd.notna(row.besides[REDIRECTED].value):
            noted = "".join(f"; {name}: {note}" for name, note in _noted(slot.effects, row))
            others = [f"{verdicts.method(row.kind)} {verdicts.harm(row)}"]
            others += [f"{verdicts.method(kind)} {verdicts.written(change, row.measure)}"
                       for kind, change in row.besides.items() if kind != REDIRECTED]  # fmt: skip
            said.append(
                f"of {verdicts.heads_said(row)}, {measured(row.task, row.measure)}: harm "
                f"{verdicts.written(row.besides[REDIRECTED], row.measure)} ({listed(others)} in place; "
                f"{int(row.trials)} prompts{noted})"
            )
    if not said:
        return ""
    return (
        "Redirected: all attention of some heads is sent to the first token, from every position, so that they fetch "
        f"what stands there and nothing else. {capital('; '.join(said))}. {_among_others(slot, context)} Rows of kind "
        f"`{REDIRECTED}` in {slot.path('effects.csv')}; + is worse."
    )


def _among_others(slot: Slot, context: Context) -> str:
    """Say how redirected heads rank among as many others that are redirected as well, here or in a longer study."""
    study = slot.longer.get("plan")
    runs = [(slot, ""), *([(study.slot, " in a longer study")] if study and not study.changed else [])]
    for of_run, where in runs:
        rows = paired.silenced(of_run.effects, context.families, REDIRECTED)
        claims = rows[rows["claim"] & (rows["controls"] > 0)]
        if claims.empty:
            continue
        sets = paired.control_sets(of_run.effects, claims, REDIRECTED)
        said = [f"{verdicts.heads_said(row)}, {measured(row.task, row.measure)}: harm {verdicts.harm(row)}"
                f"{_of_sets(sets, row, slot.heads)}{verdicts.verdict(row, context.alpha)}"
                f"{f' ({row.note})' if row.note else ''}"
                for row in claims.assign(q=float("nan")).itertuples()]  # fmt: skip
        here = f" ({of_run.path('effects.csv')})" if where else ""
        each = ", each claim a test of its own" if len(said) > 1 else ""
        return f"Control sets are redirected as well{where}{here}{each}. {'. '.join(map(capital, said))}."
    return "No control sets are redirected: this may be what any heads do."


def _of_sets(sets: pd.DataFrame, row: Any, heads: pd.DataFrame) -> str:
    """Say what a claim's control sets lose, and how many of their heads are sink heads: these look there already."""
    own = sets[(sets["family"] == row.family) & (sets["task"] == row.task) & (sets["measure"] == row.measure)]
    if own.empty:  # a claim on one condition alone: control sets are summed up over all
        return ""
    members = heads[(heads["family"] == FAMILY) & (heads["member"] == 1)]
    names = {f"L{layer}H{head}" for layer, head in zip(members["layer"], members["head"], strict=True)}
    counts = [len(names.intersection(of_set.split())) for of_set in own["heads"]]
    few, many = min(counts), max(counts)
    low, high = (number(edge, decimals(row.measure), True) for edge in (own["harm"].min(), own["harm"].max()))
    inside = f"{few} to {many}" if few < many else f"{few}"
    look = f"{inside} of their {int(row.k)} heads are sink heads, which look there already"
    return f", of control sets {low} to {high} ({look})"


def _noted(effects: pd.DataFrame, row: Any) -> list[tuple[str, str]]:
    """Return the notes of all ways in which a row's heads are silenced, with what is written in each."""
    same = effects[effects["purpose"] == "family"]
    for name in ("family", "task", "measure", "condition"):
        same = same[same[name] == getattr(row, name)]
    noted = same[same["note"].fillna("").astype(bool)]
    names = {REDIRECTED: "redirected"}
    return [(names.get(kind, verdicts.method(kind)), note)
            for kind, note in zip(noted["kind"], noted["note"], strict=True)]  # fmt: skip


def _cell(rows: pd.DataFrame, **where: Any) -> Any:
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows.iloc[0] if len(rows) else None


def _overall(rows: pd.DataFrame, measure: str) -> Any:
    return _cell(rows, part="all", measure=measure)


def _at(rows: pd.DataFrame, name: str, measure: str) -> Any:
    return _cell(rows[(rows["threshold"] - SINK).abs() < 1e-6], part="rate", input=name, measure=measure)


def _share(row: Any) -> str:
    return f"{percent(row['value'])} % {percents(row['low'], row['high'])}".strip()


def _rate(rows: pd.DataFrame, words: _Words) -> str:
    """Say the sink rate on every input."""
    natural = _at(rows, "natural", "first")
    others = [(text, _at(rows, name, "first")) for name, text in (("random", "random tokens"),
              ("repeated", "one token repeated"))]  # fmt: skip
    few = "" if natural["prompts"] >= ENOUGH else f" Too few {words.passages} for a claim."
    beside = listed(f"{_share(row)} on {text}" for text, row in others if row is not None)
    learned = _cell(rows[rows["value"] > 0], part="head", measure="learned")
    takes = "" if learned is None else " Learned sinks of this model take attention besides; they are not counted here."
    beside = f"; {beside}" if beside else ""
    return f"Sink rate: {_share(natural)} on {int(natural['prompts'])} {words.passages}{beside}.{takes}{few}"


def _place(rows: pd.DataFrame) -> str:
    """Say whether attention stays with the place or goes with the token."""
    natural, there = _at(rows, "natural", "first"), _at(rows, "moved", "first")
    token, without = _at(rows, "moved", "second"), _at(rows, "without", "first")
    if without is None:
        if there is None:
            return ""
        return f"No special token stands first here; with another token put first the rate there is {_share(there)}."
    text = (
        f"With another token put before it, {_share(there)} of heads are above 0.3 on the new first position and "
        f"{_share(token)} on the token that used to be first; without that token, {_share(without)} on what is first "
        "then"
    )
    base, follows, stays, left = (row["value"] for row in (natural, token, there, without))
    if base < 0.01:
        return f"{text}: hardly a head looks there in the first place."
    parts, later = [], _at(rows, "without", "later")
    if follows >= 0.5 * base and stays < 0.5 * base:
        parts.append("attention goes with the token, not with the place")
    elif stays >= 0.5 * base and follows < 0.5 * base:
        parts.append("attention stays with the place, whatever token is there")
    elif stays >= 0.5 * base:
        parts.append("both the place and the token draw attention")
    elif left < 0.5 * base:
        parts.append("neither the place with another token nor the token at another place draws as much")
    else:
        parts.append("a token put before it draws less, and so does it in second place")
    parts.append(
        f"without the token fewer than half as many heads look at what is first ({_share(later)} on a later token)"
        if left < 0.5 * base
        else "without the token at least half as many heads look at what is first"
        + (": place and token are not told apart" if follows < 0.5 * base and stays < 0.5 * base else "")
    )
    return f"{text}: {'; '.join(parts)}."


def _said(rows: pd.DataFrame, words: _Words) -> str:
    """Say of how many sink heads the look says nothing."""
    sinks, silent = _overall(rows, "sinks"), _overall(rows, "silent")
    if not sinks["value"]:
        return f"No head looks at {words.first} with more than 0.3 on average."
    heads = rows[(rows["part"] == "head") & (rows["input"] == "natural")]
    wide = heads.pivot_table(index=["layer", "head"], columns="measure", values="value")
    of_sinks = wide[wide["first"] > SINK]
    text = f"Of {int(sinks['value'])} heads with more than 0.3 there on these {words.passages} ({sinks['note']}), "
    if "said" not in of_sinks or of_sinks["said"].isna().all():
        return f"{text}what they fetch from {words.first} is out of reach (no values are seen)."
    text += (
        f"{int(silent['value'])} look and say little: what they fetch there is a smaller share of what they write than "
        f"half the share of their attention. Over these heads the median attention is "
        f"{number(of_sinks['first'].median())}, the median share of what is written {number(of_sinks['said'].median())}"
    )
    if "value" not in of_sinks:  # passages of one token have no other value
        return f"{text}."
    value = number(of_sinks["value"].median())
    return f"{text}; the first position's value has {value} of the norm of others there (median)."


def _few(row: Any, words: _Words = TEXT) -> str:
    return f" ({int(row['prompts'])} {words.passages}, too few for a claim)" if row["prompts"] < ENOUGH else ""


def _inactive(rows: pd.DataFrame, words: _Words) -> str:
    """Say how many heads write little, and whether attention to what stands first would have told."""
    inactive, sinking = _overall(rows, "inactive"), _overall(rows, "inactive_sinks")
    least = number(_overall(rows, "output_least")["value"])
    if pd.isna(inactive["value"]):
        return f"Whether a head is inactive was not measured: {words.passages} have nothing beside {words.first}."
    if not inactive["value"]:
        return f"No head is inactive by its output: the least writes {least} of its layer's mean."
    count = round(inactive["value"] * int(inactive["note"].split()[1]))
    missed = count - int(sinking["value"])
    text = f"{count} heads ({percent(inactive['value'])} %) are inactive by their output"
    if not missed:
        return f"{text}; all of them are sink heads."
    return f"{text}; {missed} of them are no sink heads, so that attention to {words.first} would miss them."


def _punctuation(rows: pd.DataFrame) -> str:
    """Say whether punctuation draws attention as well."""
    row = _overall(rows, "punctuation_excess")
    if row is None or pd.isna(row["low"]):
        return ""
    name = head_maps.head_name(row["layer"], row["head"])
    text = (
        "Punctuation: the head that looks most at it beyond an even share (chosen on one half of the passages) is "
        f"{name}, by {number(row['value'], 2, True)} {interval(row['low'], row['high'], 2, True)} on the other"
        f"{_few(row)}"
    )
    side = beyond(row["low"], row["high"])
    return f"{text}." if side > 0 else f"{text}: not more than an even share, as far as can be told."


def _massive(rows: pd.DataFrame, layers: pd.DataFrame, alpha: float, words: _Words) -> str:
    """Say how long the residual of what stands first is, and whether other tokens are outliers."""
    row = _overall(rows, "massive_ratio")
    said = []
    if row is not None:
        ratio = f"{number(row['value'], 1)} {interval(row['low'], row['high'], 1)}".strip()
        said.append(
            f"Massive activations: after layer {int(row['layer'])} (chosen on one half of the {words.passages}) the "
            f"residual of {words.first} has {ratio} times the median norm{_few(row, words)}"
        )
        channel = _cell(layers, measure="channel_first", layer=row["layer"])
        if channel is not None:
            said[0] += (
                f", its largest channel on all {words.passages} {number(channel['value'], 0)} times the median channel"
            )
        said[0] += "." if row["value"] >= 2 or _few(row) else ": its length does not stand out."
    outliers = layers[layers["measure"] == "outliers"].set_index("layer")
    modes = layers[layers["measure"] == "modes_p"].set_index("layer")["value"]
    if len(outliers):
        most = outliers["value"].idxmax()
        share = f"at most {percent(outliers['value'][most])} % ({outliers['note'][most]}, layer {int(most)})"
        share = share if outliers["value"][most] > 0 else "none"
        corrected = pd.Series(false_discovery_control(modes), modes.index)
        two = modes.index[corrected <= alpha]
        names = listed(str(int(layer)) for layer in two)
        verdict = (
            f"in layer{'s' if len(two) > 1 else ''} {names} the dip test rejects one mode (q at most "
            f"{p_value(corrected[two].max())}; no claim)" if len(two)
            else "in no layer more than one mode is shown (dip test, smallest q over layers "
            f"{p_value(corrected.min())})"
        )  # fmt: skip
        said.append(
            f"Of {words.others}, {share} are outliers in a layer (log norm above median + 5 MAD, as standard "
            f"deviations); {verdict}. Each {words.each} counts as independent there, which favours finding modes; a "
            "second mode of few is missed."
        )
    return " ".join(said)


def _maps(rows: pd.DataFrame, model: dict, words: _Words) -> list[Chart]:
    whole, charts = head_maps.whole_layers(model), []
    heads = rows[(rows["part"] == "head") & (rows["input"] == "natural")]
    labels = {"first": (f"Attention to {words.first}", 1.0), "said": ("Said: share written from it", 1.0),
              "value": ("Value's norm", 1.0), "output": ("Output", 2.0),
              "punctuation": ("Attention to punctuation", 0.5), "special": ("To other special tokens", 0.5),
              "learned": ("To a learned sink", 1.0)}  # fmt: skip
    for measure, (label, top) in labels.items():
        part = heads[(heads["measure"] == measure) & heads["value"].notna()]
        if len(part) and (measure not in ("special", "learned") or part["value"].max() > 0.01):
            charts.append(Chart(sink_charts.head_shares(part, whole, top, label), label))
    return charts


def _inputs_table(rows: pd.DataFrame, path: str) -> Table:
    lines = []
    for name, (label, _, _) in sink_charts.INPUTS.items():
        cells = [_at(rows, name, measure) for measure in ("first", "second", "later")]
        if cells[0] is not None:
            layers = rows[(rows["part"] == "layer") & (rows["input"] == name)]
            longest = [
                layers[layers["measure"] == f"norm_{at}"]["value"].max() for at in ("first", "second", "largest")
            ]
            lines.append([label, *map(_share, cells), *(number(value, 1) for value in longest),
                          str(int(cells[0]["prompts"]))])  # fmt: skip
    columns = ["input", "first position", "second", "any later token", "norm of first", "of second", "of longest",
               "passages"]  # fmt: skip
    says = (
        "Share of heads above 0.3 on each position (later: the token of words or punctuation that gets most), and "
        "norms over the median in the layer where they are largest. Where another token is put first, the former first "
        "one is second."
    )
    return Table(columns, lines, says, path, tuple(range(1, len(columns))))


def _probes(slot: Slot) -> list:
    rows, path = slot.probes, slot.path("probes.csv")
    if rows.empty:
        return [Note(f"No state was probed: {slot.reasons.get('probes') or f'{path} has no rows'}.")]
    last = rows["layer"].max()
    charts = []
    for target, label in TARGETS.items():
        part = rows[(rows["target"] == target) & rows["value"].notna()]
        if len(part):
            charts.append(Chart(sink_charts.probes(part, label), label[0].upper() + label[1:]))
    legend = [(colour, shape, text) for text, colour, shape in sink_charts.KINDS.values()]
    says = "What linear probes read from one token's state; dashed: a state that is the same in every passage."
    said = [_first(rows, slot.decoder), *(_kind(rows, kind) for kind in ("attended", "largest"))]
    return [
        Note(HOLDS),
        Note(" ".join(filter(None, said))),
        Figure(charts, says, path, "cards", legend),
        _probes_table(rows[rows["layer"] == last], path, int(last)),
    ]


def _middle(rows: pd.DataFrame) -> int:
    """Return the layer that sentences are about: the middle one, fixed beforehand."""
    layers = sorted(layer for layer in rows["layer"].unique() if layer >= 0)
    return int(layers[len(layers) // 2])


def _held(row: Any, known: float) -> int:
    """Tell whether a probe reads something: 1 by `MARGIN` above what is `known`, 0 not, -1 where nothing is."""
    if row is None or pd.isna(row["value"]):
        return -1
    if pd.isna(row["low"]):
        return 0
    return int(beyond(row["low"], row["high"], known + MARGIN) > 0)


def _open(row: Any, known: float) -> bool:
    """Tell whether a probe that is not shown to read something is not shown to miss it either."""
    return not _held(row, known) and (pd.isna(row["high"]) or beyond(row["high"], row["high"], known + MARGIN) >= 0)


def _known(rows: pd.DataFrame, kind: str, row: Any) -> float:
    """Return what can be had without what the state holds: chance, and what the token itself tells.

    Some tokens stand in texts of one topic alone, or before few others: a probe of their input embedding, layer -1,
    knows that without having read the passage.
    """
    if row is None:
        return float("nan")
    before = _cell(rows[rows["layer"] == INPUT], kind=kind, target=row["target"]) if row["target"] in TOLD else None
    told = [] if before is None or pd.isna(before["value"]) else [before["value"]]
    return max(row["majority"], row["shuffled"], row["guess"], *told)


def _first(rows: pd.DataFrame, decoder: bool) -> str:
    """Say what the first token's state holds in the middle layer, and in a decoder that it can hold nothing."""
    layer, first = _middle(rows), rows[rows["kind"] == "first"]
    if decoder:
        spread = float(first["spread"].max())
        topic = first[first["target"] == "topic"].dropna(subset="value")
        gap = float((topic["value"] - topic["majority"]).abs().max()) if len(topic) else 0.0
        if spread <= 1e-5 and gap == 0:
            return (
                "The first token of a decoder cannot know what follows: its state is the same in every passage (spread "
                "below 1e-5), so that no probe is fitted and what a constant gets is all that can be had."
            )
        if spread > 1e-5:
            return (
                f"The first token differs between passages here (its states lie {number(spread, 3)} from their mean): "
                "no token begins them all, so that what it holds is itself."
            )
        return "The first token's state is the same in every passage, yet probes differ from chance: a fault."
    return _kind(rows, "first", layer)


def _kind(rows: pd.DataFrame, kind: str, layer: int | None = None) -> str:
    """Say what a kind of token holds beside an ordinary one: 'global only' must be able to fail."""
    layer = _middle(rows) if layer is None else layer
    at = rows[rows["layer"] == layer]
    cells = {target: _cell(at, kind=kind, target=target) for target in TARGETS}
    matched, called = ("beside", "beside it") if kind == "largest" else ("ordinary", "ordinary")
    beside = {target: _cell(at, kind=matched, target=target) for target in TARGETS}
    if any(row is None for row in cells.values()):
        return ""
    numbers = []
    for target, label in TARGETS.items():
        row, other = cells[target], beside[target]
        if pd.notna(row["value"]):
            against = "" if other is None or pd.isna(other["value"]) else f" ({called} {_value(other)})"
            numbers.append(f"{label} {_value(row)}{against}")
    known = {target: _known(rows, kind, row) for target, row in cells.items()}
    local = [target for target in LOCAL if _held(cells[target], known[target]) > 0]
    broad = [target for target in GLOBAL if _held(cells[target], known[target]) > 0]
    same = [target for target in LOCAL if _held(cells[target], known[target]) < 0]
    count = int(cells["topic"]["tokens"])
    text = f"In layer {layer}, probes of {KINDS[kind]} read: {', '.join(numbers)} ({count} passages)"
    if kind == "largest":
        text += f" ({int(cells['topic']['outliers'])} of {count} are outliers in some layer"
        text += "" if beside["topic"] is None else f", of those beside them {int(beside['topic']['outliers'])}"
        text += ")"
    if count < ENOUGH:
        return f"{text}: too few passages for a claim."
    others = LOCAL if broad and not local else GLOBAL if local and not broad else ()
    unsettled = [target for target in TARGETS if _open(cells[target], known[target])]
    left = f"whether it holds {' or '.join(NAMES[t] for t in unsettled)} is not settled: the interval holds the margin"
    if broad and local:
        verdict = f"not global only: {listed(NAMES[t] for t in local)} can be read as well"
    elif broad or local:
        kind = "global" if broad else "local"
        only = kind if set(others) & set(unsettled) else f"{kind} only, by this margin"
        verdict = f"{only} ({listed(NAMES[t] for t in broad or local)})"
        verdict += f"; {left}" if unsettled else ""
        verdict += f"; {listed(NAMES[t] for t in same)} cannot vary there" if same else ""
    else:
        verdict = (
            f"nothing is shown to be read by this margin; {left}" if unsettled else "nothing is read by this margin"
        )
    return f"{text}. Verdict: {verdict}. {_apart(cells, beside)}".strip()


def _value(row: Any) -> str:
    return f"{number(row['value'])} {interval(row['low'], row['high'])}".strip()


def _apart(cells: dict[str, Any], beside: dict[str, Any]) -> str:
    """Say of what more, and of what less, is read than from ordinary tokens: where intervals do not overlap."""
    told: dict[str, list[str]] = {"more": [], "less": []}
    for target, row in cells.items():
        if (other := beside[target]) is None or pd.isna([row["low"], other["low"]]).any():
            continue
        if row["low"] > other["high"] or row["high"] < other["low"]:
            told["more" if row["low"] > other["high"] else "less"].append(NAMES[target])
    said = listed(f"{how} is read of {listed(names)}" for how, names in told.items() if names)
    if said:
        known = any(NAMES[target] in names for target in TOLD for names in told.values())
        part = " (what their input embeddings tell is part of it)" if known else ""
        return f"{said[0].upper()}{said[1:]} than from as many ordinary tokens{part}."
    compared = any(row is not None and pd.notna(row["low"]) for row in beside.values())
    return "It is not told apart from as many ordinary tokens." if compared else ""


def _probes_table(rows: pd.DataFrame, path: str, layer: int) -> Table:
    lines = []
    for kind in KINDS:
        for target, label in TARGETS.items():
            row = _cell(rows, kind=kind, target=target)
            if row is not None:
                lines.append([sink_charts.KINDS[kind][0], label, row["note"] or _value(row), number(row["majority"]),
                              number(row["shuffled"]), number(row["guess"]),
                              *(str(int(row[column])) for column in ("tokens", "blocks"))])  # fmt: skip
    columns = ["state of", "read from it", "value", "constant state", "shuffled", "a guess", "tokens",
               "paragraphs"]  # fmt: skip
    folded = f"The last layer ({layer}) in numbers"
    says = "95 % intervals over paragraphs. A guess: one of all topics at random; where topics are equally many, a "
    says += "constant state gets less, for the commonest of the fitted passages is then rarer among the others."
    return Table(columns, lines, says, path, tuple(range(3, 8)), folded=folded)


SECTION = SlotSection("sinks", "Sinks: attention to the first token", 52, sinks, seen=3)
