"""Say what is wrong here and the way out: `python -m stages.doctor`, one line each, exit code 1 if anything is.

It changes nothing. Environment, folders, locks of DVC and git, params, data, the cache of models, memory and disk.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from stages.checks.finding import MEND, Finding, words
from stages.store import paths
from stages.store.errors import UserError, run


def main() -> None:
    """Print what every check finds; those of data need params that can be read."""
    if not paths.PARAMS.is_file():
        raise UserError(f"{paths.PARAMS}: no such file; run from the repository's folder (git clone, not pip install)")
    findings: list[Finding] = []
    settings = None
    for check in ("environment", "folders", "locks", "caches"):
        with _said(findings, check):
            findings += import_module(f"stages.checks.{check}").findings()
    with _said(findings, str(paths.PARAMS), MEND):
        settings = import_module("stages.store.params").load()
    for check in ("asked", "artefacts", "space") if settings else ():
        with _said(findings, check):
            findings += import_module(f"stages.checks.{check}").findings(settings)
    findings = list(dict.fromkeys(findings))  # what several checks meet is said once
    wrong = sum(finding.wrong for finding in findings)
    lines = [*map(str, sorted(findings, key=lambda finding: not finding.wrong))]
    _print("\n".join([*lines, f"{wrong} wrong" if wrong else "nothing is wrong"]))
    sys.exit(bool(wrong))


@contextmanager
def _said(findings: list[Finding], check: str, way_out: str = "") -> Iterator[None]:
    """Add what a check raises to the findings: no fault that nobody foresaw may hide what the other checks find.

    Checks are imported inside as well, so that one whose packages are missing is a line.
    """
    try:
        yield
    except UserError as error:
        findings.append(Finding(str(error), way_out))
    except Exception as error:
        if isinstance(error, ImportError):
            way_out = "pip install -r requirements.lock"
        way_out = way_out or "mend what is said of other lines and run this again; else file this line as an issue"
        findings.append(Finding(f"{check}: cannot be checked ({words(error)})", way_out))


def _print(text: str) -> None:
    """Write to stdout what a file's name may hold that is no text, and to a reader that may be gone: `| head -1`."""
    try:
        sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's own flush at the end complains


if __name__ == "__main__":
    run(main, *sys.argv[1:])
