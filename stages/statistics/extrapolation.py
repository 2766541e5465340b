"""Procedure against knowledge: accuracy on usual, rare and made-up words, and made-up against rare at equal tokens.

Words of more tokens are harder to write whatever they are, and made-up words have more of them. So made-up words are
compared with rare real ones within strata of equal tokens of word and of answer. A stratum of n rare and m made-up
words weighs n m / (n + m): the weights of least variance, none where one class is missing (overlap weights, Li, Morgan
& Zaslavsky 2018, J. Am. Stat. Assoc. 113). Both classes are averaged with them; their difference has the interval of
Newcombe (1998, Stat. Med. 17, method 10) from both weighted Wilson intervals. Functions of one kind are put together
with strata inside functions; a word that several functions are asked about is one cluster.

Rules make words that are in no list of real ones; a tokenizer may know one all the same (krom, vork: names and parts
of words in its texts). What is one token of the model's own is not made up to it and is left out, and counted.
"""

import numpy as np
import pandas as pd

from stages.statistics.effects import PROMPTS
from stages.statistics.intervals import FEWEST, interval
from stages.tasks.extrapolation.functions import FUNCTIONS
from stages.tasks.extrapolation.task import CLASSES, COPIED, MADE_UP, RARE, TASK, UNSEEN, USUAL, known

COLUMNS = "function kind class tokens context accuracy low high trials clusters note".split()
DEMONSTRATIONS = "demonstrations"  # the intact model after demonstrations; other contexts: vectors, n-gram baselines
CONTEXTS = (DEMONSTRATIONS, "none", "heads", "control", "function", "random", "ngram_prompt", "ngram")
ALL, MATCHED = "all", "matched"
DIFFERENCE = f"{MADE_UP}-{RARE}"
NO_ANSWER = "no right answer exists: the share that is echoed"
UNSOLVED = "not solved on usual words"
KNOWN = "{} that are one token of the model's left out"


def table(answers: pd.DataFrame, steering: pd.DataFrame, counted: pd.DataFrame, solved_above: float) -> pd.DataFrame:
    """Return extrapolation.csv.

    answers: table ANSWERS; steering: table STEERING, of which rows whose context is a class count; counted: table
    NGRAM; solved_above: accuracy on usual words from which on a function counts as solved.
    """
    if answers.empty:
        return pd.DataFrame(columns=COLUMNS)
    owned = answers[[known(*word) for word in zip(answers.category, answers.word_tokens, strict=True)]]
    steering = steering[~(steering.context.isin(UNSEEN) & steering.cluster.isin(owned.cluster))]
    counted = counted[~(counted.category.isin(UNSEEN) & counted.cluster.isin(owned.cluster))]
    asked = answers.assign(correct=answers.ended.astype(float), word=_words(answers.cluster)).drop(owned.index)
    usual = asked[asked.category == USUAL].groupby("function").correct.mean()
    solved = set(usual[usual >= solved_above].index)
    rows = []
    for function in [name for name in FUNCTIONS if name in set(asked.function)]:
        of_function = asked[asked.function == function]
        left_out = int((owned.function == function).sum())
        same = {"function": function, "kind": FUNCTIONS[function].kind}
        unsolved = "" if function in solved else UNSOLVED
        for name, read in _by_class(of_function, "category"):
            rows.append(same | _row(name, ALL, DEMONSTRATIONS, read, unsolved))
            if left_out and name in UNSEEN:
                rows[-1]["note"] = "; ".join(filter(None, [rows[-1]["note"], KNOWN.format(left_out)]))
            for tokens, part in read.groupby("word_tokens"):
                rows.append(same | _row(name, str(tokens), DEMONSTRATIONS, part, unsolved))
        rows += [same | row for row in matched(of_function, unsolved)]
        rows += [same | row for row in _elsewhere(function, steering, counted, unsolved)]
    for kind in dict.fromkeys(function.kind for function in FUNCTIONS.values()):
        inside = asked[asked.function.map(lambda name, kind=kind: FUNCTIONS[name].kind == kind and name in solved)]
        note = ", ".join(name for name in FUNCTIONS if name in set(inside.function))
        rows += [{"function": ALL, "kind": kind} | row for row in matched(inside, note)]
    return pd.DataFrame(rows, columns=COLUMNS)


