"""What the states of a recipe's tokens hold and whether they are used, from a checkpoint of a lesson about states.

A state is what a block reads: layer l's states are those before block l, the last ones those after the last block. At a
checkpoint, `measured` gives the outcomes on held-out sequences and every head's attention to the registers. At the
last, `studied` gives one row per question:

    holds      a probe's score on a fact, from one token's state per sequence; `control`: the commonest answer
    used       change of an outcome when the states of some tokens are replaced at every layer, over the tokens whose
               own states are not: dropped (the tokens are gone), zero, the mean over sequences of the same position and
               layout, or those of another such sequence; `control` is the intact outcome
    attention  mean mass on the registers, of all other tokens; `control`: with uniform attention to what is visible
    norms      median length of a state, and the longest over it; `beyond`: share of states longer than the median
               of their kind by more than `FAR` robust standard deviations
    spread     the largest difference between two sequences, of any number of a register's state

Legend: N sequence, B batch of them, S token of the model (registers first), K edited token, L layer, D width, H head,
Q answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import log_softmax
from transformers import PreTrainedModel

from stages.recipes.lesson import IGNORED
from stages.recipes.settings import Architecture, Training
from stages.recipes.states import REGISTER, Held, States
from stages.statistics.probes import probe
from stages.training.tagger import answers, read

__all__ = ["intact", "measured", "read", "studied"]

Row = tuple[str, str, str, float, float, float]  # as of `stages.training.checkpoint`
KINDS = ("drop", "zero", "mean", "shuffle")
SHUFFLES = 20  # probes of shuffled facts beside each: one is a bad null
EMPTY = (np.nan, np.nan, np.nan, np.nan)  # low, high, control, shuffled
FAR = 10.0  # robust standard deviations
FEWEST = 80  # sequences with a token of a kind, for a probe


class Intact(NamedTuple):
    """One pass over all sequences: answers (N, S, Q), states (L + 1, N, S, D), attention per layer (N, H, S, S)."""

    scores_NSQ: torch.Tensor
    states_LNSD: torch.Tensor
    attention: tuple[torch.Tensor, ...]


def blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the model's blocks: its first list of modules."""
    return next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))


