"""Norms of an image's tokens, and what attention they get: the part of stage `sinks` for models of images.

Writes data/sinks/<slot>/norms.parquet, one row per (image, layer, token): models of images without registers keep what
is common to an image in a few patches of the background, whose norms stand out and which heads then look at (Darcet+
ICLR 2024). Which norms stand out is judged by `stages.statistics.norms`, without a fixed cut. Models of text: no rows.
"""

import logging

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.families.family import CLASS, REGISTER
from stages.store import params, records, tables

log = logging.getLogger(__name__)
TASK = "images"
KINDS = {CLASS: "class", REGISTER: "register"}  # of a token that is no patch, by its id


def measure(slot: str, settings: params.Params) -> None:
    """Read all images, or say why there are none."""
    record = records.read(slot)
    if why := tasks.unasked(TASK, record["kind"], settings.tasks):
        return tables.NORMS.write_empty(slot, why=why)
    from stages.model.cost import Work, announce
    from stages.model.forward import batches
    from stages.model.load import load
    from stages.model.norms import token_norms
    from stages.model.tokens import encode_all

    loaded = load(slot)
    rows = list(tables.PICTURES.read(TASK).itertuples())
    encoded = encode_all(loaded, rows)
    log.info(announce(f"norms {slot}", len(rows), Work(sum(map(len, encoded))), loaded))
    states = len(loaded.anatomy.layers) * sum(map(len, encoded))
    with tables.NORMS.writer(slot, asked=states) as add:
        for chosen in tqdm(list(batches(encoded, settings.extract.batch_tokens)), desc="norms", unit="batch"):
            measured = token_norms(loaded, [encoded[index] for index in chosen])
            for place, index in enumerate(chosen):
                image = {layer: (norm_BT[place], got_BHT[place]) for layer, (norm_BT, got_BHT) in measured.items()}
                add(image_rows(rows[index], encoded[index], image))


def image_rows(row, tokens, measured: dict[int, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """Return the rows of NORMS of one image; measured: layer -> norms (T,) and attention (H, T)."""
    same = {"prompt": row.id, "cluster": row.cluster, "token": np.arange(len(tokens))}
    same |= {"kind": [KINDS.get(int(index), "patch") for index in tokens.ids]}
    layers = [
        pd.DataFrame(same | {"layer": layer, "norm": norm_T, "attention": got_HT.mean(0), "most": got_HT.max(0)})
        for layer, (norm_T, got_HT) in measured.items()
    ]
    return pd.concat(layers)[tables.NORMS.names]
