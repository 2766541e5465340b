"""A model's folder that is broken, ambiguous or incomplete ends fetch with one line that says what, exit code 1."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from tiny import DECODERS, IDS, SMALL, make, save, tokenizer
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaModel,
    ViTConfig,
    ViTModel,
)

from stages import fetch
from stages.model import files, load, origin
from stages.model.tokens import encode
from stages.store import paths
from stages.store.errors import UserError, run
from stages.store.params import Model
from stages.tasks.prompt import Prompt

ROOT = Path(__file__).parents[1]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write_params(folder: Path) -> None:
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text())
    content["models"] = {"a": {"source": "path", "name": str(folder)}}
    Path("params.yaml").write_text(yaml.safe_dump(content))


def refusal(folder: Path) -> str:
    """Run fetch as a command; return the one line that it ends with."""
    write_params(folder)
    with pytest.raises(SystemExit) as ended:
        run(fetch.main, "a")
    line = str(ended.value.code)  # Python prints a text to stderr and exits with 1
    assert line.startswith("error: ") and "\n" not in line and len(line) < 700
    assert not paths.model("a").exists()
    return line


def edit(folder: Path, change) -> None:
    """Change the tensors of a folder's safetensors in place."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def configure(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def sharded(folder: Path) -> list[str]:
    """Save a model again in shards; return their names."""
    model = make("llama_gqa").model
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    return sorted(file.name for file in folder.glob("model-*.safetensors"))


def write_gguf(file: Path, parts: int = 1, without: str = "") -> None:
    """Write a random llama of two layers as llama.cpp would, in float32, with the tiny tokenizer."""
    core = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(core["vocab"], key=core["vocab"].get)
    writer = GGUFWriter(file, "llama")
    sizes = {"context_length": 64, "embedding_length": 32, "block_count": 2, "feed_forward_length": 48}
    for name, value in {**sizes, "head_count": 4, "head_count_kv": 2, "layer_norm_rms_eps": 1e-5}.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index < 4 else 1 for index in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in core["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,), "output": (len(tokens), 32)}
    for layer in range(2):
        inside = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
        inside |= {
            "ffn_gate": (48, 32),
            "ffn_up": (48, 32),
            "ffn_down": (32, 48),
            "attn_norm": (32,),
            "ffn_norm": (32,),
        }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in inside.items()}
    for name, shape in shapes.items():
        if name != without:
            writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def missing_tensor(folder):
    edit(folder, lambda tensors: tensors.pop(Q_PROJ))


def renamed_tensor(folder):
    edit(folder, lambda tensors: tensors.update({Q_PROJ.replace("q_proj", "query"): tensors.pop(Q_PROJ)}))


def renamed_file(folder):
    (folder / WEIGHTS).rename(folder / "weights.safetensors")


def truncated(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])


def empty(folder):
    (folder / WEIGHTS).write_bytes(b"")


def not_a_number(folder):
    edit(folder, lambda tensors: tensors[Q_PROJ].view(-1)[7].fill_(torch.nan))


def infinite(folder):
    edit(folder, lambda tensors: tensors[Q_PROJ].view(-1)[7].fill_(torch.inf))


def whole_numbers(folder):
    edit(folder, lambda tensors: tensors.update({Q_PROJ: (tensors[Q_PROJ] * 100).to(torch.int8)}))


def booleans(folder):
    edit(folder, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ] > 0}))


def complex_numbers(folder):
    edit(folder, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ].to(torch.complex64)}))


def packed(folder):
    def change(tensors):
        tensors[Q_PROJ.replace("weight", "qweight")] = tensors.pop(Q_PROJ).to(torch.int32)

    edit(folder, change)
    configure(folder, quantization_config={"quant_method": "of my own"})


def wrong_shape(folder):
    edit(folder, lambda tensors: tensors.update({Q_PROJ: torch.zeros(32, 16)}))


def config_of_nothing(folder):
    (folder / "config.json").write_text("null")


def cut_by_config(folder):
    configure(folder, num_hidden_layers=2)


def another_type(folder):
    configure(folder, model_type="gpt2", architectures=["GPT2LMHeadModel"])


def headless_masked(folder):
    shutil.rmtree(folder)
    BertModel(BertConfig(**SMALL, **IDS)).save_pretrained(folder)
    tokenizer("masked").save_pretrained(folder)
    configure(folder, architectures=["BertForMaskedLM"])


