"""A lexicon: lists of words in a YAML file, checked against a class of `Entry`. What the built-in grammars share."""

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from stages.store.errors import UserError


class Entry(BaseModel):
    """Base of what a lexicon file holds: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


Lexicon = TypeVar("Lexicon", bound=Entry)


def plural(noun: str) -> str:
    """Spell a regular plural by the rules of -s, -es and -ies."""
    return re.sub(r"(?<=[^aeiou])y$", "ie", noun) + ("es" if re.search(r"(s|x|z|ch|sh)$", noun) else "s")


def read(path: Path, kind: type[Lexicon], of: str) -> Lexicon:
    """Read a lexicon of a kind; `of`: what it is the lexicon of, in errors.

    Raises `UserError` naming the file, the list and what it lacks.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or f"not UTF-8 text ({error})"
        raise UserError(f"{path}: {reason}; expected the lexicon of the builtin {of}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
