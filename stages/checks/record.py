"""The record of a model as stages read it, and its count of parameters as a number that can be reckoned with."""

from typing import Any

from stages.store import paths, records, source
from stages.store.errors import UserError

LARGEST = 10**18  # parameters: above any model, and still a number of bytes that can be shown in GB


def read(slot: str) -> dict[str, Any]:
    """Return the record of a slot; raises `UserError` where stages would, and where "7" or true stands for a count."""
    record = records.read(slot)
    count = record["parameters"]
    if type(count) is not int or count > LARGEST:
        what = f"parameters = {source.shown(count)}: allowed: a whole number from 1 to {LARGEST}"
        raise UserError(f"{paths.model(slot)}: {what}")
    return record
