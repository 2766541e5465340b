"""What `tasks.neighbours` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.store.section import Count, Line, Natural
from stages.tasks.task import Source, Template


class Settings(Source):
    """Labelled demonstrations: which label does the nearest one have?

    groups: kinds of items (prompts.py); empty = all. few, many: demonstrations of the class that has fewer and of the
    one that has more; choose, report: sets of demonstrations per condition in split a and in split b; swapped: sets of
    made-up words in split b that are asked with the two labels exchanged as well; labels: what the classes are called.
    """

    source: Literal["builtin"] = "builtin"
    groups: tuple[str, ...]
    few: Count
    many: Annotated[int, Field(ge=2, le=5)]
    choose: Count
    report: Count
    swapped: Natural
    template: Template
    labels: tuple[Line, Line]

    @model_validator(mode="after")
    def _sensible(self) -> "Settings":
        if self.few >= self.many:
            raise ValueError(f"few: {self.few} is not below many: {self.many}")
        first, second = sorted(self.labels, key=len)
        if second.startswith(first):
            raise ValueError("labels: must be two different words, neither of them the beginning of the other")
        return self
