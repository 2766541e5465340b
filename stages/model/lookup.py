"""Where an answer that has to be known is looked up: MLP outputs at the subject, attention outputs at the last token.

One output is changed, at one token, and the answer's first token that is not white space read off (a blank before it is
read with the prompt, whose last token it is then: it tells no answer from another):
    mean         the mean over the subjects of split a is written there
    interchange  another subject's output is: whose answer comes out?
    restored     the subject's embeddings carry noise (Meng+ NeurIPS 2022: three standard deviations), and the intact
                 output is written back
Only prompts that the intact model answers right are changed. Beside them: the most active units of one layer's MLP.

Legend: B prompt, T token, F unit, D residual width, V vocabulary, N unit looked at.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stages.families.family import Tokens
from stages.model.forward import remembering, resuming
from stages.model.intervene import capturing
from stages.model.load import Loaded
from stages.model.mlp import Writer, places, reading, writing
from stages.model.probe import probe_inputs
from stages.model.readout import read_out, standing
from stages.model.rows import Rows
from stages.model.tokens import first_answering

NOISE = 3.0  # standard deviations of the subjects' embeddings
UNITS = 10  # most active units that are read
TOGETHER = 8  # prompts whose units are read out together
MLP, ATTENTION = "mlp", "attention"


@dataclass(frozen=True)
class Asked:
    """Prompts as the intact model reads them.

    subject, last: the last token of the subject and of the prompt, in what the batch runs; answers: their first tokens
    that are not white space; right: whether these are the argmax; keys, values: layer -> what its MLP's writer reads
    and writes at the subject, (B, F) and (B, D); outputs: layer -> what its attention's projection reads at the last
    token.
    """

    batch: Rows
    subject: list[int]
    last: list[int]
    answers: np.ndarray
    right: np.ndarray
    keys: dict[int, torch.Tensor]
    values: dict[int, torch.Tensor]
    outputs: dict[int, torch.Tensor]

    @property
    def width(self) -> int:
        """Tokens of a padded row."""
        return self.batch.width

    def at(self, kind: str) -> torch.Tensor:
        """Return the places in (B T) that a kind of output is changed at."""
        return places(self.subject if kind == MLP else self.last, self.width)

    def given(self, kind: str) -> dict[int, torch.Tensor]:
        """Return the intact outputs of a kind, by layer."""
        return self.values if kind == MLP else self.outputs


def ask(loaded: Loaded, writers: Mapping[int, Writer], prompts: Sequence[Tokens], asked: str) -> Asked:
    """Run prompts intact; asked: the relation from the answer to the subject."""
    with reading(loaded, writers) as read, capturing(loaded) as z_BTK:
        first = min(int(tokens.spans[asked][0][1][0]) for tokens in prompts)
        scored = [int(tokens.target[first_answering(loaded, tokens)]) for tokens in prompts]
        batch = Rows(loaded, prompts, [np.array([at]) for at in scored], shared=first)
    subject = [int(tokens.spans[asked][0][1][-1]) - batch.cut for tokens in prompts]
    last = [at - 1 - batch.cut for at in scored]
    at, end = places(subject, batch.width), places(last, batch.width)
    return Asked(
        batch,
        subject,
        last,
        np.array([int(tokens.ids[at]) for tokens, at in zip(prompts, scored, strict=True)]),
        np.array([answer.solved for answer in batch.intact]),
        {layer: k[at].clone() for layer, (k, _) in read.items()},
        {layer: v[at].clone() for layer, (_, v) in read.items()},
        {layer: z.reshape(-1, z.shape[-1])[end].clone() for layer, z in z_BTK.items()},
    )


def donors(asked: Asked, groups: Sequence[str]) -> np.ndarray:
    """Return for each prompt the next of its relation that is answered right, otherwise; itself where none is."""
    order = np.flatnonzero(asked.right)
    result = np.arange(len(asked.right))
    for place, number in enumerate(order):
        others = [
            n
            for n in np.roll(order, -place - 1)
            if asked.answers[n] != asked.answers[number] and groups[n] == groups[number]
        ]
        result[number] = others[0] if others else number
    return result


def replaced(
    loaded: Loaded,
    writers: Mapping[int, Writer],
    asked: Asked,
    changes: Sequence[tuple[str, int, torch.Tensor]],
) -> list[np.ndarray]:
    """Return, per change, the argmax (B,) with values written in the place of one layer's output of a kind.

    changes: (kind, layer, values (B, D)); all run together, a copy of the batch each, from the lowest layer up.
    """
    step, first = len(asked.subject) * asked.width, min(layer for _, layer, _ in changes)
    with ExitStack() as stack:
        for kind, layer in dict.fromkeys((kind, layer) for kind, layer, _ in changes):
            path = writers[layer].path if kind == MLP else loaded.anatomy.layers[layer].projection
            copies = [copy for copy, change in enumerate(changes) if change[:2] == (kind, layer)]
            at = torch.cat([asked.at(kind) + copy * step for copy in copies])
            values = torch.cat([changes[copy][2] for copy in copies])
            stack.enter_context(writing(loaded, path, at, values, inputs=kind == ATTENTION))
        best = np.array([int(scored.best[0]) for scored in asked.batch.again(first, len(changes))])
    return list(best.reshape(len(changes), -1))


def restored(
    loaded: Loaded, writers: Mapping[int, Writer], asked: Asked, relation: str, seed: int
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield (kind, layer, argmax (B,)) with one intact output written back under noise; first ('none', -1, ...).

    relation: from the answer to the subject, all of whose tokens get noise.
    """
    batch = asked.batch
    subjects = [tokens.spans[relation][0][1] - batch.cut for tokens in batch.prompts]
    with _noise(loaded, subjects, seed):
        with remembering(loaded) as residuals:
            best = _best(batch.logits())
        residuals = dict(residuals)
        yield "none", -1, best
        for kind, layers in ((MLP, writers), (ATTENTION, loaded.anatomy.layers)):
            for layer in layers:
                path = writers[layer].path if kind == MLP else loaded.anatomy.layers[layer].projection
                at, values = asked.at(kind), asked.given(kind)[layer]
                with (
                    resuming(loaded, layer, residuals.get(layer)),
                    writing(loaded, path, at, values, inputs=kind == ATTENTION),
                ):
                    yield kind, layer, _best(batch.logits())


