"""Mutated inputs of every kind, read as the pipeline reads them: accepted, refused in one line, or neither.

    python -m bench.fuzz_inputs                    # 2,000 inputs, 2 to 8 minutes; writes bench/fuzz_inputs.csv
    python -m bench.fuzz_inputs --count 200 --only params conllu --seed 1

A good file of each kind is changed once, by a seeded generator: bytes (cut, flipped, doubled, a BOM, Latin-1, NUL) or,
where it has a structure, a value, a key or a row of it. Outcomes:

    accepted    read, and a second opinion finds it good (below)
    refused     a `UserError` of one line that names the file
    vague       a `UserError` of several lines, or one that names no file
    traceback   any other exception
    slow        not read within 60 s
    SILENT      accepted against the second opinion

The second opinion is code of its own: of params, jsonschema on the schema that pydantic prints, with types as YAML
wrote them; of prompts, that ids are unique, spans lie in their text and clusters in one split; of CoNLL-U, that no
sentence was taken whose rows make no tree; of minimal pairs and facts, that every line taken holds text, and no key
twice; of pictures, that all are there and of one size; of tables, that they have the columns of the schema and every
prompt and head; of summaries, that all rows are of one length. No prompt holds a control character.
"""

import argparse
import copy
import csv
import io
import json
import logging
import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from ruamel.yaml import YAML

from stages import tasks
from stages.page import inputs
from stages.recipes.lesson import create
from stages.store import params, parquet, records, tables
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench/fuzz_inputs.csv"
SECONDS = 60
TRACED = 20  # prompts of the table
WILD = (
    None,
    True,
    False,
    0,
    1,
    -1,
    7,
    10**12,
    0.5,
    1.5,
    17.0,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "a; touch X",
    "../..",
    "yes",
    "17",
    "1:30",
    "\x00",
    "é",
    "か",
    "\N{BYTE ORDER MARK}",
    "{x}",
    "{y} {x}",
    "a" * 5000,
    [],
    [[]],
    {},
    {"a": 1},
    [1, 2],
    ["x", "x"],
    "2001-01-01",
)
CELLS = ("0", "1", "2", "3", "99", "-1", "_", "", "root", "x y", "1_0", "01", "+1", " 1", "1.0", "1-2", "2.1", "²", "١",
         "9" * 5000, "\x01")  # fmt: skip
DAMAGES = ("cut", "empty", "flip", "double", "bom", "latin", "nul", "insert", "swap", "surrogate", "deep")


class Slow(Exception):
    """A file was not read in time."""


# How a file is changed


def damaged(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return what was done to the bytes of a file, and the changed bytes."""
    how, at = str(rng.choice(DAMAGES)), int(rng.integers(max(1, len(content))))
    lines = content.split(b"\n")
    first, second = rng.integers(len(lines), size=2)
    if how == "swap":
        lines[first], lines[second] = lines[second], lines[first]
    if how == "double":
        lines.insert(first, lines[second])
    changed = {
        "cut": content[:at],
        "empty": b"",
        "flip": content[:at] + bytes([content[at] ^ (1 << rng.integers(8))]) + content[at + 1 :] if content else b"",
        "bom": b"\xef\xbb\xbf" + content,
        "latin": content[:at] + b"\xe9" + content[at:],
        "nul": content[:at] + b"\x00" + content[at:],
        "insert": content[:at] + bytes(rng.choice(list(b"{}[]:,\"'#&*!|>-\t\n 019ae"), 3).tolist()) + content[at:],
        "surrogate": content[:at] + b'"\\ud800"' + content[at:],
        "deep": content[:at] + b"[" * 10_000 + content[at:],
    }
    return how, changed.get(how, b"\n".join(lines))


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every value within a value."""
    if path:
        yield path
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*path, key))


def changed(value: Any, rng: np.random.Generator) -> tuple[str, Any]:
    """Return what was done to a structure, and the structure with a value replaced, a key renamed or left out."""
    value, path = copy.deepcopy(value), None
    every = list(places(value))
    path = every[rng.integers(len(every))]
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    how = str(rng.choice(["value", "value", "value", "value", "gone", "renamed", "more"]))
    wild = copy.deepcopy(WILD[rng.integers(len(WILD))])
    said = f"{how} {'.'.join(map(str, path))} {wild!r}"[:90]
    if how == "value":
        parent[path[-1]] = wild
    elif how == "gone":
        del parent[path[-1]]
    elif isinstance(parent, list):
        parent.append(wild)
    else:
        parent[str(wild) if how == "more" else f"{path[-1]}s"] = (
            parent[path[-1]] if how == "more" else parent.pop(path[-1])
        )
    return said, value


