"""What `tasks.facts` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field

from stages.store.section import Count, Natural
from stages.tasks.task import Source


class Settings(Source):
    """Subjects with an answer that has to be known: `known`, `rare`, `invented` and `words` of each split, at most.

    path: builtin: a folder of words, as for task extrapolation; path: a jsonl file of subject, object, templates.
    With rare ones (above 0) come all those of several words, of long.yaml.
    shots: demonstrations in each of the two sets that subjects are asked after as well.
    """

    source: Literal["builtin", "path"] = "builtin"
    known: Annotated[Count, Field(ge=2)]
    rare: Natural
    invented: Annotated[Count, Field(ge=2)]
    words: Natural
    shots: Count
