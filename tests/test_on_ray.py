"""The engine on a real local Ray: the same bytes from any number of workers, and after losses of them and machines."""

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_engine import TEXTS, row, silencing
from tiny import make

from stages import extract, fetch, prepare, steer, trace, train
from stages.engine import shards
from stages.engine.kept import Job, keys, tables_of
from stages.store import parquet, records, tables
from stages.store.errors import UserError

HERE = Path(__file__).parent
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")


def started(pids: str, workers: int) -> shards.Loaded:
    """Make the tiny model when all workers are there, or the first of them would do all the work."""
    Path(pids, str(os.getpid())).touch()
    for _ in range(600):
        if len(list(Path(pids).iterdir())) >= workers:
            return make("llama_gqa", scale=4.0)
        time.sleep(0.1)
    raise AssertionError("too few workers")


def effects(loaded, shard: shards.Shard, killed: str = "") -> list:
    """Score a shard; the first worker that runs this one stops here for good, where `killed` names a file."""
    if killed and shard.prompts[0].id == "t/g/4" and not Path(killed).exists():
        Path(killed).write_text(ray.get_runtime_context().get_node_id() + " " + str(os.getpid()))
        time.sleep(600)
    generator = torch.Generator().manual_seed(0)
    means = {head: torch.randn(8, generator=generator) for head in loaded.anatomy.heads}
    return [shards.run(loaded, means, shard, 100)]


def refused(loaded, shard) -> list:
    raise UserError("models.a: no")


@pytest.fixture(scope="module")
def cluster():
    """Two machines of two processors each, as far as Ray knows."""
    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": f"{HERE.parent}:{HERE}", "RAY_worker_niceness": "0"}
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "_system_config": quick})
    made.add_node(num_cpus=2)
    os.environ["HEAD_ATLAS_RAY"] = made.address
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield made
    torch.set_num_threads(threads)
    ray.shutdown()
    made.shutdown()
    os.environ.clear()
    os.environ.update(before)


def written(tmp_path: Path, name: str, killed: str = "", meanwhile=lambda place: None) -> bytes:
    """Run five shards and return the bytes of the table; beside them, where `killed` names a file, runs `meanwhile`."""
    prompts = [row(number, text=TEXTS[number % 3] + " in it" * number) for number in range(10)]
    todo = shards.cut("text", prompts, {prompt.id: [silencing("x", "L1H1")] for prompt in prompts}, 2)
    pids, path = tmp_path / f"{name}.pids", tmp_path / f"{name}.parquet"
    pids.mkdir()
    workers = int(os.environ.get("HEAD_ATLAS_WORKERS", 1))
    job = Job(partial(started, str(pids), workers), partial(effects, killed=killed), [tables.EFFECTS.schema])
    with ThreadPoolExecutor(1) as beside, parquet.writer(path, tables.EFFECTS.schema) as add:
        done = beside.submit(meanwhile, killed) if killed else None
        for (table,) in tables_of(job, todo, map(keys(name), todo), tmp_path / name):
            add(table)
        if done:
            done.result()
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The table as this process writes it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HEAD_ATLAS_RAY", raising=False)
        table = written(tmp_path_factory.mktemp("here"), "here")
    torch.set_num_threads(threads)
    return table


