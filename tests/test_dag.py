"""The DAG is true: deps are the import closure, every params key is used, paths agree with `stages.store.paths`."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import yaml
from defaults import of_the_default_run

from stages import tasks
from stages.deeper import STUDIES
from stages.families import FAMILIES
from stages.store import paths, tables
from stages.store.params import BESIDE, PREPARES, Longer, Params

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "tests/params.yaml").read_text())  # never those that a user edits


def body(stage: str) -> dict:
    return STAGES[stage].get("do", STAGES[stage])


def imports(module: Path) -> set[Path]:
    """Files of this project that a module imports, at the top or inside functions."""
    files = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *[f"{node.module}.{alias.name}" for alias in node.names]]
        for name in names:
            for candidate in (name.replace(".", "/") + ".py", name.replace(".", "/") + "/__init__.py"):
                if name.startswith("stages") and (ROOT / candidate).is_file():
                    files.add(Path(candidate))
    return files


def closure(module: Path) -> set[Path]:
    """All files that a module imports, directly or not."""
    done, todo = set(), [module]
    while todo:
        file = todo.pop()
        if file not in done:
            done.add(file)
            todo += imports(file)
    return done


def rooms(stage: str) -> set[str]:
    """Rooms of stages/ that a stage's module reaches."""
    reached = closure(Path(f"stages/{stage}.py"))
    names = {file.parts[1] for file in reached if len(file.parts) > 2}
    if stage in ("train", "dynamics", "report"):  # the recipe's file is found by its name
        files = [path.relative_to(ROOT) for path in (ROOT / "stages/recipes").glob("*.py")]
        names |= {file.parts[1] for path in files for file in closure(path) if len(file.parts) > 2}
    return names


def deps(stage: str) -> set[str]:
    """Rooms of stages/ among a stage's deps, whole or in part."""
    parts = [Path(dep).parts for dep in body(stage)["deps"] if dep.startswith("stages/")]
    return {part[1] for part in parts if not part[1].endswith(".py")}


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_rooms_that_a_stage_imports(stage):
    assert f"stages/{stage}.py" in body(stage)["deps"]
    assert deps(stage) == rooms(stage)


def test_a_longer_study_depends_on_what_its_stages_and_summaries_do():
    """full/dvc.yaml runs them through `deeper`: its rooms are theirs together, and what each reads of data/."""
    full = yaml.safe_load((ROOT / "full/dvc.yaml").read_text())["stages"]["deeper"]
    sizes = yaml.safe_load((ROOT / "full/params.yaml").read_text())
    studies = full["matrix"]["stage"]
    assert set(studies) == set(sizes) & set(STUDIES) and set(sizes["slots"]) <= set(PARAMS["models"])
    listed = [dep.removeprefix("../").replace("${item.slot}", "${key}") for dep in full["deps"]]
    run = {stage for study in studies for stage in runs(study)}
    needed = {dep for stage in run for dep in body(stage)["deps"] if not dep.startswith("stages/")}
    needed -= {"${item.path}", "${ngram.path}"}  # a file or folder of words each, which lies in stages/
    words = {PARAMS["ngram"]["path"], *(section["path"] for section in sizes["tasks"].values())}
    assert [dep for dep in needed if not {dep, str(Path(dep).parent)} & set(listed)] == []
    reached = set().union(*(rooms(stage) for stage in [*run, "deeper"]))
    files = {f"stages/{name}.py" for name in ("${item.stage}", "deeper", "summarize", *run - set(studies))}
    of_code = {f"stages/{room}" for room in reached} | files
    assert {dep for dep in listed if dep.startswith("stages/")} == of_code | words
    own, usual = [name for name in full["params"] if isinstance(name, str)], full["params"][-1]["../params.yaml"]
    assert own == ["tasks", "${item.stage}"]
    asked = {key.split(".")[0] for stage in [*run, "summarize"] for key in body(stage).get("params", [])}
    assert asked <= set(usual) | set(studies) and {"tasks", "plan"} <= set(usual)


def runs(study: str) -> list[str]:
    """Stages that a longer study runs."""
    return ["prepare"] * (study in PREPARES) + [command.split()[0] for command in STUDIES[study].runs]


