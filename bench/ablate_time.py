"""Where the time of `ablate` goes: `python -m bench.ablate_time TASK ...`, in a repository in which the plan was run.

Of each task the shard with the most passes runs, once plainly and once under torch.profiler. It prints a row per task,
as in bench/ablate_time.csv: seconds of the plain run over what the shard's products alone take at the rate of a product
timed on the spot, and which share of the processor's time is matrix products, attention, GELU.
"""

import csv
import sys
import time

from torch.profiler import ProfilerActivity, profile

from stages import ablate
from stages.engine.means import text_means
from stages.engine.shards import run
from stages.model.cost import OVERHEAD, seconds, weights
from stages.model.load import load
from stages.model.tokens import fitting
from stages.store import params, tables

SHARES = {"products": ("mm", "addmm", "bmm"), "attention": ("_scaled_dot_product",), "gelu": ("gelu",)}
COLUMNS = ("task", "prompts", "interventions", "tokens", "rows", "seconds", "over_products", *SHARES)


def main(*names: str, slot: str = "decoder") -> None:
    """Run the largest shard of each task."""
    settings, plan = params.load(), tables.PLANS.read(slot)
    loaded = load(slot, attention="sdpa")
    means, (blocks, head) = text_means(slot), weights(loaded)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    for task in names:
        prompts = ablate.silenced_on(slot, task, settings)
        rows, _ = fitting(loaded, list(prompts.itertuples()))
        prompts = prompts[prompts.id.isin({row.id for row in rows})]
        shard = max(ablate.planned(task, prompts, plan, settings.ablate, 0), key=lambda each: each.passes)
        work, product = ablate._work(loaded, [shard]), seconds(loaded) / OVERHEAD
        start = time.perf_counter()
        run(loaded, means, shard, settings.extract.batch_tokens)
        took = time.perf_counter() - start
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            run(loaded, means, shard, settings.extract.batch_tokens)
        ratio = took / (product * (work.tokens * blocks + work.rows * head))
        counts = (len(shard.prompts), len(shard.interventions), round(work.tokens), round(work.rows))
        table.writerow((task, *counts, f"{took:.1f}", f"{ratio:.2f}", *shares(profiled.key_averages())))
        sys.stdout.flush()


def shares(operations) -> list[str]:
    """Return which share of all time each kind of operation takes itself."""
    whole = sum(of.self_cpu_time_total for of in operations)
    names = {kind: [f"aten::{name}" for name in of] for kind, of in SHARES.items()}
    return [
        f"{sum(of.self_cpu_time_total for of in operations if of.key.startswith(tuple(own))) / whole:.2f}"
        for own in names.values()
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
