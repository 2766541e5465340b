"""Long text over training: how well it is predicted, and how much better its end than its beginning (Olsson+ 2022)."""

import numpy as np

from stages.families.family import Outcomes, Tokens, quarters

STRIDE = 4  # text is scored at every so many tokens: the LM head is most of the cost


def scored(tokens: Tokens) -> np.ndarray:
    """Score every `STRIDE`th ordinary token of a long passage."""
    return tokens.target if tokens.role == "short" else np.flatnonzero(~tokens.special)[1:][::STRIDE]


def measures(logprob: np.ndarray, top: np.ndarray) -> dict[str, float]:
    """Return the mean loss and that of the last quarter minus that of the first, nats per token."""
    losses = quarters(logprob)
    return {"loss": -logprob.mean(), "in_context": losses[1] - losses[0]} if losses else {}


OUTCOMES = Outcomes(("loss", "in_context"), measures, falls=("loss", "in_context"), scored=scored)
