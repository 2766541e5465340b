"""The plan is executed as it is written: which prompts, which heads, which kinds; in a folder of a tiny model."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from synthetic import record

from stages import ablate, extract, fetch, prepare
from stages.engine import means, shards
from stages.model.load import load
from stages.model.tokens import encode
from stages.store import files, params, paths, tables
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
FIELDS = tables.PLANS.names


def planned(
    id: str, purpose: str, heads: str, tasks: list[str], kind: str = "mean", condition: str = "", draw: int = 0
):
    """A row of the plan."""
    values = (id, purpose, "f", len(heads.split()), kind, draw, heads, 0, tasks, condition, "")
    return dict(zip(FIELDS, values, strict=True))


def table(number: int, conditions: int = 3, categories: int = 1, clusters: int = 4) -> pd.DataFrame:
    """Prompts 0, 1, ... of as many conditions, categories (of conditions) and clusters (in a condition), in turn."""
    rows = [
        {
            "id": f"p{n:03}",
            "condition": f"g{n % conditions}",
            "category": f"c{n % conditions % categories}",
            "cluster": f"g{n % conditions}/{n // conditions % clusters}",
        }
        for n in range(number)
    ]
    return pd.DataFrame(rows)


def test_prompts_are_spread_over_categories_groups_and_clusters():
    prompts = table(60, conditions=6, categories=3, clusters=10)  # one prompt in a cluster
    for count in (3, 6, 12, 30):
        taken = ablate.spread(prompts, count)
        assert len(taken) == count and set(taken.category.value_counts()) == {count // 3}
        assert taken.cluster.nunique() == count and taken.condition.nunique() == min(6, count)
    shuffled = prompts.sample(frac=1, random_state=0)
    assert ablate.spread(shuffled, 30).id.tolist() == ablate.spread(prompts, 30).id.tolist()
    assert ablate.spread(prompts, 12).id.tolist() == ablate.spread(prompts, 30).id.tolist()[:12]


def test_two_prompts_of_a_cluster_are_taken_together():
    taken = ablate.spread(table(96, conditions=4, clusters=6), 24)  # four prompts in a cluster
    assert taken.cluster.nunique() == 12 and set(taken.cluster.value_counts()) == {2}
    assert set(taken.condition.value_counts()) == {6} and taken.cluster.head(16).nunique() == 8
    assert ablate.spread(table(96, conditions=4, clusters=6), 96).id.is_unique


def test_single_heads_get_the_first_prompts_and_groups_their_own():
    prompts = table(40)
    plan = pd.DataFrame(
        [
            planned("whole", "family", "L0H0", ["text", "elsewhere"]),
            planned("alone", "single", "L0H1", ["text"]),
            planned("some", "control", "L1H0", ["text"], condition="g1"),
            planned("all", "family", "L1H0", ["text"], condition="no such condition here"),
            planned("other", "family", "L1H0", ["elsewhere"]),
        ]
    )
    settings = params.Ablate(prompts={"text": 9}, single={"text": 4}, shard=4)
    made = ablate.planned("text", prompts, plan, settings)
    on: dict[str, list[str]] = {}
    for shard in made:
        assert len(shard.prompts) <= 4
        for intervention in shard.interventions:
            on.setdefault(intervention.id, []).extend(row.id for row in shard.prompts)
    order = ablate.spread(prompts, 9).id.tolist()
    assert sorted(on["whole"]) == sorted(on["all"]) == sorted(order)
    assert sorted(on["alone"]) == sorted(order[:4])
    inside = ablate.spread(prompts[prompts.condition == "g1"], 9).id.tolist()
    assert sorted(on["some"]) == sorted(inside) and len(inside) == 9 and "other" not in on
    every = [row.id for shard in made for row in shard.prompts]
    assert len(every) == len(set(every))


@pytest.fixture
def slot(tmp_path, monkeypatch) -> str:
    """A tiny decoder, fetched and extracted, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(tmp_path / "cache"))
    content = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
    folder = tiny.save("llama_gqa", tmp_path / "model")
    content["models"] = {"decoder": {"source": "path", "name": str(folder)}}
    content["tasks"] = {task: content["tasks"][task] for task in ("text", "repeats", "blimp")}
    for task in content["tasks"].values():
        task["path"] = str(ROOT / task["path"])
    content["tasks"]["text"] |= {"passages": 4, "short_passages": 8}
    content["ablate"] |= {"shard": 3}
    paths.PARAMS.write_text(yaml.safe_dump(content))
    fetch.main("decoder")
    for task in content["tasks"]:
        prepare.main(task)
    extract.main("decoder", "text")
    return "decoder"


