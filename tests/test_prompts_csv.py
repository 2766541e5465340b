"""Where prompts come from is said of every task, and the example is one of them."""

from types import SimpleNamespace

import pandas as pd
import pytest

from stages import prompts, tasks
from stages.page import inputs, methods
from stages.store import paths, tables
from stages.store.params import load

SPAN = {"query_start": 4, "query_end": 7, "key_start": 8, "key_end": 12}


def row(**fields) -> SimpleNamespace:
    return SimpleNamespace(**{"text": "", "targets": [], "relations": [], "ordinals": []} | fields)


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        (row(text="Q: a\nA:", targets=[" b"]), "Q: a⏎A:« b»"),
        (row(targets=[" Cats run.", " Cats runs."]), "« Cats run.» | Cats runs."),
        (row(ordinals=[7, 9, 7, 9]), "random tokens, equal ones by one number: 1 2 1 2"),
        (row(text="the cat sees", relations=[{"name": "nsubj", **SPAN}]), "the cat sees (nsubj: «cat» → «sees»)"),
        (row(text="a" * 300), "a" * 140 + " [...] " + "a" * 140),
    ],
)
def test_an_example_marks_what_is_scored(prompt, shown):
    assert prompts.example(prompt, "text") == shown


def test_every_task_has_its_row_with_its_own_counts(tmp_path, monkeypatch):
    settings = load()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prompts.params, "load", lambda: settings)
    rows = [
        {name: "" for name in ("role", "condition", "category")}
        | {"id": f"{split}{number}", "split": split, "cluster": f"{split}{number // 2}", "text": f"{split} {number}",
           "targets": [], "relations": [], "ordinals": [], "tokens": 0, "bos": True}
        for split, count in (("a", 4), ("b", 2)) for number in range(count)
    ]  # fmt: skip
    asked = [name for name, task in settings.tasks if task]
    for name in asked:
        tables.PROMPTS.write(rows, name)
    prompts.main()
    read = inputs.sources(paths.SOURCES)
    assert list(read.task) == asked
    assert (read[["prompts", "a", "b", "clusters", "conditions"]] == [6, 4, 2, 3, 1]).all(axis=None)
    assert set(read.prompt) == {"b0"} and "b 0" in read.example[0]
    (section,) = methods.prompts(read)
    assert [line[0] for line in section.blocks[1].rows] == [tasks.of(name).label for name in asked]
    assert "4 / 2" in section.blocks[1].rows[0] and methods.prompts(read.iloc[:0]) == []


def test_a_hub_source_is_named_by_its_data_set():
    source = SimpleNamespace(source="hub", hub="owner/data", path="left")
    none = pd.DataFrame(columns=tables.PROMPTS.names)
    assert prompts.described("blimp", source, none)["place"] == "owner/data"
