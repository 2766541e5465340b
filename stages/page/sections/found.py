"""What was found, in a few sentences and one figure, before anything else; every number is of the slot's tables."""

from typing import Any

import altair as alt
import pandas as pd

from stages.page import carried, charts, counting, rows, verdicts
from stages.page.head_maps import PREFIX, head_name
from stages.page.inputs import Slot
from stages.page.memory_read import relation_of
from stages.page.page import Chart, Figure, Note
from stages.page.section import Context, SlotSection
from stages.page.sentences import (
    capital,
    decimals,
    family_heads,
    interval,
    listed,
    measured,
    number,
    p_value,
    percent,
    pointer,
)
from stages.statistics.caching import CLOSE, HALF
from stages.statistics.sinks import SINK

SHARES = ("accuracy", "recall")  # measures between 0 and 1, drawn on one axis
NAMED = 3  # families whose loss is said, at most
TIES = 3  # heads that are in most families are named where there are no more
TINY = 1e-9


def found(slot: Slot, context: Context) -> list:
    """Say what the heads are, what breaks without them, and when the model extrapolates; draw the loss."""
    claims = rows.silenced(slot.effects, context.families)
    claims = claims[claims["claim"] & claims["change"].notna()] if len(claims) else claims
    said = [
        _heads(slot), _broken(slot, claims, context), _steered(slot, context.alpha), _extrapolated(slot),
        _looked_up(slot), _cached(slot, context.alpha), _limits(slot),
    ]  # fmt: skip
    blocks: list[Any] = [Note(text) for text in said if text]
    drawn = claims[claims["measure"].isin(SHARES)] if len(claims) else claims
    if len(drawn):
        blocks.insert(min(2, len(blocks)), _figure(slot, drawn, context))
    return blocks or [Note("Nothing was measured of this model yet.")]


def _heads(slot: Slot) -> str:
    """Say how many heads are members of which families, and which head is in most."""
    members = slot.heads[slot.heads["member"] == 1]
    total = len(slot.heads.drop_duplicates(["layer", "head"]))
    if members.empty:
        return f"No head of {total} is a member of any family." if total else ""
    grammatical = members["family"].str.startswith(PREFIX)
    counts = members[~grammatical].groupby("family")["head"].size().to_dict()
    syntax = len(members[grammatical].drop_duplicates(["layer", "head"]))
    counts |= {"grammar": syntax} if syntax else {}
    order = sorted(counts, key=lambda name: (-counts[name], name))
    listing = listed(f"{name.replace(':', ' of ').replace('_', ' ')} {counts[name]}" for name in order)
    said = f"Of {total} heads, members of families: {listing} ({pointer(slot.name, 'heads', 'the heads')})"
    broad = members[~grammatical].groupby(["layer", "head"])["family"].agg(list)
    most = broad[broad.map(len) == broad.map(len).max()] if len(broad) else broad
    if len(most) and len(most.iloc[0]) > 1 and len(most) <= TIES:
        names = [f"{head_name(*at)} ({listed(name.replace(':', ' of ') for name in of)})" for at, of in most.items()]
        said += f"; in most families: {listed(names)}"
    return f"{said}."