def as_yaml(value: Any) -> bytes:
    """Write YAML as PyYAML does: words of YAML 1.1 such as yes stand in quotes."""
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def as_json(value: Any) -> bytes:
    """Write JSON; NaN as Python writes it."""
    return json.dumps(value).encode()


def line_changed(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Change one line of JSON lines."""
    lines = content.splitlines()
    at = rng.integers(len(lines))
    how, value = changed(json.loads(lines[at]), rng)
    lines[at] = as_json(value)
    return f"line {at}: {how}", b"\n".join(lines) + b"\n"


def twin(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Say a key of one line twice, with two values; or an object twice on a line."""
    lines = content.splitlines()
    at = rng.integers(len(lines))
    key = str(rng.choice(list(json.loads(lines[at]))))
    more = lines[at] if rng.random() < 0.2 else b""
    lines[at] = (lines[at] if more else lines[at][:-1] + f', "{key}": "twin"'.encode() + b"}") + more
    return f"line {at}: {key} twice" if not more else f"line {at} twice", b"\n".join(lines) + b"\n"


def csv_changed(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Change one cell of a summary, or how many cells a row has."""
    rows = list(csv.reader(content.decode().splitlines()))
    at, column = int(rng.integers(len(rows))), int(rng.integers(len(rows[0])))
    value = str(rng.choice([*CELLS, "nan", "inf", "True", "1e400", "a,b"]))
    if rng.random() < 0.2:
        rows[at] = rows[at][:column] if rng.random() < 0.5 else [*rows[at], value]
        how = f"row {at}: {len(rows[at])} cells"
    else:
        rows[at][column], how = value, f"row {at}: {rows[0][column]} = {value[:20]!r}"
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return how, out.getvalue().encode()


def cell_changed(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Change one cell, or one row, of a table of tabs."""
    lines = content.decode().split("\n")
    at = int(rng.choice([number for number, line in enumerate(lines) if "\t" in line]))
    cells = lines[at].split("\t")
    column, value = (
        int(rng.integers(len(cells))),
        str(rng.choice(CELLS)),
    )
    if rng.random() < 0.2:
        lines[at] = "\t".join(cells[:column])
        return f"line {at}: cut before column {column}", "\n".join(lines).encode()
    cells[column] = value
    lines[at] = "\t".join(cells)
    return f"line {at}: column {column} = {value!r}", "\n".join(lines).encode()


def table_changed(file: Path, rng: np.random.Generator) -> str:
    """Change a Parquet table in place: a column gone, renamed or of another type, rows gone or doubled."""
    table = pq.read_table(file)
    how = str(rng.choice(["drop", "rename", "retype", "rows", "doubled", "other head"]))
    column = int(rng.integers(table.num_columns))
    names = table.column_names
    if how == "drop":
        table = table.remove_column(column)
    elif how == "rename":
        table = table.rename_columns([name + "s" if number == column else name for number, name in enumerate(names)])
    elif how == "retype":
        texts = pa.array([str(value) for value in table.column(column).to_pylist()])
        table = table.set_column(column, names[column], texts)
    elif how == "rows":
        table = table.slice(0, int(rng.integers(1, table.num_rows)))
    elif how == "doubled":
        table = pa.concat_tables([table, table.slice(int(rng.integers(table.num_rows)), 1)])
    else:
        heads = table.column("head").to_pylist()
        heads[rng.integers(len(heads))] = 9
        table = table.set_column(names.index("head"), table.schema.field("head"), pa.array(heads, pa.int16()))
    parquet.write(file, table, table.schema)  # as stages write: no checksum gives it away
    return f"{how} {names[column]}"


# How it is read, and the second opinion: '' or what is wrong with what was accepted


def read_params(file: Path) -> str:
    """Read a file of params and the arguments of its recipes' lessons."""
    settings = params.load_studies(file)
    for name, recipe in settings.recipes.items():
        for arm in recipe.ordered:
            create(name, recipe, recipe.arm(arm).arguments)
    content = YAML(typ="safe").load(file.read_text(encoding="utf-8-sig"))
    found = list(jsonschema.Draft202012Validator(type(settings).model_json_schema()).iter_errors(content))
    whole = [f"{'.'.join(map(str, path))} = {value}" for path, value in _floats(content, settings.model_dump())]
    return "; ".join([*(error.message for error in found), *whole])[:200]


def _floats(written: Any, read: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield whole numbers that were written as floats, which JSON schema cannot tell from integers."""
    if isinstance(written, dict) and isinstance(read, dict):
        for key in written.keys() & read.keys():
            yield from _floats(written[key], read[key], (*path, key))
    elif isinstance(written, float) and type(read) is int:
        yield path, written


def prompts_of(task: str, **settings: Any) -> Callable[[Path], str]:
    """Return what builds a task's prompts from a file or the folder that it lies in."""
    quick, whole = (yaml.safe_load((ROOT / name).read_text())["tasks"] for name in ("params.quick.yaml", "params.yaml"))
    section = (quick.get(task) or whole.get(task, {})) | settings

    def read(file: Path) -> str:
        kind = tasks.of(task)
        path = file if settings.get("of") != "folder" else file.parent
        given = {key: value for key, value in section.items() if key != "of"} | {"path": str(path)}
        prompts = kind.build(kind.settings(**given), 17)
        pa.Table.from_pylist([asdict(prompt) for prompt in prompts], tables.PROMPTS.schema)
        wrong = [prompt.id for prompt in prompts if not _in_text(prompt)]
        ids = Counter(prompt.id for prompt in prompts)
        splits = {(prompt.cluster, prompt.split) for prompt in prompts}
        return "; ".join(
            [
                *(f"{name}: a span outside its text" for name in wrong),
                *(name for name, n in ids.items() if n > 1),
                *(f"{cluster} in two splits" for cluster, n in Counter(c for c, _ in splits).items() if n > 1),
                *("no prompts" for _ in range(not prompts)),
                *(f"{prompt.id}: a control character" for prompt in prompts if _controls(prompt)),
                *SECOND.get(file.name, lambda file, prompts: [])(file, prompts),
            ]
        )[:200]

    return read


def _controls(prompt: Any) -> bool:
    whole = "".join((prompt.id, prompt.cluster, prompt.text, *prompt.targets))
    return any((c < " " or c == "\x7f") and not c.isspace() for c in whole)


def _twins(file: Path, prompts: list) -> list[str]:
    """Return the lines that were taken although they say a key twice, or hold two objects."""
    found: list[str] = []

    def hook(pairs: list) -> dict:
        found.extend(["a key twice"] if len(dict(pairs)) < len(pairs) else [])
        return dict(pairs)

    for line in filter(str.strip, file.read_text(encoding="utf-8-sig").split("\n")):
        _, end = json.JSONDecoder(object_pairs_hook=hook).raw_decode(line.strip())
        found += ["two objects"] if end < len(line.strip()) else []
    return found


def _pictures(file: Path, prompts: list) -> list[str]:
    """Return what is wrong with pictures that were taken: not all, or of another size."""
    from stages.model.images import picture

    return [prompt.id for prompt in prompts if picture(prompt.text).size != (32, 32)] + ["not all"] * (
        len(prompts) != 4
    )


def _in_text(prompt: Any) -> bool:
    whole = len(prompt.text + (prompt.targets or ("",))[0])
    ends = [(s.query_start, s.query_end) for s in prompt.relations] + [
        (s.key_start, s.key_end) for s in prompt.relations
    ]
    return all(0 <= start < end <= whole for start, end in ends)


def _no_trees(file: Path, prompts: list) -> list[str]:
    """Return the sentences that were taken although their rows make no tree."""
    wrong = []
    taken = {prompt.id.rpartition("/")[2] for prompt in prompts}
    for block in re.split(r"\n\s*\n", file.read_text(encoding="utf-8-sig")):
        rows = [line.split("\t") for line in block.split("\n") if line.strip() and not line.startswith("#")]
        named = re.search(r"^#\s*sent_id\s*=\s*(\S+)", block, re.M)
        if not rows or not named or named[1] not in taken:
            continue
        words = {row[0]: row[6] for row in rows if len(row) > 7 and row[0].isdigit()}
        good = list(words) == [str(n + 1) for n in range(len(words))] and list(words.values()).count("0") == 1
        for word in words:
            above = set()
            while word in words and word not in above:
                above.add(word)
                word = words[word]
            good &= word == "0"
        wrong += [] if good else [f"{named[1]} is no tree"]
    return wrong


def _no_pairs(file: Path, prompts: list) -> list[str]:
    """Return the pairs that were taken although a sentence of theirs is no text."""
    given = set()
    for line in file.read_text(encoding="utf-8-sig").split("\n"):
        row = json.loads(line) if line.strip() else {}
        given.add(tuple(row.get(key) for key in ("sentence_good", "sentence_bad")))
    return [
        prompt.id
        for prompt in prompts
        if tuple(target.strip() for target in prompt.targets)
        not in {tuple(text.strip() if isinstance(text, str) else text for text in pair) for pair in given}
    ]


SECOND = {"a.conllu": _no_trees, "a.jsonl": _no_pairs, "twins.jsonl": _twins, "1.png": _pictures, "1.jpg": _pictures}


def read_record(file: Path) -> str:
    """Read a model's record."""
    record = records.read("decoder")
    return "" if record["slot"] == "decoder" and record["attention"][0]["heads"] >= 1 else "no record"


def read_table(file: Path) -> str:
    """Read a table of indirect effects."""
    rows = tables.INDIRECT.read("decoder")
    counts = rows.groupby(["layer", "head"]).size()
    return "" if list(rows) == tables.INDIRECT.names and set(counts) == {TRACED} else "heads differ"


def read_summary(file: Path) -> str:
    """Read a summary that the page is made of."""
    columns = inputs.COLUMNS["heads"].split()
    rows = inputs.frame(file, columns)
    lengths = {len(row) for row in csv.reader(file.read_text(encoding="utf-8-sig").splitlines()) if row}
    if len(lengths) > 1:
        return f"rows of {sorted(lengths)} cells"
    return "" if set(columns) <= set(rows) else "columns are missing"


def kinds(folder: Path) -> dict[str, tuple[Path, Callable[[Path], str], Callable | None]]:
    """Lay out a good file of every kind: name -> the file, how it is read, how its structure is changed."""
    sources = ROOT / "stages/sources"

    def put(name: str, content: bytes | Path) -> Path:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.read_bytes() if isinstance(content, Path) else content)
        return file

    def drawn(name: str) -> Path:
        """Draw four pictures beside each other; return the first."""
        for number in (4, 3, 2, 1):
            picture = Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8))
            file = folder / name.replace("1", str(number))
            file.parent.mkdir(exist_ok=True)
            picture.save(file)
        return file

    def structured(load: Callable, dump: Callable) -> Callable:
        def change(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
            how, value = changed(load(content), rng)
            return how, dump(value)

        return change

    of_yaml, of_json = structured(yaml.safe_load, as_yaml), structured(json.loads, as_json)
    pairs = [{"input": f"word{n}", "output": f"Word{n}"} for n in range(60)]
    minimal = [
        {
            "sentence_good": f"The cat {n} sleeps.",
            "sentence_bad": f"The cat {n} sleep.",
            "UID": "agreement",
            "linguistics_term": "s-selection",
            "pairID": str(n),
        }
        for n in range(20)
    ]
    facts = [{"subject": f"S{n}", "object": f"O{n}", "templates": ["{x} has", "Of {x},"]} for n in range(40)]
    trees = "".join(
        f"# sent_id = s{n}\n# text = Anna{n} sees dogs .\n"
        + "".join(
            "\t".join([str(place), form, *"____", head, label, "_", "_"]) + "\n"
            for place, (form, head, label) in enumerate(
                [(f"Anna{n}", "2", "nsubj"), ("sees", "0", "root"), ("dogs", "2", "obj"), (".", "2", "punct")], start=1
            )
        )
        + "\n"
        for n in range(30)
    )
    lines = lambda rows: b"\n".join(map(as_json, rows)) + b"\n"  # noqa: E731
    sizes = {"layer": 0, "heads": 2, "kv_heads": 1, "head_size": 4, "window": None, "kind": "global"}
    record = {
        "slot": "decoder",
        "source": "path",
        "name": "tiny",
        "revision": "1",
        "kind": "decoder",
        "parameters": 1000,
        "vocabulary": 1000,
        "files": {"model.safetensors": "0"},
        "attention": [sizes],
        "blocks": ["block"],
        "skipped": {},
        "proof": {},
    }
    put("table/data/models/decoder.json", as_json(record))
    rows = [
        {
            "function": "f",
            "prompt": f"p{n}",
            "split": "a",
            "cluster": "c",
            "layer": 0,
            "head": head,
            "base": 0.0,
            "effect": 0.1,
        }
        for n in range(TRACED)
        for head in (0, 1)
    ]
    table = folder / "table" / tables.INDIRECT.path("decoder")
    table.parent.mkdir(parents=True)
    parquet.write(table, rows, tables.INDIRECT.schema.with_metadata({"asked": str(TRACED)}))
    small = {"words": 4, "sets": 2, "shots": 4}
    icl = {"sets": 2, "queries": 2, "shots": 4, "functions": []}
    return {
        "params": (put("params.yaml", ROOT / "params.yaml"), read_params, of_yaml),
        "studies": (put("full/params.yaml", ROOT / "full/params.yaml"), read_params, of_yaml),
        "functions": (put("functions.yaml", sources / "words/functions.yaml"), prompts_of("icl", **icl), of_yaml),
        "json": (put("json/f.json", as_json(pairs)), prompts_of("icl", source="path", of="folder", **icl), of_json),
        "rare": (_beside(folder, sources, "rare.yaml"), prompts_of("extrapolation", of="folder", **small), of_yaml),
        "pairs": (put("blimp.yaml", sources / "blimp/lexicon.yaml"), prompts_of("blimp", pairs=1), of_yaml),
        "jsonl": (
            put("jsonl/a.jsonl", lines(minimal)),
            prompts_of("blimp", source="path", of="folder", pairs=20),
            line_changed,
        ),
        "facts": (
            put("facts.jsonl", lines(facts)),
            prompts_of("facts", source="path", invented=2, known=4, shots=2),
            line_changed,
        ),
        "trees": (
            put("treebank.yaml", sources / "treebank/lexicon.yaml"),
            prompts_of("treebank", sentences=20),
            of_yaml,
        ),
        "conllu": (
            put("conllu/a.conllu", trees.encode()),
            prompts_of("treebank", source="path", of="folder", sentences=30, shortest=2, longest=9),
            cell_changed,
        ),
        "labelled": (put("neighbours.yaml", sources / "neighbours/lexicon.yaml"), prompts_of("neighbours"), of_yaml),
        "text": (
            put("text/a.txt", sources / "english/01-town-and-trades.txt"),
            prompts_of("text", of="folder", passages=4),
            None,
        ),
        "needle": (put("hay.txt", sources / "english/02-land-and-water.txt"), prompts_of("needle"), None),
        "twins": (
            put("twins.jsonl", lines(facts)),
            prompts_of("facts", source="path", invented=2, known=4, shots=2),
            twin,
        ),
        "png": (drawn("png/1.png"), prompts_of("images", source="path", of="folder", images=4, side=32), None),
        "jpg": (drawn("jpg/1.jpg"), prompts_of("images", source="path", of="folder", images=4, side=32), None),
        "record": (put("record/data/models/decoder.json", as_json(record)), read_record, of_json),
        "table": (table, read_table, table_changed),
        "summary": (put("heads.csv", ROOT / "reports/slots/decoder/heads.csv"), read_summary, csv_changed),
    }


def _beside(folder: Path, sources: Path, name: str) -> Path:
    shutil.copytree(sources / "words", folder / "words")
    return folder / "words" / name


def outcome(file: Path, read: Callable[[Path], str]) -> tuple[str, str]:
    """Read a file; return the outcome and what was said."""

    def ring(*_: Any) -> None:
        raise Slow

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        wrong = read(file)
        return ("SILENT", wrong) if wrong else ("accepted", "")
    except UserError as error:
        said = str(error)
        good = "\n" not in said and (
            file.name in said or file.parent.name in said or re.search(r"params\.yaml|tasks\.", said)
        )
        return "refused" if good else "vague", said
    except Slow:
        return "slow", ""
    except Exception as error:  # what the bench looks for
        return "traceback", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)


