"""What stands where people write is text in regular files, in numbers that are built in minutes; all else is a line."""

import json
import os
from contextlib import contextmanager
from pathlib import Path
from signal import SIGALRM, alarm, signal

import pytest
import yaml
from PIL import Image

from stages import prepare, tasks
from stages.model import files as model_files
from stages.page import inputs
from stages.recipes import lesson
from stages.store import named, params, source
from stages.store.errors import UserError
from stages.store.section import MOST
from stages.tasks.extrapolation import invented
from stages.tasks.prompt import MOST as MOST_PROMPTS
from stages.tasks.prompt import stream
from stages.tasks.treebank import prompts as of_treebank

ROOT = Path(__file__).parents[1]
SECTIONS = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))["tasks"]
SECTIONS |= {"images": {"source": "builtin", "path": "stages/tasks/images/prompts.py", "images": 4}}
SECONDS = 60  # of a busy machine; each case takes less than five of its own


@contextmanager
def in_time():
    """Fail where something hangs."""

    def ring(*_):
        raise AssertionError(f"not ended within {SECONDS} s")

    was = signal(SIGALRM, ring)
    alarm(SECONDS)
    try:
        yield
    finally:
        alarm(0)
        signal(SIGALRM, was)


def build(task, **changes):
    kind = tasks.of(task)
    section = SECTIONS[task] | changes
    if not Path(section["path"]).is_absolute():
        section["path"] = str(ROOT / section["path"])
    return kind.build(kind.settings(**section), seed=17)


# YAML, paths, labels and templates


def test_anchors_that_multiply_are_refused_in_time(tmp_path):
    """A bomb: nine lines that name each other nine times hold a billion values."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    file = tmp_path / "params.yaml"
    file.write_text("\n".join(lines))
    with in_time(), pytest.raises(UserError, match=r"params.yaml: not YAML: its anchors repeat .* 10,000,000 are read"):
        params.load(file)
    file.write_text("\n".join(lines[:4]) + "\nb2: *b\n")
    assert source.yaml(file, "a list")["b2"] == [["x"] * 9] * 9


@pytest.mark.parametrize("path", ["a" * 300, "a/" * 3000, "é" * 200, " "])
@pytest.mark.parametrize("place", ["tasks.text.path", "ngram.path", "models.decoder.name"])
def test_a_path_that_no_file_can_have_names_its_key(path, place, tmp_path):
    content = section = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))
    *parts, key = place.split(".")
    for part in parts:
        section = section[part]
    section[key] = path
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{file}: {place} = .*expected the path of a file or folder"):
        params.load(file)


@pytest.mark.parametrize("labels", [["A ", "B"], ["A\n", "B"], ["A\nB: C", "D"], ["\u200b", "\u200c"], ["", "B"]])
def test_a_label_is_text_that_is_seen(labels):
    with pytest.raises(ValueError, match=r"(?s)labels\.[01].*expected text on one line, no white space at its ends"):
        build("neighbours", labels=labels)


@pytest.mark.parametrize("task", ["icl", "composed", "extrapolation", "neighbours", "orders"])
@pytest.mark.parametrize("template", ["{x}{y}\n", "{x} -> {y}"])
def test_a_template_parts_words_and_demonstrations(task, template):
    with pytest.raises(ValueError, match=r"something must stand between \{x\} and \{y\}, and before or after both"):
        build(task, template=template)


# Numbers


def numbers() -> list[tuple[str, str]]:
    """Return every whole number that the sections of tasks may say."""
    of_tasks = ((name, tasks.of(name).settings.model_fields) for name in tasks.names())
    return [(name, key) for name, fields in of_tasks for key, field in fields.items() if field.annotation is int]


def integers(schema, place=()):
    """Yield every integer of a schema: its place, and the schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            yield place, schema
        for key, part in schema.items():
            yield from integers(part, (*place, key))
    elif isinstance(schema, list):
        for number, part in enumerate(schema):
            yield from integers(part, (*place, number))


def test_every_number_of_params_has_a_largest_value():
    schema = params.whole().model_json_schema()
    found = list(integers(schema))
    free = [place for place, of in found if not {"maximum", "exclusiveMaximum"} & set(of)]
    # what a schema cannot say is checked beside it: the layers of `device_map` are any
    assert len(found) > 100 and not [place for place in free if "patternProperties" not in place], free


