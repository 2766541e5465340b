"""What `tasks.extrapolation` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from stages.store.section import Count
from stages.tasks.task import Source, Template


class Settings(Source):
    """Usual, rare and made-up words of in-context functions: `words` of each class, at most.

    path: a folder of words: functions.yaml gives the demonstrations and the usual words, as it does for task icl,
    rare.yaml rare ones with right answers and more usual ones, real.txt words that made-up ones must not be. sets: sets
    of demonstrations per function, which its words take in turn. functions: names; empty = all.
    """

    source: Literal["builtin"] = "builtin"
    functions: tuple[str, ...]
    shots: Annotated[Count, Field(ge=2)]
    sets: Count
    words: Annotated[Count, Field(ge=2)]
    template: Template

    @field_validator("template")
    @classmethod
    def _ends(cls, template: str) -> str:
        if not template.partition("{y}")[2]:
            raise ValueError("something must follow {y}, such as a newline: an answer has to end")
        return template
