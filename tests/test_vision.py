"""Vision models: images as prompts, tokens as patches, attention equal to the model's own, planted heads found."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import VISION, make, save

from stages import families
from stages.families.family import CLASS, REGISTER
from stages.model import load
from stages.model.measure import measure
from stages.model.proof import prove
from stages.model.tokens import encode_all
from stages.store.errors import UserError
from stages.tasks.images import prompts as images
from stages.tasks.images.settings import Settings

SETTINGS = Settings(path="stages/tasks/images", images=10, side=48)
REGISTERS = {"vit": 0, "dinov2": 0, "dinov2_registers": 3}


@pytest.mark.parametrize("name", VISION)
def test_a_folder_is_loaded_and_proved(name, tmp_path):
    loaded, proof = prove(load.open_folder(save(name, tmp_path)))
    assert loaded.kind == "vision" and loaded.tokenizer is None
    assert loaded.images.registers == REGISTERS[name] and loaded.images.class_tokens == 1
    assert loaded.images.grid == (4, 4)
    assert proof == {
        "reads": "ok", "heads": "ok", "divides": "ok", "fuses": "ok", "resumes": "ok", "vectors": "ok",
        "caches": "not used: only decoders continue a text",
    }  # fmt: skip


@pytest.mark.parametrize("name", VISION)
def test_masses_are_those_of_eager_attention(name):
    loaded = make(name, scale=6.0)
    encoded = encode_all(loaded, images.build(SETTINGS, 0)[:3])
    asked = families.of("images")
    relations = [{n: r for n, f in asked.items() if (r := f.relation(tokens)) is not None} for tokens in encoded]
    masses = measure(loaded, encoded, relations).means
    own = 1 + REGISTERS[name]
    assert set(masses[0]) == {"class_token", "same_patch", "around"} | ({"registers"} if own > 1 else set())
    for tokens, means in zip(encoded, masses, strict=True):
        with torch.no_grad():
            attentions = loaded.model(torch.from_numpy(tokens.pixels)[None], output_attentions=True).attentions
        for layer, weights in enumerate(attentions):
            a_HPS = weights[0, :, own:].numpy()
            assert means["class_token"].values["mass"][layer] == pytest.approx(a_HPS[:, :, 0].mean(1), abs=1e-5)
            if own > 1:
                expected = a_HPS[:, :, 1:own].sum(2).mean(1)
                assert means["registers"].values["mass"][layer] == pytest.approx(expected, abs=1e-5)
            patches_HPP = a_HPS[:, :, own:]
            expected = np.mean([patches_HPP[:, p, p] for p in range(16)], axis=0)
            assert means["same_patch"].values["mass"][layer] == pytest.approx(expected, abs=1e-5)
            near = [
                sum(
                    patches_HPP[:, p, q]
                    for q in range(16)
                    if q != p and abs(p // 4 - q // 4) <= 1 and abs(p % 4 - q % 4) <= 1
                )
                for p in range(16)
            ]
            assert means["around"].values["mass"][layer] == pytest.approx(np.mean(near, axis=0), abs=1e-5)
