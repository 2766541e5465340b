"""Functions, paradigms and needles of one's own beside the built-in ones: files in the folder that `path` names."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from stages import tasks
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
TASKS = yaml.safe_load((ROOT / "tests/params.yaml").read_text())["tasks"]


def build(task: str, path: Path, **changed):
    kind = tasks.of(task)
    return kind.build(kind.settings(**TASKS[task] | changed | {"path": str(path)}), 17)


def test_a_function_is_added_to_the_lexicon_and_changes_no_other(tmp_path):
    shutil.copy(ROOT / "stages/sources/words/functions.yaml", tmp_path)
    before = build("icl", tmp_path)
    assert before == build("icl", ROOT / TASKS["icl"]["path"])
    pairs = [{"input": f"word{number}", "output": f"{number}word"} for number in range(80)]
    (tmp_path / "turned.json").write_text(json.dumps(pairs))
    after = build("icl", tmp_path)
    assert {prompt.condition for prompt in after} - {prompt.condition for prompt in before} == {"turned"}
    assert set(before) < set(after)
    (tmp_path / "turned.json").rename(tmp_path / "antonym.json")
    with pytest.raises(UserError, match=r"antonym\.json: functions\.yaml beside it has this function as well"):
        build("icl", tmp_path)


@pytest.mark.parametrize("name", ["-a", "a b", "a;b", "x" * 101])
def test_a_function_whose_name_is_no_name_of_a_file_is_refused(tmp_path, name):
    (tmp_path / f"{name}.json").write_text("[]")
    with pytest.raises(UserError, match="expected a name of letters, digits, - and _"):
        build("icl", tmp_path, source="path")


def test_a_function_named_as_all_of_them_together_is_refused(tmp_path):
    (tmp_path / "all.json").write_text("[]")
    with pytest.raises(UserError, match="this is what tables call all functions together"):
        build("icl", tmp_path, source="path")


def test_a_paradigm_is_added_to_the_builtin_ones(tmp_path):
    shutil.copy(ROOT / "stages/sources/blimp/lexicon.yaml", tmp_path)
    before = build("blimp", tmp_path)
    assert before == build("blimp", ROOT / TASKS["blimp"]["path"])
    row = {"sentence_good": "It is.", "sentence_bad": "It are.", "linguistics_term": "mine", "UID": "mine", "pairID": 0}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    (added,) = set(build("blimp", tmp_path)) - set(before)
    assert added.condition == added.category == "mine" and added.targets == (" It is.", " It are.")


def test_a_needle_is_added_to_the_builtin_ones(tmp_path):
    shutil.copytree(ROOT / TASKS["needle"]["path"], tmp_path, dirs_exist_ok=True)
    before = build("needle", tmp_path)
    assert before == build("needle", ROOT / TASKS["needle"]["path"])
    fact = {"statement": "My key lies", "question": "Where does my key lie?", "answer": "under four blue pots"}
    (tmp_path / "facts.yaml").write_text(yaml.safe_dump({"mine": fact}))
    added = [prompt for prompt in build("needle", tmp_path, trials=90) if prompt.cluster == "mine"]
    assert added and all(prompt.targets == (" under four blue pots",) for prompt in added)
    (tmp_path / "facts.yaml").write_text(yaml.safe_dump({"halden": fact}))
    with pytest.raises(UserError, match=r"facts\.yaml: halden: a built-in needle has this name"):
        build("needle", tmp_path)
    (tmp_path / "facts.yaml").write_text(yaml.safe_dump({"mine": fact | {"answer": 7}}))
    with pytest.raises(UserError, match=r"facts\.yaml: mine\.answer = 7: Input should be a valid string"):
        build("needle", tmp_path)
