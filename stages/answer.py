"""Ask the intact model usual, rare and made-up words: `python -m stages.answer <slot>`.

Writes data/answers/<slot>.parquet, one row per prompt of task `extrapolation` with demonstrations: whether the answer
is right, whether it ends where it ends, and how many of the model's own tokens the word and the answer have. More
tokens are harder whatever the word: classes are compared at equal numbers of them (statistics/extrapolation.py).
"""

import json
import logging
import sys

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.store import params, paths, tables
from stages.store.budget import announce
from stages.store.errors import run
from stages.tasks.extrapolation.task import ASKED

log = logging.getLogger(__name__)
TASK = "extrapolation"


def main(slot: str) -> None:
    """Answer all prompts with demonstrations, or say why there are none."""
    settings = params.load()
    record = json.loads(paths.model(slot).read_text(encoding="utf-8"))
    asked = tasks.of(TASK)
    why = asked.refuses(record["kind"])
    if not why and getattr(settings.tasks, TASK) is None:
        why = f"tasks.{TASK} is not in params"
    if why:
        return _write_empty(slot, why)
    prompts = tables.read(paths.prompts(TASK), tables.PROMPTS)
    prompts = prompts[prompts.role.isin(asked.roles)]
    from stages.model.load import load
    from stages.model.tokens import fitting

    loaded = load(slot, attention="sdpa")
    rows, encoded = fitting(loaded, list(prompts.itertuples()))
    if not rows:
        return _write_empty(slot, "no prompt fits the model")
    log.info(announce(f"answer {slot}", len(rows), sum(map(len, encoded)) // 4, record["parameters"]))
    tables.write(paths.answers(slot), answers(loaded, rows, encoded), tables.ANSWERS)


def answers(loaded, rows: list, encoded: list) -> pd.DataFrame:
    """Return rows of ANSWERS, by prompt; prompts with the same demonstrations share one run of them.

    rows: of the prompts table; encoded: their tokens.
    """
    from stages.model.score import Batch

    shown = [row.text[: row.relations[0]["key_start"]] for row in rows]
    together = pd.Series(range(len(rows))).groupby(shown).apply(list)
    answered = []
    for chosen in tqdm(together, desc="answer", unit="set"):
        batch = Batch(loaded, [encoded[index] for index in chosen], [encoded[index].target for index in chosen])
        pairs = zip(chosen, batch.intact, strict=True)
        answered += [_row(rows[index], encoded[index], scored) for index, scored in pairs]
    return pd.DataFrame(answered, columns=tables.ANSWERS.names).sort_values("prompt")


def _row(prompt, tokens, scored) -> dict:
    ((answer, word),) = tokens.spans[ASKED]
    before_end = tokens.target <= answer.max()
    row = {"prompt": prompt.id, "function": prompt.group, "category": prompt.category, "split": prompt.split}
    row |= {"cluster": prompt.cluster, "word_tokens": len(word), "answer_tokens": int(np.sum(before_end))}
    row |= {"right": bool(scored.top[before_end].all()), "ended": bool(scored.top[~before_end].all())}
    return row | {"logprob": float(scored.logprob.mean())}


def _write_empty(slot: str, why: str) -> None:
    log.info("%s: nothing to answer: %s", slot, why)
    tables.write(paths.answers(slot), tables.empty(tables.ANSWERS, why), tables.ANSWERS)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
