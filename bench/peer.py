"""Peers live in environments of their own, made once under the user cache, and are run as subprocesses."""

import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from stages.model.files import cache
from stages.model.origin import locate, readable
from stages.store import params

ROOT = Path(__file__).parents[1]


def run(name: str, packages: list[str], script: str, question: dict) -> tuple[dict, float]:
    """Run bench/peers/<script> in the peer's environment; return its answer and the seconds of the whole process.

    question and answer are JSON files, whose paths the script gets as its two arguments.
    """
    home = cache() / "bench" / name
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        logging.info("installing %s, once", ", ".join(packages))
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "torch==2.13.0", *packages], check=True)
        (home / "ready").touch()
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "question.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(question))
        start = time.perf_counter()
        subprocess.run([python, ROOT / "bench" / "peers" / script, asked, answered], check=True, stdout=sys.stderr)
        return json.loads(answered.read_text()), time.perf_counter() - start


def peak() -> float:
    """Return the most memory that this process has held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def default_model() -> Path:
    """Return the folder of float32 safetensors of params.yaml's first slot."""
    slot, model = next(iter(params.load(ROOT / "params.yaml").models.items()))
    return readable(locate(slot, model).folder)
