"""What `tasks.iteration` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.store.section import Count
from stages.tasks.task import Source


class Settings(Source):
    """Strings of letters and their tapes: `prompts` per function, each with `examples` solved ones (lines) before.

    Strings have `shortest` to `longest` symbols; no example is as long as the last string.
    """

    source: Literal["builtin"] = "builtin"
    prompts: Annotated[Count, Field(ge=2)]
    examples: Count
    shortest: Annotated[Count, Field(ge=2)]
    longest: Count

    @model_validator(mode="after")
    def _ordered(self) -> "Settings":
        if self.longest <= self.shortest:
            raise ValueError(f"longest: {self.longest} is not above shortest: {self.shortest}; lengths must vary")
        return self
