"""Does the model answer like a nearest-neighbour classifier on its own states? Pure numpy and pandas.

The k demonstrations whose states are nearest to the query's vote. Layer and k are those of most agreement with the
model's answers on split a; everything else is said of split b. Where the vote and the majority of the demonstrations
agree, agreement says nothing; where they differ, exactly one of the two can be the answer. Where both labels are as
likely, the answer is half of each: it is right, and a rule's, by a half.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import rank_p

COLUMNS = "condition language measure value low high p p_floor trials clusters note".split()
TASK = "neighbours"
AGREEMENT = "nearest_agreement_against_majority"
CONTROLS = "controls_attention_difference"
PROMPTS = 20  # prompts that a claim rests on, at least
ENGLISH, JAPANESE = ("forms_latin", "forms_latin_disjoint"), ("forms_katakana", "forms_katakana_disjoint")
MADE_UP = {"english": ENGLISH, "japanese": JAPANESE}


def votes(similarity_Ln: np.ndarray, like_n: np.ndarray, k: int) -> np.ndarray:
    """Return (L,): whether most of the k nearest demonstrations are of the query's class; k odd."""
    order_Lk = np.argsort(-similarity_Ln, axis=1, kind="stable")[:, :k]
    return like_n[order_Lk].mean(axis=1) > 0.5


def agreeing(right_P: np.ndarray, votes_PLK: np.ndarray) -> np.ndarray:
    """Return (P, L, K): how far each answer is a vote's; right_P: 0, 1/2 (both labels as likely) or 1."""
    return 1 - np.abs(votes_PLK - right_P[:, None, None])


def choose(right_P: np.ndarray, votes_PLK: np.ndarray) -> tuple[int, int, float]:
    """Return places of layer and k of most agreement with the answers (ties: the first), and that agreement."""
    agreement_LK = agreeing(right_P, votes_PLK).mean(axis=0)
    layer, k = np.unravel_index(int(agreement_LK.argmax()), agreement_LK.shape)
    return int(layer), int(k), float(agreement_LK[layer, k])


def table(
    prompts: pd.DataFrame, attention: pd.DataFrame, silenced: pd.DataFrame, chosen: Mapping[str, float]
) -> pd.DataFrame:
    """Return neighbours.csv from rows of `tables.NEIGHBOURS`, `NEIGHBOURS_ATTENTION` and `EFFECTS`: split b alone.

    chosen: what split a chose, layer, nearest and agreement: the rows of condition 'chosen'.
    """
    prompts, attention = _doubles(prompts, "accuracy", "margin"), _doubles(attention)
    read = prompts[prompts.split == "b"]
    rows = []
    kinds: list[tuple[str, str, Sequence[str]]] = [
        (condition, of_condition.category.iloc[0], [condition])
        for condition, of_condition in read.groupby("condition", sort=False)
    ]
    kinds += [("made_up", language, inside) for language, inside in MADE_UP.items()]
    for condition, language, inside in kinds:
        rows += _of_condition(read[read.condition.isin(inside)], attention, condition, language)
    rows += _silenced(silenced, prompts.set_index("prompt"))
    rows += [{"condition": "chosen", "measure": name, "value": chosen[name]} for name in sorted(chosen)]
    return pd.DataFrame(rows, columns=COLUMNS)


def metrics(table: pd.DataFrame) -> dict[str, dict]:
    """Return `neighbours.<language>.{accuracy,knn_agreement,attention,attention_null}` of made-up words; {} for none.

    knn_agreement: share of answers that are the vote's, where vote and majority differ. attention: of the induction
    heads, to a like label minus an unlike one; attention_null: mean of the control sets.
    """
    names = {"accuracy": "accuracy", AGREEMENT: "knn_agreement"}
    names |= {"attention_difference": "attention", CONTROLS: "attention_null"}
    tree: dict[str, dict] = {}
    made_up = table[(table.condition == "made_up") & table.measure.isin(names)]
    for row in made_up[made_up.value.notna()].itertuples():
        tree.setdefault(row.language, {})[names[row.measure]] = round(float(row.value), 5)
    return {TASK: tree} if tree else {}


