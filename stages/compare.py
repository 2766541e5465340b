"""Compare two sets of committed results: `python -m stages.compare main qwen` writes reports/compare.html.

Each side is a git revision, a slot of HEAD, or revision:slot. No stage of the pipeline: nothing depends on it, and
nothing is run.
"""

import argparse
import logging
import sys

from stages.families import FAMILIES
from stages.page import compare, compare_runs
from stages.page.page import save
from stages.store.errors import UserError, run

log = logging.getLogger(__name__)
OUT = "reports/compare.html"


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message}; {' '.join(self.format_usage().split())}")


def main(*arguments: str) -> None:
    """Write the page."""
    parser = _Arguments(prog="python -m stages.compare", description="Two sets of committed results, as one HTML file.")
    parser.add_argument("first", help="a git revision, a slot of HEAD, or revision:slot, such as main:decoder")
    parser.add_argument("second", help="another")
    parser.add_argument("--out", default=OUT, help=f"the file (default {OUT})")
    given = parser.parse_args(arguments)
    pairs = compare_runs.pairs(given.first, given.second)
    html = compare.page(pairs, FAMILIES)
    save(given.out, html)
    said = ", ".join(f"{a.revision}:{a.slot} and {b.revision}:{b.slot}" for a, b in pairs)
    log.info("%s: %s, %d KB", given.out, said, len(html.encode()) // 1024)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