@pytest.mark.parametrize("study", STUDIES)
def test_a_longer_study_finds_what_its_stages_read_and_nothing_that_they_write(study):
    """Its own prompts among those of the default run are files of their own: tests/test_deeper.py."""
    bodies = [body(stage) for stage in runs(study)]
    read, written = (
        {Path(path).parts[1] for each in bodies for path in each[kind] if str(path).startswith("data/")}
        for kind in ("deps", "outs")
    )
    assert set(STUDIES[study].reads) == (read | {"heads"}) - (written - {"asked"})  # heads: which slot it is of


def test_longer_studies_that_are_kept_are_of_todays_stages():
    full = yaml.safe_load((ROOT / "full/dvc.yaml").read_text())["stages"]["deeper"]
    sizes = yaml.safe_load((ROOT / "full/params.yaml").read_text())
    kept = {path.parent for path in (ROOT / "full/reports/slots").glob("*/*/params.json")}
    assert {path.name for path in kept} <= set(full["matrix"]["stage"])
    assert {path.parent.name for path in kept} <= set(sizes["slots"])


@pytest.mark.parametrize("stage", STAGES)
def test_no_dep_is_a_list_of_a_rooms_files(stage):
    """A room is a dep whole, or the part of it that the instance's task names with what all tasks share."""
    parts = [Path(dep).parts for dep in body(stage)["deps"] if dep.startswith("stages/")]
    files = [part for part in parts if len(part) > 2 and part[-1].endswith(".py")]
    assert len(files) <= 7 and all(part[1] in ("tasks", "families") for part in files)


@pytest.mark.parametrize("recipe", ["induction", "iteration", "masked"])
def test_a_recipe_reads_families_of_the_folder_that_it_names(recipe):
    """A docstring of another task's family does not measure its checkpoints again."""
    reached = closure(Path(f"stages/recipes/{recipe}.py")) | closure(Path("stages/training/checkpoint.py"))
    families = {file for file in reached if file.parts[1] == "families"}
    shared = {Path(dep) for dep in body("dynamics")["deps"] if dep.startswith("stages/families/")}
    folder = Path(importlib.import_module(f"stages.recipes.{recipe}").LESSON.families)
    assert {file for file in families - shared if folder not in file.parents} == set()


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ("prepare", "report")])
def test_torch_stages_depend_on_the_lock_file(stage):
    torch = any("import torch" in (ROOT / file).read_text() for file in closure(Path(f"stages/{stage}.py")))
    assert not torch or "requirements.lock" in body(stage)["deps"]


def test_every_params_key_is_used_by_a_stage():
    used = {key.split(".")[0] for stage in STAGES for key in body(stage).get("params", [])}
    assert used == set(PARAMS) == set(Params.model_fields)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_reads_settings_of_tasks_depends_on_them(stage):
    """By the file that tidy writes of params.yaml, or by the param: that is copied into dvc.lock for each stage."""
    reached = [ROOT / file for file in closure(Path(f"stages/{stage}.py")) if file.parts[1] != "store"]
    if any("settings.tasks" in file.read_text() for file in reached) and stage != "prepare":  # it has its own task's
        by_file = {"data/asked", "data/asked/keys.json", "params.yaml"} & set(body(stage)["deps"])
        assert by_file or "tasks" in body(stage)["params"]


def test_params_are_a_dep_whole_of_tidy_alone():
    """It sees a key that no stage names; any other stage would run again for every edit."""
    assert [stage for stage in STAGES if "params.yaml" in body(stage)["deps"]] == ["tidy"]


def test_every_leaf_of_params_is_read_by_the_code():
    source = "\n".join(path.read_text() for path in (ROOT / "stages").rglob("*.py") if path.name != "params.py")
    for section, model in Params.model_fields.items():
        if section in ("models", "tasks", "recipes", "seed"):
            continue
        sections = [kind for kind in (get_args(model.annotation) or (model.annotation,)) if kind is not type(None)]
        for key in sections[0].model_fields:
            assert f".{key}" in source, f"{section}.{key} is never read"


