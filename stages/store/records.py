"""The record of a model, data/models/<slot>.json: written by fetch, read through here by all later stages."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.store import paths, source
from stages.store.errors import UserError
from stages.store.section import Count


class _Part(BaseModel):
    """One attention layer, as `stages.model.anatomy.Layer` describes it."""

    model_config = ConfigDict(extra="allow", strict=True)

    layer: Annotated[int, Field(ge=0)]
    heads: Count
    kv_heads: Count
    head_size: Count
    window: int | None
    kind: Literal["window", "global"]


class _Record(BaseModel):
    """What later stages ask a record for."""

    model_config = ConfigDict(extra="allow")

    slot: str
    source: Literal["package", "hub", "path"]
    name: str
    revision: str
    kind: Literal["decoder", "encoder", "masked", "vision"]
    parameters: Annotated[int, Field(ge=1, le=10**18, strict=True)]
    vocabulary: Annotated[int, Field(ge=0, strict=True)]
    files: dict[str, str] = Field(min_length=1)
    attention: list[_Part] = Field(min_length=1)
    blocks: list[str] = Field(min_length=1)
    skipped: dict[str, str]
    proof: dict[str, str]


def heads(slot: str) -> list[tuple[int, int]]:
    """Return (layer, head) of every head of a slot's model, in order."""
    return [(part["layer"], head) for part in read(slot)["attention"] for head in range(part["heads"])]


def read(slot: str) -> dict[str, Any]:
    """Return the record of a slot; raises `UserError` where there is none, or it is cut, or another slot's."""
    path = paths.model(slot)
    again = f"the record of a model; run dvc repro -f -s fetch@{slot}"
    if not path.exists() and (there := sorted(other.stem for other in path.parent.glob("*.json"))):
        again = f"{again}, or name a slot that was fetched: {', '.join(there)}"
    record = source.json(source.text(path, again), path, again)
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: {place}: {first['msg']}; expected {again}") from None
    if record["slot"] != slot:
        raise UserError(f"{path}: slot: {record['slot']!r}; expected {again}")
    return record
