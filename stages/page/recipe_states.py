"""What tokens' states hold and whether that is used: the part of a recipe's section that states.csv is shown in.

Said to be held is what a probe reads better than the commonest answer and than shuffled labels in every run; said to be
used is what changes an outcome in every run when it is replaced: 95 % intervals over sequences, run by run.
"""

import altair as alt
import pandas as pd

from stages.page import charts
from stages.page.page import Chart, Figure, Note, Table
from stages.page.recipe_design import uncertain, variants
from stages.page.sentences import capital, listed, number
from stages.recipes.settings import Recipe
from stages.recipes.states import REGISTER, STUDIED

COLUMNS = ["arm", "seed", *STUDIED]
TEXT = {"arm", "question", "tokens", "what", "measure"}
READ = {"R2": 0.1, "accuracy": 0.05}  # beyond chance, with the whole interval: from there on a thing is said to be read
FAR = 10.0  # robust standard deviations, as measured
LONG = 2.0  # times its kind's median: a shorter state is no outlier
EXACT = 1e-5  # a difference that is only one of rounding
OWN = {"own pixels": "its own pixels"}  # facts that are the token's, with their article
SMALL = 0.005  # would be written as zero with two digits
COLOURS = [charts.BLUE, charts.ORANGE, charts.GREEN, charts.PURPLE, charts.BROWN, charts.BLACK, charts.GREY]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
EDITS = {
    "drop": "dropped",
    "zero": "set to zero",
    "mean": "set to their mean",
    "shuffle": "exchanged between sequences",
}


def design(recipe: Recipe) -> str:
    """Say what was trained and how states are asked."""
    shape, train = recipe.train.architecture, recipe.train
    return (
        f"Trained from scratch on the task `{recipe.task}`: {train.seeds} seed{'s' * (train.seeds > 1)} each, "
        f"{train.steps} steps of {train.batch} sequences where the variant says nothing else: {variants(recipe)}; "
        f"{shape.layers} layers of "
        f"{shape.heads} heads, width {shape.width}, MLPs of {shape.inner}. Measured on {recipe.study.sequences} "
        "held-out sequences. A probe is a ridge regression from ONE token's state (unit norm), fitted on four fifths "
        "of the sequences and scored on the others, each once, as in the section on sinks; held is what it reads by "
        f"{READ['accuracy']} (accuracy; R2: {READ['R2']}) above the commonest answer and shuffled labels, with the "
        "whole interval. To hold something is not to use it, so that both are asked: an edit replaces what every block "
        "reads at some tokens, and the outcome is that of the other tokens. Both are judged run by run, by 95 % "
        f"intervals over sequences; of curves: {uncertain(train.seeds)}"
    )


def blocks(states: pd.DataFrame, recipe: Recipe, path: str) -> list:
    """Return the figure of what is read off states, the tables behind it and of the edits, and what they say."""
    arms = [arm for arm in recipe.ordered if arm in set(states["arm"])]
    holds, used = states[states["question"] == "holds"], states[states["question"] == "used"]
    result: list = []
    if len(holds):
        result += [_figure(holds, arms, path), _held_table(holds, arms, path)]
    if len(used):
        result.append(_used_table(used, arms, path))
    for arm in arms:
        text = " ".join(
            part for part in (held(holds, arm), edits(used, arm), apart(states, arm), dump(states, arm)) if part
        )
        if text:
            result.append(Note(f"{capital(arm.replace('_', ' '))}: {text[0].lower()}{text[1:]}"))
    return [*result, Note(norms(states))]


