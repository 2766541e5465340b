"""What can be read from ONE token's state by a linear map, with what stands for nothing beside it.

One way for all: sinks of a model (stages/sinks.py) and tokens of models trained here (stages/training/states.py).

States have unit norm, so that their length says nothing, and are centred by the prompts that a probe is fitted on. A
probe is a ridge regression (scikit-learn), fitted on some blocks of text and scored on the others, every block once;
its penalty is chosen by leaving out one token of the blocks that it is fitted on. Numbers: R2 over all of them
together, against their mean on the fitted blocks. Classes: accuracy, the class with the highest score.

Chance: the mean over `shuffles` probes of shuffled targets, and for classes the share of unseen tokens that have the
commonest class of the fitted ones (`majority`): what a state gets that is the same in every prompt, exactly.

Legend: N token, D residual width, P number to be read, C class.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge, RidgeCV
from threadpoolctl import threadpool_limits

from stages.statistics.intervals import interval

FOLDS = 5
PENALTIES = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)  # of states whose squared distances from their mean are 1 on average
SAME = 1e-5  # states of unit norm that are not farther from their mean are one state, up to the order of sums
FEWEST = 20  # tokens that a claim rests on


@dataclass(frozen=True)
class Probed:
    """A probe's score over unseen tokens, its interval over blocks, chance, and why there is none.

    guess: what drawing a class at random gets; where classes are equally many, a constant gets less, for the commonest
    of the fitted ones is then the rarest of the others.
    """

    value: float
    low: float
    high: float
    majority: float
    shuffled: float
    guess: float = 0.0
    note: str = ""


def unit(states_ND: np.ndarray) -> np.ndarray:
    """Return states of length 1; one of zeros stays one."""
    norms_N1 = np.linalg.norm(states_ND, axis=1, keepdims=True)
    return states_ND / np.where(norms_N1 == 0, 1.0, norms_N1)


def spread(states_ND: np.ndarray) -> float:
    """Return how far unit states are from their mean, root mean square: 0 where all are one."""
    states_ND = unit(states_ND.astype(np.float64))
    return float(np.sqrt(((states_ND - states_ND.mean(0)) ** 2).sum(1).mean()))


def folds(blocks_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the fold of every token, (N,): whole blocks, dealt out at random."""
    names, block_N = np.unique(blocks_N, return_inverse=True)
    return (rng.permutation(len(names)) % FOLDS)[block_N]


def probe(
    states_ND: np.ndarray,
    targets: Mapping[str, np.ndarray],
    blocks_N: np.ndarray,
    rng: np.random.Generator,
    shuffles: int,
) -> dict[str, Probed]:
    """Probe states for every target: numbers (N, P) of floats, or classes (N,) of integers.

    blocks: name of the block of text that each token is from.
    """
    fold_N, states_ND = folds(blocks_N, rng), unit(states_ND.astype(np.float64))
    constant = spread(states_ND) <= SAME
    results, asked = {}, {}
    for name, target in targets.items():
        if target.dtype.kind == "f" and np.ptp(target, axis=0).max() < 1e-9:
            results[name] = _none("the same in every prompt: nothing to tell")
        elif target.dtype.kind != "f" and len(np.unique(target)) < 2:
            results[name] = _none("there is one class only")
        elif target.dtype.kind != "f" and len(np.unique(blocks_N)) == len(set(zip(blocks_N, target, strict=True))) == (
            len(np.unique(target))
        ):
            results[name] = _none("every class is one block of text: none is left to be told")
        else:
            asked[name] = target
    wanted = {name: _numbers(target) for name, target in asked.items()}
    guesses = {name: np.zeros((1 + shuffles, *numbers.shape)) for name, numbers in wanted.items()}
    means = {name: np.zeros_like(numbers) for name, numbers in wanted.items()}
    for fold in np.unique(fold_N):
        fit_N, told_N = fold_N != fold, fold_N == fold
        own = np.arange(fit_N.sum())  # only what a probe is fitted on is shuffled: unseen targets stay unseen
        orders = np.array([own, *(rng.permutation(own) for _ in range(shuffles))])
        fit = {name: numbers_NP[fit_N][orders] for name, numbers_NP in wanted.items()}
        average = {name: fit_ONP[0].mean(0) for name, fit_ONP in fit.items()}
        centred = {name: fit_ONP - average[name] for name, fit_ONP in fit.items()}
        with threadpool_limits(1):  # of so small matrices, threads that wait for each other cost more than they do
            read = _read(states_ND, centred, fit_N, told_N) if asked and not constant else {}
        for name, average_P in average.items():
            means[name][told_N] = average_P
            guesses[name][:, told_N] = average_P + read.get(name, 0.0)
    for name, target in asked.items():
        scored = _share if target.dtype.kind != "f" else _explained
        results[name] = scored(guesses[name], means[name], target, wanted[name], blocks_N)
    return {name: results[name] for name in targets}


