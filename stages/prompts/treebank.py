"""Parsed sentences: who depends on whom, as character spans, in the labels of Universal Dependencies.

All sources give one prompt per sentence, with a span `word` for every syntactic word and, for every arc but the root's,
`grammar:<label>:dep-to-head` (from the dependent to its head) and `grammar:<label>:head-to-dep`:

* `builtin`: sentences drawn as trees by `stages.prompts.treebank_grammar` from the lexicon at `path`;
* `path`: a CoNLL-U file or a folder of *.conllu, read by the `conllu` package;
* `hub`: a treebank from the `datasets` hub, at a pinned revision.

Parts of a contraction (do + n't) are words of their own where their forms make up the text, else one word together.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import conllu

from stages.prompts.prompt import Prompt, Span, stream
from stages.prompts.treebank_grammar import CONSTRUCTIONS, Speaker, load, read
from stages.store import params
from stages.store.errors import UserError

log = logging.getLogger(__name__)

TRIES = 500  # sentences drawn until one has the asked length and is new
COLUMNS = ("text", "tokens", "head", "deprel")


@dataclass(frozen=True)
class Sentence:
    """One sentence of any source: `size` syntactic words."""

    name: str
    group: str
    size: int
    text: str
    relations: tuple[Span, ...]


@dataclass(frozen=True)
class Word:
    """A row of a treebank: ids (several for a multiword token), form, head's id, label."""

    ids: tuple[int, ...]
    form: str
    head: int = 0
    label: str = ""


def build(settings: params.Treebank, seed: int) -> list[Prompt]:
    """Build up to `sentences` prompts of `shortest` to `longest` words, texts all different.

    Raises `UserError` when the source is missing, malformed or has no sentence of these lengths.
    """
    sources = {"builtin": _builtin, "path": _files, "hub": _hub}
    fitting: dict[str, Sentence] = {}
    for one in sources[settings.source](settings, seed):
        if settings.shortest <= one.size <= settings.longest:
            fitting.setdefault(one.text, one)
        if len(fitting) == settings.sentences:
            break
    lengths = f"{settings.shortest} to {settings.longest} words"
    if not fitting:
        raise UserError(f"{settings.path}: no sentence of {lengths} (tasks.treebank.shortest, longest)")
    if len(fitting) < settings.sentences:
        log.warning(
            "%s: %d sentences of %s, %d were asked for", settings.path, len(fitting), lengths, settings.sentences
        )
    names = [f"treebank/{one.name}" for one in fitting.values()]
    return [
        Prompt(id=name, group=one.group, cluster=name, text=one.text, relations=one.relations)
        for name, one in zip(names, fitting.values(), strict=True)
    ]


def _builtin(settings: params.Treebank, seed: int) -> Iterator[Sentence]:
    words, kinds, seen = load(Path(settings.path)), list(CONSTRUCTIONS), set()
    for number in range(settings.sentences):
        speak = Speaker(words, stream(seed, f"treebank/{number}"))
        kind = kinds[number % len(kinds)]
        for _ in range(TRIES):
            tree = speak.sentence(kind)
            text, relations = read(tree)
            size = len(tree.words())
            if settings.shortest <= size <= settings.longest and text not in seen:
                seen.add(text)
                yield Sentence(f"{number:05d}", kind.removesuffix(" again"), size, text, relations)
                break
        else:
            raise UserError(
                f"tasks.treebank.shortest = {settings.shortest}, longest = {settings.longest}: no new sentence of this "
                f"length in {TRIES} tries; the builtin ones have about 5 to 25 words"
            )


