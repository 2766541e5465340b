"""The one exception for what a user can fix, and the wrapper that turns it into one line and exit code 1."""

import atexit
import gc
import inspect
import logging
import os
import sys
from collections.abc import Callable

# How torch's threads wait for each other, read when torch is loaded: it is the user's where any of these is set. Else
# they spin about as long as waking takes (GNU's OpenMP; 1 ms in LLVM's) and then sleep. Idle speed stays (with no spin
# at all one token takes 10 % longer), and beside busy processes a stage gets its share of the machine, not a fifth.
WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}


def one_line(text: str) -> str:
    r"""Return a text on one line, what is no printable character as Python writes it: a name may hold anything.

    So no name adds a line to what is said, moves a terminal's cursor or turns its writing around.

    >>> one_line("a\nb \x1b[31m \u202e か")
    'a\\nb \\x1b[31m \\u202e か'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UserError(Exception):
    """A mistake in params, files or models; the message names the file, the key, the value and what is allowed.

    It is one line whatever the names and values in it hold.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class _Lines(logging.Formatter):
    """One line per message of a log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))


def run(stage: Callable[..., None], *arguments: str) -> None:
    """Run a stage as a command: log to stderr, end a `UserError` with its one line and exit code 1, let bugs raise.

    arguments: what stands after the command; where nothing does, what DVC says that it runs (`instance`).
    """
    if not WAITING & os.environ.keys():
        os.environ |= {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
    # torch asks Linux for large pages: the same bytes, `extract` 2 to 9 % sooner (in turn, two runs each of two tasks)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    gc.set_threshold(10_000)  # of 700: imports make many objects that stay
    # The interpreter's last collections would walk a tokenizer's vocabulary: 0.9 of the 1.1 s that its end takes with
    # Gemma 3. What cycles hold is not finalised then; nothing here waits for that.
    atexit.register(gc.freeze)
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(_Lines("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[to_stderr])
    for noisy in ("httpx", "transformers", "accelerate", "datasets", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        given = arguments or instance(os.environ.get("DVC_STAGE", ""))
        _count(stage, given)
        stage(*given)
    except UserError as error:
        sys.exit(f"error: {error}")


def instance(name: str) -> tuple[str, ...]:
    """Return the keys in the name of a stage of dvc.yaml, which DVC passes in the environment as $DVC_STAGE.

    So no command of dvc.yaml holds a key, and nothing that a user names is read by a shell. (Keys have no hyphen.)

    >>> instance("full/dvc.yaml:deeper@gates-decoder"), instance("train@copy"), instance("report")
    (('gates', 'decoder'), ('copy',), ())
    """
    keys = name.rpartition(":")[2].partition("@")[2]
    return tuple(keys.split("-")) if keys else ()


def _count(stage: Callable[..., None], given: tuple[str, ...]) -> None:
    """Raise `UserError` unless a stage takes as many arguments as are given."""
    signature = inspect.signature(stage)
    try:
        signature.bind(*given)
    except TypeError:
        named = " ".join(f"<{name}>" for name in signature.parameters)
        module = getattr(inspect.getmodule(stage), "__spec__", None)
        command = f"python -m {module.name}" if module else "this stage"
        raise UserError(f"{command}: {len(given)} arguments given; expected {named or 'none'}") from None
