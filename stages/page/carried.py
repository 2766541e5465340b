"""What carries over to words never seen, in sentences computed from extrapolation.csv."""

import pandas as pd

from stages.page.sentences import beyond, interval, listed, number

ALL, MATCHED, DIFFERENCE = "all", "matched", "made_up-rare"
CLASSES = ("usual", "rare", "made_up")
UNSOLVED = "not solved"  # how the note of a function's rows begins
FEWEST = 20  # words of a class that a sentence may rest on
HALF = 0.5  # most words are right above it, most wrong below


def value(row: pd.Series, sign: bool = False) -> str:
    """Write an accuracy, or a difference, with its interval."""
    return f"{number(row['accuracy'], 2, sign)} {interval(row['low'], row['high'], 2, sign)}".strip()


def cells(shown: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """Return rows by (function, class)."""
    return {(row["function"], row["class"]): row for _, row in shown.iterrows()}


def counting(counted: pd.DataFrame) -> str:
    """Say what n-grams get, the control; '' where none were counted."""
    if counted.empty:
        return ""
    best = counted.loc[counted["accuracy"].idxmax()]
    if number(best["accuracy"]) == number(0.0):
        return "Ticks: n-grams of the text and of the prompt so far get none right, in any class."
    return (
        f"Ticks: n-grams of the text and of the prompt so far, {number(best['accuracy'])} at most "
        f"({best['function']}, {best['class'].replace('_', '-')})."
    )


def unsolved(shown: pd.DataFrame) -> str:
    """Name the functions that the model does not do on usual words."""
    names = dict.fromkeys(shown[shown["note"].str.startswith(UNSOLVED)]["function"])
    return f"Not solved on usual words, so that nothing follows for others: {listed(names)}." if names else ""


def ordered(solved: pd.DataFrame) -> str:
    """Say in how many functions the three classes stand in order, and where usual and made-up words lie apart."""
    at = cells(solved)
    names = [name for name in dict.fromkeys(solved["function"]) if all((name, kind) in at for kind in CLASSES)]
    if not names:
        return ""
    disordered, apart = [], []
    for name in names:
        usual, rare, made_up = (at[name, kind] for kind in CLASSES)
        if not usual["accuracy"] >= rare["accuracy"] >= made_up["accuracy"]:
            disordered.append(name)
        if beyond(made_up["low"], made_up["high"], usual["low"]) < 0:
            apart.append(name)
    exceptions = f" (not in {listed(disordered)})" if disordered else ""
    return (
        f"Usual words do at least as well as rare ones, and these as made-up ones, in {len(names) - len(disordered)} "
        f"of {len(names)} solved functions in which all three have right answers{exceptions}; made-up words lie below "
        f"usual ones, interval below interval, in {len(apart)}{f': {listed(apart)}' if apart else ''}."
    )


def carried(solved: pd.DataFrame, without: list[str]) -> str:
    """Say in which functions most made-up words are right, in which most are wrong, and which are neither.

    without: functions in which no rare word has as many tokens as a made-up one.
    """
    sides: dict[int, list[str]] = {1: [], -1: [], 0: []}
    at = cells(solved)
    for _, row in solved[solved["class"] == "made_up"].iterrows():
        side = beyond(row["low"], row["high"], HALF) if row["trials"] >= FEWEST else 0
        doubts = _doubts(at, row["function"], row["function"] in without) if side < 0 else ""
        sides[side].append(f"{row['function']} {value(row)}{doubts}")
    texts = {
        1: "Carried over to most made-up words: {}.",
        -1: "Solved on usual words, yet wrong on most made-up ones: {}.",
        0: "Neither most made-up words right nor most wrong, as far as these words tell: {}.",
    }
    return " ".join(texts[side].format(listed(names)) for side, names in sides.items() if names)


def _doubts(at: dict[tuple[str, str], pd.Series], function: str, longer: bool) -> str:
    """Say, in brackets, what else than never having been seen may be why made-up words are wrong; '' for nothing."""
    usual, rare = (at.get((function, kind)) for kind in ("usual", "rare"))
    said = []
    if usual is not None and beyond(usual["low"], usual["high"], HALF) <= 0:
        said.append(f"usual words {value(usual)}, perhaps not most of them")
    if rare is not None and beyond(rare["low"], rare["high"], HALF) < 0:
        said.append(f"rare real words are mostly wrong as well, {number(rare['accuracy'])}")
    if longer:
        said.append("of more tokens than any rare word")
    return f" ({'; '.join(said)})" if said else ""


def knowledge(shown: pd.DataFrame) -> str:
    """Say what cannot carry over, how often a made-up word is echoed there, and what is known of rare real words."""
    at = cells(shown)
    echoed = [row for _, row in shown[shown["class"] == "copied"].iterrows()]
    if not echoed:
        return ""
    rare = [
        f"{row['function']} {value(at[row['function'], 'rare'])}" for row in echoed if (row["function"], "rare") in at
    ]
    said = listed(f"{row['function']} {number(row['accuracy'])}" for row in echoed)
    return f"Knowledge has nothing to carry over: a made-up word has no right answer there (share echoed: {said})." + (
        f" Rare real words: {listed(rare)}." if rare else ""
    )


def endings(solved: pd.DataFrame) -> str:
    """Say what regular and irregular endings of usual words get."""
    at = cells(solved)
    pairs = [
        f"{name} {value(at[name, 'usual'])} against {value(row)}{_apart(at[name, 'usual'], row)}"
        for (name, kind), row in at.items()
        if kind == "irregular" and (name, "usual") in at
    ]
    return (
        f"Usual words with a regular ending against those with an irregular one: {'; '.join(pairs)}." if pairs else ""
    )


def _apart(regular: pd.Series, irregular: pd.Series) -> str:
    if pd.isna([regular["low"], irregular["low"]]).any():
        return " (too few words for an interval: not told apart)"
    if beyond(regular["low"], regular["high"], irregular["high"]) > 0:
        return ""
    worse = beyond(regular["low"], regular["high"], irregular["low"]) < 0
    return " (worse)" if worse else " (not told apart: the intervals overlap)"


def at_equal_tokens(rows: pd.DataFrame, without: list[str]) -> str:
    """Say where made-up words do worse than rare ones of as many tokens.

    rows: matched ones; without: functions in which no rare word has as many tokens as a made-up one.
    """
    sides: dict[int, list[str]] = {-1: [], 0: [], 1: []}
    together, few = [], []
    for _, row in rows[rows["class"] == DIFFERENCE].iterrows():
        enough = row["trials"] >= FEWEST and not pd.isna(row["low"])
        if row["function"] == ALL:
            together += [f"{row['kind']} ({row['note']}) {value(row, True)}"] if enough else []
        elif not enough:
            few.append(f"{row['function']} {value(row, True)}")
        elif not row["note"].startswith(UNSOLVED):
            sides[beyond(row["low"], row["high"])].append(f"{row['function']} {value(row, True)}")
    texts = {-1: "lower in {}", 0: "not told apart in {}", 1: "higher in {}"}
    verdicts = "; ".join(texts[side].format(listed(names)) for side, names in sides.items() if names)
    said = [f"Accuracy on made-up words minus that on as long rare ones: {verdicts}." if verdicts else ""]
    said += [f"Solved functions of a kind together: {'; '.join(together)}." if together else ""]
    said += [f"Fewer than {FEWEST} words of a class are left, no verdict: {listed(few)}." if few else ""]
    said += [f"No rare word has as many tokens as a made-up one: {listed(without)}." if without else ""]
    return " ".join(filter(None, said))


def steered(told: pd.DataFrame, contexts: dict[str, str]) -> str:
    """Say what vectors do to each class, in the mean over the functions that have all three.

    told: rows of contexts without demonstrations; contexts: what each is called.
    """
    wide = told[told["class"].isin(CLASSES)].pivot(index="function", columns=["context", "class"], values="accuracy")
    said = []
    for name in contexts:
        if all((name, kind) in wide for kind in CLASSES):
            whole = wide[[(name, kind) for kind in CLASSES]].dropna()
            usual, rare, made_up = (number(mean) for mean in whole.mean())
            if len(whole):
                said.append(f"{contexts[name]}: usual {usual}, rare {rare}, made-up {made_up}")
                counted = told[told["function"].isin(whole.index) & told["class"].isin(CLASSES)]
                over = f"{len(whole)} functions ({int(counted['trials'].min())} words of a class at least)"
    if not said:
        return ""
    said = f"Without demonstrations, mean accuracy over {over}, {'; '.join(said)}."
    return said if "control" in wide else f"{said} No sets of other heads were written here."
