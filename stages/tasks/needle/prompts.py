"""A needle in a haystack: one odd fact in plain text, and a question that the fact alone answers (Wu+ ICLR 2025).

    ... haystack. The password of the Halden lighthouse is copper violin under seven lemons. More haystack ...

    Question: What is the password of the Halden lighthouse?
    Answer: The password of the Halden lighthouse is| copper violin under seven lemons

The relation `retrieval` goes from the answer (after the bar: the target) to the same words in the needle. The answer
starts with the needle's own words so that a small base model can finish it by copying.
"""

import itertools
import re
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, RootModel, model_validator

from stages.store import paths
from stages.store.errors import UserError
from stages.store.section import Line
from stages.tasks.lexicon import Entry, read
from stages.tasks.needle.settings import Settings
from stages.tasks.prompt import Prompt, Span, few_enough, read_text, stream

FACTS = Path(__file__).parent / "facts.yaml"
WORDS = 0.87  # per token of English prose
UNSPACED = 25  # characters: what has no space for longer is no word of a script that has spaces
TOKENS = 100_000_000  # of all prompts: the table is about five times as many bytes
LONGEST = 100  # words; what has no full stop for longer (tables, verse) is no sentence and left out
ABBREVIATIONS = "".join(rf"(?<!\b{word}\.)" for word in ("Mr", "Mrs", "Ms", "Dr", "St", "[A-Z]"))
NAME = r"^[a-z][a-z0-9_-]*$"
END = re.compile(ABBREVIATIONS + r"""(?:(?<=[.!?])|(?<=[.!?]['")\u2019\u201d]))\s+(?=['"(\u2018\u201c]?[A-Z])""")


class Fact(Entry):
    """A needle; `<statement> <answer>.` stands in the haystack, and nothing else there or in the question answers."""

    statement: Line
    question: Line
    answer: Line

    @model_validator(mode="after")
    def _told_once(self) -> "Fact":
        if self.answer in self.statement or self.answer in self.question:
            raise ValueError(f"the answer {self.answer!r} stands in the statement or the question as well")
        return self


