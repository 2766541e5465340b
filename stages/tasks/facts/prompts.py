"""Facts: a relation, a subject and an object, asked in several ways (Task `facts`).

    known      subjects with their objects: builtin, countries and capitals of task icl's lexicon
    rare       rare real ones (rare.yaml); none where facts are given
    long       real ones of several words (long.yaml, where there is one): they have as many tokens as invented ones
    invented   names that nobody has, by rule (task extrapolation's), checked against all words that are there; their
               objects are other subjects', dealt out at random: what an edit has to write
    word       groups `copy` and `capitalize`: what needs no knowledge, after demonstrations

Every subject is asked as `main`, the relation's first template; after two texts before it (`prefixed-0`, -1: what a key
is averaged over); in the relation's other templates (`paraphrase-0`, ...: no edit sees them); and after two sets of
demonstrations (`shown-0`, -1), which hold no subject that is asked. Subjects take splits in turn. The relation `asked`
goes from the answer to the subject: which tokens it has, in any model.
"""

from dataclasses import dataclass
from pathlib import Path

from stages.store import source
from stages.store.errors import UserError
from stages.tasks.extrapolation import invented
from stages.tasks.extrapolation.prompts import Lexicon
from stages.tasks.facts.settings import Settings
from stages.tasks.facts.task import (
    ASKED,
    CAPITALIZE,
    COPY,
    INVENTED,
    KNOWN,
    LONG,
    MAIN,
    PARAPHRASE,
    PREFIXED,
    RARE,
    SHOWN,
    WORD,
)
from stages.tasks.icl.prompts import Pair, from_lexicon
from stages.tasks.lexicon import Entry, read
from stages.tasks.prompt import Prompt, Span, few_enough, read_text, stream

CAPITAL = (
    "Country: {x}\nCapital:",
    "The country is {x}. Its capital is",
    "Name of the country: {x}. Name of its capital:",
)
PREFIXES = ("Here is a list.\n", "This much is known:\n\n")
WORDS = {COPY: "Word: {x}\nSame word:", CAPITALIZE: "Word: {x}\nCapitalized:"}
DEMONSTRATED = 5  # words shown before one is copied or capitalised


@dataclass(frozen=True)
class Relation:
    """Facts of one kind: what it is called, its templates ({x} stands for the subject), and (subject, object) pairs."""

    name: str
    templates: tuple[str, ...]
    known: tuple[Pair, ...]
    rare: tuple[Pair, ...] = ()
    long: tuple[Pair, ...] = ()


