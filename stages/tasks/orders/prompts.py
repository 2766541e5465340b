"""The next word of an order: orders that a model knows, and orders of made-up words (Task `orders`).

    known     letters, numbers in words, months, weekdays. Runs of successive words are asked; runs take turns:
              one is split b, the next a, so that no word asked in one is asked in the other
    made_up   words that do not exist (`extrapolation.invented`), in the order in which they were drawn; all split b

How an order is given (`category`):
    not_stated  nowhere. Of known orders demonstrations are of all of them in turn: of the one alone a small model
                copies answers that stand there. Of a made-up order the answer stands nowhere: it can but be guessed
    stated      made up; its words in a row before everything else: the answer stands right after the word asked about,
                so that looking up and stepping on is enough; nothing has to be known
    shuffled    known words, stated in another order, which the demonstrations follow: the answer that the row says,
                and the one that the model may know, differ for every word asked
    backwards   made up, stated, but demonstrations and answer are the word BEFORE: to copy what follows is wrong

Demonstrations are pairs of neighbours outside a gap that holds the words asked about and their answers: none of these,
nor a rival answer, stands in a demonstration. Those of split a, from which a vector is learned, hold no word that is
asked in split b, or would be if more runs were asked for, nor its answer. Targets: the right answer and, where the
order is stated, its rival: of `shuffled` the known next word, else the neighbour on the other side. Every word gives a
`clean` prompt (with demonstrations) and, but for `shuffled` and `backwards`, a `zero_shot` one. The prompts of one
order share nearly all of their text: they are one cluster.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from stages.store import paths
from stages.store.errors import UserError
from stages.tasks.extrapolation import invented
from stages.tasks.extrapolation.prompts import real_words
from stages.tasks.icl.pairs import Frame
from stages.tasks.orders.settings import Settings
from stages.tasks.orders.task import ASKED, BACKWARDS, KNOWN, MADE_UP, NOT_STATED, SHUFFLED, STATED
from stages.tasks.prompt import Prompt, Span, few_enough, stream

RUN = 3  # successive words that one prompt's demonstrations leave to ask, at most
AROUND = 4  # an order has at least so many words for each that is asked
DRAWS = 10_000  # of a shuffled order, at most


@dataclass(frozen=True)
class Order:
    """One order as it may be stated, the places of the words asked about, and how many demonstrations fit."""

    name: str
    kind: str
    split: str
    words: tuple[str, ...]
    asked: tuple[int, ...]
    shots: int


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build the prompts; more orders leave the first ones as they are."""
    few_enough(f"tasks.orders.made_up = {settings.made_up}", settings.made_up * RUN * 5)  # given in 3 ways, 2 bare too
    sizes = f"tasks.orders.made_up = {settings.made_up}, length = {settings.length}"
    invented.enough("noun", settings.made_up * settings.length, sizes)
    prompts: list[Prompt] = []
    for kind, words in KNOWN.items():
        for order in runs(kind, words, settings, seed)[: 2 * settings.known]:
            prompts += asked(order, NOT_STATED, settings, seed)
            if order.split == "b":
                prompts += asked(order, SHUFFLED, settings, seed)
    for order in made_up(settings, seed):
        for category in (NOT_STATED, STATED, BACKWARDS):
            prompts += asked(order, category, settings, seed)
    return prompts


