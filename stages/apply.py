"""Use function vectors where they were not made: `python -m stages.apply <slot>`.

data/vectors/<slot>.composed.parquet: prompts of task `composed` without demonstrations, of every pair of functions that
the model solves after demonstrations (split a), answered under sums of the two functions' vectors (Todd+ ICLR 2024,
section 3.3). Reported on words of split b; nothing is chosen on them. z: mean outputs of the top heads over prompts of
split a that show a function, written in place at the last token; copy shows neither function.
    none     the prompt as it is
    inner    z of the function that comes first
    outer    z of the one that is applied to its answer
    sum      z inner + z outer
    analogy  z inner + z outer - z copy: what the sum counts twice is taken off (Todd+: v_AC + v_BD - v_AD)
    own      z of the composed function itself
    added    the two vectors of data/vectors/<slot>.safetensors, each added after its layer with its strength
    random   z inner + a random vector as long as z outer - z copy, head by head; several draws
    other    as `analogy`, with every other function in the outer one's place
data/vectors/<slot>.continued.parquet: plain text (task `text`, split b) with a function's vector written at the last
token, for functions that say what a continuation under them shows (stages/tasks/icl/continuation.py): as `heads` in
place and as `function` added after one layer, beside other functions' and random ones of the same length.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.store import params, paths, tables
from stages.store.budget import announce
from stages.store.errors import run
from stages.tasks.composed.task import COPY, parts
from stages.tasks.icl.continuation import SHOWS, bare
from stages.tasks.prompt import stream

if TYPE_CHECKING:
    import torch

    from stages.model.intervene import Edit, Head
    from stages.model.load import Loaded

log = logging.getLogger(__name__)
SHOWN, COMPOSED, TEXT = "icl", "composed", "text"
VECTOR = "function"  # which stored vector of a function is added


@dataclass(frozen=True)
class Stored:
    """What `steer` left of a slot.

    heads: its top ones, the best first; numbers: how many of them each function's vectors hold; means: function ->
    mean output (K,) per head; added: function -> layer, and the vector (D,) times its strength.
    """

    heads: "tuple[Head, ...]"
    numbers: Mapping[str, int]
    means: "Mapping[str, Mapping[Head, torch.Tensor]]"
    added: "Mapping[str, tuple[int, torch.Tensor]]"


def main(slot: str) -> None:
    """Ask composed functions and continue text, or write empty tables that say why not."""
    settings = params.load()
    why = {name: _missing(slot, name, settings) for name in (COMPOSED, TEXT)}
    if not all(why.values()):
        from stages.model.load import load  # torch is loaded only where something is measured

        loaded = load(slot, attention="sdpa")
        stored = _stored(slot, loaded)
    if why[COMPOSED]:
        _write(paths.composed(slot), tables.COMPOSED, [], why[COMPOSED])
    else:
        prompts = tables.read(paths.asked(COMPOSED), tables.PROMPTS)
        rows, skipped = composed(loaded, stored, prompts, settings, slot)
        said = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        _write(paths.composed(slot), tables.skipping(tables.COMPOSED, skipped), rows, said)
    if why[TEXT]:
        _write(paths.continued(slot), tables.CONTINUED, [], why[TEXT])
    else:
        passages = tables.read(paths.asked(TEXT), tables.PROMPTS)
        rows = continued(loaded, stored, passages[passages.split == "b"], settings, slot)
        _write(paths.continued(slot), tables.CONTINUED, rows, "no passage is as long as apply.cuts")


def _missing(slot: str, task: str, settings: params.Params) -> str:
    """Return why a task's prompts cannot be answered under function vectors, or ''."""
    from safetensors import safe_open

    record = json.loads(paths.model(slot).read_text(encoding="utf-8"))
    for name in (SHOWN, task):
        if getattr(settings.tasks, name) is None:
            return f"tasks.{name} is not in params"
    if why := tasks.of(SHOWN).refuses(record["kind"]):
        return why
    with safe_open(paths.vectors(slot), "np") as file:
        made = json.loads(file.metadata()["provenance"])
    if "reason" in made:
        return f"no function was steered: {made['reason']}"
    functions = {name.rpartition(".")[0] for name in made["vectors"]}
    if task == TEXT and not functions & set(SHOWS):
        return f"none of the functions that are solved ({', '.join(sorted(functions))}) says what plain text shows"
    return ""


