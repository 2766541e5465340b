"""Say what is wrong here and the way out: `python -m stages.doctor`, one line each, exit code 1 if anything is.

It changes nothing. Environment, locks of DVC and git, params, data, the cache of models, memory and disk.
"""

import sys

from stages.checks import artefacts, caches, environment, locks, space
from stages.checks.finding import Finding
from stages.store import params, paths
from stages.store.errors import UserError, run


def main() -> None:
    """Print what every check finds; those of data need params that can be read."""
    if not paths.PARAMS.is_file():
        raise UserError(f"{paths.PARAMS}: no such file; run from the repository's folder (git clone, not pip install)")
    findings = [*environment.findings(), *locks.findings()]
    try:
        settings = params.load()
        findings += [*artefacts.findings(settings), *space.findings(settings)]
    except UserError as error:
        findings.append(Finding(str(error), "mend this key; params.quick.yaml is an example"))
    try:
        findings += caches.findings()
    except UserError as error:
        findings.append(Finding(str(error)))
    wrong = sum(finding.wrong for finding in findings)
    sys.stdout.writelines(f"{finding}\n" for finding in sorted(findings, key=lambda finding: not finding.wrong))
    sys.stdout.write(f"{wrong} wrong\n" if wrong else "nothing is wrong\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    run(main)