def test_every_table_is_an_out_of_one_stage_or_lies_in_one():
    outs = [
        (stage, out if isinstance(out, str) else next(iter(out))) for stage in STAGES for out in body(stage)["outs"]
    ]
    for name, table in vars(tables).items():
        if isinstance(table, tables.Table):
            path = table.path("${key}", "a task")
            assert len([stage for stage, out in outs if out in (str(path), str(path.parent))]) == 1, name


def test_plots_draw_columns_that_their_files_have():
    """As far as there are files, all may be left out: a renamed column would leave an empty figure, and no error."""
    plots = [plot for stage in STAGES for plot in body(stage).get("plots", [])]
    drawn = [(path, options) for plot in plots for file, options in plot.items() for path in written(file)]
    assert drawn
    for path, options in drawn:
        columns = set(pd.read_csv(path, nrows=0).columns)
        assert {options[axis] for axis in ("x", "y") if axis in options} <= columns, path


def written(file: str) -> list[Path]:
    """Files of a name in dvc.yaml, of any key."""
    return list(ROOT.glob(re.sub(r"\$\{key\}", "*", file)))


def test_outs_are_where_paths_says():
    slot = "${key}"
    assert body("fetch")["outs"] == [str(paths.model(slot))]
    for stage, path in (("steer", paths.vectors), ("steer", paths.control_vectors), ("memory", paths.adapters)):
        assert body(stage)["outs"] == [str(path(slot).parent)]
    assert list(body("ngram")["plots"][0]) == [str(paths.COUNTING)]
    assert list(body("prompts")["outs"][0]) == [str(paths.SOURCES)]
    assert list(body("examples")["outs"][0]) == [str(paths.examples(slot))]
    assert {str(paths.COUNTING), str(paths.SOURCES)} <= set(body("report")["deps"])
    assert body("train")["outs"] == [str(paths.checkpoints("${key}"))]
    assert list(body("train")["plots"][0]) == [str(paths.study("${key}") / "learning.csv")]
    assert {Path(*out).parent for kind in ("outs", "metrics", "plots") for out in body("dynamics")[kind]} == {
        paths.study("${key}")
    }
    summaries = body("summarize")
    listed = [
        next(iter(out)) if isinstance(out, dict) else out
        for kind in ("outs", "metrics", "plots")
        for out in summaries[kind]
    ]
    assert {Path(out).parent for out in listed} == {paths.report(slot)}


def test_rooms_keep_their_doors():
    """Only model, training and engine import torch; what stands below imports nothing above."""
    pure = "baseline families page recipes statistics store tasks".split()
    above = "baseline|engine|families|model|page|recipes|statistics|training"
    for room in pure:
        for path in (ROOT / "stages" / room).rglob("*.py"):
            text = path.read_text()
            assert not re.search(r"(import|from) (torch|transformers|stages\.(model|training|engine))", text), path
            if room in ("store", "tasks"):
                assert not re.search(rf"(import|from) stages\.({above})", text), path
    for path in (ROOT / "stages/model").rglob("*.py"):
        assert not re.search(r"(import|from) stages\.(recipes|training|engine|page)", path.read_text()), path


