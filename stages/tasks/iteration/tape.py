"""Functions that go through a string one symbol at a time: s_t = f(s_{t-1}, x_t), s_0 = 0 (Cabannes+ NeurIPS 2024).

    copy        s_t = x_t, of ten symbols
    parity      s_t = s_{t-1} + x_t mod 2
    polynomial  s_t = s_{t-1} x_t + 1 mod p, p prime: cannot be counted, unlike parity

The tape is s_1 ... s_L, written. Pure numpy, shared by the prompts for pretrained models and the training recipe.
"""

from functools import cache

import numpy as np
from scipy.stats import entropy

SYMBOLS = {"copy": 10, "parity": 2, "polynomial": 5}  # different symbols of x and s


def step(function: str, s, x):
    """Return s_t from s_{t-1} and x_t: integers or arrays of them."""
    if function == "parity":
        return (s + x) % 2
    return x if function == "copy" else (s * x + 1) % SYMBOLS[function]


def tape(function: str, x: np.ndarray) -> np.ndarray:
    """Return s_1 ... s_L of a string x (L,)."""
    written = [0]
    for symbol in x:
        written.append(step(function, written[-1], symbol))
    return np.array(written[1:])


def chance(function: str, length: int) -> tuple[float, float]:
    """Return what the best guess gets that knows the tape so far but not the string: share of symbols, whole tapes.

    Exact, over all strings of the length: M[s, s'] is the share of symbols x that lead from s to s'.
    """
    led = _led(function)
    at, right, whole = np.eye(len(led))[0], 0.0, np.ones(len(led))
    for _ in range(length):
        right += at @ led.max(axis=1)
        at = at @ led
        whole = (led * whole).max(axis=1)
    return float(right / length), float(whole[0])


def last_chance(function: str, length: int) -> float:
    """Return the share of strings of a length that end in the most frequent last symbol: the best guess without x."""
    return float(np.linalg.matrix_power(_led(function), length)[0].max())


@cache
def uncertainty(function: str, length: int) -> tuple[float, float]:
    """Return the least losses, nats, that are possible without the string: of the tape with its end, of s_L alone.

    The first is a mean over tokens, of the entropies of s_t given s_{t-1} and of the end, which is sure.
    """
    led, at, total = _led(function), np.eye(SYMBOLS[function])[0], 0.0
    for _ in range(length):
        total += float(at @ entropy(led, axis=1))
        at = at @ led
    return total / (length + 1), float(entropy(at))


def _led(function: str) -> np.ndarray:
    """Return M (s, s'), the share of symbols x that lead from s to s'."""
    size = SYMBOLS[function]
    s, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    return np.eye(size)[np.broadcast_to(step(function, s, x), s.shape)].mean(axis=1)