def _best(logits_NV: torch.Tensor) -> np.ndarray:
    return logits_NV.argmax(-1).cpu().numpy()


@contextmanager
def _noise(loaded: Loaded, subjects: Sequence[np.ndarray], seed: int) -> Iterator[None]:
    """Add noise to the embeddings of subjects: the same, whatever else is changed."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[torch.Tensor] = []

    def add(module: Any, args: tuple, output: torch.Tensor) -> torch.Tensor:
        x = output.clone()
        rows = [row for row, at in enumerate(subjects) for _ in at]
        at = [int(place) for places_of in subjects for place in places_of]
        if not drawn:
            drawn.append(torch.randn(len(rows), x.shape[-1], generator=generator).to(x))
        x[rows, at] += NOISE * x[rows, at].std() * drawn[0]
        return x

    handle = loaded.model.get_input_embeddings().register_forward_hook(add)
    try:
        with loaded.chunks.whole():
            yield
    finally:
        handle.remove()


@torch.no_grad()
def promoted(
    loaded: Loaded, writer: Writer, layer: int, asked: Asked, numbers: Sequence[int]
) -> list[dict[str, float]]:
    """Return, per prompt, how high answers stand in what the subject's most active units write (0.5 by chance).

    units: the mean standing of the answer over the `UNITS` units that write the most; shuffled: of all other prompts'
    answers there; embedding, embedding_shuffled: the same of the subject's last token's input embedding, read alone: no
    MLP has run.
    """
    weight_DF, after = writer.weight_DF(loaded).float(), follows(loaded, writer, layer)
    length_F = weight_DF.norm(dim=0)
    answers, rows = asked.answers, []
    every = [int(answers[number]) for number in numbers]
    read: list[torch.Tensor] = []
    for number in numbers:
        k_F, v_D = asked.keys[layer][number].float(), asked.values[layer][number].float()
        top_N = (k_F.abs() * length_F).topk(min(UNITS, len(k_F))).indices
        written_ND = (weight_DF[:, top_N] * k_F[top_N]).T
        token = int(asked.batch.tails[number][asked.subject[number]])
        embedding_D = loaded.model.get_input_embeddings()(torch.tensor([token], device=k_F.device))
        read.append(torch.cat([moved(after, v_D, written_ND), embedding_D]))
    every_NV = [
        logits_NV
        for start in range(0, len(read), TOGETHER)
        for logits_NV in read_out(loaded, torch.cat(read[start : start + TOGETHER])).split(len(read[0]))
    ]
    for place, logits_NV in enumerate(every_NV):
        stands_NP = np.stack([standing(logits_NV, [answer]) for answer in every], axis=1)
        others = [other for other, answer in enumerate(every) if answer != every[place]]
        shuffled = stands_NP[:, others] if others else np.full((len(stands_NP), 1), np.nan)
        rows.append(
            {
                "units": float(stands_NP[:-1, place].mean()),
                "units_shuffled": float(shuffled[:-1].mean()),
                "embedding": float(stands_NP[-1, place]),
                "embedding_shuffled": float(shuffled[-1].mean()),
            }
        )
    return rows


def moved(after: Callable[[torch.Tensor], torch.Tensor] | None, v_D: torch.Tensor, written_ND: torch.Tensor):
    """Return what parts of an MLP's output v add to the residual, (N, D): where a norm follows, at the scale of v's."""
    if after is None:
        return written_ND
    added_D = after(v_D[None])[0] - after(torch.zeros_like(v_D)[None])[0]
    return written_ND * torch.where(v_D == 0, torch.zeros_like(v_D), added_D / v_D)


@torch.no_grad()
def follows(loaded: Loaded, writer: Writer, layer: int) -> torch.nn.Module | None:
    """Return the module of the block, such as a norm, that reads just what the writer gives; None where none does."""
    block = loaded.model.get_submodule(loaded.anatomy.layers[layer].block)
    source = loaded.model.get_submodule(writer.path)
    given: list[torch.Tensor] = []
    readers: list[torch.nn.Module] = []
    handles = [source.register_forward_hook(lambda module, args, output: given.append(output))]
    for module in block.modules():
        if any(True for _ in module.parameters(recurse=False)) and module is not source:

            def look(module, args):
                if given and args and isinstance(args[0], torch.Tensor) and args[0].shape == given[-1].shape:
                    same = torch.equal(args[0], given[-1])
                    readers.extend([module] if same and module not in readers else [])

            handles.append(module.register_forward_pre_hook(look))
    try:
        loaded.model(**probe_inputs(loaded.model, rows=1))
    finally:
        for handle in handles:
            handle.remove()
    return readers[0] if readers else None
