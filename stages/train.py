"""Train a recipe's models from scratch: `python -m stages.train <recipe>`.

Every arm is trained `seeds` times; runs share the processor's cores, one thread each (OMP_NUM_THREADS = how many at
once). Writes data/checkpoints/<recipe>/<arm>-<seed>/<step>/ as a whole, and learning.csv: the training loss. A killed
stage trains only the runs that were not finished.
Params are read and results written in the folder it runs in: full/, with a params.yaml of its own, has longer studies.

Where `train` lists revisions of a pretrained model, nothing is trained: they are found, checked and written down.
"""

import json
import logging
import sys
import tempfile
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from stages.recipes.lesson import Lesson, create
from stages.recipes.settings import Architecture, Revisions
from stages.recipes.states import States
from stages.store import files, folders, params, paths
from stages.store.errors import UserError, run
from stages.tasks.prompt import stream

log = logging.getLogger(__name__)

LEARNING = pa.schema({"arm": pa.string(), "seed": pa.int32(), "step": pa.int32(), "loss": pa.float64()})
FILES = pa.schema({"file": pa.string(), "content": pa.large_binary()})  # of a run's checkpoints


def main(name: str) -> None:
    """Train all arms and seeds; the folder of checkpoints appears when all of them are done."""
    settings = params.load_studies()
    if name not in settings.recipes:
        raise UserError(
            f"{paths.PARAMS}: recipes.{name}: no such recipe in params; allowed: {', '.join(settings.recipes)}"
        )
    recipe = settings.recipes[name]
    arms = {arm: recipe.arm(arm) for arm in recipe.ordered}
    if isinstance(recipe.train, Revisions):
        for revisions in arms.values():
            create(name, recipe, revisions.arguments)
        return find(name, arms)
    lessons = {arm: create(name, recipe, training.arguments) for arm, training in arms.items()}
    for arm, training in arms.items():  # a mistake in params ends here, before anything runs
        lesson = lessons[arm]
        _suits(f"{paths.PARAMS}: recipes.{name}.train.architecture of arm {arm}", lesson, training.architecture)
        for first in training.before:
            _fits(f"{paths.PARAMS}: recipes.{name}.arms.{arm}.first", lesson, create(name, recipe, first.arguments))
    runs = [(arm, seed) for arm, training in arms.items() for seed in range(training.seeds)]
    steps = {arm: training.steps + sum(first.steps for first in training.before) for arm, training in arms.items()}
    costs = [steps[arm] for arm, _ in runs]
    from stages.engine.kept import Job, forget, keys, tables_of  # torch is loaded only where something is trained
    from stages.training import cost
    from stages.training.train import threads

    processes = min(threads(), len(runs))
    about = cost.training([(lessons[arm], arms[arm], steps[arm]) for arm, _ in runs], processes)
    log.info("train %s: %d runs, %s steps in all, %s", name, len(runs), f"{sum(costs):,}", about)
    work, kept = partial(_trained, settings=settings, name=name), paths.shards(name, "train")
    job = Job(dict, work, [LEARNING, FILES], threads=1, processes=processes)
    key = keys(name, recipe.model_dump_json(), settings.seed)
    with (
        folders.replacing(paths.checkpoints(name)) as folder,
        tqdm(total=sum(costs), desc=f"train {name}", unit="step") as progress,
    ):
        losses, done = [], lambda number: progress.update(costs[number])
        for learning, written in tables_of(job, runs, map(key, runs), kept, done=done):
            losses.append(learning.to_pandas())
            for file in written.to_pylist():
                (folder / file["file"]).parent.mkdir(parents=True, exist_ok=True)
                (folder / file["file"]).write_bytes(file["content"])
        learning = pd.concat(losses)
        files.write_text(paths.study(name) / "learning.csv", learning.to_csv(index=False, float_format="%.5f"))
    forget(kept)