def _broken(slot: Slot, claims: pd.DataFrame, context: Context) -> str:
    """Say what is lost without the best heads, where no or few control sets do as much, and where they do."""
    alpha = context.alpha
    ranked = claims[claims["p"].notna()] if len(claims) else claims
    if ranked.empty:
        return ""
    told = ranked[(ranked["p"] <= alpha) & (ranked["harm"] > 0)]
    said = []
    if len(told):
        shares = told[told["measure"].isin(SHARES)]
        largest = (shares if len(shares) else told).sort_values("harm", ascending=False, kind="stable").head(NAMED)
        worse, sets = int(largest["as_harmful"].max()), int(largest["controls"].min())
        pool = f"{len(told)} told apart" if shares.empty else f"{len(shares)} told apart that are shares"
        said.append(
            f"Silenced together, {'; '.join(_lost(row) for row in largest.itertuples())}: "
            f"{'none' if not worse else f'at most {worse}'} of {sets} control sets of other heads does as much harm "
            f"(rank p {'at most ' if largest['p'].nunique() > 1 else ''}{p_value(largest['p'].max())}, floor "
            f"{p_value(largest['p_floor'].max())}; the largest harm among the {pool}, of {len(ranked)} claims, over "
            f"which q is at least {p_value(ranked['q'].min())}; {pointer(slot.name, 'effects', 'all of them')})."
        )
        study = slot.longer.get("plan")
        if study and not study.changed:  # what older params made is shown in its fold alone, which says so
            said.append(_among_more(rows.more_claims(slot, context.families), told, alpha))
    apart = set(told["family"])
    least = ranked["as_harmful"] == ranked["controls"]  # without every control set as much is lost, or more
    rest = {
        name: least[ranked["family"] == name].all() for name in dict.fromkeys(ranked["family"]) if name not in apart
    }
    if alike := [family_heads(name) for name, all_do in rest.items() if not all_do]:
        said.append(f"Not told apart from other heads by what is lost: {listed(alike)}.")
    if less := [family_heads(name) for name, all_do in rest.items() if all_do]:
        said.append(f"Without each control set at least as much is lost as without {listed(less)}.")
    return " ".join(filter(None, said))


def _among_more(claims: pd.DataFrame, told: pd.DataFrame, alpha: float) -> str:
    """Say which claims hold at once in a longer study, whose control sets are more, and which of `told` do not there.

    '' where it has none.
    """
    if claims.empty:
        return ""
    text = f"A longer study has {int(claims['controls'].min())} control sets each. {verdicts.over_all(claims, alpha)}"
    here = set(zip(told["family"], told["task"], strict=True))
    lost = [row for row in claims[claims["p"] > alpha].itertuples() if (row.family, row.task) in here]
    named = listed(
        f"{family_heads(row.family)} ({measured(row.task, row.measure)}, rank p {p_value(row.p)})" for row in lost
    )
    return f"{text} Told apart among fewer sets and not among these: {named}." if lost else text


def _lost(row: Any) -> str:
    digits = decimals(row.measure)
    heads = family_heads(row.family)
    who = f"the {int(row.k)} best {heads} take" if row.k > 1 else f"{row.heads}, the best of the {heads}, takes"
    what = measured(row.task, row.measure)
    return f"{who} {what} from {number(row.intact, digits)} to {number(row.value, digits)}"


def _steered(slot: Slot, alpha: float) -> str:
    """Say whether a function can be carried into a prompt without demonstrations."""
    table = slot.steering[(slot.steering["function"] == "all") & (slot.steering["context"] == "zero_shot")]
    at = table.drop_duplicates("vector").set_index("vector")
    if not {"none", "heads"} <= set(at.index) or pd.isna(at.loc["heads", "accuracy"]):
        return ""
    own = at.loc["heads"]
    said = (
        f"Functions shown by demonstrations are carried by {_how_many(own, slot.steering)}: their mean outputs, "
        f"written in place at the last token of a bare prompt, take accuracy from "
        f"{number(at.loc['none', 'accuracy'])} to {number(own['accuracy'])} "
        f"{interval(own['low'], own['high'])}".rstrip()
    )
    clean = slot.steering[(slot.steering["function"] == "all") & (slot.steering["context"] == "clean")]
    said += f" ({number(clean['accuracy'].iloc[0])} with demonstrations)" if len(clean) else ""
    if pd.isna(own["p"]) or own["p"] > alpha:
        said = said.replace("are carried by", "were looked for in", 1)
        rank = "no rank" if pd.isna(own["p"]) else f"rank p = {p_value(own['p'])}, not told apart from other heads"
        return f"{said} ({rank}; {pointer(slot.name, 'vectors', 'function vectors')})."
    if "control" in at.index:
        said += f", those of as many other heads to {number(at.loc['control', 'accuracy'])}"
    rank = f"rank p = {p_value(own['p'])}, floor {p_value(own['p_floor'])}"
    return f"{said} ({rank}; {pointer(slot.name, 'vectors', 'function vectors')})."