def runs(kind: str, words: tuple[str, ...], settings: Settings, seed: int) -> list[Order]:
    """Return a known order once for each run of words that may be asked; the first and the last word are not."""
    rng = stream(seed, f"orders/{kind}")
    size = min(RUN, len(words) // AROUND)
    starts = range(1, len(words) - size, size)
    orders = []
    for number, place in enumerate(rng.permutation(len(starts))):
        start, length = starts[place], min(settings.length, len(words))
        first = rng.integers(max(0, start + size + 1 - length), min(start - 1, len(words) - length) + 1)
        at = tuple(range(start - first, start - first + size))
        window = words[first : first + length]
        orders.append(Order(f"{kind}-{number:02d}", kind, "ba"[number % 2], window, at, _shots(window, size, settings)))
    return orders


def made_up(settings: Settings, seed: int) -> Iterator[Order]:
    """Yield orders of made-up words; no word is in two."""
    fresh = invented.words("noun", stream(seed, "orders/made_up/words"), real_words(Path(settings.path)))
    for number in range(settings.made_up):
        words = tuple(islice(fresh, settings.length))
        start = stream(seed, f"orders/made_up/{number}").integers(1, len(words) - RUN)
        yield Order(f"{MADE_UP}-{number:02d}", MADE_UP, "b", words, tuple(range(start, start + RUN)),
                    _shots(words, RUN, settings))  # fmt: skip


def shuffled(order: Order, rng: np.random.Generator) -> Order:
    """Return a known order's words in another order: no word is followed by the one that it is known to be.

    The words asked stand side by side, then one that answers the last of them, then what this one is known to be
    followed by: all that demonstrations must not show.
    """
    words, run = order.words, list(order.asked)
    following = run[-1] + 1
    rest = [place for place in range(len(words)) if place not in (*run, following)]
    for _ in range(DRAWS):
        mixed = [int(place) for place in rng.permutation(rest)]
        start = int(rng.integers(1, len(mixed)))
        block = [int(place) for place in rng.permutation(run)]
        places = [*mixed[:start], *block, mixed[start], following, *mixed[start + 1 :]]
        if all(after != before + 1 for before, after in pairwise(places)):
            at = tuple(range(start, start + len(run)))
            return Order(order.name, order.kind, order.split, tuple(words[place] for place in places), at, order.shots)
    raise UserError(
        f"{paths.PARAMS}: tasks.orders: {len(words)} words of {order.kind} are too few to shuffle; ask for longer "
        "orders"
    )


def demonstrations(order: Order, closed: range, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return pairs of neighbours of which none stands in the closed places, as many as the order permits."""
    free = [
        (place, place + 1) for place in range(len(order.words) - 1) if place not in closed and place + 1 not in closed
    ]
    chosen = rng.permutation(len(free))[: order.shots]
    return [(order.words[free[index][0]], order.words[free[index][1]]) for index in chosen]


def reported(settings: Settings, seed: int) -> set[str]:
    """Return the words asked in split b of known orders, however many runs are asked for, and their answers."""
    of_b = [order for kind, words in KNOWN.items() for order in runs(kind, words, settings, seed) if order.split == "b"]
    return {order.words[place + step] for order in of_b for place in order.asked for step in (0, 1)}


def mixed(closed: Set[str], shots: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return steps in known orders, of each in turn, without any closed word."""
    of_orders = [[pair for pair in pairwise(words) if not closed & {*pair}] for words in KNOWN.values()]
    drawn = [[pairs[index] for index in rng.permutation(len(pairs))] for pairs in of_orders]
    turns = [pairs[turn] for turn in range(max(map(len, drawn))) for pairs in drawn if turn < len(pairs)][:shots]
    return [turns[index] for index in rng.permutation(len(turns))]


def asked(order: Order, category: str, settings: Settings, seed: int) -> list[Prompt]:
    """Return the prompts of an order given in one way."""
    known = dict(pairwise(order.words))
    if category == SHUFFLED:
        order = shuffled(order, stream(seed, f"orders/{order.name}/shuffled"))
    aside = category == SHUFFLED  # what the last word is known to be followed by stands two places after it
    closed = range(order.asked[0] - (not aside), order.asked[-1] + 2 + aside)
    rng = stream(seed, f"orders/{order.name}")
    if category == NOT_STATED and order.kind in KNOWN:
        apart = reported(settings, seed) if order.split == "a" else set()
        shown = mixed({order.words[place] for place in closed} | apart, settings.shots, rng)
    else:
        shown = demonstrations(order, closed, rng)
    if category == BACKWARDS:
        shown = [(y, x) for x, y in shown]
    stated = "" if category == NOT_STATED else settings.statement.replace("{words}", ", ".join(order.words))
    prompts, frame = [], Frame(settings.template)
    clean = "".join(frame.demonstration(x, y) for x, y in shown)
    for number, place in enumerate(order.asked):
        word, before, after = (order.words[at] for at in (place, place - 1, place + 1))
        right, rival = (before, after) if category == BACKWARDS else (after, before)
        if category == SHUFFLED:
            rival = known[word]
        for role, context in (("clean", stated + clean), ("zero_shot", stated)):
            if role == "zero_shot" and category in (SHUFFLED, BACKWARDS):
                continue
            text, start = context + frame.question(word), len(context + frame.parts[0])
            answer = len(text + frame.white)
            prompts.append(
                Prompt(
                    id=f"orders/{order.name}/{category}-{number}#{role}",
                    role=role,
                    condition=order.kind,
                    category=category,
                    cluster=order.name,
                    split=order.split,
                    text=text,
                    targets=tuple(frame.white + target for target in (right, rival)[: 1 + bool(stated)]),
                    relations=(Span(ASKED, answer, answer + len(right), start, start + len(word)),),
                )
            )
    return prompts


def _shots(words: tuple[str, ...], size: int, settings: Settings) -> int:
    """Return how many demonstrations an order permits, however it is given: `size` + 2 words in a row are closed."""
    return min(settings.shots, len(words) - size - 4)
