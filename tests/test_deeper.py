"""A stage at a larger size runs apart from the default run, keeps what made it, and the page shows it or does not."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import synthetic
import yaml
from defaults import of_the_default_run
from test_memory import raw_rows, row

import stages.ablate
import stages.answer
import stages.neighbours
import stages.ngram
import stages.plan
import stages.steer
from stages import deeper, prepare, tasks
from stages import memory as stage
from stages.families import FAMILIES
from stages.page import inputs, longer, page, rows
from stages.page.page import Section
from stages.page.section import Context
from stages.page.sections.circuit import SECTION as CIRCUIT
from stages.page.sections.effects import SECTION as EFFECTS
from stages.page.sections.extrapolation import SECTION as EXTRAPOLATION
from stages.page.sections.found import SECTION as FOUND
from stages.page.sections.memory import SECTION
from stages.page.sections.neighbours import SECTION as NEIGHBOURS
from stages.page.sections.streaming import SECTION as STREAMING
from stages.page.sections.vectors import SECTION as VECTORS
from stages.store import files, params, paths, tables
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
SLOTS = ROOT / "reports/slots"
FILES = {"model.safetensors": "abc"}


@pytest.fixture()
def repository(tmp_path, monkeypatch):
    """A repository with a default run of memory, and a longer study in full/ of three facts."""
    sections = yaml.safe_load((ROOT / "params.quick.yaml").read_text(encoding="utf-8"))
    study = {"seed": 3, "recipes": sections["recipes"], "slots": ["decoder"]}
    study["memory"] = sections["memory"] | {"facts": 3, "kl": [0.5]}
    files.write_text(tmp_path / paths.PARAMS, yaml.safe_dump(sections))
    files.write_text(tmp_path / paths.FULL / paths.PARAMS, yaml.safe_dump(study))
    monkeypatch.chdir(tmp_path)
    files.write_text(paths.model("decoder"), synthetic.record("decoder", files=FILES))
    tables.HEADS.write_empty("decoder", why="none")
    tables.MEMORY.write_empty("decoder", why="the default run")
    return tmp_path


def measure(slot: str) -> None:
    """Stand in for stage memory: its numbers say which params it was given."""
    facts = params.load().memory.facts
    rows = [row(part="insert", what="edit", cluster=f"c{n}", measure="efficacy", value=1.0) for n in range(facts)]
    tables.MEMORY.noting(chosen={"mlp": 0}).write(pd.DataFrame(rows)[tables.MEMORY.names], slot)


def test_a_stage_runs_apart_with_the_sizes_of_the_longer_study(repository, monkeypatch):
    monkeypatch.setattr(stage, "main", measure)
    monkeypatch.chdir(paths.FULL)
    deeper.main("memory", "decoder")
    assert Path.cwd() == repository / paths.FULL
    kept = paths.deeper("decoder", "memory")
    assert pd.read_csv(kept / "memory.csv").query("what == 'edit'").trials.item() == 3
    made = json.loads((kept / "params.json").read_text())
    assert made["params"]["facts"] == 3 and made["files"] == FILES
    assert made["seed"] == params.load(ROOT / "params.quick.yaml").seed  # the prompts are those of the default run
    monkeypatch.chdir(repository)
    assert tables.MEMORY.reason("decoder") == "the default run" and not (paths.FULL / "data").exists()


def test_a_stage_that_fails_leaves_what_was_there(repository, monkeypatch):
    def fail(slot: str) -> None:
        raise UserError("no")

    monkeypatch.setattr(stage, "main", fail)
    monkeypatch.chdir(paths.FULL)
    files.write_text(paths.deeper("decoder", "memory") / "memory.csv", "before")
    with pytest.raises(UserError):
        deeper.main("memory", "decoder")
    assert (paths.deeper("decoder", "memory") / "memory.csv").read_text() == "before"


@pytest.mark.parametrize("name", ["apply", "gates"])  # no longer study; one without a section
def test_what_has_no_section_is_a_users_mistake(repository, monkeypatch, name):
    monkeypatch.chdir(paths.FULL)
    with pytest.raises(UserError, match=f"no section '{name}'.*memory"):
        deeper.main(name, "decoder")


def shown(repository: Path) -> inputs.Slot:
    slot = replace(inputs.read("decoder", paths.report("decoder")), model={"files": FILES})
    return longer.attached(slot, params.load(), params.load_studies(paths.FULL / paths.PARAMS))


def test_the_page_shows_a_study_of_the_same_weights_and_says_when_params_have_changed(repository, monkeypatch):
    assert shown(repository).longer == {}  # nothing was run: nothing is shown or promised
    monkeypatch.setattr(stage, "main", measure)
    monkeypatch.chdir(paths.FULL)
    deeper.main("memory", "decoder")
    monkeypatch.chdir(repository)
    says = shown(repository).longer["memory"].says
    assert "`facts: 3` (default 2)" in says and "`kl: [0.5]` (default [])" in says and "CHANGED" not in says
    study = yaml.safe_load((paths.FULL / paths.PARAMS).read_text())
    study["memory"]["facts"] = 4
    files.write_text(paths.FULL / paths.PARAMS, yaml.safe_dump(study))
    assert "CHANGED" in shown(repository).longer["memory"].says
    study["memory"]["facts"] = 3
    files.write_text(paths.FULL / paths.PARAMS, yaml.safe_dump(study))
    assert "CHANGED" not in shown(repository).longer["memory"].says
    sections = yaml.safe_load(paths.PARAMS.read_text())
    sections["tasks"]["text"]["tokens"] += 1
    files.write_text(paths.PARAMS, yaml.safe_dump(sections))
    assert "CHANGED" in shown(repository).longer["memory"].says
    path = paths.FULL / paths.deeper("decoder", "memory") / "params.json"
    files.write_text(path, path.read_text().replace("abc", "other"))
    assert shown(repository).longer == {}


def of_insert(what: str, measure: str, share: float, layer: int = 1, number: int = 20) -> list[dict]:
    same = {"part": "insert", "condition": "invented", "what": what, "measure": measure, "layer": layer}
    return [row(cluster=f"c{n}", value=float(n < share * number), **same) for n in range(number)]


def test_the_fold_says_what_differs_from_the_edit_and_in_which_direction(repository):
    from stages.statistics import memory

    raw = raw_rows(True) + of_insert("edit", "paraphrase", 1) + of_insert("edit", "paraphrase", 0.2, layer=0)
    raw += of_insert("edit", "efficacy", 1, layer=0) + of_insert("descent", "efficacy", 1)
    raw += of_insert("descent", "neighbours", 0.4) + of_insert("kl-0.5", "efficacy", 0.5)
    raw += of_insert("kl-0.5", "subject_kl", 0) + of_insert("edit", "subject_kl", 1)
    table = memory.table(pd.DataFrame(raw), {"mlp": 1, "attention": 2})
    less = table[(table.what == "descent_less_edit") & (table.measure == "neighbours")].iloc[0]
    assert less.value == -0.6 and less.high < 0 and less.clusters == 20
    files.write_text(paths.report("decoder") / "memory.csv", table.to_csv(index=False))
    slot = inputs.read("decoder", paths.report("decoder"))
    slot = replace(slot, longer={"memory": longer.Study(slot, "Made by a test.")})
    fold = SECTION.build(slot, Context({}, []))[-1]
    said = {block.text[:20]: block.text for block in fold.blocks if block.kind == "note"}
    descended = said["A LoRA of rank one f"]
    assert "worse in: known subjects still right −0.60" in descended and "not told apart in: recalled." in descended
    pulled = said["A KL term of weight "]
    assert "better in: KL after the name, nats −1.000" in pulled and "worse in: recalled −0.50" in pulled
    layers = next(text for text in said.values() if "other layers" in text)
    assert "layer 0 1.00 and 0.20" in layers and "in other words: fewer at layer 0 (−0.80)." in layers
    html = page.render("page", [(slot, [Section("memory", "Store", [fold])])], {}, [])
    assert page.beside("full/reports/x.csv") == "../full/reports/x.csv"  # from reports/index.html
    assert page.beside("reports/slots/x.csv") == "slots/x.csv" and 'href="slots/decoder/memory.csv"' in html
    assert html.count('<details class="longer">') == 1 and "Made by a test." in html
    none = SECTION.build(replace(slot, longer={}), Context({}, []))
    assert all(block.kind != "fold" for block in none)


def fold_of(section, slot: inputs.Slot, stage_name: str, deep: inputs.Slot) -> list[str]:
    shown = replace(slot, longer={stage_name: longer.Study(deep, "Made by a test.")})
    fold = section.build(shown, Context(FAMILIES, []))[-1]
    assert fold.kind == "fold" and fold.blocks[0].text == "Made by a test."
    return [block.text for block in fold.blocks if block.kind == "note"]


@of_the_default_run
def test_the_fold_names_heads_that_the_first_prompts_had_missed():
    slot = inputs.read("decoder", SLOTS / "decoder")
    gates = slot.gates.assign(prompts=2, change=0.01)
    slot = replace(slot, gates=gates)
    alike = fold_of(STREAMING, slot, "gates", replace(slot, gates=gates.assign(prompts=20, change=0.02)))
    assert f"Of {len(gates)} heads that rest on 2 in the default run, none moves it by 0.1 or more here" in alike[1]
    other = gates.assign(prompts=20, change=0.02)
    other.loc[(other.layer == 5) & (other["head"] == 1), "change"] = 0.25
    assert (
        "1 moves it by 0.1 or more here: L5H1 0.25 (there 0.01)"
        in fold_of(STREAMING, slot, "gates", replace(slot, gates=other))[1]
    )


@of_the_default_run
def test_the_fold_counts_induction_heads_with_feeders_that_stand_out():
    slot = inputs.read("decoder", SLOTS / "decoder")
    traced = slot.circuit
    heads = list(dict.fromkeys(traced.sort_values("place").target))
    said = fold_of(CIRCUIT, slot, "circuit", slot)
    assert f"Of {len(heads)} members of induction" in said[1]
    without = traced[~((traced.target == heads[0]) & (traced.purpose == "feeders"))]
    fed = without[without.purpose == "feeders"].target.nunique()
    lost = without.assign(p=1.0)
    said = fold_of(CIRCUIT, slot, "circuit", replace(slot, circuit=lost))
    have = "has" if fed == 1 else "have"
    assert f"{fed} {have} feeders, chosen on split a; in 0 of these (none)" in said[1]
    fewer = replace(slot, circuit=traced[traced.target == heads[0]])
    notes = fold_of(CIRCUIT, fewer, "circuit", slot)[2:]
    opened = [note.split(":")[0] for note in notes if not note.startswith("More about")]
    assert opened == heads[1:]  # each head that the default run did not trace opens a paragraph of its own
    ranked = traced.copy()  # by the loss, which the default run does not measure of control sets
    fed = (ranked.target == heads[0]) & (ranked.purpose == "feeders")
    ranked.loc[fed, ["controls", "loss_control_largest", "loss_p", "loss_p_floor"]] = 39, 0.1, 0.025, 0.025
    notes = fold_of(CIRCUIT, slot, "circuit", replace(slot, circuit=ranked))
    assert notes[2].startswith(
        f"{heads[0]}: what it gives with its feeders noised changes the loss of the last copy by"
    )
    assert "brought back to its corrupted keys, they take" in notes[2]
    assert "Of 39 control sets, noised, none leaves as high a loss (largest change +0.10): rank p = 0.025" in notes[2]
    assert len(fold_of(CIRCUIT, slot, "circuit", slot)) == 2


@pytest.fixture()
def planned(repository, monkeypatch):
    """The repository with a longer study of a plan, and what stands in for its two stages."""
    study = yaml.safe_load((paths.FULL / paths.PARAMS).read_text())
    usual = yaml.safe_load(paths.PARAMS.read_text())["plan"]
    study["plan"] = usual | {"draws": 7, "sweep": None}
    files.write_text(paths.FULL / paths.PARAMS, yaml.safe_dump(study))
    ran = []

    def plan(slot: str) -> None:
        ran.append(("plan", params.load().plan.draws))
        tables.PLANS.write_empty(slot, why="a test")

    def ablate(slot: str) -> None:
        ran.append(("ablate", len(tables.PLANS.read(slot))))
        tables.EFFECTS.write_empty(slot, why="a test")

    monkeypatch.setattr(stages.plan, "main", plan)
    monkeypatch.setattr(stages.ablate, "main", ablate)
    monkeypatch.chdir(paths.FULL)
    return ran


def test_a_plan_is_carried_out_and_its_effects_are_kept(repository, planned, monkeypatch):
    deeper.main("plan", "decoder")
    assert planned == [("plan", 7), ("ablate", 0)]
    kept = paths.deeper("decoder", "plan")
    assert {path.name for path in kept.iterdir()} == {"effects.csv", "params.json", "switch.csv"}
    made = json.loads((kept / "params.json").read_text())
    monkeypatch.chdir(repository)
    assert made["ablate"] == params.load().ablate.model_dump(mode="json") and made["params"]["draws"] == 7
    assert "CHANGED" not in shown(repository).longer["plan"].says
    sections = yaml.safe_load(paths.PARAMS.read_text())
    sections["ablate"]["prompts"]["icl"] += 1  # a plan on other prompts is another study
    files.write_text(paths.PARAMS, yaml.safe_dump(sections))
    assert "CHANGED" in shown(repository).longer["plan"].says


@pytest.fixture()
def prompted(repository, monkeypatch):
    """The repository with prompts of two tasks, longer studies of more of them, and what stands in for their stages."""
    usual = yaml.safe_load((ROOT / "tests/params.yaml").read_text())["tasks"]
    few = {"extrapolation": {"functions": ["copy"], "words": 3}, "neighbours": {"groups": ["repeated"], "report": 2}}
    few = {task: usual[task] | {"path": str(ROOT / usual[task]["path"])} | sizes for task, sizes in few.items()}
    sections, study = (yaml.safe_load(path.read_text()) for path in (paths.PARAMS, paths.FULL / paths.PARAMS))
    sections["tasks"] |= few
    more = {"extrapolation": few["extrapolation"] | {"words": 5}, "neighbours": few["neighbours"] | {"report": 4}}
    study |= {"tasks": more, "steer": sections["steer"], "neighbours": sections["neighbours"] | {"sets": 2}}
    files.write_text(paths.PARAMS, yaml.safe_dump(sections))
    files.write_text(paths.FULL / paths.PARAMS, yaml.safe_dump(study))
    for task in few:
        prepare.main(task)
    tables.PLANS.write_empty("decoder", why="the default run")
    ran = []

    def stand_in(module, *written) -> None:
        def main(*of: str) -> None:
            prompts = {task: len(tables.ASKED.read(task)) for task in few}
            ran.append((module.__name__.removeprefix("stages."), of, prompts))
            for table in written:
                table.write_empty(*of, why="a test")

        monkeypatch.setattr(module, "main", main)

    stand_in(stages.ngram, tables.NGRAM)
    stand_in(stages.answer, tables.ANSWERS)
    stand_in(stages.steer, tables.STEERING)
    stand_in(stages.neighbours, tables.NEIGHBOURS, tables.NEIGHBOURS_ATTENTION, tables.NEIGHBOURS_SILENCED)
    return ran


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "data").rglob("*") if path.is_file()}


def built(settings: params.Params) -> dict[str, int]:
    """How many prompts there are of both tasks."""
    sections = {task: getattr(settings.tasks, task) for task in ("extrapolation", "neighbours")}
    return {task: len(tasks.of(task).build(section, settings.seed)) for task, section in sections.items()}


@pytest.mark.parametrize(
    ("study", "task", "changed", "after", "kept"),
    [
        ("steer", "extrapolation", "words: 5` (default 3)", ["ngram", "answer", "steer"],
         {"steering.csv", "sweep.csv", "extrapolation.csv"}),
        ("neighbours", "neighbours", "report: 4` (default 2)", ["neighbours"], {"neighbours.csv"}),
    ],
)  # fmt: skip
def test_a_study_prepares_its_prompts_anew_and_leaves_those_of_the_default_run(
    repository, prompted, monkeypatch, study, task, changed, after, kept
):
    before, usual = contents(repository), built(params.load())
    assert {"asked", "prompts", "plans"} <= {path.parent.name for path in before}
    sizes = params.load_studies(paths.FULL / paths.PARAMS)
    deep = built(params.deepened(params.load(), sizes, study))
    monkeypatch.chdir(paths.FULL)
    deeper.main(study, "decoder")
    folder = paths.deeper("decoder", study)
    made = json.loads((folder / "params.json").read_text())
    assert {path.name for path in folder.iterdir()} == {"params.json"} | kept
    monkeypatch.chdir(repository)
    assert contents(repository) == before and not (paths.FULL / "data").exists()
    assert deep[task] > usual[task]  # more of its own, as many of the other
    assert prompted == [
        (stage, () if stage == "ngram" else ("decoder",), usual | {task: deep[task]}) for stage in after
    ]
    assert made["params"][f"tasks.{task}.template"] == getattr(sizes.tasks, task).template
    says = shown(repository).longer[study].says
    assert f"`tasks.{task}.{changed}" in says and "template" not in says and "CHANGED" not in says
    content = yaml.safe_load((paths.FULL / paths.PARAMS).read_text())
    content["tasks"][task]["template"] += " "
    files.write_text(paths.FULL / paths.PARAMS, yaml.safe_dump(content))
    assert "CHANGED" in shown(repository).longer[study].says


def test_a_study_hangs_on_the_sections_that_it_is_carried_out_with(repository, prompted, monkeypatch):
    monkeypatch.chdir(paths.FULL)
    deeper.main("neighbours", "decoder")
    monkeypatch.chdir(repository)
    assert "CHANGED" not in shown(repository).longer["neighbours"].says
    sections = yaml.safe_load(paths.PARAMS.read_text())
    sections["plan"]["top"] += 1  # other heads are silenced
    files.write_text(paths.PARAMS, yaml.safe_dump(sections))
    assert "CHANGED" in shown(repository).longer["neighbours"].says


def test_prompts_of_one_study_are_none_of_the_others(repository, prompted):
    default, sizes = params.load(), params.load_studies(paths.FULL / paths.PARAMS)
    digests = {
        name: params.asked_of(name, params.deepened(default, sizes, name))["tasks"]
        for name in ("circuit", "gates", "memory", "plan", "neighbours", "steer")
    }
    usual = params.asked_of("memory", default)["tasks"]
    assert [name for name, digest in digests.items() if digest != usual] == ["neighbours", "steer"]
    assert digests["neighbours"] != digests["steer"]


def test_a_task_that_no_study_prepares_is_refused(repository, prompted):
    path = paths.FULL / paths.PARAMS
    content = yaml.safe_load(path.read_text())
    text = yaml.safe_load(paths.PARAMS.read_text())["tasks"]["text"]
    files.write_text(path, yaml.safe_dump(content | {"tasks": content["tasks"] | {"text": text}}))
    with pytest.raises(
        UserError, match=r"^full/params.yaml: tasks = .*: text: .*allowed: extrapolation, neigh\w+$"
    ) as no:
        params.load_studies(path)
    assert "\n" not in str(no.value)
    files.write_text(path, yaml.safe_dump(content | {"tasks": None}))
    assert params.deepened(params.load(), params.load_studies(path), "steer").tasks == params.load().tasks


@of_the_default_run
@pytest.mark.parametrize(
    ("section", "study", "table"),
    [
        (VECTORS, "steer", "steering"),
        (EXTRAPOLATION, "steer", "extrapolation"),
        (NEIGHBOURS, "neighbours", "neighbours"),
    ],
)
def test_a_study_on_more_prompts_is_folded_in_its_sections(section, study, table):
    slot = inputs.read("decoder", SLOTS / "decoder")
    context = Context(FAMILIES, [])
    plain = section.build(slot, context)
    assert all(block.kind != "fold" for block in plain)
    empty = {name: getattr(slot, name).head(0) for name in inputs.COLUMNS if name != "heads"}
    deep = replace(slot, **empty | {table: getattr(slot, table)}, folder=Path("full/reports/slots/decoder") / study)
    other = {"steer": "neighbours", "neighbours": "steer"}[study]
    for longer_studies in ({other: longer.Study(deep, "")}, {study: longer.Study(replace(deep, **empty), "")}):
        assert all(block.kind != "fold" for block in section.build(replace(slot, longer=longer_studies), context))
    *before, fold = section.build(replace(slot, longer={study: longer.Study(deep, "Made by a test.")}), context)
    assert [block.kind for block in before] == [block.kind for block in plain]
    assert fold.kind == "fold" and fold.blocks[0].text == "Made by a test."
    assert {block.path for block in fold.blocks if block.kind != "note"} == {deep.path(f"{table}.csv")}
    said, usual = ([block.text for block in blocks if block.kind == "note"] for blocks in (fold.blocks, plain))
    assert set(said) & set(usual)  # of the same numbers the same is said; how they were measured is said once
    how = importlib.import_module(section.build.__module__).WHAT[:50]
    assert any(text.startswith(how) for text in usual) and not any(text.startswith(how) for text in said)


@of_the_default_run
def test_a_study_of_neighbours_has_the_control_sets_of_the_default_run():
    slot = inputs.read("decoder", SLOTS / "decoder")
    notes = fold_of(NEIGHBOURS, slot, "neighbours", replace(slot, effects=slot.effects.head(0)))
    assert any("Control sets: as many heads, " in text for text in notes)


def with_ranks(slot: inputs.Slot, p: float, q: float, draws: int) -> inputs.Slot:
    """A slot with this rank p and q of every claim of a family, among so many control sets, each with some harm."""
    effects = slot.effects
    claim = effects["q"].notna() & (effects["purpose"] == "family")
    harmful = rows._signs(effects) * (effects["change"].abs() + 1e-3)
    ranks = {"p": p, "q": q, "p_floor": 1 / (1 + draws), "controls": draws, "change": harmful}
    return replace(slot, effects=effects.assign(**{name: effects[name].mask(claim, ranks[name]) for name in ranks}))


@of_the_default_run
def test_the_page_names_the_claims_that_hold_at_once_among_more_control_sets():
    slot = inputs.read("decoder", SLOTS / "decoder")
    few = with_ranks(slot, 0.05, 0.0857, 19)
    claims = rows.silenced(few.effects, FAMILIES)
    number = int((claims["claim"] & claims["q"].notna()).sum())
    said = [block.text for block in FOUND.build(few, Context(FAMILIES, [])) if block.kind == "note"]
    assert said and not any("longer study" in text for text in said)
    many = with_ranks(slot, 0.025, 0.03, 39)
    notes = fold_of(EFFECTS, few, "plan", many)
    assert f"Over all {number} claims of this model at once, {number} have q at most 0.05: " in notes[1]
    assert "39" in notes[1] and "function heads (accuracy on in-context functions)" in notes[1]
    studied = replace(few, longer={"plan": longer.Study(many, "Made by a test.")})
    text = next(b.text for b in FOUND.build(studied, Context(FAMILIES, [])) if "control sets of other" in b.text)
    assert (
        "A longer study has 39 control sets each. Over all" in text
        and "function heads (accuracy on in-context functions)" in text
    )
    since = replace(few, longer={"plan": longer.Study(many, "Made by a test.", changed=True)})
    assert not any("longer study" in b.text for b in FOUND.build(since, Context(FAMILIES, [])) if b.kind == "note")
    first = replace(few, longer={"plan": longer.Study(with_ranks(slot, 0.025, 0.06, 39), "Made by a test.")})
    text = next(b.text for b in FOUND.build(first, Context(FAMILIES, [])) if "control sets of other" in b.text)
    assert (
        "none has q at most 0.05; " in text
        and "function heads (accuracy on in-context functions)" in text.split("none has q")[1]
    )
    assert f"have q = 0.06, as low as so many sets let {number} of {number} claims come." in text
    assert "not among these" not in text
    weak = replace(few, longer={"plan": longer.Study(with_ranks(slot, 0.3, 0.4, 39), "Made by a test.")})
    text = next(b.text for b in FOUND.build(weak, Context(FAMILIES, [])) if "control sets of other" in b.text)
    assert f"Over all {number} claims of this model at once, none has q at most 0.05." in text
    assert "not among these: " in text and "(accuracy on in-context functions, rank p 0.30)" in text
