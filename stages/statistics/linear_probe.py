"""What can be read off a vector by a linear map: probes by scikit-learn, with what stands for nothing beside them.

A probe is fitted on one half of the vectors (split a) and scored on the other. Vectors have unit norm, so that their
length alone says nothing. Beside a class stand the share of split b that has the commonest class of split a, and the
same probe on shuffled labels: the mean over `SHUFFLES` shufflings, since a single one is a bad null. Beside numbers
stand 0, the R2 of their mean, and likewise shuffled rows.

Legend: N vector, D width, P number to be read.
"""

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from stages.statistics.intervals import wilson

SHUFFLES = 20
INVERSE_PENALTY = 100.0  # of the logistic regression: numbers of a unit vector are small


class Probed(NamedTuple):
    """A probe's score on split b with its 95 % interval (Wilson; none of R2), what stands for nothing, and the trials.

    majority: the score of the commonest answer of split a; shuffled: the mean score on shuffled labels.
    """

    value: float
    low: float
    high: float
    majority: float
    shuffled: float
    trials: int


def unit(states_ND: np.ndarray) -> np.ndarray:
    """Return vectors of length 1; a vector of zeros stays one."""
    norms_N1 = np.linalg.norm(states_ND, axis=1, keepdims=True)
    return states_ND / np.where(norms_N1 == 0, 1.0, norms_N1)


def classified(states_ND: np.ndarray, class_N: np.ndarray, split_a_N: np.ndarray, rng: np.random.Generator) -> Probed:
    """Return the accuracy of a logistic regression that tells the class of unseen vectors."""
    fit_ND, told_ND = _centred(states_ND, split_a_N)
    fit_N, told_N = class_N[split_a_N], class_N[~split_a_N]

    def accuracy(labels_N: np.ndarray) -> float:
        if len(np.unique(labels_N)) == 1:
            return float((told_N == labels_N[0]).mean())
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=300, tol=1e-3).fit(fit_ND, labels_N)
        return float((model.predict(told_ND) == told_N).mean())

    values, counts = np.unique(fit_N, return_counts=True)
    majority = float((told_N == values[counts.argmax()]).mean())
    shuffled = np.mean([accuracy(rng.permutation(fit_N)) for _ in range(SHUFFLES)])
    value = accuracy(fit_N)
    return Probed(value, *wilson(value, len(told_N), 1.96), majority, float(shuffled), len(told_N))


def predicted(states_ND: np.ndarray, values_NP: np.ndarray, split_a_N: np.ndarray, rng: np.random.Generator) -> Probed:
    """Return the R2 of a ridge regression on unseen vectors, over all numbers together."""
    fit_ND, told_ND = _centred(states_ND, split_a_N)
    fit_NP, told_NP = values_NP[split_a_N], values_NP[~split_a_N]
    total = float(((told_NP - fit_NP.mean(0)) ** 2).sum())

    def explained(rows_NP: np.ndarray) -> float:
        guess_NP = Ridge(alpha=1 / INVERSE_PENALTY).fit(fit_ND, rows_NP).predict(told_ND)
        return 1 - float(((told_NP - guess_NP) ** 2).sum()) / total

    shuffled = np.mean([explained(rng.permutation(fit_NP)) for _ in range(SHUFFLES)])
    return Probed(explained(fit_NP), np.nan, np.nan, 0.0, float(shuffled), len(told_NP))


def _centred(states_ND: np.ndarray, split_a_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    states_ND = unit(states_ND.astype(np.float64))
    states_ND = states_ND - states_ND[split_a_N].mean(0)
    return states_ND[split_a_N], states_ND[~split_a_N]
