"""Use function vectors where they were not made: `python -m stages.apply <slot>`.

Writes data/applied/<slot>/: composed.parquet, answers to composed functions under sums of vectors; continued.parquet,
what plain text is continued with under one; shifts.parquet, offsets.parquet, readings.parquet, whether a function is
one offset (stages/applied/shifts.py); orders.parquet, the next word of known and made-up orders under the vector of the
step. The model is loaded once, and only if something is measured.
"""

import sys
from functools import cache

from stages.applied import composed, continued, orders, shifts
from stages.store import params
from stages.store.errors import run


def main(slot: str) -> None:
    """Measure each, or write empty tables that say why not."""
    settings = params.load()

    @cache
    def model():
        from stages.model.load import load  # torch is loaded only where something is measured

        return load(slot, attention="sdpa", lays_out=True)

    for use in (composed, continued, shifts, orders):
        use.measure(slot, settings, model)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
