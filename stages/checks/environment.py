"""Python, the packages of requirements.lock, and whether torch is built for this machine."""

import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

from stages.checks.finding import Finding, words

OLDEST, NEWEST = (3, 11), (3, 13)  # that requirements.lock resolves on
LOCK = Path("requirements.lock")
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)")
SHOWN = 4  # packages in a line


def findings() -> list[Finding]:
    """Check the environment that stages run in."""
    return [*_python(sys.version_info[:2]), *_packages(LOCK), *_torch(), *_programs()]


def _python(version: tuple[int, int]) -> list[Finding]:
    if OLDEST <= version <= NEWEST:
        return []
    named = ".".join(map(str, version))
    return [Finding(f"Python {named}: 3.11 to 3.13 are supported", "python3.12 -m venv .venv && . .venv/bin/activate")]


def _packages(lock: Path) -> list[Finding]:
    """Compare what is installed with the pins, but for the local part of a version: 2.8.0+cpu is 2.8.0."""
    again = f"git checkout {LOCK}"
    try:
        pins = [pin for line in lock.read_text(encoding="utf-8").splitlines() if (pin := PIN.match(line))]
    except (OSError, UnicodeDecodeError) as error:
        return [Finding(f"{lock}: cannot be read ({words(error)})", again)]
    if not pins:
        return [Finding(f"{lock}: no package is pinned in it", again)]
    differing = []
    for pin in pins:
        try:
            there = importlib.metadata.version(pin[1]).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            there = "missing"
        if there != pin[2].split("+")[0]:
            differing.append(f"{pin[1]} {there} (pinned {pin[2]})")
    if not differing:
        return []
    more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    return [Finding(f"not as in {lock}: {', '.join(differing[:SHOWN])}{more}", f"pip install -r {lock}")]


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding(f"torch cannot be loaded ({' '.join(str(error).split())[:200]})", f"pip install -r {LOCK}")]
    built = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return [Finding(f"{built}, {torch.cuda.get_device_name(0)}", wrong=False)]
    if shutil.which("nvidia-smi"):
        way_out = "install the torch that your driver supports (https://pytorch.org), or go on without the GPU"
        return [Finding(f"{built}: a GPU is here that this torch does not see", way_out, wrong=False)]
    return [Finding(f"{built}, no GPU", wrong=False)]


def _programs() -> list[Finding]:
    return [
        Finding(f"{name}: not on the path", "activate the environment, or install it")
        for name in ("git", "dvc")
        if not shutil.which(name)
    ]
