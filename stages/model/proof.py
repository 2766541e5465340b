"""Proof, at fetch, that a model is measured right: each check runs it in two ways that must agree.

    reads      its own logits, padded or not, all rows or a few, with attention watched or not, today and again
    heads      every head's output matters to what the model says: gradients reach each of them
    divides    attention computed a few queries at a time is the same function
    fuses      so is attention computed by SDPA, which gives no weights
    resumes    a pass that skips all blocks below an edited head equals the full pass, for every layer
    gathers    rows of several passes that the LM head reads at once get the logits of whole passes
    ends       nothing follows the LM head: what it says is what the model says
    narrows    the last block may leave out tokens that are not read: the others' logits stay, and so does a cache
    caches     prompts that continue a cache of their prefix, edited or not, equal full passes
    vectors    what heads write joins the residual at a known place

A model that fails `reads` or `heads` is refused: `UserError` in one line that names it and the check. The others are
shortcuts: where one fails, the model runs without it, and the result says why (`Loaded.allowed`).

What is coarser than float32 may differ by more (`CLOSE`) and shows less: fetch proves such a model in float32 as well.
Full passes are edited by hooks written out here, not by the code that is tested. Legend: B row, T token, N output.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from stages.families.family import Tokens
from stages.model import placed, sharing
from stages.model.forward import Pass, Waiting, forward, inputs, prefill, remembering, resuming, together
from stages.model.intervene import Edit, Head, ablating, tracking
from stages.model.last_block import Unlike, alone
from stages.model.load import Loaded, fuse, open_folder, rounded
from stages.model.measure import weighing
from stages.model.observe import close
from stages.model.prefixes import frozen
from stages.model.probe import probe_inputs, width
from stages.model.score import Batch, LastToken, score_rows
from stages.model.unread import plain
from stages.store.errors import UserError

CLOSE = {  # of the largest output, by dtype: what two orders of the same sums may differ by
    torch.float32: 2e-5,
    torch.float16: 0.02,
    torch.bfloat16: 0.1,
}
PART = 1e-3  # of an edit's effect: a pass that misses more of it is another pass
SHORT = 16  # tokens of the prompts that edits are tried on
ROWS = 32  # edited rows in one full pass, at most


def proven(folder: Path, dtype: str, device_map: Any) -> tuple[Loaded, dict[str, str]]:
    """Load a folder, find its anatomy and prove it: in float32, where what differs is seen, and as it will run."""
    if dtype == "float32":
        return prove(open_folder(folder, device_map))
    looked_at, exact = prove(open_folder(folder, None if device_map is None else "auto"))
    looked_at = replace(looked_at, model=None)  # its weights are no longer needed
    loaded, coarse = prove(rounded(looked_at, folder, dtype, device_map))
    proof = {name: exact[name] if exact[name] != "ok" else coarse[name] for name in exact}
    return loaded.allowed(proof), proof


def prove(loaded: Loaded) -> tuple[Loaded, dict[str, str]]:
    """Return the model with the shortcuts that are exact for it, and check -> 'ok' or 'not used: why'.

    Raises `UserError` where the model cannot be measured at all.
    """
    probe = next(iter(probe_inputs(loaded.model, 1).values()))[0].cpu()  # (T,), or pixels (C, H, W)
    ids = (probe.float() if probe.is_floating_point() else probe).numpy()
    plain = loaded.allowed(dict.fromkeys(SHORTCUTS, "not proven yet"))
    first = _hidden(plain, [ids])
    _reads(plain, ids, first)
    _heads(plain, ids)
    proof = {"reads": "ok", "heads": "ok"}
    for name, check in tqdm(SHORTCUTS.items(), desc="checks of the model", unit="check"):
        later = dict.fromkeys(SHORTCUTS, "not proven yet")
        proof[name] = _outcome(check, loaded.allowed(later | proof | {name: "ok"}), ids)
    if not _same(loaded, _hidden(plain, [ids]), first):
        raise _refused(loaded, "reads", "something stays from pass to pass: the same text is not read the same twice")
    return loaded.allowed(proof), proof


def _reads(loaded: Loaded, ids: np.ndarray, first: torch.Tensor) -> None:
    """Refuse a model that reads a text otherwise beside a longer one, or while its attention is watched."""
    if not torch.isfinite(first).all():
        raise _refused(loaded, "reads", "its output on a random text is not finite")
    texts = [np.roll(ids[::-1], shift)[: len(ids) - cut].copy() for shift, cut in ((0, 1), (5, 3), (9, len(ids) // 2))]
    if loaded.images is not None:  # images are of one size
        texts = [np.roll(ids[..., ::-1], shift, axis=-1) for shift in (0, 5, 9)]
    together_BTD = _hidden(loaded, [ids, *texts])  # none of the short texts is the start of the long one
    for hidden_TD, text in zip(together_BTD[1:], texts, strict=True):
        alone_TD = _hidden(loaded, [text])[0]
        if not _same(loaded, hidden_TD[: len(alone_TD)], alone_TD):
            raise _refused(loaded, "reads", "what this model computes of a text depends on the texts beside it")
    watched: list[int] = []
    with weighing(loaded, lambda layer, *_: watched.append(layer)):
        if not _same(loaded, _hidden(loaded, [ids]), first):
            raise _refused(loaded, "reads", "watching its attention changes what it computes")
    if sorted(watched) != sorted(loaded.anatomy.layers):
        raise _refused(loaded, "reads", f"its attention is seen in layers {sorted(watched)}, its heads in others")
    if loaded.kind in ("decoder", "masked"):
        places = np.array([len(ids) // 2, len(ids) - 1])
        try:
            logits_NV = forward(loaded, [ids], [places])
        except RuntimeError as error:
            raise _refused(loaded, "reads", str(error)) from error
        if not _same(loaded, logits_NV, _logits(loaded, ids, places)):
            raise _refused(loaded, "reads", "its logits of a few rows are not those of a whole pass")


def _heads(loaded: Loaded, ids: np.ndarray) -> None:
    """Refuse a model whose outputs do not depend on each head's output, where W_O reads that head at all."""
    with tracking(loaded) as outputs, torch.enable_grad():
        last_BD = _hidden(loaded, [ids], gradients=True)[:, -1]
        direction_BD = torch.randn(last_BD.shape, generator=torch.Generator().manual_seed(0)).to(last_BD)
        (last_BD * direction_BD).sum().backward()
    for number, layer in loaded.anatomy.layers.items():
        z = outputs[number]
        if z.grad is None:
            raise _refused(loaded, "heads", f"no output depends on what {layer.projection} reads")
        size = layer.heads * layer.head_size
        gradient_H = z.grad[..., :size].unflatten(-1, (layer.heads, layer.head_size)).abs().amax((0, 1, 3))
        weight = placed.weight(loaded.model.get_submodule(layer.projection))
        weight = weight if weight.shape[0] == width(loaded.model.get_submodule(layer.projection)) else weight.T
        read_H = weight[:size].reshape(layer.heads, -1).abs().amax(1)
        lost_H = ~torch.isfinite(gradient_H) | ((gradient_H == 0) & (read_H.to(gradient_H.device) > 0))
        if lost_H.any():  # one number a layer is waited for, however many heads there are
            head = int(lost_H.nonzero()[0])
            raise _refused(loaded, "heads", f"no output depends on L{number}H{head} in {layer.projection}")


