"""What a model's folder holds: which files are read, whether that is clear, and the sha256 that pins each.

transformers picks silently where a folder holds two models, an adapter beside one, or a part of one; here each of these
is refused in one line, before anything is loaded.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from stages.store.errors import UserError
from stages.store.files import sha256, write_text

FILES = ("*.safetensors", "*.gguf", "*.json", "vocab.txt", "merges.txt", "*.model", "*.md", "LICENSE*")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
READ = "float32"  # before the names of converted files, which are read in place of the original
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
PART = r"-(\d{5})-of-(\d{5})\.gguf$"  # how the name of a part of a split GGUF file ends
SHOWN = 3  # files in a message
POINTER = b"version https://git-lfs.github.com/spec/"  # how a file begins that git-lfs did not fetch


def listed(folder: Path) -> list[Path]:
    """Return the files of a folder that loading may read or that say where the model comes from, by name."""
    return sorted({file for pattern in FILES for file in folder.glob(pattern) if not file.is_dir()})


def is_listed(name: str) -> bool:
    """Return whether a file of this name is one of `listed`."""
    return any(fnmatch(name, pattern) for pattern in FILES)


def is_weights(name: str) -> bool:
    """Return whether a file of this name holds weights, or a part of them."""
    return name.endswith((".gguf", ".safetensors"))


def weights(folder: Path) -> list[Path]:
    """Return the files that hold the weights: one GGUF file, or safetensors, in one file or in shards by an index.

    Raises `UserError` naming the file where that is unclear, where one is missing, outside the folder or a pointer.
    """
    for file in listed(folder):
        if file.exists() and not file.is_file():
            raise UserError(f"{file}: not a file: a pipe or a device is not opened")
        try:
            with file.open("rb") as stream:
                begins = stream.read(len(POINTER))
        except OSError as error:  # a link into a cache that was emptied, or no permission
            raise UserError(f"{file}: cannot be read ({error.strerror})") from None
        if begins == POINTER:
            raise UserError(f"{file}: a git-lfs pointer, not the file itself; run git lfs pull in that repository")
    there = {file.name for file in folder.iterdir() if not file.is_dir()} if folder.is_dir() else set()
    read = meant(str(folder), there, lambda: (folder / INDEX).read_text(encoding="utf-8"))
    return [folder / name if name.endswith(".gguf") else _sound(folder / name) for name in read]


def meant(where: str, names: Collection[str], index: Callable[[], str]) -> list[str]:
    """Return which files of a folder hold the weights, by the names of its files alone.

    So a repository is refused before anything large is fetched. where: begins messages; index: the text of `INDEX`.
    Raises `UserError` where it is unclear which model is meant, or there is none, or a part of one.
    """
    if ADAPTER in names:
        raise UserError(
            f"{where}: {ADAPTER}: an adapter is not applied to the model; merge it (peft: merge_and_unload) and save "
            "the whole model to a folder, or remove the adapter"
        )
    quantised, tensors = (sorted(name for name in names if name.endswith(end)) for end in (".gguf", ".safetensors"))
    if quantised:
        return [_single(where, quantised, tensors)]
    if "config.json" not in names:
        raise UserError(f"{where}: no model in this folder; expected config.json with *.safetensors, or a *.gguf file")
    if INDEX in names:
        return _shards(where, names, index)
    if WEIGHTS in names:
        return [WEIGHTS]
    named = ", ".join(tensors[:SHOWN])
    pickles = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in PICKLES))
    if pickles and not named:
        raise UserError(f"{where}: {pickles[0]}: pickled weights are not read; convert them to {WEIGHTS}")
    raise UserError(f"{where}: holds neither {WEIGHTS} nor {INDEX}{f', but {named}' if named else ''}")


def _single(where: str, quantised: list[str], tensors: list[str]) -> str:
    """Return the one GGUF file that is a whole model."""
    parts = {re.sub(PART, "", name) for name in quantised}
    if len(parts) > 1 or tensors:
        named = [*quantised, *tensors]
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        raise UserError(
            f"{where}: unclear which model is meant: {', '.join(named[:SHOWN])}{more}; leave one of them in a folder "
            "of its own (source: path)"
        )
    if part := re.search(PART, quantised[0]):
        raise UserError(
            f"{where}: {quantised[0]}: part {int(part[1])} of {int(part[2])}; merge them (llama-gguf-split --merge)"
        )
    return quantised[0]


def _shards(where: str, names: Collection[str], index: Callable[[], str]) -> list[str]:
    """Return the shards that the index names."""
    if WEIGHTS in names:
        raise UserError(f"{where}: unclear which model is meant: {WEIGHTS} or {INDEX}; remove one of them")
    at = f"{where}/{INDEX}"
    try:
        shards = sorted(set(json.loads(index())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{at}: no index of shards ({error!r}); weight_map is needed") from None
    for name in shards:
        if Path(name).name != name:
            raise UserError(f"{at}: shard {name} lies outside this folder; shards are read from beside it")
        if name not in names:
            raise UserError(f"{at}: shard {name} is missing; get all of {len(shards)} shards")
    if unnamed := sorted({name for name in names if fnmatch(name, "model*.safetensors")} - set(shards)):
        raise UserError(f"{at}: {unnamed[0]} is not named by it; remove the file or complete the index")
    return shards


def _sound(file: Path) -> Path:
    """Return the file if its header can be read and its length is what the header says."""
    try:
        with safe_open(file, framework="np"):
            return file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: damaged or cut ({error}); get it again") from None


def fingerprint(file: Path) -> str:
    """Return the sha256 of a file, remembered by size, inode and times, since weights are large.

    The time of the inode's change counts too: the time of the content's change is what `cp -p` and `touch` set.
    """
    stat = file.stat()
    memory = cache() / "sha256.json"
    try:
        known = dict(json.loads(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there yet, or cut by a full disk: hash again
        known = {}
    key = f"{file.resolve()}:{stat.st_size}:{stat.st_ino}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
    if key not in known:
        known[key] = sha256(file)
        write_text(memory, json.dumps(known))
    return known[key]


def fingerprints(folder: Path) -> dict[str, str]:
    """Return the sha256 of every listed file of a folder, by name."""
    return {file.name: fingerprint(file) for file in listed(folder)}


def differing(there: Mapping[str, str], recorded: Mapping[str, str]) -> str:
    """Return the name of the first file that is not as recorded, new or gone; '' where all are the same.

    there, recorded: sha256 of files by name.
    """
    for name in sorted(there.keys() | recorded.keys()):
        if name not in recorded:
            return f"{name} (new)"
        if name not in there:
            return f"{name} (gone)"
        if there[name] != recorded[name]:
            return name
    return ""


def cache() -> Path:
    """Return the user cache of assembled and converted models: $HEAD_ATLAS_CACHE or ~/.cache/head-atlas."""
    folder = Path(os.environ.get("HEAD_ATLAS_CACHE") or Path.home() / ".cache" / "head-atlas")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); set HEAD_ATLAS_CACHE") from None
    return folder


def alone(target: Path) -> FileLock:
    """Return a lock on a file or folder of the cache: of two processes that want to make it, the second waits."""
    return FileLock(f"{target}.lock")
