"""What `tasks.icl` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.store.section import Count
from stages.tasks.task import Source


class Settings(Source):
    """In-context functions."""

    source: Literal["builtin", "path"] = "builtin"
    functions: tuple[str, ...]
    shots: Annotated[int, Field(ge=2)]
    sets: Annotated[int, Field(ge=2)]
    queries: Count
    template: str
    natural: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _slots(self) -> "Settings":
        if self.template.count("{x}") != 1 or self.template.count("{y}") != 1:
            raise ValueError("template: must contain {x} once and {y} once")
        if wrong := [text for text in self.natural if text.count("{x}") != 1]:
            raise ValueError(f"natural: {wrong[0]!r} must contain {{x}} once")
        return self
