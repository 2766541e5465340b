"""Which tokens of an image stand out by their norms, and how much attention they get: images.csv.

An outlier is a patch whose norm is above the median of its image's patches by more than `MADS` median absolute
deviations of theirs, and at least `TIMES` the median: no cut in units of the model's residual. Of a normal distribution
a MAD is 0.67 standard deviations, so that one patch in 10^11 would pass the first; but where most patches are alike, as
a plain background, all others do, in a random model too: their norms differ by a part of the median, those that Darcet+
found by several times it. A skewed distribution has outliers as well: whether norms have two modes is asked by the dip
test, over the patches of all images. Beside outliers stand the other patches, the class token and the registers.
"""

import numpy as np
import pandas as pd

from stages.statistics.intervals import interval
from stages.statistics.outliers import dip, one_mode

MADS = 10.0
TIMES = 2.0  # convention of this project
COLUMNS = (
    "layer kind tokens norm ratio low high attention attention_low attention_high attention_null most images dip "
    "modes_p"
).split()


def outliers(norm_P: np.ndarray) -> np.ndarray:
    """Return which patches of an image have a norm that stands out."""
    middle = np.median(norm_P)
    spread = np.median(np.abs(norm_P - middle))
    return (norm_P > middle + MADS * spread) & (norm_P >= TIMES * middle)


def _sum(values: pd.Series) -> float:
    return values.sum(min_count=1)  # nan where there is no next layer


def table(raw: pd.DataFrame) -> pd.DataFrame:
    """Return images.csv: per layer and kind of token (class, register, outlier, patch), over the images that have it.

    raw: table NORMS. tokens: number per image, over all images; norm: mean norm after the block; ratio: mean norm over
    the median of the image's patches, with its interval over images; attention: what the next layer's heads give to all
    of them together, mean over heads; attention_null: what as many other patches would get; most: by the head
    that gives most to one of them, mean; images: those that have such tokens; dip, of the logarithms of all patches'
    norms over the median of their image, and modes_p, that one mode dips as far: the layer's, in each of its rows.
    """
    raw = raw.reset_index(drop=True)
    patch = raw[raw.kind == "patch"]
    out = patch.groupby(["prompt", "layer"]).norm.transform(lambda norm: outliers(norm.to_numpy(float)))
    kind = raw.kind.copy()
    kind[out.index[out.astype(bool)]] = "outlier"
    raw = raw.assign(kind=kind, count=1)
    middle = patch.groupby(["prompt", "layer"]).norm.median().rename("middle")
    logs = np.log(patch.norm / patch.groupby(["prompt", "layer"]).norm.transform("median"))
    modes = {
        layer: {"dip": dip(of.to_numpy()), "modes_p": one_mode(of.to_numpy())}
        for layer, of in logs.groupby(patch.layer)
    }
    ordinary = raw[raw.kind == "patch"].groupby(["prompt", "layer"]).attention.mean().rename("ordinary")
    means = {"norm": ("norm", "mean"), "attention": ("attention", _sum), "most": ("most", "max")}
    each = raw.groupby(["layer", "kind", "prompt", "cluster"], as_index=False).agg(count=("count", "sum"), **means)
    each = each.merge(middle, on=["prompt", "layer"]).merge(ordinary, on=["prompt", "layer"])
    each = each.assign(ratio=each.norm / each.middle, attention_null=each.ordinary * each["count"])
    images = raw.prompt.nunique()
    rows = []
    for (layer, name), part in each.groupby(["layer", "kind"]):
        low, high = interval(part.ratio, part.cluster)
        ends = (np.nan, np.nan) if part.attention.isna().all() else interval(part.attention, part.cluster, share=True)
        mean = part[["norm", "ratio", "attention", "attention_null", "most"]].mean().to_dict()
        same = {"layer": layer, "kind": name, "tokens": part["count"].sum() / images, "low": low, "high": high}
        more = {"attention_low": ends[0], "attention_high": ends[1], "images": len(part)}
        rows.append(same | mean | more | modes[layer])
    return pd.DataFrame(rows, columns=COLUMNS)


def metrics(rows: pd.DataFrame) -> dict:
    """Return `images.{outliers,outlier_norm,class,registers}`.

    outliers: the share of patches that stand out after the last block; outlier_norm: how many times the median their
    norm is there; class, registers: attention to them, mean over all layers but the first.
    """
    if rows.empty:
        return {}
    last = rows[rows.layer == rows.layer.max()].set_index("kind")
    out = float(last.tokens.get("outlier", 0.0))
    numbers = {"outliers": out / (out + float(last.tokens.get("patch", 0.0)))}
    if out > 0:
        numbers["outlier_norm"] = float(last.ratio["outlier"])
    for name, kind in (("class", "class"), ("registers", "register")):
        got = rows[rows.kind == kind].attention.mean()
        numbers |= {} if np.isnan(got) else {name: float(got)}
    return {name: round(value, 5) for name, value in numbers.items()}
