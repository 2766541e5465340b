"""Running a model: right-padded batches, logits only where asked, prefixes once, untouched layers skipped.

Seven exact shortcuts, used for a model where its proof at fetch (`stages.model.proof`) allows (chunks: caches):
- `rows`: the LM head sees only the rows that are scored, through a hook before it, so that whatever the model does
  to logits afterwards (soft-capping, scaling) still happens.
- `together`: of several passes the head reads the rows at once, in the last of them: its weights, the largest matrix of
  a small model, are read once for some hundred rows (Gemma 3 270M: 2.5 ms a row in place of 5.5).
- `Unread`: where logits are only scored, the head reads a piece of its vocabulary at a time (`stages.model.unread`).
- `prefixes`: a cache that never grows. A prefix runs once, any number of rows continue it, any number of times.
- chunks: a long text runs a part at a time, each continuing a cache of those before it (`stages.model.chunks`).
- `resuming`: every block below the first changed layer is skipped; the block there gets its intact input back. A pass
  may end at a block (`stopping`), and others go on from there.
- `narrowed`: after the last attention only the scored rows run (`stages.model.last_block`).

Legend: B batch, T token, D residual width, V vocabulary, N scored row.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from stages.families.family import Tokens
from stages.model.chunks import steady
from stages.model.last_block import narrowed, replaced
from stages.model.linear import Linears, applies
from stages.model.load import Loaded
from stages.model.prefixes import empty, of_pass
from stages.model.unread import Unread, plain

T = TypeVar("T")  # what is made of logits
HEAD = 384  # rows that the LM head reads at once, at most: their logits are a megabyte each in a large vocabulary
TALL = 512  # rows of a batch that the LM head reads, at most
USUAL = 2048  # tokens of the batches that such limits are for


@dataclass
class Waiting:
    """Hidden rows (N, D) of passes that wait for the LM head, in order; last: whether the next pass lets it read."""

    rows: list[torch.Tensor] = field(default_factory=list)
    last: bool = False


class _Waits(Exception):
    """A pass has come to the LM head, which is to read its rows later, or to the block where it is to end."""


class _Skipped(DynamicLayer):
    """A layer whose block a pass skips: as long as the others, since positions and masks are made by any of them."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


