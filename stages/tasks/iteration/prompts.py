"""Step by step through a string: solved examples, then one more string and its tape to be written (Cabannes+ 2024).

     b a b b : b b a b
     a b b : a b a
     b b a a b :| b a a a b

Symbols are letters, each with a space before it: one token in usual tokenizers, at the start of a line as elsewhere
(digits are not: ' 1' is two tokens in Gemma's, '0110' is one in GPT-2's). The target is the tape, after the bar.
Two relations go from a symbol of it, so measured at the position before it: `iteration:<function>` from s_{t+1} to
x_{t+1}, `separator` from s_{t+1}, t > 0, to ':'. The string is as far back as it is long, and no example is as long as
the last string: neither a fixed offset nor the examples' own gives the place away. In `copy` the symbol at x_{t+1} is
also the one that followed the written symbol before, so that an induction head finds it too where symbols do not recur;
in the others only stepping does. The last string's hash decides its split: no string is in both.
"""

from hashlib import sha256

import numpy as np

from stages.tasks.iteration.settings import Settings
from stages.tasks.iteration.tape import SYMBOLS, tape
from stages.tasks.prompt import LONGEST, Prompt, Span, few_enough, stream

LETTERS = "abcdefghij"


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build `prompts` prompts per function; more prompts or functions leave the first ones as they are."""
    few_enough(
        f"tasks.iteration.prompts = {settings.prompts}, of {len(SYMBOLS)} functions", settings.prompts * len(SYMBOLS)
    )
    sizes = ", ".join(f"{name} = {getattr(settings, name)}" for name in ("prompts", "examples", "longest"))
    symbols = settings.prompts * len(SYMBOLS) * (settings.examples + 1) * settings.longest
    few_enough(f"tasks.iteration.{sizes}", symbols, "symbols", LONGEST)
    return [_prompt(function, number, settings, seed) for function in SYMBOLS for number in range(settings.prompts)]


def _prompt(function: str, number: int, settings: Settings, seed: int) -> Prompt:
    """Two prompts, one of each split, have the same length, then come two of the next."""
    name = f"iteration/{function}/{number:04d}"
    rng = stream(seed, name)
    lengths = range(settings.shortest, settings.longest + 1)
    length = lengths[number // 2 % len(lengths)]
    shown = rng.choice([other for other in lengths if other != length], settings.examples)
    strings = [rng.integers(SYMBOLS[function], size=size) for size in (*shown, length)]
    while sha256(bytes(strings[-1].tolist())).digest()[0] % 2 != number % 2:
        strings[-1] = rng.integers(SYMBOLS[function], size=length)
    *examples, (string, target) = [(_write(x) + " :", _write(tape(function, x))) for x in strings]
    before = "".join(f"{x}{s}\n" for x, s in examples)
    text = before + string
    answers, inputs = (start + 1 + 2 * np.arange(length) for start in (len(text), len(before)))
    spans = [_span(f"iteration:{function}", *pair) for pair in zip(answers, inputs, strict=True)]
    spans += [_span("separator", answer, len(text) - 1) for answer in answers[1:]]
    return Prompt(
        id=name,
        condition=function,
        cluster=name,
        split="ab"[number % 2],
        text=text,
        targets=(target,),
        relations=tuple(spans),
    )


def _write(symbols: np.ndarray) -> str:
    return "".join(f" {LETTERS[symbol]}" for symbol in symbols)


def _span(name: str, query: int, key: int) -> Span:
    return Span(name, int(query), int(query) + 1, int(key), int(key) + 1)
