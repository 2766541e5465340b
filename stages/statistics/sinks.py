"""How many heads are sinks, on which input; what they fetch there; how long residuals are. Pure numpy and pandas.

Rows of sinks.csv, by `part`:
    rate   per input, share of (prompt, layer, head) whose alpha (stages/model/sinks.py) is above a threshold: of the
           `first` position, the `second`, or the `later` token that gets most. At 0.3 of the first: Gu+'s sink rate
    head   per head, means over prompts: on natural text all that is measured, on other inputs `first` and `second`
    layer  per layer, means over prompts: norm of the first token's residual over the median (`norm_first`), of the
           longest token of words or punctuation (`norm_largest`), the same for single channels; `outliers`, the share
           of these tokens whose log norm is above median + 5 MAD; `dip` of the log norms, and its `modes_p`
    all    what metrics.json holds, and counts of heads
"""

import numpy as np
import pandas as pd

from stages.statistics.intervals import interval
from stages.statistics.outliers import beyond, dip, one_mode

THRESHOLDS = tuple(round(step / 20, 2) for step in range(1, 20))
SINK = 0.3  # Gu+ ICLR 2025
INACTIVE = 0.5  # of the mean output of the layer's heads: ours, a convention
NATURAL, MOVED = "natural", "moved"
HEAD = "first special punctuation punctuation_even learned value said output later".split()
COLUMNS = "part input layer head measure threshold value low high prompts note".split()
PROBES = "kind target layer value low high majority shuffled guess tokens blocks spread outliers note".split()


def table(heads: pd.DataFrame, tokens: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of sinks.csv from the tables of heads and of tokens (empty from empty ones)."""
    if heads.empty:
        return pd.DataFrame(columns=COLUMNS)
    rows = [*_rates(heads), *_heads(heads), *_layers(tokens), *_overall(heads, tokens)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(part: str, measure: str, value: float, prompts: int, **more) -> dict:
    return {"part": part, "input": NATURAL, "measure": measure, "value": value, "prompts": prompts, "note": ""} | more


def _rates(heads: pd.DataFrame) -> list[dict]:
    rows = []
    for name, of_input in heads.groupby("input", sort=False):
        for measure in ("first", "second", "later"):
            per_prompt = of_input.groupby("prompt", sort=True)[measure]
            for threshold in THRESHOLDS:
                share = per_prompt.apply(lambda alpha, least=threshold: float((alpha > least).mean()))
                low, high = interval(share, share.index, share=True)
                bounds = {"input": name, "threshold": threshold, "low": low, "high": high}
                rows.append(_row("rate", measure, share.mean(), len(share), **bounds))
    return rows


def _heads(heads: pd.DataFrame) -> list[dict]:
    rows = []
    for (name, layer, head), of_head in heads.groupby(["input", "layer", "head"], sort=True):
        for measure in HEAD if name == NATURAL else ("first", "second"):
            where = {"input": name, "layer": layer, "head": head}
            rows.append(_row("head", measure, of_head[measure].mean(), len(of_head), **where))
    return rows


def _layers(tokens: pd.DataFrame) -> list[dict]:
    rows = []
    for (name, layer), of_layer in tokens.groupby(["input", "layer"], sort=True):
        plain = of_layer[of_layer["mark"].isin(["ordinary", "punctuation"])]
        count = of_layer["prompt"].nunique()
        for measure in ("norm", "channel"):
            first = of_layer[of_layer["position"] == 0][measure].mean()
            largest = plain.groupby("prompt")[measure].max().mean()
            second = of_layer[of_layer["position"] == 1][measure].mean()
            where = {"input": name, "layer": layer}
            rows.append(_row("layer", f"{measure}_first", first, count, **where))
            rows.append(_row("layer", f"{measure}_second", second, count, **where))
            rows.append(_row("layer", f"{measure}_largest", largest, count, **where))
        if name == NATURAL and len(plain):  # passages of one token have no others that could lie far out
            logs_N = np.log(plain["norm"].to_numpy(float))
            far_N = beyond(logs_N)
            marks = plain["mark"].to_numpy()[far_N]
            said = f"{len(marks)} of {len(logs_N)} tokens, {int((marks == 'punctuation').sum())} of punctuation"
            rows.append(_row("layer", "outliers", far_N.mean(), count, layer=layer, note=said))
            rows.append(_row("layer", "dip", dip(logs_N), count, layer=layer))
            rows.append(_row("layer", "modes_p", one_mode(logs_N), count, layer=layer))
    return rows


def _overall(heads: pd.DataFrame, tokens: pd.DataFrame) -> list[dict]:
    natural = heads[heads["input"] == NATURAL]
    prompts = natural["prompt"].nunique()
    mean = natural.groupby(["layer", "head"])[[*HEAD]].mean()
    sink = mean["first"] > SINK
    share = natural.groupby("prompt")["first"].apply(lambda alpha: float((alpha > SINK).mean()))
    low, high = interval(share, share.index, share=True)
    outputs = mean["output"].dropna()  # there are none where no passage has a second token
    inactive = mean["output"] < INACTIVE
    silent = sink & (mean["said"] < mean["first"] / 2)
    said = int((sink & mean["said"].notna()).sum())
    rows = [
        _row("all", "rate", share.mean(), prompts, low=low, high=high, threshold=SINK),
        _row("all", "sinks", int(sink.sum()), prompts, note=f"of {len(mean)} heads"),
        _row("all", "silent", int(silent.sum()), prompts, note=f"of {said} sink heads whose values are seen"),
        _row(
            "all", "inactive", (outputs < INACTIVE).mean(), prompts, threshold=INACTIVE, note=f"of {len(outputs)} heads"
        ),
        _row("all", "inactive_sinks", int((inactive & sink).sum()), prompts, note=f"of {int(inactive.sum())} inactive"),
        _row("all", "output_least", float(mean["output"].min()), prompts),
    ]
    excess = natural.assign(excess=natural["punctuation"] - natural["punctuation_even"])
    by_split = {split: part.groupby(["layer", "head"])["excess"].mean() for split, part in excess.groupby("split")}
    if set(by_split) == {"a", "b"}:  # chosen on split a, reported on split b
        layer, head = by_split["a"].idxmax()
        of_head = excess[(excess["split"] == "b") & (excess["layer"] == layer) & (excess["head"] == head)]
        low, high = interval(of_head["excess"], of_head["prompt"])
        value, where = of_head["excess"].mean(), {"layer": layer, "head": head, "low": low, "high": high}
        rows.append(_row("all", "punctuation_excess", value, len(of_head), **where))
    first = tokens[(tokens["input"] == NATURAL) & (tokens["position"] == 0)]
    norms = {split: part.groupby("layer")["norm"].mean() for split, part in first.groupby("split")}
    if set(norms) == {"a", "b"}:
        layer = norms["a"].idxmax()
        of_layer = first[(first["split"] == "b") & (first["layer"] == layer)]
        low, high = interval(of_layer["norm"], of_layer["prompt"])
        where = {"layer": layer, "low": low, "high": high}
        rows.append(_row("all", "massive_ratio", of_layer["norm"].mean(), len(of_layer), **where))
    return rows


def metrics(rows: pd.DataFrame) -> dict[str, float]:
    """Return `sinks.{rate,massive_ratio,inactive}` from sinks.csv; {} where nothing was measured."""
    overall = rows[rows["part"] == "all"].set_index("measure")["value"]
    return {name: round(float(overall[name]), 5) for name in ("rate", "massive_ratio", "inactive") if name in overall}