def pad(loaded: Loaded, ids: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pad token ids to (B, T) and give the attention mask."""
    width = max(map(len, ids))
    padding = loaded.tokenizer.pad_token_id if loaded.tokenizer.pad_token_id is not None else 0
    ids_BT = torch.full((len(ids), width), padding, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, tokens in enumerate(ids):
        ids_BT[row, : len(tokens)] = torch.from_numpy(np.asarray(tokens))
        mask_BT[row, : len(tokens)] = 1
    return ids_BT.to(loaded.device), mask_BT.to(loaded.device)


def inputs(loaded: Loaded, sequences: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """Return what a forward pass is given: ids right-padded to (B, T) and their mask, or an image model's pixels.

    sequences: of each prompt `Tokens.read`, ids (T,) or pixels (C, H, W).
    """
    if loaded.images is not None:
        pixels = torch.from_numpy(np.stack(sequences))
        return {"pixel_values": pixels.to(loaded.device, loaded.model.dtype)}
    return dict(zip(("input_ids", "attention_mask"), pad(loaded, sequences), strict=True))


def forward(
    loaded: Loaded,
    ids: Sequence[np.ndarray],
    rows: Sequence[np.ndarray] | None = None,
    cache: Cache | None = None,
    headless: bool = False,
    gradients: bool = False,
    waiting: Waiting | None = None,
    whole: bool = True,
) -> torch.Tensor | Unread | None:
    """Run a batch and return float logits (N, V) of the asked positions of each prompt, in order; None without rows.

    ids: token ids per prompt (of an image its pixels), following the cache's prefix; rows: positions within them;
    headless: no LM head at all; gradients: keep the graph; waiting: of several passes (`together`): the last returns
    the logits of all of them, the others None; whole: False where they are only scored: they may then be `Unread`,
    of which `hidden_ND` alone is in a graph.
    """
    given: dict[str, Any] = inputs(loaded, ids)
    cuts = loaded.kind == "decoder" and loaded.caches and not gradients and loaded.chunks.wanted(max(map(len, ids)))
    cuts = cuts and steady(loaded.model, max(map(len, ids)) + (0 if cache is None else cache.get_seq_length()))
    if cuts and cache is None:
        cache = empty(loaded)
    if cache is not None:
        cache = of_pass(cache, len(ids), cuts)
        mask_BT = given["attention_mask"]
        given["attention_mask"] = torch.cat([mask_BT.new_ones(len(ids), cache.get_seq_length()), mask_BT], dim=1)
        given |= {"past_key_values": cache, "use_cache": True}
    elif loaded.kind == "decoder":
        given["use_cache"] = False
    waiting = Waiting(last=True) if waiting is None else waiting
    output, head = None, loaded.model.get_output_embeddings() if rows is not None and not whole else None
    reads = head is None or not loaded.ends or not plain(head)
    selecting = ExitStack() if rows is None else _selecting(loaded, rows, waiting, reads)
    chunks = closing(_chunked(loaded, given)) if cuts else nullcontext([given])
    narrow = narrowed(loaded, rows) if loaded.narrows and not gradients else nullcontext()
    # torch warns that the flash kernel sums gradients in any order
    exact = sdpa_kernel(SDPBackend.MATH) if gradients and loaded.device.type == "cuda" else nullcontext()
    sooner = nullcontext() if gradients or not applies(loaded.device, loaded.model.dtype) else Linears()
    with torch.set_grad_enabled(gradients), exact, selecting, narrow, sooner, chunks as parts:
        model = loaded.model.base_model if headless else loaded.model
        for part in parts:
            with suppress(_Waits):
                output = model(**part)
    if rows is None or not waiting.last:
        return None
    if not reads:
        return Unread(torch.cat(waiting.rows), head)
    if output.logits.shape[:2] != (1, sum(map(len, waiting.rows))):
        raise RuntimeError(f"{type(loaded.model).__name__}: its LM head does not read what the hook before it gives")
    return output.logits[0].float()


@dataclass(frozen=True)
class Pass(Generic[T]):
    """A pass whose rows may wait for those of others.

    run: hands what it is given to `forward` and returns that; rows: how many it asks for; read: what is made of their
    logits (N, V), which are not kept.
    """

    run: Callable[[Waiting], torch.Tensor | Unread | None]
    rows: int
    read: Callable[[torch.Tensor | Unread], T]


def grown(limit: int, max_tokens: int) -> int:
    """Return a limit for larger batches than usual, as a GPU wants them: as many times larger."""
    return limit * max(1, max_tokens // USUAL)


def together(loaded: Loaded, passes: Sequence[Pass[T]], head: int = 0) -> Iterator[T]:
    """Yield what is read of the logits of passes, in order; at the LM head `head` of their rows go together, at most.

    head: `HEAD` where not given.
    Each pass runs alone where this is not proven for the model (`Loaded.gathers`).
    """
    group: list[Pass[T]] = []
    head = head or HEAD
    for each in passes:
        if group and (not loaded.gathers or sum(other.rows for other in group) + each.rows > head):
            yield from _at_once(group)
            group = []
        group.append(each)
    if group:
        yield from _at_once(group)


def _at_once(passes: Sequence[Pass[T]]) -> list[T]:
    waiting = Waiting()
    for each in passes[:-1]:
        each.run(waiting)
    waiting.last = True
    parts = passes[-1].run(waiting).split([each.rows for each in passes])
    return [each.read(logits_NV) for each, logits_NV in zip(passes, parts, strict=True)]


@contextmanager
def _selecting(loaded: Loaded, rows: Sequence[np.ndarray], waiting: Waiting, reads: bool) -> Iterator[None]:
    """Let the LM head see only the asked rows, and with the last of the passes that wait those of the others.

    Passes before the last end at the head, and where it is not to read (`reads`) so does the last. A decoder's head is
    its output embedding alone, so the cut is made there. A masked model's head begins earlier (BERT transforms and
    normalises before it projects) but always right after the body: there the body's output is cut.
    """
    device = loaded.device
    prompt = torch.tensor([index for index, asked in enumerate(rows) for _ in asked], dtype=torch.long, device=device)
    position = torch.tensor([int(value) for asked in rows for value in asked], dtype=torch.long, device=device)

    chunks, picked = loaded.chunks, {}

    def chosen(hidden_BTD: torch.Tensor) -> torch.Tensor:
        row, at = prompt.to(hidden_BTD.device), position.to(hidden_BTD.device)
        if chunks.length:
            chunks.keep(picked, "hidden", hidden_BTD)
        if not chunks.last:
            raise _Waits
        waiting.rows.append(picked.pop("hidden", hidden_BTD)[row, at])
        if not (waiting.last and reads):
            raise _Waits
        return torch.cat(waiting.rows)[None]  # (1, N, D)

    def before(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (chosen(args[0]),)

    def after(module: torch.nn.Module, args: tuple, output: Any) -> Any:
        hidden_1ND = chosen(output[0])
        return (hidden_1ND,) if isinstance(output, tuple) else type(output)(last_hidden_state=hidden_1ND)

    body = loaded.model.base_model
    if loaded.kind == "masked" and body is not loaded.model:
        handle = body.register_forward_hook(after)
    else:
        handle = loaded.model.get_output_embeddings().register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def _chunked(loaded: Loaded, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a pass is given, chunk by chunk: each continues the cache of those before it."""
    cache, mask_BS = given["past_key_values"], given["attention_mask"]
    before, skipped = cache.get_seq_length(), {}
    with loaded.chunks.running(*given["input_ids"].shape) as chunks:
        for chunk in chunks:
            seen = before + chunk.stop
            ids_BT = given["input_ids"][:, chunk]
            yield given | {"input_ids": ids_BT, "attention_mask": mask_BS[:, :seen]}
            for number, entry in enumerate(cache.layers):
                if isinstance(entry, DynamicLayer) and entry.get_seq_length() < seen:
                    skipped.setdefault(number, entry)
                    cache.layers[number] = _Skipped(seen)
    for number, entry in skipped.items():
        cache.layers[number] = entry


