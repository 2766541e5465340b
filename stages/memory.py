"""The MLP as a store of keys and values: look up, insert, miss. `python -m stages.memory <slot>`.

Writes data/memory/<slot>/: memory.parquet, one row per measured value, and adapters/, inserted facts as LoRA adapters:
    lookup  one layer's output is changed at the subject (MLPs) or at the last token (attention), layer by layer; the
            same MLP outputs on words that are copied or capitalised; the most active units of the chosen layer
    insert  invented facts are written into the chosen layer by rank-one edits in closed form, beside controls
    miss    what is answered about known, rare and invented subjects, and whether a key says which of them it is
The layer is the one that split a chose: whose MLP output, taken from another subject, gives that subject's answer.
"""

import json
import logging
import shutil
import sys
from typing import Any

import numpy as np
import pandas as pd

from stages import tasks
from stages.store import params, paths, tables
from stages.store.errors import run
from stages.tasks.facts.task import ASKED, CAPITALIZE, COPY, INVENTED, KNOWN, MAIN, PARAPHRASE, PREFIXED, RARE, SHOWN

log = logging.getLogger(__name__)
TASK, TEXT = "facts", "text"
ATTENTION = "attention_"  # before the name of what is done to attention outputs, not to MLPs'
PRESERVED = 10.0  # times the second moment of text that keys to be preserved weigh


def main(slot: str) -> None:
    """Look up, insert and miss, or say why not."""
    settings = params.load()
    record = json.loads(paths.model(slot).read_text(encoding="utf-8"))
    shutil.rmtree(paths.adapters(slot), ignore_errors=True)
    paths.adapters(slot).mkdir(parents=True)
    why = tasks.of(TASK).refuses(record["kind"])
    why = why or ("" if getattr(settings.tasks, TASK) is not None else f"tasks.{TASK} is not in params")
    if why:
        return _write(slot, [], {}, why)
    from stages.model.load import load
    from stages.model.mlp import writers

    loaded = load(slot, attention="sdpa")
    found = writers(loaded)
    good = {layer: writer for layer, writer in found.items() if not isinstance(writer, str)}
    if not good:
        return _write(slot, [], {}, f"no MLP is written by one linear layer: {next(iter(found.values()))}")
    asked = Prompts(loaded, tables.ASKED.read(TASK))
    rows, chosen = look_up(loaded, good, asked, settings)
    if "mlp" in chosen:
        moment, inserted = insert(slot, loaded, good, asked, settings, chosen, record)
        rows += inserted
        rows += miss(loaded, good, asked, settings, chosen, moment)
    _write(slot, rows, chosen, "")


class Prompts:
    """The prompts of the task that the model can read, by group, class, split and role, in the order of their ids."""

    def __init__(self, loaded: Any, table: pd.DataFrame) -> None:
        from stages.model.tokens import fitting

        self.rows, self.tokens = fitting(loaded, list(table.sort_values("id").itertuples()))

    def of(self, most: int, role: str = MAIN, **where: str) -> tuple[list, list]:
        """Return rows and tokens of at most so many prompts."""
        picked = [
            number
            for number, row in enumerate(self.rows)
            if row.role == role and all(getattr(row, name) == value for name, value in where.items())
        ][:most]
        return [self.rows[number] for number in picked], [self.tokens[number] for number in picked]

    def roles(self, kind: str) -> list[str]:
        """Return the roles of a numbered kind."""
        return sorted({row.role for row in self.rows if row.role.startswith(f"{kind}-")})


def _row(part: str, what: str, layer: int, row: Any, measure: str, value: float, group: str = "") -> dict:
    same = {"part": part, "what": what, "layer": layer, "group": group or row.group, "split": row.split}
    return same | {"cluster": row.cluster, "measure": measure, "value": float(value)}


