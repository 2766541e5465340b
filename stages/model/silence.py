"""What is written in the place of silenced heads: one function per kind, and nowhere else a list of kinds.

    mean      the head's mean output over ordinary text; special positions keep their own output, which in a causal
              model is the same in every prompt and so is its own mean
    zero      nothing, at every position
    resample  what the same head gives on another prompt of the same task, at the same ordinary position (from the start
              again where that prompt is shorter): values that the head does take, where a mean may leave what later
              layers know (Chan+ 2022, causal scrubbing)
    sink      what the head gives where it sees nothing but the first token: all of its attention is redirected there,
              from every position (where a layer's window ends before it, too). In a causal model that is its output at
              the first token, which no later one changes, nor any other head silenced in this way; a learned sink or a
              gate acts on it as it does there

To add a kind, add a function with `@kind(...)`: it is given a head and what may be written, and returns (K,), the same
for all rows and positions, or (B, T, K).

Legend: B batch, T token, H head, K head size.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from stages.families.family import Tokens
from stages.model.forward import forward
from stages.model.intervene import Head, capturing
from stages.model.load import Loaded
from stages.model.score import Ablation
from stages.store import paths
from stages.store.errors import UserError
from stages.store.named import unknown


class Donors:
    """Head outputs of other prompts, laid out on the positions of a batch's prompts; run when first asked for.

    prompts, donors: one donor per prompt of the batch; prompts that share a prefix and their donor still share it.
    """

    def __init__(self, loaded: Loaded, prompts: Sequence[Tokens], donors: Sequence[Tokens]) -> None:
        self.loaded, self.prompts, self.donors = loaded, prompts, donors

    def __call__(self, head: Head) -> torch.Tensor:
        """Return a head's outputs (B, T, K): ordinary position j gets the donor's ordinary position j, wrapping."""
        layer, number = head
        size = self.loaded.anatomy.layers[layer].head_size
        z_BSK = self._outputs[layer][..., number * size : (number + 1) * size]
        return z_BSK.gather(1, self._positions_BT.to(z_BSK.device)[..., None].expand(-1, -1, size))

    @cached_property
    def _outputs(self) -> dict[int, torch.Tensor]:
        with capturing(self.loaded) as outputs:
            forward(self.loaded, [tokens.ids for tokens in self.donors], headless=True)
        return outputs

    @cached_property
    def _positions_BT(self) -> torch.Tensor:
        positions_BT = np.zeros((len(self.prompts), max(map(len, self.prompts))), dtype=np.int64)
        for row, (tokens, donor) in enumerate(zip(self.prompts, self.donors, strict=True)):
            ordinary, given = np.flatnonzero(~tokens.special), np.flatnonzero(~donor.special)
            positions_BT[row, ordinary] = given[np.arange(len(ordinary)) % len(given)]
        return torch.from_numpy(positions_BT)


class Firsts:
    """Head outputs at the first token of a batch's prompts, of a causal model; run when first asked for."""

    def __init__(self, loaded: Loaded, prompts: Sequence[Tokens]) -> None:
        self.loaded, self.prompts = loaded, prompts

    def __call__(self, head: Head) -> torch.Tensor:
        """Return a head's output at each prompt's first token, the same for all positions: (B, T, K)."""
        layer, number = head
        size = self.loaded.anatomy.layers[layer].head_size
        z_BK = self._outputs[layer][self._which_B, 0, number * size : (number + 1) * size]
        return z_BK[:, None].expand(-1, max(map(len, self.prompts)), -1)

    @cached_property
    def _unique(self) -> tuple[np.ndarray, np.ndarray]:
        return np.unique([int(tokens.ids[0]) for tokens in self.prompts], return_inverse=True)

    @property
    def _which_B(self) -> torch.Tensor:
        return torch.from_numpy(self._unique[1])

    @cached_property
    def _outputs(self) -> dict[int, torch.Tensor]:
        if not self.loaded.anatomy.causal:
            raise UserError(
                f"{paths.PARAMS}: plan: kind 'sink' needs a causal model: elsewhere the first token knows what follows"
            )
        with capturing(self.loaded) as outputs:
            forward(self.loaded, [np.array([first]) for first in self._unique[0]], headless=True)
        return outputs


@dataclass(frozen=True)
class Writable:
    """What a kind may write: every head's mean output (K,) over text, other prompts' outputs, and first tokens'."""

    means: Mapping[Head, torch.Tensor]
    donors: Donors | None = None
    firsts: Firsts | None = None


@dataclass(frozen=True)
class Kind:
    """A way to silence a head; everywhere: at special positions as well; constant: (K,) that needs the means alone."""

    write: Callable[[Head, Writable], torch.Tensor]
    everywhere: bool
    constant: bool


KINDS: dict[str, Kind] = {}


def kind(everywhere: bool, constant: bool) -> Callable:
    """Register a function as the kind of its name."""

    def register(write: Callable[[Head, Writable], torch.Tensor]) -> Callable:
        KINDS[write.__name__] = Kind(write, everywhere, constant)
        return write

    return register


@kind(everywhere=False, constant=True)
def mean(head: Head, writable: Writable) -> torch.Tensor:
    """Write the head's mean output over text."""
    return writable.means[head]


@kind(everywhere=True, constant=True)
def zero(head: Head, writable: Writable) -> torch.Tensor:
    """Write nothing."""
    return torch.zeros_like(writable.means[head])


@kind(everywhere=False, constant=False)
def resample(head: Head, writable: Writable) -> torch.Tensor:
    """Write what the head gives on another prompt."""
    return writable.donors(head)


@kind(everywhere=True, constant=False)
def sink(head: Head, writable: Writable) -> torch.Tensor:
    """Write what the head gives where it sees the first token alone."""
    return writable.firsts(head)


def unknown_kinds(kinds: Iterable[str], key: str = "plan.kinds") -> Iterator[str]:
    """Yield a mistake for every way to silence that params ask for and that there is not."""
    return unknown(key, kinds, "no such way to silence", KINDS)


@dataclass(frozen=True)
class _Written(Mapping):
    """What a kind writes for each head, made when asked for: other prompts' outputs are large."""

    heads: Sequence[Head]
    way: Kind
    writable: Writable

    def __getitem__(self, head: Head) -> torch.Tensor:
        return self.way.write(head, self.writable)

    def __iter__(self) -> Iterator[Head]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)


def silencing(heads: Sequence[Head], name: str, writable: Writable) -> Ablation:
    """Return the ablation that silences heads in the way `name`, one of `KINDS`."""
    return Ablation(_Written(heads, KINDS[name], writable), KINDS[name].everywhere, name)