def prefill(loaded: Loaded, ids: Sequence[np.ndarray]) -> Cache:
    """Run prefixes of one length and return their cache, plain."""
    cache = empty(loaded)
    forward(loaded, ids, cache=cache, headless=True)
    return cache


@contextmanager
def remembering(loaded: Loaded, after: bool = False) -> Iterator[dict[int, torch.Tensor]]:
    """Collect the residual (B, T, D) at the input of every attention layer's block, for `resuming`, by layer.

    after: at its output instead.
    """
    residuals: dict[int, torch.Tensor] = {}
    with ExitStack() as stack:
        for number, layer in loaded.anatomy.layers.items() if loaded.resumes or after else ():

            def keep(module: Any, args: tuple, kwargs: dict, number: int = number) -> None:
                loaded.chunks.keep(residuals, number, args[0] if args else kwargs["hidden_states"])

            def keep_after(module: Any, args: tuple, output: Any, number: int = number) -> None:
                loaded.chunks.keep(residuals, number, output[0] if isinstance(output, tuple | list) else output)

            block = loaded.model.get_submodule(layer.block)
            if after:
                stack.callback(block.register_forward_hook(keep_after).remove)
            else:
                stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
        yield residuals


@contextmanager
def resuming(loaded: Loaded, layer: int, residual_BTD: torch.Tensor | None) -> Iterator[None]:
    """Skip every block below `layer`; that block then reads `residual_BTD`.

    Nothing is skipped, and nothing given back, in a model for which this is not proven (`Loaded.resumes`).
    """
    if not loaded.resumes or residual_BTD is None:
        yield
        return
    anatomy = loaded.anatomy
    with ExitStack() as stack:
        for path, returns in zip(anatomy.blocks[:layer], anatomy.returns, strict=False):

            def skip(*args: Any, returns: int = returns, **kwargs: Any) -> Any:
                x_BTD = loaded.chunks.part(residual_BTD)
                return x_BTD if returns == 0 else (x_BTD, *[None] * (returns - 1))

            stack.enter_context(replaced(loaded.model.get_submodule(path), skip))

        def give(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            x_BTD = loaded.chunks.part(residual_BTD)
            return ((x_BTD, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x_BTD})

        block = loaded.model.get_submodule(anatomy.blocks[layer])
        stack.callback(block.register_forward_pre_hook(give, with_kwargs=True, prepend=True).remove)
        yield


@contextmanager
def stopping(loaded: Loaded, layer: int | None) -> Iterator[dict[int, torch.Tensor]]:
    """End passes at a layer's block and collect what it would read, (B, T, D) by layer, for `resuming`.

    None: they run to their end, and nothing is collected.
    """
    reached: dict[int, torch.Tensor] = {}
    if layer is None:
        yield reached
        return

    def end(module: Any, args: tuple, kwargs: dict) -> None:
        loaded.chunks.keep(reached, layer, args[0] if args else kwargs["hidden_states"])
        raise _Waits

    block = loaded.model.get_submodule(loaded.anatomy.blocks[layer])
    handle = block.register_forward_pre_hook(end, with_kwargs=True)
    try:
        yield reached
    finally:
        handle.remove()


def batches(prompts: Sequence[Tokens], max_tokens: int, rows: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Yield index lists of prompts that run together: sorted by length, then id; at most `max_tokens` padded tokens.

    rows: LM-head rows of each prompt, at most `TALL` together (a row of a large vocabulary is a megabyte), and as many
    times more as a batch is larger than usual.
    """
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), prompts[index].prompt))
    batch: list[int] = []
    for index in order:
        wide = (len(batch) + 1) * len(prompts[index]) > max_tokens
        tall = rows is not None and sum(rows[other] for other in batch) + rows[index] > grown(TALL, max_tokens)
        if batch and (wide or tall):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
