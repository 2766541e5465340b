"""How much memory there is to be used: what this machine has, or what limits a container or a job on a cluster."""

from pathlib import Path

import psutil

GROUPS, LIMITS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def memory() -> int:
    """Return the bytes of memory that this machine has, or what limits this process's group, or one that holds it."""
    limits = [psutil.virtual_memory().total]
    for line in GROUPS.read_text().splitlines() if GROUPS.is_file() else ():
        _, controllers, path = line.split(":", 2)
        root, name = (LIMITS / "memory", "memory.limit_in_bytes") if controllers else (LIMITS, "memory.max")
        if controllers and "memory" not in controllers.split(","):
            continue
        inside = root / path.strip("/")
        for folder in (inside, *inside.parents):
            if folder.is_relative_to(root) and (folder / name).is_file():
                text = (folder / name).read_text().strip()
                limits += [int(text)] if text.isdecimal() else []
    return min(limits)
