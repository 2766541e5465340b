"""What `tasks.orders` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from stages.store.section import Count
from stages.tasks.task import Source, Template


class Settings(Source):
    """The next word of an order: `known` runs of words per kind of order and split, at most, and `made_up` orders.

    path: the folder of words of task extrapolation, which says what made-up words must not be. length: words of an
    order as it is stated, at most; shots: demonstrations, at most; statement: how an order is stated, before them.
    """

    source: Literal["builtin"] = "builtin"
    known: Count
    made_up: Count
    length: Annotated[Count, Field(ge=10)]
    shots: Annotated[Count, Field(ge=2)]
    statement: str
    template: Template

    @field_validator("statement")
    @classmethod
    def _slot(cls, statement: str) -> str:
        if statement.count("{words}") != 1:
            raise ValueError("must contain {words} once")
        return statement
