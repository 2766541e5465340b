"""Composed functions: words x with the answer g(f(x)), with demonstrations and without (Task `composed`).

Which pairs f, g are composed follows from the lexicon of task icl alone. g(y) is looked up where the lexicon has it; a
function whose every pair follows one of `RULES` (capital and small letters) gives an answer for any word. A word is
left out where the composed answer begins what either function alone gives, f(x) or g(x), or the word itself: a prompt
has to tell the composed function from each of its parts, and from copying. Pairs of functions that leave fewer than
`least` words of split b to ask are left out.

Words keep what task icl uses them for, as words of f: those it demonstrates with are demonstrated here, and its
questions of split b are asked here on split b, so that no word that f's vector was made or chosen from is reported on.
(A word of g's may be among them, with another answer than the composed one.) Every word gives a `clean` prompt, after
demonstrations of the composed function, and a `zero_shot` one. Group `copy` demonstrates x -> x with the same words:
what sums of vectors count twice.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.store import paths
from stages.store.errors import UserError
from stages.tasks.composed.settings import Settings
from stages.tasks.composed.task import ASKED, COPY, OF
from stages.tasks.icl.prompts import Pair, demonstrated, from_lexicon, parted
from stages.tasks.prompt import Prompt, Span, stream

RULES: tuple[Callable[[str], str], ...] = (str.capitalize, str.lower, str.upper)


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build two prompts (clean, zero_shot) per pair of functions and word, of both splits, and those of `copy`.

    Raises `UserError` where the lexicon is unreadable, permits no such pair of functions, or none at all.
    """
    known = {name: pairs for name, (_, pairs) in from_lexicon(Path(settings.path)).items()}
    composed = {f"{outer}{OF}{inner}": uses for (inner, outer), uses in compositions(known, settings, seed).items()}
    for name in settings.pairs:
        if name not in composed:
            raise UserError(
                f"{paths.PARAMS}: tasks.composed.pairs = {name!r}: allowed: {', '.join(composed) or 'none'}"
            )
    if not composed:
        raise UserError(f"{settings.path}: no two functions leave tasks.composed.least = {settings.least} words to ask")
    prompts: list[Prompt] = []
    copied: list[Pair] = []
    for name in dict.fromkeys(settings.pairs or composed):
        prompts += _prompts(name, composed[name], settings, seed)
        copied += [(x, x) for x, _ in composed[name]["shown"]]
    pairs = list(dict.fromkeys(copied))
    order = stream(seed, "composed/copy/split").permutation(len(pairs))
    shown, asked = ([pairs[item] for item in part] for part in np.array_split(order, 2))
    return prompts + _prompts(COPY, {"shown": shown, "a": asked[::2], "b": asked[1::2]}, settings, seed)


def compositions(
    known: dict[str, list[Pair]], settings: Settings, seed: int
) -> dict[tuple[str, str], dict[str, list[Pair]]]:
    """Return (inner, outer) -> what its words are for ("shown", "a", "b") -> pairs (word, composed answer).

    known: pairs of every function of the lexicon.
    """
    applied = {name: _applied(pairs) for name, pairs in known.items()}
    composed = {}
    for inner, pairs in known.items():
        shown, asked = parted(inner, len(pairs), seed)
        uses = {"shown": shown, "a": asked[::2], "b": asked[1::2]}
        for outer in known:
            if outer == inner:
                continue
            of_uses = {use: _told_apart([pairs[item] for item in items], applied[outer]) for use, items in uses.items()}
            if len(of_uses["b"]) >= settings.least and len(of_uses["shown"]) >= settings.shots and of_uses["a"]:
                composed[inner, outer] = of_uses
    return composed


def _applied(pairs: list[Pair]) -> Callable[[str], str]:
    """Return a function as code: its answer for a word, '' where none is known."""
    for rule in RULES:
        if all(rule(x) == y for x, y in pairs):
            return rule
    table = dict(pairs)
    return lambda word: table.get(word, "")


def _told_apart(pairs: list[Pair], outer: Callable[[str], str]) -> list[Pair]:
    """Return (word, composed answer) of those words whose composed answer begins no other answer."""
    triples = [(x, y, outer(y)) for x, y in pairs]
    return [(x, z) for x, y, z in triples if z and not any(other.startswith(z) for other in (x, y, outer(x)))]


def _prompts(condition: str, words: dict[str, list[Pair]], settings: Settings, seed: int) -> list[Prompt]:
    before, _, rest = settings.template.partition("{x}")
    middle, _, after = rest.partition("{y}")
    colon = middle.rstrip()  # the query ends here; the answer starts with the white space that follows
    prompts = []
    for split in "ab":
        contexts = []
        for number in range(min(settings.sets, len(words[split][: settings.words]))):  # more than words are not used
            order = stream(seed, f"composed/{condition}/{split}/{number}").permutation(len(words["shown"]))
            chosen = [words["shown"][item] for item in demonstrated(order, words["shown"], settings.shots)]
            contexts.append("".join(before + x + middle + y + after for x, y in chosen))
        for number, (x, y) in enumerate(words[split][: settings.words]):
            for role, shown in (("clean", contexts[number % len(contexts)]), ("zero_shot", "")):
                text = shown + before + x + colon
                start, answer = len(shown + before), len(text) + len(middle) - len(colon)
                prompts.append(
                    Prompt(
                        id=f"composed/{condition}/{split}{number:03d}#{role}",
                        role=role,
                        condition=condition,
                        cluster=x,  # a word that several pairs of functions ask is one
                        split=split,
                        text=text,
                        targets=(middle[len(colon) :] + y,),
                        relations=(Span(ASKED, answer, answer + len(y), start, start + len(x)),),
                    )
                )
    return prompts