def write_plan(*rows: dict) -> None:
    tables.PLANS.write(list(rows), "decoder")


def test_the_plan_is_run_and_a_killed_stage_goes_on(slot, monkeypatch):
    write_plan(
        planned("family/f/2/mean", "family", "L0H1 L2H3", ["repeats", "icl", "blimp"]),
        planned("family/f/2/zero", "family", "L0H1 L2H3", ["repeats"], kind="zero"),
        planned("control/f/2/mean/1", "control", "L0H2 L2H0", ["repeats"], draw=1),
        planned("single/L1H1/mean", "single", "L1H1", ["text", "repeats"]),
    )
    ablate.main(slot)
    effects = tables.EFFECTS.read(slot)
    settings = params.load()
    prompts = {task: tables.ASKED.read(task) for task in ("text", "repeats", "blimp")}
    split = {row.id: row.split for one in prompts.values() for row in one.itertuples()}
    changed = effects[effects.intervention != "none"]
    assert set(changed.prompt.map(split)) == {"b"}
    assert changed.groupby("intervention").task.unique().map(set).to_dict() == {
        "family/f/2/mean": {"repeats", "blimp"},
        "family/f/2/zero": {"repeats"},
        "control/f/2/mean/1": {"repeats"},
        "single/L1H1/mean": {"text", "repeats"},
    }
    counts = changed.groupby(["intervention", "task"]).prompt.nunique()
    b = int((prompts["repeats"].split == "b").sum())
    assert counts["single/L1H1/mean", "repeats"] == settings.ablate.single["repeats"]
    assert counts["family/f/2/zero", "repeats"] == min(b, settings.ablate.prompts["repeats"])
    none = effects[effects.intervention == "none"]
    assert not none.duplicated(["task", "prompt", "measure"]).any()
    assert set(none[none.task == "blimp"].prompt) == set(prompts["blimp"].id)
    intact = none.set_index(["task", "prompt", "measure"]).value
    keys = pd.MultiIndex.from_frame(changed[["task", "prompt", "measure"]])
    assert np.array_equal(intact.loc[keys].to_numpy(), changed.intact.to_numpy())
    assert (changed.groupby("intervention").apply(lambda rows: (rows.value != rows.intact).any())).all()
    first = tables.FIRST_ORDER.read(slot)
    assert set(first.task) == {"text", "repeats", "blimp"} and set(first.kind) == set(settings.plan.kinds)
    assert set(first.prompt.map(split)) == {"b"} and not paths.shards(slot, "ablate").exists()

    whole, calls, run = tables.EFFECTS.path(slot).read_bytes(), [], shards.run

    def dying(loaded, means, shard, max_tokens):
        calls.append(shard)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(loaded, means, shard, max_tokens)

    tables.EFFECTS.path(slot).unlink()
    monkeypatch.setattr(shards, "run", dying)
    with pytest.raises(KeyboardInterrupt):
        ablate.main(slot)
    assert not tables.EFFECTS.path(slot).exists() and len(list(paths.shards(slot, "ablate").glob("*.parquet"))) == 2
    ablate.main(slot)
    assert [row.id for row in calls[3].prompts] == [row.id for row in calls[2].prompts]  # not from the start
    assert tables.EFFECTS.path(slot).read_bytes() == whole and not paths.shards(slot, "ablate").exists()