def headless_causal(folder):
    shutil.rmtree(folder)
    LlamaModel(LlamaConfig(**SMALL, **IDS)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def pixels(folder):
    shutil.rmtree(folder)
    ViTModel(ViTConfig(**SMALL, image_size=16, patch_size=4)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def adapter_beside(folder):
    (folder / "adapter_config.json").write_text("{}")


def pointer(folder):
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n")


def link_to_nothing(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder / "blobs" / "gone")


def pickled(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def shards_elsewhere(folder):
    (folder / "shards").mkdir()
    for name in sharded(folder):
        (folder / name).rename(folder / "shards" / name)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {key: f"shards/{name}" for key, name in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))


def shard_missing(folder):
    (folder / sharded(folder)[1]).unlink()


def index_and_whole(folder):
    whole = (folder / WEIGHTS).read_bytes()
    sharded(folder)
    (folder / WEIGHTS).write_bytes(whole)


def index_cut(folder):
    sharded(folder)
    (folder / INDEX).write_text('{"weight_map": {')


def gguf_beside(folder):
    write_gguf(folder / "tiny.gguf")


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def two_ggufs(folder):
    emptied(folder)
    write_gguf(folder / "tiny-Q8_0.gguf")
    write_gguf(folder / "tiny-Q4_0.gguf")


def split_by_name(folder):
    emptied(folder)
    write_gguf(folder / "tiny-00001-of-00003.gguf")


def split_inside(folder):
    emptied(folder)
    write_gguf(folder / "tiny.gguf", parts=3)


def gguf_incomplete(folder):
    emptied(folder)
    write_gguf(folder / "tiny.gguf", without="blk.1.attn_q")


def gguf_truncated(folder):
    emptied(folder)
    write_gguf(folder / "tiny.gguf")
    (folder / "tiny.gguf").write_bytes((folder / "tiny.gguf").read_bytes()[:-3000])


def gguf_header(folder):
    emptied(folder)
    write_gguf(folder / "tiny.gguf")
    content = bytearray((folder / "tiny.gguf").read_bytes())
    content[8:400] = bytes(reversed(content[8:400]))
    (folder / "tiny.gguf").write_bytes(content)


def no_object_for_the_tokenizer(folder):
    (folder / "tokenizer_config.json").write_text("[]")


def byte_order_mark(folder):
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())


def head_that_writes_nothing(folder):
    edit(folder, lambda tensors: tensors["model.layers.1.self_attn.o_proj.weight"][:, :8].zero_())


def no_finite_norm(folder):
    configure(folder, rms_norm_eps=float("nan"))


def processor_of_no_pixels(folder):
    shutil.rmtree(folder)
    save("vit", folder)
    (folder / "preprocessor_config.json").write_text(
        '{"size": {"height": 0, "width": 16}, "image_processor_type": "ViTImageProcessor"}'
    )


def no_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def tokenizer_made_up(folder):
    """transformers makes an empty tokenizer for some types, GPT-2 among them, where the folder has none."""
    shutil.rmtree(folder)
    DECODERS["gpt2"]().save_pretrained(folder)


def foreign_tokenizer(folder):
    shutil.rmtree(folder)
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=3, vocab_size=100)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


