"""Parsed sentences: which word is the head of which, and by what relation (Universal Dependencies v2).

* `builtin`: our own sentences with their trees, grown by `stages.tasks.treebank.grammar` from the lexicon at `path`;
* `path`: a CoNLL-U file or a folder of *.conllu;
* `hub`: a treebank from the `datasets` hub, at a pinned revision.

A sentence is one prompt. Its relations are a span `word` per syntactic word and, for every arc but the root's, one
span in each direction: from `grammar:<label>:dep-to-head` and `grammar:<label>:head-to-dep`, the label as in the tree.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import conllu

from stages.store import paths, source
from stages.store.errors import UserError
from stages.tasks.prompt import Prompt, few_enough
from stages.tasks.treebank import grammar as treebank_grammar
from stages.tasks.treebank import words as treebank_words
from stages.tasks.treebank.settings import Settings
from stages.tasks.treebank.tree import ROOT, Sentence, Word, place

log = logging.getLogger(__name__)

COLUMNS = ("tokens", "head", "deprel")
BROKEN = 0.05  # share of a file's sentences that may break a rule: these are skipped
EXPECTED = "a treebank: a CoNLL-U file or a folder of *.conllu"
WIDTH = 10  # columns of a row
ID = r"[0-9]{1,9}([-.][0-9]{1,9})?"  # of a word, or of a multiword token or an empty node
RANGE = r"(?<![0-9])[0-9]{1,9}(?![0-9])"  # each end of a hub's multiword token
NOTHING = (None, "None", "_", "")  # in a hub's column: a surface token or an empty node, which has no head


@dataclass(frozen=True)
class Entry:
    """A sentence as a file or table gives it: `words` are (form, head counted from 1 or 0, label) in order.

    `ranges` are multiword tokens: first and last word, counted from 1, and how they are written together.
    """

    name: str
    condition: str
    where: str
    text: str
    words: tuple[tuple[str, int, str], ...]
    ranges: tuple[tuple[int, int, str], ...] = ()


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build the prompts in the order of their source; `seed` matters to the builtin source only.

    Raises `UserError` when the source is missing or malformed, or has no sentence of `shortest` to `longest` words.
    """
    if settings.source == "builtin":
        few_enough(f"tasks.treebank.sentences = {settings.sentences}", settings.sentences)
        words = treebank_words.load(Path(settings.path))
        drawn = treebank_grammar.sentences(words, seed, settings.sentences, settings.shortest, settings.longest)
        return [_prompt(f"{number:04d}", name, sentence) for number, (name, sentence) in enumerate(drawn)]
    entries = _files(settings) if settings.source == "path" else _hub(settings)
    return _chosen(entries, settings)


def _prompt(name: str, condition: str, sentence: Sentence) -> Prompt:
    name = f"treebank/{name}"
    return Prompt(id=name, condition=condition, cluster=name, text=sentence.text, relations=sentence.relations())


def _chosen(entries: Iterator[Entry], settings: Settings) -> list[Prompt]:
    """Take the first sentences of the right length, each text once."""
    prompts: dict[str, Prompt] = {}
    ids: dict[str, str] = {}
    for entry in entries:
        if len(prompts) == settings.sentences:
            break
        if not settings.shortest <= len(entry.words) <= settings.longest or entry.text in prompts:
            continue
        name = re.sub(r"[^\w.-]+", "_", entry.name)
        if name in ids:
            raise UserError(f"{entry.where}: this sent_id is taken by {ids[name]}; expected one name per sentence")
        ids[name] = entry.where
        prompts[entry.text] = _prompt(name, entry.condition, aligned(entry))
    source = settings.path if settings.source == "path" else f"{settings.hub}/{settings.config}"
    if not prompts:
        raise UserError(
            f"{source}: no sentence of {settings.shortest} to {settings.longest} words "
            "(tasks.treebank.shortest, tasks.treebank.longest)"
        )
    if len(prompts) < settings.sentences:
        log.warning("%s: %d sentences, %d were asked for", source, len(prompts), settings.sentences)
    return list(prompts.values())