def look_up(loaded: Any, writers: dict, asked: Prompts, settings: params.Params) -> tuple[list[dict], dict]:
    """Return the rows of part lookup and what split a chose: layers, and the numbers that they were chosen by."""
    from stages.model import lookup

    rows, chosen, means, shares = [], {}, {}, {}
    sizes = {"a": settings.memory.choose, "b": settings.memory.report}
    for split, size in sizes.items():
        of_split, tokens = asked.of(size, category=KNOWN, split=split)
        if not tokens:
            continue
        read = lookup.ask(loaded, writers, tokens, ASKED)
        rows += [_row("lookup", "intact", -1, r, "own", right) for r, right in zip(of_split, read.right, strict=True)]
        if not read.right.any():
            chosen |= {"why": f"not one of {len(tokens)} known facts of split {split} is answered right"}
            return rows, {"why": chosen["why"]}
        donors, able = lookup.donors(read, [row.group for row in of_split]), np.flatnonzero(read.right)
        for kind, name in ((lookup.MLP, ""), (lookup.ATTENTION, ATTENTION)):
            for layer, given in read.given(kind).items():
                if split == "a":
                    means[kind, layer] = given.mean(0)
                written = {"interchange": given[donors]}
                written |= {"mean": means[kind, layer].expand_as(given)} if split == "b" else {}
                for what, values in written.items():
                    best = lookup.replaced(loaded, writers, read, kind, layer, values)
                    own, other = best == read.answers, best == read.answers[donors]
                    for measure, hit in (("own", own), *((("donor", other),) if what == "interchange" else ())):
                        rows += [_row("lookup", name + what, layer, of_split[n], measure, hit[n]) for n in able]
                    if split == "a":
                        shares[kind, layer] = float(other[able].mean()), -float(own[able].mean())
        if split == "a":
            for kind in (lookup.MLP, lookup.ATTENTION):
                layer = max((at for of, at in shares if of == kind), key=lambda at: (shares[kind, at], -at))
                chosen |= {kind: layer, f"{kind}_donor": round(shares[kind, layer][0], 5)}
            continue
        traced = settings.memory.traced and lookup.restored(loaded, writers, read, ASKED, settings.seed)
        for kind, layer, best in traced or ():
            name = {"none": "noise", lookup.MLP: "restored", lookup.ATTENTION: f"{ATTENTION}restored"}[kind]
            picked = able[: settings.memory.traced]
            rows += [_row("lookup", name, layer, of_split[n], "own", best[n] == read.answers[n]) for n in picked]
        for number, values in zip(
            able, lookup.promoted(loaded, writers[chosen[lookup.MLP]], chosen[lookup.MLP], read, able), strict=True
        ):
            for measure, value in values.items():
                rows.append(_row("lookup", "promoted", chosen[lookup.MLP], of_split[number], measure, value))
    for group in (COPY, CAPITALIZE):
        rows += _procedure(loaded, writers, asked, group)
    return rows, chosen


def _procedure(loaded: Any, writers: dict, asked: Prompts, group: str) -> list[dict]:
    """Return what mean ablation of MLP outputs at a word does where the word is only to be copied or capitalised."""
    from stages.model import lookup

    (_, first), (of_split, second) = (asked.of(len(asked.rows), group=group, split=split) for split in "ab")
    if not first or not second:
        return []
    means = lookup.ask(loaded, writers, first, ASKED).values
    read = lookup.ask(loaded, writers, second, ASKED)
    rows = [_row("lookup", "intact", -1, r, "own", right) for r, right in zip(of_split, read.right, strict=True)]
    for layer, given in read.values.items():
        best = lookup.replaced(loaded, writers, read, lookup.MLP, layer, means[layer].mean(0).expand_as(given))
        hit = best == read.answers
        rows += [_row("lookup", "mean", layer, of_split[n], "own", hit[n]) for n in np.flatnonzero(read.right)]
    return rows


def insert(
    slot: str, loaded: Any, writers: dict, asked: Prompts, settings: params.Params, chosen: dict, record: dict
) -> tuple[Any, list[dict]]:
    """Return the second moment of keys at the chosen layer and the rows of part insert; write the adapters."""
    from stages.model import adapter, rank_one
    from stages.model.tokens import fitting

    memory = settings.memory
    text = tables.ASKED.read(TEXT) if getattr(settings.tasks, TEXT) is not None else None
    if text is None:
        chosen["insert_why"] = f"tasks.{TEXT} is not in params: no text to take keys from"
        return None, []
    of_text = {split: fitting(loaded, [r for r in text.itertuples() if r.split == split]) for split in "ab"}
    rows: list[dict] = []
    first = None
    for layer in dict.fromkeys((chosen["mlp"], *(at for at in memory.layers if at in writers))):
        moment, count = rank_one.second_moment(loaded, writers[layer], of_text["a"][1])
        first = moment if first is None else first
        chosen.setdefault("tokens", count)
        edit = Insertion(loaded, writers[layer], layer, asked, memory, moment, settings.seed)
        rows += edit.rows(of_text["b"], whole=layer == chosen["mlp"])
        if layer == chosen["mlp"]:
            chosen |= edit.said
            base = record["name"]
            where = {"model": base, "layer": str(layer), "slot": slot, "writer": writers[layer].path}
            for name, facts in edit.adapters().items():
                keys, values, what = facts
                adapter.write(paths.adapters(slot) / name, writers[layer], keys, values, base, where | {"facts": what})
    return first, rows