def matched(asked: pd.DataFrame, note: str = "") -> list[dict]:
    """Return three rows: rare and made-up words at equal tokens, and their difference; none where no strata are shared.

    asked: rows of ANSWERS with `correct` and `word`, of one function or of several.
    """
    both = asked[asked.category.isin([RARE, MADE_UP])]
    strata = both.groupby(["function", "word_tokens", "answer_tokens", "category"]).size().unstack(fill_value=0)
    if not {RARE, MADE_UP} <= set(strata.columns):
        return []
    weight = strata[RARE] * strata[MADE_UP] / (strata[RARE] + strata[MADE_UP])
    if not weight.any():
        return []
    each = (weight / strata[name].where(strata[name] > 0) for name in (RARE, MADE_UP))  # of one word of a class
    per_word = pd.concat(dict(zip((RARE, MADE_UP), each, strict=True)), names=["category"]).fillna(0.0)
    keys = pd.MultiIndex.from_frame(both[["category", "function", "word_tokens", "answer_tokens"]])
    both = both.assign(weight=per_word.reindex(keys).to_numpy())
    rows = []
    for name, read in _by_class(both[both.weight > 0], "category"):
        rows.append(_row(name, MATCHED, DEMONSTRATIONS, read, note))
    rare, made_up = rows
    change = made_up["accuracy"] - rare["accuracy"]
    down = np.hypot(made_up["accuracy"] - made_up["low"], rare["high"] - rare["accuracy"])
    up = np.hypot(made_up["high"] - made_up["accuracy"], rare["accuracy"] - rare["low"])
    fewer = min(rows, key=lambda row: row["trials"])
    difference = {"class": DIFFERENCE, "accuracy": change, "low": change - down, "high": change + up}
    return [*rows, fewer | difference]


def _elsewhere(function: str, steering: pd.DataFrame, counted: pd.DataFrame, note: str) -> list[dict]:
    """Return rows of one function under its vectors, without demonstrations, and of the n-gram baselines."""
    told = steering[(steering.function == function) & steering.context.isin(CLASSES)]
    told = told.assign(correct=told.correct.astype(float), category=told.context, context=told.vector)
    of_prompt = ["context", "category", "prompt", "cluster"]
    told = told.groupby(of_prompt, as_index=False, sort=False).correct.mean()  # over control sets and random vectors
    other = counted[(counted.task == TASK.name) & (counted.condition == function) & (counted.measure == TASK.main)]
    other = other.assign(correct=other.value.astype(float), context=other.baseline)
    rows = []
    for context in CONTEXTS[1:]:
        for part in (told, other):
            read = part[part.context == context]
            read = read.assign(word=_words(read.cluster))
            rows += [_row(name, ALL, context, of_class, note) for name, of_class in _by_class(read, "category")]
    return rows


def _by_class(read: pd.DataFrame, column: str):
    return [(name, read[read[column] == name]) for name in CLASSES if (read[column] == name).any()]


def _words(clusters: pd.Series) -> pd.Series:
    return clusters.astype(str).str.split("/", n=1).str[-1].str.lower()


def _row(name: str, tokens: str, context: str, read: pd.DataFrame, note: str) -> dict:
    weights = read.weight if "weight" in read else pd.Series(1.0, read.index)
    low, high = interval(read.correct, read.word, weights, share=True)
    row = {"class": name, "tokens": tokens, "context": context, "low": low, "high": high}
    row |= {"accuracy": np.average(read.correct, weights=weights), "trials": len(read), "clusters": read.word.nunique()}
    notes = [note, NO_ANSWER if name == COPIED else ""]
    notes += [f"{len(read)} words: fewer than {PROMPTS}"] if len(read) < PROMPTS else []
    notes += [f"{row['clusters']} clusters: fewer than {FEWEST}, no interval"] if row["clusters"] < FEWEST else []
    return row | {"note": "; ".join(filter(None, notes))}
