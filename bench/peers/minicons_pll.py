"""Runs in minicons' environment: summed pseudo-log-likelihoods of sentences. Arguments: question.json answer.json."""

import json
import sys
import time
from pathlib import Path

from minicons.scorer import MaskedLMScorer

BATCH = 8  # sentences in a call; minicons keeps logits of all tokens of all their copies


def main(asked: str, answered: str) -> None:
    """Write one score per sentence, and the seconds without loading."""
    question = json.loads(Path(asked).read_text())
    scorer = MaskedLMScorer(question["model"], "cpu")
    sentences, scores = question["sentences"], []
    start = time.perf_counter()
    for first in range(0, len(sentences), BATCH):
        batch = sentences[first : first + BATCH]
        scores += scorer.sequence_score(batch, reduction=lambda x: x.sum(0).item(), PLL_metric="original")
    seconds = time.perf_counter() - start
    Path(answered).write_text(json.dumps({"scores": scores, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
