"""What a model's folder holds: which files are read, whether that is clear, and the sha256 that pins each.

transformers picks silently where a folder holds two models, an adapter beside one, or a part of one; here each of these
is refused in one line, before anything is loaded.
"""

import hashlib
import json
import os
import re
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from stages.store.errors import UserError

FILES = ("*.safetensors", "*.gguf", "*.json", "vocab.txt", "merges.txt", "*.model", "*.md", "LICENSE*")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
POINTER = b"version https://git-lfs.github.com/spec/"  # how a file begins that git-lfs did not fetch


def listed(folder: Path) -> list[Path]:
    """Return the files of a folder that loading may read or that say where the model comes from, by name."""
    return sorted({file for pattern in FILES for file in folder.glob(pattern) if not file.is_dir()})


def weights(folder: Path) -> list[Path]:
    """Return the files that hold the weights: one GGUF file, or safetensors, in one file or in shards by an index.

    Raises `UserError` naming the file where that is unclear, where one is missing, outside the folder or a pointer.
    """
    if (folder / ADAPTER).exists():
        raise UserError(
            f"{folder}: {ADAPTER}: an adapter is not applied to the model; merge it (peft: merge_and_unload) and save "
            "the whole model to a folder, or remove the adapter"
        )
    for file in listed(folder):
        try:
            with file.open("rb") as stream:
                begins = stream.read(len(POINTER))
        except OSError as error:  # a link into a cache that was emptied, or no permission
            raise UserError(f"{file}: cannot be read ({error.strerror})") from None
        if begins == POINTER:
            raise UserError(f"{file}: a git-lfs pointer, not the file itself; run git lfs pull in that repository")
    quantised, tensors = sorted(folder.glob("*.gguf")), sorted(folder.glob("*.safetensors"))
    if quantised:
        return [_single(folder, quantised, tensors)]
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model in this folder; expected config.json with *.safetensors, or a *.gguf file")
    if (folder / INDEX).is_file():
        return [_sound(file) for file in _shards(folder)]
    if (folder / WEIGHTS).is_file():
        return [_sound(folder / WEIGHTS)]
    named = ", ".join(file.name for file in tensors[:3])
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles and not named:
        raise UserError(f"{folder}: {pickles[0]}: pickled weights are not read; convert them to {WEIGHTS}")
    raise UserError(f"{folder}: holds neither {WEIGHTS} nor {INDEX}{f', but {named}' if named else ''}")


def _single(folder: Path, quantised: list[Path], tensors: list[Path]) -> Path:
    """Return the one GGUF file of a folder that is a whole model."""
    if len(quantised) > 1 or tensors:
        named = ", ".join(file.name for file in [*quantised, *tensors][:3])
        raise UserError(f"{folder}: unclear which model is meant: {named}; leave one of them in a folder of its own")
    if part := re.search(r"-(\d{5})-of-(\d{5})\.gguf$", quantised[0].name):
        raise UserError(f"{quantised[0]}: part {int(part[1])} of {int(part[2])}; merge them (llama-gguf-split --merge)")
    return quantised[0]


def _shards(folder: Path) -> list[Path]:
    """Return the shards that the index names."""
    if (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: unclear which model is meant: {WEIGHTS} or {INDEX}; remove one of them")
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{folder / INDEX}: no index of shards ({error!r}); weight_map is needed") from None
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{folder / INDEX}: shard {name} lies outside this folder; shards are read from beside it")
        if not (folder / name).is_file():
            raise UserError(f"{folder / INDEX}: shard {name} is missing; get all of {len(names)} shards")
    if unnamed := sorted({file.name for file in folder.glob("model*.safetensors")} - set(names)):
        raise UserError(f"{folder / INDEX}: {unnamed[0]} is not named by it; remove the file or complete the index")
    return [folder / name for name in names]


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
        with file.open("rb") as stream:
            known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        temporary = memory.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(known), encoding="utf-8")
        os.replace(temporary, memory)
    return known[key]


def fingerprints(folder: Path) -> dict[str, str]:
    """Return the sha256 of every listed file of a folder, by name."""
    return {file.name: fingerprint(file) for file in listed(folder)}


def cache() -> Path:
    """Return the user cache of assembled and converted models: $HEAD_ATLAS_CACHE or ~/.cache/head-atlas."""
    folder = Path(os.environ.get("HEAD_ATLAS_CACHE", Path.home() / ".cache" / "head-atlas"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); set HEAD_ATLAS_CACHE") from None
    return folder


def alone(target: Path) -> FileLock:
    """Return a lock on a file or folder of the cache: of two processes that want to make it, the second waits."""
    return FileLock(f"{target}.lock")
