"""What lies under data/ and reports/ by key: of a slot, a task or a recipe. What belongs to no key of today is stale.

Every entry of these folders is named by its key up to the first dot, and keys hold none. Only what a stage has written
is ever stale, known by its name: what else lies there is the user's, whom nothing would bring it back.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.store.params import Params

BY_TASK = ("data/prompts", "data/asked", "data/pictures")
BY_SLOT = (
    *("data/activations", "data/answers", "data/applied", "data/circuits", "data/effects", "data/extracted"),
    *("data/gates", "data/heads", "data/indirect", "data/memory", "data/models", "data/neighbours", "data/plans"),
    *("data/shards", "data/sinks", "data/vectors", "reports/figures", "reports/slots"),
)
BY_RECIPE = ("data/checkpoints", "reports/recipes")
TABLES = ("activations", "applied", "circuits", "effects", "gates", "memory", "neighbours", "sinks", "vectors")
WRITTEN = {  # folder -> what stages leave there; `*/...`: in the folder of a key, all of which is theirs then
    **dict.fromkeys((*BY_TASK, "data/answers", "data/heads", "data/indirect", "data/plans"), ("*.parquet",)),
    **dict.fromkeys([f"data/{name}" for name in TABLES], ("*/*.parquet",)),
    "data/models": ("*.json",),
    **dict.fromkeys(("data/extracted", "data/shards"), ("*",)),
    "data/checkpoints": ("*/*/*/*",),
    "reports/figures": ("*-heads.svg",),
    "reports/slots": ("*/metrics.json", "*/model.json", "*/cache.json", "*/examples.json"),
    "reports/recipes": ("*/learning.csv", "*/params.json"),
}
OF_TASKS = {"data/activations": "*.parquet", "data/extracted": "*/"}  # in the folder of a slot, what is of one task
KEYS = "keys.json"  # today's keys, in folders that stages read whole


def stale(settings: Params) -> list[Path]:
    """Return files and folders whose slot, task or recipe is no longer in params, by name."""
    names = {name for name, task in settings.tasks if task is not None}
    gone = [path for path in _entries(BY_TASK) if path.name != KEYS and _key(path) not in names]
    for path in _entries(BY_SLOT):
        key = path.stem.removesuffix("-heads") if path.suffix == ".svg" else _key(path)
        training = path.parent == Path("data/shards") and key in settings.recipes
        if key not in settings.models and not training:
            gone.append(path)
        elif of_task := OF_TASKS.get(path.parent.as_posix()):
            inside = (entry for entry in sorted(path.glob(of_task)) if not entry.name.startswith("."))
            gone += [entry for entry in inside if _key(entry) not in names]
    gone += [path for path in _entries(BY_RECIPE) if path.name != KEYS and _key(path) not in settings.recipes]
    return gone


def _entries(folders: tuple[str, ...]) -> Iterator[Path]:
    """Yield what stages have written in the folders, and empty folders; hidden files are half-written or the user's."""
    for folder in folders:
        found = (path for pattern in WRITTEN[folder] for path in Path(folder).glob(pattern))
        entries = {Path(folder, path.relative_to(folder).parts[0]) for path in found}
        entries |= {path for path in Path(folder).glob("*/") if not any(path.iterdir())}
        yield from (path for path in sorted(entries) if not path.name.startswith("."))


def _key(path: Path) -> str:
    return path.name.split(".")[0]