def test_what_the_intact_model_can_do_does_not_depend_on_what_is_silenced(slot):
    """A family that asks about prompts of its own had the task's intact value pool them with those of params."""
    asked = tables.ASKED.read("repeats")
    own = asked[asked.split == "b"].id.iloc[:3]  # of which params ask for two
    asked.loc[asked.id.isin(own), "condition"] = "own"
    tables.ASKED.write(asked, "repeats")
    whole = planned("family/f/1/mean", "family", "L0H1", ["repeats"])
    some = planned("family/g/1/mean", "family", "L2H3", ["repeats"], condition="own") | {"family": "g"}
    intact, run = {}, {}
    for rows in [whole], [whole, some]:
        write_plan(*rows)
        ablate.main(slot)
        effects = tables.EFFECTS.read(slot)
        intact[len(rows)] = effects[effects.intervention == "none"].sort_values(["task", "prompt", "measure"])
        run = {name: of_row for name, of_row in effects[effects.task == "repeats"].groupby("intervention")}
    pd.testing.assert_frame_equal(*(rows.reset_index(drop=True) for rows in intact.values()))
    fixed = {*ablate.spread(asked[asked.split == "b"], 3).id}
    assert set(run["none"].prompt) == set(run["family/f/1/mean"].prompt) == fixed
    assert set(run["family/g/1/mean"].prompt) == {*own} and len({*own} - fixed) == 1
    (beside,) = asked[asked.id.isin({*own} - fixed)].itertuples()
    scored = shards.run(load(slot), {}, shards.Shard("repeats", (beside,), (beside,), ()), 2048)  # the same prompt
    measured = run["family/g/1/mean"].query("prompt == @beside.id").set_index("measure").intact
    assert measured.to_dict() == pytest.approx(scored.set_index("measure").value.to_dict(), abs=1e-5)


def test_text_has_no_target_and_its_scored_tokens_are_counted():
    loaded, words = tiny.make("llama_gqa"), " a bird likes the old house and the river" * 3
    row = SimpleNamespace(id="text/0", role="short", cluster="0", text=words, targets=[], relations=[], ordinals=[],
                          tokens=0, bos=True)  # fmt: skip
    silenced = shards.Intervention("single/L0H1/mean", "single", "", 1, "mean", 0, "L0H1")
    tokens = len(encode(loaded, row))
    for interventions, runs in ((), 1), ((silenced,), 2):
        work = ablate._work(loaded, [shards.Shard("text", (row,), (row,), interventions)])
        assert (work.tokens, work.rows) == (runs * tokens, runs * len(range(4, tokens, 4)))


def test_an_unknown_kind_names_those_there_are(slot):
    write_plan(planned("family/f/1/median", "family", "L0H1", ["repeats"], kind="median"))
    with pytest.raises(UserError, match=r"plan.kinds: 'median': .* allowed: mean, zero, resample, sink$"):
        ablate.main(slot)
    assert not tables.EFFECTS.path(slot).exists()


def test_a_model_that_solves_no_function_has_no_prompts_there(monkeypatch):
    prompts = pd.DataFrame(columns=tables.PROMPTS.names)
    prompts.loc[0] = {"id": "icl/0", "split": "b", "role": "clean", "condition": "antonym", "category": ""}
    unsolved = pd.DataFrame({"function": []})
    monkeypatch.setattr(tables.Table, "read", lambda table, *_, **__: prompts if table is tables.ASKED else unsolved)
    kept = ablate.silenced_on("decoder", "icl", params.load(ROOT / "tests/params.yaml"))
    assert kept.empty and list(kept.columns) == tables.PROMPTS.names


def test_without_long_texts_there_are_no_means_and_no_head_is_silenced(tmp_path, monkeypatch):
    """A model that reads 64 tokens reads short passages and no long one: `ablate` looked for means that were not."""
    settings = params.load(ROOT / "params.quick.yaml")
    monkeypatch.chdir(tmp_path)
    layer = {"layer": 0, "heads": 1, "kv_heads": 1, "head_size": 4, "window": None, "kind": "global"}
    files.write_text(paths.model("a"), record("a", attention=[layer]))
    row = {"split": "a", "condition": "", "half": "", "prompts": 1, "layer": 0, "head": 0, "output": np.ones(4)}
    tables.OUTPUTS.write([row | {"role": "short"}, row | {"role": "long", "split": "b"}], "a", "text")
    assert "(the model reads none of these texts whole)" in means.no_means("a", settings)
    tables.OUTPUTS.write([row | {"role": "short"}, row | {"role": "long"}], "a", "text")
    assert means.no_means("a", settings) == ""
    tables.OUTPUTS.write_empty("a", "text", why="all prompts are longer than the 16 tokens the model reads")
    assert "(all prompts are longer than the 16 tokens the model reads)" in means.no_means("a", settings)
    without = settings.model_copy(update={"tasks": settings.tasks.model_copy(update={"text": None})})
    assert "tasks.text, over which their mean outputs are taken, is not in params" in means.no_means("a", without)
