"""What `tasks.text` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field

from stages.store.section import Count
from stages.tasks.task import Source


class Settings(Source):
    """Plain English: long passages for positions and windows, short ones for sinks."""

    source: Literal["builtin", "path"] = "builtin"
    passages: Count
    tokens: Annotated[Count, Field(ge=32)]
    short_passages: Count
    short_tokens: Annotated[Count, Field(ge=8)] = 64
