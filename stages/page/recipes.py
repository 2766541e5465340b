"""What stands on the page for checkpoints: curves over training, onsets marked, and what they say.

Checkpoints are of models trained here from scratch, or revisions of a pretrained one. A claim is made only where a 95 %
interval allows it; intervals are over seeds from three seeds on, else over held-out sequences, and the page says which.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import altair as alt
import pandas as pd

from stages.page import charts, inputs
from stages.page.page import Chart, Figure, Note, Section
from stages.page.sentences import capital, interval, listed, number
from stages.store.params import First, Params, Recipe, Revisions, Study, digest

CURVE = "arm seed step measure head best value null"
FINDINGS = "finding arm measure versus seed value low high"
LEARNING = "arm seed step loss"
PICTURE = "seed head query token predicts key looks_at weight"
PICTURED = (
    "Where each head looks in one held-out sequence, at the last checkpoint, seed {seed} of {arm}: the run that ended "
    "best on one half of the held-out sequences, the first of equals. Darker: more attention."
)
WRITTEN = " After '{string}' the model itself wrote '{tape}', one token at a time (greedy decoding)."
FILLED = " Behind the arrow: what the model fills in where that word is left out."
LEVELS = {  # simpler means: what they are called
    "ngram": "a 5-gram counted on the same sentences",
    "offset": "the best fixed offset of each label",
}
TEXT = {"arm", "measure", "head", "finding", "versus", "token", "predicts", "looks_at"}
MEASURES = {  # measure: (what it is called, what the axis says)
    "loss": ("loss", "loss on held-out sequences, nats per token"),
    "accuracy": ("accuracy", "share right (tokens, whole tapes or minimal pairs)"),
    "uas": ("UAS of heads", "arcs found by the best head of their label, share"),
    "in_context": ("in-context score", "in-context score: loss late − early, nats"),
    "previous": ("previous-token score", "attention to the token before, best head"),
    "duplicate": ("duplicate-token score", "attention to earlier copies, best head"),
    "accuracy_beyond": ("accuracy beyond", "whole tapes right, lengths never trained on"),
    "loss_beyond": ("loss beyond", "loss on lengths never trained on, nats per token"),
    "attention_to_separator": ("attention to ':'", "share of queries with attention to ':' > 0.5, layer 0"),
    "attention_to_input": ("attention to the input", "share of queries with attention to x(t+1) > 0.5, layer 1"),
    "attention_to_separator_mean": ("mean attention to ':'", "attention to ':', layer 0"),
    "attention_to_input_mean": ("mean attention to the input", "attention to x(t+1), layer 1"),
    "induction": ("induction score", "attention to what followed earlier copies, best head"),
    "self": ("self score", "attention to the token itself, best head"),
    "local": ("local score", "attention to the last 8 tokens, best head"),
    "sink": ("sink score", "attention to first and special tokens, best head"),
    "streaming": ("streaming score", "attention to 4 sinks and the last 64 tokens, best head"),
    "retrieval": ("retrieval score", "needle tokens found, all needles, best head"),
    "grammar": ("grammar score", "share of arcs found, best head per label"),
    "repeats_loss": ("loss on repeats", "loss in the last quarter of random repeats, nats per token"),
    "repeats_in_context": ("in-context score on repeats", "random repeats: loss late − early, nats"),
    "recall": ("needle recall", "share of answer tokens right"),
}
JUMPED = 0.5  # an arm's onset is compared where its steepest change is at least so much of the first arm's
COLOURS = [charts.BLUE, charts.ORANGE, charts.GREEN, charts.PURPLE, charts.GREY]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4]]


def sections(recipes: Mapping[str, Recipe], folders: Mapping[str, Path]) -> list[Section]:
    """Return one section per recipe of params.yaml, read from its folder of results."""
    return [
        Section(f"recipe-{name}", f"Heads that emerge: {name}", _blocks(recipe, folders[name]))
        for name, recipe in recipes.items()
    ]


def longer(settings: Params, folders: Mapping[str, Path]) -> list[Section]:
    """Return one section per recipe of params.full.yaml with results in git, saying whether its params still hold."""
    found = []
    for name, recipe in settings.recipes.items():
        stamp = folders[name] / "params.json"
        if stamp.exists():
            then, now = json.loads(stamp.read_text())["sha256"], digest(settings.seed, recipe)
            says = f"Not made by `dvc repro` but by `python -m bench.full_recipes {name}`, from `params.full.yaml` "
            says += f"(sha256 of seed and recipe: {then[:12]}). "
            says += "" if then == now else f"THE PARAMS HAVE CHANGED SINCE (now {now[:12]}): run it again."
            title = f"Heads that emerge, the longer study: {name}"
            found.append(Section(f"full-{name}", title, [Note(says.strip()), *_blocks(recipe, folders[name])]))
    return found


def _blocks(recipe: Recipe, folder: Path) -> list:
    path = (folder / "curve.csv").as_posix()
    curve = inputs.frame(folder / "curve.csv", CURVE.split(), TEXT)
    findings = inputs.frame(folder / "findings.csv", FINDINGS.split(), TEXT)
    if curve.empty:
        return [Note(f"No results yet: {path} has no rows. Run `dvc repro`.")]
    arms = recipe.ordered
    whole = findings[findings["seed"].isna()]
    cards = [
        Chart(chart(curve, whole, measure, arms, recipe.study), capital(said(measure)), jumps(whole, measure, arms))
        for measure in dict.fromkeys(curve["measure"])
        if "@" not in measure
    ]
    legend = [(colour, "circle", arm.replace("_", " ")) for arm, colour in zip(arms, COLOURS, strict=False)]
    factor = recipe.study.factor
    stretch = (
        f"{recipe.study.window} steps with" if factor is None else f"stretch in which steps grow {factor:g}-fold with"
    )
    says = ("Dashed and level: what simpler means reach. " if (whole["finding"] == "level").any() else "") + (
        f"Thin lines: seeds; the band: the {stretch} the steepest change of the first variant, "
        "at its mean onset; the bar above: the 95 % interval of the onset. For attention, the head with the largest "
        "score at each checkpoint, chosen on one half of the held-out sequences and shown on the other."
    )
    blocks = [
        Note(design(recipe) + schedule(recipe)),
        Figure(cards, says, path, "cards", legend),
        Note(order(whole, arms[0])),
    ]
    if isinstance(recipe.train, Revisions):
        return blocks
    said_last = (
        *ahead(recipe, whole, curve),
        against(whole, [arm for arm in arms if not recipe.arms[arm].get("first")]),
        solved(findings, arms),
        by_seed(findings, arms[0]),
        parts(curve, whole, arms[0]),
    )
    for says in (*said_last, without(curve, arms[0])):
        blocks += [Note(says)] if says else []
    seen = inputs.frame(folder / "picture.csv", PICTURE.split(), TEXT)
    if len(seen):
        maps = [Chart(looks(seen[seen["head"] == head]), head) for head in sorted(set(seen["head"]))]
        says = pictured(seen, arms[0]) + (FILLED if recipe.train.architecture.type == "bert" else "")
        blocks.append(Figure(maps, says, (folder / "picture.csv").as_posix(), "maps"))
    return blocks


def pictured(seen: pd.DataFrame, arm: str) -> str:
    """Say which run is pictured and, where a ':' divides the sequence, what it wrote after it."""
    says = PICTURED.format(seed=int(seen["seed"].iloc[0]), arm=arm.replace("_", " "))
    words = seen.sort_values("key").drop_duplicates("key")["looks_at"].tolist()
    last = seen.loc[seen["query"].idxmax(), "predicts"]
    if words.count(":") != 1:
        return says
    at = words.index(":") + 1
    return says + WRITTEN.format(string="".join(words[:at]), tape="".join([*words[at:], last]))


def ahead(recipe: Recipe, whole: pd.DataFrame, curve: pd.DataFrame) -> list[str]:
    """Say for every arm that learned something else first than the main arm whether it is ahead, and by how much.

    What was learned first may be there from step 0 on, without an onset: what the heads do there is said as well.
    """
    main, said_each = recipe.main, []
    for arm in recipe.ordered:
        before = recipe.arm(arm).before
        rows = whole[(whole["arm"] == arm) & whole["finding"].str.endswith(" later")]
        if before == recipe.arm(main).before or rows.empty:
            continue
        levels = rows["measure"].isin(rows.loc[rows["finding"] == "solved later", "measure"])
        parts = []
        for row in rows[levels | (not levels.any())].itertuples():
            name = f"the {said(row.measure)} " + ("is solved" if row.finding == "solved later" else "jumps")
            bounds = f"[{row.low:+.0f}, {row.high:+.0f}]".replace("-", "−")
            if pd.isna(row.value) or pd.isna(row.low):
                parts.append(f"{name} in not every run of both")
            elif row.low > 0 or row.high < 0:
                when = "later" if row.low > 0 else "earlier"
                parts.append(f"{name} {abs(row.value):.0f} steps {when} {bounds}")
            else:
                parts.append(f"when {name} is not told apart ({row.value:+.0f} {bounds})".replace("(-", "(−"))
        start = curve[(curve["arm"] == arm) & (curve["step"] == 0) & (curve["best"] == 1) & (curve["head"] != "")]
        values = [f"{said(name)} {number(value)}" for name, value in start.groupby("measure")["value"].mean().items()]
        text = f"{capital(arm.replace('_', ' '))} {learned(recipe, before)}. "
        text += f"Counted from there, against {main.replace('_', ' ')}: {'; '.join(parts)}."
        said_each.append(text + (f" At its step 0: {', '.join(values)}." if values else ""))
    return said_each


def learned(recipe: Recipe, before: list[First]) -> str:
    """Say what was learned first: its steps, and in what its arguments differ."""
    main, each = recipe.train.arguments, []
    for first in before:
        changed = {key: value for key, value in first.arguments.items() if main.get(key) != value}
        what = ", ".join(f"{key} {value}" for key, value in changed.items() if isinstance(value, str | int | float))
        each.append(f"{first.steps} steps of {what or 'other data'}")
    return f"learned something else first: {', then '.join(each)}" if each else "learned nothing else first"


def solved(findings: pd.DataFrame, arms: list[str]) -> str:
    """Say at which checkpoint every run counts as solved."""
    rows = findings[(findings["finding"] == "solved") & findings["seed"].notna()]
    texts = []
    for measure in dict.fromkeys(rows["measure"]):
        for arm in arms:
            mine = rows[(rows["arm"] == arm) & (rows["measure"] == measure)].sort_values("seed")["value"]
            steps = ", ".join("never" if pd.isna(step) else f"{step:.0f}" for step in mine)
            texts += [f"{arm.replace('_', ' ')} {steps}"] if len(mine) else []
        texts[-1] += f" (the first checkpoint at which the {said(measure)} is at least the task's level)"
    return f"Steps until solved, seed by seed: {'; '.join(texts)}." if texts else ""


def by_seed(findings: pd.DataFrame, arm: str) -> str:
    """Say every run's last values: a mean over seeds hides that some found the mechanism and some did not."""
    rows = findings[(findings["finding"] == "final") & (findings["arm"] == arm) & findings["seed"].notna()]
    values = [
        f"{said(measure)} {', '.join(number(value) for value in mine.sort_values('seed')['value'])}"
        for measure, mine in rows.groupby("measure", sort=False)
        if "@" not in measure
    ]
    return f"Last values of {arm.replace('_', ' ')}, seed by seed: {'; '.join(values)}." if values else ""


