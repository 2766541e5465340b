"""A path of params that is a dep of DVC and is not there: the first stage says which key it is from."""

import re
from pathlib import Path

import pytest
import yaml

from stages import tidy
from stages.store import named, params, source
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / "tests/params.yaml"


def test_paths_that_are_looked_at_are_those_that_dvc_has_as_deps():
    settings, stages = params.load(PARAMS), yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    keys = set()
    for stage in stages.values():
        over = stage.get("foreach", "").strip("${}")
        for dep in stage.get("do", stage)["deps"]:
            for name in re.findall(r"^\$\{(.+)\}$", dep):
                each = [key for key, task in settings.tasks if task] if over == "tasks" else list(settings.recipes)
                keys |= {name.replace("item", f"{over}.{key}") for key in each} if "item." in name else {name}
    assert {"ngram.path", "tasks.icl.path", "recipes.parity.reads"} <= keys
    assert {key for key, _ in named.deps(settings)} == keys


@pytest.mark.parametrize("value", ["/nowhere/it's", '/nowhere/a"b', "~/text", "${x}", "no\nwhere", "x" * 300])
@pytest.mark.parametrize("key", ["tasks.text.path", "tasks.treebank.path", "ngram.path", "recipes.parity.words"])
def test_a_path_that_is_not_there_is_named_with_its_key(key, value, tmp_path, monkeypatch):
    content = yaml.safe_load(PARAMS.read_text())
    *sections, last = key.split(".")
    section = content
    for name in sections:
        section = section[name]
    section[last] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as said:
        tidy.main()
    # a name of 300 letters is no file's anywhere, which params know; a recipe's words are looked for first
    never = len(value) > 255 and not key.startswith("recipes")
    says = (
        "up to 255 bytes a name and 4,000 in all" if never else f"{key} = {source.shown(value)}: no such file or folder"
    )
    assert str(said.value).startswith(f"params.yaml: {key} = ") and str(said.value).endswith(says)
    assert not Path("data").exists()


MINE = [  # files of the user's in folders that stages write to
    "reports/figures/mine.png", "reports/slots/old-results/x.csv", "reports/recipes/mine/notes.txt",
    "data/asked/notes.md", "data/models/my.bin", "data/vectors/keep/x.npy", "data/checkpoints/mine/a.txt",
    "data/activations/tiny/notes.md",
]  # fmt: skip
STALE = [
    "reports/figures/old-heads.svg", "reports/slots/old/metrics.json", "reports/recipes/old/params.json",
    "data/asked/old.parquet", "data/models/old.json", "data/vectors/old/steering.parquet",
    "data/checkpoints/old/a-0/000001/config.json", "data/effects/old/effects.parquet",
    "data/activations/decoder/old.relations.parquet", "data/extracted/decoder/old/0123.0.parquet",
]  # fmt: skip


def test_what_stages_left_of_a_key_is_removed_and_the_users_own_files_stay(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    for name in [*MINE, *STALE]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("something")
    monkeypatch.chdir(tmp_path)
    tidy.main()
    assert [name for name in MINE if not Path(name).is_file()] == []
    assert [name for name in STALE if Path(name).exists()] == []
