"""What `tasks.composed` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field

from stages.store.section import Count
from stages.tasks.task import Source, Template


class Settings(Source):
    """Two functions of task icl, one after the other: `words` of each split per pair of functions, at most.

    path: the lexicon of task icl, which holds the functions. pairs: names, such as "capitalize of singular-plural";
    empty = all that the lexicon permits. sets: sets of demonstrations per split, which words take in turn. least: pairs
    with fewer words of split b are left out.
    """

    source: Literal["builtin"] = "builtin"
    pairs: tuple[str, ...]
    shots: Annotated[Count, Field(ge=2)]
    sets: Count
    words: Annotated[Count, Field(ge=2)]
    least: Count
    template: Template
