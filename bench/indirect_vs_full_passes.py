"""Indirect effects of all heads as `trace` finds them, beside one full pass of the model per head: equal, and how fast.

    python -m bench.indirect_vs_full_passes --slot decoder --prompts 2   # writes its row of bench/peers.csv

Same shuffled in-context prompts, same model in memory, same mean outputs (over split a's clean prompts that the model
solves); needs the slot's data (`dvc repro`). A full pass writes a head's output at the last token and runs all tokens
through all layers, as code without a cache does.
"""

import argparse
import logging
import time

import numpy as np
import torch

from bench.peer import record
from stages import trace
from stages.engine.means import solved_means
from stages.model.forward import forward
from stages.model.intervene import Edit, editing
from stages.model.load import load
from stages.model.tokens import first_answering, fitting
from stages.store import tables

log = logging.getLogger(__name__)
SAME = 1e-5  # probabilities that differ by no more are equal


def main() -> None:
    """Print seconds of both, their ratio and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slot", default="decoder")
    parser.add_argument("--prompts", type=int, default=2, help="shuffled prompts, each of another function")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    loaded = load(asked.slot, attention="sdpa")
    prompts = tables.ASKED.read(trace.TASK)
    traced = tables.INDIRECT.read(asked.slot, columns=["function", "prompt"]).drop_duplicates("function")
    chosen = prompts[prompts.id.isin(traced.prompt.head(asked.prompts))]
    means = solved_means(asked.slot, trace.TASK)
    quick, slow, differences = 0.0, 0.0, []
    for row, tokens in zip(*fitting(loaded, list(chosen.itertuples())), strict=True):
        of_prompt = means[row.condition, trace.half(row)]
        start = time.perf_counter()
        ours = trace.indirect(loaded, [(row, tokens)], [of_prompt]).effect.to_numpy()
        quick += time.perf_counter() - start
        start = time.perf_counter()
        naive = full_passes(loaded, tokens, of_prompt)
        slow += time.perf_counter() - start
        differences.append(float(np.abs(ours - naive).max()))
        log.info("%s: %d tokens, %d heads", row.id, len(tokens), len(ours))
    largest, number = max(differences), len(differences)
    log.info("ours %.2f s, full passes %.2f s: %.1f times; largest difference %.1e", quick, slow, slow / quick, largest)
    equal = sum(difference <= SAME for difference in differences)
    rates = {"ours": number / quick, "peers": number / slow, "unit": "prompts per second"}
    record(__file__, "full passes", "indirect effects of all heads", number, equal, largest, **rates, aimed_at=50)


def full_passes(loaded, tokens, means) -> np.ndarray:
    """Return the effect of each head on the answer's first token that is not white space, by one pass per head."""
    number = first_answering(loaded, tokens)
    last, place = int(tokens.target[0]) - 1, int(tokens.target[number])

    def probability(edit: Edit) -> float:
        with editing(loaded, [edit], last):
            logits_NV = forward(loaded, [tokens.ids[: place + 1]], [np.array([place - 1])])
        return float(torch.softmax(logits_NV[0].double(), 0)[int(tokens.ids[place])])

    base = probability(Edit())
    return np.array([probability(Edit(heads={head: means[head]})) - base for head in loaded.anatomy.heads])


if __name__ == "__main__":
    main()
