"""What a plain text shows when it is continued under a function, where that can be seen in one token alone.

Most functions change which word comes, and nothing in a text says what the right one would be. To declare another
function, add a line to `SHOWS`: stage `apply` then continues plain text under its vector, and under others'.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Sign:
    """What shows in the text of a next token: how it is said ("in upper or title case"), and whether it is there."""

    said: str
    there: Callable[[str], bool]


def begins_upper(token: str) -> bool:
    """Tell whether a token's first character but white space is a capital letter."""
    return token.strip()[:1].isupper()


def bare(token: str) -> str:
    """Return a token's text without white space around it, case set aside."""
    return token.strip().casefold()


SHOWS: Mapping[str, Sign] = {"capitalize": Sign("in upper or title case", begins_upper)}