def aligned(entry: Entry) -> Sentence:
    """Find an entry's words in its text.

    Words of a multiword token have their own places where they are written as they stand (do + n't), else they share
    the token's (zum). Raises `UserError` where text and words differ.
    """
    forms: list[str] = []
    token_of: dict[int, int] = {}  # word, from 1 -> its place in `forms`
    shared = {
        number: (first, surface)
        for first, last, surface in entry.ranges
        if "".join(form for form, _, _ in entry.words[first - 1 : last]) != surface
        for number in range(first, last + 1)
    }
    for number, (form, _, _) in enumerate(entry.words, start=1):
        first, surface = shared.get(number, (number, form))
        if first == number:
            forms.append(surface)
        token_of[number] = len(forms) - 1
    spans = place(entry.text, forms)
    if spans is None:
        raise UserError(
            f"{entry.where}: the words {' '.join(forms)!r} do not spell the text {entry.text!r}; expected the same "
            "characters, but for spaces"
        )
    words = tuple(
        Word(*spans[token_of[number]], head - 1 if head else None, label)
        for number, (_, head, label) in enumerate(entry.words, start=1)
    )
    return Sentence(entry.text, words)


# CoNLL-U


def _files(settings: Settings) -> Iterator[Entry]:
    for file in source.files(Path(settings.path), "*.conllu", EXPECTED):
        yield from _read(file)


def _read(file: Path) -> list[Entry]:
    """Return the sentences of a file; those that break a rule are named and skipped, where these are few."""
    entries, broken = [], []
    blocks = [block for block in re.split(r"\n\s*\n", source.text(file, EXPECTED)) if block.strip()]
    for number, block in enumerate(blocks, start=1):
        try:
            entries.append(_parsed(block, file, number))
        except UserError as error:
            broken.append(str(error))
    if len(broken) > BROKEN * len(blocks):
        raise UserError(f"{broken[0]} ({len(broken)} of {len(blocks)} sentences break a rule)")
    for line in broken:
        log.warning("skipped: %s", line)
    if not entries:
        raise UserError(f"{file}: no sentences; expected {EXPECTED}")
    return entries


def _parsed(block: str, file: Path, number: int) -> Entry:
    for line in block.split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = re.split(r"\t| {2,}", line)
        if not re.fullmatch(ID, name):  # the parser reads ` 1` as 1
            raise UserError(
                f"{file}: sentence {number} is not CoNLL-U (id {source.shown(name)}; expected 1, 1-2 or 1.1, and a tab)"
            )
        if len(rest) + 1 != WIDTH:  # the parser reads past what is missing or too much
            raise UserError(
                f"{file}: sentence {number} is not CoNLL-U (row {name} has {len(rest) + 1} columns; expected {WIDTH})"
            )
    try:
        entry = _entry(conllu.parse(block)[0], file, number)
        aligned(entry)
        return entry
    except (conllu.exceptions.ParseException, IndexError, ValueError) as error:  # ValueError: thousands of digits
        reason = " ".join(str(error).split())[:300] or "no words"
        raise UserError(f"{file}: sentence {number} is not CoNLL-U ({reason})") from None


def _entry(sentence: conllu.TokenList, file: Path, number: int) -> Entry:
    name = sentence.metadata.get("sent_id") or f"{file.stem}-{number:05d}"
    where = f"{file}: sentence {number} ({name})"
    words = [token for token in sentence if isinstance(token["id"], int)]
    if [word["id"] for word in words] != list(range(1, len(words) + 1)):
        raise UserError(f"{where}: ids {source.shown([word['id'] for word in words])}; expected 1, 2, 3 ...")
    ranges = [token for token in sentence if not isinstance(token["id"], int) and token["id"][1] == "-"]
    for token in ranges:
        if token["form"] == "_":
            first, _, last = token["id"]
            raise UserError(f"{where}: multiword token {first}-{last} has the form '_'; expected how it is written")
    text = sentence.metadata.get("text") or _spaced(sentence)
    ends = [0, *(end for token in ranges for end in (token["id"][0], token["id"][2])), len(words)]
    if ends != sorted(ends):
        raise UserError(
            f"{where}: multiword tokens {source.shown(ends[1:-1])}; expected ranges of words, in their order"
        )
    return Entry(
        name=name,
        condition=file.stem,
        where=where,
        text=" ".join(text.split()),
        words=_checked([(word.get("form"), word.get("head"), word.get("deprel")) for word in words], where),
        ranges=tuple((token["id"][0], token["id"][2], token["form"]) for token in ranges),
    )


def _spaced(sentence: conllu.TokenList) -> str:
    """Write the text from the tokens and their SpaceAfter."""
    text, covered = "", 0
    for token in sentence:
        if isinstance(token["id"], int):
            if token["id"] <= covered:
                continue
        elif token["id"][1] == "-":
            covered = token["id"][2]
        else:
            continue
        text += str(token["form"]) + ("" if (token.get("misc") or {}).get("SpaceAfter") == "No" else " ")
    return text.strip()


