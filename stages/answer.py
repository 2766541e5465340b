"""Ask the intact model usual, rare and made-up words: `python -m stages.answer <slot>`.

Writes data/answers/<slot>.parquet, one row per prompt of task `extrapolation` with demonstrations: whether the text
that greedy decoding writes is the answer, and ends there, and how many of the model's own tokens word and answer have.
More tokens are harder whatever the word: classes are compared at equal numbers of them (statistics/extrapolation.py).
"""

import logging
import sys

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.store import params, records, tables
from stages.store.errors import run
from stages.tasks.extrapolation.task import ASKED, word_tokens

log = logging.getLogger(__name__)
TASK = "extrapolation"


def main(slot: str) -> None:
    """Answer all prompts with demonstrations, or say why there are none."""
    settings = params.load()
    record = records.read(slot)
    asked = tasks.of(TASK)
    why = tasks.unasked(TASK, record["kind"], settings.tasks)
    if why:
        return _write_empty(slot, why)
    prompts = tables.ASKED.read(TASK)
    prompts = prompts[prompts.role.isin(asked.roles)]
    from stages.model.cost import Work, announce, shared
    from stages.model.load import load
    from stages.model.tokens import fitting

    loaded = load(slot, attention="sdpa", lays_out=True)
    rows, encoded = fitting(loaded, list(prompts.itertuples()))
    if not rows:
        return _write_empty(slot, "no prompt fits the model")
    target = sum(len(tokens.target) for tokens in encoded)  # scored, and then written by the model itself
    work = Work(shared([tokens.ids for tokens in encoded]) + target, 2 * target)
    log.info(announce(f"answer {slot}", len(rows), work, loaded))
    tables.ANSWERS.write(answers(loaded, rows, encoded), slot, asked=len(rows))


def answers(loaded, rows: list, encoded: list) -> pd.DataFrame:
    """Return rows of ANSWERS, by prompt; prompts with the same demonstrations share one run of them (`near`).

    rows: of the prompts table; encoded: their tokens.
    """
    from stages.engine.local import each
    from stages.model.score import ENOUGH, Batch
    from stages.model.sharing import near
    from stages.model.written import writes

    shown = [row.text[: row.relations[0]["key_start"]] for row in rows]
    first = [int(tokens.target[0]) for tokens in encoded]
    together = near(shown, [tokens.ids for tokens in encoded], first, ENOUGH)

    def some(chosen: list[int]) -> list[dict]:
        batch = Batch(loaded, [encoded[index] for index in chosen], [encoded[index].target for index in chosen])
        wanted = [_wanted(rows[index]) for index in chosen]
        texts = writes(loaded, batch, [answer + end for answer, end in wanted])
        answered = []
        for index, scored, (answer, end), text in zip(chosen, batch.intact, wanted, texts, strict=True):
            judged = {"correct": text.startswith(answer), "ended": text == answer + end, "forced": scored.solved}
            answered.append(_row(rows[index], encoded[index]) | judged)
        return answered

    batches = tqdm(each(some, together, loaded), desc="answer", total=len(together), unit="batch")
    answered = [row for of_batch in batches for row in of_batch]
    return pd.DataFrame(answered, columns=tables.ANSWERS.names).sort_values("prompt")


def _wanted(prompt) -> tuple[str, str]:
    """Return the answer, with the white space before it, and the first character of what ends it."""
    target = prompt.targets[0]
    answer = prompt.relations[0]["query_end"] - len(prompt.text)
    return target[:answer], target[answer : answer + 1]


def _row(prompt, tokens) -> dict:
    ((answer, _),) = tokens.spans[ASKED]
    row = {"prompt": prompt.id, "function": prompt.condition, "category": prompt.category, "split": prompt.split}
    row |= {"cluster": prompt.cluster, "word_tokens": word_tokens(tokens)}
    return row | {"answer_tokens": int(np.sum(tokens.target <= answer.max()))}


def _write_empty(slot: str, why: str) -> None:
    log.info("%s: nothing to answer: %s", slot, why)
    tables.ANSWERS.write_empty(slot, why=why)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
