"""Sinks and what their states hold: `python -m stages.sinks <slot>` reads passages, random and repeated tokens; images.

Writes data/sinks/<slot>/: heads.parquet, one row per (prompt, input, layer, head), where it looks and what it writes;
tokens.parquet, one row per (prompt, input, layer, position), residual norm and attention received; probes.parquet, what
linear probes read from one token's state; and, of a model of images, norms.parquet (stages/norms.py).
"""

import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from stages import norms, tasks
from stages.families.family import CLASS
from stages.store import params, records, tables
from stages.store.errors import run
from stages.tasks.prompt import Prompt, read_text, stream
from stages.tasks.text.prompts import CHARACTERS, cut

log = logging.getLogger(__name__)
TASK = "text"
OF_IMAGES = "images are probed for nothing: their patches have no token to hold"
TARGETS = ("token", "next", "position", "topic", "rest")  # what a state is asked for
COMPONENTS = 8  # principal components of token embeddings that probes are asked for


def main(slot: str) -> None:
    """Look at text or at images; the tables of the other say that it is not read."""
    settings = params.load()
    norms.measure(slot, settings)
    _measure(slot, settings)


def _measure(slot: str, settings: params.Params) -> None:
    """Look at sinks on every input, then probe the states of single tokens."""
    kind = records.read(slot)["kind"]
    task = norms.TASK if kind == "vision" else TASK
    if why := settings.left_out("sinks") or tasks.unasked(task, kind, settings.tasks):
        return _write_empty(slot, why)
    from stages.model.load import load
    from stages.model.tokens import fitting

    loaded = load(slot, lays_out=True)
    prompts = tables.PICTURES.read(task) if kind == "vision" else tables.ASKED.read(task)
    asked = prompts if kind == "vision" else prompts[prompts.role == "short"]
    rows, passages = fitting(loaded, list(asked.itertuples())[: settings.sinks.prompts])
    if not rows:
        return _write_empty(slot, "all short passages are longer than the model reads")
    if kind == "vision" and passages[0].ids[0] != CLASS:
        return _write_empty(slot, "the model has no class token: what stands first is a corner of the image")
    _look(loaded, slot, rows, passages, settings)
    if kind == "vision":
        return tables.PROBES.write_empty(slot, why=OF_IMAGES)
    _probe(loaded, slot, settings)


def _write_empty(slot: str, why: str) -> None:
    log.info("sinks of %s: %s", slot, why)
    for table in (tables.SINK_HEADS, tables.SINK_TOKENS, tables.PROBES):
        table.write_empty(slot, why=why)


def _look(loaded, slot: str, rows: list, passages: list, settings: params.Params) -> None:
    """Read the sinks of every input, a batch at a time."""
    from stages.model.cost import Work, announce
    from stages.model.forward import batches
    from stages.model.sink_inputs import inputs
    from stages.model.sinks import look

    made = inputs(loaded, passages, stream(settings.seed, "sinks/inputs"))
    total = sum(len(tokens) for of_input in made.values() for tokens in of_input)
    asked = settings.sinks if loaded.images is None else None
    probed = asked.passages * asked.tokens if asked else 0
    count = sum(map(len, made.values())) + (asked.passages if asked else 0)
    log.info(announce(f"sinks {slot}", count, Work(total + probed), loaded))
    with (
        tables.SINK_HEADS.writer(slot, asked=sum(map(len, made.values()))) as add_heads,
        tables.SINK_TOKENS.writer(slot, asked=total * len(loaded.anatomy.layers)) as add_tokens,
        tqdm(total=total, desc="sinks", unit="token") as progress,
    ):
        for name, prompts in made.items():
            for chosen in batches(prompts, settings.extract.batch_tokens):
                seen = look(loaded, [prompts[index] for index in chosen])
                for index, of_prompt in zip(chosen, seen, strict=True):
                    same = {"prompt": rows[index].id, "split": rows[index].split, "input": name}
                    add_heads(_rows(same, of_prompt.heads, "head"))
                    add_tokens(_rows(same, of_prompt.tokens, "position").assign(
                        mark=np.tile(of_prompt.marks, len(of_prompt.tokens))))  # fmt: skip
                progress.update(sum(len(prompts[index]) for index in chosen))


def _rows(same: dict, columns: dict[int, dict[str, np.ndarray]], unit: str) -> pd.DataFrame:
    """Return the rows of one prompt: a column each, by layer, of heads or of positions."""
    counts = [len(next(iter(of_layer.values()))) for of_layer in columns.values()]
    at = {"layer": np.repeat(list(columns), counts), unit: np.concatenate([np.arange(count) for count in counts])}
    names = next(iter(columns.values()))
    values = {name: np.concatenate([of_layer[name] for of_layer in columns.values()]) for name in names}
    return pd.DataFrame(same | at | values)


def _probe(loaded, slot: str, settings: params.Params) -> None:
    """Write what probes read, or why there are none."""
    from stages.model.token_states import KINDS

    path = Path(settings.ngram.path)
    rows = probed(loaded, sorted(path.glob("*.txt")) if path.is_dir() else [path], settings)
    if isinstance(rows, str):
        return tables.PROBES.write_empty(slot, why=rows)
    tables.PROBES.write(rows, slot, asked=len(KINDS) * len(TARGETS))


