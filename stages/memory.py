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
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stages import tasks
from stages.store import params, paths, tables
from stages.store.errors import run
from stages.tasks.facts.task import (
    ASKED,
    CAPITALIZE,
    COPY,
    INVENTED,
    KNOWN,
    LONG,
    MAIN,
    PARAPHRASE,
    PREFIXED,
    RARE,
    SHOWN,
    WORD,
)

log = logging.getLogger(__name__)
TASK, TEXT = "facts", "text"
ATTENTION = "attention_"  # before the name of what is done to attention outputs, not to MLPs'
FIRST, AFTER = "one", "_after"  # the adapter of the first fact; after the name of what is asked once facts are inserted
LAYERS = 6  # that are changed in one pass, in copies of the prompts
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
        inserted, of_insert = insert(slot, loaded, good, asked, settings, chosen, record)
        rows += of_insert + miss(loaded, good, asked, settings, chosen, inserted)
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
        for layer in loaded.anatomy.layers:
            changes = []
            for kind, name in ((lookup.MLP, ""), (lookup.ATTENTION, ATTENTION)):
                given = read.given(kind).get(layer)
                if given is None:
                    continue
                if split == "a":
                    means[kind, layer] = given.mean(0)
                changes.append((kind, f"{name}interchange", given[donors]))
                if split == "b":
                    changes.append((kind, f"{name}mean", means[kind, layer].expand_as(given)))
            written = [(kind, layer, values) for kind, _, values in changes]
            best_of = lookup.replaced(loaded, writers, read, written)
            for (kind, what, _), best in zip(changes, best_of, strict=True):
                own, other = best == read.answers, best == read.answers[donors]
                for measure, hit in (("own", own), *((("donor", other),) if what.endswith("interchange") else ())):
                    rows += [_row("lookup", what, layer, of_split[n], measure, hit[n]) for n in able]
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
    written = {layer: means[layer].mean(0).expand_as(given) for layer, given in read.values.items()}
    for start in range(0, len(written), LAYERS):
        layers = list(written)[start : start + LAYERS]
        changes = [(lookup.MLP, layer, written[layer]) for layer in layers]
        for layer, best in zip(layers, lookup.replaced(loaded, writers, read, changes), strict=True):
            hit = best == read.answers
            rows += [_row("lookup", "mean", layer, of_split[n], "own", hit[n]) for n in np.flatnonzero(read.right)]
    return rows


def insert(
    slot: str, loaded: Any, writers: dict, asked: Prompts, settings: params.Params, chosen: dict, record: dict
) -> tuple["Insertion | None", list[dict]]:
    """Return the facts inserted at the chosen layer and the rows of part insert; write the adapters."""
    from stages.model import adapter, rank_one
    from stages.model.tokens import fitting

    memory = settings.memory
    text = tables.ASKED.read(TEXT) if getattr(settings.tasks, TEXT) is not None else None
    if text is None:
        chosen["insert_why"] = f"tasks.{TEXT} is not in params: no text to take keys from"
        return None, []
    of_text = {split: fitting(loaded, [r for r in text.itertuples() if r.split == split]) for split in "ab"}
    rows: list[dict] = []
    inserted = None
    for layer in dict.fromkeys((chosen["mlp"], *(at for at in memory.layers if at in writers))):
        writer = writers[layer]
        moment, count = rank_one.second_moment(loaded, writer, of_text["a"][1])
        edit = Insertion(loaded, writer, layer, asked, memory, moment, settings.seed)
        rows += edit.rows(of_text["b"], whole=layer == chosen["mlp"])
        if layer == chosen["mlp"]:
            inserted, said = edit, {"model": record["name"], "layer": str(layer), "slot": slot, "writer": writer.path}
            chosen |= edit.said | {"tokens": count}
            for name, (keys, values, facts) in edit.adapters().items():
                folder = paths.adapters(slot) / name
                adapter.write(folder, writer, keys, values, record["name"], said | {"facts": facts})
            rows += edit.read_back(*adapter.read(paths.adapters(slot) / FIRST))
    return inserted, rows


