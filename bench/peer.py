"""Peers live in environments of their own, made once under the user cache, and are run as subprocesses.

What a script finds beside its peer it writes itself, as its row of bench/peers.csv (`record`).
"""

import csv
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from datetime import date
from pathlib import Path

from stages.model.files import cache
from stages.model.origin import locate, readable
from stages.store import params

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "bench/peers.csv"


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


def record(
    script: str,
    peer: str,
    what: str,
    cases: int,
    equal: int,
    largest_difference: float,
    ours: float,
    peers: float,
    unit: str,
    aimed_at: float | None = None,
    table: Path = TABLE,
) -> None:
    """Write a script's row in the place of its last one: both rates, in `unit` (something per second), their ratio.

    script: its file; equal: of so many cases; aimed_at: the ratio, where one was.
    """
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    row = {"peer": peer, "script": f"bench/{Path(script).name}", "what": what, "cases": cases, "equal": equal}
    row |= {"largest_difference": f"{largest_difference:.1e}", "ours": f"{ours:.3g}", "peers": f"{peers:.3g}"}
    row |= {"unit": unit, "ratio": f"{ours / peers:.2g}", "aimed_at": "" if aimed_at is None else f"{aimed_at:g}"}
    row |= {"machine": machine(), "date": date.today().isoformat()}
    places = [number for number, other in enumerate(rows) if other["script"] == row["script"]] or [len(rows)]
    rows[places[0] : places[0] + 1] = [row]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def machine() -> str:
    """Return such as '2 cores with AVX-512', where Linux says so."""
    about = Path("/proc/cpuinfo")
    wide = about.exists() and "avx512f" in about.read_text(encoding="utf-8")
    return f"{os.cpu_count()} cores {'with' if wide else 'without'} AVX-512"


def peak() -> float:
    """Return the most memory that this process has held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def default_model() -> Path:
    """Return the folder of float32 safetensors of params.yaml's first slot."""
    slot, model = next(iter(params.load(ROOT / "params.yaml").models.items()))
    return readable(locate(slot, model).folder)
