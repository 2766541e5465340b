"""Memory and time of measuring one long text: all relations of long text, head outputs and the loss of every token.

    python -m bench.long_context ../shared/data/books [--lengths 1024 2048 4096 8192]

Writes bench/long_context.csv: processor seconds, and the peak of resident memory above what the loaded model has, GB.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench.peer import default_model
from stages import families
from stages.model.load import open_folder
from stages.model.measure import measure
from stages.model.tokens import encode
from stages.tasks.prompt import Prompt

LAST = 128  # tokens that are scored


def main() -> None:
    """Measure each length; write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("books", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    asked = parser.parse_args()
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted(asked.books.glob("*.txt"))[:4])
    loaded, rows = open_folder(default_model()), []
    asks = {name: family.relation for name, family in families.of("text").items() if family.relation}
    for length in asked.lengths:
        prompt = Prompt(id="p", condition="", cluster="", text=text[: 8 * length], role="long", tokens=length)
        tokens = encode(loaded, prompt)
        tokens.__dict__["target"] = np.arange(len(tokens) - LAST, len(tokens))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, start = resident("VmRSS"), time.process_time()
        found = {name: relation for name, of in asks.items() if (relation := of(tokens)) is not None}
        measured = measure(loaded, [tokens], [found], outputs=True)
        seconds, peak = time.process_time() - start, resident("VmHWM") - before
        row = {"tokens": len(tokens), "relations": len(found), "cpu_seconds": round(seconds, 1), "above_model_gb": peak}
        rows.append(row | {"loss": -float(measured.scored[0].logprob.mean())})
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv("bench/long_context.csv", index=False, float_format="%.3f")


def resident(name: str) -> float:
    """Return a line of /proc/self/status, GB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1e6


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
