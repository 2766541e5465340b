"""What `tasks.icl` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from stages.store.section import Count
from stages.tasks.task import Source, Template


class Settings(Source):
    """In-context functions.

    path: builtin: the lexicon, or a folder of words with functions.yaml, to which *.json beside it add more functions;
    path: a folder of <function>.json, each a list of {"input": ..., "output": ...} (Todd+'s format).
    """

    source: Literal["builtin", "path"] = "builtin"
    functions: tuple[str, ...]
    shots: Annotated[Count, Field(ge=2)]
    sets: Annotated[Count, Field(ge=2)]
    queries: Count
    template: Template
    natural: tuple[str, ...] = ()

    @field_validator("natural")
    @classmethod
    def _slots(cls, natural: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [text for text in natural if text.count("{x}") != 1]:
            raise ValueError(f"{wrong[0]!r} must contain {{x}} once")
        return natural
