"""The one exception for what a user can fix, and the wrapper that turns it into one line and exit code 1."""

import logging
import os
import sys
from collections.abc import Callable

# How torch's threads wait for each other, read when torch is loaded: it is the user's where any of these is set. Else
# they spin about as long as waking takes (GNU's OpenMP; 1 ms in LLVM's) and then sleep. Idle speed stays (with no spin
# at all one token takes 10 % longer), and beside busy processes a stage gets its share of the machine, not a fifth.
WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}


class UserError(Exception):
    """A mistake in params, files or models; the message names the file, the key, the value and what is allowed."""


def run(stage: Callable[..., None], *arguments: str) -> None:
    """Run a stage as a command: log to stderr, end a `UserError` with its one line and exit code 1, let bugs raise."""
    if not WAITING & os.environ.keys():
        os.environ |= {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "transformers", "accelerate", "datasets", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        stage(*arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
