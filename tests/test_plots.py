"""`dvc plots diff`: right labels whatever the families, absolute colours, nothing blank, text on nominal axes."""

import json
import re
from pathlib import Path

import pytest
import vl_convert
from dvc_render.vega import VegaRenderer

FOLDER = Path(__file__).parents[1] / ".dvc/plots"


def drawn(template: str, rows: list[dict], **axes: str) -> tuple[dict, str]:
    """The filled specification, as DVC fills it, and its picture; DVC reads every cell of a CSV file as text."""
    rows = [{name: str(value) for name, value in row.items()} for row in rows]
    renderer = VegaRenderer(rows, "t", template=str(FOLDER / f"{template}.json"), title="T", **axes)
    spec = renderer.get_filled_template()
    return spec, vl_convert.vegalite_to_svg(spec)


def heads(rev: str, families: list[str]) -> list[dict]:
    scores = {"previous": 0.9, "induction": 0.5, "sink": 0.1, "function": 0.016}
    return [{"rev": rev, "family": family, "layer": layer, "head": head, "score": scores[family], "score_null": 0,
             "baseline": "", "low": 0, "high": 1, "q": 0.01, "member": int(layer == 0), "note": ""}
            for family in families for layer in range(2) for head in range(2)]  # fmt: skip


def test_heads_of_commits_with_different_families_stand_under_their_own_names():
    rows = heads("old", ["previous", "sink"]) + heads("new", ["function", "induction", "previous"])
    spec, picture = drawn("heatmap", rows, x="head", y="layer")
    texts = re.findall(r">([a-z]+ · [a-z]+)<", picture)
    assert texts == ["function · new", "induction · new", "previous · new", "previous · old", "sink · old"]
    assert "top" not in json.dumps(spec["transform"])  # colours are absolute: no family is scaled to its own top
    [color] = [layer["encoding"]["color"] for layer in spec["spec"]["layer"] if "color" in layer.get("encoding", {})]
    assert color["field"] == "share" and color["scale"]["domain"] == [0, 1]


EFFECTS = [
    {"rev": rev, "purpose": purpose, "family": family, "draw": draw, "task": task, "condition": condition,
     "measure": "loss", "change": change, "kind": "mean", "heads": "L0H1", "p": ""}
    for rev in ("old", "new")
    for task in ("repeats", "text")
    for purpose, family, draw, condition, change in (
        ("none", "", 0, "all", ""), ("family", "induction", 0, "all", 1.5), ("control", "induction", 1, "all", 0.25),
        ("family", "induction", 0, "x", 9.0),
    )
]  # fmt: skip
SETS = ["all others", "control sets"]
STEERING = [{"rev": "a", "function": "plural", "context": "zero_shot", "vector": vector, "accuracy": accuracy}
            for vector, accuracy in (("none", 0.1), ("heads", 0.9))]  # fmt: skip
NGRAM = [{"rev": "a", "task": task, "condition": condition, "measure": "accuracy", "value": 0.5}
         for task in ("blimp", "icl") for condition in ("x", "y")]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "axes", "labels", "marks", "shapes"),
    [
        (
            EFFECTS,
            {"x": "change", "y": "family"},
            ["induction", "repeats loss", "text loss"],
            8,
            ["all others", "control sets"],
        ),
        (STEERING, {"x": "accuracy", "y": "vector"}, ["none", "heads", "zero_shot plural"], 2, ["all rows"]),
        (NGRAM, {"x": "value", "y": "condition"}, ["x", "y", "blimp accuracy", "icl accuracy"], 4, ["all rows"]),
    ],
)
def test_rows_are_drawn_with_text_on_a_nominal_axis(rows, axes, labels, marks, shapes):
    spec, picture = drawn("rows", rows, **axes)
    assert spec["spec"]["encoding"]["y"]["type"] == "nominal"
    assert all(f">{label}<" in picture for label in labels)
    assert len(re.findall(r'aria-roledescription="point"', picture)) == marks
    assert re.findall(">(all others|all rows|control sets)<", picture) == shapes  # only tables with controls say so


def test_revisions_stand_side_by_side_and_functions_together_where_there_is_such_a_row():
    rows = [row | {"rev": rev, "function": name} for row in STEERING for rev in "ab" for name in ("plural", "all")]
    spec, picture = drawn("rows", rows, x="accuracy", y="vector")
    assert spec["spec"]["encoding"]["yOffset"]["field"] == "rev"
    assert ">zero_shot all<" in picture and ">zero_shot plural<" not in picture
    assert len(re.findall(r'aria-roledescription="point"', picture)) == 4


def test_curves_have_a_panel_per_measure():
    rows = [{"rev": rev, "arm": "main", "seed": 0, "step": step, "measure": measure, "head": "", "best": 1,
             "value": step / 10} for rev in "ab" for step in range(3) for measure in ("loss", "induction")]  # fmt: skip
    _, picture = drawn("curve", rows, x="step", y="value")
    assert ">loss<" in picture and ">induction<" in picture
    assert len(re.findall(r'aria-roledescription="line mark"', picture)) == 4
