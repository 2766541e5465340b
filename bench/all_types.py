"""Every causal, masked and vision-language type of the installed transformers: measured right, refused, or wrong.

    python -m bench.all_types                        # all, about MINUTES minutes on two cores; writes bench/all_types.csv
    python -m bench.all_types --only jamba gpt_oss   # some types, printed

For each type a tiny random model is saved (`bench.tiny_types`), opened by `stages.model.load.open_folder` and compared
with a second instance of the same folder that only this file runs, in the library's own eager way:

    logits      the project's rows of logits = the plain forward pass
    kind        'decoder' where no later token changes an earlier output, 'masked' where one does
    coverage    every module that returns attention weights is measured, or skipped with a reason
    statistics  mass, hits and nulls = loops over the weights that the attention module returns, visible = weight > 0
    projection  d z_h / d weights is nonzero for head h alone, in every layer: W_O's input really is one slice per head;
                and with the head's columns zeroed, its weights change no logit: nothing else reads them
    ablation    one head of every layer, zero and a constant: = columns of W_O zeroed, its output shifted by W_O c
    shortcut    `Batch.ablated` with shared prefixes and skipped blocks = plain full passes with those columns
    last token  `LastToken.edited`, a head's output in place and a vector added = full passes with both written out here
    vector      `function_vector` = what the next norm that reads the residual sees with and without the head's part
    padding     short and long together = alone

Tolerances: 1e-5 for statistics, 1e-4 of the logits' largest size elsewhere. Outcomes: `right`; `refused` (the one line);
`WRONG` (check and size); `traceback` (check and last line); `not built`: no tiny model could be made. A check that refuses by
a line of its own is named in `detail`. The committed table is the state of the code that it was committed with.

Legend: T token, S key token, H head, K head size, D residual width, V vocabulary.
"""

import argparse
import csv
import logging
import multiprocessing
import multiprocessing.connection
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from bench import tiny_types
from stages.families.family import Relation, Tokens
from stages.model.anatomy import Layer
from stages.model.forward import forward
from stages.model.intervene import Edit, ablating
from stages.model.load import Loaded, open_folder
from stages.model.measure import measure
from stages.model.score import Batch, LastToken
from stages.model.vectors import function_vector
from stages.store.errors import UserError

log = logging.getLogger(__name__)
TABLE = Path(__file__).with_suffix(".csv")
SECONDS = 120  # for one type
LONG, SHORT = 80, 66  # tokens: more than any window or chunk of the tiny models
EXACT, CLOSE = 1e-5, 1e-4


class Wrong(Exception):
    """A number that is not what it should be."""


def near(what: str, ours, right, tolerance: float, scale: float = 1.0) -> None:
    """Raise `Wrong` where two arrays differ by more than tolerance x scale."""
    ours, right = (
        np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, dtype=np.float64) for x in (ours, right)
    )
    if ours.shape != right.shape:
        raise Wrong(f"{what}: shape {ours.shape} for {right.shape}")
    if (np.isnan(ours) != np.isnan(right)).any():
        raise Wrong(f"{what}: nan in other places")
    worst = float(np.nanmax(np.abs(ours - right), initial=0)) if ours.size else 0.0
    if worst > tolerance * scale:
        raise Wrong(f"{what}: off by {worst / scale:.1e}" + (" of the scale" if scale != 1.0 else ""))


def prompt(length: int, seed: int, start: np.ndarray | None = None) -> Tokens:
    """Random ordinary ids after a BOS, or after another prompt's start; some tokens scored."""
    ids = np.random.default_rng(seed).integers(5, 200, length)
    ids[0] = 1
    if start is not None:
        ids[: len(start)] = start
    return Tokens(f"p{seed}", "test", ids, np.arange(length) == 0, np.arange(length - 6, length))