def _checked(words: Sequence[tuple[Any, Any, Any]], where: str) -> tuple[tuple[str, int, str], ...]:
    """Check the form, head and label of every word of a sentence."""
    if not words:
        raise UserError(f"{where}: no words; expected a line of ten columns for each")
    blanked = sum(form == "_" for form, _, _ in words)
    if 2 * blanked > len(words):
        raise UserError(
            f"{where}: {blanked} of {len(words)} forms are '_': a treebank without its text; expected words, merge "
            "them in first"
        )
    for number, (form, head, label) in enumerate(words, start=1):
        if not isinstance(form, str) or not form.strip():
            raise UserError(f"{where}: word {number} has no form")
        if not isinstance(head, int) or not 0 <= head <= len(words) or head == number:
            raise UserError(f"{where}: word {number} ({form}): head {head!r}; expected another word, or 0")
        if not isinstance(label, str) or not re.fullmatch(r"[a-z]+(:\w+)*", label):
            raise UserError(f"{where}: word {number} ({form}): deprel {label!r}; expected a label such as nsubj:pass")
        if (head == 0) != (label.partition(":")[0] == ROOT):
            raise UserError(f"{where}: word {number} ({form}): head {head} and deprel {label}; expected 0 with {ROOT}")
    heads = [head for _, head, _ in words]
    if heads.count(0) != 1:
        raise UserError(f"{where}: {heads.count(0)} roots; expected one word with head 0")
    for number, (form, head, _) in enumerate(words, start=1):
        above = 0
        while head and above < len(words):
            head, above = heads[head - 1], above + 1
        if head:
            raise UserError(f"{where}: word {number} ({form}): its heads lead in a circle; expected a tree")
    return tuple(words)


# The hub


def _hub(settings: Settings) -> Iterator[Entry]:
    if not re.fullmatch(r"[0-9a-f]{40}", settings.revision):
        raise UserError(
            f"{paths.PARAMS}: tasks.treebank.revision: {settings.revision!r}; a hub data set is pinned by its full "
            "commit, 40 hex digits"
        )
    import datasets  # slow to import, and only this source needs it

    try:
        names = datasets.get_dataset_split_names(settings.hub, settings.config, revision=settings.revision)
        split = "validation" if "validation" in names else min(names)
        table = datasets.load_dataset(settings.hub, settings.config, revision=settings.revision, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{paths.PARAMS}: tasks.treebank.hub: {settings.hub} ({settings.config}) at {settings.revision} cannot be "
            f"loaded ({' '.join(str(error).split())})"
        ) from error
    if missing := [column for column in COLUMNS if column not in table.column_names]:
        raise UserError(
            f"{paths.PARAMS}: tasks.treebank.hub: {settings.hub} ({settings.config}) has no column "
            f"{', '.join(missing)}; expected {', '.join(COLUMNS)}, and text, sent_id and mwt where there are"
        )
    for number, row in enumerate(table):
        yield _row(row, settings.config, f"{settings.hub}/{settings.config}/{split}:{number}", number)


def _row(row: Mapping[str, Any], condition: str, where: str, number: int) -> Entry:
    """Read one row: lists of forms, heads (numbers or their text) and labels.

    Multiword tokens may stand in their own column `mwt`, or among the tokens with a head of None, which are left out.
    """
    lists = [row[column] for column in COLUMNS]
    if not all(isinstance(column, list) and len(column) == len(lists[0]) for column in lists):
        raise UserError(f"{where}: {', '.join(COLUMNS)} are no lists of one length; expected one entry per word")
    words = [(form, _number(head), label) for form, head, label in zip(*lists, strict=True) if head not in NOTHING]
    ranges = []
    for token in row.get("mwt") or ():
        ends = re.findall(RANGE, str(token["id"])) if isinstance(token, dict) and {"id", "form"} <= set(token) else []
        if len(ends) != 2:
            raise UserError(f"{where}: mwt: {token!r}; expected an id such as 3-4 and a form")
        ranges.append((int(ends[0]), int(ends[1]), str(token["form"])))
    return Entry(
        name=str(row.get("sent_id") or row.get("idx") or f"{condition}-{number:05d}"),
        condition=condition,
        where=where,
        text=" ".join(str(row.get("text") or " ".join(form for form, _, _ in words)).split()),
        words=_checked(words, where),
        ranges=tuple(ranges),
    )


def _number(head: Any) -> Any:
    return int(head) if re.fullmatch("[0-9]{1,9}", str(head)) else head  # int reads more: `1_0`, thousands of digits
