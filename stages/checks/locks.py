"""Files of DVC and git that a kill or a merge leaves broken, each with what DVC does not say: the way out."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.checks.finding import Finding, words

OLD = 600  # seconds after which git itself holds no lock any more
OUT = {"path", "md5", "size"}  # what DVC writes of every out
FOUND = "most is found again in DVC's cache: docs/environment.md says what is not"
MARKS = ("<<<<<<<", "=======", ">>>>>>>")


def findings() -> list[Finding]:
    """Check dvc.yaml and dvc.lock of both pipelines, the files they are written from, DVC's rwlock and git's lock."""
    first = _repository()
    usable = not first  # else every question to DVC has the same answer
    # what stops git and DVC comes first: lines are followed from the top
    out = [*first, *_index(Path(".git/index.lock")), *_rwlock(Path(".dvc/tmp/rwlock"))]
    for path in (Path("dvc.lock"), Path("full/dvc.lock")):
        pipeline = path.with_suffix(".yaml")
        cut = _cut(pipeline)
        stages, unread = _stages(pipeline) if usable and not cut else ([], [])
        of_lock = [*_lock_file(path, stages)]
        if any(finding.wrong for finding in of_lock):
            unread = []  # DVC reads both files at once: what it says may be of the lock
        out += [*cut, *unread, *of_lock]
    for path in map(Path, ("dvc.yaml", "params.yaml", "full/params.yaml")):
        if path.is_file() and (line := _conflict(path.read_text(encoding="utf-8", errors="replace"))):
            out.append(
                Finding(f"{path}: a conflict of a merge in line {line}", f"settle it by hand, then git add {path}")
            )
    return out


def _repository() -> list[Finding]:
    """Return what lacks of git's and DVC's own folders; git's may lie in a folder above."""
    out = []
    if shutil.which("git") and not _git("rev-parse", "--git-dir"):
        out.append(
            Finding(".git: not there, or not git's: DVC runs nothing without it", "git init, or git clone again")
        )
    if not Path(".dvc").is_dir():
        out.append(Finding(".dvc: not there: DVC runs nothing without it", "git checkout .dvc, or dvc init"))
    return out


def _cut(path: Path) -> list[Finding]:
    """Say where a dvc.yaml is no more than the beginning of what git has, which may be sound YAML still."""
    if not path.is_file() and path.parent.name:
        return []  # no longer studies are here, as `_stages` takes it
    committed = _committed(path)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if text == committed or not committed.startswith(text):
        return []
    what = f"the first {len(text.splitlines())} lines of what git has" if text else "empty, or not there"
    return [Finding(f"{path}: {what}", f"git checkout {path} (or commit it, where that is meant)")]


def _stages(path: Path) -> tuple[list[Any], list[Finding]]:
    """Return the stages of a dvc.yaml as DVC reads them, or why it does not, in its own words.

    DVC puts values of params into it unseen, so what it raises is of any type: an AttributeError where a path is 7.
    """
    if not path.is_file() and path.parent.name:
        return [], []  # no longer studies are here
    try:
        from dvc.repo import Repo

        return Repo().stage.load_all(str(path)), []
    except Exception as error:
        mend = f"mend that key of {path.with_name('params.yaml')}, or git checkout {path}"
        return [], [Finding(f"{path}: DVC cannot read it and the params it names ({words(error)})", mend)]


def _lock_file(path: Path, stages: list[Any]) -> Iterator[Finding]:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import load_yaml

    what = f" {path.parent}/dvc.yaml" if path.parent.name else ""
    again = f"rm {path} && dvc repro{what} ({FOUND})"
    if not path.is_file():
        yield Finding(f"{path}: not there: nothing of it has run here", f"dvc repro{what}", wrong=False)
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if line := _conflict(text):
        yield Finding(f"{path}: a conflict of a merge in line {line}", again)
        return
    if committed := _committed(path):
        again = f"git checkout {path} && dvc repro{what}, or {again}"
    try:
        entries = COMPILED_LOCKFILE_SCHEMA(load_yaml(str(path))).get("stages") or {}
    except Exception as error:  # of YAML, of DVC's schema, of depth
        yield Finding(f"{path}: cut or not as DVC writes it ({words(error)})", again)
        return
    outs = [out for entry in entries.values() for out in entry.get("outs", ())]
    ended = text.endswith("\n") and outs and all(out.keys() >= OUT for out in outs)
    lacking = _lacking(stages, entries)
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


def _lacking(stages: list[Any], entries: dict[str, dict]) -> dict[str, str]:
    """Return an out of each stage that a lock does not list though the stage wrote it: 'data/x of stage y', by stage.

    A lock that is cut between two lines is YAML of DVC's still: its last stage is not whole, or those after it lack.
    A run that was killed lacks the one stage it was at.
    """
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
    return _git("show", f"HEAD:./{path.as_posix()}")


def _git(*arguments: str) -> str:
    """Return what git prints, '' where it fails or is not there: `environment` says so."""
    command = ["git", *arguments]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False).stdout
    except FileNotFoundError:
        return ""


def _rwlock(path: Path) -> Iterator[Finding]:
    """Entries of dead processes are DVC's to remove; a file that is no JSON stops every command."""
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    if not path.is_file():
        return
    try:
        SCHEMA(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError, Invalid):
        yield Finding(f"{path}: cut", f"rm {path}")


def _index(path: Path) -> Iterator[Finding]:
    if path.is_file() and time.time() - path.stat().st_mtime > OLD:
        yield Finding(f"{path}: left by a killed git", f"rm {path} (no git may be running)")
