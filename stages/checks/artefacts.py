"""Params against data: what lacks, what is left of keys that are gone, what is damaged or of another model."""

import json
from pathlib import Path

from stages.checks.finding import Finding
from stages.store import keys, params, paths, tables
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
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            other = [key for key in OF_A_SLOT if record[key] != getattr(model, key)]
        except FileNotFoundError:
            out.append(Finding(f"slot {slot}: nothing was fetched ({path})", "dvc pull, or dvc repro"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            out.append(Finding(f"{path}: no record of a model ({error!r:.80})", _again(path, f"fetch@{slot}")))
        else:
            if other:
                about = f"slot {slot}: {path} is of another {other[0]} ({record[other[0]]!r:.80})"
                out.append(Finding(about, "dvc repro"))
    return out


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
    return [
        Finding(f"{path}: its slot, task or recipe is not in params.yaml", "dvc repro tidy (or put the key back)")
        for path in keys.stale(settings)
    ]


def _again(path: Path, stage: str = "") -> str:
    return f"rm {path} && dvc checkout {path} (from DVC's cache), or rm {path} && dvc repro {stage}".rstrip()
