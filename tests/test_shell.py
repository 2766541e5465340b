"""Nothing that a user names reaches a shell: commands hold no key, and a key that is no name is refused."""

import ast
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.checks.finding import Finding
from stages.store import params
from stages.store.errors import UserError, instance, run

ROOT = Path(__file__).parents[1]
FILES = ("dvc.yaml", "full/dvc.yaml")


@pytest.mark.parametrize("file", FILES)
def test_no_command_holds_a_key(file):
    for name, stage in yaml.safe_load((ROOT / file).read_text())["stages"].items():
        assert "$" not in stage.get("do", stage)["cmd"], name


def test_the_keys_are_read_from_the_name_of_the_stage():
    assert instance("deeper@gates-decoder") == ("gates", "decoder")
    assert instance("full/dvc.yaml:train@copy") == instance("train@copy") == ("copy",)
    assert instance("report") == instance("../dvc.yaml:report") == instance("") == ()


def test_a_stage_is_told_what_dvc_runs_unless_the_command_says_it(monkeypatch):
    ran = []
    monkeypatch.setenv("DVC_STAGE", "deeper@decoder-blimp")
    run(lambda slot, task: ran.append((slot, task)))
    run(lambda slot, task: ran.append((slot, task)), "encoder", "text")
    assert ran == [("decoder", "blimp"), ("encoder", "text")]
    with pytest.raises(SystemExit, match=r"error: .*: 1 arguments given; expected <slot> <task>"):
        run(lambda slot, task: None, "encoder")


def test_a_mistake_within_a_stage_is_no_wrong_number_of_arguments():
    def stage():
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        run(stage)
    with pytest.raises(SystemExit, match="error: seed"):
        run(lambda: (_ for _ in ()).throw(UserError("seed")).__next__())


@pytest.mark.parametrize(
    ("file", "section", "stage"),
    [("params.yaml", "models", "fetch"), ("params.yaml", "tasks", "prepare"), ("full/params.yaml", "recipes", "train")],
)
def test_dvc_runs_no_command_within_a_key(file, section, stage, tmp_path):
    for name in (".dvc", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
    (tmp_path / "full").mkdir()
    for name in (*FILES, "params.yaml", "full/params.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    key = "a; touch PWNED #"
    (tmp_path / "stages/tasks" / key).mkdir()  # what a stage of this task depends on
    params = yaml.safe_load((tmp_path / file).read_text())
    params[section] = {key: next(iter(params[section].values()))}
    (tmp_path / file).write_text(yaml.safe_dump(params))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    command = ["dvc", "repro", "-s", "-k", f"{Path(file).parent / 'dvc.yaml'}:{stage}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode and "Running stage" in done.stdout and not list(tmp_path.rglob("PWNED*"))
    assert f"error: params.yaml: {section}.{key}" in done.stderr


@pytest.mark.parametrize("command", ["prepare model_fields", "prepare", "extract a nope", "plan nope", "train a"])
def test_arguments_that_name_nothing_are_one_line(command, tmp_path):
    shutil.copy(ROOT / "tests/params.yaml", tmp_path / "params.yaml")
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *f"stages.{command}".split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_an_error_is_one_line_whatever_it_names(capfd):
    """A terminal is told nothing by a name: not to start a line, to move the cursor or to turn its writing around."""

    def stage():
        logging.getLogger("stages").warning("a log of a\nb")
        raise UserError("a\nb\r\x1b[31m\x00\u2028\u202e\udcff か")

    with pytest.raises(SystemExit) as ended:
        run(stage)
    assert str(ended.value) == "error: a\\nb\\r\\x1b[31m\\x00\\u2028\\u202e\\udcff か"
    said = Finding("a\nb", "rm 'x\x1b'").__str__()
    assert said == "wrong: a\\nb; rm 'x\\x1b'"
    command = "import logging; from stages.store.errors import run; run(lambda: logging.warning('a\\nb'))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "a\\nb\n"


def test_the_last_search_for_garbage_walks_nothing():
    said = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1000, len(gc.get_objects())))"
    command = f"{said}; from stages.store.errors import run; run(lambda: None)"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    frozen, walked = done.stdout.split()
    assert frozen == "True" and int(walked) < 100


SECTIONS = {*params.whole().model_fields}


def test_a_message_that_begins_with_a_key_names_its_file():
    """Found in the code: any text of a `UserError` that begins with a section of params."""
    for file in (ROOT / "stages").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "UserError" and call.args:
                begins = re.match(r"f?['\"](\w+)[.:]", ast.unparse(call.args[0]))
                assert not begins or begins[1] not in SECTIONS, f"{file}:{call.lineno} names no params.yaml"