@pytest.mark.parametrize("workers", ["1", "2", "4"])
def test_any_number_of_workers_gives_the_same_bytes(whole, cluster, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("HEAD_ATLAS_WORKERS", workers)
    assert written(tmp_path, "ray") == whole
    assert len(list((tmp_path / "ray.pids").iterdir())) == int(workers)
    assert str(os.getpid()) not in [path.name for path in (tmp_path / "ray.pids").iterdir()]


def waited(killed: str) -> tuple[str, int]:
    """Wait until the worker stands at the shard; return its machine and process."""
    for _ in range(300):
        if Path(killed).exists() and len(words := Path(killed).read_text().split()) == 2:
            return words[0], int(words[1])
        time.sleep(0.1)
    raise AssertionError("no worker came to the shard")


def test_a_killed_worker_is_replaced(whole, cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("HEAD_ATLAS_WORKERS", "2")
    killed = str(tmp_path / "killed")
    assert written(tmp_path, "ray", killed, lambda place: os.kill(waited(place)[1], signal.SIGKILL)) == whole


def test_what_a_stage_raises_is_raised_here(cluster, tmp_path):
    job = Job(list, refused, [tables.EFFECTS.schema])
    with pytest.raises(UserError, match=r"^models.a: no$"):
        list(tables_of(job, [1], map(keys("refused"), [1]), tmp_path / "refused"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository in small: prompts, a tiny random model that is taken to solve all of them, a recipe."""
    from bench import small

    top = tmp_path_factory.mktemp("stages")
    small.model(top / "model")
    folder = small.repository(top / "repo", ("icl", "repeats"), whole=True)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["trace"] |= {"prompts": 1, "solved_above": 0.0}
    few = {"heads": [2], "strengths": [1], "layer_step": 4, "choose": 2, "zero_shot": 2, "shuffled": 1, "natural": 1}
    params["steer"] |= few | {"random": 1, "draws": 1}
    params["tasks"]["icl"] |= {"queries": 2, "shots": 4}
    params["recipes"] = {"induction": params["recipes"]["induction"]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return folder


def as_if_solved(task: str) -> None:
    """Let a random model answer all prompts right, whose means are then of ones."""
    sizes = {layer["layer"]: layer["head_size"] for layer in records.read("decoder")["attention"]}
    solved, outputs, residuals = (of.read("decoder", task) for of in (tables.SOLVED, tables.OUTPUTS, tables.RESIDUALS))
    tables.SOLVED.write(solved.assign(solved=True), "decoder", task)
    outputs["output"] = [np.ones(sizes[layer]) for layer in outputs.layer]
    tables.OUTPUTS.write(outputs.assign(prompts=1), "decoder", task)
    residuals["residual"] = [np.ones(32) for _ in residuals.layer]
    tables.RESIDUALS.write(residuals.assign(prompts=1), "decoder", task)


def written_by_stages() -> dict[str, bytes]:
    """Run extract, trace, steer and train, and take away what they have written."""
    for task in ("icl", "repeats"):
        extract.main("decoder", task)
    as_if_solved("icl")
    trace.main("decoder")
    steer.main("decoder")
    train.main("induction")
    rooms = ("data/activations", "data/indirect", "data/vectors", "data/checkpoints")
    files = {str(path): path.read_bytes() for room in rooms for path in Path(room).rglob("*") if path.is_file()}
    for room in rooms:
        shutil.rmtree(room)
    return files


def test_extract_trace_steer_and_train_write_the_same_bytes(repository, cluster, monkeypatch, caplog):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(repository.parent / "cache"))
    monkeypatch.setenv("HEAD_ATLAS_WORKERS", "2")
    for task in ("icl", "repeats"):
        prepare.main(task)
    fetch.main("decoder")
    with monkeypatch.context() as patch:
        patch.delenv("HEAD_ATLAS_RAY")
        here = written_by_stages()
    caplog.set_level("INFO")
    assert not [line for line in caplog.messages if line.startswith("Ray: ")]
    there = written_by_stages()
    assert len([line for line in caplog.messages if "workers, each of 1 threads" in line]) == 5
    assert list(there) == list(here) and len(here) > 15
    assert [name for name in here if there[name] != here[name]] == []


def test_a_lost_machine_is_survived(whole, cluster, tmp_path, monkeypatch):
    """The last test: the cluster has one machine less from here on."""
    monkeypatch.setenv("HEAD_ATLAS_WORKERS", "4")
    killed = str(tmp_path / "killed")

    def lose(place: str) -> None:
        machine, _ = waited(place)
        (node,) = [node for node in cluster.list_all_nodes() if node.node_id == machine and not node.head] or [None]
        if node is None:  # the worker stands on the machine that holds the cluster together: the other one goes
            os.kill(waited(place)[1], signal.SIGKILL)
            (node,) = [node for node in cluster.list_all_nodes() if not node.head]
        cluster.remove_node(node, allow_graceful=False)

    assert written(tmp_path, "ray", killed, lose) == whole
    for _ in range(300):  # until Ray has noticed
        if sum(node["Alive"] for node in ray.nodes()) == 1:
            return
        time.sleep(0.1)
    raise AssertionError("the machine is still there")


def test_no_cluster_is_one_line(tmp_path, monkeypatch):
    def nobody(*args, **kwargs):
        raise ConnectionError("Could not find any running Ray instance.\nAnd more.")

    monkeypatch.setenv("HEAD_ATLAS_RAY", "auto")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", nobody)
    job = Job(list, refused, [tables.EFFECTS.schema])
    with pytest.raises(UserError, match=r"^HEAD_ATLAS_RAY = auto: no cluster of Ray there \(Could .*ray start --head$"):
        list(tables_of(job, [1], map(keys("none"), [1]), tmp_path))
