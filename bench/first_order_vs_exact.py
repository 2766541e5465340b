"""All heads by gradients beside all heads silenced one by one: seconds, their ratio, and how well the two agree.

    python -m bench.first_order_vs_exact --slot decoder --prompts 8 --tasks text blimp

Same prompts of split b, same model in memory, same kind (mean), one run; needs the slot's data (`dvc repro`). Silencing
uses every shortcut that the pipeline has: it resumes at the silenced layer and shares prefixes.
"""

import argparse
import logging
import time

import pandas as pd
from scipy.stats import spearmanr

from stages import tasks
from stages.ablate import silenced_on, spread
from stages.engine import shards
from stages.engine.means import text_means
from stages.model.first_order import first_order
from stages.model.load import load
from stages.store import params

log = logging.getLogger(__name__)


def main() -> None:
    """Print a line per task and one for all together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slot", default="decoder")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tasks", nargs="+", default=["text", "blimp", "icl", "needle", "repeats", "iteration"])
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings, loaded = params.load(), load(asked.slot, attention="sdpa")
    means, limit = text_means(asked.slot), settings.extract.batch_tokens
    alone = [
        shards.Intervention(f"single/L{layer}H{head}/mean", "single", "", 1, "mean", 0, f"L{layer}H{head}")
        for layer, head in loaded.anatomy.heads
    ]
    totals = {"first order": 0.0, "one by one": 0.0}
    for task in asked.tasks:
        rows = list(spread(silenced_on(asked.slot, task, settings), asked.prompts).itertuples())
        first_order(loaded, task, rows[:1], means, ("mean",), limit)  # the first pass of all is slow
        start = time.perf_counter()
        estimated = first_order(loaded, task, rows, means, ("mean",), limit)
        quick = time.perf_counter() - start
        start = time.perf_counter()
        shard = shards.Shard(task, tuple(rows), tuple(rows), tuple(alone))
        silenced = shards.run(loaded, means, shard, limit)
        slow = time.perf_counter() - start
        totals = {"first order": totals["first order"] + quick, "one by one": totals["one by one"] + slow}
        silenced = silenced[(silenced.purpose == "single") & (silenced.measure == tasks.of(task).smooth)]
        exact = (silenced.value - silenced.intact).groupby(silenced["heads"]).mean()
        guess = estimated.groupby(["layer", "head"]).change.mean()
        guess.index = [f"L{layer}H{head}" for layer, head in guess.index]
        both = pd.concat([exact, guess], axis=1, join="inner")
        rho = spearmanr(*both.to_numpy().T).statistic
        text = "%-10s %d prompts, %d heads: first order %.1f s, one by one %.1f s (%.1f times), rank correlation %.2f"
        log.info(text, task, len(rows), len(both), quick, slow, slow / quick, rho)
    ratio = totals["one by one"] / totals["first order"]
    log.info("all        first order %.1f s, one by one %.1f s (%.1f times)", *totals.values(), ratio)


if __name__ == "__main__":
    main()