def _figure(holds: pd.DataFrame, arms: list[str], path: str) -> Figure:
    kinds = sorted(set(holds["tokens"]), key=lambda kind: (kind != REGISTER, kind))
    means = holds.groupby(["arm", "what", "measure", "tokens", "layer"])[["value", "control"]].mean().reset_index()
    colour = alt.Color("tokens:N", scale=alt.Scale(domain=kinds, range=COLOURS[: len(kinds)]), legend=None)
    shape = alt.Shape("tokens:N", scale=alt.Scale(domain=kinds, range=SHAPES[: len(kinds)]), legend=None)
    cards = []
    for arm in arms:
        of_arm = means[means["arm"] == arm]
        for (fact, measure), rows in of_arm.groupby(["what", "measure"], sort=True):
            chart = alt.Chart(rows, width="container", height=150)
            base = chart.encode(
                x=alt.X("layer:O", title="state before block (last: after all)", axis=alt.Axis(labelAngle=0))
            )
            scale = alt.Scale(domain=[0, 1], clamp=True)
            value = alt.Y("value:Q", title=f"{measure} of the probe", scale=scale)
            shown = [alt.Tooltip("tokens:N"), alt.Tooltip("layer:O"), alt.Tooltip("value:Q", format=".3f")]
            lines = base.mark_line(strokeWidth=1.3).encode(y=value, color=colour)
            points = base.mark_point(filled=True, size=45, opacity=1).encode(
                y=value, color=colour, shape=shape, tooltip=shown
            )
            level = chart.mark_rule(color=charts.GREY, strokeDash=[3, 3]).encode(y="mean(control):Q")
            cards.append(Chart(alt.layer(level, lines, points), f"{capital(arm.replace('_', ' '))}: {fact}"))
    legend = [(c, s, kind) for c, s, kind in zip(COLOURS, SHAPES, kinds, strict=False)]
    says = "What a linear probe reads off one token's state, on sequences it was not fitted on; means over seeds. "
    says += "Dashed: the commonest answer (accuracy) or the mean (R2)."
    return Figure(cards, says, path, "cards", legend)


def _held_table(holds: pd.DataFrame, arms: list[str], path: str) -> Table:
    rows = []
    for (arm, fact, tokens), of_kind in _grouped(holds, arms, ["arm", "what", "tokens"]):
        first, last = (of_kind[of_kind["layer"] == layer] for layer in (of_kind["layer"].min(), of_kind["layer"].max()))
        cells = [_ranged(part["value"]) for part in (first, last)]
        beside = [number(last[column].mean()) for column in ("control", "shuffled")]
        trials = f"{last['trials'].min():.0f}"
        rows.append([arm.replace("_", " "), f"{fact} ({last['measure'].iloc[0]})", tokens, *cells, *beside, trials])
    columns = ["variant", "fact", "read off one", "before the first block", "after the last"]
    columns += ["commonest answer", "shuffled labels", "trials"]
    says = "What states hold: mean over seeds and, in brackets, the range. Shuffled: mean of 20 shufflings."
    return Table(columns, rows, says, path, tuple(range(3, 8)), folded="What states hold, in numbers")


def _used_table(used: pd.DataFrame, arms: list[str], path: str) -> Table:
    rows = []
    for (arm, tokens, measure), of_set in _grouped(used, arms, ["arm", "tokens", "measure"]):
        cells = [_ranged(_harm(of_set[of_set["what"] == edit]), sign=True) for edit in EDITS]
        rows.append([arm.replace("_", " "), tokens, measure, number(of_set["control"].mean()), *cells])
    columns = ["variant", "tokens", "outcome", "intact", *EDITS.values()]
    says = "Whether states are used: harm to the outcome of all other tokens when the states of some are replaced at "
    says += (
        "every layer, + is worse, loss in nats; mean over seeds and, in brackets, the range. Intact: the outcome of "
    )
    says += "these others, which are not the same in every row."
    return Table(columns, rows, says, path, tuple(range(3, 8)))


def held(holds: pd.DataFrame, arm: str) -> str:
    """Say what is read off one state after the last block, kind of token by kind of token."""
    rows = holds[holds["arm"] == arm]
    rows = rows[rows["layer"] == rows["layer"].max()]
    parts = []
    for (tokens, fact), of_kind in rows.groupby(["tokens", "what"]):
        count, runs = int(read(of_kind).sum()), of_kind["seed"].nunique()
        values = f"{_ranged(of_kind['value'])}, without the state {number(of_kind['control'].mean())}"
        if tokens == REGISTER and count:
            values += _as_well(rows[rows["what"] == fact])
        if tokens == REGISTER or of_kind["measure"].iloc[0] != "accuracy" or "patch" in tokens:
            parts.append(f"one {tokens} {_in_runs(count, runs, OWN.get(fact, f'the {fact}'))}: {values}")
    return f"after the last block {'; '.join(parts)}." if parts else ""