def relation(tokens: Tokens, share: float, seed: int) -> Relation:
    """Random keys on either side of the query."""
    generator = np.random.default_rng(seed)
    queries = np.sort(generator.choice(len(tokens), len(tokens) // 2, replace=False))
    return Relation(queries, generator.random((len(queries), len(tokens))) < share)


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
                for part in output if isinstance(output, tuple) else ():
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
        module = self.module(layer.projection)
        kept = module.weight.detach().clone()
        rows = slice(head * layer.head_size, (head + 1) * layer.head_size)
        matrix_DK = (kept.T if isinstance(module, Conv1D) else kept)[:, rows]
        with torch.no_grad():
            (module.weight.T if isinstance(module, Conv1D) else module.weight)[:, rows] = 0
        handles = []
        if constant is not None:
            handles.append(module.register_forward_hook(lambda module, args, output: output + matrix_DK @ constant))
        try:
            with hooked(*handles):
                yield
        finally:
            with torch.no_grad():
                module.weight.copy_(kept)

    def columns(self, layer: Layer, head: int) -> torch.Tensor:
        """Return W_O[:, h] (D, K)."""
        module = self.module(layer.projection)
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        return weight[:, head * layer.head_size : (head + 1) * layer.head_size]


@dataclass
class Trial:
    """One type: the project's model and ours, and the prompts that both run."""

    loaded: Loaded
    reference: Reference

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.long, self.short = prompt(LONG, 0), prompt(SHORT, 1)
        self.heads = [
            (index, int(torch.randint(layer.heads, (1,), generator=self.generator)))
            for index, layer in enumerate(self.loaded.anatomy.layers)
        ]
        self.notes: list[str] = []

    def layer(self, index: int) -> Layer:
        """Return an attention layer by the number that heads carry."""
        return self.loaded.anatomy.layers[index]

    @cached_property
    def logits(self) -> torch.Tensor:
        """The intact logits (T, V) of the long prompt."""
        with torch.no_grad():
            return self.reference(self.long.ids)

    @cached_property
    def scale(self) -> float:
        """The largest logit's size."""
        return float(self.logits.abs().max())

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """Weights by module of the long prompt."""
        with torch.no_grad():
            return self.reference.weights(self.long.ids)

    def ours(self, tokens: Tokens) -> torch.Tensor:
        """The project's logits (T, V)."""
        return forward(self.loaded, [tokens.ids], [np.arange(len(tokens))])

    # the checks

    def check_logits(self) -> None:
        """Rows of logits."""
        near("logits", self.ours(self.long), self.logits, CLOSE, self.scale)

    def check_kind(self) -> None:
        """Causality decides."""
        other = self.long.ids.copy()
        other[LONG // 2 :] = np.random.default_rng(5).integers(5, 200, LONG - LONG // 2)
        with torch.no_grad():
            change = float((self.reference(other) - self.logits)[: LONG // 2].abs().max()) / self.scale
        causal = change < CLOSE
        if causal != (self.loaded.kind == "decoder"):
            raise Wrong(
                f"kind {self.loaded.kind!r}, but a later token changes earlier logits by {change:.1e} of the scale"
            )

    def check_coverage(self) -> None:
        """Attention modules neither measured nor skipped."""
        known = [layer.attention for layer in self.loaded.anatomy.layers] + list(self.loaded.anatomy.skipped)
        known = list(map(self.reference.name, known))
        lost = [
            n for n in self.weights if not any(n == k or n.startswith(f"{k}.") or k.startswith(f"{n}.") for k in known)
        ]
        if lost:
            raise Wrong(f"coverage: {len(lost)} attention modules neither measured nor skipped, {lost[0]}")
        unseen = [layer.attention for layer in self.loaded.anatomy.layers if self._weights(layer) is None]
        if unseen:
            self.notes.append(f"no reference weights for {len(unseen)} of {len(self.loaded.anatomy.layers)} layers")

    def _weights(self, layer: Layer, source: dict | None = None) -> torch.Tensor | None:
        source, name = self.weights if source is None else source, self.reference.name(layer.attention)
        return next((w for n, w in source.items() if n == name or n.startswith(f"{name}.")), None)

    def check_statistics(self) -> None:
        """Mass, hits, nulls."""
        relations = {"some": relation(self.long, 0.2, 1), "many": relation(self.long, 0.6, 2)}
        means = measure(self.loaded, [self.long], [relations]).means[0]
        faults: Counter[str] = Counter()
        sizes: dict[str, float] = {}
        compared = 0
        for index, layer in enumerate(self.loaded.anatomy.layers):
            weights = self._weights(layer)
            if weights is None or weights.shape[1] != layer.heads:
                continue
            compared += 1
            if index == 0 and (sums := weights[0].sum(-1)).min() < 1 - 1e-4:
                self.notes.append(f"rows sum to {float(sums.min()):.2f} at least")
            for name, asked in relations.items():
                for key, right_H in naive(weights[0].double().numpy(), asked, self.long.special).items():
                    off = np.abs(means[name].values[key][index, : layer.heads] - right_H)
                    size = 1.0 if np.isnan(off).any() else float(off.max())
                    if size > EXACT * max(1.0, float(np.nanmax(np.abs(right_H)))):
                        faults[key] += 1
                        sizes[key] = max(sizes.get(key, 0.0), size)
        if faults:
            raise Wrong("statistics: " + ", ".join(f"{key} off by {sizes[key]:.1e}" for key in sorted(faults)))
        if not compared:
            raise Unproved("statistics: the model returns no weights to compare with")

    def check_projection(self) -> None:
        """One slice per head."""
        inputs: dict[int, torch.Tensor] = {}
        handles = []
        for index, layer in enumerate(self.loaded.anatomy.layers):

            def keep(module, args, index=index):
                inputs[index] = args[0]

            module = self.reference.module(layer.projection)
            handles.append(module.register_forward_pre_hook(keep))
        self.reference.model.requires_grad_(True)
        try:
            with hooked(*handles):
                weights = self.reference.weights(self.long.ids)
            for index, layer in enumerate(self.loaded.anatomy.layers):
                weight = self._weights(layer, weights)
                if weight is None or not weight.requires_grad or index not in inputs:
                    self.notes.append(f"projection of layer {index} unproved") if index == 0 else None
                    continue
                z = inputs[index].reshape(-1, layer.heads, layer.head_size)
                for head in range(layer.heads):
                    (slope,) = torch.autograd.grad(
                        z[:, head].pow(2).sum(), weight, retain_graph=True, allow_unused=True
                    )
                    if slope is None:
                        raise Wrong(f"projection: {layer.projection} does not read layer {index}'s weights")
                    moved_H = slope[0].abs().amax((-1, -2)) > 0
                    if not moved_H[head] or moved_H.sum() != 1:
                        raise Wrong(
                            f"projection: slice {head} of {layer.projection} reads heads {moved_H.nonzero().flatten().tolist()}"
                        )
            for index, head in self.heads:
                layer = self.layer(index)
                outputs: list[torch.Tensor] = []

                def read(module, args, output, outputs=outputs):
                    outputs.append(output.logits)

                with self.reference.without(layer, head):
                    with hooked(self.reference.model.register_forward_hook(read)):
                        seen = self.reference.weights(self.long.ids)
                    weight = self._weights(layer, seen)
                    if weight is None or not weight.requires_grad:
                        continue
                    (slope,) = torch.autograd.grad(outputs[0].pow(2).sum(), weight, allow_unused=True)
                if slope is not None and slope[0, head].abs().max() > 1e-6 * slope.abs().max().clamp(min=1e-12):
                    raise Wrong(f"projection: layer {index}: a head's weights reach the logits past {layer.projection}")
        finally:
            self.reference.model.requires_grad_(False)

    def check_ablation(self) -> None:
        """One head of every layer, zero and a constant."""
        for index, head in self.heads:
            layer = self.layer(index)
            constant = torch.randn(layer.head_size, generator=self.generator)
            for name, value in (("zero", None), ("constant", constant)):
                written = torch.zeros(layer.head_size) if value is None else value
                with torch.no_grad(), self.reference.without(layer, head, value):
                    right = self.reference(self.long.ids)
                if float((right - self.logits).abs().max()) < 1e-7 * self.scale:
                    raise Wrong(f"ablation: L{index}H{head} {name} changes no logit")
                with ablating(self.loaded, {(index, head): written}):
                    ours = self.ours(self.long)
                near(f"ablation, L{index}H{head} {name}", ours, right, CLOSE, self.scale)

    def check_shortcut(self) -> None:
        """Resumed passes and shared prefixes."""
        start = self.long.ids[:48]
        prompts = [prompt(60, 3, start), prompt(56, 4, start), prompt(60, 5, start)]
        batch = Batch(self.loaded, prompts, [tokens.target for tokens in prompts])
        with torch.no_grad():
            for tokens, scored in zip(prompts, batch.intact, strict=True):
                near("shortcut, intact", scored.logprob, self.reference.logprob(tokens), CLOSE, self.scale)
        for index, head in self.heads:
            layer = self.layer(index)
            results = batch.ablated({(index, head): torch.zeros(layer.head_size)}, everywhere=True)
            with torch.no_grad(), self.reference.without(layer, head):
                for tokens, scored in zip(prompts, results, strict=True):
                    right = self.reference.logprob(tokens)
                    near(f"shortcut, L{index}H{head}", scored.logprob, right, CLOSE, self.scale)

    def check_last_token(self) -> None:
        """Edits at the last token (decoders only)."""
        if self.loaded.kind != "decoder":
            return
        at = int(self.long.target[0]) - 1
        last = LastToken(self.loaded, self.long)
        with torch.no_grad():
            near(
                "last token, intact",
                last.edited([Edit()])[0].logprob,
                self.reference.logprob(self.long),
                CLOSE,
                self.scale,
            )
        edits, right = [], []
        for index, head in self.heads:
            layer = self.layer(index)
            value = torch.randn(layer.head_size, generator=self.generator)
            rows = slice(head * layer.head_size, (head + 1) * layer.head_size)

            def write(module, args, rows=rows, value=value):
                x = args[0].clone()
                x.view(-1, x.shape[-1])[at, rows] = value
                return (x, *args[1:])

            module = self.reference.module(layer.projection)
            with hooked(module.register_forward_pre_hook(write)), torch.no_grad():
                right.append(("head", index, self.reference.logprob(self.long)))
            edits.append(Edit(heads={(index, head): value}))
        width = self._residual_width()
        for index, _ in self.heads:
            value = torch.randn(width, generator=self.generator)

            def add(module, args, output, value=value):
                x = (output[0] if isinstance(output, tuple) else output).clone()
                if x.dim() != 3 or x.shape[-1] != len(value):
                    raise Wrong(
                        f"last token: a block's output {tuple(x.shape)} is no single residual, and is not refused"
                    )
                x[0, at] += value
                return (x, *output[1:]) if isinstance(output, tuple) else x

            module = self.reference.module(self.layer(index).block)
            with hooked(module.register_forward_hook(add)), torch.no_grad():
                right.append(("vector", index, self.reference.logprob(self.long)))
            edits.append(Edit(added={index: value}))
        for (what, index, expected), scored in zip(right, last.edited(edits), strict=True):
            near(f"last token, {what} in L{index}", scored.logprob, expected, CLOSE, self.scale)

    def _residual_width(self) -> int:
        layer = self.layer(0)
        module = self.reference.module(layer.projection)
        return (module.weight.T if isinstance(module, Conv1D) else module.weight).shape[0]

    def check_vector(self) -> None:
        """What joins the residual (decoders only)."""
        if self.loaded.kind != "decoder":
            return
        at = LONG - 1
        for index, head in self.heads:
            layer = self.layer(index)
            seen: list[tuple[str, torch.Tensor, torch.Tensor]] = []
            with torch.no_grad():
                with self._joining(layer, seen):
                    self.reference(self.long.ids)
                whole = list(seen)
                seen.clear()
                with self.reference.without(layer, head), self._joining(layer, seen):
                    self.reference(self.long.ids)
            (z, projected), norms = whole[0][1:], whole[1:]
            z = z.reshape(-1, z.shape[-1])[at]
            means = {(index, h): z[h * layer.head_size : (h + 1) * layer.head_size] for h in range(layer.heads)}
            try:
                ours = function_vector(self.loaded, means, [(index, head)])
            except UserError as error:
                self.notes.append(f"vector refused: {error}")
                return
            gain = torch.tensor(1.0)
            for (name, x, y), (_, other, _) in zip(norms, seen[1:], strict=False):
                if x.shape != projected.shape:
                    continue
                if torch.equal(x, projected):  # a norm of the projection alone: its gain, held, then the residual
                    gain = y[0, at] / x[0, at]
                    continue
                change = (x - other)[0, at]
                if not change.any():  # a parallel block's second norm reads the same residual as the first
                    continue
                if gain.dim():  # with a norm between, linear only at the held gain
                    change = gain * (self.reference.columns(layer, head) @ means[index, head])
                near(f"vector, L{index}H{head}", ours, change, CLOSE, float(change.abs().max()))
                break

    @contextmanager
    def _joining(self, layer: Layer, seen: list) -> Iterator[None]:
        """Record the projection's input and output, then inputs and outputs of all norms outside the attention after it."""
        handles = []

        def project(module, args, output):
            if not seen:
                seen.append(("", args[0], output))

        def norm(module, args, output, name=""):
            if seen and args and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
                seen.append((name, args[0], output))

        for name, module in self.reference.model.named_modules():
            if name == self.reference.name(layer.projection):
                handles.append(module.register_forward_hook(project))
            elif "norm" in type(module).__name__.lower() or isinstance(module, nn.LayerNorm):
                handles.append(module.register_forward_hook(norm))
        with hooked(*handles):
            yield

    def check_padding(self) -> None:
        """Two lengths together."""
        rows = forward(self.loaded, [self.short.ids, self.long.ids], [np.arange(SHORT), np.arange(LONG)])
        with torch.no_grad():
            near("padding", rows[:SHORT], self.reference(self.short.ids), CLOSE, self.scale)
        relations = {"some": relation(self.short, 0.2, 1)}
        together = measure(self.loaded, [self.short, self.long], [relations, {}]).means[0]["some"].values
        alone = measure(self.loaded, [self.short], [relations]).means[0]["some"].values
        for key in ("mass", "hits", "null"):
            near(f"padding, {key}", together[key], alone[key], EXACT, max(1.0, float(np.nanmax(np.abs(alone[key])))))


class Unproved(Exception):
    """A check for which this model gives no reference."""


def naive(weights_HTS: np.ndarray, asked: Relation, special: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics straight from their definitions, (H,) each; visible keys are those with a weight above 0."""
    visible_TS = (weights_HTS > 0).any(0)
    mass, hits, null = [], [], []
    for query, wanted in zip(asked.queries, asked.keys, strict=True):
        row_HS, seen = weights_HTS[:, query], visible_TS[query]
        mass.append(row_HS[:, wanted].sum(1))
        hits.append(wanted[row_HS.argmax(1)] & (row_HS.max(1) > 0))
        others = seen & ~wanted & ~special
        if others.any():
            null.append(row_HS[:, others].mean(1) * (seen & wanted).sum())
    return {"mass": np.mean(mass, 0), "hits": np.mean(hits, 0), "null": np.mean(null, 0)}


CHECKS = (
    "logits",
    "kind",
    "coverage",
    "statistics",
    "projection",
    "ablation",
    "shortcut",
    "last_token",
    "vector",
    "padding",
)


def last_line(error: BaseException) -> str:
    """Return what a traceback ends with, and where."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({Path(frame.filename).name}:{frame.lineno})"


def tried(name: str, cls: str, folder: Path, verbose: bool = False) -> dict[str, str]:
    """Build, open and check one type; return its row of the table."""
    row = {"type": name, "class": cls, "kind": "", "outcome": "not built", "detail": ""}
    try:
        tiny_types.save(name, cls, folder)
        reference = Reference(folder, cls)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        return row | {"detail": last_line(error)}
    try:
        with torch.no_grad():
            silent = "" if bool(reference(prompt(LONG, 0).ids).isfinite().all()) else "its logits are not finite"
    except Exception as error:
        silent = last_line(error)
    try:
        loaded = open_folder(folder)
    except UserError as error:
        return row | {"outcome": "refused", "detail": " ".join(str(error).replace(str(folder), "FOLDER").split())}
    except Exception as error:
        if verbose:
            traceback.print_exc()
        return row | {"outcome": "traceback", "detail": f"open: {last_line(error)}"}
    if silent:
        return row | {"outcome": "WRONG", "detail": f"opens, but the plain model does not run on text alone: {silent}"}
    trial, wrong, broken, refused = Trial(loaded, reference), [], [], []
    row["kind"] = loaded.kind
    for check in CHECKS:
        run: Callable[[], None] = getattr(trial, f"check_{check}")
        try:
            run()
        except Wrong as error:
            wrong.append(str(error))
        except Unproved as error:
            trial.notes.append(str(error))
        except UserError as error:
            refused.append(f"{check} refused: {' '.join(str(error).split())}")
        except Exception as error:
            if verbose:
                traceback.print_exc()
            broken.append(f"{check}: {last_line(error)}")
    outcome = "WRONG" if wrong else "traceback" if broken else "right"
    heads = f"{len(loaded.anatomy.layers)} layers"
    detail = "; ".join([*wrong, *broken, *refused, *trial.notes, heads])
    return row | {"outcome": outcome, "detail": detail.replace(str(folder), "FOLDER")}


def _child(name: str, cls: str, verbose: bool, answer) -> None:
    """Try one type in this process, which may die of it."""
    signal.alarm(SECONDS)
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp())
    try:
        answer.send(tried(name, cls, folder, verbose))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_all(pairs: list[tuple[str, str]], workers: int, verbose: bool) -> Iterator[dict[str, str]]:
    """Yield a row per type; each in a process forked from this one, `workers` at a time."""
    context = multiprocessing.get_context("fork")  # so that torch and transformers are imported once
    waiting, running = list(pairs), []
    while waiting or running:
        while waiting and len(running) < workers:
            pair, (mine, theirs) = waiting.pop(0), context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(*pair, verbose, theirs))
            process.start()
            theirs.close()
            running.append((pair, process, mine, time.monotonic()))
        multiprocessing.connection.wait([process.sentinel for _, process, _, _ in running], timeout=5)
        for entry in list(running):
            pair, process, mine, began = entry
            if process.is_alive() and not mine.poll():
                if time.monotonic() - began > SECONDS + 20:
                    process.kill()
                continue
            try:
                row = mine.recv()
            except EOFError:
                late = time.monotonic() - began > SECONDS - 1
                why = f"no answer in {SECONDS} s" if late else "the process died"
                row = dict(
                    zip(("type", "class", "kind", "outcome", "detail"), (*pair, "", "traceback", why), strict=True)
                )
            process.join()
            running.remove(entry)
            yield row


def main() -> None:
    """Try the types asked for; print those that are not right and a summary; write the table if all were asked for."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="TYPE", help="these model types, with all tracebacks")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, default=None, help=f"table (default: {TABLE.name} where all types are tried)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    pairs = [pair for pair in tiny_types.types() if not options.only or pair[0] in options.only]
    rows, start = [], time.monotonic()
    for row in run_all(pairs, options.workers, bool(options.only)):
        rows.append(row)
        if options.only or row["outcome"] not in ("right", "refused"):
            log.info("%-9s %s %s: %s", row["outcome"], row["type"], row["class"], row["detail"])
    rows.sort(key=lambda row: (row["type"], row["class"]))
    out = options.out or (None if options.only else TABLE)
    if out:
        with out.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    counts = Counter(row["outcome"] for row in rows)
    log.info(
        "%d types: %s; %.0f s",
        len(rows),
        ", ".join(f"{n} {name}" for name, n in sorted(counts.items())),
        time.monotonic() - start,
    )


if __name__ == "__main__":
    main()
