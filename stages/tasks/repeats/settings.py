"""What `tasks.repeats` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.store.section import Count
from stages.tasks.task import Source


class Settings(Source):
    """Random ordinary tokens, repeated."""

    source: Literal["builtin"] = "builtin"
    prompts: Count
    shortest: Annotated[Count, Field(ge=4)]
    longest: Annotated[Count, Field(ge=4)]
    copies: Annotated[Count, Field(ge=2)]

    @model_validator(mode="after")
    def _ordered(self) -> "Settings":
        if self.longest < self.shortest:
            raise ValueError(f"longest: {self.longest} is below shortest: {self.shortest}")
        return self
