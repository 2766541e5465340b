"""Committed results of one slot at one git revision, and what two of them have in common: model, prompts, params, code.

Read with `git show`: nothing is checked out and nothing is run. Tables of older revisions may lack columns that came
later; a table without the columns that a comparison needs counts as missing, with why.
"""

import io
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from stages.page.inputs import COLUMNS, NAMES, TEXT
from stages.store import paths
from stages.store.errors import UserError

NEEDED = {  # table: columns without which it cannot be compared; others are empty where a revision lacks them
    "heads": "layer head family score low high member",
    "effects": "purpose family k kind draw heads members task condition measure value change low high trials "
    "controls p",
    "steering": "function layer context vector accuracy low high trials",
    "reliability": "family threshold",
}
LOCK = "dvc.lock"
ABSENT = "–"


@dataclass(frozen=True)
class Run:
    """Results of a slot at a revision.

    label: what it is called in the comparison. revision: as the user wrote it; commit: 40 hex digits. missing: table ->
    why it is not there. params: as its tables were made with (dvc.lock; `recorded`), else as in params.yaml, flat.
    prompts: task -> md5 of its file of prompts. code: stage -> md5 of every file and folder of code that it ran.
    """

    label: str
    revision: str
    commit: str
    slot: str
    heads: pd.DataFrame
    effects: pd.DataFrame
    steering: pd.DataFrame
    reliability: pd.DataFrame
    missing: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    recorded: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    code: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The model's name with how its weights were stored."""
        stored = self.model.get("stored")
        return self.model.get("name", "a model that is not recorded") + (f" ({stored})" if stored else "")

    def path(self, table: str) -> str:
        """Name a table so that `git show` finds it."""
        return f"{self.revision}:{paths.report(self.slot).as_posix()}/{table}.csv"


def pairs(first: str, second: str, repository: Path = Path()) -> list[tuple[Run, Run]]:
    """Read what two names stand for: `main`, `decoder` or `main:decoder`, a pair of runs per slot that is compared.

    Two revisions are compared in every slot that both have, else in the first of each. Raises `UserError`.
    """
    (left, chosen), (right, other) = (_meant(name, repository) for name in (first, second))
    slots, others = _slots(left, repository), _slots(right, repository)
    if chosen or other:
        known = [(chosen or _same(other, slots, left), other or _same(chosen, others, right))]
    else:
        known = [(slot, slot) for slot in slots if slot in others] or [(slots[0], others[0])]
    for revision, slot, there in [(left, known[0][0], slots), (right, known[0][1], others)]:
        if slot not in there:
            raise UserError(f"{revision}: no slot {slot!r} in {_folder()}; there are {', '.join(there)}")
    both = []
    for a, b in known:
        whole = left != right and a != b
        labels = [f"{r}:{s}" if whole else s if left == right else r for r, s in ((left, a), (right, b))]
        if labels[0] == labels[1]:
            labels = [f"{labels[0]} (first)", f"{labels[1]} (second)"]
        both.append((read(labels[0], left, a, repository), read(labels[1], right, b, repository)))
    return both


def read(label: str, revision: str, slot: str, repository: Path = Path()) -> Run:
    """Read the committed results of a slot at a revision."""
    folder = paths.report(slot).as_posix()
    tables, missing = {}, {}
    for table in NEEDED:
        tables[table], why = frame(table, _show(repository, revision, f"{folder}/{table}.csv"))
        if why:
            missing[table] = why
    lock = _yaml(repository, revision, LOCK).get("stages", {})
    ran = {name: stage for name, stage in lock.items() if _of(name, slot)}
    recorded = any(not name.startswith("prepare@") for name in ran)
    written = _recorded(ran) if recorded else flat(_yaml(repository, revision, paths.PARAMS.as_posix()))
    return Run(
        label,
        revision,
        _git(repository, "rev-parse", "--verify", f"{revision}^{{commit}}").strip(),
        slot,
        **tables,
        missing=missing,
        model=_json(repository, revision, f"{folder}/model.json"),
        metrics=_json(repository, revision, f"{folder}/metrics.json"),
        params={key: value for key, value in written.items() if _asked(key)},
        recorded=recorded,
        prompts={name.split("@")[1]: md5 for name, stage in ran.items() if (md5 := _prompts(name, stage))},
        code={name.replace(f"@{slot}", ""): _code(stage) for name, stage in ran.items()},
    )


