"""All head families on checkpoints that others trained: the prompts, relations and statistics that slots are read by.

Nothing is learned here: `train` of such a recipe lists revisions of a hub or path model (`Revisions`), Pythia's
for instance. `study.sequences` prompts of each kind (long and short text, repeats, needles, sentences) are taken from
data/prompts, half of them from split a; no two share a cluster. Families that are not attentional (function) are left
out. Beside them stand, where the model writes text, the outcomes that the tasks' families name (outcomes.py in
stages/families/<task>/), and

    grammar    share of arcs that the best head of each label and direction finds, labels given; beside it that of the
               best fixed offsets (see `findings.together`)

Retrieval is scored on all needles, answered or not, so that every checkpoint is measured on the same ones.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import field_validator

from stages.families import FAMILIES, outcomes
from stages.families.family import Relation, Tokens
from stages.families.treebank.grammar import FEWEST
from stages.recipes.lesson import Lesson, Watched
from stages.store import paths, tables
from stages.store.errors import UserError

MEASURED = list(dict.fromkeys(family.task for family in FAMILIES.values() if family.relation))
OUTCOMES = {task: outcomes(task) for task in MEASURED if outcomes(task)}


class Asked(NamedTuple):
    """A prompt: its number as the study counts sequences (even: split a, odd: split b), its task, its row."""

    sequence: str
    task: str
    row: Any


class Families(Lesson):
    """Attentional families of the prompt tasks `tasks`, which must be among `tasks` in params.yaml."""

    tasks: tuple[str, ...]

    trained: ClassVar[bool] = False
    falls: ClassVar[frozenset[str]] = frozenset(name for outcomes in OUTCOMES.values() for name in outcomes.falls)
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
        return {
            family.name.replace("grammar:", "grammar@"): Watched(family.name, family.statistic)
            for family in FAMILIES.values()
            if family.relation and family.task in self.tasks
        }

    @property
    def outcome_names(self) -> list[str]:
        """Outcomes, in the order in which they are shown."""
        return [name for outcomes in OUTCOMES.values() for name in outcomes.names]

    def held_out(self, rng: np.random.Generator, count: int) -> list[Asked]:
        """Draw `count` prompts of every kind, half of them of split a, no two of one cluster.

        Raises `UserError` where a task was not prepared or a kind has no prompt in one of the splits.
        """
        prompts, start = [], 0
        for task in self.tasks:
            path = tables.PROMPTS.path(task)
            if not path.is_file():
                raise UserError(f"{path}: no such file; is tasks.{task} in {paths.PARAMS}? dvc repro")
            table = tables.PROMPTS.read(task)
            table = table.iloc[rng.permutation(len(table))].drop_duplicates(["role", "cluster"])
            for role, rows in table.groupby("role", sort=True):
                halves = [list(rows[rows.split == half].itertuples())[: -(-count // 2)] for half in "ab"]
                if not all(halves):
                    raise UserError(f"{path}: no {role} prompts in one half; ask for more of tasks.{task}")
                for odd, half in enumerate(halves):
                    prompts += [Asked(f"{2 * (start + at) + odd:04d}", task, row) for at, row in enumerate(half)]
                start += max(map(len, halves))
        return prompts

    def relations(self, prompts: Sequence[Tokens], tasks: Sequence[str]) -> list[dict[str, Relation]]:
        """Return each prompt's relations by family; between words those with FEWEST queries in all."""
        measured = [family for family in FAMILIES.values() if family.relation]
        related: list[dict[str, Relation]] = []
        for tokens, task in zip(prompts, tasks, strict=True):
            candidates = {family.name: family.relation(tokens) for family in measured if family.task == task}
            related.append({name: relation for name, relation in candidates.items() if relation is not None})
        queries: Counter[str] = Counter()
        for relations in related:
            queries.update({name: len(relation.queries) for name, relation in relations.items() if relation.words})
        few = {name for name, count in queries.items() if count < FEWEST}
        return [{name: relations[name] for name in relations if name not in few} for relations in related]

    def scored(self, asked: Asked, tokens: Tokens) -> Tokens:
        """Return a prompt's tokens under the study's name for it, with the positions that are to be scored."""
        target = OUTCOMES[asked.task].scored(tokens) if asked.task in OUTCOMES else tokens.target
        return replace(tokens, prompt=asked.sequence, target=target)

    def results(self, asked: Asked, logprob: np.ndarray, top: np.ndarray) -> dict[str, float]:
        """Turn a prompt's scored tokens into measures."""
        return OUTCOMES[asked.task].measures(logprob, top) if asked.task in OUTCOMES else {}


LESSON = Families
