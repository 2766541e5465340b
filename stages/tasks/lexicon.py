"""A lexicon: lists of words in a YAML file, checked against a class of `Entry`. What the built-in grammars share."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, model_validator

from stages.store import source
from stages.store.errors import UserError
from stages.store.section import Section


class Entry(Section):
    """Base of what a lexicon file holds: frozen, no unknown keys, types as written."""


class Forms(Entry):
    """A verb with all its forms; the file gives the five as one string `forms`, with `_` for a space within one."""

    base: str
    third: str
    past: str
    participle: str
    ing: str

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, entry: Any) -> dict[str, Any]:
        rest = dict(entry) if isinstance(entry, dict) else {}
        forms = [form.replace("_", " ") for form in str(rest.pop("forms", "")).split()]
        if len(forms) != 5:
            raise ValueError(f"{entry}: expected forms: base, third person, past, past participle, -ing")
        return dict(zip(("base", "third", "past", "participle", "ing"), forms, strict=True)) | rest


Lexicon = TypeVar("Lexicon", bound=BaseModel)


def plural(noun: str) -> str:
    """Spell a regular plural by the rules of -s, -es and -ies."""
    return re.sub(r"(?<=[^aeiou])y$", "ie", noun) + ("es" if re.search(r"(s|x|z|ch|sh)$", noun) else "s")


def read(path: Path, kind: type[Lexicon], of: str) -> Lexicon:
    """Read a lexicon of a kind; `of`: what it is the lexicon of, in errors.

    Raises `UserError` naming the file, the list and what it lacks.
    """
    content = source.yaml(path, f"the lexicon of the builtin {of}")
    if (blank := next(_blanks(content), None)) is not None:
        raise UserError(f"{path}: {'.'.join(map(str, blank))}: a word is empty; expected letters")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{path}: {place} = {source.shown(first['input'])}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def _blanks(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """Yield the places of empty texts."""
    if isinstance(value, str) and not value.strip():
        yield place
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _blanks(part, (*place, key))
