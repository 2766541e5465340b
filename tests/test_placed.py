"""Other dtypes and places: the same findings, whatever weights are rounded to and wherever they lie."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from test_model_contract import prompt, relations
from tiny import make, save

from stages import fetch
from stages.model import load
from stages.model import proof as proof_of
from stages.model.forward import resuming
from stages.model.intervene import ablating, capturing
from stages.model.load import Loaded
from stages.model.measure import measure
from stages.model.proof import prove
from stages.model.score import Batch
from stages.model.vectors import Parts
from stages.store import params, paths
from stages.store.errors import UserError
from stages.store.params import Model

PLACES = {  # llama's modules, none within another
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.norm": "disk",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


def offloaded(name: str, place: str, folder: Path) -> Loaded:
    loaded = make(name, scale=3.0)
    if place == "cpu":
        cpu_offload(loaded.model, execution_device="cpu")
    else:
        disk_offload(loaded.model, folder, execution_device="cpu")
    assert next(loaded.model.parameters()).is_meta
    return loaded


def findings(loaded: Loaded) -> list[np.ndarray]:
    """What is measured, scored, ablated and read from weights."""
    prompts = [prompt(20, 4), prompt(23, 4)]
    found = measure(loaded, prompts, [relations(tokens) for tokens in prompts], outputs=True)
    numbers = [mean.values[name] for of in found.means for mean in of.values() for name in mean.values]
    numbers += [scored.logprob for scored in found.scored] + [z.numpy() for z in found.outputs.values()]
    batch = Batch(loaded, prompts, [tokens.target for tokens in prompts])
    sizes = {number: layer.head_size for number, layer in loaded.anatomy.layers.items()}
    for layer, size in sizes.items():
        numbers += [s.logprob for s in batch.ablated({(layer, 1): torch.full((size,), 0.3)}, everywhere=True)]
    means = {(layer, head): torch.linspace(-1, 1, sizes[layer]) for layer, head in loaded.anatomy.heads}
    return [*numbers, Parts(loaded, means).together([(1, 0), (2, 3)]).numpy()]


ELSEWHERE = {"ends": "not used: its LM head is not one matrix in the processor's memory"}


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2", "gemma3"])
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_models_give_the_same_numbers(name, place, tmp_path):
    plain, proof = prove(make(name, scale=3.0))
    other, again = prove(offloaded(name, place, tmp_path))
    assert again == proof | ELSEWHERE and other.anatomy == plain.anatomy and set(proof.values()) == {"ok"}
    for here, there in zip(findings(plain), findings(other), strict=True):
        np.testing.assert_allclose(there, here, atol=1e-6, rtol=1e-5)
    assert all(parameter.is_meta for parameter in other.model.parameters())  # and all went back


def test_skipped_blocks_are_not_brought_in_and_keep_their_dispatch(tmp_path):
    loaded = offloaded("llama_gqa", "disk", tmp_path)
    forwards = [block.forward for block in loaded.model.model.layers]
    brought = []
    for block in loaded.model.model.layers:
        block.mlp.up_proj.register_forward_hook(lambda module, *_: brought.append(not module.weight.is_meta))
    with resuming(loaded, 2, torch.ones(1, 5, 32)), torch.no_grad():
        loaded.model(input_ids=torch.arange(5)[None])
    assert len(brought) == 1 and [block.forward for block in loaded.model.model.layers] == forwards


def test_a_slot_is_fetched_and_loaded_as_params_say(tmp_path, monkeypatch):
    folder = save("llama_gqa", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    plain = load.open_folder(folder)
    for dtype, places in (("float32", None), ("bfloat16", None), ("float16", None), ("bfloat16", PLACES)):
        source = Model(source="path", name=str(folder), dtype=dtype, device_map=places)
        monkeypatch.setattr(params, "load", lambda source=source: type("Settings", (), {"models": {"a": source}}))
        fetch.main("a")
        record = json.loads(paths.model("a").read_text())
        assert record["dtype"] == dtype and record.get("device_map") == places
        fails = {name: said for name, said in record["proof"].items() if said != "ok"}
        assert fails == ({} if places is None else ELSEWHERE)
        loaded = load.load("a")
        assert loaded.model.dtype == getattr(torch, dtype) and loaded.anatomy == plain.anatomy
        assert any(p.is_meta for p in loaded.model.parameters()) == (places is not None)
        tolerance = {"float32": 1e-6, "float16": 0.02, "bfloat16": 0.2}[dtype]
        for exact, found in zip(findings(plain), findings(loaded), strict=True):
            assert found.dtype == exact.dtype == np.float32
            np.testing.assert_allclose(found, exact, atol=tolerance)


def test_sums_are_float32_where_the_model_is_not():
    """Shares of attention, summed in bfloat16, would not reach 1 within 1e-3."""
    loaded, tokens = make("llama_gqa"), prompt(64, 2)
    exact = measure(loaded, [tokens], [relations(tokens)])
    loaded.model.to(torch.bfloat16)
    coarse = measure(loaded, [tokens], [relations(tokens)], outputs=True)
    for name, mean in coarse.means[0].items():
        np.testing.assert_allclose(mean.values["mass"], exact.means[0][name].values["mass"], atol=2e-3)
    assert coarse.outputs[0].dtype == torch.float32 and coarse.scored[0].logprob.dtype == np.float32


def test_a_shortcut_that_fails_in_either_dtype_is_not_used(tmp_path, monkeypatch):
    folder, said = save("llama_gqa", tmp_path / "model"), iter([{"fuses": "ok", "caches": "no"}, {"fuses": "no"}])
    monkeypatch.setattr(proof_of, "prove", lambda loaded: (loaded, {"fuses": "ok", "caches": "ok"} | next(said)))
    loaded, proof = proof_of.proven(folder, "bfloat16", None)
    assert proof == {"fuses": "no", "caches": "no"} and not loaded.fuses and not loaded.caches and loaded.gathers


def test_a_shortcut_that_is_wrong_is_found_in_bfloat16_too():
    loaded = make("llama_gqa", scale=3.0)
    loaded.model.to(torch.bfloat16)
    body, seen = loaded.model.model, {}
    body.layers[0].register_forward_hook(lambda module, args, output: seen.update(y=output))
    body.layers[2].register_forward_pre_hook(lambda module, args: (args[0] + seen["y"].flip(-1), *args[1:]))
    _, proof = prove(loaded)
    assert proof["resumes"].startswith("not used: a pass that begins at block")


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    for wrong in ("all", {}, {"model": "ssd"}, {"": "cpu", "model": "disk"}, {"model": True}, ["cpu"]):
        with pytest.raises(ValueError, match=r"allowed: |lies within|is no place"):
            Model(source="path", name="x", device_map=wrong)
    with pytest.raises(ValueError, match="dtype"):
        Model(source="path", name="x", dtype="int8")
    folder = save("llama_gqa", tmp_path / "model")
    monkeypatch.setattr(load, "is_accelerate_available", lambda: False)
    with pytest.raises(UserError, match=r"device_map needs accelerate: pip install accelerate$"):
        load.open_folder(folder, "auto")


def test_a_device_map_names_modules_that_there_are(tmp_path):
    """accelerate reads past a name that is no module's: its weights would lie where nobody asked for them."""
    folder = save("llama_gqa", tmp_path / "model")
    modules = {"model": "cpu", "lm_head": "cpu"}
    load.open_folder(folder, modules)
    for wrong in ({"nope": "cpu"}, modules | {"nope": "disk"}, {"model": "cpu", "lm_heed": "cpu"}):
        name = next(path for path in wrong if path not in modules)
        with pytest.raises(
            UserError, match=rf"params.yaml: device_map: '{name}': no module of .*model; it has '', 'mod"
        ):
            load.open_folder(folder, wrong)


def test_an_edit_of_an_offloaded_head_is_that_of_the_model_in_memory(tmp_path):
    tokens, seen = prompt(20, 2), []
    for loaded in (make("gpt2", scale=3.0), offloaded("gpt2", "cpu", tmp_path)):
        with ablating(loaded, {(1, 2): torch.zeros(8)}), capturing(loaded) as outputs, torch.no_grad():
            loaded.model(input_ids=torch.from_numpy(tokens.ids)[None])
        seen.append(outputs[2])
    torch.testing.assert_close(seen[0], seen[1])
