"""What is compared, type by type, between the project's numbers and a plain run's: see `bench.all_types` for the list.

Legend: T token, S key token, H head, K head size, D residual width, V vocabulary.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from bench.reference import Reference, hooked, naive
from stages.families.family import Relation, Tokens
from stages.model.anatomy import Layer
from stages.model.forward import forward
from stages.model.intervene import Edit, ablating
from stages.model.load import Loaded
from stages.model.measure import measure
from stages.model.score import Ablation, Batch, LastToken
from stages.model.vectors import Parts
from stages.store.errors import UserError

LONG, SHORT = 80, 66  # tokens: more than any window or chunk of the tiny models
EXACT, CLOSE = 1e-5, 1e-4


class Wrong(Exception):
    """A number that is not what it should be."""


class Unproved(Exception):
    """A check for which this model gives no reference."""


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


@dataclass
class Trial:
    """One type: the project's model and ours, and the prompts that both run."""

    loaded: Loaded
    reference: Reference
    vectors: bool = True  # proved: vectors may be added to the residual

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.long, self.short = prompt(LONG, 0), prompt(SHORT, 1)
        self.layers = self.loaded.anatomy.layers
        self.heads = [
            (number, int(torch.randint(layer.heads, (1,), generator=self.generator)))
            for number, layer in self.layers.items()
        ]
        self.notes: list[str] = []

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
        known = [layer.attention for layer in self.layers.values()] + list(self.loaded.anatomy.skipped)
        known = list(map(self.reference.name, known))
        lost = [
            n for n in self.weights if not any(n == k or n.startswith(f"{k}.") or k.startswith(f"{n}.") for k in known)
        ]
        if lost:
            raise Wrong(f"coverage: {len(lost)} attention modules neither measured nor skipped, {lost[0]}")
        unseen = [layer.attention for layer in self.layers.values() if self._weights(layer) is None]
        if unseen:
            self.notes.append(f"no reference weights for {len(unseen)} of {len(self.layers)} layers")

    def _weights(self, layer: Layer, source: dict | None = None) -> torch.Tensor | None:
        source, name = self.weights if source is None else source, self.reference.name(layer.attention)
        near_by = (w for n, w in source.items() if n == name or n.startswith(f"{name}.") or name.startswith(f"{n}."))
        return next(near_by, None)

    def check_statistics(self) -> None:
        """Mass, hits, nulls."""
        relations = {"some": relation(self.long, 0.2, 1), "many": relation(self.long, 0.6, 2)}
        relations["sink"] = replace(relations["some"], sink=True)
        means = measure(self.loaded, [self.long], [relations]).means[0]
        faults: Counter[str] = Counter()
        sizes: dict[str, float] = {}
        compared = 0
        for index, layer in self.layers.items():
            weights = self._weights(layer)
            if weights is None or weights.shape[1] != layer.heads:
                continue
            compared += 1
            if layer.sink:
                weights = weights * self.reference.reaching(self.long.ids, layer, weights)
            short = bool((weights[0].sum(-1) < 1 - 1e-4).any())
            if short != layer.sink:
                faults["sink"], sizes["sink"] = 1, float((1 - weights[0].sum(-1)).max())
            for name, asked in relations.items():
                for key, right_H in naive(weights[0].double().numpy(), asked, self.long.special, layer.sink).items():
                    off = np.abs(means[name].values[key][index, : layer.heads] - right_H)
                    size = 1.0 if np.isnan(off).any() else float(off.max())
                    if size > EXACT * max(1.0, float(np.nanmax(np.abs(right_H)))):
                        faults[key] += 1
                        sizes[key] = max(sizes.get(key, 0.0), size)
        if faults:
            raise Wrong("statistics: " + ", ".join(f"{key} off by {sizes[key]:.1e}" for key in sorted(faults)))
        if not compared:
            raise Unproved("statistics: the model returns no weights to compare with")

    def check_layers(self) -> None:
        """Block numbers, and how far back a layer sees."""
        for number, layer in self.layers.items():
            if int(layer.block.rsplit(".", 1)[-1]) != number:
                raise Wrong(f"layers: L{number} is block {layer.block}")
            weights = self._weights(layer)
            if weights is None:
                continue
            queries, keys = np.nonzero((weights[0] > 0).any(0).numpy())
            reach = int(np.abs(queries - keys).max())
            if (layer.window is None and reach < LONG // 2) or (layer.window is not None and reach >= layer.window):
                raise Wrong(f"layers: L{number} has window {layer.window}, but sees {reach} tokens away at most")

    def check_projection(self) -> None:
        """One slice per head."""
        inputs: dict[int, torch.Tensor] = {}
        handles, unproved = [], []
        for index, layer in self.layers.items():

            def keep(module, args, index=index):
                inputs[index] = args[0]

            module = self.reference.module(layer.projection)
            handles.append(module.register_forward_pre_hook(keep))
        self.reference.model.requires_grad_(True)
        try:
            with hooked(*handles):
                weights = self.reference.weights(self.long.ids)
            for index, layer in self.layers.items():
                weight = self._weights(layer, weights)
                if weight is None or not weight.requires_grad or index not in inputs:
                    unproved.append(index)
                    continue
                z = inputs[index][..., : layer.heads * layer.head_size].reshape(-1, layer.heads, layer.head_size)
                for head in range(layer.heads):
                    (slope,) = torch.autograd.grad(
                        z[:, head].pow(2).sum(), weight, retain_graph=True, allow_unused=True
                    )
                    if slope is None:
                        raise Wrong(f"projection: {layer.projection} does not read layer {index}'s weights")
                    moved_H = slope[0].abs().amax((-1, -2)) > 0
                    if not moved_H[head] or moved_H.sum() != 1:
                        moved = moved_H.nonzero().flatten().tolist()
                        raise Wrong(f"projection: slice {head} of {layer.projection} reads heads {moved}")
            if unproved:
                self.notes.append(f"projections of layers {unproved} unproved: no weights with gradients")
            for index, head in self.heads:
                layer = self.layers[index]
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
            layer = self.layers[index]
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
        """Resumed passes and shared prefixes: a head of each layer alone, then of more and more layers together."""
        start = self.long.ids[:48]
        prompts = [prompt(60, 3, start), prompt(56, 4, start), prompt(60, 5, start)]
        batch = Batch(self.loaded, prompts, [tokens.target for tokens in prompts])
        with torch.no_grad():
            for tokens, scored in zip(prompts, batch.intact, strict=True):
                near("shortcut, intact", scored.logprob, self.reference.logprob(tokens), CLOSE, self.scale)
        sets = [[head] for head in self.heads] + [self.heads[:number] for number in range(2, 1 + len(self.heads))]
        zeros = [{(at, head): torch.zeros(self.layers[at].head_size) for at, head in heads} for heads in sets]
        results = batch.ablations([Ablation(values, everywhere=True, name="zero") for values in zeros])
        for heads, of_prompts in zip(sets, results, strict=True):
            with torch.no_grad(), ExitStack() as stack:
                for at, head in heads:
                    stack.enter_context(self.reference.without(self.layers[at], head))
                for tokens, scored in zip(prompts, of_prompts, strict=True):
                    right = self.reference.logprob(tokens)
                    named = " ".join(f"L{at}H{head}" for at, head in heads)
                    near(f"shortcut, {named}", scored.logprob, right, CLOSE, self.scale)

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
            layer = self.layers[index]
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
        width = self.reference.matrix(next(iter(self.layers.values()))).shape[0]
        for index, _ in self.heads if self.vectors else ():
            value = torch.randn(width, generator=self.generator)

            def add(module, args, output, value=value):
                several = isinstance(output, tuple | list)
                x = (output[0] if several else output).clone()
                if x.dim() != 3 or x.shape[-1] != len(value):
                    raise Wrong(
                        f"last token: a block's output {tuple(x.shape)} is no single residual, and is not refused"
                    )
                x[0, at] += value
                return type(output)([x, *output[1:]]) if several else x

            module = self.reference.module(self.layers[index].block)
            with hooked(module.register_forward_hook(add)), torch.no_grad():
                right.append(("vector", index, self.reference.logprob(self.long)))
            edits.append(Edit(added={index: value}))
        for (what, index, expected), scored in zip(right, last.edited(edits), strict=True):
            near(f"last token, {what} in L{index}", scored.logprob, expected, CLOSE, self.scale)

    def check_vector(self) -> None:
        """What joins the residual (decoders only)."""
        if self.loaded.kind != "decoder":
            return
        at = LONG - 1
        for index, head in self.heads:
            layer = self.layers[index]
            seen: list[tuple[torch.Tensor, torch.Tensor]] = []
            rows = slice(head * layer.head_size, (head + 1) * layer.head_size)

            def silence(module, args, rows=rows):
                x = args[0].clone()
                x.view(-1, x.shape[-1])[at, rows] = 0
                return (x, *args[1:])

            with torch.no_grad():
                with self._joining(layer, seen):
                    self.reference(self.long.ids)
                whole = list(seen)
                seen.clear()
                removed = self.reference.module(layer.projection).register_forward_pre_hook(silence)
                with hooked(removed), self._joining(layer, seen):
                    self.reference(self.long.ids)
            (z, projected), readers = whole[0], whole[1:]
            z = z.reshape(-1, z.shape[-1])[at]
            means = {(index, h): z[h * layer.head_size : (h + 1) * layer.head_size] for h in range(layer.heads)}
            try:
                ours = Parts(self.loaded, means).together([(index, head)])
            except UserError as error:
                self.notes.append(f"vector refused: {error}")
                return
            own, alone, normed = self.reference.columns(layer, head) @ means[index, head], [projected[0, at]], None
            for pair, pair_without in zip(readers, seen[1:], strict=False):
                if any(part.numel() != projected.numel() for part in pair):
                    pair, pair_without = (pair[0], pair[0]), (pair_without[0], pair_without[0])
                if pair[0].numel() != projected.numel():
                    continue
                (x, y), (other, y_other) = (
                    [part.reshape(projected.shape)[0, at] for part in parts] for parts in (pair, pair_without)
                )
                if any(torch.equal(x, earlier) for earlier in alone):  # W_O's output alone, in a norm or a dropout
                    if not torch.equal(x, y):
                        own, normed = own * y / x, y - y_other
                    alone.append(y)
                    continue
                change = x - other
                if not change.any():  # a parallel block's second norm reads the same residual as the first
                    continue
                kept = torch.ones_like(change, dtype=torch.bool)
                if normed is not None:  # a norm is linear only at its gain; the residual takes multiples of channels
                    kept = normed.abs() > 1e-2 * normed.abs().max()
                    change = own * change / normed
                near(f"vector, L{index}H{head}", ours[kept], change[kept], CLOSE, float(change[kept].abs().max()))
                break

    @contextmanager
    def _joining(self, layer: Layer, seen: list) -> Iterator[None]:
        """Record the projection's input and output, then those of every leaf module called after it."""
        handles = []

        def project(module, args, output):
            if not seen:
                seen.append((args[0], output))

        def read(module, args, output):
            if seen and args and isinstance(args[0], torch.Tensor):
                alone = isinstance(output, torch.Tensor) and len(args) == 1  # not joined with a residual in there
                seen.append((args[0], output if alone else args[0]))

        for name, module in self.reference.model.named_modules():
            if name == self.reference.name(layer.projection):
                handles.append(module.register_forward_hook(project))
            elif not list(module.children()):
                handles.append(module.register_forward_hook(read))
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
        for key in ("mass", "hits", "mass_null"):
            near(f"padding, {key}", together[key], alone[key], EXACT, max(1.0, float(np.nanmax(np.abs(alone[key])))))


CHECKS = (
    "logits",
    "kind",
    "coverage",
    "layers",
    "statistics",
    "projection",
    "ablation",
    "shortcut",
    "last_token",
    "vector",
    "padding",
)