class Long(Entry):
    """long.yaml: subjects of several words, with their objects."""

    capitals: tuple[Pair, ...]


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build all prompts of all relations; more of a class leave the first ones as they are.

    Raises `UserError` where the source is unreadable or has too few facts.
    """
    relations, words, taken = _builtin(settings) if settings.source == "builtin" else _given(settings)
    prompts = [prompt for relation in relations for prompt in _relation(relation, settings, taken, seed)]
    return prompts + [prompt for condition in WORDS for prompt in _words(condition, words, settings.words, seed)]


def _builtin(settings: Settings) -> tuple[list[Relation], list[Pair], set[str]]:
    folder = Path(settings.path)
    functions = from_lexicon(folder / "functions.yaml")
    rare = read(folder / "rare.yaml", Lexicon, "task facts").capitals
    for name in ("country-capital", CAPITALIZE):
        if name not in functions:
            raise UserError(f"{folder / 'functions.yaml'}: no function {name}, which task facts is built from")
    known = functions["country-capital"][1]
    real = {word for text in read_text(folder / "real.txt") for word in text.lower().split()}
    path = folder / "long.yaml"
    long = read(path, Long, "task facts").capitals if path.exists() else []
    taken = real | {word.lower() for pair in (*known, *rare, *long) for words in pair for word in words.split()}
    return [Relation("capital", CAPITAL, tuple(known), tuple(rare), tuple(long))], functions[CAPITALIZE][1], taken


def _given(settings: Settings) -> tuple[list[Relation], list[Pair], set[str]]:
    """Read facts, a JSON object per line; those with the same templates are one relation. There are no words beside."""
    path = Path(settings.path)
    expected = 'facts, one on a line: {"subject": text, "object": text, "templates": [text with {x}, ...]}'
    of_templates: dict[tuple[str, ...], dict[str, str]] = {}
    for where, fact in source.json_lines(path, expected):
        given = fact if isinstance(fact, dict) and fact.keys() == {"subject", "object", "templates"} else {}
        subject, answer = (source.line(given.get(key)) for key in ("subject", "object"))
        templates = given.get("templates")
        if not subject or not answer or not isinstance(templates, list) or not templates:
            raise UserError(f"{where}: {source.shown(fact)}: expected {expected}")
        for number, template in enumerate(templates):
            if not isinstance(template, str) or template.count("{x}") != 1 or template != template.rstrip():
                what = "text with {x} once, no white space at its end: a space stands before the object"
                raise UserError(f"{where}: templates.{number} = {source.shown(template)}; expected {what}")
            if template in templates[:number]:
                raise UserError(f"{where}: templates.{number} = {source.shown(template)} stands twice")
        known = of_templates.setdefault(tuple(templates), {})
        if known.setdefault(subject, answer) != answer:
            twice = f"subject {source.shown(subject)} has the object {source.shown(known[subject])} above"
            raise UserError(f"{where}: object = {source.shown(answer)}: {twice}; expected one")
    relations = [
        Relation(f"relation_{number}", templates, tuple(facts.items()))
        for number, (templates, facts) in enumerate(of_templates.items())
    ]
    taken = {word.lower() for relation in relations for pair in relation.known for word in " ".join(pair).split()}
    return relations, [], taken


def _relation(relation: Relation, settings: Settings, taken: set[str], seed: int) -> list[Prompt]:
    order = stream(seed, f"facts/{relation.name}/order").permutation(len(relation.known))
    known = [relation.known[item] for item in order]
    shown, asked = known[: 2 * settings.shots], known[2 * settings.shots :]
    if len(asked) < 4:
        raise UserError(
            f"{settings.path}: {relation.name}: {len(known)} facts, {len(shown)} of them demonstrations: fewer than 4 "
            "are left to ask; give more, or set tasks.facts.shots lower"
        )
    contexts = [
        "".join(f"{relation.templates[0].replace('{x}', x)} {y}\n\n" for x, y in shown[start :: 2])
        for start in range(2)
    ]  # fmt: skip
    ways = len(PREFIXES) + len(relation.templates) + len(contexts)
    asked_for = f"tasks.facts.invented = {settings.invented}"
    few_enough(f"{asked_for}, of each split, in {ways} ways", 2 * settings.invented * ways)
    invented.enough("country", 2 * settings.invented, asked_for)
    rng = stream(seed, f"facts/{relation.name}/invented")
    names = invented.words("country", rng, taken)
    made_up = [(next(names), known[number % len(known)][1]) for number in range(2 * settings.invented)]
    drawn = stream(seed, f"facts/{relation.name}/rare").permutation(len(relation.rare))
    classes = {
        KNOWN: asked[: 2 * settings.known],
        RARE: [relation.rare[item] for item in drawn][: 2 * settings.rare],
        LONG: list(relation.long) if settings.rare else [],
        INVENTED: made_up,
    }
    prompts = []
    for kind, pairs in classes.items():
        for number, (x, y) in enumerate(pairs):
            main = relation.templates[0]
            texts = {MAIN: ("", main)}
            texts |= {f"{PREFIXED}-{place}": (prefix, main) for place, prefix in enumerate(PREFIXES)}
            texts |= {f"{PARAPHRASE}-{place}": ("", text) for place, text in enumerate(relation.templates[1:])}
            texts |= {f"{SHOWN}-{place}": (context, main) for place, context in enumerate(contexts)}
            for role, (before, template) in texts.items():
                prompts.append(_asked(relation.name, kind, number, role, before, template, x, y))
    return prompts


def _words(condition: str, pairs: list[Pair], most: int, seed: int) -> list[Prompt]:
    order = stream(seed, f"facts/{condition}").permutation(len(pairs))
    drawn = [(pairs[item][0], pairs[item][0] if condition == COPY else pairs[item][1]) for item in order]
    template = WORDS[condition]
    before = "".join(f"{template.replace('{x}', x)} {y}\n\n" for x, y in drawn[:DEMONSTRATED])
    asked = drawn[DEMONSTRATED:][: 2 * most]
    return [_asked(condition, WORD, number, MAIN, before, template, x, y) for number, (x, y) in enumerate(asked)]


def _asked(condition: str, kind: str, number: int, role: str, before: str, template: str, x: str, y: str) -> Prompt:
    text = before + template.replace("{x}", x)
    start = len(before) + template.index("{x}")
    answer = len(text) + 1
    return Prompt(
        id=f"facts/{condition}/{kind}-{number:03d}#{role}",
        role=role,
        condition=condition,
        category=kind,
        cluster=f"{condition}/{x}",
        split="ab"[number % 2],
        text=text,
        targets=(f" {y}",),
        relations=(Span(ASKED, answer, answer + len(y), start, start + len(x)),),
    )
