"""Runs in TransformerLens's environment: `detect_head` on given token ids. Arguments: question.json answer.json."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from transformer_lens.head_detector import detect_head
from transformer_lens.model_bridge import TransformerBridge


def main(asked: str, answered: str) -> None:
    """Write the mean score per layer and head for each pattern, and the seconds without loading."""
    question = json.loads(Path(asked).read_text())
    model = TransformerBridge.boot_transformers(question["model"], device="cpu", dtype=torch.float32)
    model.to_tokens = lambda ids: ids  # detect_head asks for text; the same ids for both is what we want
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    scores = {}
    for name, pattern in question["patterns"].items():
        each = [detect_head(model, torch.tensor([ids]), pattern, error_measure="mul") for ids in question["ids"]]
        scores[name] = torch.stack(each).mean(0).tolist()
    seconds, grown = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    Path(answered).write_text(json.dumps({"scores": scores, "seconds": seconds, "megabytes": grown / 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])