@dataclass(frozen=True)
class Trial:
    """A prompt read under an edit: what is counted, of which fact; wanted: a first token, else the whole target."""

    what: str
    fact: Any
    measure: str
    tokens: Any
    reader: Any  # (R, F)
    values: Any  # (R, D)
    group: str = INVENTED
    wanted: int | None = None


class Insertion:
    """Invented facts written into one layer's MLP: keys, values, and what comes of them."""

    def __init__(self, loaded, writer, layer: int, asked: Prompts, memory: params.Memory, moment, seed: int) -> None:
        from stages.model import rank_one

        self.loaded, self.writer, self.layer, self.asked, self.memory = loaded, writer, layer, asked, memory
        self.seed, self.said = seed, {}
        self.metric = rank_one.metric(moment)
        kept = self.keys_of(asked.of(len(asked.rows), category=KNOWN, split="a")[0])
        self.preserving = rank_one.metric(moment, kept, PRESERVED)
        self.facts, self.tokens = asked.of(memory.facts, category=INVENTED, split="b")
        self.keys = self.keys_of(self.facts)
        self.values, losses = rank_one.descended(loaded, writer, layer, self.tokens, ASKED, memory.steps)
        self.said["sought"] = int((losses <= rank_one.GOAL).sum())
        known, tokens = asked.of(len(asked.rows), category=KNOWN, split="b")
        scored = self.answered(tokens, self.keys[:1] * 0, self.values[:1] * 0)  # intact: nothing is added
        right = [number for number, of_prompt in enumerate(scored) if of_prompt.solved]
        self.known, self.known_tokens = [known[n] for n in right], [tokens[n] for n in right]

    def answered(self, tokens: list, keys, values) -> list:
        """Score prompts under edits: see `rank_one.answered`."""
        from stages.model import rank_one

        return rank_one.answered(self.loaded, self.writer, tokens, keys, values) if tokens else []

    def keys_of(self, facts: list) -> Any:
        """Return the mean key of each subject: its main prompt, alone and after other texts."""
        from stages.model import rank_one

        wanted = {fact.cluster: [] for fact in facts}
        for row, tokens in zip(self.asked.rows, self.asked.tokens, strict=True):
            if row.cluster in wanted and (row.role == MAIN or row.role.startswith(PREFIXED)):
                wanted[row.cluster].append(tokens)
        return rank_one.mean_keys(self.loaded, self.writer, list(wanted.values()), ASKED)

    @property
    def joint(self) -> Any:
        """Readers (R, F) of all facts, solved jointly, known keys of split a preserved."""
        from stages.model import rank_one

        return rank_one.joint_readers(self.preserving, self.keys)

    def row(self, what: str, fact: Any, measure: str, value: float, group: str = INVENTED) -> dict:
        """Return a row of part insert; its cluster is the fact."""
        return _row("insert", what, self.layer, fact, measure, value, group)

    def rows(self, text: tuple[list, list], whole: bool) -> list[dict]:
        """Return all rows; of a layer that was not chosen (not `whole`) only those of the edit itself."""
        import torch

        from stages.model import rank_one

        edit = rank_one.readers(self.metric, self.keys)
        trials = self.trials("edit", self.facts, self.tokens, edit, self.values)
        if not whole:
            return self.tried(trials)
        identity = self.keys / self.keys.square().sum(1, keepdim=True)
        trials += self.trials("identity", self.facts, self.tokens, identity, self.values)
        random = torch.randn(self.values.shape, generator=torch.Generator().manual_seed(self.seed)).to(self.values)
        random = random / random.norm(dim=1, keepdim=True) * self.values.norm(dim=1, keepdim=True)
        trials += [
            Trial("random", fact, "efficacy", tokens, edit[n : n + 1], random[n : n + 1])
            for n, (fact, tokens) in enumerate(zip(self.facts, self.tokens, strict=True))
        ]
        if self.memory.descended:
            number = min(self.memory.descended, len(self.facts))
            some = self.tokens[:number]
            a, b = rank_one.trained(self.loaded, self.writer, self.layer, some, self.memory.steps, self.seed)
            trials += self.trials("descent", self.facts[:number], some, a, b)
        rows = self.tried(trials + self.true_facts())
        for size in self.memory.together:
            rows += self.tried(self.together(size, edit))
        return rows + self.drifted({"edit": edit, "identity": identity}, text)

    def tried(self, trials: list[Trial]) -> list[dict]:
        """Run trials of as many pairs each together; return their rows."""
        import torch

        if not trials:
            return []
        keys, values = (torch.stack([getattr(trial, name) for trial in trials]) for name in ("reader", "values"))
        scored = self.answered([trial.tokens for trial in trials], keys, values)
        return [
            self.row(t.what, t.fact, t.measure, s.solved if t.wanted is None else int(s.best[0]) == t.wanted, t.group)
            for t, s in zip(trials, scored, strict=True)
        ]

    def trials(self, what: str, facts: list, tokens: list, keys, values, group: str = INVENTED) -> list[Trial]:
        """Return trials of efficacy, paraphrases, neighbours (known ones still right) and hijacked invented ones."""
        of = {(row.cluster, row.role): t for row, t in zip(self.asked.rows, self.asked.tokens, strict=True)}
        result, number = [], self.memory.neighbours
        for n, fact in enumerate(facts):
            under = {"reader": keys[n : n + 1], "values": values[n : n + 1], "group": group}
            result.append(Trial(what, fact, "efficacy", tokens[n], **under))
            result += [Trial(what, fact, "neighbours", t, **under) for t in self.neighbours(fact, n * number, number)]
            if group != INVENTED or what == "identity":
                continue
            result += [
                Trial(what, fact, "paraphrase", of[fact.cluster, role], **under)
                for role in self.asked.roles(PARAPHRASE)
                if (fact.cluster, role) in of
            ]
            goal, zero = int(tokens[n].ids[tokens[n].target[0]]), 0 * keys[n : n + 1]
            for step in range(min(max(number // 2, 1), len(self.tokens) - 1) if what == "edit" else 0):
                other = self.tokens[(n + 1 + step) % len(self.tokens)]
                result.append(Trial(what, fact, "hijacked", other, **under, wanted=goal))
                result.append(Trial(what, fact, "hijacked_intact", other, **under | {"reader": zero, "wanted": goal}))
        return result

    def neighbours(self, fact: Any, start: int, number: int) -> list:
        """Return prompts of so many known subjects in turn, of all but the fact's own."""
        places = [(start + step) % len(self.known) for step in range(min(number, len(self.known)))]
        return [self.known_tokens[k] for k in places if self.known[k].cluster != fact.cluster]

    def together(self, size: int, edit: Any) -> list[Trial]:
        """Return trials of facts in groups of so many, inserted as a sum of single edits and solved jointly.

        joint_preserved: jointly, known keys of split a preserved as well.
        """
        from stages.model import rank_one

        result = []
        for start in range(0, len(self.facts) - size + 1, size):
            part = slice(start, start + size)
            ways = {"summed": edit[part], "joint": rank_one.joint_readers(self.metric, self.keys[part])}
            ways |= {"joint_preserved": rank_one.joint_readers(self.preserving, self.keys[part])}
            for what, keys in ways.items():
                for n in range(start, start + size):
                    under = {"reader": keys, "values": self.values[part]}
                    result.append(Trial(f"{what}-{size}", self.facts[n], "efficacy", self.tokens[n], **under))
                    result += [
                        Trial(f"{what}-{size}", self.facts[n], "neighbours", tokens, **under)
                        for tokens in self.neighbours(self.facts[n], n, int(what != "summed"))
                    ]
        return result

    def drifted(self, readers: dict, text: tuple[list, list]) -> list[dict]:
        """Return what single edits do to plain text: each fact reads its own passage of split b."""
        from stages.model import rank_one

        if not text[1]:
            return []
        passages = [text[1][n % len(text[1])].ids[: self.memory.text] for n in range(len(self.facts))]
        edits = [(keys, self.values) for keys in readers.values()]
        changes = rank_one.drift(self.loaded, self.writer, self.layer, passages, edits)
        return [
            self.row(what, fact, measure, value)
            for what, change in zip(readers, changes, strict=True)
            for measure, values in zip(("text_loss", "text_kl"), change, strict=True)
            for fact, value in zip(self.facts, values, strict=True)
        ]

    def true_facts(self) -> list[Trial]:
        """Return trials of known facts overwritten, with C of text alone and with known keys of split a beside."""
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
        metrics = {"true": self.metric, "true_preserved": self.preserving}
        return [
            trial
            for what, metric in metrics.items()
            for trial in self.trials(what, facts, tokens, rank_one.readers(metric, keys), values, KNOWN)
        ]

    def adapters(self) -> dict[str, tuple]:
        """Return name -> keys, values and the facts in words: the first fact alone, and all together."""
        from stages.model import rank_one

        said = [f"{fact.text}{fact.targets[0]}" for fact in self.facts]
        return {
            FIRST: (rank_one.readers(self.metric, self.keys[:1]), self.values[:1], said[0]),
            "together": (self.joint, self.values, " | ".join(said)),
        }

    def read_back(self, keys: Any, values: Any) -> list[dict]:
        """Return what an adapter of the first fact is, as its file has it: its rank, and logits of the merged weight.

        second_singular: the second singular value of W' - W over the first; reload: the largest difference of logits
        between the weight that holds it and the edit that was tried, after the fact's prompt.
        """
        from stages.model import adapter
        from stages.model.forward import forward
        from stages.model.mlp import storing

        ids, fact = self.tokens[0].ids[: self.tokens[0].target[0]], self.facts[0]
        with adapter.merged(self.loaded, self.writer, keys, values):
            merged = forward(self.loaded, [ids], [np.array([len(ids) - 1])])
        own, first = self.adapters()[FIRST], self.writer.weight_DF(self.loaded)
        with storing(self.loaded, self.writer, own[0], own[1]):
            edited = forward(self.loaded, [ids], [np.array([len(ids) - 1])])
        return [
            self.row("adapter", fact, "second_singular", adapter.second_singular(first, keys, values)),
            self.row("adapter", fact, "reload", float((merged - edited).abs().max())),
        ]


def miss(
    loaded: Any, writers: dict, asked: Prompts, settings: params.Params, chosen: dict, inserted: Insertion | None
) -> list[dict]:
    """Return the rows of part miss: answers without and after demonstrations, before and after insertion, and scores.

    After: all inserted facts together, solved jointly. Matched: as many real and invented subjects of each number of
    tokens; of known ones those of split b.
    """
    from stages.model.mlp import storing

    most, mains = settings.memory.missed, [row for row in asked.rows if row.role == MAIN]
    groups = {kind: asked.of(most, category=kind, split="b")[0] for kind in (KNOWN, RARE, INVENTED)}
    real = [row for row in mains if row.category in (RARE, LONG) or (row.category == KNOWN and row.split == "b")]
    pairs = _as_long(asked, real, [row for row in mains if row.category == INVENTED])[:most]
    groups |= {"matched_real": [row for row, _ in pairs], "matched_invented": [row for _, row in pairs]}
    groups = {name: of_group for name, of_group in groups.items() if of_group}
    rows = _answers(loaded, asked, groups, "", {})
    if inserted is not None:
        facts = {fact.cluster: fact.targets[0].strip() for fact in inserted.facts}
        after = {KNOWN: groups.get(KNOWN, [])}
        after |= {INVENTED: [row for row in groups.get(INVENTED, []) if row.cluster in facts]}
        with storing(loaded, inserted.writer, inserted.joint, inserted.values):
            rows += _answers(loaded, asked, after, AFTER, facts)
    layer = chosen["mlp"]
    return rows + _scores(loaded, {layer: writers[layer]}, asked, settings, inserted, groups)


def _as_long(asked: Prompts, real: list, invented: list) -> list[tuple]:
    """Return pairs of a real and an invented subject of equally many tokens, each taken once.

    Numbers of tokens that give most pairs come first: fewer lengths of prompts run.
    """
    of = {row.id: len(t.spans[ASKED][0][1]) for row, t in zip(asked.rows, asked.tokens, strict=True)}
    pairs = [
        list(zip(*([row for row in rows if of[row.id] == number] for rows in (real, invented)), strict=False))
        for number in sorted(set(of.values()))
    ]
    return [pair for of_number in sorted(pairs, key=len, reverse=True) for pair in of_number]


def _answers(loaded: Any, asked: Prompts, groups: dict[str, list], when: str, facts: dict[str, str]) -> list[dict]:
    """Return what is answered about groups of subjects, each asked once; facts: what invented ones were given."""
    from stages.model import misses

    of = {(row.cluster, row.role): (row, t) for row, t in zip(asked.rows, asked.tokens, strict=True)}
    objects = {row.targets[0].strip() for row in asked.rows if row.category != WORD}
    subjects = sorted({row.cluster for of_group in groups.values() for row in of_group})
    roles, said = (MAIN, *asked.roles(SHOWN)), {}
    for role in roles:
        there = [of[cluster, role] for cluster in subjects if (cluster, role) in of]
        texts, entropy = misses.answers(loaded, [tokens for _, tokens in there])
        said |= {(row.cluster, role): answer for (row, _), *answer in zip(there, texts, entropy, strict=True)}
    rows = []
    for group, of_group in groups.items():
        for row in of_group:
            right = facts.get(row.cluster, "") if row.category == INVENTED else row.targets[0].strip()
            for role in roles:
                if (row.cluster, role) not in said:
                    continue
                what, (text, nats) = role.partition("-")[0] + when, said[row.cluster, role]
                is_a = misses.kind_of(text, right, row.cluster.partition("/")[2], objects)
                rows.append(_row("miss", what, -1, row, "entropy", nats, group))
                rows += [_row("miss", what, -1, row, of_kind, of_kind == is_a, group)
                         for of_kind in ("right", "object", "echo", "number", "other")]  # fmt: skip
            shown = [said[row.cluster, role][0] for role in roles[1:] if (row.cluster, role) in said]
            if len(shown) == 2:
                rows.append(_row("miss", SHOWN + when, -1, row, "agreement", shown[0] == shown[1], group))
    return [row | {"split": "b"} for row in rows]  # nothing chose on any of them


def _scores(
    loaded: Any, writers: dict, asked: Prompts, settings: params.Params, inserted: Insertion | None, groups: dict
) -> list[dict]:
    """Return scores of a hit per subject of every group."""
    from stages.model import misses, rank_one

    ((layer, writer),), of = writers.items(), {row.id: t for row, t in zip(asked.rows, asked.tokens, strict=True)}
    every = list({row.id: row for of_group in groups.values() for row in of_group}.values())
    tokens = [of[row.id] for row in every]
    names = [t.spans[ASKED][0][1] for t in tokens]
    scores = {"tokens": np.array([len(name) for name in names])}
    if all(name[0] > 0 for name in names):  # nothing predicts the first token of a text
        scores["logprob"] = misses.name_logprobs(loaded, tokens, names)
    if inserted is not None:
        known = asked.of(settings.memory.choose, category=KNOWN, split="a")[1]
        keys, stored = (rank_one.mean_keys(loaded, writer, [[t] for t in of], ASKED) for of in (tokens, known))
        values = loaded.model.get_submodule(writer.path)(keys)
        scores |= misses.hits(keys, values, stored, inserted.metric)
    place = {row.id: number for number, row in enumerate(every)}
    return [
        _row("miss", "score", layer, row, measure, values[place[row.id]], group)
        for group, of_group in groups.items()
        for row in of_group
        for measure, values in scores.items()
    ]


def _write(slot: str, rows: list[dict], chosen: dict, why: str) -> None:
    if why:
        log.info("%s: MLPs are not read as a store: %s", slot, why)
        tables.MEMORY.write_empty(slot, why=why)
        return
    table = pd.DataFrame(rows, columns=tables.MEMORY.names)
    tables.MEMORY.noting(chosen=chosen).write(table.sort_values(tables.MEMORY.names[:-1], kind="stable"), slot)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
