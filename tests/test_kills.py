"""`kill -9` into `dvc repro`, twenty times: what it leaves is whole, and plain `dvc repro` ends with the same bytes."""

import os
import random
import signal
import subprocess
import time

import pytest
import yaml

from bench.kills import content, readable
from bench.small import ROOT, environment, repository, shell
from stages.checks import locks

KILLS = 20
FEWER = ("prepare", "tidy", "ngram")  # stages without torch: a second each


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A repository of two tasks that ends with counting words."""
    folder = repository(tmp_path_factory.mktemp("kills") / "repo", ("repeats", "needle"))
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    pipeline["stages"] = {name: pipeline["stages"][name] for name in FEWER}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    (folder / "full/dvc.yaml").unlink()
    return folder


def test_twenty_kills_leave_the_same_bytes(folder, monkeypatch):
    monkeypatch.chdir(folder)
    begun = time.monotonic()
    shell(folder, "dvc repro -q")
    seconds, whole, draw = time.monotonic() - begun, content(folder), random.Random(17)
    shell(folder, "rm -r data reports dvc.lock .dvc/cache")
    for _ in range(KILLS):
        process = subprocess.Popen(
            "exec dvc repro -q", shell=True, env=environment(folder), start_new_session=True, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(draw.uniform(0.2, 0.6) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert readable(folder)
        for finding in [finding for finding in locks.findings() if finding.wrong]:
            shell(folder, finding.way_out.partition(" && ")[0].partition(" (")[0])  # rm dvc.lock, or rm .dvc/tmp/rwlock
    shell(folder, "dvc repro -q")
    assert content(folder) == whole


def test_the_line_for_stages_in_parallel_works(folder):
    """As docs/environment.md has it, on stages that need no model."""
    lines = (ROOT / "docs/environment.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("dvc stage list")]
    shell(folder, "rm -rf data reports dvc.lock .dvc/cache")
    shell(folder, line.replace("^extract@", "^prepare@"))
    lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
    assert set(lock["stages"]) == {"prepare@repeats", "prepare@needle"}
    assert {path.stem for path in (folder / "data/asked").iterdir()} == {"repeats", "needle"}
