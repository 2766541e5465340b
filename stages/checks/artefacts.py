"""Params against data: what lacks, what is left of keys that are gone, what is damaged or of another model."""

import shlex
from functools import cache
from pathlib import Path

from stages.checks.finding import Finding, words
from stages.model import files
from stages.store import keys, params, paths, records, tables
from stages.store.errors import UserError
from stages.store.parquet import read_schema

OF_A_SLOT = ("source", "name", "revision")  # of params, in the model's record as well


def findings(settings: params.Params) -> list[Finding]:
    """Check every table and record that today's params ask for."""
    return [*_slots(settings), *_tables(settings), *_gone(settings)]


def _slots(settings: params.Params) -> list[Finding]:
    out = []
    for slot, model in settings.models.items():
        path = paths.model(slot)
        if not path.exists():
            out.append(Finding(f"slot {slot}: nothing was fetched ({path})", "dvc pull, or dvc repro"))
            continue
        try:
            there = records.read(slot)
        except UserError as error:
            why = str(error).removeprefix(f"{path}: ").partition("; expected")[0]
            out.append(Finding(f"{path}: no record of a model ({why})", _again(path)))
            continue
        if other := [key for key in OF_A_SLOT if there[key] != getattr(model, key)]:
            about = f"slot {slot}: {path} is of another {other[0]} ({there[other[0]]!r:.80})"
            out.append(Finding(about, "dvc repro"))
        elif why := _differing(model, there["files"]):
            about = f"slot {slot}: {why}: not as {path} has it, and DVC does not watch that folder"
            out.append(Finding(about, f"dvc repro -f -s fetch@{slot}, then dvc repro"))
    return out


def _differing(model: params.Model, recorded: dict[str, str]) -> str:
    """Return which file of a local folder was changed since fetch, or is none; '' where the folder is elsewhere."""
    folder = Path(model.name).expanduser()
    if model.source != "path" or not folder.is_dir():  # after `dvc pull` it is on another machine
        return ""
    try:
        files.weights(folder)  # opens no pipe, follows no link to nowhere
        there = files.fingerprints(folder)
    except (UserError, OSError) as error:
        return words(error)
    own = {name: sha for name, sha in recorded.items() if not name.startswith(f"{files.READ}/")}
    name = files.differing(there, own)
    return f"{name} in {model.name}" if name else ""


def _tables(settings: params.Params) -> list[Finding]:
    """Return what cannot be read of the tables that are there, and in one line how many are not."""
    asked = [name for name, task in settings.tasks if task is not None]
    out, missing = [], []
    for table in {id(table): table for table in vars(tables).values() if isinstance(table, tables.Table)}.values():
        by_task = str(Path(table.place).parent) in keys.BY_TASK
        pairs = [(slot, task) for slot in settings.models for task in asked]
        each = {0: [()], 1: [(key,) for key in (asked if by_task else settings.models)], 2: pairs}
        for of in each[table.place.count("{}")]:
            path = table.path(*of)
            if not path.exists():
                missing.append(path)
                continue
            try:
                names = read_schema(path).names
            except UserError as error:
                about = str(error).partition("; ")[0]
                out.append(Finding(about, _again(path)))
                continue
            if table.schema is not None and names != table.names:
                out.append(Finding(f"{path}: its columns are not those of today's code", "dvc repro"))
    if missing:
        more = f" and {len(missing) - 1} more tables" if len(missing) > 1 else ""
        out.append(Finding(f"{missing[0]}{more}: not there", "dvc pull, or dvc repro"))
    return out


def _gone(settings: params.Params) -> list[Finding]:
    """Name what `tidy` removes; DVC skips that stage where params are as when it last ran, so it is forced."""
    way_out = "dvc repro -f -s tidy (or put the key back)"
    return [
        Finding(f"{path}: its slot, task or recipe is not in params.yaml", way_out) for path in keys.stale(settings)
    ]


def _again(path: Path) -> str:
    """Return how a file comes back: from DVC's cache, or, where that lacks it or is damaged as well, by its stage.

    Without `-f` DVC would take it from its cache again; `-s` leaves the stages before it as they are.
    """
    file, outs, whole = shlex.quote(str(path)), _outs(Path.cwd()), path.absolute()
    stage = next((outs[place] for place in (whole, *whole.parents) if place in outs), "")
    by_stage = f"dvc repro -f -s {shlex.quote(stage)}" if stage else f"rm -f {file} && dvc repro"
    return f"rm -f {file} && dvc checkout {file} (from DVC's cache), or {by_stage}"


@cache
def _outs(folder: Path) -> dict[Path, str]:
    """Return the stage that writes each out of the repository in a folder, nothing where DVC cannot say."""
    from dvc.repo import Repo

    try:
        return {Path(out.fs_path): stage.addressing for stage in Repo(str(folder)).index.stages for out in stage.outs}
    except Exception:  # of any type: `locks` has its line
        return {}
