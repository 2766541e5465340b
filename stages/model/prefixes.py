"""Caches of prefixes: what a model keeps of tokens that have run, frozen, for any number of rows that continue them.

Of a layer two things may be kept, and both follow the rows that continue them:

    keys and values (N, heads, P, K)   of each token: the cache of a text holds those of all its beginnings
    states (N, ...)                    of convolutions and recurrences, of all tokens before: it holds those of its end

A cache of keys is plain: of full length in every layer, the mask does windows. Models write into the states that they
read, so that a pass reads copies, layer by layer. What else a layer may keep (an indexer's keys) is not kept here, and
the proof at fetch does not let such a model continue a cache.

Legend: B row of a pass, N prefix, P token of a prefix, K head size.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import (
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from stages.model.load import Loaded

FLAGS = ("is_conv_states_initialized", "is_recurrent_states_initialized", "has_previous_state", "conv_kernel_size")
States = dict[int, torch.Tensor | None]  # of one layer, by their number there


def empty(loaded: Loaded) -> Cache:
    """Return the cache that a model fills: states where its config has them (as `generate` asks), keys elsewhere."""
    try:
        layers = DynamicCache(config=loaded.model.config).layers
    except (AttributeError, KeyError, ValueError):  # no layers are named there
        layers = []
    if not any(map(_has_states, layers)):
        return DynamicCache()
    return Cache(layers=[_plain(entry) for entry in layers])


def _plain(entry: Any) -> Any:
    if not isinstance(entry, DynamicLayer):
        return entry
    return LinearAttentionAndFullAttentionLayer(entry.number_of_states) if _has_states(entry) else DynamicLayer()


def _has_states(entry: Any) -> bool:
    return isinstance(entry, LinearAttentionCacheLayerMixin)


def ends_alone(cache: Cache | None) -> bool:
    """Say whether a cache can be continued from the end of its texts alone, not from within: it holds states."""
    return cache is not None and any(map(_has_states, cache.layers))


class _FrozenKeys(DynamicLayer):
    """One layer's keys and values (N, heads, P, K) of prefixes; `update` returns prefix + new and keeps nothing.

    which_B: the prefix that each row continues; None where there is one for all rows; keeps: what continues the
    prefixes is kept after all, for the chunks of one pass.
    """

    def __init__(self, entry: DynamicLayer, which_B: torch.Tensor | None = None, keeps: bool = False) -> None:
        DynamicLayer.__init__(self)
        self.keys, self.values, self.is_initialized = entry.keys, entry.values, True
        self.which_B, self.keeps = which_B, keeps
        self.fresh: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any):
        if self.fresh is not None:
            key_states = torch.cat([self.fresh[0], key_states], dim=-2)
            value_states = torch.cat([self.fresh[1], value_states], dim=-2)
        if self.keeps:
            self.fresh = key_states, value_states
        return self._after(self.keys, key_states), self._after(self.values, value_states)

    def _after(self, kept: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        whole = self.which_B is None
        kept = kept.expand(len(fresh), -1, -1, -1) if whole else kept[self.which_B.to(kept.device)]
        return torch.cat([kept, fresh], dim=-2)

    def get_seq_length(self) -> int:
        return super().get_seq_length() + (0 if self.fresh is None else self.fresh[0].shape[-2])

    def of_pass(self, rows: int, keeps: bool) -> "_FrozenKeys":
        """Return what one pass of so many rows continues."""
        return _FrozenKeys(self, self.which_B, True) if keeps else self


class _Picked:
    """States of prefixes, by number: asked for, each row's are a copy of its prefix's."""

    def __init__(self, kept: States, which_B: torch.Tensor | None) -> None:
        self.kept, self.which_B = kept, which_B

    def __getitem__(self, number: int) -> torch.Tensor | None:
        state = self.kept[number]
        return state if state is None else state[self.which_B.to(state.device)]


class _FrozenStates(LinearAttentionLayer):
    """One layer's states (N, ...) at the end of prefixes; what continues them is not kept.

    which_B, keeps: as for keys. Where which_B is None a pass has to ask for its own (`of_pass`): rows read copies.
    """

    def __init__(self, entry: LinearAttentionLayer, which_B: torch.Tensor | None = None, keeps: bool = False) -> None:
        LinearAttentionLayer.__init__(self, entry.number_of_states)
        self.device, self.dtype, self.which_B, self.keeps = entry.device, entry.dtype, which_B, keeps
        for name in FLAGS:
            setattr(self, name, dict(getattr(entry, name)))
        self.kept: tuple[States, States] = getattr(entry, "kept", (entry.conv_states, entry.recurrent_states))
        picked = [_Picked(states, which_B) for states in self.kept]
        self.conv_states, self.recurrent_states = (
            [{number: of[number] for number in of.kept} for of in picked] if keeps else picked
        )

    def update_conv_state(self, conv_states: torch.Tensor, state_idx: int = 0, **kwargs: Any) -> torch.Tensor:
        if self.keeps:
            return super().update_conv_state(conv_states, state_idx, **kwargs)
        before = self.conv_states[state_idx]
        return conv_states if before is None else torch.cat([before, conv_states], dim=-1)

    def update_recurrent_state(self, recurrent_states: torch.Tensor, state_idx: int = 0, **kwargs: Any) -> torch.Tensor:
        if self.keeps:
            return super().update_recurrent_state(recurrent_states, state_idx, **kwargs)
        return recurrent_states

    def _rows(self, rows: int) -> torch.Tensor:
        if self.which_B is not None:
            return self.which_B
        prefixes = next((len(state) for states in self.kept for state in states.values() if state is not None), 1)
        return torch.arange(rows) % prefixes  # one for all, or one for each

    def of_pass(self, rows: int, keeps: bool) -> "_FrozenStates":
        """Return what one pass of so many rows continues."""
        return _FrozenStates(self, self._rows(rows), keeps)


class _FrozenBoth(_FrozenStates, _FrozenKeys):
    """One layer that has both."""

    def __init__(self, entry: Any, which_B: torch.Tensor | None = None, keeps: bool = False) -> None:
        _FrozenKeys.__init__(self, entry, which_B, keeps)
        _FrozenStates.__init__(self, entry, which_B, keeps)

    def of_pass(self, rows: int, keeps: bool) -> "_FrozenBoth":
        return _FrozenBoth(self, self._rows(rows), keeps)


def _frozen(entry: Any, which_B: torch.Tensor | None = None) -> Any:
    keys = isinstance(entry, DynamicLayer)
    if _has_states(entry):
        return (_FrozenBoth if keys else _FrozenStates)(entry, which_B)
    return _FrozenKeys(entry, which_B) if keys else entry


def frozen(cache: Cache) -> Cache:
    """Freeze a filled cache; of one row, any number of rows may continue it."""
    return Cache(layers=[_frozen(entry) for entry in cache.layers])


def side_by_side(rows: Sequence[tuple[Cache, int]], length: int) -> Cache:
    """Freeze the first `length` tokens of rows of filled caches: prefix n is row rows[n][1] of cache rows[n][0].

    Where a cache holds states (`ends_alone`), `length` must be all of it.
    """

    def stacked(layer: int) -> Any:
        entries = [(cache.layers[layer], row) for cache, row in rows]
        made = copy(entries[0][0])
        if isinstance(made, DynamicLayer):
            made.keys = torch.cat([entry.keys[row : row + 1, :, :length] for entry, row in entries])
            made.values = torch.cat([entry.values[row : row + 1, :, :length] for entry, row in entries])
        if _has_states(made):
            for name in ("conv_states", "recurrent_states"):
                of_rows = [(getattr(entry, name), row) for entry, row in entries]
                has = [number for number, state in of_rows[0][0].items() if state is not None]
                states = {number: torch.cat([of[number][row : row + 1] for of, row in of_rows]) for number in has}
                setattr(made, name, dict.fromkeys(of_rows[0][0]) | states)
        return _frozen(made)

    return Cache(layers=[stacked(layer) for layer in range(len(rows[0][0].layers))])


def continuing(prefixes: Cache, which_B: torch.Tensor, layer: int = 0) -> Cache:
    """Return the cache, from a layer on, of a batch whose row b continues prefix which_B[b]; nothing is copied yet."""
    return Cache(layers=[_frozen(entry, which_B) for entry in prefixes.layers[layer:]])


def of_pass(cache: Cache, rows: int, keeps: bool) -> Cache:
    """Return what a pass continues: itself, or of a frozen one what is known of its rows.

    keeps: what is new is kept for this pass alone, which runs in chunks.
    """
    if not any(isinstance(entry, _FrozenKeys | _FrozenStates) for entry in cache.layers):
        return cache
    return Cache(layers=[entry.of_pass(rows, keeps) if hasattr(entry, "of_pass") else entry for entry in cache.layers])
