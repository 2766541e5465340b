"""Random repeats over training: how well the last copy is predicted, and how much better than the first one."""

import numpy as np

from stages.families.family import Outcomes, Tokens, quarters


def scored(tokens: Tokens) -> np.ndarray:
    """Score every ordinary token but the first."""
    return np.flatnonzero(~tokens.special)[1:]


def measures(logprob: np.ndarray, top: np.ndarray) -> dict[str, float]:
    """Return the loss of the last quarter, and the same minus that of the first, nats per token."""
    losses = quarters(logprob)
    return {"repeats_loss": losses[1], "repeats_in_context": losses[1] - losses[0]} if losses else {}


NAMES = ("repeats_loss", "repeats_in_context")
OUTCOMES = Outcomes(NAMES, measures, falls=NAMES, scored=scored)