def _how_many(own: pd.Series, steering: pd.DataFrame) -> str:
    """Say how many heads vectors hold; the row of all functions has no number where they differ by function."""
    if pd.notna(own["heads"]):
        return f"{int(own['heads'])} heads"
    each = steering[(steering["function"] != "all") & (steering["vector"] == "heads")]
    each = each[each["context"] == own["context"]]["heads"].dropna()
    return f"{int(each.min())} to {int(each.max())} heads, by function" if len(each) else "heads chosen by function"


def _extrapolated(slot: Slot) -> str:
    """Say which functions carry over to made-up words, and what happens to knowledge."""
    table = slot.extrapolation
    shown = table[(table["tokens"] == carried.ALL) & (table["context"] == "demonstrations")]
    solved = shown[~shown["note"].str.startswith(carried.UNSOLVED)]
    if solved.empty:
        return ""
    sides: dict[int, list[str]] = {1: [], -1: []}
    asked = solved[(solved["class"] == "made_up") & (solved["trials"] >= carried.FEWEST)]
    usual = {row.function: row for row in solved[solved["class"] == "usual"].itertuples()}
    sure = [name for name, row in usual.items() if carried.beyond(row.low, row.high, carried.HALF) > 0]
    asked = asked[asked["function"].isin(sure)]
    for row in asked.itertuples():
        sides.setdefault(carried.beyond(row.low, row.high, carried.HALF), []).append(
            f"{row.function} {number(row.accuracy)} ({row.kind})"
        )
    texts = {
        1: "most made-up words are right for {}",
        -1: "most are wrong, though most usual words are right, for {}",
    }
    said = [text.format(listed(sides[side])) for side, text in texts.items() if sides[side]]
    if said:
        said[0] = f"After demonstrations, {said[0]}"
    if sides[-1]:
        said[-1] += f" ({_at_equal_tokens(table, asked)})"
    at = carried.cells(solved)
    known = [
        f"{name} {number(at[name, 'usual']['accuracy'])} and {number(at[name, 'rare']['accuracy'])}"
        for name in dict.fromkeys(solved[solved["kind"] == "knowledge"]["function"])
        if (name, "usual") in at and (name, "rare") in at
    ]
    if known:
        said.append(f"where the answer has to be known, accuracy on usual and on rare words is {listed(known)}")
    if not said:
        return ""
    return f"{capital('; '.join(said))} ({pointer(slot.name, 'extrapolation', 'procedure against knowledge')})."


def _at_equal_tokens(table: pd.DataFrame, asked: pd.DataFrame) -> str:
    """Say for which functions made-up words do worse than rare real ones of as many tokens: they have more of them."""
    rows = table[(table["tokens"] == carried.MATCHED) & (table["class"] == carried.DIFFERENCE)]
    together = (rows["function"] == carried.ALL) & rows["kind"].isin(asked["kind"])
    enough = rows[(rows["function"].isin(asked["function"]) | together) & (rows["trials"] >= carried.FEWEST)]
    lower = [
        f"the functions of kind {row.kind} together" if row.function == carried.ALL else row.function
        for row in enough.itertuples()
        if carried.beyond(row.low, row.high) < 0
    ]
    control = "against rare real words of as many tokens"
    return f"{control} this is shown for {listed(lower)}" if lower else f"{control} this is shown for none"