def _stored(slot: str, loaded: "Loaded") -> Stored:
    """Read what `steer` chose, and the mean outputs that it wrote in place."""
    from safetensors import safe_open

    from stages.model.vectors import mean_outputs

    with safe_open(paths.vectors(slot), "pt") as file:
        made = json.loads(file.metadata()["provenance"])
        vectors = {name: file.get_tensor(name) for name in made["vectors"]}
    chosen = {name.rpartition(".")[0]: made["vectors"][name] for name in vectors if name.endswith(f".{VECTOR}")}
    shown = tables.read(paths.outputs(slot, SHOWN))
    shown = shown[(shown.split == "a") & shown.solved.astype(bool)]
    means = {name: mean_outputs(shown[shown.group == name], loaded) for name in sorted(chosen)}
    added = {
        name: (setting["layer"], vectors[f"{name}.{VECTOR}"] * setting["strength"]) for name, setting in chosen.items()
    }
    heads = tuple((layer, head) for layer, head in made["heads"])
    return Stored(heads, {name: setting["heads"] for name, setting in chosen.items()}, means, added)


def composed(
    loaded: "Loaded", stored: Stored, prompts: pd.DataFrame, settings: params.Params, slot: str
) -> tuple[list[dict], dict[str, str]]:
    """Return rows of COMPOSED, and why pairs of functions are left out, by name."""
    from stages.model.tokens import fitting

    prompts = prompts[prompts.id.isin({row.id for row in fitting(loaded, list(prompts.itertuples()))[0]})]
    clean, asked = prompts[prompts.role == "clean"], prompts[(prompts.role == "zero_shot") & (prompts.split == "b")]
    groups = [group for group in prompts.group.unique() if group != COPY]
    parameters = json.loads(paths.model(slot).read_text(encoding="utf-8"))["parameters"]
    log.info(announce(f"apply {slot}", len(prompts), 8 * len(asked) * (10 + settings.apply.draws), parameters))
    copied, copy = _demonstrated(loaded, _first(clean[clean.group == COPY], "a", settings.apply.choose))
    rows, skipped = [], {}
    for group in tqdm(groups, desc="composed functions", unit="pair"):
        inner, outer = parts(group)
        if unsolved := [name for name in (inner, outer) if name not in stored.means]:
            skipped[group] = f"no vector of {' and '.join(unsolved)}"
            continue
        of_group = clean[clean.group == group]
        tried, own = _demonstrated(loaded, _first(of_group, "a", settings.apply.choose))
        if not tried or (right := sum(tried) / len(tried)) < settings.trace.solved_above:
            skipped[group] = f"accuracy {right:.2f} after demonstrations" if tried else "no prompt fits the model"
            continue
        shown = of_group[of_group.split == "b"]
        same = {"function": group, "draw": 0, "beside": "", "heads": 0}
        for row, scored in _answers(loaded, shown):
            rows.append(same | _row(row, "none", scored))
        edits = sums(stored, inner, outer, copy, own, settings.apply.draws, settings.seed, f"apply/{slot}/{group}")
        rows += [same | row for row in _under(loaded, asked[asked.group == group], edits)]
    if not any(copied):
        skipped[COPY] = "no demonstration of copying is answered right: nothing can be taken off a sum"
    return rows, skipped


def sums(
    stored: Stored,
    inner: str,
    outer: str,
    copy: "Mapping[Head, torch.Tensor]",
    own: "Mapping[Head, torch.Tensor]",
    draws: int,
    seed: int,
    name: str,
) -> "dict[tuple[str, int, str, int], Edit]":
    """Return (vector, draw, beside, heads) -> edit of the last token, as the module says.

    copy, own: mean outputs of heads, {} where there are none; seed, name: of the random stream.
    """
    from stages.model.intervene import Edit
    from stages.model.vectors import randomly

    heads = stored.heads[: max(stored.numbers[inner], stored.numbers[outer])]
    first, second = stored.means[inner], stored.means[outer]
    written = {("inner", 0, ""): first, ("outer", 0, ""): second}
    written["sum", 0, ""] = {head: first[head] + second[head] for head in heads}
    if own:
        written["own", 0, ""] = own
    if copy:
        written["analogy", 0, ""] = {head: first[head] + second[head] - copy[head] for head in heads}
        others = [other for other in stored.means if other not in (inner, outer)]
        for draw, other in enumerate(others, start=1):
            third = stored.means[other]
            written["other", draw, other] = {head: first[head] + third[head] - copy[head] for head in heads}
        rng = stream(seed, name)
        for draw in range(1, draws + 1):
            step = {head: second[head] - copy[head] for head in heads}
            written["random", draw, ""] = {head: first[head] + randomly(step[head], rng) for head in heads}
    edits = {("none", 0, "", 0): Edit()}
    for key, values in written.items():
        edits[*key, len(heads)] = Edit(heads={head: values[head] for head in heads})
    (layer, vector_D), (other_layer, other_D) = stored.added[inner], stored.added[outer]
    together = {layer: vector_D + other_D} if layer == other_layer else {layer: vector_D, other_layer: other_D}
    return edits | {("added", 0, "", 0): Edit(added=together)}