BROKEN = {
    missing_tensor: rf"the weights lack {Q_PROJ}, which LlamaForCausalLM",
    renamed_tensor: rf"the weights lack {Q_PROJ}, which LlamaForCausalLM",
    renamed_file: "holds neither model.safetensors nor model.safetensors.index.json, but weights.safetensors",
    truncated: r"model\.safetensors: damaged or cut \(.*\); get it again",
    empty: r"model\.safetensors: damaged or cut \(.*\); get it again",
    not_a_number: rf"{Q_PROJ} holds values that are not finite",
    infinite: rf"{Q_PROJ} holds values that are not finite",
    whole_numbers: rf"model\.safetensors: {Q_PROJ} is stored as I8",
    booleans: rf"model\.safetensors: {Q_PROJ} is stored as BOOL",
    complex_numbers: rf"model\.safetensors: {Q_PROJ} is stored as C64",
    packed: rf"the weights lack {Q_PROJ}",
    wrong_shape: rf"{Q_PROJ} has shape \(32, 16\); config.json asks for \(32, 32\)",
    config_of_nothing: r"config\.json: expected an object",
    cut_by_config: r"no place for model\.layers\.2\.input_layernorm\.weight, .* and 6 more",
    another_type: r"the weights lack transformer\.h\.0",
    headless_masked: r"lack the language-model head of BertForMaskedLM: cls\.predictions\.bias",
    headless_causal: r"lack the language-model head of LlamaForCausalLM: lm_head\.weight",
    pixels: r"a model of images, without preprocessor_config\.json",
    adapter_beside: r"adapter_config\.json: an adapter is not applied to the model; merge it",
    pointer: r"model\.safetensors: a git-lfs pointer, not the file itself; run git lfs pull",
    link_to_nothing: r"model\.safetensors: cannot be read \(No such file",
    pickled: r"pytorch_model\.bin: pickled weights are not read",
    shards_elsewhere: r"shard shards/model-00001-of-\d+\.safetensors lies outside this folder",
    shard_missing: r"shard model-00002-of-\d+\.safetensors is missing",
    index_and_whole: r"unclear which model is meant: model\.safetensors or model\.safetensors\.index\.json",
    index_cut: r"index\.json: no index of shards",
    gguf_beside: r"unclear which model is meant: tiny\.gguf, model\.safetensors",
    two_ggufs: r"unclear which model is meant: tiny-Q4_0\.gguf, tiny-Q8_0\.gguf",
    split_by_name: r"tiny-00001-of-00003\.gguf: part 1 of 3; merge them \(llama-gguf-split --merge\)",
    split_inside: r"tiny\.gguf: one of 3 parts; merge them",
    gguf_incomplete: r"tiny\.gguf: the weights lack model\.layers\.1\.self_attn\.q_proj\.weight",
    gguf_truncated: r"tiny\.gguf: cannot be read as a GGUF model",
    gguf_header: r"tiny\.gguf: cannot be read as a GGUF model",
    no_object_for_the_tokenizer: r"tokenizer_config\.json: not an object; expected an object of JSON",
    byte_order_mark: r"config\.json: not JSON \(Unexpected UTF-8 BOM .*\); expected an object of JSON, in UTF-8",
    head_that_writes_nothing: r"it cannot be measured \(proof of heads\): no output depends on L1H0",
    no_finite_norm: r"no attention head can be measured",
    processor_of_no_pixels: r"its image processor makes no pixels of a picture \(",
    no_tokenizer: r"cannot be loaded as a model \(.*tokenizer",
    tokenizer_made_up: r"its tokenizer has no vocabulary; tokenizer\.json is missing or empty",
    foreign_tokenizer: r"the tokenizer has \d+ tokens, the model 100",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_folder_ends_in_one_line(broken, tmp_path):
    folder = save("llama_gqa", tmp_path / "model")
    broken(folder)
    assert re.search(BROKEN[broken], line := refusal(folder)), line
    assert str(folder) in line
    assert not list(files.cache().glob("*.part"))


def test_whole_folders_pass(tmp_path):
    """The counterpart: shards beside their index, a GGUF file alone; and what is recorded is what is read."""
    folder = save("llama_gqa", tmp_path / "model")
    names = sharded(folder)
    write_params(folder)
    fetch.main("a")
    assert set(names) <= json.loads(paths.model("a").read_text())["files"].keys()

    alone = tmp_path / "gguf"
    alone.mkdir()
    write_gguf(alone / "tiny.gguf")
    write_params(alone)
    fetch.main("a")
    record = json.loads(paths.model("a").read_text())
    assert record["stored"] == "GGUF ALL_F32" and record["bos"] == "<bos>"
    assert {"tiny.gguf", "float32/model.safetensors", "float32/tokenizer.json"} <= record["files"].keys()


def test_a_damaged_conversion_is_made_again_and_never_read(tmp_path):
    folder = tmp_path / "gguf"
    folder.mkdir()
    write_gguf(folder / "tiny.gguf")
    before = origin.described(where := origin.find_origin("a", Model(source="path", name=str(folder))))
    (made,) = files.cache().glob("*/model.safetensors")
    content = bytearray(made.read_bytes())
    content[-1000:] = bytes(1000)
    made.write_bytes(content)
    loaded = load.open_folder(folder)
    assert origin.changed(where, before) == ""
    assert loaded.model.lm_head.weight.ne(0).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [("tokenizer_config.json", "(gone)"), ("added_tokens.json", "(new)"), ("config.json", "")],
)
def test_sets_of_files_are_compared(name, said, tmp_path):
    folder = save("llama_gqa", tmp_path / "model")
    write_params(folder)
    fetch.main("a")
    load.load("a")
    if said == "(gone)":
        (folder / name).unlink()
    elif said == "(new)":
        (folder / name).write_text("{}")
    else:
        configure(folder, rms_norm_eps=0.5)
    with pytest.raises(UserError, match=rf"{name} ?\(?.*differs from data/models/a\.json") as error:
        load.load("a")
    assert said in str(error.value)


