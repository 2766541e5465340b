"""Part insert: facts are written into one layer's MLP by rank-one edits, beside controls, and kept as adapters."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.facts.asked import Prompts, fact_row
from stages.store import params, paths, tables
from stages.tasks.facts.task import ASKED, INVENTED, KNOWN, MAIN, PARAPHRASE, PREFIXED

TEXT = "text"  # the task whose passages give keys, and are asked under edits
FIRST = "one"  # the adapter of the first fact
PRESERVED = 10.0  # times the second moment of text that keys to be preserved weigh


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
    for layer in dict.fromkeys((chosen["mlp"], *memory.layers)):
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
    """A prompt read under an edit: what is counted, of which fact; wanted: an answer's beginning, else the target."""

    what: str
    fact: Any
    measure: str
    tokens: Any
    reader: Any  # (R, F)
    values: Any  # (R, D)
    condition: str = INVENTED
    wanted: tuple[int, ...] | None = None  # see `stages.model.tokens.beginning`


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

    def row(self, what: str, fact: Any, measure: str, value: float, condition: str = INVENTED) -> dict:
        """Return a row of part insert; its cluster is the fact."""
        return fact_row("insert", what, self.layer, fact, measure, value, condition)

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
        drifting = {"edit": (edit, self.values), "identity": (identity, self.values)}
        for weight in self.memory.kl:
            what = f"kl-{weight:g}"
            values = self.sought(weight)
            trials += self.trials(what, self.facts, self.tokens, edit, values)
            drifting[what] = edit, values
        rows = self.tried(trials + self.true_facts())
        for size in self.memory.together:
            rows += self.tried(self.together(size, edit))
        if self.memory.kl:
            rows += self.after_names({what: of for what, of in drifting.items() if what != "identity"})
        return rows + self.drifted(drifting, text)

    def sought(self, kl: float) -> Any:
        """Return values (R, D) of all facts, found with a KL term of this weight in the descent."""
        from stages.model import rank_one

        steps = self.memory.steps
        return rank_one.descended(self.loaded, self.writer, self.layer, self.tokens, ASKED, steps, kl)[0]

    def tried(self, trials: list[Trial]) -> list[dict]:
        """Run trials of as many pairs each together; return their rows.

        None of a trial whose prompt was not read with the blanks that the wanted answer begins with.
        """
        import torch

        from stages.model.tokens import starts_as

        if not trials:
            return []
        keys, values = (torch.stack([getattr(trial, name) for trial in trials]) for name in ("reader", "values"))
        scored = self.answered([trial.tokens for trial in trials], keys, values)
        hits = [
            s.solved if t.wanted is None else starts_as(t.tokens, s.best, t.wanted)
            for t, s in zip(trials, scored, strict=True)
        ]
        return [
            self.row(t.what, t.fact, t.measure, hit, t.condition)
            for t, hit in zip(trials, hits, strict=True)
            if hit is not None
        ]

    def trials(self, what: str, facts: list, tokens: list, keys, values, condition: str = INVENTED) -> list[Trial]:
        """Return trials of efficacy, paraphrases, neighbours (known ones still right) and hijacked invented ones."""
        from stages.model.tokens import beginning

        of = {(row.cluster, row.role): t for row, t in zip(self.asked.rows, self.asked.tokens, strict=True)}
        result, number = [], self.memory.neighbours
        for n, fact in enumerate(facts):
            under = {"reader": keys[n : n + 1], "values": values[n : n + 1], "condition": condition}
            result.append(Trial(what, fact, "efficacy", tokens[n], **under))
            result += [Trial(what, fact, "neighbours", t, **under) for t in self.neighbours(fact, n * number, number)]
            if condition != INVENTED or what == "identity":
                continue
            result += [
                Trial(what, fact, "paraphrase", of[fact.cluster, role], **under)
                for role in self.asked.roles(PARAPHRASE)
                if (fact.cluster, role) in of
            ]
            goal, zero = beginning(self.loaded, tokens[n]), 0 * keys[n : n + 1]
            hijacks = what == "edit" or what.startswith("kl-")
            for step in range(min(max(number // 2, 1), len(self.tokens) - 1) if hijacks else 0):
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

    def after_names(self, edits: dict) -> list[dict]:
        """Return KL(intact, edited) right after each fact's name, in other words than the edit has seen: subject_kl."""
        from stages.model import rank_one

        of = {row.cluster: t for row, t in zip(self.asked.rows, self.asked.tokens, strict=True)
              if row.role == f"{PARAPHRASE}-0"}  # fmt: skip
        if not all(fact.cluster in of for fact in self.facts):
            return []
        texts = [of[fact.cluster] for fact in self.facts]
        texts = [tokens.ids[: int(tokens.spans[ASKED][0][1][-1]) + 2] for tokens in texts]  # the name's end, and one
        changes = rank_one.drift(self.loaded, self.writer, self.layer, texts, list(edits.values()))
        return [
            self.row(what, fact, "subject_kl", value * (len(ids) - 1))  # nothing moves before the name's end
            for what, (_, divergence) in zip(edits, changes, strict=True)
            for fact, value, ids in zip(self.facts, divergence, texts, strict=True)
        ]

    def drifted(self, edits: dict, text: tuple[list, list]) -> list[dict]:
        """Return what single edits do to plain text: each fact reads its own passage of split b."""
        from stages.model import rank_one

        if not text[1]:
            return []
        passages = [text[1][n % len(text[1])].ids[: self.memory.text] for n in range(len(self.facts))]
        changes = rank_one.drift(self.loaded, self.writer, self.layer, passages, list(edits.values()))
        return [
            self.row(what, fact, measure, value)
            for what, change in zip(edits, changes, strict=True)
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
