"""All tables in words: `python -m stages.store.describe` writes docs/tables.md from `stages.store.tables`."""

from pathlib import Path

import pyarrow as pa

from stages.store import files, tables

PAGE = Path("docs/tables.md")
HEAD = """# Tables

Written by `python -m stages.store.describe` from [`tables.py`](../stages/store/tables.py); a test keeps both equal. A
file says the same of itself (`pq.read_schema(path)`). A table without rows says why in its metadata (`reason`). What is
counted: how many different names its stage set out to write in these columns, in what it read, stands in the metadata
(`asked`), and a table with others is neither written nor read. Layers, heads and tokens count from 0; logarithms are
natural, losses are in nats a token, shares lie in 0..1. Where files lie, and the CSV files of `reports/`:
[files.md](files.md).

No column is a word of SQL: none needs quotes.

```sql
SELECT layer, head, score - score_null AS beyond FROM 'data/heads/decoder.parquet' WHERE family = 'induction'
```

"""
VECTORS = """## Function vectors

`data/vectors/<slot>/vectors.safetensors` holds, by name `<function>.<vector>`, float32 rows of the model's width: one
per layer after which it is added at the last token. Its metadata `provenance` is JSON: `slot`; `model`, its name,
revision, origin, licence, `dtype` and the sha256 of its files; `heads`, the top ones as [layer, head], the best first;
`vectors`, by name the `layers` of its rows, the `strength` to multiply them with (it is not multiplied in) and the
number of `heads` that are summed in it (0: a mean of the residual stream). Where there is no vector, it holds `reason`
in place of these. `control/*.gguf` are the same vectors, strength multiplied in (none of one with a row after block 0);
`control/provenance.json` says so of each file.

```python
import json
from safetensors import safe_open

with safe_open("data/vectors/decoder/vectors.safetensors", "np") as file:
    made = json.loads(file.metadata()["provenance"])
    for name, of in made.get("vectors", {}).items():
        for layer, vector in zip(of["layers"], of["strength"] * file.get_tensor(name)):
            print(name, "after layer", layer, "norm", float((vector**2).sum() ** 0.5))
```
"""


def page() -> str:
    """Return docs/tables.md."""
    named = {name: table for name, table in vars(tables).items() if isinstance(table, tables.Table)}
    return HEAD + "\n".join(_section(name, table) for name, table in named.items()) + "\n" + VECTORS


def _section(name: str, table: tables.Table) -> str:
    of = iter(("<slot>", "<task>") if table.place.count("{}") == 2 else (_of(table),))
    place = "".join(part + next(of, "") for part in table.place.split("{}"))
    key = ", ".join(f"`{column}`" for column in table.key) or "none, a row per prompt asked"
    rows = [f"| `{field.name}` | {_type(field.type)} | {_meaning(field)} |" for field in table.schema]
    counted = ", ".join(f"`{column}`" for column in table.asked) or "all rows"
    counted += ", for every head" if table.every_head else ""
    lines = [f"## {name}", "", f"`{place}`: {table.about}. Key: {key}. Counted: {counted}.", ""]
    return "\n".join([*lines, "| column | type | meaning and unit |", "|---|---|---|", *rows, ""])


def _of(table: tables.Table) -> str:
    """Return what a table with one key in its place is of; '' where there is none."""
    if "{}" not in table.place:
        return ""
    return "<task>" if table.place.startswith(("data/prompts", "data/asked", "data/pictures")) else "<slot>"


def _meaning(field: pa.Field) -> str:
    """Return a column's meaning as a cell of a Markdown table shows it."""
    return field.metadata[b"meaning"].decode().replace("<", "&lt;").replace("|", "&#124;")


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_fixed_size_list(kind):
        return f"list of head size {_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "(" + ", ".join(f"{field.name} {field.type}" for field in kind) + ")"
    return str(kind)


if __name__ == "__main__":
    files.write_text(PAGE, page())