def test_a_cut_memory_of_hashes_is_no_obstacle(tmp_path):
    folder = save("gpt2", tmp_path / "model")
    sha = files.fingerprint(folder / WEIGHTS)
    for content in (b"", b"null", b"[1]", b"\xff\x00", b'{"a": '):
        (files.cache() / "sha256.json").write_bytes(content)
        assert files.fingerprint(folder / WEIGHTS) == sha


def changed_tokenizer(folder: Path, **changes) -> Path:
    """Save a tiny model whose tokenizer.json (or, as `bos_token`, tokenizer_config.json) is changed."""
    save("llama_gqa", folder)
    for file, keys in (("tokenizer.json", changes.keys() - {"bos_token"}), ("tokenizer_config.json", {"bos_token"})):
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        for key in keys & changes.keys():
            content[key] = changes[key](content[key]) if callable(changes[key]) else changes[key]
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_tokens_without_an_embedding_are_refused(tmp_path):
    moved = changed_tokenizer(
        tmp_path / "moved",
        model=lambda model: model | {"vocab": {token: number + 1000 for token, number in model["vocab"].items()}},
    )
    assert re.search("the tokenizer's token '!' is number 1[0-9]{3}, the model has embeddings of 328", refusal(moved))
    for number, bos in enumerate(("<nowhere>", "\x00\x1b")):
        line = refusal(changed_tokenizer(tmp_path / f"bos{number}", bos_token=bos))
        assert "is number 328, the model has embeddings of 328: they do not belong together" in line
    masking = changed_tokenizer(tmp_path / "masking")
    settings = json.loads((masking / "tokenizer_config.json").read_text(encoding="utf-8"))
    (masking / "tokenizer_config.json").write_text(json.dumps(settings | {"mask_token": "<nowhere>"}), encoding="utf-8")
    assert load.open_folder(masking).tokenizer.mask_token_id == 328  # never read: a decoder masks nothing
    empty = load.open_folder(changed_tokenizer(tmp_path / "empty", bos_token=""))
    assert load.first_token(empty) is None


def test_merges_are_dropped_in_no_reading(tmp_path):
    """BPE dropout is for models that learn: a text would be cut otherwise each time that it is read."""
    folder = changed_tokenizer(tmp_path / "model", model=lambda model: model | {"dropout": 0.5})
    tokenizer, text = load.open_folder(folder).tokenizer, "the cat sees a house and the tree"
    save("llama_gqa", tmp_path / "plain")
    plain = load.open_folder(tmp_path / "plain").tokenizer(text)["input_ids"]
    assert all(tokenizer(text)["input_ids"] == plain for _ in range(20))


def test_a_prompt_of_which_nothing_or_an_unknown_token_is_read_is_named(tmp_path):
    prompt = Prompt(id="text/short/0003", condition="c", cluster="c", text="the zz")
    replace = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}
    silent = load.open_folder(changed_tokenizer(tmp_path / "silent", normalizer=replace))
    with pytest.raises(UserError, match="prompt text/short/0003: the model's tokenizer makes no token of 'the zz'"):
        encode(silent, row_of(prompt))
    more = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    far = changed_tokenizer(
        tmp_path / "far", added_tokens=lambda tokens: [*tokens, more | {"id": 328, "content": "zz"}]
    )
    with pytest.raises(UserError, match="prompt text/short/0003: the tokenizer reads 'zz' as token 328"):
        encode(load.open_folder(far), row_of(prompt))


def row_of(prompt: Prompt) -> SimpleNamespace:
    return SimpleNamespace(**asdict(prompt))
