"""From raw next tokens to the table of plain text under function vectors.

share: of texts whose likeliest next token shows what the function says (for `capitalize`, begins with a capital). The
function's own vector is ranked among random ones of the same length, p = (1 + number of draws with at least its share)
/ (1 + D), and stands beside other functions' vectors. What the token is tells what the vector does: `seen`, a token of
the text that was read, or `kept`, the intact model's next one, case set aside.
"""

import numpy as np
import pandas as pd

from stages.statistics.effects import PROMPTS
from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import rank_p

COLUMNS = (
    "function vector source of share low high change change_low change_high seen seen_shown kept kept_shown trials "
    "clusters controls control_share control_largest p p_floor note"
).split()
SOURCES = ("", "own", "other", "random")


def table(raw: pd.DataFrame) -> pd.DataFrame:
    """Return continued.csv: per function, vector and source of what is written; raw: table CONTINUED.

    change: of the share against the intact model, paired; of random vectors all draws together. seen_shown,
    kept_shown: shares of all texts where the token is that one and shows what the function says.
    """
    rows = []
    for function, of_function in raw.groupby("function"):
        intact = of_function[of_function.vector == "none"].set_index("prompt")
        for (vector, source, of), cell in of_function.groupby(["vector", "source", "of"]):
            rows.append(_row(function, vector, source, of, cell, intact, of_function))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["source"] = pd.Categorical(frame.source, SOURCES)
    frame = frame.sort_values(["function", "vector", "source", "of"], kind="stable")
    return frame.astype({name: "Int64" for name in ("trials", "clusters", "controls")})


def metrics(continued: pd.DataFrame) -> dict:
    """Return vectors.text.<function>.{intact,share,other,random,p}, of mean outputs written in place."""
    tree: dict = {}
    for function, rows in continued.groupby("function"):
        heads = rows[rows.vector == "heads"].groupby("source", observed=True).share.mean()
        values = {"intact": rows[rows.vector == "none"].share.iloc[0], "share": heads.get("own")}
        values |= {name: heads.get(name) for name in ("other", "random")}
        values["p"] = rows[(rows.vector == "heads") & (rows.source == "own")].p.iloc[0]
        tree[function] = {name: round(float(value), 5) for name, value in values.items() if pd.notna(value)}
    return tree


def _row(
    function: str, vector: str, source: str, of: str, cell: pd.DataFrame, intact: pd.DataFrame, runs: pd.DataFrame
) -> dict:
    shown = cell.shown.astype(float)
    seen, kept = cell.seen.to_numpy(bool), _kept(cell, intact)
    texts = cell.assign(shown=shown, change=shown - intact.shown.astype(float).loc[cell.prompt].to_numpy())
    texts = texts.groupby("prompt").agg({"shown": "mean", "change": "mean", "cluster": "first"})
    row = {"function": function, "vector": vector, "source": source, "of": of, "share": texts.shown.mean()}
    row["low"], row["high"] = interval(texts.shown, texts.cluster, share=True)
    if source:
        row["change"] = texts.change.mean()
        row["change_low"], row["change_high"] = interval(texts.change, texts.cluster, change=True)
    row |= {"seen": seen.mean(), "seen_shown": (seen & cell.shown).mean(), "kept": kept.mean()}
    row |= {"kept_shown": (kept & cell.shown).mean(), "trials": len(texts), "clusters": texts.cluster.nunique()}
    notes = [f"{len(texts)} texts: fewer than {PROMPTS}"] if len(texts) < PROMPTS else []
    notes += [f"{row['clusters']} clusters: fewer than {FEWEST}, no interval"] if row["clusters"] < FEWEST else []
    if source == "own":
        random = runs[(runs.vector == vector) & (runs.source == "random")]
        share_D = random.groupby("draw").shown.mean()
        row |= {"controls": len(share_D), "control_share": share_D.mean() if len(share_D) else np.nan}
        row["control_largest"] = share_D.max() if len(share_D) else np.nan
        if len(texts) >= PROMPTS:
            row["p"], row["p_floor"] = rank_p(row["share"], share_D)
    return row | {"note": "; ".join(notes)}


def _kept(cell: pd.DataFrame, intact: pd.DataFrame) -> np.ndarray:
    """Return whether each token is the intact model's, but for case and white space around it."""
    before = intact.token.loc[cell.prompt]
    return cell.token.str.strip().str.casefold().to_numpy() == before.str.strip().str.casefold().to_numpy()
