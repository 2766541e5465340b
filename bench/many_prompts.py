"""Memory and time of `extract` and `classify` as prompts become many, on a tiny random model.

    python -m bench.many_prompts [--code <folder that holds stages/>] [--numbers 1000 10000 100000]

Prompts are those of data/prompts (a run's), over and over under new names: passages cut to 24 tokens, sentences with
their arcs. Appends to bench/many_prompts.csv: processor seconds and peak memory (GB) of each stage's process, start
and imports included; `code` names the code that ran.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from stages.store import tables

ROOT = Path(__file__).parents[1]
TABLE = Path("bench/many_prompts.csv")
OWN = """  # a process's peak as it says itself: what `wait4` gives holds its parent's as well
import atexit, pathlib, runpy, sys
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: pathlib.Path("peak").write_text(status.read_text().split("VmHWM:")[1].split()[0]))
sys.argv = sys.argv[1:]
sys.path.insert(0, "")
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
TASKS = {"text": {"tokens": 24}, "treebank": {}}


def main() -> None:
    """Run both stages at every number of prompts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--code", type=Path, default=ROOT)
    parser.add_argument("--named", default="today")
    parser.add_argument("--numbers", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import save

    for task in asked.tasks:
        prompts = tables.PROMPTS.read(task)
        for number in asked.numbers:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                settings = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
                settings["models"] = {"a": {"source": "path", "name": str(save("llama_gqa", folder / "model"))}}
                settings["tasks"] = {task: settings["tasks"][task]}
                (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
                path = folder / tables.PROMPTS.path(task)
                path.parent.mkdir(parents=True)
                at = np.arange(number) % len(prompts)
                many = prompts.iloc[at].assign(**TASKS[task])
                names = [f"{task}/{place:06}" for place in range(number)]
                clusters = [f"{cluster}/{place // (10 * len(prompts))}" for place, cluster in enumerate(many.cluster)]
                os.chdir(folder)
                tables.PROMPTS.write(many.assign(id=names, cluster=clusters), task)
                os.chdir(ROOT)
                del many
                _run(asked.code, folder, ["fetch", "a"])
                for stage in (["extract", "a", task], ["classify", "a"]):
                    seconds, peak = _run(asked.code, folder, stage)
                    row = {"code": asked.named, "task": task, "stage": stage[0], "prompts": number}
                    row |= {"cpu_seconds": round(seconds, 1), "peak_gb": round(peak, 3)}
                    print(row, flush=True)
                    pd.DataFrame([row]).to_csv(TABLE, mode="a", header=not TABLE.exists(), index=False)


def _run(code: Path, folder: Path, stage: list[str]) -> tuple[float, float]:
    """Return the processor seconds and the peak memory (GB) of a stage's process."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWN, f"stages.{stage[0]}", *stage[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(code)},
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{stage} failed")
    return usage.ru_utime + usage.ru_stime, int((folder / "peak").read_text()) / 1e6


if __name__ == "__main__":
    main()
