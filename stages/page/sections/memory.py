"""The MLP as a key-value store: look up, insert, miss, and what of it holds."""

from typing import Any

from stages.page import memory_insert, memory_lookup, memory_miss
from stages.page.inputs import Slot
from stages.page.memory_claims import claims, rows_of
from stages.page.memory_longer import folded
from stages.page.memory_read import Read
from stages.page.page import Note, Table
from stages.page.section import Context, SlotSection

WHAT = (
    "An MLP's output matrix can be read as a store, W = Σ v kᵀ: what the MLP reads is a key k, what it writes is the "
    "value W k. Three claims are tried on facts such as a country's capital. Look-up: one output is changed at one "
    "token, of an MLP at the subject's last token, of an attention layer at the prompt's last token: the mean over "
    "other subjects is put in, or another subject's output, and it is seen whose answer comes out. Insert: a pair is "
    "added, W + δ aᵀ, which is a LoRA of rank one; a in closed form from the key and the keys of plain text, so that "
    "other keys are moved little. Miss: subjects with invented names are asked, which no store can hold. Layers are "
    "chosen on split a by the other subject's answers, all else is said of split b (names of equally many tokens are "
    "of both: nothing was chosen on them). An answer is judged by its first token in look-ups, whole in insertions, "
    "and by the text that is written in misses."
)


def memory(slot: Slot, context: Context) -> list:
    """Show what is looked up where, what can be inserted, and what a miss looks like."""
    rows, path = slot.memory, slot.path("memory.csv")
    if rows.empty:
        why = slot.reasons.get("memory") or f"{path} has no rows"
        return [Note(f"MLPs were not read as a store: {why}.")]
    read = Read.of(rows)
    if read is None:
        return [Note(f"Nothing was looked up: {slot.reasons.get('memory') or f'{path} has no chosen layer'}.")]
    blocks: list[Any] = [Note(WHAT), *_claims(read, path), *memory_lookup.blocks(read, path, context)]
    blocks += [*memory_insert.blocks(read, path), *memory_miss.blocks(read, path), *folded(slot)]
    return [block for block in blocks if block.kind != "note" or block.text]


def _claims(read: Read, path: str) -> list:
    rows, heads = rows_of(claims(read.layer, read.relation), read.cells)
    says = (
        "Claim by claim: the bars were fixed after trials on Gemma 3 270M, so that they are no test of that model; "
        "95 % intervals over subjects, of text over facts, each tried on a passage. Number: of subjects (of text, of "
        "facts), of a difference of two classes' both."
    )
    return [Table(["claim", "bar", "measured", "number", "verdict"], rows, says, path, (1, 2, 3), tuple(heads))]


SECTION = SlotSection("memory", "The MLP as a store of facts", 84, memory, predicts=True, seen=5)