def against(whole: pd.DataFrame, arms: list[str]) -> str:
    """Say, for the measures whose onsets are compared, where every arm ends and how that differs from the first arm."""
    onsets = whole[whole["finding"] == "after"]
    measures = list(dict.fromkeys([*onsets["versus"], *onsets["measure"]]))
    ends = whole[whole["finding"] == "final"].set_index(["arm", "measure"])
    told = []
    for arm in arms:
        values = [
            f"{said(one)} {number(ends.loc[(arm, one), 'value'])} {interval(*ends.loc[(arm, one), ['low', 'high']])}"
            for one in measures
            if (arm, one) in ends.index
        ]
        told += [f"{arm.replace('_', ' ')}: {', '.join(values)}"] if values else []
    differences = [
        f"{said(row.measure)} of {arms[0].replace('_', ' ')} over that of {row.versus.replace('_', ' ')} "
        f"{number(row.value, sign=True)} {interval(row.low, row.high, sign=True)}"
        f"{'' if row.low > 0 or row.high < 0 else ' (not told apart)'}"
        for row in whole[
            (whole["finding"] == "final beyond") & whole["measure"].isin(measures) & whole["versus"].isin(arms)
        ].itertuples()
    ]
    rise = whole[whole["finding"] == "rise"].set_index(["arm", "measure"])["value"]
    text = f"Last values, arm by arm: {'; '.join(told)}." if told else ""
    if differences:
        text += f" Differences, positive in the direction of the jump: {'; '.join(differences)}."
    for row in whole[
        (whole["finding"] == "onset later") & whole["measure"].isin(measures) & whole["arm"].isin(arms)
    ].itertuples():
        rises = [abs(rise.get((arm, row.measure), 0.0)) for arm in (arms[0], row.arm)]
        if rises[1] < JUMPED * rises[0]:
            continue  # an arm that hardly rises has no onset
        steps = f"({row.value:+.0f} steps [{row.low:+.0f}, {row.high:+.0f}])".replace("-", "−")
        pair = f"the {said(row.measure)} of {arms[0].replace('_', ' ')}", row.arm.replace("_", " ")
        if row.low > 0 or row.high < 0:
            text += f" {capital(pair[0])} jumps {'before' if row.low > 0 else 'after'} that of {pair[1]} {steps}."
        else:
            text += f" The onsets of {pair[0]} and of {pair[1]} are not told apart {steps}."
    return text


