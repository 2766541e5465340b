"""The cache of converted models, and what killed processes left."""

import shlex
import stat
import time
from pathlib import Path

from stages.checks.finding import Finding
from stages.model import files, gguf

OLD = 600  # seconds without a write after which nothing is at work on a part
NAMED = ("*.part", ".*.part", "sha256.[0-9]*")


def findings() -> list[Finding]:
    """Check converted models file by file, and look for parts that nothing writes to."""
    cache = files.cache()
    return [*_converted(cache), *_parts(cache), *_unfinished(Path("data/shards"))]


def _converted(cache: Path) -> list[Finding]:
    return [
        Finding(
            f"{folder}: a converted model that is not as it was written",
            f"rm -r {shlex.quote(str(folder))} (it is made again)",
        )
        for folder in sorted(cache.glob("*-transformers*-gguf*"))
        if folder.is_dir() and folder.suffix != ".part" and not gguf.whole(folder)
    ]


def _parts(cache: Path) -> list[Finding]:
    """Return parts of a killed process, with what they take; data/ is searched as well."""
    parts = [path for pattern in NAMED for path in cache.glob(pattern)]
    parts += [path for pattern in NAMED[:2] for path in Path("data").rglob(pattern)]
    out = []
    for path in sorted(set(parts)):
        try:
            states = [file.lstat() for file in (path, *path.rglob("*"))]
        except FileNotFoundError:
            continue  # somebody finished it meanwhile
        if time.time() - max(state.st_mtime for state in states) > OLD:
            size = sum(state.st_size for state in states if stat.S_ISREG(state.st_mode))
            about = f"{path}: left by a killed process, {size / 1e6:.1f} MB"
            out.append(Finding(about, f"rm {'-r ' if path.is_dir() else ''}{shlex.quote(str(path))}"))
    return out


def _unfinished(shards: Path) -> list[Finding]:
    return [
        Finding(f"{folder}: finished shards of a stage that was killed", "dvc repro goes on from them", wrong=False)
        for folder in sorted(shards.glob("*/*/"))
        if any(folder.iterdir())
    ]