def probed(loaded, texts: Sequence[Path], settings: params.Params) -> pd.DataFrame | str:
    """Probe the states of single tokens for the token, its position, the text's topic, and the rest of the passage.

    texts: files, each a topic. Returns the rows of PROBES, or why there are none.
    """
    import torch

    from stages.model.token_states import EMBEDDING, KINDS, token_states
    from stages.model.tokens import encode
    from stages.statistics.intervals import FEWEST

    asked = settings.sinks
    prompts = _passages(texts, asked.tokens, asked.passages, settings.seed)
    encoded = [encode(loaded, prompt) for prompt in prompts]
    whole = [number for number, tokens in enumerate(encoded) if len(tokens) == asked.tokens]
    if len(whole) < FEWEST:
        return f"fewer than {FEWEST} passages of {asked.tokens} tokens"
    prompts, encoded = [prompts[number] for number in whole], [encoded[number] for number in whole]
    passages: list[Any] = []
    size = max(1, settings.extract.batch_tokens // asked.tokens)
    for start in tqdm(range(0, len(encoded), size), desc="states", unit="batch"):
        near = passages[-1].positions["attended"] if passages else asked.tokens // 2
        passages += token_states(loaded, encoded[start : start + size], near)
    embedded, last = _embedded(loaded, encoded), max(passages[0].states)
    layers = [at for at in sorted(passages[0].states) if at == EMBEDDING or (last - at) % asked.layer_step == 0]
    jobs = [(kind, layer) for kind in KINDS for layer in layers]

    far_NT = _far(passages)

    def rows(job: tuple[str, int]) -> pd.DataFrame:
        return _probed(passages, prompts, embedded, far_NT, *job, asked.shuffles, settings.seed)

    number = torch.get_num_threads()  # asked before the limit, which is torch's as well
    with threadpool_limits(1), ThreadPoolExecutor(number) as threads:  # of one thread each: same bytes
        made = list(tqdm(threads.map(rows, jobs), total=len(jobs), desc="probes", unit="probe"))
    result = pd.concat(made, ignore_index=True)
    return result.assign(layer=result["layer"].where(result["layer"] != EMBEDDING, -1))


def _far(passages) -> np.ndarray:
    """Return which tokens' residuals are outliers after some layer, (N, T); a passage's first token stands apart."""
    from stages.statistics.outliers import beyond

    norms_LNT = np.log(np.stack([passage.norms_LT for passage in passages], axis=1))[:, :, 1:]
    far_NT = np.any([beyond(norms_NT.ravel()).reshape(norms_NT.shape) for norms_NT in norms_LNT], axis=0)
    return np.pad(far_NT, ((0, 0), (1, 0)))


def _probed(
    passages, prompts, embedded, far_NT: np.ndarray, kind: str, layer: int, shuffles: int, seed: int
) -> pd.DataFrame:
    from stages.model.token_states import KINDS
    from stages.statistics.probes import probe, spread

    at_N = np.array([passage.positions[kind] for passage in passages])
    states_ND = np.stack([passage.states[layer][KINDS.index(kind)] for passage in passages])
    own_NP = np.stack([embedding[at] for embedding, at in zip(embedded, at_N, strict=True)])
    sums_NP = np.stack([embedding.sum(0) for embedding in embedded])
    lengths_N1 = np.array([[len(embedding)] for embedding in embedded])
    after_NP = np.stack([embedding[at + 1] for embedding, at in zip(embedded, at_N, strict=True)])
    topic_N = np.unique([prompt.category for prompt in prompts], return_inverse=True)[1]
    rest_NP = (sums_NP - own_NP) / (lengths_N1 - 1)
    values = (own_NP, after_NP, at_N.astype(np.float64), topic_N, rest_NP)
    targets = dict(zip(TARGETS, values, strict=True))
    blocks = np.array([prompt.cluster for prompt in prompts])
    results = probe(states_ND, targets, blocks, stream(seed, f"sinks/probes/{kind}/{layer}"), shuffles)
    far_N = far_NT[np.arange(len(passages)), at_N]
    same = {"kind": kind, "layer": layer, "tokens": len(passages), "blocks": len(np.unique(blocks))}
    same |= {"spread": spread(states_ND), "outliers": int(far_N.sum())}
    return pd.DataFrame([same | {"target": name} | vars(result) for name, result in results.items()])


def _embedded(loaded, encoded) -> list[np.ndarray]:
    """Return the first principal components of every passage's token embeddings, (T, P)."""
    from stages.model import placed

    weight = placed.weight(loaded.model.get_input_embeddings())
    used, place = np.unique(np.concatenate([tokens.ids for tokens in encoded]), return_inverse=True)
    vectors = weight[used].float().cpu().numpy().astype(np.float64)
    vectors -= vectors.mean(0)
    _, axes = np.linalg.eigh(vectors.T @ vectors)  # of increasing variance
    reduced = (vectors @ axes[:, ::-1][:, : min(COMPONENTS, *vectors.shape)])[place]
    ends = np.cumsum([len(tokens) for tokens in encoded])[:-1]
    return np.split(reduced, ends)


def _passages(files: Sequence[Path], tokens: int, count: int, seed: int) -> list[Prompt]:
    """Cut texts into passages, `count` in all and as many of each file: its topic; their blocks are paragraphs."""
    each, prompts = -(-count // len(files)), []
    for file in files:
        pieces = [
            (f"{file.stem}/{number:04d}", piece)
            for number, paragraph in enumerate(read_text(file))
            for piece in cut([paragraph], tokens * CHARACTERS)
        ]
        order = stream(seed, f"sinks/passages/{file.stem}").permutation(len(pieces))[:each]
        for place in sorted(order):
            block, text = pieces[place]
            name = f"sinks/{file.stem}/{place:05d}"
            made = Prompt(id=name, condition=TASK, cluster=block, category=file.stem, text=text, tokens=tokens)
            prompts.append(made)
    return prompts


if __name__ == "__main__":
    run(main, *sys.argv[1:])
