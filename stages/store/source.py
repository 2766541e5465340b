"""The one door for what people write: text, YAML, JSON and folders of files.

What cannot be read is one line that names the file, the place in it and what is expected. YAML is read by the parser
that DVC reads it with (YAML 1.2: `017` is 17, `yes` a word, a key that stands twice an error), so that both agree.
"""

import json as json_module
import re
from collections.abc import Iterator
from math import isfinite, log10
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from stages.store.errors import UserError

SHOWN = 200  # characters of a wrong value in a message
MOST = 10_000_000  # values of a YAML file, each as often as its anchors repeat it
# What no text holds. Lines and spaces may stand, and what lies above DEL: real books hold it in place of other signs.
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def shown(value: Any) -> str:
    """Return a value as a message shows it, on one line, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = f"an integer of {_digits(value):,} digits" if type(value) is int else "integers of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _digits(number: int) -> int:
    """Return how many decimal digits an integer has, which Python does not write out."""
    digits = int(number.bit_length() * log10(2))  # or one more
    return digits + (abs(number) >= 10**digits)


def text(path: Path, expected: str) -> str:
    """Read a UTF-8 text file, a byte order mark left out; expected: what it should be, in errors.

    A control character is refused with its line: no tokenizer reads it as the text that was meant.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_dir():
            regular(path, expected)
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {expected}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 text ({error.reason}); expected {expected}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); expected {expected}") from None
    if found := CONTROL.search(content):
        line = content[: found.start()].count("\n") + 1
        raise UserError(f"{path}:{line}: {found[0]!r} is a control character; expected {expected}")
    return content


def regular(file: Path, expected: str) -> Path:
    """Return a file that may be opened: nothing waits for a pipe or reads a device, and its name is text."""
    if not file.is_file():
        raise UserError(f"{file}: not a file; expected {expected}")
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise UserError(f"{file}: its name is not UTF-8; expected {expected}") from None
    return file


def yaml(path: Path, expected: str) -> Any:
    """Read a YAML file; None where it is empty."""
    content = text(path, expected)
    try:
        read = YAML(typ="safe").load(content)
        if (values := _size(read, {})) > MOST:
            raise ValueError(f"its anchors repeat what they name: {values:.1e} values; {MOST:,} are read")
        return _writable(read, content)
    except (YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:  # of dates, depth, anchors
        raise UserError(f"{path}: not YAML: {_reason(error)}; expected {expected}") from None


def json(content: str | bytes, where: Any, expected: str) -> Any:
    """Read JSON from text that stands at `where`: a file, or a line of one."""
    try:
        content = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        read = json_module.loads(content, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once_each)
        return _writable(read, content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({_reason(error)}); expected {expected}") from None


def json_lines(path: Path, expected: str) -> Iterator[tuple[str, Any]]:
    """Yield each line of a file of JSON lines with where it stands, `<path>:<line>`; blank lines are left out."""
    for number, line in enumerate(
        text(path, expected).split("\n"), start=1
    ):  # not splitlines: U+2028 may stand in text
        if line.strip():
            where = f"{path}:{number}"
            yield where, json(line, where, expected)


def files(path: Path, pattern: str, expected: str) -> list[Path]:
    """Return the files of a folder by name, or the file that `path` is itself where it has the pattern's ending."""
    path = Path(path)
    there = sorted(path.glob(pattern)) if path.is_dir() else [path] if path.is_file() else []
    if not there:
        lacks = f"no {pattern} here" if path.is_dir() else "not a file" if path.exists() else "no such file or folder"
        raise UserError(f"{path}: {lacks}; expected {expected}")
    return [regular(file, expected) for file in there]


def line(value: Any) -> str:
    """Return a text without white space at its ends; '' where it is no text of one line in which something is seen.

    A byte order mark or a zero-width space alone is nothing that a model could be asked for.

    >>> line(" a b "), line("a\\nb"), line("\\u200b"), line(7)
    ('a b', '', '', '')
    """
    kept = value.strip() if isinstance(value, str) else ""
    seen = any(character.isprintable() and not character.isspace() for character in kept)
    return kept if seen and not set(kept) & {"\n", "\r"} else ""


def _size(value: Any, known: dict[int, int]) -> int:
    """Return of how many values a value is made, what an anchor repeats counted each time; known: by their id."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]


def _writable(value: Any, content: str) -> Any:
    """Return a value whose text is text; raise `ValueError` for half a character (a lone surrogate), and for control.

    The file itself held none (`text`): only a backslash can write one.
    """
    for place, part in _texts(value) if "\\" in content else ():
        part.encode("utf-8")
        if found := CONTROL.search(part):
            where = f"{'.'.join(map(str, place))}: " if place else ""
            raise ValueError(f"{where}{found[0]!r} is a control character")
    return value


def _texts(value: Any, place: tuple = ()) -> Iterator[tuple[tuple, str]]:
    """Yield every text of a value, keys as well, with the keys that lead to it."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _texts(key, place)
            yield from _texts(part, (*place, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _texts(part, (*place, number))


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise ValueError(f"{digits[:SHOWN]} is too large a number")
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise `ValueError` where a key stands twice, as of YAML: one of the values would go unread."""
    whole = dict(pairs)
    if len(whole) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {shown(next(key for key in keys if keys.count(key) > 1))} stands twice")
    return whole


def _reason(error: Exception) -> str:
    """Return an error of a parser on one line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[error.start]!r} is half a character"
    return " ".join(str(error).replace('in "<unicode string>", ', "").split())[:300]
