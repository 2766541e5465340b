"""Plain text (task `text`, split b) continued with a function's vector written at the last token.

For functions that say what a continuation under them shows (stages/tasks/icl/continuation.py): as `heads` in place and
as `function` added after one layer, beside other functions' and random ones of the same length.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from stages.applied.stored import Stored, missing, provenance, read
from stages.store import params, tables
from stages.tasks.icl.continuation import SHOWS, bare
from stages.tasks.prompt import stream

if TYPE_CHECKING:
    from stages.model.intervene import Edit
    from stages.model.load import Loaded

TASK = "text"


def measure(slot: str, settings: params.Params, model: "Callable[[], Loaded]") -> None:
    """Write what text is continued with, or why it is not; model: loads it, or returns it again."""
    if why := settings.left_out("apply") or missing(slot, TASK, settings) or _says_nothing(slot):
        return tables.CONTINUED.write_empty(slot, why=why)
    passages = tables.ASKED.read(TASK)
    rows, asked = continued(model(), read(slot), passages[passages.split == "b"], settings, slot)
    why = "no passage is as long as apply.cuts"
    tables.CONTINUED.write(pd.DataFrame(rows), slot, asked=asked, otherwise=why)


def _says_nothing(slot: str) -> str:
    """Return that no solved function says what a continuation under it shows, or ''."""
    functions = {name.rpartition(".")[0] for name in provenance(slot)["vectors"]}
    if functions & set(SHOWS):
        return ""
    return f"none of the functions that are solved ({', '.join(sorted(functions))}) says what plain text shows"


def continued(
    loaded: "Loaded", stored: Stored, passages: pd.DataFrame, settings: params.Params, slot: str
) -> tuple[list[dict], int]:
    """Return rows of CONTINUED, the likeliest next token of every passage, cut in several places, under each vector.

    And how many rows there are to be.
    """
    from stages.model.continuation import next_tokens
    from stages.model.tokens import encode

    section = settings.apply
    chosen = passages.drop_duplicates("cluster").tail(section.passages)  # the short ones come last
    read = [(row, cut, encode(loaded, row).ids) for row in chosen.itertuples() for cut in section.cuts]
    read = [(row, cut, ids[:cut]) for row, cut, ids in read if len(ids) >= cut]
    seen = [{bare(loaded.tokenizer.decode([index])) for index in ids.tolist()} - {""} for _, _, ids in read]
    rows = []
    functions = [name for name in SHOWS if name in stored.means] if read else []
    for function in tqdm(functions, desc="continued texts", unit="function"):
        edits = written(stored, function, section.draws, settings.seed, f"apply/{slot}/{function}/text")
        ids = next_tokens(loaded, [tokens for _, _, tokens in read], list(edits.values()))
        for (vector, source, of, draw), next_ids in zip(edits, ids.tolist(), strict=True):
            same = {"function": function, "vector": vector, "source": source, "of": of, "draw": draw}
            for (row, cut, _), before, token in zip(read, seen, next_ids, strict=True):
                text = loaded.tokenizer.decode([token])
                shown = {"token": text, "seen": bare(text) in before, "shown": SHOWS[function].there(text)}
                rows.append(same | {"prompt": f"{row.id}:{cut}", "cluster": row.cluster} | shown)
    vectors = 1 + 2 * (len(stored.means) + section.draws)  # none; in place and added: of each function, random
    return rows, len(functions) * len(read) * vectors


def written(stored: Stored, function: str, draws: int, seed: int, name: str) -> "dict[tuple[str, str, str, int], Edit]":
    """Return (vector, source, of, draw) -> edit of a text's last token; seed, name: of the random stream."""
    from stages.model.intervene import Edit
    from stages.model.vectors import randomly

    heads, rng = stored.heads[: stored.numbers[function]], stream(seed, name)
    means, (layer, vector_D) = stored.means[function], stored.added[function]
    edits = {("none", "", "", 0): Edit()}
    for other in [function, *(other for other in stored.means if other != function)]:
        source = "own" if other == function else "other"
        own_layer, added_D = stored.added[other]
        edits["heads", source, other, 0] = Edit(heads={head: stored.means[other][head] for head in heads})
        edits["function", source, other, 0] = Edit(added={own_layer: added_D})
    for draw in range(1, draws + 1):
        edits["heads", "random", "", draw] = Edit(heads={head: randomly(means[head], rng) for head in heads})
        edits["function", "random", "", draw] = Edit(added={layer: randomly(vector_D, rng)})
    return edits