def test_reports_hold_no_folder_of_a_slot_that_is_gone():
    committed = subprocess.run(
        ["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    keys = yaml.safe_load(committed.stdout)
    if keys != PARAMS:
        pytest.skip("params of the user's own: their folders come with the next run, which tidies the others")
    for folder, key in (("slots", "models"), ("recipes", "recipes")):
        tracked = {path.name for path in (ROOT / "reports" / folder).glob("*") if path.is_dir()}
        assert tracked <= set(keys[key]), (
            f"git rm -r of these, or their keys back in params.yaml: {tracked - set(keys[key])}"
        )


def test_every_family_names_its_source_and_task():
    for family in FAMILIES.values():
        assert family.task in tasks.names() and set(family.home) <= set(tasks.names())
        assert family.source and family.relation_text


def test_params_of_tests_and_quick_run_are_valid():
    from stages.store.params import load

    assert load(ROOT / "tests/params.yaml").seed == PARAMS["seed"]
    quick = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
    assert load(ROOT / "params.quick.yaml") and set(quick) == set(PARAMS)


def test_importing_a_stage_does_not_import_torch():
    """A chart edit or an empty pair must not pay for torch."""
    names = ["prepare", "extract", "classify", "summarize", "report", "trace", "ablate", "steer", "ngram", "circuit"]
    names += ["apply", "neighbours", "train", "dynamics", "sinks", "gates", "memory", "examples", "prompts"]
    check = f"import sys; [__import__('stages.' + n) for n in {names}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_tests_that_read_the_default_slots_are_skipped_where_params_are_edited():
    """A user's slots have other names, and a stage that was left out has written empty tables."""
    reads = re.compile(r'(SLOTS|ROOT / "reports/slots") / "(decoder|encoder)|ROOT / "reports/slots/(decoder|encoder)')
    for path in (ROOT / "tests").glob("test_*.py"):
        for block in path.read_text(encoding="utf-8").split("\n\n\n"):
            assert not reads.search(block) or "@of_the_default_run\n" in block, (path.name, block[:200])


@of_the_default_run
def test_numbers_of_the_readme_are_those_of_the_reports():
    said, folder = " ".join((ROOT / "README.md").read_text().split()), ROOT / "reports/slots/decoder"
    traced = pd.read_csv(folder / "circuit.csv").query("target == 'L5H1' and direction == 'noising'")
    fed, others = traced[traced.source == "L4H1"].iloc[0], traced[traced.purpose == "others"].iloc[0]
    steered = json.loads((folder / "metrics.json").read_text())["vectors"]["zero_shot"]
    written = [f"{value:.2f}"[1:] for value in (fed.intact, fed.value, others.effect, steered["heads"])]
    assert f"from {written[0]} to {written[1]}" in said and f"cost {written[2]} together" in said
    assert f"{written[3]} of answers right" in said and f"{steered['control']:.3f}"[1:] + " with as many" in said
    silenced = pd.read_csv(ROOT / "full" / folder.relative_to(ROOT) / "plan/switch.csv")
    silenced = silenced.query("condition == 'all' and measure == 'accuracy' and k == 4").set_index("family")
    less, other = silenced.loc["function"], silenced.loc["induction"]
    left, alone, apart, low, high = (
        f"{value:.2f}"[1:] for value in (less.value, other.value, other.beyond, other.beyond_low, other.beyond_high)
    )
    assert f"Of {less.trials} prompts with demonstrations {left} are answered" in said and f"{alone} without 4" in said
    assert f"they are {apart} [{low}, {high}] apart, as far as one of {less.pairs} pairs" in said
    assert round(less.beyond_p * (1 + less.pairs)) - 1 == 1 and less.p == other.p == less.p_floor == 1 / 40
    moved = pd.read_csv(folder / "shifts.csv")
    moved = moved.query("function == 'antonym' and vector == 'heads' and measure == 'other'")
    there, back = (f"{moved[(moved.factor == 1) & (moved.asked == side)].value.iloc[0]:.2f}"[1:] for side in "xy")
    assert f"from x to y ({there}) and from y to x ({back})" in said
    alike = pd.read_csv(ROOT / "full" / folder.relative_to(ROOT) / "neighbours/neighbours.csv")
    alike = alike.query("condition == 'made_up' and measure == 'accuracy_no_shared_token'").set_index("language").value
    latin, katakana = (f"{alike[language]:.2f}"[1:] for language in ("english", "japanese"))
    assert f"without a token in common ({latin} in Latin letters, {katakana} in katakana" in said


def test_the_page_says_what_every_summary_is():
    from stages.page.methods import FILES

    summaries = body("summarize")
    outs = [name for kind in ("outs", "metrics", "plots") for out in summaries[kind] for name in out]
    assert {Path(out).name for out in outs} == set(FILES)


def test_the_page_hangs_on_every_section_that_it_holds_longer_studies_against():
    held = {*Longer.model_fields, *(name for names in BESIDE.values() for name in names)} - {"slots"}
    assert held <= set(body("report")["params"])
