"""What counting alone can do on the model's own prompts: `python -m stages.ngram`, the control of every claim.

Counts the words of a text (interpolated modified Kneser-Ney, `stages.baseline`) and writes data/ngram.parquet, one row
per (baseline, prompt, measure), and reports/baselines/ngram.csv, means with 95 % bootstrap intervals over clusters.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from stages.baseline.outcome import Baselines
from stages.baseline.words import sentences
from stages.statistics.verdict import bootstrap
from stages.store import params, paths, tables
from stages.store.errors import run
from stages.tasks.prompt import read_text, stream

log = logging.getLogger(__name__)

SAMPLES = 2000  # bootstrap samples
COLUMNS = "baseline task group measure value low high trials".split()
# what a task is broken down by: phenomenon, function
GROUP = {"blimp": "category", "icl": "group", "iteration": "group"}


def main() -> None:
    """Count the text, score the prompts of blimp, icl (clean), repeats and iteration, write values and summary."""
    settings = params.load()
    counted = sentences(read_text(Path(settings.ngram.path)))
    baselines = Baselines(counted, settings.ngram.order)
    size = baselines.vocabulary.size - 2  # without <unk> and the end of a sentence
    log.info("ngram: %s, %d words, %d different", settings.ngram.path, sum(map(len, counted)), size)
    rows = []
    for task in ("blimp", "icl", "repeats", "iteration"):
        if getattr(settings.tasks, task) is not None:
            prompts = tables.read(paths.prompts(task), tables.PROMPTS)
            rows += score(baselines, task, prompts)
    raw = pd.DataFrame(rows, columns=tables.NGRAM.names)
    tables.write(paths.NGRAM, raw, tables.NGRAM)
    summary = summarize(raw, settings.seed)
    tables.write_text(paths.COUNTING, summary.to_csv(index=False, float_format="%.5f", lineterminator="\n"))


def score(baselines: Baselines, task: str, prompts: pd.DataFrame) -> Iterator[dict]:
    """Yield a row per prompt, baseline and measure; of in-context prompts only the clean ones."""
    if task == "icl":
        prompts = prompts[prompts.role == "clean"]
    for prompt in tqdm(prompts.itertuples(index=False), total=len(prompts), desc=f"ngram {task}", unit="prompt"):
        if task == "blimp":
            found = baselines.blimp(*prompt.targets)
        elif task == "icl":
            found = baselines.icl(prompt.text, prompt.targets[0])
        elif task == "iteration":
            found = baselines.iteration(prompt.text, prompt.targets[0])
        else:
            found = baselines.repeats(prompt.ordinals.tolist())
        same = {"task": task, "group": prompt.group, "category": prompt.category, "cluster": prompt.cluster}
        for baseline, measures in found.items():
            for measure, value in measures.items():
                yield same | {"baseline": baseline, "prompt": prompt.id, "measure": measure, "value": value}


def summarize(raw: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the mean per baseline, task, group and measure with its interval; group 'all' is the whole task."""
    rows = []
    for (task, baseline, measure), whole in raw.groupby(["task", "baseline", "measure"]):
        parts = whole.groupby(GROUP[task]) if task in GROUP else ()
        for group, mine in [("all", whole), *parts]:
            rng = stream(seed, f"ngram/{task}/{measure}/{group}")  # the same prompts are drawn for both baselines
            low, high = bootstrap(mine[["value"]].to_numpy(float), mine.cluster.to_numpy(str), SAMPLES, rng)[:, 0]
            row = {"baseline": baseline, "task": task, "group": group, "measure": measure}
            rows.append(row | {"value": mine.value.mean(), "low": low, "high": high, "trials": len(mine)})
    return pd.DataFrame(rows, columns=COLUMNS)


if __name__ == "__main__":
    run(main)
