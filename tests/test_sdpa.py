"""Fused attention is the same function as eager attention, through every shortcut; else it is not used."""

import numpy as np
import pytest
from tiny import DECODERS, make
from types import SimpleNamespace
import torch
from stages.model.forward import forward, frozen, prefill
from stages.model.load import fuse

def ids(loaded, seed, length):
    return np.random.default_rng(seed).integers(4, 100, length)

@pytest.mark.parametrize("name", DECODERS)
def test_fused(name):
    loaded = make(name, scale=4.0)
    prompts = [ids(loaded, n, 8 + 5*n) for n in range(3)]
    rows = [np.arange(len(p)) for p in prompts]
    prefix = ids(loaded, 9, 11)
    def both():
        return forward(loaded, prompts, rows), forward(loaded, prompts, rows, frozen(prefill(loaded, prefix)))
    eager = both()
    used = fuse(loaded.model)
    print(name, used)
    for a, b in zip(eager, both()):
        assert (a - b).abs().max() < 1e-4 * max(1, float(a.abs().max()))