@pytest.mark.parametrize("name", lesson.names())
def test_every_number_of_a_lesson_has_a_largest_value(name):
    found = list(integers(lesson.of(name).model_json_schema()))
    assert not [place for place, of in found if not {"maximum", "exclusiveMaximum"} & set(of)]


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("train.revisions", {0: "a", 10**18: "b"}, "revisions.10{18} = 10{18}: Input should be less than or equal to"),
        ("study.window", 10**18, "window = 10{18}: allowed: a number of steps up to 1,000,000,000"),
        ("study.window", "x1e999", "window = 'x1e999': allowed"),
        ("study.window", f"x{'9' * 400}", "window = 'x9+...: allowed"),
    ],
)
def test_steps_of_others_have_a_largest_value(place, value, says, tmp_path):
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))
    content["recipes"] = {"steps": {
        "task": "families", "reads": "data/prompts", "words": "data/prompts", "families": "stages/families",
        "train": {"arguments": {"tasks": ["text"]}, "source": "path", "name": "run", "revisions": {0: "a", 9: "b"}},
        "main": "one", "arms": {"one": {}}, "study": {"sequences": 8, "window": "x4", "bootstrap": 200},
    }}  # fmt: skip
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    params.load(file)
    section, key = place.split(".")
    content["recipes"]["steps"][section][key] = value
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{file}: recipes\.steps\.{section}\.{says}") as error:
        params.load(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("task", "key"), numbers())
def test_the_largest_number_is_refused_in_one_line_or_built_in_time(task, key):
    fields = tasks.of(task).settings.model_json_schema()["properties"][key]
    changes = {key: min(MOST, fields["maximum"])}
    if key == "shortest":
        changes["longest"] = MOST
    if key == "few":  # above many
        changes["few"] = 4
    with in_time():
        try:
            prompts = build(task, **changes)
        except UserError as error:
            assert f"tasks.{task}" in str(error)
        except ValueError as error:  # of pydantic: at odds with another key
            assert key in str(error)
        else:
            assert 0 < len(prompts) <= MOST_PROMPTS


def test_what_is_refused_says_what_is_available():
    with pytest.raises(
        UserError, match=r"^params.yaml: tasks.icl.sets = 100000, .*: 24,000,000 prompts; 100,000 are av"
    ):
        build("icl", sets=100_000, queries=6, functions=[])
    with pytest.raises(UserError, match=r"length = 100000: 800,000 made-up words \(noun\); 278,300 are available"):
        build("orders", length=100_000, made_up=8)
    with pytest.raises(UserError, match=r"made-up words \(country\); 19,200 are available"):
        invented.enough("country", 19_202, "tasks.facts.invented = 9601")


def test_half_of_the_made_up_words_can_be_drawn():
    """So many as `enough` allows are there: the smallest kind is drawn to its end."""
    half = len(invented.ONSETS) * len(invented.VOWELS) * len(invented.MIDDLES) * len(invented.COUNTRIES) // 2
    invented.enough("country", half, "all")
    with in_time():
        drawn = {word for _, word in zip(range(half), invented.words("country", stream(1, "x"), set()), strict=False)}
    assert len(drawn) == half


# Characters

CONTROLS = ("\x00", "\x01", "\x1b", "\x7f")


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_character_is_refused_where_text_is_read(control, tmp_path):
    said = rf"a\.txt:2: {control!r} is a control character; expected text".replace("\\x", r"\\x")
    (tmp_path / "a.txt").write_text(f"One.\nTwo{control}.", encoding="utf-8")
    for task in ("text", "needle"):
        with pytest.raises(UserError, match=said):
            build(task, source="path", path=str(tmp_path))
    written = json.dumps({"a": ["b", f"c{control}"]})
    if "\\" in written:  # json writes DEL as it is
        with pytest.raises(UserError, match=r"there: not JSON \(a.1: '\\x..' is a control character\)"):
            source.json(written, "there", "x")
    (tmp_path / "a.yaml").write_text(f'a: ["b", "\\x{ord(control):02x}"]')
    with pytest.raises(UserError, match=r"a.yaml: not YAML: a.1: '\\x..' is a control character"):
        source.yaml(tmp_path / "a.yaml", "x")


def test_lines_tabs_and_pages_are_no_control_characters(tmp_path):
    """Nor is U+0080, which a real book has in the place of another sign."""
    (tmp_path / "a.txt").write_bytes(b"a\tb\r\nc\x0cd\x0be\xc2\x80f")
    assert source.text(tmp_path / "a.txt", "x") == "a\tb\nc\x0cd\x0be\x80f"
    assert source.json('{"a": "b\\n\\u00e9"}', "there", "x") == {"a": "b\né"}


def test_what_the_hub_gives_is_looked_at_as_well(monkeypatch):
    from stages.tasks.text import prompts
    from stages.tasks.text.prompts import Prompt

    monkeypatch.setattr(prompts, "build", lambda *_: [Prompt("text/1", "c", "k", text="a\x00b")])
    with pytest.raises(UserError, match=r"^text/1: '\\x00' is a control character"):
        build("text")


