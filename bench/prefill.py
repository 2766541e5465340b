"""Memory and time of running a long prefix, in one piece and in chunks, each in a process of its own, one thread.

    python -m bench.prefill [--lengths 8192] [--attention sdpa eager]

Writes bench/prefill.csv: processor seconds, the peak of resident memory above what the loaded model has, what the cache
of keys and values has of it (GB), and by how much keys of the two caches differ, of the largest.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench.long_context import resident
from bench.peer import default_model
from stages.model import chunks
from stages.model.forward import prefill
from stages.model.load import open_folder
from stages.model.tokens import ordinary

WARM = 64  # tokens of a pass before the one that counts


def main() -> None:
    """Run each length both ways; write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192])
    parser.add_argument("--attention", nargs="+", default=["sdpa"])
    asked = parser.parse_args()
    rows = []
    for attention in asked.attention:
        for length in asked.lengths:
            caches = []
            for chunk in (length, chunks.CHUNK):
                with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                    row, cache = alone.submit(_run, length, attention, chunk).result()
                caches.append(cache)
                rows.append(row)
            differs = [
                np.abs(whole - chunked).max() / np.abs(whole).max() for whole, chunked in zip(*caches, strict=True)
            ]
            rows[-1]["differs"] = float(max(differs))
            print(*rows[-2:], sep="\n", flush=True)
            pd.DataFrame(rows).to_csv("bench/prefill.csv", index=False, float_format="%.3g")


def _run(length: int, attention: str, chunk: int) -> tuple[dict, list[np.ndarray]]:
    """Run random words, `chunk` of them at a time; return the row, and keys of the cache at a few hundred tokens."""
    torch.set_num_threads(1)
    loaded = open_folder(default_model())
    loaded.model.set_attn_implementation(attention)
    ids = np.random.default_rng(0).choice(ordinary(loaded.tokenizer), length)
    prefill(loaded, [ids[:WARM]])
    chunks.CHUNK = chunk
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = resident("VmRSS"), time.process_time()
    cache = prefill(loaded, [ids])
    seconds, peak = time.process_time() - start, resident("VmHWM") - before
    held = sum(x.numel() * x.element_size() for entry in cache.layers for x in (entry.keys, entry.values)) / 1e9
    row = {"tokens": length, "attention": attention, "chunk": chunk, "cpu_seconds": seconds, "above_model_gb": peak}
    return row | {"cache_gb": held}, [entry.keys[:, :, :: length // 256].numpy() for entry in cache.layers]


if __name__ == "__main__":
    main()
