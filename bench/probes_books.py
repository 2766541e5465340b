"""What one token's state holds, on books: more passages than the builtin text has (490 of 32 tokens).

    python -m bench.probes_books ../shared/data/books --passages 1000

As many passages of each of some books, whose names are the topics; their lines are the paragraphs that probes are
fitted and scored on. All else as in params.yaml. Writes bench/probes_books.csv: columns as in
reports/slots/*/probes.csv.
"""

import argparse
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.peer import default_model
from stages.model.load import open_folder
from stages.sinks import probed
from stages.statistics.sinks import PROBES
from stages.store import params


def main() -> None:
    """Probe passages of some books; write and print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of *.txt, a book each")
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--books", type=int, default=7, help="books, evenly spaced in the order of their names")
    options = parser.parse_args()
    books = sorted(options.folder.glob("*.txt"))
    books = books[:: max(1, len(books) // options.books)][: options.books]
    settings = params.load()
    asked = settings.sinks.model_copy(update={"passages": options.passages})
    with TemporaryDirectory() as name:
        texts = [Path(name) / book.name for book in books]
        for book, text in zip(books, texts, strict=True):  # what a text file has as paragraphs, blank lines divide
            text.write_text("\n\n".join(book.read_text(encoding="utf-8").splitlines()), encoding="utf-8")
        table = probed(open_folder(default_model()), texts, settings.model_copy(update={"sinks": asked}))
    if isinstance(table, str):
        raise SystemExit(table)
    table = table[PROBES]
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.5f", lineterminator="\n")
    print(table[table.layer == table.layer.max()].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