def main() -> None:
    """Mutate, read, classify; write one line per input and print the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        every = {kind: how for kind, how in kinds(Path(name)).items() if not given.only or kind in given.only}
        rows = []
        for number in range(given.count):
            kind = list(every)[number % len(every)]
            file, read, change = every[kind]
            rng = np.random.default_rng([given.seed, number])
            content = file.read_bytes()
            os.chdir(file.parents[2] if kind in ("record", "table") else ROOT)
            if change is table_changed and rng.random() < 0.7:
                how = change(file, rng)
            else:
                how, new = (
                    change(content, rng)
                    if change not in (None, table_changed) and rng.random() < 0.7
                    else damaged(content, rng)
                )
                file.write_bytes(new)
            result, said = outcome(file, read)
            file.write_bytes(content)
            rows.append(
                {
                    "number": number,
                    "kind": kind,
                    "change": how,
                    "outcome": result,
                    "said": " ".join(said.replace(name, "").split())[:200],
                }
            )
    if not given.only and given.count == 2000:
        with OUT.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {key: str(value).encode("utf-8", "replace").decode() for key, value in row.items()} for row in rows
            )
    frame = pd.DataFrame(rows)
    print(pd.crosstab(frame.kind, frame.outcome, margins=True).to_string())
    for row in frame[~frame.outcome.isin(["accepted", "refused"])].itertuples():
        print(f"{row.outcome}: {row.kind} #{row.number}: {row.change!r}: {row.said}")


if __name__ == "__main__":
    main()