def _files(settings: params.Treebank, seed: int) -> Iterator[Sentence]:
    path = Path(settings.path)
    files = sorted(path.glob("*.conllu")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise UserError(f"{path}: no treebank here; expected a CoNLL-U file or a folder of *.conllu")
    for file in files:
        yield from _parsed(file)


def _parsed(file: Path) -> Iterator[Sentence]:
    number = 0
    with file.open(encoding="utf-8") as lines:
        sentences = conllu.parse_incr(lines)
        while True:
            number += 1
            try:
                found = next(sentences)
            except StopIteration:
                return
            except (conllu.exceptions.ParseException, UnicodeDecodeError) as error:
                raise UserError(f"{file}: sentence {number}: not CoNLL-U ({' '.join(str(error).split())})") from None
            name = found.metadata.get("sent_id", f"{number:05d}")
            yield _sentence(
                str(file), name, file.stem, found.metadata.get("text"), list(_rows(found, f"{file}: {name}"))
            )


def _rows(found: conllu.TokenList, where: str) -> Iterator[Word]:
    for token in found:
        ids = token["id"]
        if isinstance(ids, tuple) and ids[1] == "-":
            yield Word(tuple(range(ids[0], ids[2] + 1)), token["form"])
        elif isinstance(ids, int):
            if token.get("head") is None or not token.get("deprel"):
                raise UserError(f"{where}: word {ids} ({token['form']}): no head or label; expected a parsed sentence")
            yield Word((ids,), token["form"], token["head"], token["deprel"])


def _hub(settings: params.Treebank, seed: int) -> Iterator[Sentence]:
    if not re.fullmatch(r"[0-9a-f]{40}", settings.revision):
        wanted = "a hub treebank is pinned by its full commit, 40 hex digits"
        raise UserError(f"tasks.treebank.revision: {settings.revision!r}; {wanted}")
    import datasets  # slow to import, and only this source needs it

    where = f"{settings.hub}/{settings.config}"
    try:
        splits = datasets.load_dataset(settings.hub, settings.config, revision=settings.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"tasks.treebank.hub: {where} at {settings.revision} cannot be loaded ({' '.join(str(error).split())})"
        ) from error
    table = splits["validation"] if "validation" in splits else splits[min(splits)]
    if missing := [column for column in COLUMNS if column not in table.column_names]:
        raise UserError(f"tasks.treebank.hub: {where}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    for number, record in enumerate(table):
        name = str(record.get("sent_id") or f"{number:05d}")
        words = zip(record["tokens"], record["head"], record["deprel"], strict=True)
        parsed = [word for word in words if str(word[1]).isdigit()]  # the others are contractions and empty nodes
        rows = [Word((place,), form, int(head), label) for place, (form, head, label) in enumerate(parsed, start=1)]
        try:
            yield _sentence(where, name, settings.config, record["text"], rows)
        except UserError as error:  # a contraction whose parts do not make up the text: the columns do not say which
            log.info("left out: %s", error)


def _sentence(where: str, name: str, group: str, text: str | None, rows: list[Word]) -> Sentence:
    """Find the words in the text; raises `UserError` where one is not there."""
    words = [row for row in rows if row.label]
    text = " ".join(row.form for row in words) if text is None else text
    at: dict[int, tuple[int, int]] = {}
    start, pieces = 0, {row.ids: [w for w in words if w.ids[0] in row.ids] for row in rows if not row.label}
    joint = {place: ids for ids in pieces for place in ids}
    for row in words:
        place = row.ids[0]
        ids = joint.get(place)
        surface = next((r.form for r in rows if r.ids == ids and not r.label), row.form) if ids else row.form
        if ids and "".join(w.form for w in pieces[ids]) != surface:
            at[place] = at.get(ids[0]) or _find(text, surface, start, where, name)
        else:
            at[place] = _find(text, row.form, start, where, name)
        start = at[place][1]
    spans = [Span("word", *span, *span) for span in dict.fromkeys(at.values())]
    for row in words:
        if row.head and row.head not in at:
            raise UserError(f"{where}: {name}: word {row.ids[0]} ({row.form}): head {row.head}; no such word")
        if row.head and at[row.ids[0]] != at[row.head]:
            ends = at[row.ids[0]], at[row.head]
            spans.append(Span(f"grammar:{row.label}:dep-to-head", *ends[0], *ends[1]))
            spans.append(Span(f"grammar:{row.label}:head-to-dep", *ends[1], *ends[0]))
    return Sentence(name, group, len(words), text, tuple(spans))


def _find(text: str, form: str, start: int, where: str, name: str) -> tuple[int, int]:
    """Return the characters of a word: the next ones, after any spaces."""
    while text[start : start + 1].isspace():
        start += 1
    if not text.startswith(form, start):
        raise UserError(
            f"{where}: {name}: the word {form!r} is not the next one in {text[start : start + 30]!r}; "
            "expected words that make up the text"
        )
    return start, start + len(form)