def parts(curve: pd.DataFrame, whole: pd.DataFrame, arm: str) -> str:
    """Say the last checkpoint's measures by part of the held-out sequences, as means over seeds."""
    rows = _last(curve, arm, r"@(?!without)")
    levels = whole[whole["finding"] == "level"].set_index("measure")
    rows = rows.assign(whole=rows["measure"].str.split("@").str[0])
    told = []
    for measure, mine in rows.groupby("whole", sort=False):
        shares = []
        for name, row in mine.groupby("measure")["value"].agg(["mean", "min"]).iterrows():
            share = f"{name.split('@')[1]}: {number(row['mean'])} ({number(row['min'])})"
            if name in levels.index:
                share += f", {levels.loc[name, 'versus']} {number(levels.loc[name, 'value'])}"
            shares.append(share)
        head = f"{capital(said(measure))} by part at the last checkpoint, mean over seeds (worst seed)"
        told.append(f"{head}: {'; '.join(shares)}.")
    return " ".join(told)


def without(curve: pd.DataFrame, arm: str) -> str:
    """Say the last checkpoint's accuracy with each head silenced, as means over seeds."""
    rows = _last(curve, arm, r"^accuracy@without")
    means = rows.groupby("measure")["value"].agg(["mean", "min", "max"])
    shares = [
        f"without {name.split('without ')[1]} {number(row['mean'])} ({number(row['min'])} to {number(row['max'])})"
        for name, row in means.iterrows()
    ]
    return (
        f"Accuracy with a head silenced (zero ablation), mean and range over seeds: {'; '.join(shares)}."
        if shares
        else ""
    )


