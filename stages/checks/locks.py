"""Files of DVC and git that a kill or a merge leaves broken, each with what DVC does not say: the way out."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from stages.checks.finding import Finding

OLD = 600  # seconds after which git itself holds no lock any more
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
    if line := _conflict(path.read_text(encoding="utf-8", errors="replace")):
        yield Finding(f"{path}: a conflict of a merge in line {line}", again)
        return
    if _committed(path):
        again = f"git checkout {path} && dvc checkout, or {again}"
    try:
        COMPILED_LOCKFILE_SCHEMA(load_yaml(str(path)))
    except (YAMLFileCorruptedError, EncodingError, Invalid) as error:
        yield Finding(f"{path}: cut or not as DVC writes it ({' '.join(str(error).split())[:100]})", again)


def _conflict(text: str) -> int:
    """Return the line of the first mark that git left of a conflict, 0 where there is none."""
    return next((at for at, line in enumerate(text.splitlines(), 1) if line.startswith(MARKS)), 0)


def _committed(path: Path) -> bool:
    shown = subprocess.run(["git", "cat-file", "-e", f"HEAD:{path.as_posix()}"], capture_output=True, check=False)
    return shown.returncode == 0


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
