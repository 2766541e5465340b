"""`kill -9` into every stage: what is run again leaves the same bytes as a run that nobody disturbed.

`python -m bench.kills` makes a small repository (a tiny model, quick params: every stage, the engine's shards, training
and its workers included), runs it once, and then kills each stage: half of the times at a moment drawn over its time,
half while a file is half-written. After each kill every table is whole or not there; in the end the stage runs to its
end and `data/`, `reports/` are compared byte by byte; last, plain `dvc repro` finds nothing changed. It prints a row
per stage, as in bench/kills.csv.
"""

import csv
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from bench.small import environment, model, repository, shell

COLUMNS = ("stage", "seconds", "kills", "while_writing", "torn", "same_bytes")
TASKS = ("blimp", "icl", "needle", "repeats", "text", "treebank")
POLL = 0.002  # seconds between looks for a half-written file
AFTER = 0.03  # seconds, at most, between such a look and the kill


def main(kills: str = "100", seed: str = "0") -> None:
    """Kill every stage about as often, `kills` times in all."""
    table, draw = csv.writer(sys.stdout, lineterminator="\n"), random.Random(int(seed))
    table.writerow(COLUMNS)
    with tempfile.TemporaryDirectory() as made:
        folder = repository(Path(made, "repo"), TASKS, whole=True)
        model(Path(made, "model"))
        shell(folder, "dvc repro -q && git add -A && git commit -qm run")
        whole = content(folder)
        stages = commands(folder)
        for number, (stage, command) in enumerate(stages.items()):
            times = int(kills) // len(stages) + (number < int(kills) % len(stages))
            table.writerow(killed(folder, stage, command, times, whole, draw))
            sys.stdout.flush()
        ran = shell(folder, "dvc repro").stdout.count("Running stage")
        table.writerow(("dvc repro afterwards", "", "", "", "", f"{ran} stages run"))


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the command line of every stage, by name, as dvc.lock has it."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
    return {name: [name, stage["cmd"]] for name, stage in lock["stages"].items()}


def killed(folder: Path, stage: str, command: list[str], times: int, whole: dict, draw: random.Random) -> tuple:
    """Kill a stage so often, run it to its end, and compare all that is there with the undisturbed run."""
    begun = time.monotonic()
    wait(start(folder, command), None)
    seconds = time.monotonic() - begun
    hit = torn = 0
    for number in range(times):
        if stage.startswith("extract@"):  # else it puts back what it measured before
            shutil.rmtree(folder / "data/extracted" / stage.partition("@")[2], ignore_errors=True)
        process = start(folder, command)
        if number % 2:
            hit += wait_for_part(folder, process)
            time.sleep(draw.uniform(0, AFTER))
        else:
            wait(process, draw.uniform(0, seconds))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            gone(process.pid)
        torn += not readable(folder)
    wait(start(folder, command), None)
    return stage, round(seconds, 1), times, hit, torn, content(folder) == whole


def start(folder: Path, command: list[str]) -> subprocess.Popen:
    """Start a stage as DVC does: its command line, and its name in the environment."""
    name, line = command
    return subprocess.Popen(
        line,
        shell=True,
        cwd=folder,
        env=environment(folder) | {"DVC_STAGE": name},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait(process: subprocess.Popen, seconds: float | None) -> None:
    """Wait for the end of a stage, so long at most."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def gone(group: int) -> None:
    """Wait until no process of a group is left: one that nobody has reaped yet counts as alive."""
    with suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            time.sleep(POLL)


def wait_for_part(folder: Path, process: subprocess.Popen) -> bool:
    """Wait until a half-written file or folder is there, or the stage has ended; say whether one was."""
    while process.poll() is None:
        if any(next((folder / part).rglob("*.part"), None) for part in ("data", "reports")):
            return True
        time.sleep(POLL)
    return False


def readable(folder: Path) -> bool:
    """Return whether every table under its own name is whole."""
    for path in (folder / "data").rglob("*.parquet"):
        if path.name.startswith(".") or any(parent.name.endswith(".part") for parent in path.parents):
            continue
        try:
            pq.read_table(path)
        except Exception:
            return False
    return True


def content(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of data/ and reports/, by name, and of dvc.lock."""
    files = [path for part in ("data", "reports") for path in sorted((folder / part).rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [*files, folder / "dvc.lock"]
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