def _looked_up(slot: Slot) -> str:
    """Say whether one MLP decides which fact comes out, and whether one can be written."""
    table = slot.memory
    chosen = table[table["part"] == "chosen"].set_index("measure")["value"] if len(table) else {}
    if "mlp" not in chosen:
        return ""
    layer = int(chosen["mlp"])
    same = table[(table["layer"] == layer) & table["value"].notna()]
    donor = same[(same["part"] == "lookup") & (same["what"] == "interchange") & (same["measure"] == "donor")]
    donor = donor[donor["condition"] == relation_of(table)]
    recalled = same[(same["part"] == "insert") & (same["what"] == "edit") & (same["measure"] == "efficacy")]
    said = []
    if len(donor):
        row = donor.iloc[0]
        value = f"{number(row['value'])} {interval(row['low'], row['high'])}".strip()
        said.append(f"Facts: with another subject's output of the MLP of layer {layer}, that subject's answer comes "
                    f"out in {value} of {int(row['trials'])}")  # fmt: skip
    copied = same[(same["part"] == "lookup") & (same["what"] == "mean") & (same["condition"] == "copy")]
    copied = copied[copied["measure"] == "own"]
    if len(donor) and len(copied) and copied["high"].iloc[0] < HALF:
        left = number(copied["value"].iloc[0])
        said.append(f"with its mean put in there, copying a word stays right in {left} too, so that it is not "
                    "knowledge alone that is lost")  # fmt: skip
    if len(recalled):
        row = recalled.iloc[0]
        text = f"{number(row['value'])} {interval(row['low'], row['high'])}".strip()
        said.append(f"a pair written there by an edit of rank one is recalled in {text} of {int(row['trials'])} "
                    "invented facts")  # fmt: skip
        other = same[(same["part"] == "insert") & (same["what"] == "edit") & (same["measure"] == "hijacked")]
        if len(other) and other["low"].iloc[0] > 0:
            said[-1] += f" (another invented name gets the object as well in {number(other['value'].iloc[0])})"
    text = capital("; ".join(said))
    return f"{text} ({pointer(slot.name, 'memory', 'the MLP as a store')})." if said else ""


def _cached(slot: Slot, alpha: float) -> str:
    """Say how many heads look at the first token, and what a cache can do without."""
    said = []
    rate = slot.sinks[(slot.sinks["part"] == "rate") & (slot.sinks["input"] == "natural")]
    rate = rate[(rate["measure"] == "first") & ((rate["threshold"] - SINK).abs() < TINY)]
    if len(rate):
        said.append(
            f"In {percent(rate['value'].iloc[0])} % of heads and passages, more than {number(SINK, 1)} of the "
            f"attention is on the first token ({pointer(slot.name, 'sinks', 'sinks')})"
        )
    recall = slot.cache[slot.cache["measure"] == "recall"]
    half = recall[(recall["method"] == "gate") & ((recall["share"] - HALF).abs() < TINY)]
    whole = recall[(recall["method"] == "full") & (recall["value"] >= CLOSE)]  # a model that recalls: it could lose
    if len(half) and len(whole):
        row, full = half.iloc[0], whole.iloc[0]
        text = (
            "with half of the key heads cut to a few first tokens and a window, recall of needles is "
            f"{number(row['value'])}, with the full cache {number(full['value'])} (harm "
            f"{number(-row['change'], 2, True)} {interval(-row['change_high'], -row['change_low'], 2, True)})"
        )
        if pd.notna(row["draws_mean"]):
            text += f", with half cut at random {number(row['draws_mean'])} on average"
            text += "" if pd.notna(row["p"]) and row["p"] <= alpha else " (not told apart)"
        said.append(f"{text} ({pointer(slot.name, 'cache', 'caches')})")
    return f"{capital('; '.join(said))}." if said else ""


def _limits(slot: Slot) -> str:
    """Say what these sentences do not show."""
    stored = slot.model.get("stored")
    said = [f"All of it holds of this model{f' as stored ({stored})' if stored else ''} and of these prompts"]
    if reasons := len(slot.model.get("not_measured", {})):
        link = pointer(slot.name, "missing", f"{reasons} thing{'s' * (reasons > 1)} not measurable here, with why")
        said.append(link)
    return "; ".join(said) + "."