def _as_well(rows: pd.DataFrame) -> str:
    """Say what other tokens hold of a fact that a register holds, on average over runs: it may be held anywhere."""
    means = rows[rows["tokens"] != REGISTER].groupby("tokens")["value"].mean()
    return f" ({listed(f'one {tokens} {number(value)}' for tokens, value in means.items())})" if len(means) else ""


def _in_runs(count: int, runs: int, fact: str) -> str:
    if not count:
        return f"is not shown to hold {fact}"
    return f"holds {fact}" if count == runs else f"holds {fact} in {count} of {runs} runs"


def read(rows: pd.DataFrame) -> pd.Series:
    """Return, row by row, whether a probe reads more than what stands for nothing, by a margin."""
    nothing = rows[["control", "shuffled"]].max(axis=1)
    return rows["low"] > nothing + rows["measure"].map(READ)


def edits(used: pd.DataFrame, arm: str) -> str:
    """Say, for every set of edited tokens, which edits change the accuracy in every run; of registers, the loss too."""
    rows = used[used["arm"] == arm]
    sentences = []
    for tokens, of_set in rows[rows["measure"] == "accuracy"].groupby("tokens", sort=False):
        if parts := _harms(of_set):
            matched = "ordinary" in tokens and REGISTER in set(rows["tokens"])
            name = "the registers" if tokens == REGISTER else f"as many {tokens}" if matched else tokens
            sentences.append(f"{capital(name)}, harm to the accuracy of the others: {listed(parts)}.")
    loss = rows[(rows["measure"] == "loss") & (rows["tokens"] == REGISTER)]
    if parts := _harms(loss):
        sentences.append(f"The registers, harm to the loss of the others (nats): {listed(parts)}.")
    zero, drop = (loss.loc[loss["what"] == edit] for edit in ("zero", "drop"))
    if len(zero) and (zero["low"].to_numpy() > drop["high"].to_numpy()).all():
        sentences.append(
            f"Zero is not absence: it does harm {_ranged(zero['value'], sign=True)} to the loss (nats), dropping the "
            f"same tokens {_ranged(drop['value'], sign=True)}."
        )
    return " ".join(sentences)


def _harm(rows: pd.DataFrame) -> pd.Series:
    """Return changes of an outcome as harm: positive is worse, a loss as it is, accuracies with the sign turned."""
    return rows["value"].where(rows["measure"] == "loss", -rows["value"])


def _harms(of_set: pd.DataFrame) -> list[str]:
    """Return what harm every edit does, with in how many runs it is told apart from 0 where not in all."""
    parts = []
    for edit, how in EDITS.items():
        runs = of_set[of_set["what"] == edit]
        if runs.empty:
            continue
        worse, better, count = int((runs["high"] < 0).sum()), int((runs["low"] > 0).sum()), len(runs)
        harm = _ranged(_harm(runs), sign=True)
        if runs["value"].abs().max() <= EXACT:
            parts.append(f"none when {how}")
        elif worse == count or better == count:
            parts.append(f"{harm} when {how}")
        elif worse + better == 0:
            parts.append(f"{harm} when {how} (not told apart from 0)")
        else:
            parts.append(f"{harm} when {how} (told apart from 0 in {worse + better} of {count} runs)")
    return parts


