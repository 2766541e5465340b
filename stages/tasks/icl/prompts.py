"""In-context functions: a prompt shows pairs x -> y and asks for the y of a new x (Todd+ ICLR 2024).

The items of a function are split once, half for demonstrations and half for questions. Even sets of demonstrations are
split a and ask one half of the questions, odd ones b and ask the other. Every (set, query) gives four
prompts with one answer: `clean` (the demonstrations as they are), `shuffled` (the same ones, labels deranged by VALUE:
none keeps a label equal to its own, so what still works is not the function), `zero_shot` (none), and `natural`, where
the query stands in a text that asks for no function, in each of `tasks.icl.natural` in turn. The
prompts of a set share their demonstrations and their derangement, so also their long prefix and their cache.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.store import paths, source
from stages.store.errors import UserError
from stages.tasks.icl.pairs import Frame
from stages.tasks.icl.settings import Settings
from stages.tasks.prompt import Prompt, few_enough, stream

Pair = tuple[str, str]
ALL = "all"  # the condition of rows over all functions
LEXICON = "functions.yaml"  # in a folder of words


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build four prompts (clean, shuffled, zero_shot, natural) per function, demonstration set and query.

    More sets, queries or functions leave the prompts of the first ones as they are.
    Raises `UserError` where the data are unreadable, a function is unknown or has too few items.
    """
    path = Path(settings.path)
    functions = _from_folder(path) if settings.source == "path" else _builtin(path)
    for name in settings.functions:
        if name not in functions:
            raise UserError(
                f"{paths.PARAMS}: tasks.icl.functions = {name!r}: not in {path}; allowed: {', '.join(functions)}"
            )
    names = dict.fromkeys(settings.functions or functions)
    roles = 3 + bool(settings.natural)
    few_enough(
        f"tasks.icl.sets = {settings.sets}, queries = {settings.queries}, of {len(names)} functions in {roles} roles",
        settings.sets * settings.queries * len(names) * roles,
    )
    return [prompt for name in names for prompt in _function(name, *functions[name], settings, seed)]


