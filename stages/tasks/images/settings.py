"""What `tasks.images` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.store.section import Count, Natural
from stages.tasks.task import Source

DIGIT = 24  # pixels of a side of a digit on a builtin canvas


class Settings(Source):
    """Canvases with handwritten digits (builtin) or pictures of a folder, cut to squares of `side` pixels."""

    source: Literal["builtin", "path"] = "builtin"
    images: Count
    side: Annotated[Count, Field(ge=8)] = 96
    digits: Natural = 3

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        if self.source == "builtin" and self.side < DIGIT:
            raise ValueError(f"side: {self.side} pixels hold no digit of {DIGIT}")
        return self