def _read(
    states_ND: np.ndarray, targets: Mapping[str, np.ndarray], fit_N: np.ndarray, told_N: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what probes read from unseen states (O, told N, P), by target.

    targets: in every order (O, fitted N, P), centred. Each order of each target has the penalty that suits it.
    """
    centre_D = states_ND[fit_N].mean(0)
    fit_ND, told_ND = states_ND[fit_N] - centre_D, states_ND[told_N] - centre_D
    size = np.sqrt((fit_ND**2).sum(1).mean())
    fit_ND, told_ND = fit_ND / size, told_ND / size
    fit_NM = np.concatenate([of.transpose(1, 0, 2).reshape(len(fit_ND), -1) for of in targets.values()], axis=1)
    # with an intercept of their own: of numbers centred before, each is minus the sum of the others, never left out
    left_out = RidgeCV(PENALTIES, store_cv_results=True).fit(fit_ND, fit_NM).cv_results_
    errors_MA = left_out.mean(0)
    best, start = [], 0
    for orders, _, numbers in (of.shape for of in targets.values()):
        end = start + orders * numbers
        best.append(errors_MA[start:end].reshape(orders, numbers, -1).sum(1).argmin(1).repeat(numbers))
        start = end
    best_M, read_NM = np.concatenate(best), np.zeros((len(told_ND), fit_NM.shape[1]))
    for index in np.unique(best_M):
        model = Ridge(PENALTIES[index]).fit(fit_ND, fit_NM[:, best_M == index])
        read_NM[:, best_M == index] = model.predict(told_ND).reshape(len(told_ND), -1)
    ends = np.cumsum([of.shape[0] * of.shape[2] for of in targets.values()])[:-1]
    parts = zip(targets.items(), np.split(read_NM, ends, axis=1), strict=True)
    return {name: part.reshape(-1, of.shape[0], of.shape[2]).transpose(1, 0, 2) for (name, of), part in parts}


def _numbers(target: np.ndarray) -> np.ndarray:
    """Return numbers as they are, (N, P), and classes as one number each, 1 where it is the class, (N, C)."""
    if target.dtype.kind == "f":
        return target.reshape(len(target), -1).astype(np.float64)
    return (target[:, None] == np.unique(target)).astype(np.float64)


def _explained(
    guesses_ONP: np.ndarray, means_NP: np.ndarray, target: np.ndarray, wanted_NP: np.ndarray, blocks_N: np.ndarray
) -> Probed:
    total_N = ((wanted_NP - means_NP) ** 2).sum(1)
    missed_ON = ((guesses_ONP - wanted_NP) ** 2).sum(2)  # a shuffled probe is scored on the right targets as well
    values_O = 1 - missed_ON.sum(1) / total_N.sum()
    ratio_N = missed_ON[0] / np.where(total_N == 0, 1.0, total_N)
    low, high = interval(ratio_N, blocks_N, total_N)
    shuffled = float(values_O[1:].mean()) if len(values_O) > 1 else np.nan
    return Probed(float(values_O[0]), 1 - high, 1 - low, 0.0, shuffled)


def _share(
    guesses_ONC: np.ndarray, means_NC: np.ndarray, target: np.ndarray, wanted_NC: np.ndarray, blocks_N: np.ndarray
) -> Probed:
    class_N = wanted_NC.argmax(1)
    right_ON = guesses_ONC.argmax(2) == class_N
    low, high = interval(right_ON[0].astype(float), blocks_N, share=True)
    majority = float((means_NC.argmax(1) == class_N).mean())
    shuffled = float(right_ON[1:].mean()) if len(right_ON) > 1 else np.nan
    return Probed(float(right_ON[0].mean()), low, high, majority, shuffled, 1 / wanted_NC.shape[1])


def _none(why: str) -> Probed:
    return Probed(np.nan, np.nan, np.nan, np.nan, np.nan, note=why)