def _function(name: str, kind: str, pairs: list[Pair], settings: Settings, seed: int) -> list[Prompt]:
    demonstrations, questions = parted(name, len(pairs), seed)
    where = f"{settings.path}: {name}: {len(pairs)} distinct items, "
    halves = questions[::2], questions[1::2]
    if len(halves[1]) < settings.queries:
        raise UserError(
            f"{where}{len(halves[1])} of them questions of a split; tasks.icl.queries = {settings.queries} needs more"
        )
    frame = Frame(settings.template)
    if lost := [pair for pair in pairs if not frame.holds(*pair)]:
        raise UserError(
            f"{settings.path}: {name}: {source.shown(lost[0])}: as tasks.icl.template = {settings.template!r} writes "
            "it, nothing tells where input and answer end; expected another template, or a pair without what it has"
        )
    before, _, rest = settings.template.partition("{x}")
    middle, _, after = rest.partition("{y}")
    colon = middle.rstrip()  # the query ends here; the answer starts with the white space that follows
    prompts = []
    rows = [query_rows(half, settings.sets) for half in halves]
    for number in range(settings.sets):
        asked = rows[number % 2][number // 2]
        rng = stream(seed, f"icl/{name}/{number}")
        shown = [pairs[item] for item in demonstrated(rng.permutation(demonstrations), pairs, settings.shots)]
        if len(shown) < settings.shots:
            raise UserError(
                f"{where}{len(demonstrations)} of them demonstrations, {len(shown)} fit in one prompt (a label fills "
                f"half of it at most, for the shuffled one); tasks.icl.shots = {settings.shots} needs more"
            )
        labels = [y for _, y in shown]
        false = zip((x for x, _ in shown), (labels[source] for source in derangement(labels, rng)), strict=True)
        clean, shuffled = ("".join(before + x + middle + y + after for x, y in each) for each in (shown, false))
        for query, item in enumerate(asked[: settings.queries]):
            x, y = pairs[item]
            prompts += [
                Prompt(
                    id=f"icl/{name}/{number:02d}-{query:02d}#{role}",
                    role=role,
                    condition=name,
                    category=kind,
                    cluster=f"{name}/{number}" if context else x,  # a word that several functions ask is one
                    split="ab"[number % 2],
                    text=context + before + x + colon,
                    targets=(middle[len(colon) :] + y,),
                )
                for role, context in (("clean", clean), ("shuffled", shuffled), ("zero_shot", ""))
            ]
            if settings.natural:
                text = _natural(number, query, settings).replace("{x}", x)
                names = {"id": f"icl/{name}/{number:02d}-{query:02d}#natural", "role": "natural"}
                prompts.append(replace(prompts[-1], **names, text=text, targets=(f" {y}",)))
    return prompts


def natural_text(prompt: str, settings: Settings) -> str:
    """Return which of `tasks.icl.natural` a natural prompt is, by its id."""
    number, query = prompt.rpartition("/")[2].removesuffix("#natural").split("-")
    return _natural(int(number), int(query), settings)


def _natural(number: int, query: int, settings: Settings) -> str:
    """Texts take turns over the queries of all sets of a split."""
    return settings.natural[(number // 2 * settings.queries + query) % len(settings.natural)]


def query_rows(questions: np.ndarray, sets: int) -> list[list[int]]:
    """Order the questions for each set so that the first n of every set differ as long as sets * n items exist.

    A set takes last what earlier sets take first: an item's urgency is its best place so far. With s sets before it,
    at most s * n items stand among anyone's first n, so at least n others exist, and they sort first. Neither the
    number of sets nor that of queries enters, so asking for more keeps the first ones.
    """
    best = {int(item): len(questions) for item in questions}
    rows = []
    for _ in range(sets):
        rows.append(sorted(best, key=lambda item: -best[item]))  # stable: ties stay in the shuffled order
        best = {item: min(best[item], place) for place, item in enumerate(rows[-1])}
    return rows


def derangement(labels: list[str], rng: np.random.Generator) -> np.ndarray:
    """Return `source` such that labels[source[i]] != labels[i] for all i, by value.

    Labels in random order, equal ones side by side, turned by the size of the largest group: no group lands on
    itself. Exists iff no label fills more than half of the places; raises `ValueError` else.
    """
    values, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if 2 * sizes.max() > len(labels):
        raise ValueError(f"{values[sizes.argmax()]!r} is {sizes.max()} of {len(labels)} labels: no derangement")
    order = np.lexsort([rng.random(len(labels)), rng.permutation(len(values))[group]])
    source = np.empty(len(labels), dtype=int)
    source[order] = np.roll(order, -sizes.max())
    return source


def parted(name: str, items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which items of a function demonstrate and which are asked: those of split a at even places, b at odd."""
    order = stream(seed, f"icl/{name}/split").permutation(items)
    demonstrations, questions = np.split(order, [items // 2])
    return demonstrations, questions


def demonstrated(order: np.ndarray, pairs: list[Pair], shots: int) -> list[int]:
    """Take items in order, skipping those whose label already fills half of the places."""
    chosen: list[int] = []
    for item in order:
        if len(chosen) < shots and sum(pairs[item][1] == pairs[other][1] for other in chosen) < shots // 2:
            chosen.append(item)
    return chosen


def _builtin(path: Path) -> dict[str, tuple[str, list[Pair]]]:
    """Read the lexicon, or the one of a folder and the functions that lie beside it as <function>.json."""
    if not path.is_dir():
        return from_lexicon(path)
    functions = from_lexicon(path / LEXICON)
    added = _from_folder(path) if any(path.glob("*.json")) else {}
    if twice := sorted(functions.keys() & added.keys()):
        raise UserError(f"{path / twice[0]}.json: {LEXICON} beside it has this function as well; give it another name")
    return functions | added


def from_lexicon(path: Path) -> dict[str, tuple[str, list[Pair]]]:
    """Read {function: {kind, pairs: [[x, y], ...]}} from YAML."""
    expected = "<function>: {kind: ..., pairs: [[input, output], ...]}"
    content = source.yaml(path, expected)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: {source.shown(content)}: expected {expected}")
    functions = {}
    for name, function in content.items():
        good = isinstance(function, dict) and set(function) == {"kind", "pairs"} and isinstance(function["pairs"], list)
        if not good or not isinstance(function["kind"], str):
            raise UserError(f"{path}: {source.shown(name)} = {source.shown(function)}: expected {expected}")
        functions[_named(path, name)] = (function["kind"], _distinct(path, name, function["pairs"], 0, 1))
    return functions


def _from_folder(path: Path) -> dict[str, tuple[str, list[Pair]]]:
    """Read <function>.json files, each a list of {"input": ..., "output": ...} (Todd+'s format)."""
    functions = {}
    expected = 'a folder of <function>.json, each a list of {"input": ..., "output": ...}'
    for file in source.files(path, "*.json", expected):
        content = source.json(source.text(file, expected), file, expected)
        if not isinstance(content, list):
            raise UserError(f"{file}: {source.shown(content)}: expected {expected}")
        functions[_named(file, file.stem)] = ("", _distinct(file, file.stem, content, "input", "output"))
    return functions


def _named(file: Path, name: Any) -> str:
    """Return the name of a function, which becomes part of names of files."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise UserError(f"{file}: function {source.shown(name)}: expected a name of letters, digits, - and _")
    if name == ALL:
        raise UserError(f"{file}: function {name!r}: this is what tables call all functions together; expected another")
    return name


def _distinct(file: Path, name: str, rows: list, *keys: int | str) -> list[Pair]:
    """Return the pairs of row[key] for the two keys, of repeated inputs only the first."""
    pairs: dict[str, str] = {}
    for number, row in enumerate(rows):
        try:
            x, y = (source.line(row[key]) for key in keys)
        except (KeyError, IndexError, TypeError):
            x = y = ""
        if not x or not y or len(row) < len(keys) or isinstance(row, str) or (isinstance(row, list) and len(row) > 2):
            both = " and ".join(map(repr, keys))
            raise UserError(
                f"{file}: {name}, item {number} = {source.shown(row)}: {both} must be text on one line that can be seen"
            )
        pairs.setdefault(x, y)
    return list(pairs.items())