def _doubles(rows: pd.DataFrame, *also: str) -> pd.DataFrame:
    """Return rows with what is averaged in float64: means of float32 differ by how they are taken, and so do ties."""
    return rows.astype({name: float for name in ("attention_like", "attention_unlike", *also)})


def _agreement(right: pd.Series, rule: pd.Series) -> pd.Series:
    """Return how far answers, right by 0, 1/2 or 1, are the rule's, which is right or not."""
    return right.where(rule.astype(bool), 1 - right)


def _of_condition(read: pd.DataFrame, attention: pd.DataFrame, condition: str, language: str) -> list[dict]:
    if read.empty:
        return []
    same = {"condition": condition, "language": language}
    conflict, apart = read[~read.majority_right], read[read.shared_like == 0]
    differ = read[read.nearest_right != read.majority_right]
    alone = differ[differ.shared_like == 0]
    pairs = read.assign(base=read.prompt.str.partition("#")[0]).pivot(index="base", columns="role", values="accuracy")
    cluster_of = read.assign(base=read.prompt.str.partition("#")[0]).groupby("base").cluster.first()
    measured = [
        ("accuracy", read.accuracy, read.cluster),
        ("accuracy_against_majority", conflict.accuracy, conflict.cluster),
        ("accuracy_with_majority", read[read.majority_right].accuracy, read[read.majority_right].cluster),
        ("accuracy_no_shared_token", apart.accuracy, apart.cluster),
        ("answers_majority", _agreement(read.accuracy, read.majority_right), read.cluster),
        ("answers_last", _agreement(read.accuracy, read.last_right), read.cluster),
        ("answers_first_label", _agreement(read.accuracy, read.first_label_right), read.cluster),
        ("nearest_accuracy", read.nearest_right.astype(float), read.cluster),
        ("nearest_agreement", _agreement(read.accuracy, read.nearest_right), read.cluster),
        (AGREEMENT, _agreement(differ.accuracy, differ.nearest_right), differ.cluster),
        (f"{AGREEMENT}_no_shared_token", _agreement(alone.accuracy, alone.nearest_right), alone.cluster),
        ("shared_like", read.shared_like, read.cluster),
        ("shared_unlike", read.shared_unlike, read.cluster),
        ("attention_like", read.attention_like, read.cluster),
        ("attention_unlike", read.attention_unlike, read.cluster),
    ]
    if {"given", "swapped"} <= set(pairs):  # with the labels swapped, the other label: both right or both wrong
        both = pairs.dropna()
        swaps = both.given * both.swapped + (1 - both.given) * (1 - both.swapped)
        measured.append(("swaps_with_labels", swaps, cluster_of.reindex(both.index)))
    rows = [same | _row(measure, values, clusters, share=True) for measure, values, clusters in measured]
    rows += [same | row for row in _attention(read, attention)]
    rows.append(same | _row("margin", read.margin, read.cluster, share=False))
    return rows


def _attention(read: pd.DataFrame, attention: pd.DataFrame) -> list[dict]:
    """Return how much more attention like labels get than unlike ones, its rank among control sets, and theirs."""
    gap = read.attention_like - read.attention_unlike
    row = _row("attention_difference", gap, read.cluster, share=False)
    of_sets = attention[attention.prompt.isin(read.prompt)]
    gaps_D = (of_sets.attention_like - of_sets.attention_unlike).groupby(of_sets.draw).mean()
    if gaps_D.empty:
        return [row]
    if (
        not row.get("low", np.nan) > 0
    ):  # heads that attend to labels at all differ more, by chance, than those that do not
        row["note"] = "; ".join(filter(None, [row["note"], "no rank: not shown to be above 0"]))
    elif row["trials"] >= PROMPTS:
        row["p"], row["p_floor"] = rank_p(gap.mean(), gaps_D)
    sets = {"trials": len(gaps_D), "clusters": 0}
    mean = {"measure": CONTROLS, "value": gaps_D.mean(), "note": "mean of the control sets; trials: sets"}
    largest = {"measure": f"{CONTROLS}_largest", "value": gaps_D.max(), "note": "of the control sets; trials: sets"}
    return [row, mean | sets, largest | sets]


