"""The one exception for what a user can fix, and the wrapper that turns it into one line and exit code 1."""

import logging
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in params, files or models; the message names the file, the key, the value and what is allowed."""


def run(stage: Callable[..., None], *arguments: str) -> None:
    """Run a stage as a command: log to stderr, end a `UserError` with its one line and exit code 1, let bugs raise."""
    # Read when torch is loaded: its threads spin less before they sleep, else each waits for the other beside a busy
    # process, and a stage takes three times as long as its share of the machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "transformers", "accelerate", "datasets", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        stage(*arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
