"""The MLP as a store of keys and values: look up, insert, miss. `python -m stages.memory <slot>`.

Writes data/memory/<slot>/: memory.parquet, one row per measured value, and adapters/, inserted facts as LoRA adapters:
    lookup  one layer's output is changed at the subject (MLPs) or at the last token (attention), layer by layer; the
            same MLP outputs on words that are copied or capitalised; the most active units of the chosen layer
    insert  invented facts are written into the chosen layer by rank-one edits in closed form, beside controls
    miss    what is answered about known, rare and invented subjects, and whether a key says which of them it is
The layer is the one that split a chose: whose MLP output, taken from another subject, gives that subject's answer.
"""

import logging
import shutil
import sys
from typing import TYPE_CHECKING

import pandas as pd

from stages import tasks
from stages.facts.asked import Prompts
from stages.facts.inserted import insert
from stages.facts.looked_up import look_up
from stages.facts.missed import miss
from stages.store import params, paths, records, tables
from stages.store.errors import UserError, run
from stages.tasks.facts.task import KNOWN, MAIN, SHOWN

if TYPE_CHECKING:
    from stages.model.cost import Work

log = logging.getLogger(__name__)
TASK = "facts"


def main(slot: str) -> None:
    """Look up, insert and miss, or say why not."""
    settings = params.load()
    record = records.read(slot)
    shutil.rmtree(paths.adapters(slot), ignore_errors=True)
    paths.adapters(slot).mkdir(parents=True)
    if why := settings.left_out("memory") or tasks.unasked(TASK, record["kind"], settings.tasks):
        return _write(slot, [], {}, why)
    from stages.model.cost import announce
    from stages.model.load import load
    from stages.model.mlp import writers

    loaded = load(slot, attention="sdpa", lays_out=True)
    found = writers(loaded)
    good = {layer: writer for layer, writer in found.items() if not isinstance(writer, str)}
    if not good:
        why = f"no MLP beside attention is written by one linear layer: {next(iter(found.values()))}"
        return _write(slot, [], {}, why)
    for layer in settings.memory.layers:
        if layer not in good:
            why = found.get(layer, f"no such layer; slot {slot} has {', '.join(map(str, found))}")
            raise UserError(f"{paths.PARAMS}: memory.layers: {layer}: {why}")
    asked = Prompts(loaded, tables.ASKED.read(TASK))
    work = _work(asked, len(loaded.anatomy.layers), settings.memory)
    log.info(announce(f"memory {slot}", len(asked.rows), work, loaded))
    rows, chosen = look_up(loaded, good, asked, settings)
    if "mlp" in chosen:
        inserted, of_insert = insert(slot, loaded, good, asked, settings, chosen, record)
        rows += of_insert + miss(loaded, good, asked, settings, chosen, inserted)
    _write(slot, rows, chosen, "")


def _work(asked: Prompts, layers: int, memory: params.Memory) -> "Work":
    """Return about the work of all parts: short runs of known facts, descents of new ones, prompts that show others."""
    from stages.model.cost import Work

    known = [(row, len(t)) for row, t in zip(asked.rows, asked.tokens, strict=True) if row.category == KNOWN]
    of_role = ([length for row, length in known if row.role.startswith(role)] for role in (MAIN, SHOWN))
    bare, shown = (sum(lengths) / max(1, len(lengths)) for lengths in of_role)
    facts = memory.facts + memory.true_facts
    changed = layers * (2 * memory.choose + 4 * memory.report)  # two kinds of outputs; on split b two ways each
    descended = 3 * memory.steps * facts  # a step forward, and back at twice the cost
    tried = 15 * facts  # each fact itself, in other words, and its neighbours, under its edit and the controls
    above = Work(bare / 2, 1) * (changed + descended) + Work(bare, 3) * tried
    return above + Work(2 * shown, 4) * (3 * memory.missed)  # of three classes, after two sets


def _write(slot: str, rows: list[dict], chosen: dict, why: str) -> None:
    if why:
        log.info("%s: MLPs are not read as a store: %s", slot, why)
        tables.MEMORY.write_empty(slot, why=why)
        return
    table = pd.DataFrame(rows, columns=tables.MEMORY.names)
    why = chosen.get("why", "")  # rows of what was asked in vain may stand there
    (tables.MEMORY.with_reason(why) if why else tables.MEMORY.noting(chosen=chosen)).write(
        table.sort_values(tables.MEMORY.names[:-1], kind="stable"), slot, asked=len(table)
    )


if __name__ == "__main__":
    run(main, *sys.argv[1:])
