"""A stage of a slot at the sizes of the longer studies: `python -m stages.deeper <stage> <slot>`, in full/.

The stage (of a plan, and of what carries it out) runs as it is, in a temporary folder in which all that it reads is
linked from the repository, params.yaml is the repository's with the section of full/params.yaml in it, and what it
writes is its own: no result of the default run is touched. Kept are the summaries, and params.json with what made them,
in full/reports/slots/<slot>/<stage>/.
"""

import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages import summarize
from stages.store import files, folders, params, paths, records, source, tables
from stages.store.errors import UserError, run

SUMMARIES = {  # stage: what writes its summaries
    "circuit": summarize.circuits,
    "gates": summarize.cached,
    "memory": summarize.remembered,
    "plan": summarize.silenced,
}
CARRIED_OUT = {"plan": ("ablate",)}  # stage: what runs after it
READ = ("activations", "asked", "heads", "indirect", "models")  # of data/: what stages read


def main(stage: str, slot: str) -> None:
    """Run a stage at a larger size, and keep its summaries."""
    root, sizes = Path("..").resolve(), params.load_studies()
    if stage not in SUMMARIES or (section := getattr(sizes, stage)) is None:
        raise UserError(f"full/{paths.PARAMS}: no section {stage!r}; a longer study is one of {', '.join(SUMMARIES)}")
    whole = source.yaml(root / paths.PARAMS, "the params of the default run")
    kept = paths.deeper(slot, stage).absolute()
    with _apart(root, whole | {stage: section.model_dump(mode="json")}):
        settings = params.load()
        for name in (stage, *CARRIED_OUT.get(stage, ())):
            importlib.import_module(f"stages.{name}").main(slot)
        record = records.read(slot)
        made = params.asked_of(stage, settings) | {"model": record["name"], "files": record["files"]}
        with folders.replacing(kept) as folder:
            if paths.report(slot).exists():  # what the stage itself has written there
                shutil.copytree(paths.report(slot), folder, dirs_exist_ok=True)
            SUMMARIES[stage](slot, tables.HEADS.read(slot), folder, settings)
            files.write_text(folder / "params.json", json.dumps(made, indent=1, sort_keys=True) + "\n")


@contextmanager
def _apart(root: Path, content: dict) -> Iterator[None]:
    """Work in a temporary folder: the repository's files as links, params of its own, what is written its own."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        for path in (*root.iterdir(), *(root / "data" / room for room in READ)):
            if path.name[0] != "." and path.name not in ("data", "reports", str(paths.FULL), str(paths.PARAMS)):
                (folder / path.relative_to(root)).symlink_to(path)
        files.write_text(folder / paths.PARAMS, json.dumps(content))
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