class Insertion:
    """Invented facts written into one layer's MLP: keys, values, and what comes of them."""

    def __init__(self, loaded, writer, layer: int, asked: Prompts, memory: params.Memory, moment, seed: int) -> None:
        from stages.model import rank_one

        self.loaded, self.writer, self.layer, self.asked, self.memory = loaded, writer, layer, asked, memory
        self.moment, self.seed, self.said = moment, seed, {}
        self.facts, self.tokens = asked.of(memory.facts, category=INVENTED, split="b")
        self.keys = self.keys_of(self.facts)
        self.values, losses = rank_one.descended(loaded, writer, layer, self.tokens, ASKED, memory.steps)
        self.said["sought"] = int((losses <= rank_one.GOAL).sum())
        known, tokens = asked.of(len(asked.rows), category=KNOWN, split="b")
        scored, _ = rank_one.answered(loaded, writer, layer, tokens, self.keys[:1] * 0, self.values[:1] * 0)
        right = [number for number, of_prompt in enumerate(scored) if of_prompt.solved]
        self.known, self.known_tokens = [known[n] for n in right], [tokens[n] for n in right]

    def keys_of(self, facts: list) -> Any:
        """Return the mean key of each subject: its main prompt, alone and after other texts."""
        from stages.model import rank_one

        wanted = {fact.cluster: [] for fact in facts}
        for row, tokens in zip(self.asked.rows, self.asked.tokens, strict=True):
            if row.cluster in wanted and (row.role == MAIN or row.role.startswith(PREFIXED)):
                wanted[row.cluster].append(tokens)
        return rank_one.mean_keys(self.loaded, self.writer, list(wanted.values()), ASKED)

    def ask(self, tokens: list, which: list[int], keys, values) -> tuple[list, list]:
        """Score prompts intact and edited: prompt n under edit which[n]."""
        from stages.model import rank_one

        return rank_one.answered(
            self.loaded, self.writer, self.layer, tokens, keys[which][:, None], values[which][:, None]
        )

    def row(self, what: str, fact: Any, measure: str, value: float, group: str = INVENTED) -> dict:
        """Return a row of part insert; its cluster is the fact."""
        return _row("insert", what, self.layer, fact, measure, value, group)

    def rows(self, text: tuple[list, list], whole: bool) -> list[dict]:
        """Return all rows; of a layer that was not chosen (not `whole`) only those of the edit itself."""
        import torch

        from stages.model import rank_one

        edit = rank_one.readers(rank_one.metric(self.moment), self.keys)
        identity = self.keys / self.keys.square().sum(1, keepdim=True)
        rows = self.judged("edit", self.facts, self.tokens, edit, self.values)
        if not whole:
            return rows
        rows += self.drifted({"edit": edit, "identity": identity}, text)
        rows += self.judged("identity", self.facts, self.tokens, identity, self.values)
        random = torch.randn(self.values.shape, generator=torch.Generator().manual_seed(self.seed)).to(self.values)
        random = random / random.norm(dim=1, keepdim=True) * self.values.norm(dim=1, keepdim=True)
        _, scored = self.ask(self.tokens, list(range(len(self.facts))), edit, random)
        rows += [self.row("random", f, "efficacy", s.solved) for f, s in zip(self.facts, scored, strict=True)]
        together = slice(0, self.memory.together)
        joint = rank_one.joint_readers(rank_one.metric(self.moment), self.keys[together])
        for what, keys in (("summed", edit[together]), ("joint", joint)):
            _, scored = rank_one.answered(
                self.loaded, self.writer, self.layer, self.tokens[together], keys, self.values[together]
            )
            rows += [self.row(what, f, "efficacy", s.solved) for f, s in zip(self.facts, scored, strict=False)]
        if self.memory.descended:
            number = min(self.memory.descended, len(self.facts))
            some = self.tokens[:number]
            a, b = rank_one.trained(self.loaded, self.writer, self.layer, some, self.memory.steps, self.seed)
            rows += self.judged("descent", self.facts[:number], some, a, b)
        return rows + self.true_facts()

    def judged(self, what: str, facts: list, tokens: list, keys, values, group: str = INVENTED) -> list[dict]:
        """Return efficacy, paraphrases, neighbours (known ones still right) and hijacked invented ones, per fact."""
        every = list(range(len(facts)))
        rows, jobs = [], [("efficacy", tokens, every)]
        of = {(row.cluster, row.role): t for row, t in zip(self.asked.rows, self.asked.tokens, strict=True)}
        if group == INVENTED:
            jobs += [
                ("paraphrase", [of[fact.cluster, role] for fact in facts], every)
                for role in self.asked.roles(PARAPHRASE)
            ]
        for measure, asked_of, which in jobs:
            _, scored = self.ask(asked_of, which, keys, values)
            rows += [self.row(what, facts[n], measure, s.solved, group) for n, s in zip(which, scored, strict=True)]
        number = self.memory.neighbours
        pairs = [
            (n, (n * number + step) % len(self.known))
            for n in every
            for step in range(min(number, len(self.known)))
            if self.known[(n * number + step) % len(self.known)].cluster != facts[n].cluster
        ]
        if pairs:
            _, scored = self.ask([self.known_tokens[k] for _, k in pairs], [n for n, _ in pairs], keys, values)
            rows += [self.row(what, facts[n], "neighbours", s.solved, group)
                     for (n, _), s in zip(pairs, scored, strict=True)]  # fmt: skip
        others = [
            (n, (n + 1 + step) % len(self.tokens)) for n in every for step in range(min(number // 2, len(every) - 1))
        ]
        others = [(n, k) for n, k in others if self.facts[k].cluster != facts[n].cluster]
        if others:
            intact, scored = self.ask([self.tokens[k] for _, k in others], [n for n, _ in others], keys, values)
            objects = [int(t.ids[t.target[0]]) for t in tokens]
            for (n, _), before, after in zip(others, intact, scored, strict=True):
                rows.append(self.row(what, facts[n], "hijacked", int(after.best[0]) == objects[n], group))
                rows.append(self.row(what, facts[n], "hijacked_intact", int(before.best[0]) == objects[n], group))
        return rows

    def drifted(self, readers: dict, text: tuple[list, list]) -> list[dict]:
        """Return what single edits do to plain text: each fact reads its own passage of split b."""
        from stages.model import rank_one

        rows = []
        for number, fact in enumerate(self.facts if text[1] else ()):
            passage = text[1][number % len(text[1])]
            edits = [(keys[number : number + 1], self.values[number : number + 1]) for keys in readers.values()]
            ids = passage.ids[: self.memory.text]
            changes = rank_one.drift(self.loaded, self.writer, self.layer, ids, edits)
            for what, (loss, kl) in zip(readers, changes, strict=True):
                rows += [self.row(what, fact, "text_loss", loss), self.row(what, fact, "text_kl", kl)]
        return rows

    def true_facts(self) -> list[dict]:
        """Return what comes of overwriting known facts, with C of text alone and with known keys of split a beside."""
        from stages.model import rank_one
        from stages.model.tokens import encode

        facts = self.known[: self.memory.true_facts]
        if len(facts) < 2:
            return []
        others = [*facts[1:], facts[0]]  # whose objects are written
        rewritten = [f._replace(targets=other.targets) for f, other in zip(facts, others, strict=True)]
        tokens = [encode(self.loaded, fact) for fact in rewritten]
        keys = self.keys_of(facts)
        values, _ = rank_one.descended(self.loaded, self.writer, self.layer, tokens, ASKED, self.memory.steps)
        kept = self.keys_of(self.asked.of(len(self.asked.rows), category=KNOWN, split="a")[0])
        rows = []
        for what, metric in (
            ("true", rank_one.metric(self.moment)),
            ("true_preserved", rank_one.metric(self.moment, kept, PRESERVED)),
        ):
            rows += self.judged(what, facts, tokens, rank_one.readers(metric, keys), values, KNOWN)
        return rows

    def adapters(self) -> dict[str, tuple]:
        """Return name -> keys, values and the facts in words: the first fact alone, and the first ones together."""
        from stages.model import rank_one

        metric, number = rank_one.metric(self.moment), min(self.memory.together, len(self.facts))
        said = [f"{fact.text}{fact.targets[0]}" for fact in self.facts[:number]]
        return {
            "one": (rank_one.readers(metric, self.keys[:1]), self.values[:1], said[0]),
            "together": (rank_one.joint_readers(metric, self.keys[:number]), self.values[:number], " | ".join(said)),
        }


def miss(loaded: Any, writers: dict, asked: Prompts, settings: params.Params, chosen: dict, moment: Any) -> list[dict]:
    """Return the rows of part miss: answers without and after demonstrations, and scores of a hit."""
    from stages.model import misses

    layer, rows = chosen["mlp"], []
    facts = [row for row in asked.rows if row.role == MAIN and row.category in (KNOWN, RARE, INVENTED)]
    objects = {row.targets[0].strip() for row in facts}
    for kind in (KNOWN, RARE, INVENTED):
        texts: dict[str, list[str]] = {}
        for role in (MAIN, *asked.roles(SHOWN)):
            of_role, tokens = asked.of(settings.memory.missed, role, category=kind, split="b")
            if not tokens:
                continue
            texts[role], entropy = misses.answers(loaded, tokens)
            for row, text, nats in zip(of_role, texts[role], entropy, strict=True):
                what, right = role.partition("-")[0], "" if kind == INVENTED else row.targets[0].strip()
                is_a = misses.kind_of(text, right, row.cluster.partition("/")[2], objects)
                rows.append(_row("miss", what, -1, row, "entropy", nats, kind))
                rows += [_row("miss", what, -1, row, of, of == is_a, kind)
                         for of in ("right", "object", "echo", "number", "other")]  # fmt: skip
        of_role, _ = asked.of(settings.memory.missed, category=kind, split="b")
        shown = [texts[role] for role in asked.roles(SHOWN) if role in texts]
        if len(shown) == 2:
            rows += [_row("miss", SHOWN, -1, row, "agreement", one == other, kind)
                     for row, one, other in zip(of_role, *shown, strict=True)]  # fmt: skip
    return rows + _scores(loaded, {layer: writers[layer]}, asked, settings, moment)


def _scores(loaded: Any, writers: dict, asked: Prompts, settings: params.Params, moment: Any) -> list[dict]:
    """Return scores of a hit per subject: known ones of split b, all others of both splits: nothing chose on them."""
    from stages.model import lookup, misses, rank_one

    ((layer, _),), rows = writers.items(), []
    stored = lookup.ask(loaded, writers, asked.of(settings.memory.choose, category=KNOWN, split="a")[1], ASKED)
    for kind in (KNOWN, RARE, INVENTED):
        most, where = (settings.memory.missed, {"split": "b"}) if kind == KNOWN else (len(asked.rows), {})
        of_kind, tokens = asked.of(most, category=kind, **where)
        if not tokens:
            continue
        read = lookup.ask(loaded, writers, tokens, ASKED)
        names = [t.spans[ASKED][0][1] for t in tokens]
        scores = {"tokens": np.array([len(name) for name in names])}
        if all(name[0] > 0 for name in names):  # nothing predicts the first token of a text
            scores["logprob"] = misses.name_logprobs(loaded, tokens, names)
        if moment is not None:
            metric = rank_one.metric(moment)
            scores |= misses.hits(read.keys[layer], read.values[layer], stored.keys[layer], metric)
        for measure, values in scores.items():
            rows += [_row("miss", "score", layer, r, measure, v, kind) for r, v in zip(of_kind, values, strict=True)]
    return rows


def _write(slot: str, rows: list[dict], chosen: dict, why: str) -> None:
    if why:
        log.info("%s: MLPs are not read as a store: %s", slot, why)
        tables.MEMORY.write_empty(slot, why=why)
        return
    table = pd.DataFrame(rows, columns=tables.MEMORY.names)
    tables.MEMORY.noting(chosen=chosen).write(table.sort_values(tables.MEMORY.names[:-1], kind="stable"), slot)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
