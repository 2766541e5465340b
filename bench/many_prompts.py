"""Memory and time of the stages that read all prompts as these become many, on a tiny random model.

    python -m bench.many_prompts [--code <folder that holds stages/>] [--numbers 1000 10000 100000] [--heads 4]

Prompts are those of data/prompts (a run's), over and over under new names: passages cut to 24 tokens, sentences with
their arcs. Appends to bench/many_prompts.csv: processor seconds and peak memory (GB) of each stage's process, start
and imports included; `code` names the code that ran, `heads` are those of each of the model's three layers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from stages.store import parquet, tables

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
MEASURED = ("extract", "classify", "plan", "summarize")
BETWEEN = ("ngram", "answer", "trace", "ablate", "steer", "apply", "circuit", "neighbours", "gates", "sinks", "memory")
STAGES = ("extract", "ngram", "answer", "trace", "classify", "plan", *BETWEEN[3:], "summarize")


def main() -> None:
    """Run both stages at every number of prompts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--code", type=Path, default=ROOT)
    parser.add_argument("--named", default="today")
    parser.add_argument("--numbers", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--heads", type=int, nargs="+", default=[4])
    parser.add_argument("--stages", nargs="+", choices=MEASURED, default=list(MEASURED))
    parser.add_argument("--keep", type=Path, help="a folder to leave all files in")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    for task, number, heads in product(asked.tasks, asked.numbers, asked.heads):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(asked.keep or name) / f"{task}-{number}-{heads}"
            folder.mkdir()
            _prepare(folder, task, number, heads)
            _run(asked.code, folder, ["fetch", "a"])
            for stage in STAGES[: 1 + STAGES.index(asked.stages[-1])]:
                of = {"extract": ["a", task], "ngram": []}.get(stage, ["a"])
                seconds, peak = _run(asked.code, folder, [stage, *of])
                if stage in asked.stages:
                    row = {"code": asked.named, "task": task, "stage": stage, "prompts": number, "heads": heads}
                    row |= {"cpu_seconds": round(seconds, 1), "peak_gb": round(peak, 3), "note": ""}
                    print(row, flush=True)
                    pd.DataFrame([row]).to_csv(TABLE, mode="a", header=not TABLE.exists(), index=False)


def _prepare(folder: Path, task: str, number: int, heads: int) -> None:
    """Write a model, the params of one task, and as many prompts as asked for."""
    import tiny
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = tiny.SMALL | {"num_attention_heads": heads, "num_key_value_heads": 2, "head_dim": 8}
    model = LlamaForCausalLM(LlamaConfig(**shape, **tiny.IDS, initializer_range=0.08))  # attention far from uniform
    model.save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    settings = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
    settings["models"] = {"a": {"source": "path", "name": str(folder / "model")}}
    settings["tasks"] = {task: settings["tasks"][task]}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "stages").symlink_to(ROOT / "stages")  # the words that n-grams are counted on
    prompts, few = tables.PROMPTS.read(task), tables.ASKED.read(task)
    many = prompts.iloc[np.arange(number) % len(prompts)].assign(**TASKS[task])
    names = [f"{task}/{place:06}" for place in range(number)]
    clusters = [f"{cluster}/{place // (10 * len(prompts))}" for place, cluster in enumerate(many.cluster)]
    for table, rows in ((tables.PROMPTS, many.assign(id=names, cluster=clusters)), (tables.ASKED, few)):
        path = folder / table.path(task)
        path.parent.mkdir(parents=True)
        parquet.write(path, rows[table.names], table.schema)


def _run(code: Path, folder: Path, stage: list[str]) -> tuple[float, float]:
    """Return the processor seconds and the peak memory (GB) of a stage's process."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWN, f"stages.{stage[0]}", *stage[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(code), "HEAD_ATLAS_WORKERS": "1"},
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{stage} failed")
    return usage.ru_utime + usage.ru_stime, int((folder / "peak").read_text()) / 1e6


if __name__ == "__main__":
    main()