def apart(states: pd.DataFrame, arm: str) -> str:
    """Say, run by run, what differs between kinds of token and between runs: a mean over seeds hides it."""
    rows = states[states["arm"] == arm]
    sentences = []
    holds = rows[(rows["question"] == "holds") & (rows["layer"] == rows["layer"].max())]
    for fact, of_fact in holds[holds["measure"] == "accuracy"].groupby("what"):
        patches = [kind for kind in sorted(set(of_fact["tokens"])) if "patch" in kind]
        if len(patches) < 2:
            continue
        kinds = [*(kind for kind in sorted(set(of_fact["tokens"])) if kind not in patches), *patches]
        each = {kind: of_fact[of_fact["tokens"] == kind].sort_values("seed") for kind in kinds}
        values = "; ".join(f"{kind} {_by_run(of_kind['value'])}" for kind, of_kind in each.items())
        first, second = (each[kind] for kind in patches)
        more = int((first["low"].to_numpy() > second["high"].to_numpy()).sum())
        less = int((first["high"].to_numpy() < second["low"].to_numpy()).sum())
        sentences.append(
            f"The {fact}, run by run: {values}. By intervals that do not touch, one {patches[0]} holds it better than "
            f"one {patches[1]} in {more} of {len(first)} runs, worse in {less}."
        )
    used = rows[(rows["question"] == "used") & (rows["measure"] == "accuracy") & (rows["what"] == "shuffle")]
    each = {tokens: _harm(of.sort_values("seed")) for tokens, of in used.groupby("tokens")}
    if REGISTER in each and len(each[REGISTER]) > 1 and (each[REGISTER].abs() > EXACT).any():
        beside = [tokens for tokens in each if "ordinary" in tokens]
        text = f"Exchanging registers, harm run by run: {_by_run(each[REGISTER], sign=True)}"
        text += "".join(f"; as many {tokens}: {_by_run(each[tokens], sign=True)}" for tokens in beside)
        sentences.append(f"{text}.")
    return " ".join(sentences)


def _by_run(values: pd.Series, sign: bool = False) -> str:
    return " / ".join(number(value, sign=sign) for value in values)


def dump(states: pd.DataFrame, arm: str) -> str:
    """Say whether registers are constants, and how much attention they draw in the first layer."""
    rows = states[states["arm"] == arm]
    spread = rows.loc[rows["question"] == "spread", "value"]
    text = ""
    if len(spread) and spread.max() <= EXACT:
        text = "The registers' states are the same in all sequences: they cannot hold anything of them. What "
        text += (
            "dropping them changes, if anything, is the lack of these constants, and attention that goes elsewhere. "
        )
    first = rows[(rows["question"] == "attention") & (rows["layer"] == 0)]
    if len(first):
        times = first["value"] / first["control"]
        text += f"In layer 0 registers draw {_ranged(times)} times what uniform attention would give them."
    return text.strip()


def norms(states: pd.DataFrame) -> str:
    """Say whether any token's state is an outlier by its length, within its kind; registers are too few to tell."""
    rows = states[(states["question"] == "norms") & (states["tokens"] != REGISTER)]
    keys = ["arm", "seed", "layer", "tokens"]
    lengths = rows.pivot_table(index=keys, columns="what", values="value")
    if lengths.empty:
        return "Lengths of states were not measured."
    far = lengths[(lengths["beyond"] > 0) & (lengths["longest"] >= LONG)]
    text = "Outliers by length, within a kind of token, over all variants, runs and layers, registers left out: "
    if far.empty:
        return (
            f"{text}no state is both {FAR:.0f} robust standard deviations above the median of its kind and "
            f"{LONG:.0f} times as long (the longest state of all: {number(lengths['longest'].max())} times its kind's "
            "median): no outliers form here."
        )
    return (
        f"{text}up to {number(100 * far['beyond'].max(), 1)} % of a kind lie {FAR:.0f} robust standard deviations "
        f"above its median, the longest {number(far['longest'].max())} times as long as it ({len(far)} of "
        f"{len(lengths)} combinations of variant, run, layer and kind have such states)."
    )


def _grouped(rows: pd.DataFrame, arms: list[str], keys: list[str]):
    """Yield groups by keys, variants in their order."""
    for arm in arms:
        yield from rows[rows["arm"] == arm].groupby(keys, sort=True)


def _ranged(values: pd.Series, sign: bool = False) -> str:
    """Write a mean over seeds and, of several, their range; with more digits where two would be zeros."""
    mean, low, high = (_digits(value, sign) for value in (values.mean(), values.min(), values.max()))
    return f"{mean} ({low} to {high})" if len(values) > 1 else mean


def _digits(value: float, sign: bool) -> str:
    return number(value, 4 if EXACT < abs(value) < SMALL else 2, sign)
