"""Files of DVC and git that a kill or a merge leaves broken, each with what DVC does not say: the way out."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from stages.checks.finding import Finding

OLD = 600  # seconds after which git itself holds no lock any more
OUT = {"path", "md5", "size"}  # what DVC writes of every out
MARKS = ("<<<<<<<", "=======", ">>>>>>>")


def findings() -> list[Finding]:
    """Check dvc.lock of both pipelines, the files they are written from, DVC's rwlock and git's lock."""
    out = [finding for path in (Path("dvc.lock"), Path("full/dvc.lock")) for finding in _lock_file(path)]
    for path in map(Path, ("dvc.yaml", "params.yaml", "full/params.yaml")):
        if path.is_file() and (line := _conflict(path.read_text(encoding="utf-8", errors="replace"))):
            out.append(
                Finding(f"{path}: a conflict of a merge in line {line}", f"settle it by hand, then git add {path}")
            )
    return [*out, *_rwlock(Path(".dvc/tmp/rwlock")), *_git(Path(".git/index.lock"))]


def _lock_file(path: Path) -> Iterator[Finding]:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import EncodingError, YAMLFileCorruptedError, load_yaml
    from voluptuous import Invalid

    what = f" {path.parent}/dvc.yaml" if path.parent.name else ""
    again = f"rm {path} && dvc repro{what} (what is computed is found again in DVC's cache)"
    if not path.is_file():
        yield Finding(f"{path}: not there: nothing of it has run here", f"dvc repro{what}", wrong=False)
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if line := _conflict(text):
        yield Finding(f"{path}: a conflict of a merge in line {line}", again)
        return
    if committed := _committed(path):
        again = f"git checkout {path} && dvc checkout, or {again}"
    try:
        entries = COMPILED_LOCKFILE_SCHEMA(load_yaml(str(path))).get("stages") or {}
    except (YAMLFileCorruptedError, EncodingError, Invalid) as error:
        yield Finding(f"{path}: cut or not as DVC writes it ({' '.join(str(error).split())[:100]})", again)
        return
    outs = [out for entry in entries.values() for out in entry.get("outs", ())]
    ended = text.endswith("\n") and outs and all(out.keys() >= OUT for out in outs)
    lacking = _lacking(path, entries)
    if not ended or len(lacking) > 1 or lacking.keys() & entries.keys():
        yield Finding(f"{path}: cut: it lacks {next(iter(lacking.values()), 'what follows')}", again)
    elif committed.startswith(text) and committed != text:
        between = re.match(r"  \S", committed[len(text) :])  # two stages, where a run from the start may stop as well
        wrong = not between or not all((path.parent / out["path"]).exists() for out in outs)
        way_out = f"git checkout {path}{'' if wrong else f', or dvc repro{what} goes on with a run from the start'}"
        yield Finding(f"{path}: the first {len(text.splitlines())} lines of what git has", way_out, wrong)
    elif lacking:
        about = f"{path}: lacks {next(iter(lacking.values()))}: DVC was killed before it wrote that"
        yield Finding(about, f"dvc repro{what} goes on", wrong=False)


def _lacking(path: Path, entries: dict[str, dict]) -> dict[str, str]:
    """Return an out of each stage that a lock does not list though the stage wrote it: 'data/x of stage y', by stage.

    A lock that is cut between two lines is YAML of DVC's still: its last stage is not whole, or those after it lack.
    A run that was killed lacks the one stage it was at.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        stages = Repo().stage.load_all(str(path.with_suffix(".yaml")))
    except DvcException:  # such as params that dvc.yaml asks for and that are not there: their own check says so
        return {}
    lacking: dict[str, str] = {}
    last = next(reversed(entries), "")
    for stage in stages:
        begun = stage.name == last and not entries[last].get("outs")
        for out in stage.outs if stage.name == last or stage.name not in entries else ():
            # what DVC does not cache is in git, and so there without a run
            if not out.hash_info and (begun or (out.use_cache and out.exists)):
                lacking.setdefault(stage.name, f"{out} of stage {stage.name}")
    return lacking


def _conflict(text: str) -> int:
    """Return the line of the first mark that git left of a conflict, 0 where there is none."""
    return next((at for at, line in enumerate(text.splitlines(), 1) if line.startswith(MARKS)), 0)


def _committed(path: Path) -> str:
    """Return the text that git's HEAD has of a file, '' where there is none."""
    command = ["git", "show", f"HEAD:./{path.as_posix()}"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False).stdout


def _rwlock(path: Path) -> Iterator[Finding]:
    """Entries of dead processes are DVC's to remove; a file that is no JSON stops every command."""
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    if not path.is_file():
        return
    try:
        SCHEMA(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, Invalid):
        yield Finding(f"{path}: cut", f"rm {path}")


def _git(path: Path) -> Iterator[Finding]:
    if path.is_file() and time.time() - path.stat().st_mtime > OLD:
        yield Finding(f"{path}: left by a killed git", f"rm {path} (no git may be running)")
