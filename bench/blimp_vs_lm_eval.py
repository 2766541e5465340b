"""Our BLiMP decisions against lm-eval 0.4.13's, pair by pair.

    python -m bench.blimp_vs_lm_eval --folder ../shared/data/blimp --pairs 3   # writes its row of bench/peers.csv

lm-eval scores " Sentence" after a BOS, as `leading_space` and `bos` do, and gives ties to the good sentence; pairs of
equal strings are left out. Both run the same float32 weights.
"""

import argparse
import logging
import time

import numpy as np

from bench.peer import default_model, record, run
from stages.model.load import fuse, open_folder
from stages.model.outcome import outcomes
from stages.tasks.blimp import prompts as blimp
from stages.tasks.blimp.settings import Settings


def main() -> None:
    """Score the pairs with both; print agreement, margins of disagreements, seconds."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", default="../shared/data/blimp", help="folder of BLiMP *.jsonl")
    parser.add_argument("--pairs", type=int, default=3, help="pairs per paradigm")
    options = parser.parse_args()
    settings = Settings(source="path", path=options.folder, pairs=options.pairs, leading_space=True, bos=True)
    prompts = blimp.build(settings, 0)
    folder = default_model()
    start = time.perf_counter()
    loaded = open_folder(folder)
    fuse(loaded.model)  # as every stage that only scores
    loading = time.perf_counter() - start
    start = time.perf_counter()
    ours = {row.id: measures[0] for row, measures in outcomes(loaded, "blimp", prompts, 2048, [])}
    scoring = time.perf_counter() - start
    del loaded
    pairs = [{"id": p.id, "sentence_good": p.targets[0][1:], "sentence_bad": p.targets[1][1:]} for p in prompts]
    question = {"model": str(folder), "pairs": pairs}
    theirs, whole = run("lm-eval-0.4.13", ["lm-eval[hf]==0.4.13"], "lm_eval_blimp.py", question)
    margins = theirs["margins"]
    mine = np.array([ours[p.id]["margin"] for p in prompts])
    peer = np.array([margins[p.id] for p in prompts])
    equal = (mine >= 0) == (peer >= 0)
    print(f"{len(prompts)} pairs of {len({p.condition for p in prompts})} paradigms; equal decisions: {equal.sum()}")
    print(f"accuracy: ours {np.mean(mine >= 0):.4f}, lm-eval {theirs['accuracy']:.4f}")
    print(f"largest difference of margins: {np.abs(mine - peer).max():.2e} nats")
    for prompt, a, b in zip(prompts, mine, peer, strict=True):
        if (a >= 0) != (b >= 0):
            print(f"  {prompt.id}: ours {a:+.6f}, lm-eval {b:+.6f}")
    print(f"seconds: ours {scoring:.1f} scoring + {loading:.1f} loading")
    print(f"seconds: lm-eval {theirs['seconds']:.1f} scoring, {whole:.1f} in all")
    ours_rate, rate = len(prompts) / scoring, len(prompts) / theirs["seconds"]
    print(f"pairs per second: ours {ours_rate:.1f}, lm-eval {rate:.1f}: {ours_rate / rate:.1f} times")
    counted = {"cases": len(prompts), "equal": int(equal.sum()), "largest_difference": np.abs(mine - peer).max()}
    record(__file__, "lm-eval 0.4.13", "minimal pairs", **counted, ours=ours_rate, peers=rate, unit="pairs per second",
           aimed_at=5)  # fmt: skip


if __name__ == "__main__":
    main()