def frame(table: str, text: str | None) -> tuple[pd.DataFrame, str]:
    """Return a table as typed rows, and why it is empty where it is no use."""
    columns, needed = COLUMNS[table].split(), NEEDED[table].split()
    empty = pd.DataFrame({name: pd.Series(dtype=str if name in _names(table) else float) for name in columns})
    if text is None:
        return empty, f"no {table}.csv there"
    try:
        rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError):
        return empty, f"{table}.csv is no CSV file there"
    if lacking := [name for name in needed if name not in rows]:
        return empty, f"{table}.csv has no column {', '.join(lacking)} there"
    rows = rows.reindex(columns=columns, fill_value="")
    for name in columns:
        if name not in _names(table):
            try:
                rows[name] = pd.to_numeric(rows[name].replace("", None)).astype(float)
            except ValueError:
                return empty, f"{table}.csv, column {name}: not all numbers there"
    return rows, ("" if len(rows) else f"{table}.csv has no rows there")


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Flatten nested dictionaries: key.key -> value as JSON."""
    if isinstance(value, dict) and value:
        return {
            key: leaf for name, part in value.items() for key, leaf in flat(part, f"{prefix}{name}.").items()
        }  # fmt: skip
    return {prefix[:-1]: json.dumps(value, sort_keys=True, ensure_ascii=False)} if prefix else {}


# What two runs share


def same_model(a: Run, b: Run) -> bool:
    """Tell whether both read the same weights and tokenizer: every file's sha256, and the precision."""
    files = a.model.get("files")
    return bool(files) and files == b.model.get("files") and a.model.get("dtype") == b.model.get("dtype")


def same_tokens(a: Run, b: Run) -> bool:
    """Tell whether both models are known to cut text into the same tokens: the same model or tokenizer file."""

    def tokenizers(run: Run) -> set[str]:
        return {md5 for name, md5 in run.model.get("files", {}).items() if name.split("/")[-1] == "tokenizer.json"}

    return same_model(a, b) or (bool(tokenizers(a)) and tokenizers(a) == tokenizers(b))


def same_prompts(a: Run, b: Run, task: str) -> bool | None:
    """Tell whether a task's prompts are the same file in both runs; None where it is not recorded."""
    if task not in a.prompts or task not in b.prompts:
        return None
    return a.prompts[task] == b.prompts[task]


def same_shape(a: Run, b: Run) -> bool:
    """Tell whether both tables have the same layers and heads."""
    return grid(a) == grid(b) and bool(grid(a))


def grid(run: Run) -> set[tuple[float, float]]:
    """Return the (layer, head) of a run's table of heads."""
    return set(zip(run.heads["layer"], run.heads["head"], strict=True))


