"""Our induction, duplicate and previous-token scores against TransformerLens 4.3's `detect_head`, head by head.

    python -m bench.heads_vs_transformer_lens --prompts 4   # writes its row of bench/peers.csv

`detect_head(error_measure="mul")` sums the attention on its pattern over all queries and divides by the attention of
all T queries (each row sums to 1, so by T); ours is the mean over the Q queries that have the relation. Both sum the
same cells once the BOS counts as an ordinary token: theirs = ours x Q / T. Prompts are averaged.
"""

import argparse
import logging
import time
from dataclasses import replace

import numpy as np

from bench.peer import default_model, peak, record, run
from stages.families import FAMILIES
from stages.model.load import open_folder
from stages.model.measure import measure
from stages.model.tokens import encode_all
from stages.tasks.repeats import prompts as repeats
from stages.tasks.repeats.settings import Settings

SAME = 1e-5  # scores that differ by no more are equal
PATTERNS = {
    "previous": "previous_token_head",
    "duplicate": "duplicate_token_head",
    "induction": "induction_head",
}


def main() -> None:
    """Measure one fixed repeat set with both; print the largest difference over heads per family, and seconds."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=4, help="random repeated sequences")
    options = parser.parse_args()
    settings = Settings(path=".", prompts=options.prompts, shortest=15, longest=30, copies=3)
    folder = default_model()
    loaded = open_folder(folder)
    prompts = encode_all(loaded, repeats.build(settings, 0))
    prompts = [replace(tokens, special=np.zeros(len(tokens), dtype=bool)) for tokens in prompts]
    before, start = peak(), time.perf_counter()
    totals = {name: 0.0 for name in PATTERNS}
    for tokens in prompts:
        relations = {name: FAMILIES[name].relation(tokens) for name in PATTERNS}
        (sums,) = measure(loaded, [tokens], [relations]).means
        for name, relation in relations.items():
            rescaled = sums[name].values["mass"] * len(relation.queries) / len(tokens)
            totals[name] = totals[name] + rescaled / len(prompts)
    seconds, grown = time.perf_counter() - start, peak() - before
    del loaded
    question = {"model": str(folder), "patterns": PATTERNS, "ids": [tokens.ids.tolist() for tokens in prompts]}
    theirs, whole = run("transformer-lens-4.3", ["transformer-lens==4.3.*"], "transformer_lens_heads.py", question)
    print(f"{len(prompts)} prompts of {', '.join(str(len(tokens)) for tokens in prompts)} tokens")
    differences = []
    for name, ours in totals.items():
        peer = np.array(theirs["scores"][name])
        at = np.unravel_index(peer.argmax(), peer.shape)
        differences.append(np.abs(ours - peer).max())
        print(
            f"{name:10s} largest difference over {peer.size} heads {differences[-1]:.2e}; "
            f"top head L{at[0]}H{at[1]}: ours {ours[at]:.6f}, TransformerLens {peer[at]:.6f}"
        )
    print(f"seconds: ours {seconds:.2f}; TransformerLens {theirs['seconds']:.1f}, {whole:.1f} with start and loading")
    print(f"ratio: {theirs['seconds'] / seconds:.1f} times as fast")
    print(f"memory beyond the loaded model: ours {grown:.0f} MB; TransformerLens {theirs['megabytes']:.0f} MB")
    counted = {"cases": len(differences), "equal": sum(difference <= SAME for difference in differences)}
    rates = {"ours": len(prompts) / seconds, "peers": len(prompts) / theirs["seconds"], "unit": "prompts per second"}
    record(__file__, "TransformerLens 4.3", "three attention patterns of all heads", **counted, **rates,
           largest_difference=max(differences), aimed_at=30)  # fmt: skip


if __name__ == "__main__":
    main()