def _last(curve: pd.DataFrame, arm: str, pattern: str) -> pd.DataFrame:
    rows = curve[(curve["arm"] == arm) & curve["measure"].str.contains(pattern)]
    return rows[rows["step"] == curve.loc[curve["arm"] == arm, "step"].max()]


def looks(seen: pd.DataFrame) -> alt.Chart:
    """Draw where one head looks: a row per query, `token → what is predicted there`, a column per token."""
    queries = seen.drop_duplicates("query").sort_values("query")
    keys = seen.drop_duplicates("key").sort_values("key")
    labels = [f"{token} → {predicts}" for token, predicts in zip(queries["token"], queries["predicts"], strict=True)]
    first = int(queries["query"].iloc[0])
    base = alt.Chart(seen[["query", "key", "weight"]], width=alt.Step(15), height=alt.Step(15)).encode(
        x=alt.X(
            "key:O",
            title="looks at",
            axis=alt.Axis(labelAngle=0, orient="top", labelExpr=f"{list(keys['looks_at'])}[datum.value]", ticks=False),
        ),
        y=alt.Y(
            "query:O", title="at → predicts", axis=alt.Axis(labelExpr=f"{labels}[datum.value - {first}]", ticks=False)
        ),
        tooltip=[alt.Tooltip("query:O"), alt.Tooltip("key:O"), alt.Tooltip("weight:Q", format=".2f")],
    )
    scale = alt.Scale(domain=[0, 1], range=charts.SEQUENTIAL, clamp=True)
    return base.mark_rect(stroke="#ffffff").encode(color=alt.Color("weight:Q", scale=scale, legend=None))


