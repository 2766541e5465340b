"""The base of every section of params.yaml, and the kinds of values that sections share."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, field_validator

from stages.store import source

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
MOST = 1_000_000  # of anything that is counted out: a slip of zeros is told, not waited for
Count = Annotated[int, Field(ge=1, le=MOST)]
Natural = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def _place(path: str) -> str:
    if not path.strip() or len(path.encode()) > 4000 or any(len(part.encode()) > 255 for part in path.split("/")):
        raise ValueError("expected the path of a file or folder: no blank one, up to 255 bytes a name and 4,000 in all")
    return path


def _line(text: str) -> str:
    if not source.line(text) or source.line(text) != text:
        raise ValueError("expected text on one line, no white space at its ends")
    return text


Line = Annotated[str, AfterValidator(_line)]
Place = Annotated[str, AfterValidator(_place)]  # the path of a file or folder, as far as any file could have it


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, no silent conversion of types, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _as_written(cls, given: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Refuse what pydantic would turn into another type: `true` for 1, "3" or 3.0 for 3; 3 for 3.0 is allowed."""
        value = handler(given)
        _same_types(given, value)
        return value


def _same_types(given: Any, value: Any) -> None:
    if isinstance(given, dict) and isinstance(value, dict):
        given, value = ([*some, *some.values()] for some in (given, value))
    if isinstance(given, list | tuple) and isinstance(value, list | tuple):
        for each, made in zip(given, value, strict=True):
            _same_types(each, made)
    wanted, kind = type(value), type(given)
    if {wanted, kind} <= {bool, int, float, str} and kind is not wanted and (kind, wanted) != (int, float):
        raise ValueError(f"{given!r} is a {kind.__name__}; expected a {wanted.__name__}")
