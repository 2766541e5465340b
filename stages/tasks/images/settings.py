"""What `tasks.images` in params.yaml may say."""

from typing import Annotated, Literal

from pydantic import Field

from stages.store.section import Count
from stages.tasks.task import Source


class Settings(Source):
    """Canvases with handwritten digits (builtin) or pictures of a folder, cut to squares of `side` pixels."""

    source: Literal["builtin", "path"] = "builtin"
    images: Count
    side: Annotated[int, Field(ge=24)] = 96
    digits: Annotated[int, Field(ge=0)] = 3