class Facts(RootModel[dict[Annotated[str, Field(pattern=NAME)], Fact]]):
    """facts.yaml: needles by name."""


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build `trials` prompts per length and depth, trial by trial, so that more trials keep the first ones.

    Even trials are split a and take facts of one half, odd ones b and of the other. Cells (length, depth, trial) take
    different facts as long as there are any, then start again; the fact is the cluster. Raises `UserError` where the
    text is shorter than the longest prompt, or written without spaces.
    """
    cells = list(itertools.product(settings.lengths, settings.depths))
    few_enough(
        f"tasks.needle.trials = {settings.trials}, of {len(cells)} lengths and depths", settings.trials * len(cells)
    )
    tokens = settings.trials * sum(length for length, _ in cells)
    few_enough(f"tasks.needle.trials = {settings.trials}, lengths = {list(settings.lengths)}", tokens, "tokens", TOKENS)
    sentences = [s for p in read_text(Path(settings.path)) for s in END.split(p) if len(s.split()) <= LONGEST]
    _check_spaces(settings.path, sentences)
    sizes = np.array([len(sentence.split()) for sentence in sentences])
    needed = round(max(settings.lengths) * WORDS)
    if sizes.sum() < needed:
        raise UserError(
            f"{settings.path}: {int(sizes.sum()):,} words in sentences; tasks.needle.lengths = {max(settings.lengths)} "
            f"tokens needs {needed:,}"
        )
    facts, hay = _facts(Path(settings.path)), " ".join(sentences)
    if told := [name for name, fact in facts.items() if fact["answer"] in hay]:
        raise UserError(
            f"{settings.path}: {told[0]}: the haystack holds the answer {facts[told[0]]['answer']!r} as well; expected "
            "a needle that is told once"
        )
    shortest = round(min(settings.lengths) * WORDS)
    for name, fact in facts.items():
        bare, _ = _ask([], 0, **fact)
        if (taken := len(f"{bare} {fact['answer']}".split())) >= shortest:
            raise UserError(
                f"{settings.path}: {name}: {taken} words with its question and no haystack; tasks.needle.lengths = "
                f"{min(settings.lengths)} tokens has room for fewer than {shortest}"
            )
    keys = stream(seed, "needle/facts").permutation(list(facts))
    prompts = []
    for trial, (number, (length, depth)) in itertools.product(range(settings.trials), enumerate(cells)):
        half = keys[trial % 2 :: 2]
        key = str(half[(trial // 2 * len(cells) + number) % len(half)])
        name = f"needle/{length}/{round(100 * depth):03d}-{trial:02d}"
        start = stream(seed, name).integers(len(sentences))
        bare, _ = _ask([], depth, **facts[key])
        words = round(length * WORDS) - len(f"{bare} {facts[key]['answer']}".split())
        text, relation = _ask([sentences[place] for place in haystack(sizes, start, words)], depth, **facts[key])
        prompts.append(
            Prompt(
                id=name,
                condition=f"{length}@{depth:g}",
                category=str(length),
                cluster=key,
                split="ab"[trial % 2],
                text=text,
                targets=(f" {facts[key]['answer']}",),
                relations=(relation,),
            )
        )
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise UserError(
            f"{paths.PARAMS}: tasks.needle.lengths = {list(settings.lengths)}, depths = {list(settings.depths)}: two "
            "are equal; lengths must differ, depths by at least 0.01"
        )
    return prompts


def _facts(path: Path) -> dict[str, dict[str, str]]:
    """Return the built-in facts, and those that facts.yaml in the folder of the haystack adds."""
    facts = read(FACTS, Facts, "needles").root
    file = path / FACTS.name
    added = read(file, Facts, "needles").root if file.exists() or file.is_symlink() else {}
    if twice := sorted(facts.keys() & added.keys()):
        raise UserError(f"{file}: {twice[0]}: a built-in needle has this name; give it another")
    given: dict[str, str] = {}
    for name, fact in (facts | added).items():
        if (other := given.setdefault(fact.statement, name)) != name:
            raise UserError(f"{file}: {name}.statement = {fact.statement!r}: {other} says it as well; expected another")
    return {name: fact.model_dump() for name, fact in (facts | added).items()}


def _check_spaces(path: str, sentences: list[str]) -> None:
    """Refuse Japanese, Chinese, Thai ...: lengths are counted in words, and the needles are English."""
    words = [word for sentence in sentences for word in sentence.split()]
    share = sum(len(word) for word in words if len(word) > UNSPACED) / max(1, sum(map(len, words)))
    if share > 0.05:
        raise UserError(
            f"{path}: {share:.0%} of the characters lie in stretches of more than {UNSPACED} without a space; the "
            "haystack's length is counted in words, so expected a text written with spaces"
        )


def haystack(sizes: np.ndarray, start: int, words: int) -> np.ndarray:
    """Return consecutive sentences from `start`, wrapping at the end, nearest to `words`: one at least, none twice."""
    places = (start + np.arange(len(sizes))) % len(sizes)
    return places[: 1 + np.abs(np.cumsum(sizes[places]) - words).argmin()]


def _ask(hay: list[str], depth: float, statement: str, question: str, answer: str) -> tuple[str, Span]:
    """Put the needle between the sentences nearest to `depth` (share of the words), the question at the end."""
    before = np.cumsum([0, *(len(sentence.split()) for sentence in hay)])  # words before each place
    place = int(np.abs(before - depth * before[-1]).argmin())
    lead = " ".join([*hay[:place], statement, ""])
    text = " ".join([lead + answer + ".", *hay[place:]]) + f"\n\nQuestion: {question}\nAnswer: {statement}"
    return text, Span("retrieval", len(text) + 1, len(text) + 1 + len(answer), len(lead), len(lead) + len(answer))
