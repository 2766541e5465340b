"""`kill -9` of a stage alone: the processes that share its work end as well."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from test_recipes import ROOT, written

from stages import train

SECONDS = 20  # to start, or to end once the imports are done, on a busy machine


def lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def workers(stage: subprocess.Popen) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        begun = psutil.Process(stage.pid).children(recursive=True)
        return [process for process in begun if "resource_tracker" not in " ".join(process.cmdline())]
    return []


@pytest.mark.parametrize(("stage", "busy"), [("train", 4), ("dynamics", 0)])
def test_workers_end_with_their_parent(stage, busy, tmp_path, monkeypatch):
    """Be they at work (busy: seconds of the processor each) or just begun."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path, steps=100_000 if stage == "train" else 2, checkpoints={"even": 1})
    if stage == "dynamics":
        train.main("induction")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-m", f"stages.{stage}", "induction"], env=environment)
    begun = []
    try:
        until = time.monotonic() + 3 * SECONDS
        while parent.poll() is None and time.monotonic() < until:
            begun = workers(parent)
            if len(begun) == 2 and all(process.cpu_times().user >= busy for process in begun):
                break
            time.sleep(0.01)
        assert len(begun) == 2 and all(map(lives, begun)), "the workers did not begin"
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        until = time.monotonic() + SECONDS
        while any(map(lives, begun)) and time.monotonic() < until:
            time.sleep(0.01)
        assert not any(map(lives, begun))
    finally:
        for process in [parent, *begun]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert not (Path("data/checkpoints/induction").exists() and stage == "train")
