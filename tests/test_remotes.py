"""Everything that may be left out left out; then another model on a branch, then a task removed, here and in clones."""

import json

import pytest
from tiny import save

from bench.remotes import local, steps
from bench.small import COSTLY, repository, shell


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A repository after its run, with nothing in params that may be left out but two tasks."""
    folder = repository(tmp_path_factory.mktemp("remotes") / "origin", ("repeats", "needle"))
    save("llama_gqa", folder.parent / "model")
    save("gpt2", folder.parent / "other", seed=1)
    shell(folder, "dvc repro -q && git add -A && git commit -qm run")
    return folder


def test_the_page_says_what_was_left_out(origin):
    record = json.loads((origin / "reports/slots/decoder/model.json").read_text(encoding="utf-8"))
    said = {why for why in record["not_measured"].values() if why.startswith("left out")}
    assert said == {f"left out: {section} is null in params" for section in COSTLY}
    page = (origin / "reports/index.html").read_text(encoding="utf-8")
    assert all(why in page for why in said) and "the task is not in params.yaml" in page
    assert json.loads((origin / "reports/slots/decoder/metrics.json").read_text())["heads"]["induction"]


def test_another_model_on_a_branch_is_compared_number_by_number(origin):
    shell(origin, "git checkout -q -b other && sed -i s:../model:../other: params.yaml")
    shell(origin, "dvc repro -q && git add -A && git commit -qm other")
    shown = json.loads(shell(origin, "dvc metrics diff main other --json").stdout)
    changes = shown["reports/slots/decoder/metrics.json"]
    assert changes["heads.induction.top_score"]["old"] and changes["heads.induction.top_score"]["diff"]
    shell(origin, "git checkout -q main && dvc checkout -q")


def test_a_clone_has_all_it_needs_also_after_a_task_was_removed(origin):
    with local(origin.parent / "remote") as options:
        seen = list(steps(origin, origin.parent / "clone", options))
    assert [row[0] for row in seen] == [
        "clone", "task removed, here", "task removed, clone that had it", "task removed, fresh clone",
    ]  # fmt: skip
    assert {(status, ran) for _, status, ran, _ in seen} == {("clean", 0)}
    assert not list((origin / "data").rglob("needle*"))