@contextmanager
def states(model: PreTrainedModel, write=None) -> Iterator[list[torch.Tensor]]:
    """Collect the states before each block and after the last; `write(layer, states)` returns what a block reads.

    with states(model) as seen:
        answers(model, inputs, registers)
    seen[0]  # embeddings, (N, S, D)
    """
    seen: list[torch.Tensor] = []
    all_blocks, handles = blocks(model), []

    def before(layer: int):
        def hook(module, arguments, named):
            state = arguments[0] if arguments else named["hidden_states"]
            state = state if write is None else write(layer, state)
            seen.append(state)
            if arguments:
                return (state, *arguments[1:]), named
            return arguments, named | {"hidden_states": state}

        return hook

    def after(module, arguments, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    try:
        for layer, block in enumerate(all_blocks):
            handles.append(block.register_forward_pre_hook(before(layer), with_kwargs=True))
        handles.append(all_blocks[-1].register_forward_hook(after))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def intact(model: PreTrainedModel, held: Held, registers: int) -> Intact:
    """Run all sequences as they are."""
    with states(model) as seen:
        scores_NSQ, attention = answers(model, held.inputs, registers, attention=True)
    return Intact(scores_NSQ, torch.stack(seen), attention)


def measured(lesson: States, held: Held, architecture: Architecture, run: Intact) -> Iterator[Row]:
    """Yield loss and accuracy of every sequence and, where there are registers, every head's attention to them."""
    registers = architecture.registers
    for measure, values_N in outcomes(lesson, held.labels_NT, run.scores_NSQ[:, registers:]).items():
        for number in np.flatnonzero(~np.isnan(values_N)):
            yield measure, "", f"{number:05d}", float(values_N[number]), np.nan, 1.0
    if registers:
        for layer, weights_NHSS in enumerate(run.attention):
            mass_NH = weights_NHSS[:, :, registers:, :registers].sum(-1).mean(-1).numpy()
            null_NH = _uniform(weights_NHSS, registers)
            for head in range(mass_NH.shape[1]):
                for number in range(len(mass_NH)):
                    value, null = float(mass_NH[number, head]), float(null_NH[number, head])
                    yield "registers", f"L{layer}H{head}", f"{number:05d}", value, null, 1.0


def _uniform(weights_NHSS: torch.Tensor, registers: int) -> np.ndarray:
    """Return the mean mass on the registers if every query looked at all that it sees alike, (N, H)."""
    visible_NHSS = (weights_NHSS > 0).float()
    share_NHS = visible_NHSS[..., :registers].sum(-1) / visible_NHSS.sum(-1)
    return share_NHS[:, :, registers:].mean(-1).numpy()


def outcomes(lesson: States, labels_NT: np.ndarray, scores_NTQ: torch.Tensor) -> dict[str, np.ndarray]:
    """Return loss (nats) and accuracy of every sequence, over the tokens that are asked; nan where none is."""
    labels = torch.from_numpy(labels_NT)
    choices = log_softmax(scores_NTQ[..., : scores_NTQ.shape[-1] - lesson.paints], -1)
    loss_NT = -choices.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    right_NT = (choices.argmax(-1) == labels).float()
    there_NT = labels != IGNORED
    count_N = there_NT.sum(1)
    results = {}
    for measure, values_NT in (("loss", loss_NT), ("accuracy", right_NT)):
        sums_N = torch.where(there_NT, values_NT, 0.0).sum(1)
        results[measure] = torch.where(count_N > 0, sums_N / count_N.clamp(min=1), torch.nan).numpy()
    return results


def studied(
    model: PreTrainedModel, lesson: States, held: Held, training: Training, run: Intact, rng: np.random.Generator
) -> Iterator[tuple]:
    """Yield the rows of states.csv, without arm and seed."""
    registers = training.architecture.registers
    kinds_NS = np.concatenate([np.full((len(held), registers), REGISTER), held.kinds_NT], axis=1)
    yield from _holds(held, kinds_NS, run, registers, rng)
    yield from _used(model, lesson, held, run, registers)
    for layer, weights_NHSS in enumerate(run.attention if registers else ()):
        mass = float(weights_NHSS[:, :, registers:, :registers].sum(-1).mean())
        uniform = float(_uniform(weights_NHSS, registers).mean())
        yield "attention", layer, REGISTER, "mass", "share", mass, np.nan, np.nan, uniform, np.nan, len(held)
    for layer, states_NSD in enumerate(run.states_LNSD):
        norms_NS = states_NSD.norm(dim=-1).numpy()
        for kind in sorted(set(kinds_NS.flat)):
            norms = norms_NS[kinds_NS == kind]
            median = float(np.median(norms))
            robust = 1.4826 * float(np.median(np.abs(norms - median)))
            beyond = float((norms > median + FAR * max(robust, 1e-6 * median)).mean())
            yield "norms", layer, kind, "median", "length", median, *EMPTY, len(norms)
            yield "norms", layer, kind, "longest", "ratio", float(norms.max()) / median, *EMPTY, len(norms)
            yield "norms", layer, kind, "beyond", "share", beyond, *EMPTY, len(norms)
        if registers:
            of_NRD = states_NSD[:, :registers]
            spread = float((of_NRD.amax(0) - of_NRD.amin(0)).max())
            yield "spread", layer, REGISTER, "spread", "largest difference", spread, *EMPTY, len(held)


def _holds(held: Held, kinds_NS: np.ndarray, run: Intact, registers: int, rng: np.random.Generator) -> Iterator[tuple]:
    for kind in sorted(set(kinds_NS.flat)):
        of_kind_NS = kinds_NS == kind
        there_N = of_kind_NS.any(1)
        if there_N.sum() < FEWEST:
            continue
        place_N = (rng.random(of_kind_NS.shape) * of_kind_NS).argmax(1)  # one token of each sequence
        place_N = np.zeros_like(place_N) if kind == REGISTER else place_N  # always the same register
        rows_N = np.flatnonzero(there_N)
        facts = {fact: class_N[rows_N] for fact, class_N in held.classes.items()}
        for fact, values_NTP in held.values.items() if kind != REGISTER else ():
            values_NP = values_NTP[rows_N, place_N[rows_N] - registers]
            facts |= {fact: values_NP} if values_NP.any() else {}  # a class token has no pixels
        for layer, states_NSD in enumerate(run.states_LNSD.numpy()):
            for fact, score in probe(states_NSD[rows_N, place_N[rows_N]], facts, rows_N, rng, SHUFFLES).items():
                measure = "accuracy" if fact in held.classes else "R2"
                beside = score.value, score.low, score.high, score.majority, score.shuffled
                yield "holds", layer, kind, fact, measure, *beside, len(rows_N)


def _used(model: PreTrainedModel, lesson: States, held: Held, run: Intact, registers: int) -> Iterator[tuple]:
    edited = {name: places_NK + registers for name, places_NK in held.edited.items()}
    if registers:
        edited = {REGISTER: np.tile(np.arange(registers), (len(held), 1)), **edited}
    for name, places_NK in edited.items():
        # registers stand in the same place in all sequences
        layout_N = np.zeros(len(held), dtype=np.int64) if name == REGISTER else held.layout_N
        for kind in KINDS:
            scores_NTQ, labels_NT = edit(model, held, run, registers, places_NK, kind, layout_N)
            before = outcomes(lesson, labels_NT, run.scores_NSQ[:, registers:])
            after = outcomes(lesson, labels_NT, scores_NTQ)
            for measure in before:
                there_N = ~np.isnan(before[measure])
                if not there_N.any():
                    continue
                change_N = (after[measure] - before[measure])[there_N].astype(float)
                mean, margin = float(change_N.mean()), 1.96 * float(change_N.std(ddof=1)) / len(change_N) ** 0.5
                whole = float(before[measure][there_N].mean())
                yield "used", -1, name, kind, measure, mean, mean - margin, mean + margin, whole, np.nan, len(change_N)


@torch.no_grad()
def edit(
    model: PreTrainedModel,
    held: Held,
    run: Intact,
    registers: int,
    places_NK: np.ndarray,
    kind: str,
    layout_N: np.ndarray,
) -> tuple[torch.Tensor, np.ndarray]:
    """Return answers (N, T, Q) with the states of some tokens replaced at every layer, and what is asked of the others.

    Answers of dropped tokens are 0; nothing is asked of an edited token, nor, where states come from sequences of the
    same layout, of a sequence that is alone in its own.
    """
    count, tokens = run.scores_NSQ.shape[:2]
    edited_NS = np.zeros((count, tokens), dtype=bool)
    np.put_along_axis(edited_NS, places_NK, True, axis=1)
    labels_NT = np.where(edited_NS[:, registers:], IGNORED, held.labels_NT)
    if kind == "drop":
        kept_NS = torch.from_numpy(np.nonzero(~edited_NS)[1].reshape(count, -1))
        some_NSQ, _ = answers(model, held.inputs, registers, kept_NS)
        scores_NSQ = torch.zeros_like(run.scores_NSQ).scatter(1, kept_NS[..., None].expand_as(some_NSQ), some_NSQ)
        return scores_NSQ[:, registers:], labels_NT
    mask_NS1 = torch.from_numpy(edited_NS)[..., None]
    if kind in ("mean", "shuffle"):
        _, which_N, counts = np.unique(layout_N, return_inverse=True, return_counts=True)
        labels_NT[counts[which_N] == 1] = IGNORED
    instead = replacements(run.states_LNSD, layout_N, kind)
    with states(model, lambda layer, state_NSD: torch.where(mask_NS1, instead[layer], state_NSD)):
        scores_NSQ, _ = answers(model, held.inputs, registers)
    return scores_NSQ[:, registers:], labels_NT


def replacements(states_LNSD: torch.Tensor, layout_N: np.ndarray, kind: str) -> torch.Tensor:
    """Return what stands in the place of every state, (L + 1, N, S, D): zero, its layout's mean, or another sequence's.

    The mean and the donor are of the same position: a layout's sequences have the same kinds of tokens there.
    """
    if kind == "zero":
        return torch.zeros_like(states_LNSD)
    instead = states_LNSD.clone()
    for layout in np.unique(layout_N):
        rows = np.flatnonzero(layout_N == layout)
        if kind == "mean":
            first_L1SD = states_LNSD[:, rows[:1]]  # differences: the mean of equal numbers is that number, exactly
            instead[:, rows] = first_L1SD + (states_LNSD[:, rows] - first_L1SD).mean(1, keepdim=True)
        else:
            instead[:, rows] = states_LNSD[:, np.roll(rows, 1)]
    return instead
