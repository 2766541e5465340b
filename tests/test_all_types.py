"""The bench over all model types: what it calls right is right, and each of its checks can fail."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from bench import tiny_types
from bench.all_types import tried
from bench.reference import Reference, naive
from bench.type_checks import SHORT, Trial, Wrong
from stages.families.family import Relation
from stages.model.load import open_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    torch.set_num_threads(1)
    tiny_types.save("llama", "LlamaForCausalLM", folder)
    return folder


def trial(folder, **changed) -> Trial:
    """The bench's trial of a tiny Llama whose anatomy is changed as asked in every layer."""
    loaded = open_folder(folder)
    layers = {
        number: replace(layer, **{field: new(layer) for field, new in changed.items()})
        for number, layer in loaded.anatomy.layers.items()
    }
    anatomy = replace(loaded.anatomy, layers=layers)
    return Trial(replace(loaded, anatomy=anatomy), Reference(folder, "LlamaForCausalLM"))


def test_the_committed_table_has_no_type_that_is_wrong_or_ends_in_a_traceback():
    """A row of a run before a fix stood there for two days."""
    with (Path(__file__).parents[1] / "bench/all_types.csv").open() as file:
        assert {row["outcome"] for row in csv.DictReader(file)} <= {"right", "refused", "not built"}


def test_every_type_of_the_library_is_tried():
    listed = {(name, cls) for name, cls, _ in tiny_types.types()}
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()) <= listed
    assert set(MODEL_FOR_MASKED_LM_MAPPING_NAMES.items()) <= listed


def test_a_tiny_config_keeps_every_kind_of_layer():
    made = tiny_types.config("qwen3_next", "Qwen3NextForCausalLM")
    assert made.num_hidden_layers == len(made.layer_types) == 4
    assert set(made.layer_types) == {"linear_attention", "full_attention"}
    assert tiny_types.config("gemma3_text", "Gemma3ForCausalLM").sliding_window == tiny_types.REACH < SHORT


def test_a_right_model_is_called_right(tmp_path):
    row = tried("llama", "LlamaForCausalLM", tmp_path)
    assert (row["outcome"], row["kind"]) == ("right", "decoder"), row["detail"]


def test_a_wrong_projection_is_noticed(folder):
    with pytest.raises(Wrong, match="does not read"):
        trial(folder, projection=lambda layer: layer.projection.replace("o_proj", "q_proj")).check_projection()


def test_a_wrong_window_is_noticed(folder):
    with pytest.raises(Wrong, match="has window 16"):
        trial(folder, window=lambda layer: 16).check_layers()


def test_a_wrong_kind_is_noticed(folder):
    right = trial(folder)
    with pytest.raises(Wrong, match="later token"):
        Trial(replace(right.loaded, kind="masked"), right.reference).check_kind()


def test_a_wrong_number_is_noticed(folder):
    """With other weights in the project's model than in the reference's every numeric check fails."""
    wrong = trial(folder)
    with torch.no_grad():
        wrong.loaded.model.model.layers[1].self_attn.q_proj.weight.mul_(1.5)
        wrong.loaded.model.model.layers[0].self_attn.o_proj.weight.mul_(1.5)
    for check in ("logits", "statistics", "ablation", "shortcut", "last_token", "vector", "padding"):
        with pytest.raises(Wrong):
            getattr(wrong, f"check_{check}")()


def test_a_lost_layer_is_noticed(folder):
    loaded = open_folder(folder)
    fewer = replace(loaded, anatomy=replace(loaded.anatomy, layers={1: loaded.anatomy.layers[1]}))
    with pytest.raises(Wrong, match="3 attention modules"):
        Trial(fewer, Reference(folder, "LlamaForCausalLM")).check_coverage()


def test_statistics_by_loops():
    """Two heads, three tokens, one query that sees keys 0 and 1."""
    weights = np.array([[[1, 0, 0], [0.25, 0.75, 0], [0.2, 0.3, 0.5]], [[1, 0, 0], [0.6, 0.4, 0], [0.1, 0.1, 0.8]]])
    asked = Relation(np.array([1]), np.array([[False, True, True]]))
    found = naive(weights, asked, special=np.zeros(3, dtype=bool))
    np.testing.assert_allclose(found["mass"], [0.75, 0.4])
    np.testing.assert_allclose(found["hits"], [1, 0])
    np.testing.assert_allclose(found["mass_null"], [0.25, 0.6])  # key 0 alone, and one visible target


def test_a_learned_sink_by_loops():
    """One head whose second row leaves 0.3 to a sink: one more target, of average keys' size in the null."""
    weights = np.array([[[1, 0], [0.2, 0.5]]])
    asked = Relation(np.array([1]), np.array([[False, True]]), sink=True)
    found = naive(weights, asked, special=np.zeros(2, dtype=bool), sink=True)
    np.testing.assert_allclose([found["mass"], found["mass_null"]], [[0.8], [0.4]])
