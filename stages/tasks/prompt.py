"""A prompt, its random stream and its split: what all prompt modules share. Pure Python, no models, no tokenizers."""

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from stages.store import paths, source
from stages.store.errors import UserError

MOST = 100_000  # prompts of a task: built within some minutes at most
LONGEST = 10_000_000  # symbols or tokens of all prompts of a task, where they are drawn one by one


@dataclass(frozen=True)
class Span:
    """An annotated relation: characters [query) attend to characters [key) of text + targets[0]."""

    name: str
    query_start: int
    query_end: int
    key_start: int
    key_end: int


@dataclass(frozen=True)
class Prompt:
    """One row of `data/prompts/<task>.parquet`; fields as in `stages.store.tables.PROMPTS`.

    `targets` continue `text`: a minimal pair is text '' with targets (good, bad). A cluster lies in one split, so that
    nothing that a choice was made on is reported on: the crc32 of the cluster decides, or the module, in equal parts.
    """

    id: str
    condition: str
    cluster: str
    text: str = ""
    targets: tuple[str, ...] = ()
    role: str = "test"
    category: str = ""
    relations: tuple[Span, ...] = ()
    ordinals: tuple[int, ...] = ()
    tokens: int = 0
    bos: bool = True
    split: str = ""

    def __post_init__(self) -> None:
        if not self.split:
            object.__setattr__(self, "split", "ab"[crc32(self.cluster.encode()) & 1])


def few_enough(asked: str, number: int, what: str = "prompts", most: int = MOST) -> None:
    """Raise `UserError` where a task's keys ask for more than is built in minutes: said before anything is built.

    asked: the keys and their values, as `tasks.icl.sets = 7`; number: what they come to; most: the most that may be.
    """
    if number > most:
        raise UserError(f"{paths.PARAMS}: {asked}: {number:,} {what}; {most:,} are available to one task")


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random stream of a name: adding or reordering other streams never changes it."""
    return np.random.default_rng([seed, crc32(name.encode())])


def read_text(path: Path) -> list[str]:
    """Read the paragraphs (separated by blank lines) of a text file or of a folder's *.txt files, sorted by name.

    Raises `UserError` when there is nothing to read or a file is not UTF-8.
    """
    expected = "text: a .txt file or a folder of them"
    paragraphs = []
    for file in source.files(path, "*.txt", expected):
        blocks = source.text(file, expected).split("\n\n")
        paragraphs += [" ".join(block.split()) for block in blocks if block.strip()]
    if not paragraphs:
        raise UserError(f"{path}: the text is empty")
    return paragraphs
