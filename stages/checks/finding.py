"""What a check says: one line, and the command that mends it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or merely worth knowing (`wrong` false); way_out: a command, or what to do."""

    about: str
    way_out: str = ""
    wrong: bool = True

    def __str__(self) -> str:
        return f"{'wrong' if self.wrong else 'note '}: {self.about}{f'; {self.way_out}' if self.way_out else ''}"
