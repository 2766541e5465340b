"""What `tasks.blimp` in params.yaml may say."""

from typing import Literal

from stages.store.section import Count
from stages.tasks.task import Source


class Settings(Source):
    """Minimal pairs.

    pseudo: how models that fill gaps score a sentence: with each token masked alone (`original`, Salazar+ ACL 2020), or
        with what follows it in its word (`within_word`, Kauf & Ivanova ACL 2023).
    """

    hub: str = "nyu-mll/blimp"
    revision: str = ""
    pairs: Count
    leading_space: bool
    bos: bool
    pseudo: Literal["original", "within_word"] = "original"
