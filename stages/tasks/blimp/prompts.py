"""Minimal pairs: two sentences that differ in one point of grammar; a model knows it if the good one is likelier.

All sources give the same paradigms under BLiMP's names (Warstadt et al. 2020, TACL 8:377), in 12 phenomena:

* `builtin`: our own sentences, drawn by `stages.tasks.blimp.grammar` from the lexicon at `path`, or from lexicon.yaml
  in that folder, to which *.jsonl beside it add more paradigms;
* `path`: a folder of BLiMP's *.jsonl files, the first `pairs` rows of each;
* `hub`: the same from the `datasets` hub, at a pinned revision.

A pair is one prompt with text '' and targets (good, bad).
"""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from stages.store import paths, source
from stages.store.errors import UserError
from stages.tasks.blimp import (  # the paradigm modules register their paradigms
    agreement,  # noqa: F401
    extraction,  # noqa: F401
    grammar,
    structure,  # noqa: F401
    words,
)
from stages.tasks.blimp.settings import Settings
from stages.tasks.prompt import Prompt, few_enough

log = logging.getLogger(__name__)

KEYS = ("sentence_good", "sentence_bad", "linguistics_term", "UID", "pairID")
RENAMED = {"s_selection": "argument_structure"}  # in the files, but not in the paper's twelve phenomena


@dataclass(frozen=True)
class Row:
    """One minimal pair, whatever its source."""

    uid: str
    phenomenon: str
    number: int
    good: str
    bad: str


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build the prompts, ordered by paradigm (path: by file) and pair; `seed` matters to the builtin source only.

    Raises `UserError` when the source is missing, malformed or too small for the builtin `pairs`.
    """
    sources = {"builtin": _builtin, "path": _folder, "hub": _hub}
    prompts: dict[str, Prompt] = {}
    for row in sources[settings.source](settings, seed):
        prompt = _prompt(row, settings)
        if prompt.id in prompts:
            raise UserError(f"{settings.path}: UID {row.uid} with pairID {row.number} occurs twice; expected once")
        prompts[prompt.id] = prompt
    return list(prompts.values())


def _prompt(row: Row, settings: Settings) -> Prompt:
    name = f"blimp/{row.uid}/{row.number:04d}"
    space = " " if settings.leading_space else ""
    return Prompt(
        id=name,
        condition=row.uid,
        category=row.phenomenon,
        cluster=name,
        targets=(space + row.good, space + row.bad),
        bos=settings.bos,
    )


def _builtin(settings: Settings, seed: int) -> Iterator[Row]:
    path = Path(settings.path)
    few_enough(
        f"tasks.blimp.pairs = {settings.pairs}, of {len(grammar.PARADIGMS)} paradigms",
        settings.pairs * len(grammar.PARADIGMS),
    )
    lexicon = words.load(path / "lexicon.yaml" if path.is_dir() else path)
    for uid, paradigm in sorted(grammar.PARADIGMS.items()):
        for number, (good, bad) in enumerate(grammar.pairs(uid, lexicon, seed, settings.pairs)):
            yield Row(uid, paradigm.phenomenon, number, good, bad)
    if path.is_dir() and any(path.glob("*.jsonl")):
        yield from _folder(settings, seed)


def _folder(settings: Settings, seed: int) -> Iterator[Row]:
    folder = Path(settings.path)
    expected = "a folder of BLiMP's *.jsonl, one per paradigm: a minimal pair on a line"
    for file in source.files(folder, "*.jsonl", expected):
        rows = (_row(record, where) for where, record in source.json_lines(file, expected))
        yield from _first(rows, settings.pairs, str(file))


def _hub(settings: Settings, seed: int) -> Iterator[Row]:
    if not re.fullmatch(r"[0-9a-f]{40}", settings.revision):
        raise UserError(
            f"{paths.PARAMS}: tasks.blimp.revision: {settings.revision!r}; a hub data set is pinned by its full "
            "commit, 40 hex digits"
        )
    import datasets  # slow to import, and only this source needs it

    try:
        names = sorted(datasets.get_dataset_config_names(settings.hub, revision=settings.revision))
        tables = [
            datasets.load_dataset(settings.hub, name, revision=settings.revision, split="train") for name in names
        ]
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{paths.PARAMS}: tasks.blimp.hub: {settings.hub} at {settings.revision} cannot be loaded "
            f"({' '.join(str(error).split())})"
        ) from error
    for name, table in zip(names, tables, strict=True):
        where = f"{settings.hub}/{name}"
        rows = (_row(record, f"{where}:{number}") for number, record in enumerate(table))
        yield from _first(rows, settings.pairs, where)


def _row(record: Any, where: str) -> Row:
    """Check one record of BLiMP; the hub calls `pairID` `pair_id`."""
    if isinstance(record, dict) and "pairID" not in record and "pair_id" in record:
        record = {**record, "pairID": record["pair_id"]}
    if not isinstance(record, dict) or (missing := [key for key in KEYS if key not in record]):
        lacks = f"no {', '.join(missing)}" if isinstance(record, dict) else f"a {type(record).__name__}, not an object"
        raise UserError(f"{where}: {lacks}; expected the keys {', '.join(KEYS)}")
    for key in KEYS[:3]:
        if not source.line(record[key]) or source.line(record[key]) != record[key]:
            raise UserError(
                f"{where}: {key}: {source.shown(record[key])}; expected text on one line, no white space at its ends"
            )
    if not isinstance(record["UID"], str) or not re.fullmatch(r"[\w.-]+", record["UID"]):
        raise UserError(f"{where}: UID: {record['UID']!r}; expected a name of letters, digits and underscores")
    if isinstance(record["pairID"], bool) or not re.fullmatch(r"[0-9]{1,9}", str(record["pairID"])):
        raise UserError(f"{where}: pairID: {source.shown(record['pairID'])}; expected a whole number, 9 digits at most")
    term = re.sub(r"[^a-z0-9]+", "_", record["linguistics_term"].lower()).strip("_")
    if term in ("", "all"):  # what tables call all phenomena together
        raise UserError(f"{where}: linguistics_term: {source.shown(record['linguistics_term'])}; expected another name")
    return Row(
        uid=record["UID"],
        phenomenon=RENAMED.get(term, term),
        number=int(record["pairID"]),
        good=record["sentence_good"],
        bad=record["sentence_bad"],
    )


def _first(rows: Iterable[Row], count: int, where: str) -> list[Row]:
    """The first rows that are pairs, each once: a pair lies in one split.

    BLiMP has a few whose two sentences are the same, which nothing can tell apart, nor should white space.
    """
    seen: set[tuple[str, str]] = set()
    apart = (row for row in rows if row.good.split() != row.bad.split())
    chosen = list(
        islice((row for row in apart if (pair := (row.good, row.bad)) not in seen and not seen.add(pair)), count)
    )
    if len(chosen) < count:
        log.warning("%s: %d pairs, %d were asked for", where, len(chosen), count)
    return chosen
