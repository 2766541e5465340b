"""The training loop of all recipes: AdamW on batches that a lesson draws, on the CPU with one thread.

The same seed gives the same weights bit for bit on one machine: one thread per run, so that no sum depends on how many
there are (several runs share the processor instead), torch's deterministic algorithms, and named random streams.
"""

import math

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from stages.recipes.lesson import IGNORED, Batch, Lesson
from stages.recipes.settings import Optimizer, Training
from stages.recipes.states import States
from stages.store.errors import UserError
from stages.training import tagger


def train(model: PreTrainedModel, lesson: Lesson, training: Training, rng: np.random.Generator, keep) -> None:
    """Train a model; `keep(step, loss)` is called at every kept step with the mean loss since the one before.

    Step n is the state after n updates; at step 0 there is no loss yet (nan). Raises `UserError` when it diverges.
    """
    options, parameters = training.optimizer, [p for p in model.parameters() if p.requires_grad]
    tables = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    decayed = [p for p in parameters if p.dim() > 1 and id(p) not in tables]  # no biases, norms and embeddings
    free = [p for p in parameters if p.dim() < 2 or id(p) in tables]
    groups = [{"params": decayed, "weight_decay": options.decay}, {"params": free, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, options.learning_rate, options.betas, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: rate(options, step, training.steps))
    model.train()
    if training.arcs:
        model.set_attn_implementation("eager")  # others return no attention
    kept, losses = set(training.kept), []
    for step in range(training.steps + 1):
        if step in kept:
            keep(step, float(np.mean(losses)) if losses else math.nan)
            losses = []
        if step == training.steps:
            break
        batch = lesson.batch(rng, training.batch, step)
        if isinstance(lesson, States):
            loss = tagger.objective(model, batch, training.architecture)
        else:
            loss = objective(model, batch, training.arcs)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, options.clip)
        adam.step()
        schedule.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise UserError(f"the training loss is {losses[-1]} at step {step + 1}; lower optimizer.learning_rate")


def objective(model: PreTrainedModel, batch: Batch, arcs: float) -> torch.Tensor:
    """Return cross-entropy on the labels, plus `arcs` times the attention on the batch's arcs.

    An arc's attention is that of the head, of all layers, that gives it most: to be rewarded (a negative factor) one
    head is enough, to be punished all must look elsewhere. The intervention is that of Chen+ ICLR 2024 (arXiv
    2309.07311); this form of the term is ours.
    """
    places_BT = None if batch.positions_BT is None else torch.from_numpy(batch.positions_BT)
    output = model(
        torch.from_numpy(batch.ids_BT), position_ids=places_BT, use_cache=False, output_attentions=bool(arcs)
    )
    labels_N = torch.from_numpy(batch.labels_BT).flatten()
    loss = cross_entropy(output.logits.flatten(0, 1), labels_N, ignore_index=IGNORED)
    if not arcs:
        return loss
    row_N, query_N, key_N = torch.from_numpy(batch.arcs_N3).T
    weights_NH = torch.cat([weights_BHTS[row_N, :, query_N, key_N] for weights_BHTS in output.attentions], dim=1)
    return loss + arcs * weights_NH.amax(dim=1).mean()


def rate(options: Optimizer, step: int, steps: int) -> float:
    """Return the factor on the learning rate: linear warm-up, then constant or a cosine down to 0."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    if options.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - options.warmup) / max(1, steps - options.warmup)))


def one_thread() -> None:
    """Make this process compute the same bits whatever the machine's load and number of cores."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def threads() -> int:
    """Return how many runs may share this machine: OMP_NUM_THREADS, else the number of cores."""
    return torch.get_num_threads()
