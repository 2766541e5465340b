"""What was tried on split a before a layer, a strength and a number of heads were chosen, from raw steering outcomes.

These are the prompts that the choice was made on: the best of many values is there by luck as well, and no claim rests
on them (`steering` reports the chosen settings on split b).
"""

import pandas as pd

from stages.statistics.effects import ALL

COLUMNS = "function vector layer strength heads accuracy logprob trials chosen".split()


def table(raw: pd.DataFrame) -> pd.DataFrame:
    """Return sweep.csv: accuracy and log-probability per function (and all together) of every setting tried.

    raw: table STEERING. chosen: 1 where the setting was chosen for the function; of all together how many functions it
    was chosen for. layer is -1 where nothing is added after one block.
    """
    tried = raw[~raw.chosen.astype(bool)].astype({"correct": float})
    best = raw[raw.chosen.astype(bool) & raw.vector.isin(tried.vector.unique())]
    keys = ["function", "vector", "layer", "strength", "heads"]
    chosen = best[keys].drop_duplicates().assign(chosen=1)
    means = tried.groupby(keys).agg(
        accuracy=("correct", "mean"), logprob=("logprob", "mean"), trials=("correct", "size")
    )
    each = means.reset_index().merge(chosen, "left", on=keys).fillna({"chosen": 0})
    together = each.assign(number=each.heads.where(each.vector == "heads", -1)).groupby([*keys[1:4], "number"])
    measures = {"accuracy": ("accuracy", "mean"), "logprob": ("logprob", "mean"), "trials": ("trials", "sum")}
    counts = {"chosen": ("chosen", "sum"), "heads": ("heads", "max"), "least": ("heads", "min")}
    together = together.agg(**measures, **counts).reset_index()
    together["heads"] = together.heads.where(together.heads == together.least).astype("Int64")  # functions differ
    frame = pd.concat([together.assign(function=ALL), each.astype({"heads": "Int64"})], ignore_index=True)
    return frame[COLUMNS].astype({"chosen": int, "trials": int})
