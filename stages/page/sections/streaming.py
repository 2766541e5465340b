"""What a cache can forget: heads that need only sinks and a window, caches cut by that, and text under such caches."""

from math import comb
from typing import Any

import altair as alt
import pandas as pd

from stages.page import charts
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Fold, Note, Table
from stages.page.rows import Change
from stages.page.section import Context, SlotSection
from stages.page.sentences import beyond, interval, listed, number, p_value
from stages.statistics.caching import CLOSE, HALF, NEAR
from stages.tasks.text.task import STRIDE

NAMED = 5  # heads named in a sentence, at most
DEFINITIONS = {
    "gate": "the last hidden state moves by at least {0} of its length without the far past",
    "logprob": "the answer loses at least {0} nats a token without it",
    "mass": "at least {0} of the attention is on what is cut, over all queries that lose keys",
    "mass_answer": "the same before the answer's tokens",
    "wu": "retrieval score (Wu+) of at least {0}",
    "induction": "induction score of at least {0}",
    "echo": "duplicate-token score of at least {0}",
}
FEW = 20  # prompts that a claim rests on, at least
METHODS = {  # method: (label, colour, shape)
    "gate": ("by the gate", charts.BLUE, "circle"),
    "retrieval": ("by Wu's retrieval score", charts.ORANGE, "square"),
    "first": ("the first layers", charts.GREEN, "triangle-up"),
    "random": ("random sets, mean", charts.GREY, "diamond"),
    "random_with": ("random sets that hold the largest gates", charts.BROWN, "diamond"),
    "random_without": ("random sets that lack one of these", charts.MUTED, "diamond"),
    "none": ("none keeps all", charts.BLACK, "cross"),
    "full": ("all keep all", charts.PURPLE, "triangle-down"),
}
WHAT = (
    "A streaming head sees the first {sinks} tokens and the last {window}, at every position, and nothing between; all "
    "other heads are intact, and the model runs on from its layer. The gate of a head is how far that moves the last "
    "hidden state before the answer's tokens, over its length, on needle prompts of split a: the task's shortest, "
    "where the window still holds a needle that stands near the end (without these, streaming loses more). It is "
    "measured, not trained (DuoAttention learns one per key head: Xiao+ ICLR 2025, arXiv 2410.10819). Query heads that "
    "read one key head share its cache, so a cache is cut key head by key head, all readers together."
)
POLICY = (
    "Key heads that keep everything are chosen on split a; recall of needles and loss on text are those of split b. "
    "Intervals of harm to recall are given the full cache's recall: they cannot leave 0 to 1. "
    "Entries: of the cache at a prompt's end, the share that is kept. p: (1 + random sets of as many key heads that do "
    "as well or better) / (1 + sets){text}."
)
STREAMING = (
    "All heads of all layers stream. As in the text: a sink is as far away as it is. Re-counted: as in a cache of that "
    "many entries (StreamingLLM: Xiao+ 2023, arXiv 2309.17453). Harm is paired with full attention on the same "
    "tokens; intervals are over passages, and there are none below 8."
)


def streaming(slot: Slot, context: Context) -> list:
    """Show gates, policies and text under streaming, or say why none was measured."""
    if slot.gates.empty and slot.streaming.empty:
        why = slot.reasons.get("gates") or f"{slot.path('gates.csv')} has no rows"
        return [Note(f"No cache was cut: {why}.")]
    answer, how = [], []
    size = {name: slot.policy.get(name, "few") for name in ("sinks", "window")}
    if len(slot.gates):
        answer.append(Note(_gates(slot)))
        how += [Note(WHAT.format(**size) + _uncut(slot)), _map(slot), _overlap(slot)]
    if len(slot.cache):
        answer.append(Note(_policy(slot.cache, slot, context.alpha)))
        answer += [_curve(slot)] if (slot.cache["measure"] == "recall").any() else []
        how.append(_policies(slot))
    if len(slot.streaming):
        how += [Note(_text(slot.streaming, size["window"], slot)), _losses(slot)]
    return answer + how + _longer(slot, context.alpha)


