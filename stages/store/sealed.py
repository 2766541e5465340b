"""A checksum over a whole Parquet file: no byte of a table changes unseen.

    pages | CRC-32 of all other bytes | footer | length of the footer, 'PAR1'

Parquet has checksums of pages only. Of what it has none for, one flipped byte of a footer renames a column, hides rows
from a filter or ends the process inside pyarrow. Readers find pages by the footer and the footer from the file's end,
so the four bytes between them are nobody's: any other program reads the file as it is.
"""

import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

SUM = 4  # bytes of the checksum
TAIL = 8  # bytes after the footer: its length, 'PAR1'
CHUNK = 1 << 20  # bytes in memory


def seal(path: Path) -> None:
    """Put the checksum into a Parquet file that is complete."""
    with open(path, "r+b") as file:
        start = _footer(file)
        footer = file.read()
        checksum = zlib.crc32(footer, _checksum(file, start))
        file.seek(start)
        file.write(checksum.to_bytes(SUM, "little") + footer)


def whole(path: Path) -> bool:
    """Tell whether a file is, byte for byte, as it was sealed. A process reads it once for that, unless it changes."""
    state = path.stat()
    return _whole(path.absolute(), state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _whole(path: Path, *_state: int) -> bool:
    with open(path, "rb") as file:
        start = _footer(file) - SUM
        if start < 0:
            return False
        before = _checksum(file, start)
        noted = int.from_bytes(file.read(SUM), "little")
        return zlib.crc32(file.read(), before) == noted


def _footer(file: BinaryIO) -> int:
    """Go to where the footer of a Parquet file starts; return the position, below 0 where it can be none."""
    size = file.seek(0, 2)
    if size < TAIL:
        return -1
    file.seek(-TAIL, 2)
    start = size - TAIL - int.from_bytes(file.read(4), "little")
    file.seek(max(start, 0))
    return start


def _checksum(file: BinaryIO, length: int) -> int:
    """Return the CRC-32 of a file's first bytes, and stay behind them."""
    file.seek(0)
    checksum = 0
    for at in range(0, length, CHUNK):
        checksum = zlib.crc32(file.read(min(CHUNK, length - at)), checksum)
    return checksum
