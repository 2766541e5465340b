"""All head families on checkpoints that others trained: the prompts, relations and statistics that slots are read by.

Nothing is learned here: `train` of such a recipe lists revisions of a hub or path model (`params.Revisions`), Pythia's
for instance. `study.sequences` prompts of each kind (long and short text, repeats, needles, sentences) are taken from
data/prompts, half of them from split a; no two share a cluster. Families that are not attentional (function) are left
out. Beside them, where the model writes text and the task is there:

    loss, in_context                  of long text (every 4th token): mean, and late minus early quarter (Olsson+ 2022)
    repeats_loss, repeats_in_context  of random repeats: loss in the last quarter, and the same minus the first one's
    recall                            share of a needle's answer tokens that are the argmax, teacher-forced
    grammar                           share of arcs that the best head of each label and direction finds, labels given;
                                      beside it that of the best fixed offsets (see `findings.together`)

Retrieval is scored on all needles, answered or not, so that every checkpoint is measured on the same ones.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import field_validator

from stages.families import FAMILIES
from stages.families.family import Relation, Tokens
from stages.families.treebank.grammar import FEWEST
from stages.recipes.lesson import Lesson, Watched
from stages.store import paths, tables
from stages.store.errors import UserError

STRIDE = 4  # text is scored at every so many tokens: the LM head is most of the cost
OUTCOMES = ("loss", "in_context", "repeats_loss", "repeats_in_context", "recall")
MEASURED = list(dict.fromkeys(family.task for family in FAMILIES.values() if family.relation))


class Asked(NamedTuple):
    """A prompt: its number as the study counts sequences (even: split a, odd: split b), its task, its row."""

    sequence: str
    task: str
    row: Any


class Families(Lesson):
    """Attentional families of the prompt tasks `tasks`, which must be among `tasks` in params.yaml."""

    tasks: tuple[str, ...]

    trained: ClassVar[bool] = False
    falls: ClassVar[frozenset[str]] = frozenset({"loss", "in_context", "repeats_loss", "repeats_in_context"})
    onsets: ClassVar[tuple[str, ...]] = ("previous", "induction", "repeats_in_context")

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        if not tasks or set(tasks) - set(MEASURED) or len(set(tasks)) < len(tasks):
            raise ValueError(f"allowed: any of {', '.join(MEASURED)}, each once")
        return tasks

    @property
    def watched(self) -> dict[str, Watched]:
        """Families of the tasks, by name; grammar's are parts of one measure: `grammar@obj:dep-to-head`."""
        mine = [one for one in FAMILIES.values() if one.relation and one.task in self.tasks]
        return {one.name.replace("grammar:", "grammar@"): Watched(one.name, one.statistic) for one in mine}

    def held_out(self, rng: np.random.Generator, count: int) -> list[Asked]:
        """Draw `count` prompts of every kind, half of them of split a, no two of one cluster.

        Raises `UserError` where a task was not prepared or a kind has no prompt in one of the splits.
        """
        found, start = [], 0
        for task in self.tasks:
            if not paths.prompts(task).is_file():
                raise UserError(f"{paths.prompts(task)}: no such file; is tasks.{task} in {paths.PARAMS}? dvc repro")
            table = tables.read(paths.prompts(task), tables.PROMPTS)
            table = table.iloc[rng.permutation(len(table))].drop_duplicates(["role", "cluster"])
            for role, rows in table.groupby("role", sort=True):
                halves = [list(rows[rows.split == half].itertuples())[: -(-count // 2)] for half in "ab"]
                if not all(halves):
                    raise UserError(
                        f"{paths.prompts(task)}: no {role} prompts in one half; ask for more of tasks.{task}"
                    )
                for odd, half in enumerate(halves):
                    found += [Asked(f"{2 * (start + at) + odd:04d}", task, row) for at, row in enumerate(half)]
                start += max(map(len, halves))
        return found

    def relations(self, prompts: Sequence[Tokens], tasks: Sequence[str]) -> list[dict[str, Relation]]:
        """Return each prompt's relations by family; between words those with FEWEST queries in all."""
        measured = [family for family in FAMILIES.values() if family.relation]
        found = [
            {one.name: has for one in measured if one.task == task and (has := one.relation(tokens)) is not None}
            for tokens, task in zip(prompts, tasks, strict=True)
        ]
        counts = Counter(name for mine in found for name, one in mine.items() if one.words for _ in one.queries)
        return [{name: one for name, one in mine.items() if counts.get(name, FEWEST) >= FEWEST} for mine in found]

    def scored(self, asked: Asked, tokens: Tokens) -> Tokens:
        """Return a prompt's tokens under the study's name for it, with the positions that are to be scored."""
        target = tokens.target
        if asked.task in ("text", "repeats") and tokens.role != "short":
            ordinary = np.flatnonzero(~tokens.special)[1:]
            target = ordinary[::STRIDE] if asked.task == "text" else ordinary
        return replace(tokens, prompt=asked.sequence, target=target)

    def results(self, asked: Asked, logprob: np.ndarray, top: np.ndarray) -> dict[str, float]:
        """Turn a prompt's scored tokens into measures."""
        if asked.task == "needle":
            return {"recall": top.mean()}
        quarter = len(logprob) // 4
        if asked.task not in ("text", "repeats") or not quarter:
            return {}
        early, late = -logprob[:quarter].mean(), -logprob[-quarter:].mean()
        if asked.task == "text":
            return {"loss": -logprob.mean(), "in_context": late - early}
        return {"repeats_loss": late, "repeats_in_context": late - early}


LESSON = Families
