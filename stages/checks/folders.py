"""Folders and files that stages, DVC and git write to: may this user write there?"""

import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.checks.finding import Finding
from stages.model import files

HERE = Path(".")
WRITTEN = (".dvc", ".git", "data", "reports", "full/data", "full/reports")  # with all folders in them
LOCKS = ("dvc.lock", "full/dvc.lock")


def findings() -> list[Finding]:
    """Ask of each place that is there; the repository's own folder first, for what holds of it holds of the others."""
    out = [*_refused(HERE, [HERE])]
    if out and _read_only(HERE):
        return out
    for place in map(Path, WRITTEN):
        if place.is_dir():
            out += _refused(place, _folders(place))
        elif place.exists() and place.name != ".git":  # which is a file in a worktree
            out.append(Finding(f"{place}: not a folder", f"mv {place} {place}.old"))
    for lock in map(Path, LOCKS):
        out += _refused(lock, [lock]) if lock.is_file() else []
    cache = files.cache()
    return [*out, *_refused(cache, [cache], ", or set HEAD_ATLAS_CACHE to another folder")]


def _folders(place: Path) -> Iterator[Path]:
    yield place
    for folder, names, _ in os.walk(place):
        yield from (Path(folder, name) for name in names if not Path(folder, name).is_symlink())


def _refused(place: Path, within: Iterable[Path], other: str = "") -> Iterator[Finding]:
    """Say of the first of `within` that it cannot be written, with the way out for all of `place`."""
    quoted = shlex.quote(str(place))
    for path in within:
        if os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0)):
            continue
        deep = " -R" if place.is_dir() and place != HERE else ""
        if _read_only(path):
            way_out = f"clone to a disk that may be written, or remount this one{other}"
        elif path.stat().st_uid == os.geteuid():
            way_out = f"chmod{deep} u+rwX {quoted}{other}"
        else:
            way_out = f"sudo chown{deep} {os.geteuid()} {quoted}{other}"
        named = "this folder" if path == HERE else str(path)
        yield Finding(f"{named}: may not be written by you", way_out)
        return


def _read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
