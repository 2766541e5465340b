"""Files that appear whole or not at all: a killed stage leaves nothing that a later run would trust."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from stages.store.errors import UserError

FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
CLOCKS = 600  # seconds by which the times of a file and of a process may differ, at most


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block ends well and is removed if not.

    Raises `UserError` where the disk or its rights do not allow it.
    """
    path = Path(path)
    with writable(path):
        temporary = beside(path)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def link(path: Path, to: Path) -> None:
    """Let `to` be the same bytes as `path`: a hard link, a copy where the disk has none. Nothing writes in place."""
    with replacing(to) as temporary:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


def sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def beside(path: Path) -> Path:
    """Return a name of this process beside `path`; what dead processes left under theirs is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{escape(path.name)}.*.part"):
        if (number := re.search(r"\.(\d+)\.part$", left.name)) and not _written(left, int(number[1])):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _written(part: Path, number: int) -> bool:
    """Return whether the process of this number may be at work on a part: it lives, and did when the part was begun."""
    import psutil  # only where a part was left

    try:
        process = psutil.Process(number)
        # a zombie is dead, only nobody has asked how it ended; numbers are given again
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < part.stat().st_mtime + CLOCKS
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except psutil.AccessDenied:  # another user's
        return True


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn a full disk, or one that may not be written, into a `UserError` that names what was to be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in FAULTS:
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
