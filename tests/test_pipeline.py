"""The pipeline itself, in a temporary clone, on a tiny random model: one run, shared by all assertions."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as compute
import pyarrow.parquet as parquet_file
import pytest
import yaml
from mutated import mutations, put, written
from tiny import save

from stages.store import parquet, tables
from stages.store.errors import UserError, run

ROOT = Path(__file__).parents[1]
REPORTS = Path("reports/slots/decoder")


def sh(folder: Path, command: str, check: bool = True) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HEAD_ATLAS_CACHE": str(folder.parent / "cache"),
        "OMP_NUM_THREADS": "2",  # so that stages share their work
        "DVC_NO_ANALYTICS": "1",
    }
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


def tracked() -> list[str]:
    """Files of this repository that are in the work tree and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    return [name for name in listed if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone of the tracked files as they are now, with tiny params, after `dvc repro` and a commit."""
    folder = tmp_path_factory.mktemp("pipeline") / "repo"
    for name in tracked():
        if name != "dvc.lock" and not name.startswith("reports/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    save("llama_gqa", folder.parent / "model0")
    content = yaml.safe_load((folder / "params.quick.yaml").read_text())
    content["models"] = {"decoder": {"source": "path", "name": "../model0"}}
    content["tasks"] = {task: content["tasks"][task] for task in ("text", "repeats", "treebank")}
    iteration = yaml.safe_load((folder / "tests/params.yaml").read_text())["tasks"]["iteration"]
    content["tasks"]["iteration"] = iteration | {"prompts": 6, "examples": 3, "shortest": 4, "longest": 12}
    content["tasks"]["text"] |= {"passages": 6, "short_passages": 6, "tokens": 280}
    content["plan"] |= {"top": 2, "draws": 4, "sample": 2}
    content["tasks"]["repeats"]["prompts"] = 48  # 20 of split b carry a claim
    content["ablate"]["prompts"]["repeats"] = 20
    content["recipes"]["induction"]["train"] |= {"steps": 4, "seeds": 1, "checkpoints": {"even": 2}}
    content["recipes"]["induction"]["study"] |= {"sequences": 8, "bootstrap": 200}
    for step in range(2):
        save("llama_gqa", folder.parent / "run" / f"step{step}", seed=step)
    content["recipes"]["steps"] = {
        "task": "families",
        "reads": "data/prompts",
        "words": "data/prompts",
        "families": "stages/families",
        "train": {
            "arguments": {"tasks": ["text", "repeats", "treebank"]},
            "source": "path",
            "name": "../run",
            "revisions": {0: "step0", 512: "step1"},
        },
        "main": "tiny",
        "arms": {"tiny": {}},
        "study": {"sequences": 8, "window": "x4", "bootstrap": 200},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    sh(folder, "git init -q -b main && git config user.email t@t && git config user.name t")
    sh(folder, "dvc repro -q && git add -A && git commit -qm run")
    return folder


def test_the_run_leaves_page_summaries_and_lock(clone):
    page = (clone / "reports/index.html").read_text()
    assert "<html" in page and "../model0" in page
    assert "Heads that emerge: induction" in page
    assert "Checkpoints that others trained: tiny (<code>../run" in page
    assert "streaming" in json.loads((clone / "reports/recipes/steps/metrics.json").read_text())
    studied = json.loads((clone / "reports/recipes/induction/metrics.json").read_text())
    assert studied["loss"] > 0 and studied["one_layer_loss"] > 0
    measured = json.loads((clone / REPORTS / "metrics.json").read_text())
    assert measured["text"]["loss"] > 0 and measured["heads"]["induction"]["members"] == 0
    heads = pd.read_csv(clone / REPORTS / "heads.csv")
    syntactic = heads.family.str.startswith("grammar:")
    assert set(heads.family[~syntactic]) == {
        "previous", "self", "local", "sink", "streaming", "duplicate", "induction", "separator", "iteration:copy",
        "iteration:parity", "iteration:polynomial",
    }  # fmt: skip
    peaks = {task: pd.read_parquet(clone / f"data/activations/decoder/{task}.relations.parquet")[["hits", "over_half"]]
             for task in ("repeats", "iteration")}  # fmt: skip
    assert peaks["repeats"].isna().all(axis=None) and peaks["iteration"].notna().all(axis=None)
    steps = pd.read_csv(clone / REPORTS / "iteration.csv")
    assert set(measured["iteration"]) - {"recall", "trials"} == set(steps.function) == {"copy", "parity", "polynomial"}
    assert "grammar:det:head-to-dep" in set(heads.family) and "grammar:det:dep-to-head" not in set(heads.family)
    grammar = pd.read_csv(clone / REPORTS / "grammar.csv").set_index(["label", "direction"])
    assert measured["grammar"]["hit_rate"] == pytest.approx(grammar.accuracy.iloc[0], abs=1e-4)  # both directions
    assert grammar.loc["det", "head-to-dep"].trials >= 20
    assert heads.groupby("family").size().eq(12).all() and heads.member.sum() == 0
    effects = pd.read_csv(clone / REPORTS / "effects.csv")
    assert {"previous", "induction", "iteration:copy"} == set(effects.family.dropna())
    claims = effects[(effects.purpose == "family") & effects.controls.gt(0)]
    assert set(claims.controls) == {4} and set(claims.kind) == {"mean"}
    causal = pd.read_csv(clone / REPORTS / "causal.csv")
    assert causal.first_order.notna().all() and causal.groupby(["task", "measure"]).size().eq(12).all()
    model = json.loads((clone / REPORTS / "model.json").read_text())
    missing = {name for name in model["not_measured"] if not name.startswith("family grammar:")}
    absent = set(
        "steering circuit extrapolation neighbours shifts composed continued gates orders probes memory switch".split()
    )
    assert missing == {"family retrieval", "family function", *absent}


def test_effects_are_paired_and_intervals_hold_the_change(clone):
    raw = parquet.read(clone / tables.EFFECTS.path("decoder"), tables.EFFECTS.schema)
    none = raw[raw.intervention == "none"]
    assert (none.value == none.intact).all()
    intact = none.set_index(["task", "prompt", "measure"]).value
    changed = raw[raw.intervention != "none"]
    keys = pd.MultiIndex.from_frame(changed[["task", "prompt", "measure"]])
    told = keys.isin(intact.index)  # rows of the intact model are of the task's own prompts, not of those of families
    assert told.mean() > 0.5 and (intact.loc[keys[told]].to_numpy() == changed.intact[told].to_numpy()).all()
    assert (changed.groupby(["task", "prompt", "measure"]).intact.nunique() == 1).all()
    effects = pd.read_csv(clone / REPORTS / "effects.csv")
    family = effects[(effects.family == "induction") & (effects.purpose == "family") & (effects.condition == "all")]
    bounded = family.dropna(subset="low")
    assert ((bounded.low <= bounded.change) & (bounded.change <= bounded.high)).all()
    row = family[(family.task == "repeats") & (family.kind == "mean") & (family.measure == "loss")].iloc[0]
    same = changed[(changed.family == "induction") & (changed.task == "repeats") & (changed.kind == "mean")]
    own = same[same.purpose == "family"]
    assert row.change == pytest.approx((own.value - own.intact).mean(), abs=1e-4)
    controls = same[same.purpose == "control"].assign(change=same.value - same.intact).groupby("draw").change.mean()
    assert row.control_change == pytest.approx(controls.mean(), abs=1e-4) and row.controls == len(controls) == 4
    assert np.isnan(row.p) and "not measurable" in row.note  # a random model has no loss to lose


def test_a_second_run_does_nothing(clone):
    done = sh(clone, "dvc repro")
    assert "Running stage" not in done.stdout and "up to date" in done.stdout
    assert not sh(clone, "git status --porcelain").stdout


def test_from_nothing_the_lock_comes_back_identical(clone):
    lock, page = (clone / "dvc.lock").read_bytes(), (clone / "reports/index.html").read_bytes()
    for name in ("data", "reports", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(clone / name, ignore_errors=True)
    (clone / "dvc.lock").unlink()
    sh(clone, "dvc repro -q")
    assert (clone / "dvc.lock").read_bytes() == lock
    assert (clone / "reports/index.html").read_bytes() == page


def test_mistakes_end_in_one_line_and_leave_results_alone(clone):
    before = (clone / "data/heads/decoder.parquet").read_bytes()
    saved = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(saved + "sede: 3\n")
    done = sh(clone, "python -m stages.classify decoder", check=False)
    assert done.returncode == 1 and done.stderr.strip().startswith("error: params.yaml: sede = 3: unknown key")
    assert "\n" not in done.stderr.strip()
    (clone / "params.yaml").write_text(saved)
    table = clone / "data/activations/decoder/repeats.relations.parquet"
    good = table.read_bytes()
    table.unlink()  # it may be a link into the cache
    table.write_bytes(b"damaged")
    done = sh(clone, "python -m stages.classify decoder", check=False)
    assert done.returncode == 1 and "repeats.relations.parquet: damaged" in done.stderr
    table.write_bytes(good)
    assert (clone / "data/heads/decoder.parquet").read_bytes() == before
    assert not list((clone / "data").rglob("*.part"))


def test_a_table_with_a_fault_in_its_rows_ends_its_reader_with_one_line(clone, monkeypatch):
    """All tables of the run, with no rows, a row dropped or doubled, a name changed: by any program, or by our own."""
    monkeypatch.chdir(clone)
    tried = set()
    for table, of, path in list(written(Path("data"))):
        good, rows = path.read_bytes(), parquet_file.read_table(path)
        assert len(table.read(*of)) == len(rows)
        single = table.alike is not None and len(rows[table.unit].unique()) == 1  # no other that it should be like
        for at in {0, len(rows) // 2, len(rows) - 1}:
            for what, changed in mutations(rows, table.key, at):
                first = rows.slice(at, 1).to_pylist()[0]
                intact = first.get("intervention") == "none"  # two shards may have scored it, by several measures
                seen = what == "doubled" or (what == "dropped" and not single)
                ours = what == "none" or (table.key and not intact and seen) or table.every_head
                for by_us in {False, bool(ours)}:
                    put(path, changed, by_us)
                    with pytest.raises(SystemExit) as ended:
                        run(table.read, *of)
                    line = ended.value.code
                    assert line.startswith(f"error: {path}: ") and "dvc repro" in line and "\n" not in line, what
            for column in table.asked:
                others = compute.not_equal(rows[column], rows[column][at])
                put(path, rows.filter(others), ours=True)
                with pytest.raises(UserError, match=f"^{path}: .*where [0-9]+ were to be written: cut, or left out; "):
                    table.complete(*of)
        path.unlink()
        path.write_bytes(good)
        tried.add(table.place)
    assert len(tried) >= 10, tried


def test_a_stage_that_reads_a_table_with_a_fault_says_one_line_and_writes_nothing(clone):
    for stage, name in (("plan", "heads"), ("classify", "activations/decoder/text.relations")):
        path = clone / f"data/{name}{'/decoder' if stage == 'plan' else ''}.parquet"
        out = clone / f"data/{'plans' if stage == 'plan' else 'heads'}/decoder.parquet"
        good, before = path.read_bytes(), out.read_bytes()
        put(path, parquet_file.read_table(path).slice(1), ours=True)
        done = sh(clone, f"python -m stages.{stage} decoder", check=False)
        path.unlink()
        path.write_bytes(good)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1 and last.startswith(f"error: data/{name}") and "each head" in last
        assert "Traceback" not in done.stderr and out.read_bytes() == before
