"""Train and measure the recipes of params.full.yaml and keep their results in bench/full/, with their params' hash.

    python -m bench.full_recipes [recipe ...]

More seeds, more arms and transfer take longer than `dvc repro` may: these results are made by hand, by the stages
themselves, in data/full/, and are committed. The page shows them beside the short runs and says where the params have
changed since. About half an hour on 2 cores; a recipe that is killed leaves its earlier results as they were.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from stages.store import folders, params, paths
from stages.store.errors import UserError, run

ROOT = Path(__file__).parents[1]
KEPT = ("curve.csv", "findings.csv", "learning.csv", "metrics.json", "picture.csv")


def main(*names: str) -> None:
    """Run the named recipes, or all, one after another."""
    os.chdir(ROOT)
    settings = params.load(paths.FULL)
    for name in names or settings.recipes:
        if name not in settings.recipes:
            raise UserError(f"{paths.FULL}: recipes.{name}: no such recipe; allowed: {', '.join(settings.recipes)}")
        scratch = Path("data/full").resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths.FULL, scratch / paths.PARAMS)
        for stage in ("train", "dynamics"):
            command = [sys.executable, "-m", f"stages.{stage}", name]
            subprocess.run(command, cwd=scratch, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        with folders.replacing(paths.full(name)) as folder:
            for file in KEPT:
                shutil.copy(scratch / paths.study(name) / file, folder / file)
            said = {"params": str(paths.FULL), "sha256": params.digest(settings.seed, settings.recipes[name])}
            (folder / "params.json").write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    run(main, *sys.argv[1:])
