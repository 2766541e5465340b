"""Where everything lies that is no table (`stages.store.tables`). All paths are relative to the repository."""

from pathlib import Path

PARAMS = Path("params.yaml")
FULL = Path("full")  # the longer studies: a pipeline of its own, with its params.yaml, data/ and reports/
PAGE = Path("reports/index.html")
FIGURES = Path("reports/figures")
SOURCES = Path("reports/prompts.csv")  # where the prompts of every task come from, with one of each
COUNTING = Path("reports/baselines/ngram.csv")  # what counting alone makes of every task


def model(slot: str) -> Path:
    """Provenance and anatomy of the model in a slot."""
    return Path(f"data/models/{slot}.json")


def shards(key: str, *stage: str) -> Path:
    """Folder of what an unfinished stage of a slot or recipe has finished (`stages.engine.kept`); gone when it ends."""
    return Path("data/shards", key, *stage)


def extracted(slot: str, task: str) -> Path:
    """Folder of a task's tables of activations as they were last measured, by what they depend on."""
    return Path("data/extracted", slot, task)


def vectors(slot: str) -> Path:
    """Function vectors (safetensors)."""
    return Path(f"data/vectors/{slot}/vectors.safetensors")


def control_vectors(slot: str) -> Path:
    """Folder of the same function vectors as llama.cpp reads them, one GGUF file each."""
    return Path(f"data/vectors/{slot}/control")


def cache_policy(slot: str) -> Path:
    """Which key heads keep all and which stream, as a serving engine reads it (git-tracked)."""
    return report(slot) / "cache.json"


def examples(slot: str) -> Path:
    """What heads look at in one prompt of each of their families, as the cards show it (git-tracked)."""
    return report(slot) / "examples.json"


def adapters(slot: str) -> Path:
    """Folder of inserted facts as LoRA adapters that peft reads, one folder each."""
    return Path(f"data/memory/{slot}/adapters")


def report(slot: str) -> Path:
    """Folder of a slot's git-tracked summaries: metrics.json, heads.csv, effects.csv, steering.csv ..."""
    return Path(f"reports/slots/{slot}")


def deeper(slot: str, stage: str) -> Path:
    """Folder of the git-tracked summaries of one stage at the size of a longer study, below `FULL`."""
    return report(slot) / stage


def checkpoints(recipe: str) -> Path:
    """Folder of a recipe's checkpoints: <arm>-<seed>/<step>/{config.json, model.safetensors}."""
    return Path(f"data/checkpoints/{recipe}")


def checkpoint(recipe: str, arm: str, seed: int, step: int) -> Path:
    """One checkpoint, in Hugging Face format."""
    return checkpoints(recipe) / f"{arm}-{seed}" / f"{step:06d}"


def revision(recipe: str, arm: str, step: int) -> Path:
    """Where a revision of a pretrained model comes from and the sha256 of its files: its weights are not kept here."""
    return checkpoint(recipe, arm, 0, step) / "model.json"


def study(recipe: str) -> Path:
    """Folder of a recipe's git-tracked results: curve.csv, findings.csv, learning.csv, metrics.json, params.json ..."""
    return Path(f"reports/recipes/{recipe}")
