"""What `tasks.composed` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.store.section import Count
from stages.tasks.task import Source


class Settings(Source):
    """Two functions of task icl, one after the other: `words` of each split per pair of functions, at most.

    path: the lexicon of task icl, which holds the functions. pairs: names, such as "capitalize of singular-plural";
    empty = all that the lexicon permits. sets: sets of demonstrations per split, which words take in turn. least: pairs
    with fewer words of split b are left out.
    """

    source: Literal["builtin"] = "builtin"
    pairs: tuple[str, ...]
    shots: Annotated[int, Field(ge=2)]
    sets: Count
    words: Annotated[int, Field(ge=2)]
    least: Count
    template: str

    @model_validator(mode="after")
    def _slots(self) -> "Settings":
        if self.template.count("{x}") != 1 or self.template.count("{y}") != 1:
            raise ValueError("template: must contain {x} once and {y} once")
        if self.template.index("{x}") > self.template.index("{y}"):
            raise ValueError("template: {x} must come before {y}")
        return self
