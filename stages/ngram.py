"""What counting alone can do on the model's own prompts: `python -m stages.ngram`, the control of every claim.

Counts the words of a text (interpolated modified Kneser-Ney, `stages.baseline`) and writes data/ngram.parquet, one row
per (baseline, prompt, measure), and reports/baselines/ngram.csv, means with 95 % intervals over clusters.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.baseline.outcome import Baselines
from stages.baseline.words import sentences
from stages.statistics.intervals import interval
from stages.store import files, params, paths, tables
from stages.store.cost import told
from stages.store.errors import run
from stages.tasks.prompt import read_text

log = logging.getLogger(__name__)

TIMED = 8  # prompts of a task that are timed before all are scored
COLUMNS = "baseline task condition measure value low high trials".split()


def main() -> None:
    """Count the text, score the prompts of the tasks that counting can be asked about, write values and summary."""
    settings = params.load()
    counted = sentences(read_text(Path(settings.ngram.path)))
    baselines = Baselines(counted, settings.ngram.order)
    size = baselines.vocabulary.size - 2  # without <unk> and the end of a sentence
    log.info("ngram: %s, %d words, %d different", settings.ngram.path, sum(map(len, counted)), size)
    counted_in = [task for task, source in settings.tasks if source is not None and tasks.of(task).counted]
    asked = {task: in_roles(task, tables.ASKED.read(task)) for task in counted_in}
    grams = sum(len(level.keys) for level in baselines.text.levels)
    counts = {"prompts": sum(map(len, asked.values())), "different n-grams": grams}
    log.info(told("ngram", counts, sum(expected(baselines, task, prompts) for task, prompts in asked.items())))
    rows = []
    for task, prompts in asked.items():
        rows += score(baselines, task, prompts)
    raw = pd.DataFrame(rows, columns=tables.NGRAM.names)
    tables.NGRAM.write(raw, asked=sum(map(len, asked.values())))
    summary = summarize(raw)
    files.write_text(paths.COUNTING, summary.to_csv(index=False, float_format="%.5f", lineterminator="\n"))


def in_roles(task: str, prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the prompts in the roles that the task is asked about in, all where it names none."""
    roles = tasks.of(task).roles
    return prompts[prompts.role.isin(roles)] if roles else prompts


def expected(baselines: Baselines, task: str, prompts: pd.DataFrame) -> float:
    """Return about how many seconds a task's prompts take: a few of them, all through the table, are timed."""
    some = prompts.iloc[:: max(1, len(prompts) // TIMED)]
    start = perf_counter()
    for prompt in some.itertuples(index=False):
        tasks.of(task).counted(baselines, prompt)
    return (perf_counter() - start) * len(prompts) / max(1, len(some))


def score(baselines: Baselines, task: str, prompts: pd.DataFrame) -> Iterator[dict]:
    """Yield a row per prompt, baseline and measure."""
    asked = tasks.of(task)
    for prompt in tqdm(prompts.itertuples(index=False), total=len(prompts), desc=f"ngram {task}", unit="prompt"):
        same = {"task": task, "condition": prompt.condition, "category": prompt.category, "cluster": prompt.cluster}
        for baseline, measures in asked.counted(baselines, prompt).items():
            for measure, value in measures.items():
                yield same | {"baseline": baseline, "prompt": prompt.id, "measure": measure, "value": value}


def summarize(raw: pd.DataFrame) -> pd.DataFrame:
    """Return the mean per baseline, task, condition and measure and interval; condition 'all' is the whole task."""
    rows = []
    for (task, baseline, measure), whole in raw.groupby(["task", "baseline", "measure"]):
        column = tasks.of(task).parts
        parts = whole.groupby(column) if column else ()
        for condition, part in [("all", whole), *parts]:
            low, high = interval(part.value, part.cluster, share=measure not in tasks.of(task).falls)
            row = {"baseline": baseline, "task": task, "condition": condition, "measure": measure}
            rows.append(row | {"value": part.value.mean(), "low": low, "high": high, "trials": len(part)})
    return pd.DataFrame(rows, columns=COLUMNS)


if __name__ == "__main__":
    run(main)
