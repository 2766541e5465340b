"""Demonstrations with labels and a new item, in ten groups of which only one can be solved by exact induction.

words: two groups of synonyms or inflections. reviews_english, reviews_japanese: praise and complaint.
reviews_*_disjoint: the same without full stops, where the query shares no word (Japanese: no character) with any
demonstration; Japanese ones of a few characters, as long ones all share particles; in split b alone: what is chosen on
split a is chosen on the other kinds. forms_latin,
forms_katakana: made-up words that share their two last syllables. forms_*_disjoint: made-up words that share nothing
but their vowel: no syllable of the query occurs in any demonstration. repeated: the query stands among the
demonstrations, which are made-up words without any shared syllable.

One class has `few` demonstrations, the other `many`. Each set of demonstrations is asked about an item of either class,
some sets of made-up words in split b also with the two labels swapped throughout. So within each set (= cluster) the
right label is that of the majority in half of the prompts, that of the last demonstration in half, and each of the two
labels in half. Which class has few, which comes last and which (of reviews, praise or complaint) has the first label
change from set to set: of any eight sets in a row each of the eight ways is one. Items of the two splits are disjoint:
half of each list of the lexicon each; made-up words are drawn per set. No review is asked about twice while there are
others, no word while there are others in its group; sets that ask about the same item are one cluster, so that more
sets than a list has items make fewer clusters, not more.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Set
from itertools import chain, product
from pathlib import Path

import numpy as np

from stages.store import paths
from stages.store.errors import UserError
from stages.tasks.lexicon import Entry, read
from stages.tasks.neighbours.settings import Settings
from stages.tasks.prompt import Prompt, Span, few_enough, stream

CONSONANTS = "b d f g k l m n p r s t v z".split()
VOWELS = "a e i o u".split()
KATAKANA = {  # by vowel; rows without a plain syllable for each are left out
    "a": "カサタナハマラガザダバパ", "i": "キシチニヒミリギジビピ", "u": "クスツヌフムルグズブプ",
    "e": "ケセテネヘメレゲゼデベペ", "o": "コソトノホモロゴゾドボポ",
}  # fmt: skip
LANGUAGES = dict.fromkeys(
    ("reviews_japanese", "reviews_japanese_disjoint", "forms_katakana", "forms_katakana_disjoint"), "japanese"
)
APART = ("reviews_english_disjoint", "reviews_japanese_disjoint")
MADE_UP = ("forms_latin", "forms_katakana", "forms_latin_disjoint", "forms_katakana_disjoint")
Classes = tuple[list[str], list[str]]  # of each class, its items, shuffled: the query's first
Draw = Callable[[np.random.Generator, int, Set[str]], Classes]  # half of a list, items that were asked about before


class Reviews(Entry):
    """Short reviews of one language."""

    praise: tuple[str, ...]
    complaint: tuple[str, ...]


class Lexicon(Entry):
    """words: groups of words that belong together; english, japanese: reviews; japanese_short: of a few characters;
    real: words not to be made up.
    """

    words: tuple[str, ...]
    english: Reviews
    japanese: Reviews
    japanese_short: Reviews
    real: tuple[str, ...]


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build the prompts of the groups asked for. Raises `UserError` for unknown ones, and for a lexicon too small."""
    lexicon = read(Path(settings.path), Lexicon, "labelled demonstrations")
    if short := [words for words in lexicon.words if len(words.split()) <= settings.many]:
        raise UserError(f"{settings.path}: words: {short[0]!r}: expected more than many = {settings.many} words")
    lists = {"words": [word for words in lexicon.words for word in words.split()]}
    for name in ("english", "japanese", "japanese_short"):
        of = getattr(lexicon, name)
        lists[name] = [*of.praise, *of.complaint]
    for name, items in lists.items():
        if twice := [item for item in dict.fromkeys(items) if items.count(item) > 1]:
            raise UserError(f"{settings.path}: {name}: {twice[0]!r} stands twice; each item may stand once")
    real = {word for words in (*lexicon.words, *lexicon.real) for word in words.split()}
    brief, parts = lexicon.japanese_short, _english_words
    groups: dict[str, Draw] = {
        "words": lambda rng, half, asked: _words(rng, lexicon.words[half::2], asked),
        "reviews_english": lambda rng, half, asked: _reviews(rng, lexicon.english, half, asked),
        "reviews_japanese": lambda rng, half, asked: _reviews(rng, lexicon.japanese, half, asked),
        "reviews_english_disjoint": lambda rng, half, asked: _apart(rng, lexicon.english, half, asked, parts, settings),
        "reviews_japanese_disjoint": lambda rng, half, asked: _apart(rng, brief, half, asked, set, settings),
        "forms_latin": lambda rng, half, asked: _forms(rng, _latin, real),
        "forms_katakana": lambda rng, half, asked: _forms(rng, _katakana, real),
        "forms_latin_disjoint": lambda rng, half, asked: _disjoint(rng, _latin_syllables, 3, real),
        "forms_katakana_disjoint": lambda rng, half, asked: _disjoint(rng, KATAKANA.__getitem__, 3, real),
        "repeated": lambda rng, half, asked: _unrelated(rng, real),
    }
    if unknown := [condition for condition in settings.groups if condition not in groups]:
        allowed = ", ".join(groups)
        raise UserError(f"{paths.PARAMS}: tasks.neighbours.groups: {unknown[0]!r}: no such kind; allowed: {allowed}")
    if settings.groups and set(settings.groups) <= set(APART):
        allowed = ", ".join(condition for condition in groups if condition not in APART)
        raise UserError(
            f"{paths.PARAMS}: tasks.neighbours.groups: {settings.groups[0]!r}: asked in split b alone, so that nothing "
            f"could be chosen; name one of these as well: {allowed}"
        )
    names = settings.groups or tuple(groups)
    again = sum(name in MADE_UP for name in names) * min(settings.swapped, settings.report)
    few_enough(
        f"tasks.neighbours.choose = {settings.choose}, report = {settings.report}, of {len(names)} kinds of items",
        2 * (len(names) * (settings.choose + settings.report) + again),
    )
    prompts = []
    for condition, draw in groups.items():
        if settings.groups and condition not in settings.groups:
            continue
        drawn, asked = {}, set()
        for number in range(settings.choose if condition in APART else 0, settings.choose + settings.report):
            name = f"neighbours/{condition}/{number:03d}"
            rng = stream(seed, name)
            drawn[name] = draw(rng, int(number >= settings.choose), asked), number, rng
            asked |= {items[0] for items in drawn[name][0]}
        clusters = together({name: [items[0] for items in classes] for name, (classes, *_) in drawn.items()})
        for name, (classes, number, rng) in drawn.items():
            split = "a" if number < settings.choose else "b"
            swapped = condition in MADE_UP and 0 <= number - settings.choose < settings.swapped
            prompts += _set(settings, name, clusters[name], condition, split, classes, number, rng, swapped)
    return prompts