def test_a_long_integer_is_told_by_its_digits():
    assert source.shown(10**5000) == "an integer of 5,001 digits"
    assert source.shown(-(10**5000) + 1) == "an integer of 5,000 digits"
    assert source.shown([10**5000]) == "integers of thousands of digits" and source.shown(12) == "12"


# Files


def pipe(file: Path) -> Path:
    """Make a pipe, which whoever opens it waits at for ever."""
    file.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(file)
    return file


INSIDE = {
    "text": "a.txt",
    "needle": "a.txt",
    "treebank": "a.conllu",
    "blimp": "a.jsonl",
    "icl": "a.json",
    "images": "a.PNG",
}


@pytest.mark.parametrize(("task", "name"), INSIDE.items())
def test_a_pipe_in_a_folder_is_not_opened(task, name, tmp_path):
    pipe(tmp_path / name)
    with in_time(), pytest.raises(UserError, match=rf"{name}: not a file; expected "):
        build(task, source="path", path=str(tmp_path))


@pytest.mark.parametrize(("task", "name"), [*INSIDE.items(), ("facts", "a.jsonl")])
def test_a_pipe_or_a_device_is_no_source(task, name, tmp_path):
    for path in (pipe(tmp_path / name), Path("/dev/zero")):
        with in_time(), pytest.raises(UserError, match=f"{path}: "):
            build(task, source="path", path=str(path))


def test_params_and_models_that_are_pipes_are_not_opened(tmp_path):
    with in_time(), pytest.raises(UserError, match=r"params.yaml: not a file"):
        params.load(pipe(tmp_path / "params.yaml"))
    pipe(tmp_path / "model/model.safetensors")
    with in_time(), pytest.raises(UserError, match=r"model.safetensors: not a file"):
        model_files.weights(tmp_path / "model")


def test_dvc_meets_no_pipe(tmp_path):
    """DVC reads every file of a folder that a stage depends on before the stage runs."""
    (tmp_path / "good").mkdir()
    (tmp_path / "good/a.txt").write_text("x")
    assert named.unreadable(str(tmp_path / "good")) == named.unreadable(str(tmp_path / "good/a.txt")) == ""
    file = pipe(tmp_path / "bad/inner/a.png")
    for path in (tmp_path / "bad", file):
        assert named.unreadable(str(path)) == f"{file}: not a file; expected files"
    assert named.unreadable("x" * 5000) == "no such file or folder"


@pytest.mark.parametrize(("task", "name"), INSIDE.items())
def test_a_name_that_is_no_text_is_refused(task, name, tmp_path):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff" + os.fsencode(name)))
    if task == "images":
        Image.new("RGB", (32, 32)).save(file, "PNG")
    else:
        file.write_text("x")
    with pytest.raises(UserError, match=rf"\\udcff{name}: its name is not UTF-8; expected "):
        build(task, source="path", path=str(tmp_path))


# What files hold

FACTS = [{"subject": f"S{n}", "object": f"O{n}", "templates": ["{x} was made by"]} for n in range(9)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"templates": "{x} is"}, "expected facts"),
        ({"templates": []}, "expected facts"),
        ({"templates": [["{x}"]]}, r"templates.0 = \['{x}'\]; expected text with {x} once"),
        ({"templates": ["{x} is", "is"]}, "templates.1 = 'is'; expected text with {x} once"),
        ({"templates": ["{x} is {x}"]}, "templates.0 = '{x} is {x}'; expected text with {x} once"),
        ({"templates": ["{x} is "]}, "templates.0 = '{x} is '; expected .* no white space at its end"),
        ({"templates": ["{x} is", "{x} is"]}, "templates.1 = '{x} is' stands twice"),
        ({"colour": 1}, "expected facts"),
        ({"subject": ["S"]}, "expected facts"),
        ({"subject": "a\x00"}, r"subject: '\\x00' is a control character"),
        ({"object": " "}, "expected facts"),
        ({"subject": "S1", "object": "O2"}, "object = 'O2': subject 'S1' has the object 'O1' above"),
    ],
)
def test_a_fact_is_checked(line, said, tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(map(json.dumps, [*FACTS, FACTS[0] | line])))
    with pytest.raises(UserError, match=rf"facts.jsonl:10: .*{said}"):
        build("facts", source="path", path=str(path), shots=2)