def _figure(slot: Slot, drawn: pd.DataFrame, context: Context) -> Figure:
    alpha = context.alpha
    controls = rows.control_sets(slot.effects, drawn)
    label = {
        (row.family, row.task, row.measure): f"{row.family.replace('_', ' ')}: {measured(row.task, row.measure)}"
        for row in drawn.itertuples()
    }
    keys = ["family", "task", "measure"]
    order = [label[key] for key in label]
    own = drawn.assign(shown=[label[key] for key in zip(*(drawn[name] for name in keys), strict=True)])
    own = own.assign(apart=((own["p"] <= alpha) & (own["harm"] > 0)).astype(int))
    sets = controls.merge(own[[*keys, "condition", "intact", "shown"]], on=[*keys, "condition"])
    sets = sets.assign(value=sets["intact"] + sets["change"])[["shown", "value", "heads"]]
    homes = {name: family.home_condition for name, family in rows.asked(context.families).items()}
    cells = [(row.task, row.measure, homes.get(row.family) or row.condition) for row in own.itertuples()]
    own = own.assign(guess=[counting.guess(slot, context.counted, *cell) for cell in cells])
    own = own[["shown", "value", "intact", "heads", "apart", "p", "guess"]]
    legend = [(charts.BLUE, "diamond", f"the family's best heads silenced, rank p at most {alpha:g}"),
              (charts.BLUE, "hollow diamond", "not told apart, or no control set"),
              (charts.GREY, "circle", "control sets: as many other heads silenced"),
              (charts.INK, "cell", "line: intact"), (charts.ORANGE, "outline", "dashed: a guess")]  # fmt: skip
    says = (
        "What is left when the best heads of each family are silenced together, on the tasks that the family is asked "
        f"about; written in the heads' place: {verdicts.method(rows.main_kind(slot.effects))}. "
        f"{counting.guesses(slot, context, cells)}"
    )
    chart = Chart(left(own, sets, order), "What breaks without them")
    return Figure([chart], says, slot.path("effects.csv"), "single", legend)


def left(own: pd.DataFrame, sets: pd.DataFrame, order: list[str]) -> alt.LayerChart:
    """Draw what is left without each family's heads, beside the intact value and the control sets, 0 to 1.

    own: shown (the row's name), value, intact, heads, apart (1 or 0), p, guess (if known); sets: shown, value, heads.
    """
    y = alt.Y("shown:N", sort=order, title=None, axis=charts.two_lines())
    x = alt.X("value:Q", title="share right", scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(own, width="container", height=alt.Step(29)).encode(y=y)
    tooltip = [alt.Tooltip("heads:N", title="heads"), alt.Tooltip("intact:Q", format=".2f"),
               alt.Tooltip("value:Q", title="silenced", format=".2f"),
               alt.Tooltip("p:Q", title="rank p", format=".2f")]  # fmt: skip
    filled = alt.Fill("apart:N", scale=alt.Scale(domain=[0, 1], range=["#ffffff", charts.BLUE]), legend=None)
    return alt.layer(
        base.mark_tick(color=charts.INK, thickness=2, size=15).encode(x=alt.X("intact:Q")),
        base.transform_filter("isValid(datum.guess)").mark_tick(
            color=charts.ORANGE, thickness=1.5, size=20, strokeDash=[4, 3]).encode(x=alt.X("guess:Q")),
        alt.Chart(sets).mark_circle(color=charts.GREY, size=26, opacity=0.55).encode(
            x=x, y=y, tooltip=[alt.Tooltip("heads:N", title="control set"), alt.Tooltip("value:Q", format=".2f")]),
        base.mark_point(shape="diamond", size=95, stroke=charts.BLUE, strokeWidth=1.6, opacity=1).encode(
            x=x, fill=filled, tooltip=tooltip),
    )  # fmt: skip


SECTION = SlotSection("found", "What was found", 5, found)
