"""Every causal, masked and vision-language type of the installed transformers: measured right, refused, or wrong.

    python -m bench.all_types                        # all, 4 minutes on two idle cores; writes bench/all_types.csv
    python -m bench.all_types --only jamba gpt_oss   # some types, printed

For each type a tiny random model is saved (`bench.tiny_types`), opened and proved as fetch does, and compared
(`bench.type_checks`) with a second instance of the same folder that only the bench runs, in the library's own eager
way (`bench.reference`):

    logits      the project's rows of logits = the plain forward pass
    kind        'decoder' where no later token changes an earlier output, 'masked' where one does
    coverage    every module that returns attention weights is measured, or skipped with a reason
    layers      they are numbered by block, and a window is as far as a weight above 0 reaches
    statistics  mass, hits and nulls = loops over the weights that the attention module returns, visible = weight > 0
    projection  d z_h / d weights is nonzero for head h alone, in every layer: W_O's input really is one slice per head;
                and with the head's columns zeroed, its weights change no logit: nothing else reads them
    ablation    one head of every layer, zero and a constant: = columns of W_O zeroed, its output shifted by W_O c
    shortcut    `Batch.ablations` with shared prefixes and skipped blocks, of a head of each layer alone and of more and
                more layers together, which part on the way = plain full passes with those columns
    last token  `LastToken.edited`, a head's output in place and a vector added = full passes with both written out here
    vector      `Parts` = what the next norm that reads the residual sees with and without the head's part
    padding     short and long together = alone

Tolerances: 1e-5 for statistics, 1e-4 of the logits' largest size elsewhere. Outcomes: `right`; `refused` (the line);
`WRONG` (check and size); `traceback` (check and last line); `not built`: no tiny model could be made. A check that is
refused by a line of its own, and what gives no reference to compare with, is named in `detail`. The committed table is
the state of the code that it was committed with.
"""

import argparse
import csv
import logging
import multiprocessing
import multiprocessing.connection
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers

from bench import tiny_types
from bench.reference import Reference
from bench.type_checks import CHECKS, LONG, Trial, Unproved, Wrong, prompt
from stages.model.load import open_folder
from stages.model.proof import prove
from stages.store.errors import UserError

log = logging.getLogger(__name__)
TABLE = Path(__file__).with_suffix(".csv")
SECONDS = 60  # of processor time for one type; ten times as many on the clock, for a busy machine


def empty(name: str, cls: str, variant: str) -> dict[str, str]:
    """Return a row of the table without its outcome."""
    return {"type": name, "class": cls, "variant": variant, "kind": "", "outcome": "", "detail": ""}


def last_line(error: BaseException) -> str:
    """Return what a traceback ends with, and where."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({Path(frame.filename).name}:{frame.lineno})"


def tried(name: str, cls: str, folder: Path, variant: str = "", verbose: bool = False) -> dict[str, str]:
    """Build, open and check one type; return its row of the table."""
    row = empty(name, cls, variant) | {"outcome": "not built"}
    try:
        tiny_types.save(name, cls, folder, variant)
        reference = Reference(folder, cls)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        return row | {"detail": last_line(error)}
    try:
        with torch.no_grad():
            silent = "" if bool(reference(prompt(LONG, 0).ids).isfinite().all()) else "its logits are not finite"
    except Exception as error:
        silent = last_line(error)
    try:
        loaded, proof = prove(open_folder(folder))
    except UserError as error:
        return row | {"outcome": "refused", "detail": " ".join(str(error).replace(str(folder), "FOLDER").split())}
    except Exception as error:
        if verbose:
            traceback.print_exc()
        return row | {"outcome": "traceback", "detail": f"open: {last_line(error)}"}
    if silent:
        return row | {"outcome": "WRONG", "detail": f"opens, but the plain model does not run on text alone: {silent}"}
    trial, wrong, broken, refused = Trial(loaded, reference, proof["vectors"] == "ok"), [], [], []
    row["kind"] = loaded.kind
    for check in CHECKS:
        run: Callable[[], None] = getattr(trial, f"check_{check}")
        try:
            run()
        except Wrong as error:
            wrong.append(str(error))
        except Unproved as error:
            trial.notes.append(str(error))
        except UserError as error:
            refused.append(f"{check} refused: {' '.join(str(error).split())}")
        except Exception as error:
            if verbose:
                traceback.print_exc()
            broken.append(f"{check}: {last_line(error)}")
    outcome = "WRONG" if wrong else "traceback" if broken else "right"
    anatomy, without = loaded.anatomy, [name for name, result in proof.items() if result != "ok"]
    size = f"{len(anatomy.layers)} of {len(anatomy.blocks)} blocks attend"
    sinks = ["learned sinks"] * any(layer.sink for layer in anatomy.layers.values())
    slow = [f"without {', '.join(without)}"] if without else []
    detail = "; ".join([*wrong, *broken, *refused, *trial.notes, size, *sinks, *slow])
    return row | {"outcome": outcome, "detail": detail.replace(str(folder), "FOLDER")}


def _child(name: str, cls: str, variant: str, verbose: bool, answer) -> None:
    """Try one type in this process, which may die of it."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp())
    try:
        answer.send(tried(name, cls, folder, variant, verbose))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_all(triples: list[tuple[str, str, str]], workers: int, verbose: bool) -> Iterator[dict[str, str]]:
    """Yield a row per type; each in a process forked from this one, `workers` at a time."""
    context = multiprocessing.get_context("fork")  # so that torch and transformers are imported once
    waiting, running = list(triples), []
    while waiting or running:
        while waiting and len(running) < workers:
            triple, (mine, theirs) = waiting.pop(0), context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(*triple, verbose, theirs))
            process.start()
            theirs.close()
            running.append((triple, process, mine, time.monotonic()))
        multiprocessing.connection.wait([process.sentinel for _, process, _, _ in running], timeout=5)
        for entry in list(running):
            triple, process, mine, began = entry
            if process.is_alive() and not mine.poll():
                if time.monotonic() - began > 10 * SECONDS:
                    process.kill()
                continue
            try:
                row = mine.recv()
            except EOFError:
                process.join()
                late = process.exitcode in (-signal.SIGPROF, -signal.SIGKILL)
                why = f"no answer in {SECONDS} s of processor time" if late else "the process died"
                row = empty(*triple) | {"outcome": "traceback", "detail": why}
            process.join()
            running.remove(entry)
            yield row


def write(rows: list[dict[str, str]], out: Path) -> None:
    """Write the table, also while types are still missing."""
    with out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Try the types asked for; print those that are not right and a summary; write the table if all were asked for."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="TYPE", help="these model types, with all tracebacks")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, default=None, help=f"table (default: {TABLE.name} where all types are tried)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    triples = [triple for triple in tiny_types.types() if not options.only or triple[0] in options.only]
    rows, start = [], time.monotonic()
    out = options.out or (None if options.only else TABLE)
    for row in run_all(triples, options.workers, bool(options.only)):
        rows.append(row)
        if out:
            write(sorted(rows, key=lambda row: (row["type"], row["class"], row["variant"])), out)
        if options.only or row["outcome"] not in ("right", "refused"):
            log.info("%(outcome)-9s %(type)s %(class)s %(variant)s: %(detail)s", row)
    counts = Counter(row["outcome"] for row in rows)
    log.info(
        "%d types: %s; %.0f s",
        len(rows),
        ", ".join(f"{n} {name}" for name, n in sorted(counts.items())),
        time.monotonic() - start,
    )


if __name__ == "__main__":
    main()
