"""All tasks of a slot in one process: what need not be measured again stays, to the byte."""

import shutil
from pathlib import Path

import pytest
import tiny
import yaml

from stages import extract, fetch, prepare
from stages.store import files, paths, tables
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
MEASURED = ("repeats", "text")


@pytest.fixture
def slot(tmp_path, monkeypatch) -> str:
    """A tiny decoder and three tasks, of which two are measured; nothing is extracted yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(tmp_path / "cache"))
    content = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
    content["models"] = {"decoder": {"source": "path", "name": str(tiny.save("llama_gqa", tmp_path / "model"))}}
    content["tasks"] = {task: content["tasks"][task] for task in (*MEASURED, "blimp")}
    for task in content["tasks"].values():
        task["path"] = str(ROOT / task["path"])
    content["tasks"]["text"] |= {"passages": 4, "short_passages": 8}
    paths.PARAMS.write_text(yaml.safe_dump(content))
    fetch.main("decoder")
    for task in content["tasks"]:
        prepare.main(task)
    return "decoder"


def written() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("data/activations/decoder").iterdir()}


def ran(caplog) -> set[str]:
    """Tasks that the last run measured."""
    found = {task for task in MEASURED for line in caplog.messages if line.startswith(f"extract {task} on decoder: ")}
    caplog.clear()
    return found


def test_what_was_measured_of_the_same_prompts_stays(slot, caplog, monkeypatch):
    caplog.set_level("INFO")
    extract.main(slot)
    whole = written()
    assert ran(caplog) == set(MEASURED) and len(whole) == 3 * len(extract.WRITTEN)
    assert tables.RELATIONS.read(slot, "blimp").empty
    extract.main(slot)
    assert ran(caplog) == set() and written() == whole
    files.write_text(tables.RELATIONS.path(slot, "text"), "damaged")
    extract.main(slot)
    assert ran(caplog) == set() and written() == whole
    content = yaml.safe_load(paths.PARAMS.read_text())
    content["tasks"]["text"]["short_passages"] = 6
    paths.PARAMS.write_text(yaml.safe_dump(content))
    prepare.main("text")
    extract.main(slot)
    changed = written()
    assert ran(caplog) == {"text"}
    assert {name for name in whole if whole[name] != changed[name]} == {
        "text.relations.parquet",
        "text.outputs.parquet",
    }
    shutil.rmtree("data/extracted")
    extract.main(slot)
    assert ran(caplog) == set(MEASURED) and written() == changed
    shutil.rmtree("data/activations")  # as DVC does before it runs the stage
    extract.main(slot)
    assert ran(caplog) == set() and written() == changed
    kept = next(paths.extracted(slot, "repeats").iterdir())
    kept.unlink()  # else the table, which is the same file, would be damaged as well
    kept.write_bytes(b"damaged")
    extract.main(slot)
    assert ran(caplog) == {"repeats"} and written() == changed
    monkeypatch.setenv("HEAD_ATLAS_WORKERS", "1")
    extract.main(slot)
    assert ran(caplog) == set(MEASURED)


def test_tasks_that_are_named_are_measured_alone(slot, caplog):
    caplog.set_level("INFO")
    extract.main(slot, "repeats")
    assert ran(caplog) == {"repeats"} and set(written()) == {
        table.path(slot, "repeats").name for table in extract.WRITTEN
    }
    extract.main(slot)
    assert ran(caplog) == {"text"}


def test_prompts_that_change_while_they_are_measured_are_not_kept(slot, monkeypatch, caplog):
    caplog.set_level("INFO")
    measure, text = extract._measure, tables.PROMPTS.path("text")
    was, other = text.read_bytes(), tables.PROMPTS.read("text").iloc[:6]

    def changed(*of) -> None:
        measure(*of)
        tables.PROMPTS.write(other, "text", asked=len(other))

    monkeypatch.setattr(extract, "_measure", changed)
    extract.main(slot, "text")
    monkeypatch.setattr(extract, "_measure", measure)
    assert ran(caplog) == {"text"} and not paths.extracted(slot, "text").exists()
    text.write_bytes(was)
    extract.main(slot, "text")
    assert ran(caplog) == {"text"}


def test_a_table_that_is_not_there_is_named(slot):
    tables.PROMPTS.path("text").unlink()
    with pytest.raises(UserError, match=r"^data/prompts/text\.parquet: "):
        extract.main(slot)


def test_the_key_is_of_the_code_that_dvc_depends_on():
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["extract"]["do"]["deps"]
    assert {f"stages/{room}" for room in extract.ROOMS} == {dep for dep in deps if dep.startswith("stages/")}
    assert {str(path) for path in extract.LOCKED} <= set(deps)


def test_the_way_out_names_the_stage_of_the_slot(slot):
    assert tables.RELATIONS.way_out(slot, "text").endswith("dvc repro -f -s extract@decoder")