def _uncut(slot: Slot) -> str:
    """Say which blocks may carry something from token to token that is not cut."""
    free = slot.model.get("attention_free", [])
    if not free:
        return ""
    return (
        f" What {'blocks' if len(free) > 1 else 'block'} {listed(map(str, free))} without measured attention may carry "
        "from token to token, such as a recurrent state, is not cut."
    )


def _longer(slot: Slot, alpha: float) -> list[Fold]:
    """Return what a longer study of this slot adds, in a list; [] where there is none."""
    if "gates" not in slot.longer or slot.longer["gates"].slot.gates.empty:
        return []
    study = slot.longer["gates"]
    deep, blocks = study.slot, [Note(_gates(study.slot) + _screened(slot, study.slot)), _overlap(study.slot)]
    if len(deep.cache):
        blocks += [Note(_policy(deep.cache, deep, alpha)), _policies(deep)]
    if len(deep.streaming):
        blocks += [Note(_text(deep.streaming, deep.policy.get("window", "few"), deep)), _losses(deep)]
    return [study.fold("every query head on as many prompts, and more caches", blocks)]


def _screened(slot: Slot, deep: Slot) -> str:
    """Say what became of the heads that the default run measured on its first prompts alone."""
    both = slot.gates.merge(deep.gates, on=["layer", "head"], suffixes=("", "_deep"))
    few, small = both[both.prompts < both.prompts_deep], _small(slot)
    if few.empty:
        return ""
    missed = few[few.change_deep >= small].sort_values("change_deep", ascending=False)
    named = [
        f"L{row.layer:.0f}H{row.head:.0f} {number(row.change_deep)} (there {number(row.change)})"
        for row in missed.itertuples()
    ]
    count, default = f"{len(named)} move{'s' * (len(named) == 1)}" if named else "none moves", few.prompts.min()
    return (
        f" Of {len(few)} heads that rest on {default:.0f} in the default run, {count} it by {small:g} or more here"
        f"{': ' * bool(named)}{listed(named)}; the largest is {number(few.change_deep.max(), 3)}, the largest "
        f"difference between both {number((few.change_deep - few.change).abs().max(), 3)}."
    )


def _gates(slot: Slot) -> str:
    """Say how many heads need more than sinks and a window, which, and how many prompts that rests on."""
    rows = slot.gates.sort_values(["change", "layer", "head"], ascending=[False, True, True])
    small = _small(slot)
    full, prompts = rows[rows.change >= small], int(rows.prompts.max())
    over = f"mean over {_prompts(prompts)}"
    fewer = rows[rows.prompts < prompts]
    if len(fewer):
        count = int(fewer.prompts.min())
        over += (
            f"; {len(fewer)} heads moved it by less than {number(NEAR * small, 3)} on the first {count} and rest on "
            f"{'that one' if count == 1 else f'these {count}'} alone{', too few for a claim of each' * (count < FEW)}"
        )
    hidden = sorted(set(rows[rows.layer_window <= slot.policy.get("window", 0)].layer.astype(int)))
    marked = (
        f" {'Layers' if len(hidden) > 1 else 'Layer'} {listed(map(str, hidden))} {'see' if len(hidden) > 1 else 'sees'}"
        " no farther than that window anyway: nothing to lose there."
        if hidden
        else ""
    )
    if full.empty:
        top = rows.iloc[0]
        text = (
            f"None of {len(rows)} query heads, streaming alone, moves the last hidden state by {small:g} of its length "
            f"or more; the largest is L{top.layer:.0f}H{top['head']:.0f}, {number(top.change)} ({over})."
        )
        return text + marked + _key_heads(slot.gates, small)
    named = [
        f"L{row.layer:.0f}H{row.head:.0f} {_gate(row.change, row.low, row.high)} "
        f"(log-probability of the answer {number(row.logprob, 2, True)} nats a token)"
        for row in full.head(NAMED).itertuples()
    ]
    rest = f", and {len(full) - NAMED} more" if len(full) > NAMED else ""
    return (
        f"{len(rows) - len(full)} of {len(rows)} query heads, streaming alone, move the last hidden state by less than "
        f"{small:g} of its length (a convention; {over}). {len(full)} move it by more: "
        f"{listed(named)}{rest}.{_close(rows, small)}{marked}{_key_heads(slot.gates, small)}"
    )


