"""What fetch records of a model: what it begins with, and what pins it."""

import json
import logging
from pathlib import Path

import pytest
import yaml
from tiny import save

from stages import fetch
from stages.model import load
from stages.store import paths

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def fetched(folder: Path) -> dict:
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text())
    content["models"] = {"a": {"source": "path", "name": str(folder)}}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    fetch.main("a")
    return json.loads(paths.model("a").read_text())


def test_what_prompts_begin_with_is_recorded(tmp_path, caplog):
    assert fetched(save("llama_gqa", tmp_path / "decoder"))["bos"] == "<bos>"
    assert fetched(save("bert", tmp_path / "masked"))["bos"] == "<bos>"  # its [CLS]
    assert "no BOS" not in caplog.text


def test_no_bos_is_said(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    folder = save("llama_gqa", tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert fetched(folder)["bos"] is None
    assert "a: its tokenizer has no BOS; every prompt begins with its first word" in caplog.text


def test_every_file_is_recorded_and_nothing_else(tmp_path):
    folder = save("llama_gqa", tmp_path / "model")
    (folder / "notes.txt").write_text("not read")
    record = fetched(folder)
    assert set(record["files"]) == {file.name for file in folder.iterdir()} - {"notes.txt"}
    assert load.load("a").kind == record["kind"]
    (folder / "notes.txt").write_text("still not read")
    load.load("a")
