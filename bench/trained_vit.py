"""A trained vision model through the slots: does it say what the recipe that trained it says?

    dvc repro full/dvc.yaml:train@patches; python -m bench.trained_vit    # writes bench/trained_vit.csv

The last checkpoints of the recipe `patches` (first seed) are saved as folders of Hugging Face's DINOv2 with registers,
their one channel of pixels spread over three, and held-out canvases as PNGs (8 bits of their own range). What the stage
`norms` reads of such a folder stands beside what the recipe's own code reads of the checkpoint and the exact canvases:
mean norms of states by kind of token, and attention to a kind's tokens from patches, mean over heads. The variant
`dumps` was trained without a class token, which the saved model has: there the two need not agree.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers as hf
from PIL import Image

from stages.families.family import CLASS, REGISTER
from stages.model.load import open_folder
from stages.model.norms import token_norms
from stages.model.tokens import encode_all
from stages.recipes.lesson import create
from stages.store import params, paths
from stages.tasks.images.prompts import build
from stages.tasks.images.settings import Settings
from stages.training import states, tagger

RECIPE, IMAGES = "patches", 40


def main() -> None:
    """Compare the variants with a class token and with registers."""
    recipe = params.load_studies(paths.FULL / paths.PARAMS).recipes[RECIPE]
    rows = []
    for arm in ("digit", "dumps"):
        training = recipe.arm(arm)
        checkpoint = paths.FULL / paths.checkpoint(RECIPE, arm, 0, training.kept[-1])
        held = create(recipe.task, recipe, training.arguments).held_out(np.random.default_rng(0), IMAGES)
        model = tagger.read(checkpoint, training.architecture)
        with tempfile.TemporaryDirectory() as folder:
            low, reach = float(held.inputs.min()), float(np.ptp(held.inputs))
            save(model, Path(folder), low, reach)
            draw(held.inputs, Path(folder) / "pictures", low, reach)
            slot = by_slot(Path(folder), held.inputs.shape[1])
        own = by_recipe(model, held.inputs, training.architecture.registers)
        both = slot.merge(own, on=["layer", "kind"], suffixes=("_slot", "_recipe"), how="outer")
        rows.append(both.assign(arm=arm))
    table = pd.concat(rows).sort_values(["arm", "layer", "kind"])
    columns = ["arm", "layer", "kind", "norm_slot", "norm_recipe", "attention_slot", "attention_recipe"]
    table[columns].to_csv("bench/trained_vit.csv", index=False, float_format="%.4f")


def save(model: tagger.Tagger, folder: Path, low: float, reach: float) -> None:
    """Write config, weights and image processor of the trained body, which reads pixels of low to low + reach."""
    body = model.dinov2_with_registers
    kept = {
        name: value
        for name, value in model.config.to_dict().items()
        if name in hf.Dinov2WithRegistersConfig().to_dict()
    }
    three = hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**kept | {"num_channels": 3}))
    weights, name = dict(body.state_dict()), "embeddings.patch_embeddings.projection.weight"
    three.load_state_dict(weights | {name: (weights[name] / 3).repeat(1, 3, 1, 1)})
    three.save_pretrained(folder)
    side, scaled = model.config.image_size, {"image_mean": [-low / reach] * 3, "image_std": [1 / reach] * 3}
    hf.ViTImageProcessorPil(size={"height": side, "width": side}, **scaled).save_pretrained(folder)


def draw(canvas_NHW: np.ndarray, folder: Path, low: float, reach: float) -> None:
    """Write canvases as pictures of 8 bits, black at low, white at low + reach."""
    folder.mkdir()
    for number, canvas_HW in enumerate(canvas_NHW):
        pixels_HW = np.round((canvas_HW - low) / reach * 255).astype(np.uint8)
        Image.fromarray(pixels_HW).save(folder / f"{number:03d}.png")


def by_slot(folder: Path, side: int) -> pd.DataFrame:
    """Read the saved folder and its pictures as a slot does."""
    loaded = open_folder(folder)
    settings = Settings(source="path", path=str(folder / "pictures"), images=IMAGES, side=side)
    encoded = encode_all(loaded, build(settings, 0))
    kind_T = np.array([{CLASS: "class", REGISTER: "register"}.get(int(index), "patch") for index in encoded[0].ids])
    return _rows(
        {layer: (norm_BT, got_BHT.mean(1)) for layer, (norm_BT, got_BHT) in token_norms(loaded, encoded).items()},
        kind_T,
    )


def by_recipe(model: tagger.Tagger, canvas_NHW: np.ndarray, registers: int) -> pd.DataFrame:
    """Read the checkpoint as the recipe does: registers first, no class token where it was trained without."""
    with states.states(model) as seen:
        _, attention = tagger.answers(model, canvas_NHW, registers, attention=True)
    kind_T = np.array(["register"] * registers + ["class"] * bool(model.config.pooled))
    kind_T = np.r_[kind_T, ["patch"] * (seen[0].shape[1] - len(kind_T))]
    patches_T = torch.from_numpy(kind_T == "patch")
    got = [weights_BHTS[:, :, patches_T].mean((1, 2)).numpy() for weights_BHTS in attention]
    got = [*got[1:], np.full_like(got[0], np.nan)]  # a state is looked at by the next layer
    return _rows({layer: (seen[layer + 1].norm(dim=-1).numpy(), got_BT) for layer, got_BT in enumerate(got)}, kind_T)


def _rows(layers: dict[int, tuple[np.ndarray, np.ndarray]], kind_T: np.ndarray) -> pd.DataFrame:
    """Return a row per layer and kind of token: mean norm, and the attention to all of them together."""
    return pd.DataFrame(
        {"layer": layer, "kind": kind, "norm": norm_BT[:, kind_T == kind].mean(),
         "attention": got_BT[:, kind_T == kind].sum(1).mean() if np.isfinite(got_BT).all() else np.nan}
        for layer, (norm_BT, got_BT) in layers.items() for kind in sorted(set(kind_T))
    )  # fmt: skip


if __name__ == "__main__":
    with torch.no_grad():
        main()