def _gate(value: float, low: float, high: float) -> str:
    return f"{number(value)} {interval(low, high)}".strip()


def _close(rows: pd.DataFrame, small: float) -> str:
    """Name the heads whose interval holds the convention: on which side they are is not told."""
    close = rows[(rows.low < small) & (rows.high >= small)]
    named = [f"L{row.layer:.0f}H{row.head:.0f} {_gate(row.change, row.low, row.high)}" for row in close.itertuples()]
    return f" On which side of {small:g} is not told for {listed(named)}." if named else ""


def _small(slot: Slot) -> float:
    return float(slot.gates_overlap[slot.gates_overlap["a"] == "gate"].threshold_a.iloc[0])


def _prompts(count: int) -> str:
    """Write a number of prompts, and whether it is too small."""
    return f"{count} needle prompt{'s' * (count != 1)}{', too few for a claim' * (count < FEW)}"


def _keys(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per key head, where several query heads read one; none otherwise."""
    keys = rows.drop_duplicates(["layer", "key_head"])
    return keys if len(keys) < len(rows) else keys.head(0)


def _key_heads(rows: pd.DataFrame, small: float) -> str:
    """Say how many key heads need more, all their readers streaming together."""
    keys = _keys(rows).sort_values(["key_change", "layer", "key_head"], ascending=[False, True, True])
    if keys.empty:
        return ""
    far = keys[keys.key_change >= small]
    named = [
        f"L{row.layer:.0f}K{row.key_head:.0f} {_gate(row.key_change, row.key_low, row.key_high)}"
        for row in far.head(NAMED).itertuples()
    ]
    which = f": {listed(named)}{f', and {len(far) - NAMED} more' if len(far) > NAMED else ''}" if named else ""
    return (
        f" Of {len(keys)} key heads, all readers streaming together, {len(far) or 'none'} "
        f"move{'s' if len(far) < 2 else ''} it by {small:g} or more{which} (mean over "
        f"{_prompts(int(keys.key_prompts.max()))})."
    )


def _map(slot: Slot) -> Figure:
    """Draw the gates of key heads (where several query heads share one) and of query heads."""
    rows = slot.gates.assign(name=[f"L{r.layer:.0f}H{r.head:.0f}" for r in slot.gates.itertuples()])
    charts_shown, keys = [], _keys(slot.gates)
    top = max(0.1, float(rows.change.max()), float(keys.key_change.max()) if len(keys) else 0.0)
    if len(keys):
        shown = keys.assign(
            name=[f"L{r.layer:.0f}K{r.key_head:.0f}" for r in keys.itertuples()],
            change=keys.key_change, logprob=keys.key_logprob, prompts=keys.key_prompts,
        )  # fmt: skip
        charts_shown.append(Chart(heat_map(shown, "key_head", top), "Key heads, all their readers together"))
    charts_shown.append(Chart(heat_map(rows, "head", top), "Query heads, each alone" if charts_shown else ""))
    says = (
        "Gates: change of the last hidden state, over its length, when a head alone streams; from white, 0, to dark, "
        f"{number(top)}, one scale for all."
    )
    return Figure(charts_shown, says, slot.path("gates.csv"), "single")


def heat_map(rows: pd.DataFrame, down: str, top: float) -> alt.LayerChart:
    """Draw gates over layers (right) and heads (down: the column that numbers them); top: what is darkest."""
    base = alt.Chart(rows, width="container", height=alt.Step(18)).encode(
        x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
        y=alt.Y(f"{down}:O", title=down.replace("_", " ")),
        tooltip=[
            alt.Tooltip("name:N", title="head"),
            alt.Tooltip("change:Q", title="gate", format=".3f"),
            alt.Tooltip("logprob:Q", title="answer, nats a token", format="+.3f"),
            alt.Tooltip("prompts:Q", title="prompts"),
        ],
    )
    scale = alt.Scale(domain=[0, top], range=charts.SEQUENTIAL, clamp=True)
    return alt.layer(base.mark_rect(stroke="#ffffff").encode(color=alt.Color("change:Q", scale=scale, legend=None)))


def _overlap(slot: Slot) -> Table:
    """Compare definitions: how many heads each finds, how many of them the gate finds, rank correlation with it."""
    rows, path = slot.gates_overlap, slot.path("gates_overlap.csv")
    alone = rows[rows["a"] == rows["b"]].set_index("a")
    table, heads = [], int(rows["heads"].iloc[0])
    for name, row in alone.iterrows():
        pair = rows[(rows["a"] == "gate") & (rows["b"] == name)].iloc[0]
        says = DEFINITIONS[str(name)].format(f"{row.threshold_a:g}")
        correlation = "–" if name == "gate" else number(pair.spearman)
        table.append([says, f"{row.heads_a:.0f}", f"{pair.shared:.0f}", correlation])
    counts = alone.heads_a
    says = (
        f"Definitions of a head that needs the far past, over {heads} query heads: they count from "
        f"{counts.min():.0f} to {counts.max():.0f}. Gates as above; attention to what is cut over "
        f"{_prompts(int(slot.gates.weighed.max()))}, of split a; the other scores from split a of their own tasks."
    )
    columns = ["definition", "heads", "of these by the gate", "rank correlation with the gate"]
    return Table(columns, table, says, path, (1, 2, 3))


def _at(rows: pd.DataFrame, method: str) -> Any:
    """Return the row of a method, at half where it may have several; None without."""
    share = {"none": 0.0, "full": 1.0}.get(method, HALF)
    of_method = rows[(rows["method"] == method) & (rows["share"] == share)]
    return of_method.iloc[0] if len(of_method) else None


def _policy(rows: pd.DataFrame, slot: Slot, alpha: float) -> str:
    """Say what half of the key heads cost: recall of needles, then the loss on text."""
    text, recall = "", rows[rows["measure"] == "recall"]
    if len(recall):
        full, half, none, drawn = (_at(recall, method) for method in ("full", "gate", "none", "random"))
        text = (
            f"Needle recall, {full.prompts:.0f} prompts: {number(full.value)} with the full cache, "
            f"{number(none.value)} when every key head streams, {number(half.value)} when the {half.kept:.0f} of "
            f"{full.kept:.0f} key heads with the largest gates keep all ({number(100 * half.entries, 0)} % of the "
            "entries)"
        )
        within = half.value >= full.value - CLOSE
        near = "within" if within else "not within"
        text += f": its mean is {near} {CLOSE:g} of full, harm {_moved(half)}."
        if full.value < CLOSE:
            text += " There is nothing to lose: with the full cache it recalls as good as nothing; no cache is tested."
        elif full.value - none.value < CLOSE:
            text += " There is little to lose: such a window is enough for these prompts, and no ranking is tested."
        elif drawn is not None:
            text += (
                f" As many key heads at random: {number(drawn.value)} (mean of {drawn.draws:.0f} sets, the best "
                f"{number(drawn.draws_best)}); {half.draws_worse:.0f} of these sets lose more than the gate's, "
                f"{drawn.draws_close:.0f} are within {CLOSE:g} of full; rank p = {p_value(half.p)} (floor "
                f"{p_value(half.p_floor)})" + _judged(half, within, alpha) + _held(recall)
            )
        text += _others(recall)
        fewer = recall[(recall["method"] == "gate") & (recall["share"] < HALF)].sort_values("share")
        tested = full.value - none.value >= CLOSE
        said = [
            f"{number(row.value)} with {row.kept:.0f}{_beside(row) if tested else ''}" for row in fewer.itertuples()
        ]
        text += f" Fewer key heads by the gate: {listed(said)}." if said else ""
    loss = rows[rows["measure"] == "loss"]
    if len(loss):
        full, none, half = (_at(loss, method) for method in ("full", "none", "gate"))
        few = ", too few for a claim" if full.prompts < FEW else ""
        passages = f"{full.prompts:.0f} passage{'s' if full.prompts > 1 else ''}{few}"
        text += f" Loss on text, {passages}, at every {STRIDE}th token: {number(full.value, 3)} nats a token"
        text += f", harm {_moved(none)} when every key head streams"
        text += f", {_moved(half)} with half kept by the gate{_on_text(half)}." if half is not None else "."
        ranked = loss[(loss["method"] == "gate") & (loss["share"] < HALF) & loss["p"].notna()].sort_values("share")
        text += "".join(f" With {row.kept:.0f} kept, {_moved(row)}{_on_text(row)}." for row in ranked.itertuples())
    return text.strip()


def _others(recall: pd.DataFrame) -> str:
    """Say what other rankings recall, share by share."""
    text, of_others = "", recall[recall["method"].isin(["retrieval", "first"])]
    for share, rows in sorted(of_others.groupby("share"), reverse=True):
        at = f"at {'half' if share == HALF else number(share, 3)}"
        said = [f"{METHODS[row.method][0]} {number(row.value)}" for row in rows.itertuples()]
        text += f" Other rankings {at}: {listed(said)}."
    return text


def _on_text(row: Any) -> str:
    """Say how many random sets of as many key heads do more harm to the loss on text, where they read it."""
    if row.p != row.p:
        return ""
    return (
        f" ({row.draws_worse:.0f} of {row.draws:.0f} random sets of as many do more harm, their mean loss "
        f"{number(row.draws_mean, 3)}, the lowest {number(row.draws_best, 3)}; rank p = {p_value(row.p)}, floor "
        f"{p_value(row.p_floor)})"
    )


def _beside(row: Any) -> str:
    """Say how many random sets of as many key heads lose more, where some were drawn."""
    if row.p != row.p:
        return ""
    return (
        f" ({row.draws_worse:.0f} of {row.draws:.0f} random sets lose more, mean {number(row.draws_mean)}, best "
        f"{number(row.draws_best)}, rank p = {p_value(row.p)})"
    )


def _judged(half: Any, within: bool, alpha: float) -> str:
    """Say what the rank of the gate's half means."""
    if half.p_floor > alpha:
        return ": too few random sets to tell."
    if half.p > alpha:
        return f": not told apart from random sets, {half.draws - half.draws_worse:.0f} of which do as well or better."
    if within:
        said = ": half of the cache's key heads are enough when the gate chooses them"
        if (1 + half.draws_close) / (1 + half.draws) <= alpha:
            return f"{said}, and not when chance does."
        return f"{said}; when chance does, they are enough in {half.draws_close:.0f} of {half.draws:.0f} sets as well."
    return ": better than chance, and yet half of the key heads are not enough."


def _held(recall: pd.DataFrame) -> str:
    """Say whether random sets do well where they happen to hold the key heads with the largest gates, and how often."""
    best = recall[recall["method"] == "gate"].sort_values("share").iloc[0]
    full, half, having, lacking = (_at(recall, method) for method in ("full", "gate", "random_with", "random_without"))
    others = int(full.kept - best.kept)
    share = comb(others, int(half.kept - best.kept)) / comb(int(full.kept), int(half.kept))
    chance = f" By chance {number(100 * share, 0)} % of such sets hold them." if best.kept < half.kept else ""
    if having is None or lacking is None:
        return f" {'All of these sets hold' if lacking is None else 'None of these sets holds'} {_those(best)}.{chance}"
    return (
        f" {having.draws:.0f} of the random sets hold{'s' if having.draws == 1 else ''} {_those(best)}: recall "
        f"{number(having.value)}, without {number(lacking.value)}.{chance}"
    )


def _those(best: Any) -> str:
    return f"the {best.kept:.0f} with the largest gates ({listed(best.kept_heads.split())})"


def _moved(row: Any) -> str:
    """Write the harm against the full cache with its interval."""
    harm = Change(row.change, row.change_low, row.change_high).harm(row.measure == "loss")
    return f"{number(harm.value, 3, True)} {interval(harm.low, harm.high, 3, True)}".strip()


def _curve(slot: Slot) -> Figure:
    """Draw recall, and what more the loss on text is, against the share of key heads that keep all."""
    recall, loss = (slot.cache[slot.cache["measure"] == measure] for measure in ("recall", "loss"))
    shown = [method for method in METHODS if method in set(recall["method"])]
    legend = [(METHODS[method][1], METHODS[method][2], METHODS[method][0]) for method in shown]
    says = (
        "Against the share of key heads that keep all; bars: 95 % intervals over facts, line: by the gate. What stands "
        "side by side around a share is all at that share."
    )
    drawn = [Chart(curve(recall, shown), "Recall of needles")]
    if len(loss):
        more = loss.assign(value=loss["change"], low=loss["change_low"], high=loss["change_high"])
        drawn.append(Chart(curve(more, shown, "loss more, nats a token"), "Text: loss more than with all"))
        says += " Of text the bars are over passages, and of the difference on the same tokens."
    return Figure(drawn, says, slot.path("cache.csv"), "cards" if len(loss) else "single", legend)


def curve(rows: pd.DataFrame, shown: list[str], measure: str = "recall") -> alt.LayerChart:
    """Draw a value per method over the share of key heads that keep all, with intervals; a line along the gate's."""
    colour = alt.Color("method:N", scale=alt.Scale(domain=shown, range=[METHODS[m][1] for m in shown]), legend=None)
    shape = alt.Shape("method:N", scale=alt.Scale(domain=shown, range=[METHODS[m][2] for m in shown]), legend=None)
    place = {method: 0.014 * (at - len(shown) / 2) for at, method in enumerate(shown)}
    several = rows.groupby("share")["method"].transform("nunique") > 1  # side by side
    rows = rows.assign(x=rows["share"] + rows["method"].map(place).where(several, 0.0))
    rows = rows.assign(label=[METHODS[method][0] for method in rows["method"]])
    base = alt.Chart(rows, width="container", height=220).encode(
        x=alt.X("x:Q", title="share of key heads that keep all", scale=alt.Scale(domain=[-0.02, 1.02], nice=False)),
        color=colour,
        tooltip=[
            alt.Tooltip("label:N", title="kept"),
            alt.Tooltip("kept:Q", title="key heads"),
            alt.Tooltip("entries:Q", title="share of entries", format=".2f"),
            alt.Tooltip("value:Q", title=measure, format=".3f"),
            alt.Tooltip("low:Q", title="95 % from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
        ],
    )
    scale = alt.Scale(domain=[0, 1]) if measure == "recall" else alt.Undefined
    y = alt.Y("value:Q", title=measure, scale=scale)
    gate = rows[rows["method"].isin(["none", "gate", "full"])]
    line = alt.Chart(gate).encode(x="share:Q", y=y)
    return alt.layer(
        line.mark_line(color=charts.BLUE, strokeWidth=1),
        base.mark_rule(strokeWidth=1.3).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=55, opacity=1).encode(y=y, shape=shape),
    )


def _policies(slot: Slot) -> Table:
    rows = slot.cache[slot.cache["measure"].isin(["recall", "loss"])]
    place = {method: number for number, method in enumerate(METHODS)}
    rows = rows.assign(place=rows["method"].map(place)).sort_values(["task", "place", "share"])
    table = [
        [row.task, METHODS[row.method][0], f"{row.kept:.0f}", number(100 * row.entries, 0),
         f"{number(row.value, 3)} {interval(row.low, row.high, 3)}".strip(),
         "" if row.method == "full" else _moved(row),
         f"{p_value(row.p)} (floor {p_value(row.p_floor)})" if row.p == row.p else "", row.kept_heads or ""]
        for row in rows.itertuples()
    ]  # fmt: skip
    columns = ["on", "kept", "key heads", "entries, %", "recall or loss", "harm against full", "p", "which"]
    drawn = ((rows["task"] == "text") & (rows["method"] == "random")).any()
    says = POLICY.format(text="" if drawn else "; the text has no random sets here")
    return Table(columns, table, says, slot.path("cache.csv"), (2, 3, 4, 5, 6), folded="All caches that were tried")


def _text(rows: pd.DataFrame, window: Any, slot: Slot) -> str:
    """Say what a window without first tokens does to the loss, and how much sinks bring back."""
    last = rows[rows["length"] == rows["length"].max()]
    cells = last.set_index(["sinks", "positions"])
    length, passages = int(last["length"].iloc[0]), int(last["passages"].max())
    most = int(max(sinks for sinks, _ in cells.index))
    before = sorted(set(rows["length"].astype(int)))[-2:-1]
    where = (
        f"{f'from token {before[0]} ' if before else ''}up to token {length} "
        f"({passages} passage{'s' * (passages > 1)}, {int(last['tokens'].max())} tokens)"
    )
    if (0, "text") not in cells.index or most <= 0:
        return f"Loss on text {where}: {number(cells.loc[(-1, 'text'), 'loss'], 3)} nats a token with full attention."
    bare, sunk = cells.loc[(0, "text")], cells.loc[(most, "text")]
    text = (
        f"Loss on text {where}: {number(cells.loc[(-1, 'text'), 'loss'], 3)} nats a token with full attention; a "
        f"window of {window} without first tokens does harm {_change(bare)}, {most} sinks and the window "
        f"{_change(sunk)}."
    )
    side = beyond(bare.low, bare.high, 0.0, 3) if bare.low == bare.low else 0
    if side > 0:
        back = 1 - sunk.change / bare.change
        few = f" ({passages} passages, too few for a claim)" if passages < FEW else ""
        text += f" The window alone is worse{few}; {most} sinks take {number(100 * back, 0)} % off its mean harm."
    else:
        text += " On so many passages the window alone is not told apart from full attention."
    if (most, "cache") in cells.index:
        text += f" With positions re-counted in the cache the same is {_change(cells.loc[(most, 'cache')])}."
    else:
        text += " Positions cannot be re-counted in this model: its attention is given no rotary positions."
    own = sorted({layer["window"] for layer in slot.model.get("attention", []) if layer.get("window")})
    if own:
        local = sum(1 for layer in slot.model["attention"] if layer.get("window"))
        text += (
            f" {local} of {len(slot.model['attention'])} layers "
            f"{'have a window of their own' if local > 1 else 'has a window of its own'} ({listed(map(str, own))} "
            "tokens): farther on the first tokens are lost there in the intact model too, and seen again only where "
            f"positions are re-counted. These passages end at {length}: "
        )
        text += (
            "that is not tested here, every layer of the intact model sees all (`python -m bench.streaming_books` "
            "reads longer texts)."
            if length <= min(own)
            else f"from token {min(own)} on, sinks as in the text are "
            + ("seen by no layer." if local == len(slot.model["attention"]) else "those of the other layers.")
        )
    return text


def _change(row: Any) -> str:
    return f"{number(row.change, 3, True)} {interval(row.low, row.high, 3, True)}".strip()


def _losses(slot: Slot) -> Table:
    rows = slot.streaming
    lengths = sorted(set(rows["length"].astype(int)))
    table = []
    for (sinks, positions), of_cell in rows.groupby(["sinks", "positions"], sort=True):
        at = of_cell.set_index("length")
        first = ["full attention" if sinks < 0 else f"{sinks:.0f}", "" if sinks < 0 else
                 {"text": "as in the text", "cache": "re-counted"}[positions]]  # fmt: skip
        cells = [
            f"{number(at.loc[length, 'loss'], 3)}" + ("" if sinks < 0 else f" ({_change(at.loc[length])})")
            for length in lengths
        ]
        table.append([*first, *cells])
    columns = ["sinks", "positions", *(f"to token {length}, from the one before" for length in lengths)]
    numeric = tuple(range(2, 2 + len(lengths)))
    return Table(columns, table, STREAMING, slot.path("streaming.csv"), numeric)


SECTION = SlotSection("cache", "What a cache can forget", 54, streaming, predicts=True, seen=3)
