"""A task is a folder: it is found, its prompts are in both splits, and params.yaml may ask for it."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages import tasks
from stages.store import parquet, tables
from stages.store.errors import UserError
from stages.tasks.prompt import Prompt
from stages.tasks.task import in_both_splits, one_sided

ROOT = Path(__file__).parents[1]
TASK = """
from stages.tasks.reversal.settings import Settings
from stages.tasks.task import Task, recalled

TASK = Task(name="reversal", order=9, label="reversed words", unit="words", settings=Settings, measures=recalled,
    main="recall", smooth="logprob", needs="decoder")
"""
SETTINGS = """
from stages.tasks.task import Source

class Settings(Source):
    words: tuple[str, ...]
"""
PROMPTS = """
from stages.tasks.prompt import Prompt

def build(settings, seed):
    return [Prompt(id=f"reversal/w/{w}", condition="w", cluster=w, text=f"{w} :", targets=(f" {w[::-1]}",))
            for w in settings.words]
"""


def prompts(clusters, role: str = "test", **fields) -> list[Prompt]:
    return [
        Prompt(id=f"t/g/{number}", condition="g", cluster=c, role=role, **fields) for number, c in enumerate(clusters)
    ]


def test_every_folder_of_tasks_is_one():
    folders = {file.parent.name for file in (ROOT / "stages/tasks").glob("*/prompts.py")}
    assert set(tasks.names()) == folders
    for name in tasks.names():
        assert tasks.of(name).name == name and tasks.of(name).label and tasks.of(name).unit
    with pytest.raises(UserError, match="icll: no such task; allowed: text"):
        tasks.of("icll")


def test_few_prompts_land_in_both_splits():
    """Four clusters that the hash puts into one split take turns; a cluster stays whole, what is in both stays."""
    alike = [c for c in "abcdefghijklmnopqrstuvwxyz" if prompts(c)[0].split == "a"][:4]
    assert {prompt.split for prompt in prompts(alike)} == {"a"}
    assert [prompt.split for prompt in in_both_splits(prompts(alike))] == ["a", "b", "a", "b"]
    assert [prompt.split for prompt in in_both_splits(prompts([alike[0]] * 2 + alike[1:2]))] == ["a", "a", "b"]
    mixed = prompts("abcdefgh")
    assert in_both_splits(mixed) == mixed
    short = [f"short/{number}" for number in range(20)]
    short = [cluster for cluster in short if prompts([cluster])[0].split == "b"][:4]
    two_roles = mixed + prompts(short, role="short")
    assert in_both_splits(two_roles)[: len(mixed)] == mixed
    assert [prompt.split for prompt in in_both_splits(two_roles)[len(mixed) :]] == ["a", "b", "a", "b"]


def test_prompts_of_one_cluster_say_so():
    assert one_sided(in_both_splits(prompts("ab"))) == ""
    assert "all test prompts are of one cluster" in one_sided(in_both_splits(prompts("aa")))


def test_a_model_is_refused_where_it_cannot_answer():
    reading = [name for name in tasks.names() if tasks.of(name).reads == "text"]
    refusing = {name for name in reading if tasks.of(name).refuses("masked")}
    assert refusing == {"icl", "needle", "iteration", "extrapolation", "neighbours", "composed", "orders", "facts"}
    assert not any(tasks.of(n).refuses("decoder") for n in reading)


def test_a_new_task_is_a_folder_and_an_entry_in_params(tmp_path):
    """Prepared and refused for a mistake like the others, without another edit."""
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "stages/tasks/reversal"
    folder.mkdir()
    for name, text in (("task", TASK), ("settings", SETTINGS), ("prompts", PROMPTS)):
        (folder / f"{name}.py").write_text(text)
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text())
    content["tasks"]["reversal"] = {"path": "stages/tasks/reversal/prompts.py", "words": ["drawer", "stressed"]}

    def prepare() -> str:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "stages.prepare", "reversal"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stderr

    prepare()
    written = parquet.read(tmp_path / tables.PROMPTS.path("reversal"), tables.PROMPTS.schema)
    assert written.text.tolist() == ["drawer :", "stressed :"] and set(written.split) == {"a", "b"}
    content["tasks"]["reversal"]["word"] = 1
    assert "tasks.reversal.word = 1: unknown key; allowed: path, source, words" in prepare()


def test_no_task_is_told_from_another_by_its_name():
    """What differs between tasks is a property of theirs, or lies with their families; the page alone may name one."""
    worded = {"tasks", "families", "page", "report.py"}
    compared = []
    for file in (ROOT / "stages").rglob("*.py"):
        if file.relative_to(ROOT / "stages").parts[0] not in worded:
            comparisons = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Compare)]
            strings = [part for node in comparisons for part in ast.walk(node) if isinstance(part, ast.Constant)]
            compared += [(file.name, part.lineno, part.value) for part in strings if part.value in tasks.names()]
    assert not compared
