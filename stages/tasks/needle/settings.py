"""What `tasks.needle` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field

from stages.store.section import Count, Share
from stages.tasks.task import Source


class Settings(Source):
    """One odd fact in a haystack of plain text (`path`), and a question about it.

    facts.yaml in that folder (name: {statement, question, answer}) adds facts to those of stages/tasks/needle.
    """

    source: Literal["builtin", "path"] = "builtin"
    lengths: tuple[Annotated[Count, Field(ge=50)], ...] = Field(min_length=1)
    depths: tuple[Share, ...] = Field(min_length=1)
    trials: Annotated[Count, Field(ge=2)]