def _first(prompts: pd.DataFrame, split: str, number: int) -> pd.DataFrame:
    return prompts[prompts.split == split].head(number)


def _demonstrated(loaded: "Loaded", prompts: pd.DataFrame):
    """Return whether each prompt is answered right, and the mean outputs of heads over those that are."""
    from stages.model.demonstrated import demonstrated
    from stages.model.tokens import encode_all

    rows = list(prompts.itertuples())
    return demonstrated(loaded, encode_all(loaded, rows), _shown(rows))


def _answers(loaded: "Loaded", prompts: pd.DataFrame):
    """Yield prompts with demonstrations and how the intact model answers them."""
    from stages.model.score import Batch
    from stages.model.tokens import encode_all

    rows = list(prompts.itertuples())
    shown = _shown(rows)
    for beginning in dict.fromkeys(shown):
        some = [row for row, begun in zip(rows, shown, strict=True) if begun == beginning]
        tokens = encode_all(loaded, some)
        yield from zip(some, Batch(loaded, tokens, [prompt.target for prompt in tokens]).intact, strict=True)


def _shown(rows: Sequence) -> list[str]:
    """Return the demonstrations of prompts: what stands before the word asked about."""
    return [row.text[: row.relations[0]["key_start"]] for row in rows]


def _under(loaded: "Loaded", prompts: pd.DataFrame, edits: "Mapping[tuple[str, int, str, int], Edit]") -> list[dict]:
    """Return how prompts are answered under edits of their last tokens."""
    from stages.model.score import LastTokens
    from stages.model.tokens import encode_all

    rows = list(prompts.itertuples())
    if not rows:
        return []
    answers = LastTokens(loaded, encode_all(loaded, rows)).edited([list(edits.values())] * len(rows))
    return [
        _row(row, vector, scored) | {"draw": draw, "beside": beside, "heads": heads}
        for row, of_prompt in zip(rows, answers, strict=True)
        for (vector, draw, beside, heads), scored in zip(edits, of_prompt, strict=True)
    ]


def _row(prompt, vector: str, scored) -> dict:
    row = {"prompt": prompt.id, "split": prompt.split, "cluster": prompt.cluster, "context": prompt.role}
    return row | {"vector": vector, "correct": scored.solved, "logprob": float(scored.logprob.mean())}


def continued(
    loaded: "Loaded", stored: Stored, passages: pd.DataFrame, settings: params.Params, slot: str
) -> list[dict]:
    """Return rows of CONTINUED: the likeliest next token of every passage, cut in several places, under each vector."""
    from stages.model.continuation import next_tokens
    from stages.model.tokens import encode

    section = settings.apply
    chosen = passages.drop_duplicates("cluster").tail(section.passages)  # the short ones come last
    read = [(row, cut, encode(loaded, row).ids) for row in chosen.itertuples() for cut in section.cuts]
    read = [(row, cut, ids[:cut]) for row, cut, ids in read if len(ids) >= cut]
    seen = [{bare(loaded.tokenizer.decode([index])) for index in ids.tolist()} - {""} for _, _, ids in read]
    rows = []
    for function in [name for name in SHOWS if name in stored.means] if read else []:
        edits = written(stored, function, section.draws, settings.seed, f"apply/{slot}/{function}/text")
        ids = next_tokens(loaded, [tokens for _, _, tokens in read], list(edits.values()))
        for (vector, source, of, draw), next_ids in zip(edits, ids.tolist(), strict=True):
            same = {"function": function, "vector": vector, "source": source, "of": of, "draw": draw}
            for (row, cut, _), before, token in zip(read, seen, next_ids, strict=True):
                text = loaded.tokenizer.decode([token])
                shown = {"token": text, "seen": bare(text) in before, "shown": SHOWS[function].there(text)}
                rows.append(same | {"prompt": f"{row.id}:{cut}", "cluster": row.cluster} | shown)
    return rows


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


def _write(path, schema, rows: list[dict], why: str) -> None:
    """Write rows, or an empty table that says why there are none."""
    if rows:
        return tables.write(path, pd.DataFrame(rows, columns=schema.names), schema)
    log.info("%s: nothing measured: %s", path, why)
    tables.write(path, tables.empty(schema, why), schema)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