def _row(measure: str, values: pd.Series, clusters: pd.Series, share: bool) -> dict:
    there = values.notna()
    values, clusters = values[there].astype(float), clusters[there]
    row = {"measure": measure, "trials": len(values), "clusters": int(clusters.nunique()), "note": ""}
    if not len(values):
        return row | {"note": "no such prompt"}
    low, high = interval(values.to_numpy(), clusters.to_numpy(), share=share)
    notes = [f"{len(values)} prompts: fewer than {PROMPTS}"] if len(values) < PROMPTS else []
    notes += [f"fewer than {FEWEST} clusters, no interval"] if clusters.nunique() < FEWEST else []
    return row | {"value": values.mean(), "low": low, "high": high, "note": "; ".join(notes)}


def _silenced(rows: pd.DataFrame, read: pd.DataFrame) -> list[dict]:
    """Return, per measure, the change under the family's set, its rank among control sets, and the controls' mean.

    And how often the answer is the majority's: a model that goes by the majority, or against it, is right by half; and
    the nearest's, where these and the majority differ. read: rows of `tables.NEIGHBOURS` by prompt.
    """
    if rows.empty:
        return []
    result = []
    rows = rows.astype({"value": float, "intact": float})
    rows = rows.assign(change=rows.value - rows.intact)
    right = rows[rows.measure == "accuracy"]
    said = read.reindex(right.prompt)[["majority_right", "nearest_right"]].astype(bool).to_numpy()
    right = right.assign(majority=said[:, 0], nearest=said[:, 1])
    differ = right[right.majority != right.nearest]
    for measure, judged, answer in (("answers_majority", right, "majority"), (AGREEMENT, differ, "nearest")):
        for name, purpose in (("intact", "none"), ("without", "family"), ("controls", "control")):
            of_purpose = judged[judged.purpose == purpose]
            same = _agreement(of_purpose.value, of_purpose[answer])
            row = _row(f"{name}_{measure}", same, of_purpose.cluster, share=True)
            if purpose == "control":  # the same prompts again and again: no interval
                row |= {"low": np.nan, "high": np.nan, "trials": of_purpose.draw.nunique()}
            result.append({"condition": "silenced", "language": "both"} | row)
    for measure in ("accuracy", "margin"):
        read = rows[rows.measure == measure]
        of_set, controls = read[read.purpose == "family"], read[read.purpose == "control"]
        intact = read[read.purpose == "none"]
        share = measure == "accuracy"
        same = {"condition": "silenced", "language": "both"}
        result.append(same | _row(f"intact_{measure}", intact.value, intact.cluster, share))
        left = _row(f"without_{measure}", of_set.value, of_set.cluster, share)
        kinds = ", ".join(sorted(set(of_set.condition)))  # on which kinds of items; what else there is to note follows
        result.append(same | left | {"note": "; ".join(filter(None, [kinds, left["note"]]))})
        low, high = interval(of_set.change, of_set.cluster, change=share)
        changes_D = controls.groupby("draw").change.mean()
        row = same | _row(f"change_{measure}", of_set.change, of_set.cluster, False) | {"low": low, "high": high}
        start, _ = interval(intact.value, intact.cluster, share=share)
        able = start > 0.5 if share else start > 0
        if len(changes_D) and able and len(of_set) >= PROMPTS:
            row["p"], row["p_floor"] = rank_p(-of_set.change.mean(), -changes_D)
        elif len(changes_D) and not able:
            row["note"] = f"not measurable: the intact {measure} is not shown to be above chance"
        result.append(row)
        number = {"measure": f"controls_{measure}", "value": changes_D.mean(), "trials": len(changes_D)}
        result.append(same | {"clusters": 0, "note": "mean change of the control sets; trials: sets"} | number)
    return result