def differing(a: dict[str, str], b: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return (key, value in a, value in b) of the keys with other values, sorted; `ABSENT` where a key is not there."""
    keys = sorted(set(a) | set(b))
    return [(key, a.get(key, ABSENT), b.get(key, ABSENT)) for key in keys if a.get(key) != b.get(key)]


def other_code(a: Run, b: Run) -> list[str]:
    """Return the stages, of those that both ran, whose code differs."""
    return sorted({name.split("-")[0] for name in set(a.code) & set(b.code) if a.code[name] != b.code[name]})


# Reading git


def _meant(name: str, repository: Path) -> tuple[str, str]:
    """Return (revision, slot or '') of `revision`, `slot` or `revision:slot`."""
    if not name.isprintable() or not name or name.startswith("-"):
        raise UserError(
            f"{name!r}: expected a git revision, a slot or revision:slot, such as main, decoder, main:decoder"
        )
    revision, _, slot = name.partition(":")
    if slot:
        if not _resolves(revision, repository):
            raise UserError(f"{revision}: no such git revision (branch, tag or commit)")
        return revision, slot
    there = _listed("HEAD", repository) if _resolves("HEAD", repository) else []
    if _resolves(revision, repository):
        if revision in there:
            raise UserError(f"{name}: a git revision and a slot; write HEAD:{name} or {name}:{there[0]}")
        return revision, ""
    if revision in there:
        return "HEAD", revision
    raise UserError(f"{name}: no git revision and no slot of HEAD; its slots are {', '.join(there) or 'none'}")


def _slots(revision: str, repository: Path) -> list[str]:
    slots = _listed(revision, repository)
    if not slots:
        raise UserError(f"{revision}: no reports in {_folder()} at this revision; commit them there first")
    return slots


def _same(slot: str, slots: list[str], revision: str) -> str:
    """Return the slot to compare with another revision's: of the same name, else the only one."""
    if slot in slots or len(slots) > 1:
        return slot
    return slots[0]


def _folder() -> str:
    return paths.report("x").parent.as_posix()


def _listed(revision: str, repository: Path) -> list[str]:
    folders = _git(repository, "ls-tree", "-d", "--name-only", "--full-tree", revision, f"{_folder()}/")
    return [folder.rsplit("/", 1)[1] for folder in folders.splitlines()]


def _resolves(revision: str, repository: Path) -> bool:
    if revision.startswith("-"):
        return False
    commit = _call(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").stdout.decode().strip()
    return commit.isalnum()  # `a..b` and `^a` are also verified, as something else


def _show(repository: Path, revision: str, path: str) -> str | None:
    """Return a file at a revision, None where it is not there."""
    shown = _call(repository, "show", f"{revision}:{path}")
    return None if shown.returncode else shown.stdout.decode("utf-8", "replace")


def _git(repository: Path, *arguments: str) -> str:
    ended = _call(repository, *arguments)
    if ended.returncode:
        lines = ended.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise UserError(f"git {arguments[0]}: {lines[0].removeprefix('fatal: ')}")
    return ended.stdout.decode("utf-8", "replace")


def _call(repository: Path, *arguments: str) -> subprocess.CompletedProcess:
    try:
        english = {**os.environ, "LC_ALL": "C"}
        ended = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, env=english)
    except FileNotFoundError:
        raise UserError("git is not installed or not on PATH: revisions cannot be read") from None
    except ValueError:
        raise UserError(f"git {arguments[0]}: {arguments[-1]!a} is no text that git could be given") from None
    if b"dubious ownership" in ended.stderr:
        where = ended.stderr.decode("utf-8", "replace").splitlines()[0].rpartition(" at ")[2]
        raise UserError(f"another user owns this repository: run git config --global --add safe.directory {where}")
    if b"not a git repository" in ended.stderr:
        raise UserError("this folder is no git repository: committed reports are compared; run from the repository")
    return ended


def _json(repository: Path, revision: str, path: str) -> dict[str, Any]:
    text = _show(repository, revision, path)
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise UserError(f"{revision}:{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{revision}:{path}: expected a JSON object")
    return value


def _yaml(repository: Path, revision: str, path: str) -> dict[str, Any]:
    text = _show(repository, revision, path)
    try:
        value = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {} if text else {}
    except yaml.YAMLError as error:
        raise UserError(f"{revision}:{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise UserError(f"{revision}:{path}: expected keys and values")
    return value


def _names(table: str) -> set[str]:
    return TEXT | NAMES.get(table, set())


def _of(stage: str, slot: str) -> bool:
    """Tell whether a stage of dvc.lock made something of a slot, or the prompts."""
    name, _, item = stage.partition("@")
    return name == "prepare" or item == slot or item.startswith(f"{slot}-")


def _recorded(stages: dict[str, Any]) -> dict[str, str]:
    values: dict[str, str] = {}
    for stage in stages.values():
        for sections in stage.get("params", {}).values():
            values |= flat(sections)
    return values


def _asked(key: str) -> bool:
    """Tell whether a param says how something is measured: models have rows of their own, recipes are not compared."""
    return key.split(".")[0] not in ("models", "recipes", "report", "ngram")


def _prompts(name: str, stage: dict[str, Any]) -> str:
    outs = stage.get("outs", []) if name.startswith("prepare@") else []
    return next((out.get("md5", "") for out in outs if "prompts" in Path(out["path"]).parts), "")


def _code(stage: dict[str, Any]) -> dict[str, str]:
    return {d["path"]: d.get("md5", "") for d in stage.get("deps", []) if d["path"].startswith("stages/")}
