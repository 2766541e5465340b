"""Needles over training: how much of the answer is found again, on all needles, so that checkpoints are comparable."""

from stages.families.family import Outcomes

OUTCOMES = Outcomes(("recall",), lambda logprob, top: {"recall": top.mean()})
