"""Work shared by forked processes: the same results in the same order, and what a user reads where one is killed."""

import os
import signal
from functools import partial

import psutil
import pytest
import torch
from test_engine import TEXTS, row, silencing
from tiny import make

from stages.engine import local, shards
from stages.engine.kept import Job, keys, tables_of
from stages.store import parquet, tables
from stages.store.errors import UserError

pytestmark = pytest.mark.skipif(local.workers.METHOD != "fork", reason="nothing is forked here")


@pytest.fixture(scope="module")
def loaded():
    return make("llama_gqa", scale=4.0)


@pytest.fixture
def threads():
    """Set how many threads torch has, and how much memory there is, for one test."""
    before, own = torch.get_num_threads(), local._memory

    def set_to(number: int, memory: float = 64e9) -> None:
        torch.set_num_threads(number)
        local._memory = lambda: int(memory)

    yield set_to
    torch.set_num_threads(before)
    local._memory = own


@pytest.mark.parametrize(
    ("cores", "pieces", "memory", "expected"),
    [
        (2, 4, 64e9, 2),
        (2, 3, 64e9, 1),  # two pieces for each at least
        (2, 400, 5e9, 1),  # no room for two
        (16, 400, 64e9, 16),
        (16, 400, 29e9, 9),
        (16, 400, 24e9, 1),  # eight would leave eight processors idle
        (1, 400, 64e9, 1),
    ],
)
def test_as_many_processes_as_processors_where_most_of_them_have_work_and_room(
    loaded, threads, cores, pieces, memory, expected
):
    threads(cores, memory)
    assert local.processes(pieces, loaded) == expected


def test_nothing_is_forked_beside_an_accelerator(loaded, threads, monkeypatch):
    threads(2)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert local.processes(400, loaded) == 1


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    for content, expected in (("max\n", psutil.virtual_memory().total), ("1000\n", 1000)):
        (tmp_path / "memory.max").write_text(content)
        monkeypatch.setattr(local, "LIMIT", tmp_path / "memory.max")
        assert local._memory() == expected


def test_results_come_in_order_from_other_processes_of_one_thread(loaded, threads):
    threads(2)

    def work(number: int) -> tuple[int, int, int]:
        return number, os.getpid(), torch.get_num_threads()

    numbers, processes, of_one = zip(*local.each(work, [5, 3, 8, 1, 0, 9], loaded), strict=True)
    assert numbers == (5, 3, 8, 1, 0, 9) and set(of_one) == {1}
    assert os.getpid() not in processes and torch.get_num_threads() == 2


def effects(loaded, shard, where):
    """Score a shard; leave word of the process that did."""
    (where / str(os.getpid())).touch()
    return [shards.run(loaded, {(1, 1): torch.ones(8)}, shard, 64)]


def written(tmp_path, loaded, costs=()) -> tuple[bytes, list[int]]:
    """Return the bytes of a table of ten prompts, in shards of two, and the processes that made it."""
    prompts = [row(number, text=TEXTS[number % 3] + " in it" * number) for number in range(10)]
    todo = shards.cut("text", prompts, {prompt.id: [silencing("x", "L1H1")] for prompt in prompts}, 2)
    (tmp_path / "by").mkdir(parents=True)
    job = Job(dict, partial(effects, where=tmp_path / "by"), [tables.EFFECTS.schema])
    with parquet.writer(tmp_path / "table", tables.EFFECTS.schema) as add:
        for (table,) in tables_of(job, todo, keys("local"), tmp_path / "kept", loaded, costs=costs):
            add(table)
    return (tmp_path / "table").read_bytes(), [int(path.name) for path in (tmp_path / "by").iterdir()]


def test_forked_processes_write_the_bytes_of_one_thread(loaded, threads, tmp_path):
    threads(1)
    here, by = written(tmp_path / "1", loaded)
    assert by == [os.getpid()]
    threads(2)
    forked, by = written(tmp_path / "2", loaded)
    assert forked == here and os.getpid() not in by and 1 <= len(by) <= 2
    dearest_last, _ = written(tmp_path / "3", loaded, costs=[1, 2, 3, 4, 5])
    assert dearest_last == here


def test_what_a_worker_refuses_is_said_as_it_says_it(loaded, threads):
    threads(2)

    def work(number: int) -> None:
        raise UserError(f"params.yaml: {number}: allowed: nothing")

    with pytest.raises(UserError, match=r"^params\.yaml: \d: allowed: nothing$"):
        list(local.each(work, range(4), loaded))


def test_a_killed_worker_is_one_line(loaded, threads):
    threads(2)

    def work(number: int) -> int:
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(UserError, match=r"a worker process was killed.*OMP_NUM_THREADS=1"):
        list(local.each(work, range(8), loaded))
