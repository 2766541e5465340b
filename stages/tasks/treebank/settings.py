"""What `tasks.treebank` in params.yaml may say."""

from typing import Annotated

from pydantic import Field, model_validator

from stages.store.section import Count
from stages.tasks.task import Source


class Settings(Source):
    """Parsed sentences (Universal Dependencies): from our generator, CoNLL-U files (`path`) or the `datasets` hub."""

    hub: str = "commul/universal_dependencies"
    config: str = "en_ewt"
    revision: str = ""
    sentences: Count
    shortest: Annotated[Count, Field(ge=2)]
    longest: Annotated[Count, Field(ge=2)]

    @model_validator(mode="after")
    def _ordered(self) -> "Settings":
        if self.longest < self.shortest:
            raise ValueError(f"longest: {self.longest} is below shortest: {self.shortest}")
        return self
