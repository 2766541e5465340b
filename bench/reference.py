"""A model run plainly, in the library's own eager way; its edits are hooks and columns of its own.

Legend: T token, S key token, H head, K head size, D residual width, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from stages.families.family import Relation, Tokens
from stages.model.anatomy import Layer


@contextmanager
def hooked(*handles) -> Iterator[None]:
    """Remove hooks again."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Reference:
    """A second instance of the folder's model, run plainly and eagerly, with edits that do not touch the project."""

    def __init__(self, folder: Path, cls: str) -> None:
        self.model = (
            getattr(transformers, cls).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        )
        self.model.requires_grad_(False)
        self.names = {name for name, _ in self.model.named_modules()}

    def __call__(self, ids: np.ndarray) -> torch.Tensor:
        """Return the logits (T, V) of one prompt."""
        ids_1T = torch.from_numpy(ids)[None]
        return self.model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), **self._plain()).logits[0].float()

    def name(self, name: str) -> str:
        """Return what a module of the project's model is called here, where one of the two is wrapped in another."""
        if name in self.names:
            return name
        alike = [own for own in self.names if own and (own.endswith(f".{name}") or name.endswith(f".{own}"))]
        return max(alike, key=len, default=name)

    def module(self, name: str) -> nn.Module:
        """Return a module by its name in the project's model."""
        return self.model.get_submodule(self.name(name))

    def _plain(self) -> dict:
        return (
            {"use_cache": False} if getattr(self.model.config.get_text_config(), "use_cache", None) is not None else {}
        )

    def logprob(self, tokens: Tokens) -> np.ndarray:
        """Return the log-probabilities of a prompt's target, each by the position before it."""
        rows = self(tokens.ids)[tokens.target - 1].log_softmax(1)
        return rows[torch.arange(len(tokens.target)), torch.from_numpy(tokens.ids[tokens.target])].numpy()

    def weights(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        """Return what every module gives as attention weights (1, H, T, S), by module name, innermost modules only."""
        seen: dict[str, torch.Tensor] = {}
        handles = []
        for name, module in self.model.named_modules():

            def keep(module, args, output, name=name):
                for part in output if isinstance(output, tuple | list) else ():
                    if (
                        isinstance(part, torch.Tensor)
                        and part.dim() == 4
                        and part.shape[-2] == part.shape[-1] == len(ids)
                    ):
                        seen.setdefault(name, part)

            handles.append(module.register_forward_hook(keep))
        with hooked(*handles), self._returning():
            self(ids)
        return {n: w for n, w in seen.items() if not any(o != n and o.startswith(f"{n}.") for o in seen)}

    def reaching(self, ids: np.ndarray, layer: Layer, weights: torch.Tensor) -> torch.Tensor | float:
        """Return the factor (H, T, 1) from returned weights (1, H, T, S) to shares: a sink may act after the softmax.

        It is what W_O reads where every value is 1. Weights that sum to less than 1 are shares.
        """
        value = self.names & {f"{self.name(layer.attention)}.v_proj"}
        if not value or bool((weights.sum(-1) < 1 - 1e-4).any()):
            return 1.0
        z: list[torch.Tensor] = []

        def keep(module, args):
            z.append(args[0])

        def ones(module, args, output):
            return torch.ones_like(output)

        handles = [
            self.module(layer.projection).register_forward_pre_hook(keep),
            self.model.get_submodule(*value).register_forward_hook(ones),
        ]
        with torch.no_grad(), hooked(*handles):
            self(ids)
        z_THK = z[0][0, :, : layer.heads * layer.head_size].unflatten(-1, (layer.heads, layer.head_size))
        return z_THK.mean(-1).T[..., None]

    @contextmanager
    def _returning(self) -> Iterator[None]:
        """Ask for attention weights, in every sub-config."""
        with ExitStack() as stack:
            for made in {
                id(c): c for m in self.model.modules() if (c := getattr(m, "config", None)) is not None
            }.values():
                try:
                    before = getattr(made, "output_attentions", False)
                    made.output_attentions = True
                    stack.callback(setattr, made, "output_attentions", before)
                except (AttributeError, ValueError):
                    continue
            yield

    @contextmanager
    def without(self, layer: Layer, head: int, constant: torch.Tensor | None = None) -> Iterator[None]:
        """Zero the columns of W_O that read a head; constant (K,): what they then add for it, W_O c."""
        module, columns_DK = self.module(layer.projection), self.columns(layer, head).detach().clone()
        kept, emptied = module.weight, module.weight.detach().clone()  # not in place: layers may share a weight
        (emptied.T if isinstance(module, Conv1D) else emptied)[:, self._rows(layer, head)] = 0
        module.weight = nn.Parameter(emptied, requires_grad=kept.requires_grad)
        handles = []
        if constant is not None:

            def add(module, args, output):
                several = isinstance(output, tuple | list)
                return (output[0] + columns_DK @ constant, *output[1:]) if several else output + columns_DK @ constant

            handles.append(module.register_forward_hook(add))
        try:
            with hooked(*handles):
                yield
        finally:
            module.weight = kept

    def matrix(self, layer: Layer) -> torch.Tensor:
        """Return W_O (D, H K), a view."""
        module = self.module(layer.projection)
        return module.weight.T if isinstance(module, Conv1D) else module.weight

    def columns(self, layer: Layer, head: int) -> torch.Tensor:
        """Return W_O[:, h] (D, K), a view."""
        return self.matrix(layer)[:, self._rows(layer, head)]

    @staticmethod
    def _rows(layer: Layer, head: int) -> slice:
        return slice(head * layer.head_size, (head + 1) * layer.head_size)


def naive(weights_HTS: np.ndarray, asked: Relation, special: np.ndarray, sink: bool = False) -> dict[str, np.ndarray]:
    """The statistics straight from their definitions, (H,) each; visible keys are those with a weight above 0.

    sink: what a row's weights lack to 1 is a learned sink's, one more target of the relations that say so.
    """
    visible_TS = (weights_HTS > 0).any(0)
    mass, hits, null = [], [], []
    for query, wanted in zip(asked.queries, asked.keys, strict=True):
        row_HS, seen = weights_HTS[:, query], visible_TS[query]
        own = sink and asked.sink
        mass.append(row_HS[:, wanted].sum(1) + (1 - row_HS.sum(1) if own else 0))
        hits.append(wanted[row_HS.argmax(1)] & (row_HS.max(1) > 0))
        others = seen & ~wanted & ~special
        if others.any():
            null.append(row_HS[:, others].mean(1) * ((seen & wanted).sum() + own))
    return {"mass": np.mean(mass, 0), "hits": np.mean(hits, 0), "mass_null": np.mean(null, 0)}
