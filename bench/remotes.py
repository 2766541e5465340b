"""Two clones over a remote: what is pushed from one is all that the other needs, also after a task was removed.

`python -m bench.remotes` tries a folder and, where `moto[server]` and `dvc-s3` are installed (in an environment of
their own), an S3 server on 127.0.0.1; it prints a row per remote and step, as in bench/remotes.csv: is
`dvc status dvc.yaml` clean after `dvc pull`, and how many stages does `dvc repro` run. A tiny model, tasks `repeats`
and `needle`; minutes.
"""

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from bench.small import model, repository, shell

COLUMNS = ("remote", "step", "status", "stages_run", "seconds")
PORT = 5577


def main() -> None:
    """Try every remote that can be tried."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    with tempfile.TemporaryDirectory() as made:
        origin = repository(Path(made, "origin"), ("repeats", "needle"))
        model(Path(made, "model"))
        shell(origin, "dvc repro && git add -A && git commit -qm run")
        for name, remote in remotes(Path(made)):
            with remote as options:
                here = Path(made, f"origin_{name}")
                shutil.copytree(origin, here, symlinks=True)
                for row in steps(here, Path(made, f"clone_{name}"), options):
                    table.writerow((name, *row))
                    sys.stdout.flush()


def remotes(folder: Path) -> Iterator[tuple[str, object]]:
    """Yield a remote's name and a context with the options of `dvc remote`."""
    yield "folder", local(folder / "remote")
    if importlib.util.find_spec("moto") and importlib.util.find_spec("dvc_s3"):
        yield "s3", bucket()


@contextmanager
def local(folder: Path) -> Iterator[list[str]]:
    """A folder as remote."""
    yield [f"dvc remote add -d store {folder}"]


@contextmanager
def bucket() -> Iterator[list[str]]:
    """A bucket of a moto server, which lives as long as the block."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(PORT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{PORT}")
        for _ in range(60):
            try:
                client.create_bucket(Bucket="atlas")
                break
            except Exception:  # the server is starting
                time.sleep(1)
        yield [
            "dvc remote add -d store s3://atlas/cache",
            f"dvc remote modify store endpointurl http://127.0.0.1:{PORT}",
        ]
    finally:
        server.terminate()


def steps(origin: Path, clone: Path, options: list[str]) -> Iterator[tuple[str, str, int, float]]:
    """Push from one repository, pull into the other; again after a task was taken out of params."""
    for option in options:
        shell(origin, option)
    shell(origin, "git add -A && git commit -qm remote && dvc push -q")
    shell(origin.parent, f"git clone -q {origin} {clone} && cd {clone} && git config user.email t@t")
    yield seen(clone, "clone", "dvc pull -q")
    params = yaml.safe_load((origin / "params.yaml").read_text(encoding="utf-8"))
    del params["tasks"]["needle"]
    (origin / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    shell(origin, "dvc repro -q")
    yield seen(origin, "task removed, here", "git add -A && git commit -qm less && dvc push -q")
    yield seen(clone, "task removed, clone that had it", "git pull -q && dvc pull -q")
    fresh = clone.with_name(f"{clone.name}_fresh")
    shell(origin.parent, f"git clone -q {origin} {fresh}")
    yield seen(fresh, "task removed, fresh clone", "dvc pull -q")


def seen(folder: Path, step: str, command: str) -> tuple[str, str, int, float]:
    """Run a command; return the step, what `dvc status` says, how many stages `dvc repro` runs, and the seconds."""
    begun = time.monotonic()
    shell(folder, command)
    seconds = time.monotonic() - begun
    status = shell(folder, "dvc status --json dvc.yaml").stdout.strip()
    ran = shell(folder, "dvc repro").stdout.count("Running stage")
    return step, "clean" if status == "{}" else status, ran, round(seconds, 1)


if __name__ == "__main__":
    main()
