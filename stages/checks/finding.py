"""What a check says: one line, and the command that mends it."""

from dataclasses import dataclass

from stages.store.errors import one_line

MEND = "mend this key; params.quick.yaml is an example"  # of params.yaml


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or merely worth knowing (`wrong` false); way_out: a command, or what to do."""

    about: str
    way_out: str = ""
    wrong: bool = True

    def __str__(self) -> str:
        said = f"{'wrong' if self.wrong else 'note '}: {self.about}{f'; {self.way_out}' if self.way_out else ''}"
        return one_line(said)


def words(error: Exception) -> str:
    """Return an error's type and its own words, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".removesuffix(": ")
