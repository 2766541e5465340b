"""StreamingLLM's table (Xiao+ 2023) on books, past the window that a model's own local layers have.

    python -m bench.streaming_books ../shared/data/books --books 8

One passage from the middle of each book: what all heads lose that see sinks and a window, at lengths below and beyond
the 512 tokens of Gemma 3's local layers. Writes bench/streaming_books.csv: columns as in reports/slots/*/streaming.csv.
"""

import argparse
import logging
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from bench.peer import default_model
from stages.gates import _texts
from stages.model.load import open_folder
from stages.model.streaming import Cut
from stages.model.tokens import encode
from stages.statistics import caching
from stages.tasks.prompt import Prompt, read_text
from stages.tasks.text.prompts import CHARACTERS, cut

LENGTHS, WINDOW, SINKS = (256, 512, 768, 1024), 128, (0, 1, 2, 4)


def main() -> None:
    """Measure a passage of each book; write and print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of *.txt, a book each")
    parser.add_argument("--books", type=int, default=8, help="books, evenly spaced in the order of their names")
    options = parser.parse_args()
    loaded, pairs = open_folder(default_model()), []
    books = sorted(options.folder.glob("*.txt"))
    for book in books[:: max(1, len(books) // options.books)][: options.books]:
        passages = cut(read_text(book), LENGTHS[-1] * CHARACTERS)
        row = Prompt(book.stem, "long", book.stem, passages[len(passages) // 2], tokens=LENGTHS[-1])
        pairs.append((row, encode(loaded, row)))
    asked = SimpleNamespace(sinks=4, window=WINDOW, lengths=LENGTHS, sinks_tried=SINKS)
    rows = []
    for pair in pairs:  # a book at a time: scores of 1,024 tokens are large
        rows += _texts(loaded, [pair], Cut(4, WINDOW), [], asked)[1]
        logging.info("%s", pair[0].id)
    table = caching.streamed(pd.DataFrame(rows))
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.5f", lineterminator="\n")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
