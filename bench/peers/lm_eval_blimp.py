"""Runs in lm-eval's environment: its own BLiMP task template on local pairs. Arguments: question.json answer.json."""

import json
import sys
import tempfile
import time
from pathlib import Path

import lm_eval
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


def main(asked: str, answered: str) -> None:
    """Evaluate the pairs through `simple_evaluate` and write margin by id, accuracy and seconds of scoring."""
    question = json.loads(Path(asked).read_text())
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "pairs.jsonl")
        rows.write_text("\n".join(json.dumps(pair) for pair in question["pairs"]))
        template = next((Path(lm_eval.__file__).parent / "tasks" / "blimp").glob("_template*"))
        task = yaml.safe_load(template.read_text())
        task |= {"task": "blimp_local", "dataset_path": "json", "dataset_kwargs": {"data_files": {"train": str(rows)}}}
        Path(folder, "blimp_local.yaml").write_text(yaml.safe_dump(task))
        model = HFLM(pretrained=question["model"], dtype="float32", device="cpu", batch_size=16, add_bos_token=True)
        start = time.perf_counter()
        manager = TaskManager(include_path=folder, include_defaults=False)
        found = lm_eval.simple_evaluate(model, tasks=["blimp_local"], task_manager=manager, bootstrap_iters=0)
        seconds = time.perf_counter() - start
    margins = {}
    for sample in found["samples"]["blimp_local"]:
        good, bad = (float(one[0]) for one in sample["filtered_resps"])
        margins[sample["doc"]["id"]] = good - bad
    accuracy = found["results"]["blimp_local"]["acc,none"]
    Path(answered).write_text(json.dumps({"margins": margins, "accuracy": accuracy, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