def design(recipe: Recipe) -> str:
    """Say what was trained, how often, and what the intervals are over."""
    if isinstance(recipe.train, Revisions):
        return surveyed(recipe)
    shape = recipe.train.architecture
    mlp = f"MLPs of {shape.inner}" if shape.inner else "no MLPs"
    variants = listed(
        f"{arm.replace('_', ' ')} ({_changes(recipe.arms[arm]) or f'{shape.layers} layers of {_count(shape.heads)}'})"
        for arm in recipe.ordered
    )
    before = f"All of them {learned(recipe, recipe.train.before)}. " if recipe.train.before else ""
    seeds = recipe.train.seeds
    over = "seeds and held-out sequences" if seeds >= 3 else "held-out sequences only: other seeds may differ"
    return (
        f"Trained from scratch on the task `{recipe.task}`, {seeds} seed{'s' * (seeds > 1)} each, "
        f"{recipe.train.steps} steps of {recipe.train.batch} sequences: {variants}; width {shape.width}, {mlp}. "
        f"{before}Every checkpoint is measured on {recipe.study.sequences} held-out sequences with the code that "
        f"measures pretrained models. Intervals are 95 % bootstrap intervals over {over}."
    )


def schedule(recipe: Recipe) -> str:
    """Say which training data change with the step: onsets are then those of this schedule."""
    given = recipe.train.arguments
    ends = {key: value["until"] for key, value in given.items() if isinstance(value, dict) and "until" in value}
    if given.get("copying"):
        ends = {"copying": given["copying"], **ends}
    if not ends:
        return ""
    each = listed(f"{key} until step {step}" for key, step in ends.items())
    return (
        f" The training data change on the way ({each}): the onsets are those of this schedule, which may set when "
        "and in which order heads appear."
    )


def _changes(changes: dict) -> str:
    """Write what an arm changes, `key: value`; of a section that is no number or word, its name."""
    said_each = []
    for key, value in changes.items():
        if isinstance(value, dict):
            said_each.append(_changes(value) if key in ("arguments", "architecture", "optimizer") else key)
        elif key == "arcs":
            kind = "punished" if value > 0 else "rewarded"
            said_each.append(f"attention on gold arcs {kind} with a factor of {abs(value):g}")
        else:
            said_each.append(f"{key.replace('_', ' ')}: {'no' if value is None or value is False else value}")
    return ", ".join(said_each)


def _count(heads: int) -> str:
    return f"{heads} head{'s' if heads > 1 else ''}"


def surveyed(recipe: Recipe) -> str:
    """Say whose checkpoints are measured, on what, and what is left out."""
    names = []
    for arm in recipe.ordered:
        one = recipe.arm(arm)
        first, last = one.kept[0], one.kept[-1]
        says = f"{arm.replace('_', ' ')} (`{one.name}`, {one.source}, {len(one.kept)} checkpoints, "
        names.append(f"{says}steps {first:,} to {last:,})")
    axis = ""
    if recipe.study.factor is not None:
        axis = "Steps are drawn, and curves joined, on a logarithmic axis of 1 + step. "
    kinds = listed(recipe.train.arguments["tasks"])
    return (
        f"Checkpoints that others trained: {listed(names)}; their weights are pinned by hash, not kept here. Each is "
        f"measured on up to {recipe.study.sequences} prompts of every kind of {kinds}, those that slots are measured "
        "on, by the same code. No head is silenced, and the function family, which is no attention, is left out. "
        f"{axis}Intervals are 95 % bootstrap intervals over prompts only: each variant is one run, and another "
        "may differ. What happens between two neighbouring checkpoints is not known, nor an order of onsets there: an "
        "interval of no width says only that the steepest change is always between the same two."
    )


def said(measure: str) -> str:
    """Return what a measure is called on the page."""
    return MEASURES.get(measure, (measure.replace("_", " "), ""))[0]