def test_two_facts_on_a_line_and_a_key_that_stands_twice_are_refused(tmp_path):
    path, line = tmp_path / "facts.jsonl", json.dumps(FACTS[0])
    for twins, said in ((line + line, "Extra data"), (line[:-1] + ', "object": "P"}', "key 'object' stands twice")):
        path.write_text(f"{twins}\n")
        with pytest.raises(UserError, match=rf"facts.jsonl:1: not JSON \({said}"):
            build("facts", source="path", path=str(path))


def conllu(*rows: tuple) -> str:
    """Return a sentence of (id, form, head, label)."""
    return "".join("\t".join([i, form, *"____", head, label, "_", "_"]) + "\n" for i, form, head, label in rows) + "\n"


def treebank(file: Path, *rows: tuple):
    file.write_text(conllu(*rows))
    return build("treebank", source="path", path=str(file), sentences=1, shortest=2, longest=9)


def test_multiword_tokens_and_empty_nodes_are_read(tmp_path):
    """Empty nodes are no words, wherever they stand; the words of a token that is written as one share its place."""
    rows = [("0.1", "E", "_", "_"), ("1-2", "zum", "_", "_"), ("1", "zu", "3", "case"), ("2", "dem", "3", "det"),
            ("2.1", "E", "_", "_"), ("3", "Haus", "0", "root"), ("3.1", "E", "_", "_")]  # fmt: skip
    (prompt,) = treebank(tmp_path / "a.conllu", *rows)
    assert prompt.text == "zum Haus"
    words = [prompt.text[s.query_start : s.query_end] for s in prompt.relations if s.name == "word"]
    arcs = {
        (s.name.split(":")[1], prompt.text[s.query_start : s.query_end], prompt.text[s.key_start : s.key_end])
        for s in prompt.relations
        if s.name.endswith("dep-to-head")
    }
    assert words == ["zum", "Haus"] and arcs == {("case", "zum", "Haus"), ("det", "zum", "Haus")}


@pytest.mark.parametrize("last", ["_", ".", "x"])
def test_a_treebank_without_its_text_is_refused(last, tmp_path):
    rows = [("1", "_", "2", "nsubj"), ("2", "_", "0", "root"), ("3", last, "2", "punct")]
    with pytest.raises(UserError, match=r"[23] of 3 forms are '_': a treebank without its text"):
        treebank(tmp_path / "a.conllu", *rows)


@pytest.mark.parametrize(("threshold", "said"), [(-3.0, "greater than or equal to 0"), (5, "less than or equal to 1")])
def test_a_threshold_is_a_share(threshold, said, tmp_path):
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))
    content["classify"]["thresholds"] = {"induction": threshold}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=rf"classify.thresholds.induction = {threshold}: .*{said}"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("number", ["²", "١", "1_0", " 1", "+1", "01x", "1.0", "9" * 5000, "-1"])
def test_only_plain_digits_are_numbers_of_a_treebank(number, tmp_path):
    """int reads more than the format allows, and less than `isdigit` says."""
    rows = [("1", "A", "2", "nsubj"), ("2", "sees", "0", "root"), ("3", "x", "2", "obj")]
    for place in (0, 2):
        changed = [list(row) for row in rows]
        changed[2][place] = number
        if (place, number) == (0, "1.0"):
            continue  # an empty node
        with pytest.raises(UserError, match="sentence 1"):
            treebank(tmp_path / "a.conllu", *changed)
    hub = {"tokens": ["A", "sees", "x"], "head": ["2", "0", number], "deprel": ["nsubj", "root", "obj"]}
    with pytest.raises(UserError, match=r"there: word 3 \(x\): head "):
        of_treebank._row(hub, "c", "there", 1)


def test_a_row_of_a_summary_that_is_cut_is_told(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("a,b\n1,\n2\n")
    with pytest.raises(UserError, match=r"a\.csv:3: 1 cells, 2 columns: cut"):
        inputs.frame(file, ["a", "b"])


def test_no_prompts_have_the_name_of_all_of_them(tmp_path, monkeypatch):
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))
    pairs = {"good": "The cat sleeps.", "bad": "The cat sleep."}
    rows = [
        {"sentence_good": f"{n} {pairs['good']}", "sentence_bad": f"{n} {pairs['bad']}", "UID": "all", "pairID": str(n),
         "linguistics_term": "x", "field": "syntax"} for n in range(40)
    ]  # fmt: skip
    (tmp_path / "blimp").mkdir()
    (tmp_path / "blimp/a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    content["tasks"]["blimp"] |= {"source": "path", "path": "blimp"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"blimp: tasks.blimp: prompts named 'all': that stands for all together"):
        prepare.main("blimp")
    assert not (tmp_path / "data").exists()


def test_an_empty_name_of_the_cache_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HEAD_ATLAS_CACHE", "")
    assert model_files.cache() == tmp_path / ".cache/head-atlas"
