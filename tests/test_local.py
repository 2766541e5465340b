"""Work shared by forked processes: the same results in the same order, and what a user reads where one is killed."""

import multiprocessing
import os
import signal
import time
from functools import partial

import psutil
import pytest
import torch
from test_engine import TEXTS, row, silencing
from tiny import make

from stages.engine import local, shards
from stages.engine.kept import Job, keys, tables_of
from stages.model import machine
from stages.store import parquet, tables
from stages.store.errors import UserError

pytestmark = pytest.mark.skipif(not local.workers.forks(), reason="nothing is forked here")


@pytest.fixture(scope="module")
def loaded():
    return make("llama_gqa", scale=4.0)


@pytest.fixture
def threads():
    """Set how many threads torch has, and how much memory there is, for one test."""
    before, own = torch.get_num_threads(), local.memory

    def set_to(number: int, memory: float = 64e9) -> None:
        torch.set_num_threads(number)
        local.memory = lambda: int(memory)

    yield set_to
    torch.set_num_threads(before)
    local.memory = own


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


def test_nothing_is_forked_beside_an_accelerator_or_on_one_processor(loaded, threads, monkeypatch):
    threads(2)
    with monkeypatch.context() as patch:
        patch.setattr(torch.accelerator, "is_available", lambda: True)
        assert local.processes(400, loaded) == 1
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert local.processes(400, loaded) == 1


@pytest.mark.parametrize(("asked", "expected"), [("1", 1), ("3", 3), ("400", 16), ("", 16)])
def test_a_user_says_how_many_processes(loaded, threads, monkeypatch, asked, expected):
    threads(16)
    monkeypatch.setenv("HEAD_ATLAS_WORKERS", asked)
    assert local.processes(400, loaded) == expected


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5"])
def test_no_number_of_processes_is_one_line(loaded, monkeypatch, asked):
    monkeypatch.setenv("HEAD_ATLAS_WORKERS", asked)
    with pytest.raises(UserError, match=f"^HEAD_ATLAS_WORKERS = '{asked}': allowed: a number of workers$"):
        local.processes(400, loaded)


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/\n", {"memory.max": "1000"}, 1000),
        ("0::/job/step\n", {"job/step/memory.max": "max", "job/memory.max": "900", "memory.max": "max"}, 900),
        ("12:cpu:/a\n3:memory:/a\n", {"memory/a/memory.limit_in_bytes": "800", "a/memory.max": "1"}, 800),
        ("", {}, None),
    ],
)
def test_the_memory_of_a_container_or_a_job_counts(tmp_path, monkeypatch, groups, limits, expected):
    (tmp_path / "cgroup").write_text(groups)
    for name, content in limits.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(content + "\n")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "LIMITS", tmp_path / "fs")
    assert machine.memory() == (expected or psutil.virtual_memory().total)


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
        for (table,) in tables_of(job, todo, map(keys("local"), todo), tmp_path / "kept", loaded, costs=costs):
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

    with pytest.raises(UserError, match=r"ended of itself.*HEAD_ATLAS_WORKERS=1"):
        list(local.each(work, range(8), loaded))


def test_what_still_runs_is_not_waited_for(loaded, threads):
    """An error in one piece, or of who reads the results, ends the others."""
    threads(2)

    def work(number: int) -> int:
        if number == 0:
            raise UserError("no")
        time.sleep(0 if number == 1 else 60)
        return number

    begun = time.monotonic()
    with pytest.raises(UserError, match="no"):
        list(local.each(work, range(8), loaded))
    with pytest.raises(ZeroDivisionError):
        for _ in local.each(work, range(1, 9), loaded):
            1 / 0  # noqa: B018
    assert time.monotonic() - begun < 30
    assert not multiprocessing.active_children()
