"""What `tasks.blimp` in params.yaml may say."""

from stages.store.section import Count
from stages.tasks.task import Source


class Settings(Source):
    """Minimal pairs."""

    hub: str = "nyu-mll/blimp"
    revision: str = ""
    pairs: Count
    leading_space: bool
    bos: bool