def _divides(loaded: Loaded, ids: np.ndarray) -> str:
    whole_1TD = _hidden(loaded, [ids])
    length = whole_1TD.shape[1]
    held = (1 + length // 4) * length * max(layer.heads for layer in loaded.anatomy.layers.values())
    with weighing(loaded, lambda *_: None, held):
        divided_1TD = _hidden(loaded, [ids])
    same = _same(loaded, divided_1TD, whole_1TD)
    return "" if same else "attention of a few queries at a time is another function"


def _fuses(loaded: Loaded, ids: np.ndarray) -> str:
    fused = fuse(loaded.model)
    loaded.model.set_attn_implementation("eager")
    return "" if fused else "the model offers no SDPA that is the same function"


def _resumes(loaded: Loaded, ids: np.ndarray) -> str:
    """Run, from every layer, the blocks up to the next: by induction over layers a pass from any of them is the full.

    An edit is tried beside it, and for a few layers to the end: what all of them would cost grows with depth squared.
    """
    ids = ids[:SHORT] if loaded.images is None else ids
    with remembering(loaded) as residuals:
        intact_BTD = _hidden(loaded, [ids, ids])
    edits = _edits(loaded)
    keep_BT = torch.tensor([[True], [False]], device=loaded.device)  # edited: the second row
    keep_BT = keep_BT.expand(intact_BTD.shape[:2])
    following = {layer: after for layer, after in pairwise(loaded.anatomy.layers)}
    for head, value in edits:
        after = following.get(head[0])
        expected_TD = intact_BTD[0] if after is None else residuals[after][0].float()
        with resuming(loaded, head[0], residuals[head[0]]):
            with ablating(loaded, {head: value}, keep_BT):
                kept_TD, edited_TD = _reaching(loaded, [ids, ids], after)
            with _writing(loaded, 1, head, value):
                _, written_TD = _reaching(loaded, [ids, ids], after)
        if not (_same(loaded, kept_TD, expected_TD) and _agree(loaded, edited_TD, written_TD, expected_TD)):
            return f"a pass that begins at block {head[0]} is not the full pass"
    few = _few(edits)
    for (head, value), full_TD in zip(few, _edited(loaded, ids, few), strict=True):
        with resuming(loaded, head[0], residuals[head[0]]), ablating(loaded, {head: value}, keep_BT):
            kept_TD, edited_TD = _hidden(loaded, [ids, ids])
        if not (_same(loaded, kept_TD, intact_BTD[0]) and _agree(loaded, edited_TD, full_TD, intact_BTD[0])):
            return f"a pass that begins at block {head[0]} does not end as the full pass"
    return ""


def _gathers(loaded: Loaded, ids: np.ndarray) -> str:
    if loaded.kind not in ("decoder", "masked"):
        return "it has no LM head"
    texts = [ids[:SHORT], ids[SHORT // 2 : SHORT * 2], ids[::-1][:SHORT].copy()]
    places = [np.arange(len(text) - count, len(text)) for count, text in enumerate(texts, 1)]
    passes = [
        Pass(partial(_waiting, loaded, text, at), len(at), lambda logits_NV: logits_NV)
        for text, at in zip(texts, places, strict=True)
    ]
    for text, at, logits_NV in zip(texts, places, together(loaded, passes), strict=True):
        if not _same(loaded, logits_NV, _logits(loaded, text, at)):
            return "logits of rows of several passes are not those of whole passes"
    return ""


def _ends(loaded: Loaded, ids: np.ndarray) -> str:
    """Put random numbers in the place of what the head says: they must come out as they are."""
    if loaded.kind != "decoder":
        return "only a decoder may end with one matrix"
    head, ids = loaded.model.get_output_embeddings(), ids[:SHORT]
    if not plain(head):
        return "its LM head is not one matrix in the processor's memory"
    generator = torch.Generator().manual_seed(0)
    says = 100 * torch.randn(1, len(ids), head.out_features, generator=generator).to(head.weight)
    hook = head.register_forward_hook(lambda *_: says)
    try:
        if not torch.equal(_logits(loaded, ids, np.arange(len(ids))), says[0].float()):
            return "its logits are not what its LM head says"
    finally:
        hook.remove()
    places = np.arange(1, len(ids))
    (scored,) = score_rows(forward(loaded, [ids], [places - 1], whole=False), [ids], [places])
    expected = _logprob(_logits(loaded, ids, places - 1), ids[places])
    same = _same(loaded, torch.from_numpy(scored.logprob), expected)
    return "" if same else "logits read in pieces are not those of whole passes"


def _narrows(loaded: Loaded, ids: np.ndarray) -> str:
    if loaded.kind != "decoder":
        return "only in a decoder is nothing looked at but some rows of logits"
    if not alone(loaded):
        return "its last block does not attend"
    texts = [ids, ids[::-1][:SHORT].copy()]  # the whole probe: what reaches far is seen as well
    places = [np.array([1, len(text) - 3, len(text) - 1]) for text in texts]
    try:
        few_NV = forward(loaded, texts, places)
    except Unlike as error:
        return str(error)
    whole_NV = torch.cat([_logits(loaded, *pair) for pair in zip(texts, places, strict=True)])
    return "" if _same(loaded, few_NV, whole_NV) else "a token that is not read matters in the last block"


def _waiting(loaded: Loaded, text: np.ndarray, at: np.ndarray, waiting: Waiting) -> torch.Tensor | None:
    return forward(loaded, [text], [at], waiting=waiting)


def _caches(loaded: Loaded, ids: np.ndarray) -> str:
    if loaded.kind != "decoder":
        return "only decoders continue a text"
    short, half, last = ids[:SHORT], len(ids) // 2, len(ids) - 1
    grown, places = prefill(loaded, [ids[:half]]), np.array([half, last - 1])
    several_NV = forward(loaded, [ids[half:last]], [places - half], grown)  # as chunks do
    if not _same(loaded, several_NV, _logits(loaded, ids, places)):
        return "a text that continues a cache is not read as the whole text"
    singles, at = [ids[last:], *(ids[place : place + 1] for place in range(7))], np.array([0])
    wholes = [np.concatenate([ids[:last], single]) for single in singles]
    expected_NV = forward(loaded, wholes, [at + last] * len(wholes))  # no cache
    one_NV = forward(loaded, singles[:1], [at], grown)  # models read one token by code of its own: what is written
    more_NV = forward(loaded, singles, [at] * len(singles), frozen(prefill(loaded, [ids[:last]])))
    if not _same(loaded, torch.cat([one_NV, more_NV]), torch.cat([expected_NV[:1], expected_NV])):
        return "a single token that continues a cache is not read as in the whole text"
    edits = _few(_edits(loaded))
    target = np.arange(len(short) - 3, len(short))
    tokens = Tokens("probe", "probe", short, np.zeros(len(short), dtype=bool), target)
    scored = LastToken(loaded, tokens).edited([Edit(), *(Edit(heads=dict([edit])) for edit in edits)])
    intact, *edited = (torch.from_numpy(answer.logprob) for answer in scored)
    expected = _logprob(_logits(loaded, short, target - 1), short[target])
    if not _agree(loaded, intact, expected, expected):
        return "a text that continues a cache is not read as the whole text"
    full = _edited(loaded, short, edits, position=int(target[0]) - 1, places=target - 1)
    for (head, _), got, logits in zip(edits, edited, full, strict=True):
        if not _agree(loaded, got, _logprob(logits, short[target]), intact):
            return f"an edit in block {head[0]} on top of a cache is not that of the whole text"
    cut = len(ids) * 2 // 3
    if cut < sharing.SHARED:
        return ""
    texts = [ids, np.concatenate([ids[:cut], ids[:cut:-1][:9]])]
    prompts = [Tokens("probe", "probe", text, np.zeros(len(text), dtype=bool)) for text in texts]
    places = [np.arange(len(text) - 3, len(text)) for text in texts]
    batch = Batch(loaded, prompts, places)
    both = dict([edits[0], edits[len(edits) // 2]])
    for row, got in enumerate(batch.ablated(both, everywhere=True)):
        targets = texts[row][places[row]]
        with ExitStack() as stack:
            for head, value in both.items():
                stack.enter_context(_writing(loaded, 0, head, value))
            full_NV = forward(loaded, texts[row : row + 1], [places[row] - 1])
        before = torch.from_numpy(batch.intact[row].logprob)
        if not _agree(loaded, torch.from_numpy(got.logprob), _logprob(full_NV, targets), before):
            blocks = " and ".join(str(layer) for layer, _ in both)
            return f"an ablation in blocks {blocks} of texts that share a cache is not that of whole texts"
    return ""


def _vectors(loaded: Loaded, ids: np.ndarray) -> str:
    missing = [number for number, layer in loaded.anatomy.layers.items() if not layer.joins]
    return f"where the heads of layers {missing} join the residual was not found" if missing else ""


SHORTCUTS: dict[str, Callable[[Loaded, np.ndarray], str]] = {
    "divides": _divides,
    "fuses": _fuses,
    "resumes": _resumes,
    "gathers": _gathers,
    "ends": _ends,
    "narrows": _narrows,
    "caches": _caches,
    "vectors": _vectors,
}


def _outcome(check: Callable[[Loaded, np.ndarray], str], loaded: Loaded, ids: np.ndarray) -> str:
    """Return 'ok' or 'not used: why'; a shortcut may fail in as many ways as there are architectures."""
    try:
        why = check(loaded, ids)
    except Exception as error:
        raised = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        why = f"the model does not run so ({raised})"
    return f"not used: {why}" if why else "ok"


def _hidden(loaded: Loaded, texts: Sequence[np.ndarray], gradients: bool = False) -> torch.Tensor:
    """Return the last hidden states (B, T, D), without a head."""
    with torch.set_grad_enabled(gradients):
        return loaded.model.base_model(**inputs(loaded, texts))[0].float()


@torch.no_grad()
def _logits(loaded: Loaded, ids: np.ndarray, places: np.ndarray) -> torch.Tensor:
    """Return the logits (N, V) of a plain pass at some places: no cache, every row of logits computed."""
    ids_1T = torch.from_numpy(ids)[None].to(loaded.device)
    return loaded.model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T))[0][0, places].float()


def _edits(loaded: Loaded) -> list[tuple[Head, torch.Tensor]]:
    """Return one head of each layer and what is written in its place: large random values, so that it shows."""
    generator = torch.Generator().manual_seed(0)
    return [
        ((number, number % layer.heads), 3 * torch.randn(layer.head_size, generator=generator))
        for number, layer in loaded.anatomy.layers.items()
    ]


def _few(edits: Sequence[tuple[Head, torch.Tensor]]) -> Sequence[tuple[Head, torch.Tensor]]:
    """Return edits of at most seven layers, spread over depth."""
    return edits[:: 1 + len(edits) // 6]


def _edited(
    loaded: Loaded,
    ids: np.ndarray,
    edits: Sequence[tuple[Head, torch.Tensor]],
    position: int | None = None,
    places: np.ndarray | None = None,
) -> list[torch.Tensor]:
    """Return hidden states (T, D), or logits (N, V) at `places`, of full passes; rows of one batch, an edit in each.

    position: where the edit is made; None for all of them.
    """
    outputs: list[torch.Tensor] = []
    for start in range(0, len(edits), ROWS):
        chosen = edits[start : start + ROWS]
        with ExitStack() as stack:
            for row, (head, value) in enumerate(chosen):
                stack.enter_context(_writing(loaded, row, head, value, position))
            if places is None:
                outputs += _hidden(loaded, [ids] * len(chosen))
            else:
                outputs += forward(loaded, [ids] * len(chosen), [places] * len(chosen)).split(len(places))
    return outputs


@contextmanager
def _writing(loaded: Loaded, row: int, head: Head, value: torch.Tensor, position: int | None = None) -> Iterator[None]:
    """Write `value` (K,) in the place of a head's output, in one row, at one position or (None) at all."""
    layer = loaded.anatomy.layers[head[0]]
    start = head[1] * layer.head_size
    where = slice(None) if position is None else position

    def write(module: nn.Module, args: tuple) -> tuple:
        x = args[0].clone()
        x[row, where, start : start + len(value)] = value.to(x)
        return (x, *args[1:])

    hook = loaded.model.get_submodule(layer.projection).register_forward_pre_hook(write)
    try:
        yield
    finally:
        hook.remove()


class _Reached(Exception):
    """A pass has come to the block that it was to reach."""


def _reaching(loaded: Loaded, texts: Sequence[np.ndarray], layer: int | None) -> torch.Tensor:
    """Return the residual (B, T, D) that `layer`'s block receives, without running it; None: the last hidden states."""
    if layer is None:
        return _hidden(loaded, texts)
    received: list[torch.Tensor] = []

    def stop(module: nn.Module, args: tuple, kwargs: dict) -> None:
        received.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    block = loaded.model.get_submodule(loaded.anatomy.layers[layer].block)
    hook = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with suppress(_Reached):
            _hidden(loaded, texts)
    finally:
        hook.remove()
    return received[0].float()


def _logprob(logits_NV: torch.Tensor, targets_N: np.ndarray) -> torch.Tensor:
    targets_N1 = torch.from_numpy(targets_N)[:, None].to(logits_NV.device)
    return logits_NV.log_softmax(1).gather(1, targets_N1)[:, 0].cpu()


def _same(loaded: Loaded, x: torch.Tensor, y: torch.Tensor) -> bool:
    return close(x, y, CLOSE[loaded.model.dtype])


def _agree(loaded: Loaded, x: torch.Tensor, expected: torch.Tensor, intact: torch.Tensor) -> bool:
    """Say whether x is what is expected, up to a small part of what the edit changed."""
    error, effect = (x - expected).abs().max(), (expected - intact).abs().max()
    return x.shape == expected.shape and bool(error <= PART * effect + CLOSE[loaded.model.dtype] * expected.abs().max())


def _refused(loaded: Loaded, check: str, why: str) -> UserError:
    return UserError(f"{type(loaded.model).__name__}: it cannot be measured (proof of {check}): {why}")