def jumps(whole: pd.DataFrame, measure: str, arms: list[str]) -> str:
    """Say where the first arm's measure changes fastest and by how much, and whether other arms' do so less."""
    rows = whole[whole["measure"] == measure]
    mine = rows[(rows["arm"] == arms[0]) & (rows["versus"] == "")].set_index("finding")
    if mine.empty:
        return ""
    onset, rise, final = (mine.loc[finding] for finding in ("onset", "rise", "final"))
    text = f"{capital(arms[0].replace('_', ' '))}: last value {number(final.value)} {interval(final.low, final.high)}; "
    text += f"steepest change {number(rise.value, sign=True)} {interval(rise.low, rise.high, sign=True)} "
    text += f"around step {onset.value:.0f} [{onset.low:.0f}, {onset.high:.0f}]."
    for row in rows[rows["finding"] == "level"].itertuples():
        side = "above" if final.low > row.value else "below" if final.high < row.value else "not told apart from"
        text += f" The last value is {side} what {LEVELS.get(row.versus, row.versus)} reaches, {number(row.value)}."
    for row in rows[(rows["finding"] == "rise beyond") & rows["versus"].isin(arms)].itertuples():
        other = row.versus.replace("_", " ")
        found = f"{number(row.value, sign=True)} {interval(row.low, row.high, sign=True)}"
        if row.low > 0:
            text += f" Its change exceeds that of {other} by {found}."
        elif row.high < 0:
            text += f" Its change is smaller than that of {other}: {found}."
        else:
            text += f" Not told apart from the steepest change of {other}."
    return text


def order(whole: pd.DataFrame, arm: str) -> str:
    """Say in which order the first arm's measures jump, as far as the intervals allow."""
    parts = []
    for row in whole[(whole["finding"] == "after") & (whole["arm"] == arm)].itertuples():
        pair = f"the {said(row.measure)} and the {said(row.versus)}"
        steps = f"{row.value:+.0f} steps [{row.low:+.0f}, {row.high:+.0f}]".replace("-", "−")
        if row.low > 0:
            parts.append(f"the {said(row.measure)} jumps after the {said(row.versus)} ({steps})")
        elif row.high < 0:
            parts.append(f"the {said(row.measure)} jumps before the {said(row.versus)} ({steps})")
        else:
            parts.append(f"the onsets of {pair} are not told apart ({steps})")
    return f"{capital('; '.join(parts))}." if parts else "No order of onsets was asked for."


def chart(curve: pd.DataFrame, whole: pd.DataFrame, measure: str, arms: list[str], study: Study) -> alt.LayerChart:
    """Draw a measure over training: a line per arm and seed, the first arm's steepest stretch and its interval."""
    rows = curve[(curve["measure"] == measure) & (curve["best"] == 1)]
    colour = alt.Color("arm:N", scale=alt.Scale(domain=arms, range=COLOURS[: len(arms)]), legend=None)
    dash = alt.StrokeDash("arm:N", scale=alt.Scale(domain=arms, range=DASHES[: len(arms)]), legend=None)
    onset = whole[(whole["finding"] == "onset") & (whole["measure"] == measure) & (whole["arm"] == arms[0])]
    scale = alt.Scale(nice=False)
    if study.factor is None:
        onset = onset.assign(start=onset["value"] - study.steps / 2, end=onset["value"] + study.steps / 2)
    else:
        scale = alt.Scale(nice=False, type="symlog", constant=1)
        half = study.factor**0.5
        onset = onset.assign(start=(1 + onset["value"]) / half - 1, end=(1 + onset["value"]) * half - 1)
    title = MEASURES.get(measure, ("", said(measure)))[1]
    lines = (
        alt.Chart(rows[["arm", "seed", "step", "head", "value"]], width="container", height=170)
        .mark_line(strokeWidth=1.3, opacity=0.85)
        .encode(
            x=alt.X("step:Q", title="training step", scale=scale, axis=alt.Axis(tickCount=5)),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
            color=colour,
            strokeDash=dash,
            detail="seed:N",
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("seed:N"),
                alt.Tooltip("step:Q"),
                alt.Tooltip("head:N", title="best head"),
                alt.Tooltip("value:Q", title=said(measure), format=".3f"),
            ],
        )
    )
    marks = alt.Chart(onset[["start", "end", "value", "low", "high"]])
    band = marks.mark_rect(color=charts.PALE).encode(x="start:Q", x2="end:Q")
    bar = marks.mark_rule(color=charts.INK, strokeWidth=3).encode(x="low:Q", x2="high:Q", y=alt.value(4))
    at = marks.mark_point(color=charts.INK, filled=True, size=40, opacity=1).encode(x="value:Q", y=alt.value(4))
    level = whole[(whole["finding"] == "level") & (whole["measure"] == measure)][["value", "versus"]]
    rule = alt.Chart(level).mark_rule(color=charts.GREY, strokeDash=[3, 3])
    rule = rule.encode(y="value:Q", tooltip=[alt.Tooltip("versus:N"), alt.Tooltip("value:Q", format=".3f")])
    return alt.layer(band, lines, bar, at, *([rule] if len(level) else []))
