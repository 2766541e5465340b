"""Whatever people write is read as it is written, or refused in one line that names the file: properties of all input.

`bench/fuzz_inputs.py` does the same at length.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import record

from stages.store import files, params, parquet, paths, source, tables
from stages.store.errors import UserError
from stages.tasks.blimp import prompts as blimp
from stages.tasks.blimp.settings import Settings as Pairs
from stages.tasks.treebank import prompts as treebank
from stages.tasks.treebank.settings import Settings as Trees

ROOT = Path(__file__).parents[1]
GOOD = yaml.safe_load((ROOT / "tests/params.yaml").read_text())
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
scalars = st.none() | st.booleans() | st.integers(-2, 10**12) | st.floats() | st.text(max_size=9)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=5), scalars, max_size=2)


def said(file: Path, read) -> str:
    """Return what a reader says against a file, '' if nothing: one line that names it."""
    try:
        read()
    except UserError as error:
        assert "\n" not in str(error) and file.name in str(error)
        return str(error)
    return ""


def leaves(value, path=()):
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from leaves(part, (*path, key))
    if not parts:
        yield path


def at(content, path):
    for key in path:
        content = content[key]
    return content


LEAVES = sorted(leaves({key: part for key, part in GOOD.items() if key != "recipes"}), key=str)


@few
@given(path=st.sampled_from(LEAVES), value=values)
def test_a_value_of_params_is_taken_as_it_is_written_or_refused(tmp_path, path, value):
    content = json.loads(json.dumps(GOOD))
    at(content, path[:-1])[path[-1]] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    if not said(file, lambda: params.load(file)):
        read = at(json.loads(params.load(file).model_dump_json()), path)
        assert read == value and (type(read) is type(value) or (type(value) is int and type(read) is float))


@few
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, content):
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    for read in (source.text, source.yaml, lambda path, of: list(source.json_lines(path, of))):
        said(file, lambda read=read: json.dumps(read(file, "anything"), default=str, ensure_ascii=False).encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'a: "\\ud800"', "half a character|invalid Unicode character"),  # without and with libyaml
        (b"a: 1\na: 2", "duplicate key"),
        (b"\xff", r"any\.yaml:1: not UTF-8 text"),
        (b"[" * 10_000, "not YAML"),
        (b"a: 2001-13-45", "not YAML"),
    ],
)
def test_what_no_yaml_is_is_named(tmp_path, content, message):
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        source.yaml(file, "anything")


def test_yaml_is_read_as_dvc_reads_it(tmp_path):
    """Under YAML 1.1 these are 15, 90, True and True."""
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 017\nb: 1:30\nc: yes\nd: on\n")
    assert source.yaml(tmp_path / "a.yaml", "") == {"a": 17, "b": "1:30", "c": "yes", "d": "on"}


@pytest.mark.parametrize(
    "line", ['{"a": NaN}', '{"a": "\\ud800"}', "[" * 10_000, "1" * 5000, "{", '{"a": 1, "a": 2}', "1e999"]
)
def test_what_no_json_is_is_named_with_its_line(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:2: not JSON"):
        list(source.json_lines(tmp_path / "a.jsonl", "objects"))


def is_tree(heads: list[int]) -> bool:
    """Say whether heads, counted from 1, 0 for the root, make one tree: every word is reached from the root."""
    reached = {0}
    for _ in heads:
        reached |= {word for word, head in enumerate(heads, start=1) if head in reached}
    return heads.count(0) == 1 and len(reached) == len(heads) + 1


@settings(few, max_examples=100)
@given(heads=st.lists(st.integers(0, 5), min_size=2, max_size=5))
def test_a_sentence_is_taken_if_its_heads_make_a_tree(tmp_path, heads):
    rows = [
        f"{word}\tw{word}\t_\t_\t_\t_\t{head}\t{'dep' if head else 'root'}\t_\t_\n"
        for word, head in enumerate(heads, start=1)
    ]
    file = tmp_path / "a.conllu"
    file.write_text("".join(rows) + "\n")
    asked = Trees(source="path", path=str(file), hub="", config="", sentences=1, shortest=2, longest=9)
    assert bool(said(file, lambda: treebank.build(asked, 0))) == (not is_tree(heads))
    if is_tree(heads):
        (prompt,) = treebank.build(asked, 0)
        words = prompt.text.split()
        arcs = [span for span in prompt.relations if span.name.endswith("dep-to-head")]
        spelled = {(prompt.text[s.query_start : s.query_end], prompt.text[s.key_start : s.key_end]) for s in arcs}
        assert spelled == {(words[word], words[head - 1]) for word, head in enumerate(heads) if head}
        pa.Table.from_pylist([asdict(prompt)], tables.PROMPTS.schema)


MINIMAL = {"sentence_good": "It is.", "sentence_bad": "It are.", "linguistics_term": "x", "UID": "u", "pairID": "1"}


@settings(few, max_examples=100)
@given(key=st.sampled_from(sorted(MINIMAL)), value=values)
def test_a_minimal_pair_is_text_or_refused_with_its_line(tmp_path, key, value):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(MINIMAL | {key: value}, allow_nan=True) + "\n")
    asked = Pairs(source="path", path=str(tmp_path), pairs=1, leading_space=False, bos=True)
    if said(file, lambda: blimp.build(asked, 0)):
        return
    for prompt in blimp.build(asked, 0):
        wanted = MINIMAL | {key: value}
        assert prompt.targets == (wanted["sentence_good"], wanted["sentence_bad"])
        pa.Table.from_pylist([asdict(prompt)], tables.PROMPTS.schema)


@few
@given(
    prompts=st.integers(1, 4),
    gone=st.none() | st.integers(0, 7),
    column=st.none() | st.sampled_from(["layer", "effect"]),
)
def test_a_table_is_read_as_written_unless_a_row_or_column_is_gone(tmp_path, monkeypatch, prompts, gone, column):
    monkeypatch.chdir(tmp_path)
    files.write_text(paths.model("a"), record("a"))  # one layer of two heads
    rows = pd.DataFrame([{"prompt": f"p{n}", "head": head} for n in range(prompts) for head in (0, 1)])
    rows = rows.assign(function="f", split="a", cluster="c", layer=0, base=0.5, effect=0.25)[tables.INDIRECT.names]
    kept = rows.drop(index=[gone] if gone in rows.index else [])
    schema = tables.INDIRECT.schema
    if column:
        kept, schema = kept.drop(columns=column), schema.remove(schema.get_field_index(column))
    parquet.write(tables.INDIRECT.path("a"), kept, schema)
    whole = len(kept) == len(rows) and not column
    assert bool(said(tables.INDIRECT.path("a"), lambda: tables.INDIRECT.read("a"))) == (not whole)
    if whole:
        pd.testing.assert_frame_equal(tables.INDIRECT.read("a"), rows, check_dtype=False)