def _suits(where: str, lesson: Lesson, architecture: Architecture) -> None:
    """Refuse images for a model of text, text for one of images, and registers where nothing asks about them."""
    about_states = isinstance(lesson, States)
    images = about_states and lesson.side is not None
    if images != (architecture.type == "vit"):
        raise UserError(f"{where}.type = {architecture.type!r}: the lesson has {'images' if images else 'text'}")
    if architecture.registers and not about_states:
        raise UserError(
            f"{where}.registers = {architecture.registers}: allowed: 0, this lesson does not ask about them"
        )


def _fits(where: str, lesson: Lesson, before: Lesson) -> None:
    """Refuse to let a model learn first what its vocabulary or its positions cannot hold."""
    for what, has, needs in (
        ("tokens", lesson.symbols, before.symbols),
        ("positions", lesson.positions, before.positions),
    ):
        if needs > has:
            raise UserError(f"{where}.arguments need {needs} {what}; the model of the arm has {has}")


def find(name: str, arms: dict[str, Revisions]) -> None:
    """Find the revisions that others trained, and write down what each is; there is no training loss."""
    from stages.training.revisions import record

    todo = [(arm, step) for arm, revisions in arms.items() for step in revisions.kept]
    log.info("train %s: %d revisions to find, none to train", name, len(todo))
    with folders.replacing(paths.checkpoints(name)) as folder:
        for arm, step in tqdm(todo, desc=f"train {name}", unit="revision"):
            file = folder / paths.revision(name, arm, step).relative_to(paths.checkpoints(name))
            text = json.dumps(record(name, arm, arms[arm], step), indent=1, ensure_ascii=False)
            files.write_text(file, text + "\n")
        files.write_text(paths.study(name) / "learning.csv", "arm,seed,step,loss\n")


def _trained(_: dict, run: tuple[str, int], settings: params.Studies, name: str) -> tuple[list[dict], list[dict]]:
    """Train a run, (arm, seed), and return its training loss and the files of its checkpoints."""
    with tempfile.TemporaryDirectory() as place:
        rows = one_run(settings, name, *run, Path(place))
        written = [
            {"file": path.relative_to(place).as_posix(), "content": path.read_bytes()}
            for path in sorted(Path(place).rglob("*"))
            if path.is_file()
        ]
    return [dict(zip(LEARNING.names, row, strict=True)) for row in rows], written


def one_run(
    settings: params.Studies, name: str, arm: str, seed: int, folder: Path
) -> list[tuple[str, int, int, float]]:
    """Train one arm with one seed in a process of its own; return (arm, seed, step, training loss) per checkpoint.

    Steps count from where what was learned first ends: that is checkpoint 0, and the optimizer starts afresh.
    """
    import torch

    from stages.training import tagger
    from stages.training.build import build, save
    from stages.training.train import one_thread, train

    one_thread()
    training = settings.recipes[name].arm(arm)
    lesson = create(name, settings.recipes[name], training.arguments)
    torch.manual_seed(int(stream(settings.seed, f"recipes/{name}/{seed}/weights").integers(2**63)))
    if isinstance(lesson, States):
        model = tagger.build(training.architecture, lesson)
    else:
        model = build(training.architecture, lesson.symbols, lesson.positions)
    rows = []
    for number, first in enumerate(training.before):  # the same batches follow as without it
        earlier, rng = create(name, settings.recipes[name], first.arguments), f"recipes/{name}/{seed}/first/{number}"
        alone = training.model_copy(update={"steps": first.steps})
        train(model, earlier, alone, stream(settings.seed, rng), lambda step, loss: None)

    def keep(step: int, loss: float) -> None:
        save(model, folder / paths.checkpoint(name, arm, seed, step).relative_to(paths.checkpoints(name)))
        if step:
            rows.append((arm, seed, step, loss))

    try:
        train(model, lesson, training, stream(settings.seed, f"recipes/{name}/{seed}/batches"), keep)
    except UserError as error:
        raise UserError(f"{paths.PARAMS}: recipes.{name}, arm {arm}, seed {seed}: {error}") from None
    return rows


if __name__ == "__main__":
    run(main, *sys.argv[1:])