def together(queries: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return each set's cluster, called as its first set is: sets that ask about the same item are one cluster."""
    clusters: dict[str, str] = {}
    of_item: dict[str, str] = {}
    for name, items in queries.items():
        joined = {of_item[item] for item in items if item in of_item}
        first = min(joined, default=name)
        clusters[name] = first
        of_item |= dict.fromkeys(items, first)
        if len(joined) > 1:
            for known in (clusters, of_item):
                known |= {key: first for key, cluster in known.items() if cluster in joined}
    return clusters


def _set(
    settings: Settings,
    name: str,
    cluster: str,
    condition: str,
    split: str,
    classes: Classes,
    number: int,
    rng: np.random.Generator,
    also_swapped: bool,
) -> list[Prompt]:
    """Return the prompts of one set of demonstrations; the query's item is first in its class."""
    few, last = number % 2, (number + number // 2) % 2  # which class has few demonstrations, which is last
    if (number + number // 4) % 2:  # praise is not always the first label's
        classes = classes[::-1]
    counts = [settings.few if side == few else settings.many for side in (0, 1)]
    skip = 0 if condition == "repeated" else 1
    if short := [items for items in classes if len(items) < settings.many + skip]:
        raise UserError(
            f"{settings.path}: {condition}: {len(short[0])} items of a class; expected more than {settings.many}"
        )
    shown = [(item, side) for side in (0, 1) for item in classes[side][skip : skip + counts[side]]]
    shown = [shown[place] for place in rng.permutation(len(shown))]
    at = max(place for place, (_, side) in enumerate(shown) if side == last)
    shown.append(shown.pop(at))
    prompts = []
    for swapped in (False, True) if also_swapped else (False,):
        labels = settings.labels[::-1] if swapped else settings.labels
        for side in (0, 1):
            text, targets, relations = _written(settings, shown, classes[side][0], side, labels)
            prompts.append(
                Prompt(
                    id=f"{name}/{side}#{'swapped' if swapped else 'given'}",
                    condition=condition,
                    category=LANGUAGES.get(condition, "english"),
                    cluster=cluster,
                    split=split,
                    text=text,
                    targets=targets,
                    relations=relations,
                )
            )
    return prompts


def _written(
    settings: Settings, shown: list[tuple[str, int]], query: str, side: int, labels: tuple[str, str]
) -> tuple[str, tuple[str, str], tuple[Span, ...]]:
    """Return text, (right, other) label and the spans from the query to each item shown and to its label."""
    before, between, after = settings.template.replace("{y}", "{x}").split("{x}")
    text, places = "", []
    for item, of in shown:
        start = len(text) + len(before)
        label = start + len(item) + len(between)
        text += before + item + between + labels[of] + after
        places.append((of, (start, start + len(item)), (label, label + len(labels[of]))))
    start = len(text) + len(before)
    at = (start, start + len(query))
    text += before + query + between.rstrip()
    space = between[len(between.rstrip()) :]
    relations = []
    for of, item, label in places:
        kind = "like" if of == side else "unlike"
        relations += [Span(kind, *at, *item), Span(f"{kind}_label", *at, *label)]
    return text, (space + labels[side], space + labels[1 - side]), tuple(relations)


def _words(rng: np.random.Generator, groups: tuple[str, ...], asked: Set[str]) -> Classes:
    chosen = rng.choice(len(groups), size=2, replace=False)
    first, second = (_unasked(_shuffled(rng, groups[place].split()), asked) for place in chosen)
    return first, second


def _reviews(rng: np.random.Generator, reviews: Reviews, half: int, asked: Set[str] = frozenset()) -> Classes:
    praise, complaint = (_shuffled(rng, of[half::2]) for of in (reviews.praise, reviews.complaint))
    return _unasked(praise, asked), _unasked(complaint, asked)


def _unasked(items: list[str], asked: Set[str]) -> list[str]:
    """Return items, those that were not asked about first."""
    return sorted(items, key=asked.__contains__)


def _apart(
    rng: np.random.Generator,
    reviews: Reviews,
    half: int,
    asked: Set[str],
    parts: Callable[[str], set[str]],
    settings: Settings,
) -> Classes:
    """Return reviews without their full stops; the first of either class shares no part with any other of them."""
    bare = [[review.rstrip(".。") for review in of] for of in _reviews(rng, reviews, half)]
    fresh = [[review for review in of if review not in asked] for of in bare]
    for queries in chain(product(*fresh), product(*(_unasked(of, asked) for of in bare))):
        own = parts(queries[0]) | parts(queries[1])
        first, second = (
            [query, *(review for review in of if not parts(review) & own)]
            for query, of in zip(queries, bare, strict=True)
        )
        if min(len(first), len(second)) > settings.many:
            return first, second
    raise UserError(f"{settings.path}: no two reviews share nothing with {settings.many} others of each class")


def _english_words(review: str) -> set[str]:
    """Return words in lower case, and commas and the like."""
    return set(re.findall(r"\w+|[^\w\s]", review.lower()))


def _shuffled(rng: np.random.Generator, items) -> list[str]:
    return [items[place] for place in rng.permutation(len(items))]


def _latin_syllables(vowel: str) -> list[str]:
    return [consonant + vowel for consonant in CONSONANTS]


def _latin(rng: np.random.Generator, count: int) -> list[str]:
    """Draw different syllables."""
    every = [syllable for vowel in VOWELS for syllable in _latin_syllables(vowel)]
    return [every[place] for place in rng.choice(len(every), size=count, replace=False)]


def _katakana(rng: np.random.Generator, count: int) -> list[str]:
    every = "".join(KATAKANA.values())
    return [every[place] for place in rng.choice(len(every), size=count, replace=False)]


def _forms(rng: np.random.Generator, syllables: Callable, real: set[str]) -> Classes:
    """Return made-up words of four syllables; the words of a class share the last two, no others share any."""
    while True:
        drawn = syllables(rng, 4 + 2 * 2 * 6)
        ends = ["".join(drawn[:2]), "".join(drawn[2:4])]
        starts = ["".join(drawn[place : place + 2]) for place in range(4, len(drawn), 2)]
        classes = [start + ends[0] for start in starts[:6]], [start + ends[1] for start in starts[6:]]
        if not real & {*classes[0], *classes[1]}:
            return classes


def _unrelated(rng: np.random.Generator, real: set[str]) -> Classes:
    """Return made-up words of four syllables that share none."""
    while True:
        drawn = _latin(rng, 4 * 12)
        words = ["".join(drawn[place : place + 4]) for place in range(0, len(drawn), 4)]
        if not real & {*words}:
            return words[:6], words[6:]


def _disjoint(rng: np.random.Generator, syllables: Callable, count: int, real: set[str]) -> Classes:
    """Return made-up words of `count` syllables: a class shares its vowel, its first word no syllable."""
    while True:
        vowels = [VOWELS[place] for place in rng.choice(len(VOWELS), size=2, replace=False)]
        classes = []
        for vowel in vowels:
            every = _shuffled(rng, list(syllables(vowel)))
            words = ["".join(every[:count])]
            while len(words) < 6:
                word = "".join(every[place] for place in count + rng.choice(len(every) - count, count, replace=False))
                words += [word] if word not in words else []
            classes.append(words)
        if not real & {*classes[0], *classes[1]}:
            return classes[0], classes[1]
