"""A repository in small: today's code, a tiny random model, few prompts; what is tried on it takes seconds a stage."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
COSTLY = "ablate steer apply shifts orders circuit neighbours gates sinks memory".split()  # sections that may be null


def shell(folder: Path, command: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command line in a folder, with this Python's programs and a cache of models of its own."""
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


def environment(folder: Path) -> dict[str, str]:
    """Return the environment that commands in the folder of a repository run in."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HEAD_ATLAS_CACHE": str(folder.parent / "cache"),
        "OMP_NUM_THREADS": "2",  # so that stages share their work
        "DVC_NO_ANALYTICS": "1",
    }


def repository(folder: Path, tasks: tuple[str, ...], whole: bool = False) -> Path:
    """Make a repository, committed, nothing of it run; without `whole` all that costs time is left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in listed:
        if name != "dvc.lock" and not name.startswith("reports/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((ROOT / "params.quick.yaml").read_text(encoding="utf-8"))
    params["models"] = {"decoder": {"source": "path", "name": "../model"}}
    params["tasks"] = {name: params["tasks"][name] for name in tasks}
    if "text" in tasks:
        params["tasks"]["text"] |= {"passages": 4, "short_passages": 4, "tokens": 280}
    training = params["recipes"]["induction"]
    training["train"] |= {"steps": 4, "seeds": 1, "checkpoints": {"even": 2}}
    training["study"] |= {"sequences": 8, "bootstrap": 200}
    if not whole:
        params |= {section: None for section in COSTLY} | {"recipes": {}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    shell(folder, "git init -q -b main && git config user.email t@t && git config user.name t")
    shell(folder, "git add -A && git commit -qm start")
    return folder


def model(folder: Path) -> None:
    """Save the tiny model that `repository` names, beside the repository."""
    from bench import tiny_types

    tiny_types.save("llama", "LlamaForCausalLM", folder)
