"""Look at a text of your own: `python -m stages.look <slot> "text" [--heads L5H1 L9H3] [--out reports/look.html]`.

Writes one HTML file that loads nothing: attention of all heads, how much of each family's relation every head does on
this text, and the likeliest next tokens. In a notebook, `look("decoder", "text")` is shown as the same page.

No stage of the pipeline: nothing depends on it. It reads what `fetch` and `summarize` wrote of the slot.
Legend: B batch, H head, T query token, S key token, V vocabulary.
"""

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stages.families.family import Tokens
from stages.model.forward import forward
from stages.model.load import Loaded, load
from stages.model.measure import measure, put, weighing
from stages.model.tokens import encode, token_name
from stages.model.tokens import longest as readable
from stages.page import inputs
from stages.page.look import Look, Place, applying, longest
from stages.store import params, paths
from stages.store.errors import UserError, run
from stages.tasks.prompt import Prompt

log = logging.getLogger(__name__)
OUT = "reports/look.html"
NEXT = 10  # likeliest tokens that are shown


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        usage = " ".join(self.format_usage().split())
        raise UserError(f"{message}; {usage}")


def main(*arguments: str) -> None:
    """Write the page."""
    parser = _Arguments(
        prog="python -m stages.look",
        usage="%(prog)s slot text [--heads L5H1 ...] [--out FILE]",  # heads take all words that follow them
        description="Attention of all heads on a text, as one HTML file.",
    )
    parser.add_argument("slot", help="a slot of params.yaml, such as decoder")
    parser.add_argument("text")
    parser.add_argument("--heads", nargs="+", default=[], metavar="L5H1", help="heads to enlarge at first")
    parser.add_argument("--out", default=OUT, help=f"the file (default {OUT})")
    given = parser.parse_args(arguments)
    path = look(given.slot, given.text, given.heads).save(given.out)
    log.info("%s: %d KB", path, path.stat().st_size // 1024)


def look(slot: str, text: str, heads: Sequence[str] = ()) -> Look:
    """Return what a text looks like from inside a slot's model: a notebook shows it, `.save(path)` writes it.

    heads: names of those to enlarge at first, such as ["L5H1"].
    Raises `UserError` where the slot has no model of text, the text no token or too many, or a head is unknown.
    """
    if not paths.model(slot).is_file() and slot not in params.load().models:
        raise UserError(f"no slot {slot!r} in {paths.PARAMS}; there are {', '.join(params.load().models)}")
    loaded = load(slot)
    if loaded.images is not None:
        raise UserError(f"{slot} holds a model of images: it reads no text")
    return looked(loaded, slot, text, heads)


def looked(loaded: Loaded, slot: str, text: str, heads: Sequence[str] = ()) -> Look:
    """Do the same with a model in memory; what the slot's heads are members of is read from its reports."""
    _readable(text)
    tokens = encode(loaded, Prompt(id="look", condition="look", cluster="look", text=text))
    _check(loaded, slot, tokens)
    enlarged = tuple(_head(loaded, slot, str(name)) for name in ([heads] if isinstance(heads, str) else heads))
    attention, logits_1V = _run(loaded, tokens)
    relations, missing = applying(tokens)
    means = measure(loaded, [tokens], [relations]).means[0]
    continuation, comes = _continuation(loaded, tokens, logits_1V)
    title, judged, unjudged = _judged(slot)
    return Look(
        slot=slot,
        title=title or type(loaded.model).__name__,
        names=[token_name(loaded, index) for index in tokens.ids.tolist()],
        special=tokens.special,
        layers=[Place(number, layer.heads, _sees(loaded, number)) for number, layer in loaded.anatomy.layers.items()],
        attention=attention,
        relations=relations,
        means={name: mean.values for name, mean in means.items()},
        missing=missing,
        continuation=continuation,
        comes=comes,
        judged=judged,
        unjudged=unjudged,
        enlarged=enlarged,
    )


def _readable(text: str) -> None:
    if not isinstance(text, str):
        raise UserError(f"the text is {type(text).__name__}; expected str")
    if not text:
        raise UserError("the text is empty: there is nothing to look at")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of another encoding on a command line, or half of a surrogate pair
        raise UserError(f"the text is not UTF-8: character {error.start} is {text[error.start]!a}") from None


def _check(loaded: Loaded, slot: str, tokens: Tokens) -> None:
    heads = len(loaded.anatomy.heads)
    most = longest(heads, loaded.anatomy.causal, readable(loaded))
    if len(tokens) > most:
        raise UserError(
            f"the text has {len(tokens)} tokens in {slot}; at most {most} are shown "
            f"({heads} heads in one file below 5 MB, a map that can be read, and what the model reads)"
        )


def _head(loaded: Loaded, slot: str, name: str) -> tuple[int, int]:
    parts = re.fullmatch(r"L([0-9]{1,9})H([0-9]{1,9})", name)
    head = (int(parts[1]), int(parts[2])) if parts else None
    if head not in loaded.anatomy.heads:
        first, *_, last = ("L{}H{}".format(*each) for each in loaded.anatomy.heads)
        raise UserError(f"--heads: {slot} has no head {name!r}; its heads are {first} to {last}")
    return head


def _run(loaded: Loaded, tokens: Tokens) -> tuple[dict[int, np.ndarray], torch.Tensor | None]:
    """Return attention (H, T, S) by block and, of a decoder, the logits (1, V) after the last token, from one pass."""
    attention: dict[int, torch.Tensor] = {}

    def keep(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int) -> None:
        put(attention, layer, weights_BHTS[0].float().cpu(), start, len(tokens))

    rows = [np.array([len(tokens) - 1])] if loaded.kind == "decoder" else None
    with weighing(loaded, keep):
        logits_1V = forward(loaded, [tokens.ids], rows, headless=rows is None)
    return {layer: weights_HTS.numpy() for layer, weights_HTS in attention.items()}, logits_1V


def _continuation(
    loaded: Loaded, tokens: Tokens, logits_1V: torch.Tensor | None
) -> tuple[list[tuple[str, float]], str]:
    """Return the likeliest tokens, with probabilities, and what they are; none, and why, where nothing is predicted."""
    comes = "after the last token"
    if loaded.kind != "decoder":
        mask = loaded.tokenizer.mask_token_id
        if loaded.kind != "masked":
            return [], "This model predicts no token: it is an encoder without a language-model head."
        if mask is None:
            return [], "This model fills gaps, but its tokenizer has no mask token to make one with."
        ids, last = tokens.ids.copy(), int(np.flatnonzero(~tokens.special)[-1])
        comes = f"in the place of the last token, {token_name(loaded, ids[last])}, with it masked"
        ids[last] = mask
        logits_1V = forward(loaded, [ids], [np.array([last])])
    top = logits_1V[0].double().softmax(0).topk(NEXT)
    names = [token_name(loaded, index) for index in top.indices.tolist()]
    return list(zip(names, top.values.tolist(), strict=True)), f"The {NEXT} likeliest tokens {comes}."


def _sees(loaded: Loaded, number: int) -> str:
    """Return which tokens a layer's queries can look at, in words."""
    layer = loaded.anatomy.layers[number]
    reach = f"tokens less than {layer.window} away" if layer.window else "all tokens"
    sink = "; what its rows lack to 1 goes to a learned sink" if layer.sink else ""
    return f"sees {reach}{', none later' if loaded.anatomy.causal else ''}{sink}"


def _judged(slot: str) -> tuple[str, pd.DataFrame, str]:
    """Return the model's title, the slot's heads table, and why that is empty: it must speak of this very model."""
    own, reported = (_json(path) for path in (paths.model(slot), paths.report(slot) / "model.json"))
    title = own.get("name", "") + (f" ({own['stored']})" if own.get("stored") else "")
    path = paths.report(slot) / "heads.csv"
    heads = inputs.frame(path, inputs.COLUMNS["heads"].split())
    if len(heads) and reported.get("files") == own.get("files"):
        return title, heads, ""
    why = "is of another model" if len(heads) else "has no heads (dvc repro writes it)"
    return title, heads[:0], f"{path} {why}: which families these heads belong to is not known."


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); run dvc repro") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; run dvc repro")
    return value


if __name__ == "__main__":
    run(main, *sys.argv[1:])
