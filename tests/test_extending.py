"""Adding things, each in the place that README names, in one temporary clone: all show up in artifacts and page."""

import json
import shutil

import pandas as pd
import pytest
import yaml
from test_pipeline import REPORTS, ROOT, sh, tracked
from tiny import save

FAMILY = '''"""Second heads look two tokens back (made up for a test)."""

import numpy as np

from stages.families.family import Family, Relation, Tokens, one_key


def relation(tokens: Tokens) -> Relation | None:
    """t -> t-2."""
    queries = np.arange(2, len(tokens))
    queries = queries[~tokens.special[queries] & ~tokens.special[queries - 2]]
    return one_key(len(tokens), queries, queries - 2)


FAMILY = Family(
    name="second",
    order=50,
    task="text",
    threshold=0.4,
    convention=True,
    statistic="mass",
    content=False,
    relation_text="t → t-2",
    source="a test",
    relation=relation,
    home=("text",),
)
'''
TASK = '''"""Counting aloud."""

from stages.tasks.counts.settings import Settings
from stages.tasks.task import Task, recalled

TASK = Task(name="counts", order=50, label="counted numbers", unit="prompts", settings=Settings, main="recall",
            smooth="logprob", measures=recalled, parts="")
'''
SETTINGS = '''"""What is counted."""

from stages.tasks.task import Source


class Settings(Source):
    """How many prompts."""

    prompts: int
'''
PROMPTS = '''"""Prompts of counted letters."""

from stages.tasks.prompt import Prompt


def build(settings, seed: int) -> list[Prompt]:
    """Build prompts whose answer is the next letter."""
    return [
        Prompt(id=f"counts/{n:02d}", condition="counts", cluster=f"{n}", text=f"{n} {n} {n}", targets=(f" {n}",))
        for n in range(settings.prompts)
    ]
'''
SECTION = '''"""A section of a test."""

from stages.page.page import Note
from stages.page.section import SlotSection


def hello(slot, context):
    """Return one paragraph."""
    return [Note("A section that a test has added.")]


SECTION = SlotSection("hello", "Hello from a test", 55, hello)
'''
KIND = '''

@kind(everywhere=True, constant=True)
def double(head: Head, writable: Writable) -> torch.Tensor:
    """Write twice the head's mean output (made up for a test)."""
    return 2 * writable.means[head]
'''


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone with a family, a task, an ablation kind, a section and a recipe more, after the run."""
    folder = tmp_path_factory.mktemp("extending") / "repo"
    for name in tracked():
        if name != "dvc.lock" and not name.startswith("reports/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    save("llama_gqa", folder.parent / "model0")
    stages = folder / "stages"
    (stages / "families/text/second.py").write_text(FAMILY)
    for name, text in (("task", TASK), ("settings", SETTINGS), ("prompts", PROMPTS)):
        (stages / "tasks/counts").mkdir(exist_ok=True)
        (stages / f"tasks/counts/{name}.py").write_text(text)
    (stages / "families/counts").mkdir()
    (stages / "families/counts/__init__.py").write_text('"""No family is measured on it."""\n')
    with (stages / "model/silence.py").open("a") as file:
        file.write(KIND)
    (stages / "page/sections/hello.py").write_text(SECTION)
    lesson = (stages / "recipes/induction.py").read_text()
    (stages / "recipes/copycat.py").write_text(lesson)
    content = yaml.safe_load((folder / "params.quick.yaml").read_text())
    content["models"] = {"decoder": {"source": "path", "name": "../model0"}}
    content["tasks"] = {"text": content["tasks"]["text"] | {"passages": 4, "short_passages": 8, "tokens": 64}}
    content["tasks"]["counts"] = {"path": "stages/tasks/counts", "prompts": 12}
    content["plan"] |= {
        "leave_out": [],
        "draws": 2,
        "kinds": ["double"],
        "controlled": ["double"],
        "sample": 1,
        "specificity": ["counts"],
    }
    content["ablate"]["prompts"] |= {"counts": 4}
    recipe = content["recipes"]["induction"]
    recipe["train"] |= {"steps": 2, "seeds": 1, "checkpoints": {"even": 2}}
    recipe["study"] |= {"sequences": 8, "bootstrap": 200}
    content["recipes"] = {"mimicry": recipe | {"task": "copycat", "reads": "stages/recipes/copycat.py"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    sh(folder, "git init -q -b main && git config user.email t@t && git config user.name t")
    sh(folder, "dvc repro -q")
    return folder


def test_a_family_is_one_file(clone):
    heads = pd.read_csv(clone / REPORTS / "heads.csv")
    assert "second" in set(heads.family)
    assert "second" in set(pd.read_csv(clone / REPORTS / "effects.csv").family)
    assert "t → t-2" in (clone / "reports/index.html").read_text()
    assert "second" in json.loads((clone / REPORTS / "metrics.json").read_text())["heads"]


def test_a_task_is_a_folder_and_an_entry(clone):
    effects = pd.read_csv(clone / REPORTS / "effects.csv")
    assert {"recall", "logprob"} <= set(effects[effects.task == "counts"].measure)
    assert "counted numbers" in (clone / "reports/index.html").read_text()


def test_an_ablation_kind_is_a_function(clone):
    effects = pd.read_csv(clone / REPORTS / "effects.csv")
    assert set(effects.kind.dropna()) == {"double"}
    assert "No family was" not in (clone / "reports/index.html").read_text()


def test_a_section_is_a_file(clone):
    page = (clone / "reports/index.html").read_text()
    assert "Hello from a test" in page and "A section that a test has added." in page


def test_a_recipe_is_an_entry_and_a_file(clone):
    assert (clone / "reports/recipes/mimicry/curve.csv").is_file()
    assert "mimicry" in (clone / "reports/index.html").read_text()
