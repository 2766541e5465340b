"""A stage of a slot at the sizes of the longer studies: `python -m stages.deeper <stage> <slot>`, in full/.

The stage, and what has to run before or after it, runs as it is, in a temporary folder in which all that it reads is
linked from the repository, params.yaml is the repository's with the sections of full/params.yaml in it, and what it
writes is its own: no result of the default run is touched. Kept are the summaries, and params.json with what made them,
in full/reports/slots/<slot>/<stage>/.
"""

import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages import summarize
from stages.store import files, folders, params, paths, records, tables
from stages.store.errors import UserError, run


@dataclass(frozen=True)
class Study:
    """How a longer study is made, once the prompts of its tasks are prepared (`params.PREPARES`).

    runs: stages, as they are called, one after the other. reads: rooms of data/ that these read of the default run, and
    do not write. summary: what writes its summaries.
    """

    runs: tuple[str, ...]
    reads: tuple[str, ...]
    summary: Callable[..., object]


STUDIES = {
    "circuit": Study(("circuit {slot}",), ("asked", "heads", "models"), summarize.circuits),
    "gates": Study(("gates {slot}",), ("asked", "heads", "models"), summarize.cached),
    "memory": Study(("memory {slot}",), ("asked", "heads", "models"), summarize.remembered),
    "neighbours": Study(
        ("neighbours {slot}",), ("activations", "asked", "heads", "models", "plans"), summarize.resembled
    ),
    "plan": Study(
        ("plan {slot}", "ablate {slot}"), ("activations", "asked", "heads", "indirect", "models"), summarize.silenced
    ),
    "steer": Study(
        ("ngram", "answer {slot}", "steer {slot}"),
        ("activations", "asked", "heads", "indirect", "models"),
        summarize.steered,
    ),
}


def main(stage: str, slot: str) -> None:
    """Run a stage at a larger size, and keep its summaries."""
    root, sizes = Path("..").resolve(), params.load_studies()
    if stage not in STUDIES or getattr(sizes, stage) is None:
        raise UserError(f"full/{paths.PARAMS}: no section {stage!r}; a longer study is one of {', '.join(STUDIES)}")
    settings = params.deepened(params.load(root / paths.PARAMS), sizes, stage)
    study, kept = STUDIES[stage], paths.deeper(slot, stage).absolute()
    with _apart(root, settings, study.reads):
        for command in (*(f"prepare {task}" for task in params.PREPARES.get(stage, ())), *study.runs):
            name, *of = command.format(slot=slot).split()
            importlib.import_module(f"stages.{name}").main(*of)
        record = records.read(slot)
        made = params.asked_of(stage, settings) | {"model": record["name"], "files": record["files"]}
        with folders.replacing(kept) as folder:
            if paths.report(slot).exists():  # what the stage itself has written there
                shutil.copytree(paths.report(slot), folder, dirs_exist_ok=True)
            study.summary(slot, tables.HEADS.read(slot), folder, settings)
            files.write_text(folder / "params.json", json.dumps(made, indent=1, sort_keys=True) + "\n")


@contextmanager
def _apart(root: Path, settings: params.Params, reads: tuple[str, ...]) -> Iterator[None]:
    """Work in a temporary folder: the repository's files as links, params of its own, what is written its own.

    Rooms of data/ are folders of links: prompts that are prepared anew take a link's place, never that of what it leads
    to.
    """
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder, own = Path(name), {root / "data", root / "reports", root / paths.FULL, root / paths.PARAMS}
        for room in (".", *(f"data/{room}" for room in reads)):
            (folder / room).mkdir(parents=True, exist_ok=True)
            for path in (root / room).glob("[!.]*"):
                if path not in own:
                    (folder / room / path.name).symlink_to(path)
        files.write_text(folder / paths.PARAMS, settings.model_dump_json(exclude_unset=True))
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
