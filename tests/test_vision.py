"""Vision models: images as prompts, tokens as patches, attention equal to the model's own, planted heads found."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
import yaml
from PIL import Image
from test_page import render, text_of
from tiny import PIXELS, VISION, make, processor, save

from stages import families, tasks
from stages.model import load
from stages.model.anatomy import find
from stages.model.images import layout, picture
from stages.model.measure import measure
from stages.model.norms import token_norms
from stages.model.proof import prove
from stages.model.sinks import look
from stages.model.tokens import encode_all
from stages.page.sections import images as section
from stages.statistics import norms
from stages.statistics.outliers import one_mode
from stages.statistics.verdict import judge
from stages.store import paths, tables
from stages.store.errors import UserError
from stages.tasks.images import prompts as images
from stages.tasks.images.settings import Settings
from stages.tasks.prompt import Prompt

ROOT = Path(__file__).parents[1]
SETTINGS = Settings(path="stages/tasks/images", images=10, side=48)
CLASSIFY = SimpleNamespace(resamples=10_000, alpha=0.05, margin=0.05, thresholds={})
REGISTERS = {"vit": 0, "dinov2": 0, "dinov2_registers": 3}


@pytest.mark.parametrize("name", VISION)
def test_a_folder_is_loaded_and_proved(name, tmp_path):
    loaded, proof = prove(load.open_folder(save(name, tmp_path)))
    assert loaded.kind == "vision" and loaded.tokenizer is None
    assert loaded.images.registers == REGISTERS[name] and loaded.images.class_tokens == 1
    assert loaded.images.grid == (4, 4)
    assert proof == {
        "reads": "ok", "heads": "ok", "divides": "ok", "fuses": "ok", "resumes": "ok", "vectors": "ok",
        "gathers": "not used: it has no LM head",
        "caches": "not used: only decoders continue a text",
        "ends": "not used: only a decoder may end with one matrix",
        "narrows": "not used: only in a decoder is nothing looked at but some rows of logits",
    }  # fmt: skip


@pytest.mark.parametrize("name", VISION)
def test_sinks_of_images_are_those_of_eager_attention_and_states(name):
    loaded = make(name, scale=6.0)
    encoded = encode_all(loaded, images.build(SETTINGS, 0)[:3])
    for tokens, seen in zip(encoded, look(loaded, encoded), strict=True):
        with torch.no_grad():
            run = loaded.model(torch.from_numpy(tokens.pixels)[None], output_attentions=True, output_hidden_states=True)
        assert list(seen.marks[: 2 + REGISTERS[name]]) == ["first", *["special"] * REGISTERS[name], "ordinary"]
        for layer, columns in seen.heads.items():
            a_HTT = run.attentions[layer][0].numpy()
            assert columns["first"] == pytest.approx(a_HTT[:, :, 0].mean(1), abs=1e-6)
            registers = a_HTT[:, :, 1 : 1 + REGISTERS[name]].sum(2).mean(1)
            assert columns["special"] == pytest.approx(registers, abs=1e-6)
            assert (columns["said"] > 0).all() and (columns["said"] < 1).all() and (columns["punctuation"] == 0).all()
            norms_T = run.hidden_states[layer + 1][0].norm(dim=1).numpy()
            if layer + 1 < len(seen.heads):  # the last one is given after the norm behind all blocks
                assert seen.tokens[layer]["norm"] == pytest.approx(norms_T / np.median(norms_T), rel=0.15)


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


def judged(loaded, count: int = 20) -> pd.DataFrame:
    """Whether each head is a member of each family, as extract and classify say."""
    encoded = encode_all(loaded, images.build(SETTINGS.model_copy(update={"images": count}), 0))
    asked = {n: f for n, f in families.of("images").items() if f.relation(encoded[0]) is not None}
    means = measure(loaded, encoded, [{n: f.relation(tokens) for n, f in asked.items()} for tokens in encoded]).means
    names = np.array([tokens.prompt for tokens in encoded])
    parts = []
    for name, family in asked.items():
        mass, null = (np.array([m[name].values[key].ravel() for m in means]) for key in ("mass", "mass_null"))
        none, split = np.full(len(names), np.nan), np.array(["a", "b"] * (len(names) // 2))
        columns = judge(family, mass, null, none, names, split, np.ones(len(names)), CLASSIFY, np.random.default_rng(0))
        heads = [f"L{layer}H{head}" for layer, head in loaded.anatomy.heads]
        parts.append(pd.DataFrame({"head": heads, "family": name, "member": columns["member"]}))
    return pd.concat(parts)


def planted():
    """A DINOv2 with registers whose head L1H2 asks for what only registers hold, and L2H0 for the class token."""
    loaded = make("dinov2_registers")
    embeddings, blocks = loaded.model.embeddings, loaded.model.encoder.layer
    embeddings.register_tokens[..., 5], embeddings.cls_token[..., 9] = 50.0, 50.0
    for layer, head, channel in ((1, 2, 5), (2, 0, 9)):
        attention = blocks[layer].attention
        rows = slice(8 * head, 8 * head + 8)
        for linear in (attention.q_proj, attention.k_proj):
            linear.weight[rows], linear.bias[rows] = 0.0, 0.0
        attention.q_proj.bias[8 * head], attention.k_proj.weight[8 * head, channel] = 20.0, 1.0
    return loaded


def test_planted_heads_are_found_and_only_they():
    members = judged(planted())
    members = members[members.member].set_index("head").family.to_dict()
    assert members == {"L1H2": "registers", "L2H0": "class_token"}


def test_a_random_model_has_no_members():
    assert not judged(make("dinov2_registers", scale=4.0)).member.any()


def test_norms_and_attention_are_those_of_a_plain_pass():
    loaded = make("dinov2_registers", scale=6.0)
    encoded = encode_all(loaded, images.build(SETTINGS, 0)[:2])
    measured = token_norms(loaded, encoded)
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack([tokens.pixels for tokens in encoded]))
        plain = loaded.model(pixels, output_attentions=True, output_hidden_states=True)
    for layer, (norm_BT, got_BHT) in measured.items():
        assert norm_BT == pytest.approx(plain.hidden_states[layer + 1].norm(dim=2).numpy(), rel=1e-4)
        if layer < 2:
            assert got_BHT == pytest.approx(plain.attentions[layer + 1][:, :, 4:].mean(2).numpy(), abs=1e-5)
        else:
            assert np.isnan(got_BHT).all()


def raw_norms(images: int = 10) -> pd.DataFrame:
    """Norms of a class token and 20 patches after two blocks; after the last, one patch is 40 times as long."""
    rows = []
    for number in range(images):
        for layer in (0, 1):
            for token in range(21):
                kind = "class" if token == 0 else "patch"
                long = layer == 1 and token == 7
                norm = 80.0 + number if long else 2.0 + 0.1 * (token % 3)
                got = np.nan if layer else (0.24 if token == 0 else 0.03 + 0.01 * (token == 7) - 0.0005 * (token == 8))
                rows.append((f"i{number}", f"i{number}", layer, token, kind, norm, got, got))
    return pd.DataFrame(rows, columns=tables.NORMS.names)


def test_patches_that_stand_out_are_counted_beside_the_others():
    table = norms.table(raw_norms()).set_index(["layer", "kind"])
    assert (0, "outlier") not in table.index
    row = table.loc[1, "outlier"]
    assert row.tokens == 1 and row.norm == pytest.approx(84.5) and row.images == 10 and np.isnan(row.attention)
    assert row.ratio == pytest.approx(84.5 / 2.1) and row.low < row.ratio < row.high
    first = table.loc[0, "class"]
    patches = (20 * 0.03 + 0.01 - 0.0005) / 20
    assert first.attention == pytest.approx(0.24) and first.attention_null == pytest.approx(patches)
    numbers = norms.metrics(norms.table(raw_norms()))
    assert numbers == {"outliers": 0.05, "outlier_norm": pytest.approx(84.5 / 2.1, abs=1e-4), "class": 0.24}
    assert not norms.outliers(np.full(9, 3.0)).any()  # all alike: nothing stands out
    assert not norms.outliers(np.random.default_rng(0).normal(size=10_000)).any()


def test_the_section_says_what_the_table_holds():
    table = norms.table(raw_norms())
    assert section.standing_out(table).startswith(
        "Patches stand out after 1 of 2 blocks with attention; after the last 5 % of the patches do, in 10 of 10 "
        "images, with norms 40.2 ["
    )
    p = one_mode(np.log(np.tile(np.r_[2.0 + 0.1 * (np.arange(1, 21) % 3)], 10)))
    assert table[table.layer == 0].modes_p.unique() == pytest.approx([p])
    said = section.modes(table.assign(modes_p=[0.02 if layer else 0.5 for layer in table.layer]), 0.05)
    assert said.startswith("Norms have more than one mode after block 1 (dip test, q at most 0.04;")
    assert section.modes(table.assign(modes_p=0.4), 0.05) == (
        "After no block more than one mode of norms is shown (dip test, smallest q 0.40)."
    )
    quiet = table[table.kind != "outlier"]
    assert section.standing_out(quiet) == "No patch of any image stands out after any of the 2 blocks with attention."
    assert section.looked_at(table.dropna(subset="attention")) == (
        "Attention, mean over layers from the second, heads and images: class token 0.240 (as many other patches: "
        "0.030)."
    )


def test_pictures_may_be_smaller_than_a_digit_and_canvases_may_not(tmp_path):
    for number in range(2):
        Image.new("RGB", (20, 20), (0, 90 * number, 0)).save(tmp_path / f"{number}.png")
    made = images.build(Settings(source="path", path=str(tmp_path), images=2, side=20), 0)
    assert {picture(prompt.text).size for prompt in made} == {(20, 20)}
    with pytest.raises(ValueError, match="side: 20 pixels hold no digit of 24"):
        Settings(path="unused", images=2, side=20)


def test_images_are_the_same_bytes_and_squares(tmp_path):
    made = images.build(SETTINGS, 17)
    assert made == images.build(SETTINGS, 17) and made != images.build(SETTINGS, 18)
    assert made[:4] == images.build(SETTINGS.model_copy(update={"images": 4}), 17)
    assert {picture(prompt.text).size for prompt in made} == {(48, 48)} and {p.split for p in made} == {"a", "b"}
    pixels = np.asarray(picture(made[0].text))
    assert pixels.max() > 200 and (pixels < 64).mean() > 0.3  # bright digits on dark noise
    for number, size in enumerate(((60, 40), (33, 90))):
        Image.new("RGB", size, (200, 10 * number, 30)).save(tmp_path / f"{number}.png")
    folder = Settings(source="path", path=str(tmp_path), images=2, side=32)
    built = images.build(folder, 0)
    assert {prompt.cluster for prompt in built} == {"0.png", "1.png"}
    assert {picture(prompt.text).size for prompt in built} == {(32, 32)}
    with pytest.raises(UserError, match=r"2 pictures .*; tasks.images asks for 3"):
        images.build(folder.model_copy(update={"images": 3}), 0)
    whole = bytearray((tmp_path / "0.png").read_bytes())
    whole[37:41] = b"\x00\x00\x00\x00"  # the name of a chunk
    (tmp_path / "chunk.png").write_bytes(whole)
    with pytest.raises(UserError, match=r"chunk\.png: not a readable picture"):
        images.build(folder.model_copy(update={"images": 3}), 0)
    (tmp_path / "chunk.png").unlink()
    (tmp_path / "broken.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"broken\.jpg: not a readable picture"):
        images.build(folder.model_copy(update={"images": 3}), 0)


def test_who_cannot_be_asked_says_why_in_one_line():
    with pytest.raises(UserError, match="a model of images reads no text"):
        encode_all(make("vit"), [Prompt(id="text/short/0", condition="short", cluster="0", text="A cat.")])
    for name in tasks.names():
        why = tasks.of(name).refuses("vision")
        assert why == ("" if name == "images" else "a model of images reads no text")
    for kind in ("decoder", "encoder", "masked"):
        assert tasks.of("images").refuses(kind) == "a model of text reads no images"


def test_a_classifier_is_read_without_its_head_and_a_folder_without_processor_is_refused(tmp_path):
    torch.manual_seed(0)
    model = hf.ViTForImageClassification(hf.ViTConfig(**PIXELS))
    model.save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match=r"without preprocessor_config\.json"):
        load.open_folder(tmp_path / "a")
    processor().save_pretrained(tmp_path / "a")
    loaded = load.open_folder(tmp_path / "a")
    assert type(loaded.model).__name__ == "ViTModel" and len(loaded.anatomy.heads) == 12
    hf.ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match="does not run on what its image processor gives"):
        load.open_folder(tmp_path / "a")
    hf.ViTImageProcessorPil(size={"height": 18, "width": 18}).save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match=r"patches of \(4, 4\) pixels .* do not fill images of \(18, 18\)"):
        load.open_folder(tmp_path / "a")


def test_tokens_that_are_no_patches_are_refused(tmp_path):
    save("vit", tmp_path)
    model, reader = load._opened(tmp_path)
    model.embeddings.register_forward_hook(lambda module, args, output: output.flip(1))
    with pytest.raises(UserError, match="its tokens are not the patches of the image, row by row"):
        layout(model, find(model).blocks[0], reader)


@pytest.fixture
def slot(tmp_path, monkeypatch) -> str:
    """A folder in which every stage of a vision slot has run, in the order of dvc.yaml."""
    save("dinov2_registers", tmp_path / "model", scale=6.0)
    content = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
    content["models"] = {"seeing": {"source": "path", "name": "model"}}
    content["tasks"] = {name: content["tasks"][name] for name in ("text", "icl")}
    for task in content["tasks"].values():
        task["path"] = str(ROOT / task["path"])
    content["tasks"]["images"] = {"path": "unused", "images": 10, "side": 48}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    for task in content["tasks"]:
        importlib.import_module("stages.prepare").main(task)
    tables.NGRAM.write_empty(why="not counted")
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        main = importlib.import_module(f"stages.{name}").main
        if name == "extract":
            for task in content["tasks"]:
                main("seeing", task)
        elif stage.get("foreach") == "${models}":
            main("seeing")
    return "seeing"


def test_every_stage_of_a_vision_slot_runs_or_says_why_not(slot):
    heads = tables.HEADS.read(slot)
    assert set(heads.family) == {"class_token", "registers", "same_patch", "around"} and len(heads) == 4 * 12
    record = json.loads((paths.report(slot) / "model.json").read_text())
    assert record["kind"] == "vision" and record["images"]["registers"] == 3
    missing = record["not_measured"]
    assert missing["family sink"] == missing["steering"] == "a model of images reads no text"
    assert "looked at only" in missing["ablation"] and "family duplicate" not in missing  # its task is not in params
    assert set(pd.read_csv(paths.report(slot) / "images.csv").kind) == {"class", "register", "patch"}
    numbers = json.loads((paths.report(slot) / "metrics.json").read_text())
    assert set(numbers) == {"heads", "images", "sinks"} and set(numbers["images"]) == {"outliers", "class", "registers"}
    sunk = tables.SINK_HEADS.read(slot)
    assert set(sunk.input) == {"natural"} and len(sunk) == 3 * 12  # images asked for, heads of all layers
    assert sunk[["first", "value", "said", "output"]].notna().all().all()
    assert missing["probes"].startswith("images are probed for nothing")
    shown = text_of(render(paths.report(slot)))
    assert "on 3 images. Too few images for a claim." in shown
    assert "attention to it, averaged over all tokens as queries" in shown
    raw = tables.NORMS.read(slot)
    before = tables.NORMS.path(slot).read_bytes()
    assert len(raw) == 10 * 3 * 20
    importlib.import_module("stages.sinks").main(slot)
    assert tables.NORMS.path(slot).read_bytes() == before
