"""Training from scratch and its dynamics: the same bytes twice, nothing trusted after a kill, planted truth found."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from hashlib import md5
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from test_planted import POSITIONS, TOKENS, planted

from stages import dynamics, train
from stages.recipes.induction import Induction
from stages.recipes.iteration import END, PADDING, SEPARATOR, Iteration
from stages.recipes.lesson import IGNORED, create
from stages.recipes.settings import Architecture, Optimizer
from stages.statistics import findings, onset
from stages.store import params, paths
from stages.store.errors import UserError
from stages.tasks.iteration.tape import SYMBOLS, last_chance, tape, uncertainty
from stages.tasks.prompt import stream
from stages.training.build import build, read, save, sinusoids
from stages.training.checkpoint import measured
from stages.training.train import rate
from stages.training.train import train as train_alone

ROOT = Path(__file__).parents[1]
TASK = Induction(vocabulary=20, length=24, triggers=3, density=0.8)


def written(folder: Path, **changes) -> params.Params:
    """Write params with one tiny recipe into a folder and load them."""
    content = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
    recipe = content["recipes"]["induction"]
    recipe["train"] |= {"steps": 6, "batch": 4, "seeds": 2, "checkpoints": {"even": 2, "early": 2}} | changes
    recipe["train"]["arguments"] |= {"length": 16}
    recipe["study"] |= {"sequences": 8, "bootstrap": 200}
    (folder / "params.yaml").write_text(yaml.safe_dump(content | {"recipes": {"induction": recipe}}))
    return params.load(folder / "params.yaml")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder in which the tiny recipe was trained and measured by the stages themselves."""
    folder, before = tmp_path_factory.mktemp("recipe"), Path.cwd()
    written(folder)
    os.chdir(folder)
    try:
        train.main("induction")
        dynamics.main("induction")
    finally:
        os.chdir(before)
        torch.use_deterministic_algorithms(False)
    return folder


def test_checkpoints_are_configuration_and_weights_and_nothing_else(trained):
    found = files(trained / paths.checkpoints("induction"))
    kept = ["000000", "000001", "000002", "000003", "000006"]
    runs = [f"{arm}-{seed}" for arm in ("one_layer", "two_layers") for seed in range(2)]
    names = ("config.json", "model.safetensors")
    assert list(found) == [f"{run}/{step}/{name}" for run in runs for step in kept for name in names]
    assert not list(trained.rglob("*.part"))


@pytest.mark.parametrize(("file", "content"), [("config.json", b"{"), ("model.safetensors", b"no header"), ("", b"")])
def test_a_checkpoint_that_is_cut_or_missing_is_one_line(file, content, tmp_path, monkeypatch):
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = paths.checkpoint("induction", "two_layers", 0, 0)
    if file:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / file).write_bytes(content)
    with pytest.raises(
        UserError, match=rf"^{folder}: no whole checkpoint \(.*\); run dvc repro -f -s train@induction$"
    ):
        dynamics.main("induction")


def test_training_twice_gives_the_same_bytes(trained, tmp_path):
    """In another process, with another number of threads, in another order."""
    settings = params.load(trained / "params.yaml")
    for seed in (1, 0):
        torch.set_num_threads(2)
        train.one_run(settings, "induction", "two_layers", seed, tmp_path)
    torch.use_deterministic_algorithms(False)
    expected = files(trained / paths.checkpoints("induction"))
    found = files(tmp_path)
    assert found == {name: content for name, content in expected.items() if name.startswith("two_layers")}
    weights = [content for name, content in found.items() if name.endswith("safetensors")]
    assert len(set(weights)) == len(weights)  # no two steps or seeds are alike


def test_a_killed_training_leaves_nothing_that_is_trusted(tmp_path):
    written(tmp_path, steps=100_000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "stages.train", "induction"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(600):
            if list(tmp_path.rglob("model.safetensors")):
                break
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert list(tmp_path.rglob("model.safetensors")), "it was killed before its first checkpoint"
    assert not (tmp_path / paths.checkpoints("induction")).exists()
    assert not (tmp_path / paths.study("induction") / "learning.csv").exists()


def test_a_diverging_run_ends_all_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wild = {"learning_rate": 1e30, "schedule": "constant", "warmup": 0, "decay": 0.0, "betas": [0.9, 0.98], "clip": 1.0}
    written(tmp_path, seeds=1, optimizer=wild)
    said = r"recipes.induction, arm \w+, seed 0: the training loss is (nan|inf) at step \d; lower optimizer"
    with pytest.raises(UserError, match=said):
        train.main("induction")
    assert not [path for path in tmp_path.rglob("*") if path.name != "params.yaml" and path.is_file()]


def test_the_summaries_hold_every_arm_seed_and_step(trained):
    folder = trained / paths.study("induction")
    curve, said = pd.read_csv(folder / "curve.csv"), pd.read_csv(folder / "findings.csv")
    assert set(curve.arm) == {"two_layers", "one_layer"} and set(curve.seed) == {0, 1}
    broken = curve.measure.str.contains("@")
    assert set(curve[broken].measure) == {
        f"{outcome}@without {head}"
        for outcome in ("loss", "in_context", "accuracy")
        for head in ("L0H0", "L0H1", "L1H0", "L1H1")
    }
    assert set(curve[broken].step) == {6}
    curve = curve[~broken]
    assert set(curve.measure) == {"loss", "in_context", "accuracy", "previous", "duplicate", "induction"}
    chosen = curve[curve.best == 1]
    assert not chosen.duplicated(["arm", "seed", "step", "measure"]).any()
    assert len(chosen) == 2 * 2 * 5 * 6
    assert {"onset", "rise", "final", "after", "rise beyond", "final beyond", "onset later"} == set(said.finding)
    whole = said[said.seed.isna()]
    assert (whole.low <= whole.high + 1e-9).all()
    learning = pd.read_csv(folder / "learning.csv")
    assert len(learning) == 4 * 4 and learning.loss.notna().all()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_attention_only_models_have_silent_mlps_and_are_read_by_the_auto_class(tmp_path, kind):
    settings = written(tmp_path).recipes["induction"].arm("two_layers").architecture.model_copy(update={"type": kind})
    model = build(settings, 20, 16)
    save(model, tmp_path / "checkpoint")
    again = read(tmp_path / "checkpoint")
    x_BTD = torch.randn(2, 5, settings.width)
    blocks = again.transformer.h if kind == "gpt2" else again.model.layers
    assert all(not block.mlp(x_BTD).any() for block in blocks)
    ids_BT = torch.arange(10).view(2, 5)
    assert torch.allclose(model.eval()(ids_BT).logits, again(ids_BT).logits, atol=1e-6)
    table_TD = sinusoids(7, 6)
    assert table_TD[3, 2] == pytest.approx(np.sin(3 / 10_000 ** (2 / 6)), abs=1e-6)
    assert table_TD[3, 3] == pytest.approx(np.cos(3 / 10_000 ** (2 / 6)), abs=1e-6)


def test_the_learning_rate_warms_up_and_then_stays_or_falls():
    options = Optimizer(learning_rate=0.1, schedule="cosine", warmup=4, decay=0.0, betas=(0.9, 0.99), clip=1.0)
    assert [rate(options, step, 10) for step in (0, 3, 4, 7)] == pytest.approx([0.25, 1.0, 1.0, 0.5])
    assert rate(options.model_copy(update={"schedule": "constant"}), 9, 10) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_a_trigger_is_always_followed_by_its_partner(seed):
    batch = TASK.batch(np.random.default_rng(seed), 50, 0)
    assert batch.ids_BT.shape == (50, 24) and batch.ids_BT.min() >= 0 and batch.ids_BT.max() < 20
    assert (batch.labels_BT[:, :-1] == batch.ids_BT[:, 1:]).all() and (batch.labels_BT[:, -1] == IGNORED).all()
    partners = set()
    for ids in batch.ids_BT.tolist():
        pairs = {(a, b) for a, b in pairwise(ids) if a < 3}
        assert len(pairs) == len({a for a, _ in pairs})  # one partner per trigger
        partners |= pairs
    assert len(partners) > 30  # drawn anew per sequence


def test_relations_ask_only_where_the_answer_is_known():
    for tokens in TASK.held_out(np.random.default_rng(0), 20):
        found = TASK.relation("induction", tokens)
        seen: set[int] = set()
        known = [t for t, token in enumerate(tokens.ids[:-1]) if token < 3 and (token in seen or seen.add(token))]
        assert found is None if not known else found.queries.tolist() == known
        for query, keys in zip(found.queries if found else [], found.keys if found else [], strict=True):
            assert set(tokens.ids[keys]) == {tokens.ids[query + 1]}  # it looks at what is to be predicted


def test_outcomes_are_what_their_names_say():
    tokens = TASK.held_out(np.random.default_rng(0), 1)[0]
    logprob = np.linspace(-4, -1, 23)
    found = TASK.outcomes(tokens, logprob, np.ones(23, dtype=bool))
    assert found["loss"] == pytest.approx(2.5) and found["accuracy"] == 1
    assert found["in_context"] == pytest.approx(logprob[:5].mean() - logprob[-5:].mean()) and found["in_context"] < 0


def test_the_planted_induction_head_is_the_best_one():
    task = Induction(vocabulary=TOKENS, length=POSITIONS, triggers=5, density=0.5)
    held = task.held_out(np.random.default_rng(0), 8)
    rows = [("arm", 0, 0, *row) for row in measured(planted(), task, held)]
    chosen = findings.summary(findings.best(pd.DataFrame(rows, columns=dynamics.RAW)))
    chosen = chosen[chosen.best == 1].set_index("measure")
    assert chosen.loc["induction", "head"] == "L1H0" and chosen.loc["induction", "value"] > 0.9
    assert chosen.loc["previous", "head"] == "L0H0" and chosen.loc["duplicate", "value"] < 0.3


def curves(at: float, height: float, seeds: int = 3, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Sigmoid curves (S, C, P) that rise by `height` within about 100 steps of `at` (20 steps apart between seeds)."""
    rng, steps_C = np.random.default_rng(0), np.r_[0, 1, 5, np.arange(50, 1001, 50)]
    middle_S = at + 20 * np.arange(seeds)
    curve_SC = 0.1 + height / (1 + np.exp(-(steps_C - middle_S[:, None]) / 20))
    return curve_SC[..., None] + rng.normal(0, noise, (seeds, len(steps_C), 16)), steps_C


def test_a_planted_jump_is_located_and_a_flat_curve_rises_by_nothing():
    values_SCP, steps_C = curves(500, 0.8)
    flat_SCP, _ = curves(500, 0.0)
    measures = {"jump": values_SCP, "fall": -values_SCP, "flat": flat_SCP}
    found = onset.locate(measures, {"fall"}, steps_C, 200, 300, np.random.default_rng(0))
    assert np.abs(found["jump"].onset_S - (500 + 20 * np.arange(3))).max() <= 40
    low, high = np.percentile(found["jump"].onset_R, [2.5, 97.5])
    assert low <= 520 <= high and high - low < 150
    assert found["jump"].rise_S.min() > 0.7 and found["flat"].rise_S.max() < 0.05
    assert np.allclose(found["fall"].rise_S, -found["jump"].rise_S)
    assert np.allclose(found["fall"].onset_S, found["jump"].onset_S)
    assert found["fall"].final_S.max() < -0.8


def test_with_few_seeds_the_interval_is_over_sequences_only():
    values_SCP, steps_C = curves(500, 0.8, seeds=2, noise=0.0)
    found = onset.locate({"jump": values_SCP}, set(), steps_C, 200, 200, np.random.default_rng(0))
    assert np.ptp(found["jump"].final_R) < 1e-9  # no noise between sequences: nothing to resample


def test_sequences_that_do_not_define_a_measure_are_left_out():
    values_SCP = np.full((1, 2, 3), 0.5)
    values_SCP[..., 0] = np.nan
    assert onset.means(values_SCP, np.ones((1, 3))).tolist() == [[[0.5, 0.5]]]


def test_an_arm_that_does_not_jump_is_told_apart():
    tall, steps_C = curves(500, 0.8)
    low, _ = curves(500, 0.02)
    both = [
        onset.locate({"induction": part, "previous": part}, set(), steps_C, 200, 300, np.random.default_rng(0))
        for part in (tall, low)
    ]
    rows = findings.compared(dict(zip(("two_layers", "one_layer"), both, strict=True)), dict.fromkeys(
        ("two_layers", "one_layer"), TASK))  # fmt: skip
    found = pd.DataFrame(rows, columns=findings.FINDINGS).set_index(["finding", "measure"])
    assert found.loc[("rise beyond", "induction"), "low"].min() > 0.6
    after = found.loc[("after", "induction")]
    assert (after.low <= 0).all() and (after.high >= 0).all()  # the same curve twice: no order


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (
            ("task",),
            "inducktion",
            "recipes.induction.task = 'inducktion': no such lesson; allowed: families,",
        ),
        (("train", "arguments", "lenght"), 3, "recipes.induction.train.arguments.lenght = 3"),
        (("train", "arguments", "triggers"), 32, "triggers: 32 leave no other token"),
    ],
)
def test_mistakes_name_their_key(tmp_path, monkeypatch, where, value, message):
    written(tmp_path)
    content = yaml.safe_load((tmp_path / "params.yaml").read_text())
    at = content["recipes"]["induction"]
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        train.main("induction")


def test_a_mistake_in_an_arm_is_found_when_params_are_read(tmp_path):
    written(tmp_path)
    text = (tmp_path / "params.yaml").read_text().replace("layers: 1", "layres: 1")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"arm one_layer: architecture\.layres"):
        params.load(tmp_path / "params.yaml")
    with pytest.raises(UserError, match="no such recipe"):
        os.chdir(tmp_path)
        try:
            (tmp_path / "params.yaml").write_text(text.replace("layres", "layers"))
            train.main("parity")
        finally:
            os.chdir(ROOT)


def test_held_out_sequences_are_drawn_from_another_stream(tmp_path):
    settings = written(tmp_path)
    recipe = settings.recipes["induction"]
    task = create("induction", recipe, recipe.train.arguments)
    trained = task.batch(stream(settings.seed, "recipes/induction/0/batches"), 64, 0).ids_BT
    held = task.held_out(stream(settings.seed, "recipes/induction/held_out"), 64)
    assert not {tuple(one.ids) for one in held} & set(map(tuple, trained.tolist()))


@pytest.mark.parametrize("function", ["parity", "copy", "polynomial"])
def test_the_tape_is_computed_step_by_step_from_what_is_written(function):
    task = Iteration(function=function, shortest=4, longest=7, beyond=9, corruption=0.5)
    step = {"parity": lambda s, x: s ^ x, "copy": lambda s, x: x, "polynomial": lambda s, x: (s * x + 1) % 5}[function]
    batch, corrupted = task.batch(np.random.default_rng(0), 200, 0), 0
    for ids, labels in zip(batch.ids_BT.tolist(), batch.labels_BT.tolist(), strict=True):
        length = ids.index(SEPARATOR)
        x, tape = ids[:length], ids[length + 1 : 2 * length + 1]
        assert 4 <= length <= 7 and set(ids[2 * length + 1 :]) <= {PADDING}
        assert labels[:length] == [IGNORED] * length and labels[2 * length] == END
        assert labels[length : 2 * length] == [step(s, a) for s, a in zip([0, *tape], x, strict=False)]
        corrupted += labels[length : 2 * length] != tape
    assert 100 < corrupted < 200


@pytest.mark.parametrize("tape", [True, False])
def test_test_strings_are_never_trained_on_and_have_true_tapes(tape):
    task = Iteration(function="parity", shortest=4, longest=6, beyond=8, corruption=0.5, tape=tape)
    held = task.held_out(np.random.default_rng(0), 60)
    batch = task.batch(np.random.default_rng(1), 3000, 0)
    trained = {tuple(ids[: ids.index(SEPARATOR)]) for ids in batch.ids_BT.tolist()}
    strings = []
    for tokens in held:
        ids = tokens.ids.tolist()
        strings.append(tuple(ids[: ids.index(SEPARATOR)]))
        parity = (np.cumsum(strings[-1]) % 2).tolist()
        assert ids[ids.index(SEPARATOR) + 1 :] == ([*parity, END] if tape else parity[-1:])
        assert tokens.ids[tokens.target].tolist() == ids[ids.index(SEPARATOR) + 1 :]
    assert not set(strings) & trained and len(trained) > 60
    assert {len(string) for string in strings} == {4, 5, 6, 7, 8}
    outcomes = task.outcomes(held[0], np.zeros(len(held[0].target)), np.ones(len(held[0].target), dtype=bool))
    assert outcomes == {"loss": 0.0, "accuracy": 1.0, "accuracy@04": 1.0}


@pytest.mark.parametrize("function", ["parity", "copy", "polynomial"])
def test_no_test_string_is_in_both_halves_however_few_there_are(function):
    held = Iteration(function=function, shortest=4, longest=6, beyond=8).held_out(np.random.default_rng(0), 200)
    halves = [{tuple(tokens.ids) for tokens in held[start::2]} for start in (0, 1)]
    assert not halves[0] & halves[1] and all(halves)
    assert sum(map(len, halves)) < 200 or function == "copy"  # short ones come again


@pytest.mark.parametrize("function", ["parity", "copy", "polynomial"])
def test_what_is_possible_without_the_string_is_what_counting_all_strings_gives(function):
    length, size = 4, SYMBOLS[function]
    tapes = [tuple(tape(function, np.array(x)).tolist()) for x in product(range(size), repeat=length)]
    last = Counter(one[-1] for one in tapes)
    assert last_chance(function, length) == pytest.approx(max(last.values()) / len(tapes))
    shares = np.array(list(Counter(tapes).values())) / len(tapes)
    answers = np.array(list(last.values())) / len(tapes)
    expected = -(shares * np.log(shares)).sum() / (length + 1), -(answers * np.log(answers)).sum()
    assert uncertainty(function, length) == pytest.approx(expected)


def test_heads_should_look_at_the_separator_and_at_the_next_input():
    task = Iteration(function="copy", shortest=4, longest=4, beyond=4, corruption=0.0)
    tokens = task.held_out(np.random.default_rng(0), 1)[0]  # x1 x2 x3 x4 : s1 s2 s3 s4 .
    separator, inputs = task.relation("separator", tokens), task.relation("input", tokens)
    assert separator.queries.tolist() == [5, 6, 7] and separator.keys.argmax(1).tolist() == [4, 4, 4]
    assert inputs.queries.tolist() == [4, 5, 6, 7] and inputs.keys.argmax(1).tolist() == [0, 1, 2, 3]
    assert task.symbol(tokens.ids[4]) == ":" and task.symbol(tokens.ids[-1]) == "."


def test_longer_strings_are_drawn_in_proportion_to_their_length_and_none_is_asked_for_attention_beyond():
    task = Iteration(function="copy", shortest=4, longest=8, beyond=10)
    batch = task.batch(np.random.default_rng(0), 6000, 0)
    found = np.bincount((batch.ids_BT == SEPARATOR).argmax(1), minlength=9)[4:] / 6000
    assert found == pytest.approx(np.arange(4, 9) / 30, abs=0.02)
    for tokens in task.held_out(np.random.default_rng(0), 14):
        length = tokens.ids.tolist().index(SEPARATOR)
        assert (task.relation("input", tokens) is None) == (length > 8) == (task.relation("separator", tokens) is None)


def test_all_functions_share_one_vocabulary():
    tasks = [Iteration(function=f, shortest=4, longest=5, beyond=6) for f in ("parity", "copy", "polynomial")]
    assert {task.symbols for task in tasks} == {13} and {task.positions for task in tasks} == {14}
    assert [task.symbol(token) for task in tasks for token in (9, SEPARATOR, END)] == ["9", ":", "."] * 3


@pytest.mark.parametrize("function", ["parity", "polynomial"])
def test_the_first_steps_copy_strings_of_all_symbols(function):
    arguments = {"shortest": 4, "longest": 4, "beyond": 4, "corruption": 1.0}
    task = Iteration(function=function, copying=10, **arguments)
    batch = task.batch(np.random.default_rng(0), 300, 9)  # x1 x2 x3 x4 : s1 s2 s3 s4
    assert (batch.labels_BT[:, 4:8] == batch.ids_BT[:, :4]).all() and set(batch.ids_BT[:, :4].flat) == set(range(10))
    later, never = (
        one.batch(np.random.default_rng(0), 300, 10) for one in (task, Iteration(function=function, **arguments))
    )
    assert (later.ids_BT == never.ids_BT).all() and (later.labels_BT == never.labels_BT).all()
    assert set(later.ids_BT[:, :4].flat) == set(range(task.base))


def test_the_gap_shifts_the_positions_from_the_separator_on_and_closes():
    task = Iteration(function="parity", shortest=4, longest=6, beyond=6, gap={"positions": 2, "until": 100})
    for step, widest in ((0, 2), (49, 2), (50, 1), (99, 1)):
        batch = task.batch(np.random.default_rng(0), 200, step)
        shift_BT = batch.positions_BT - np.arange(batch.ids_BT.shape[1])
        lengths_B = (batch.ids_BT == SEPARATOR).argmax(1)
        tape_BT = np.arange(batch.ids_BT.shape[1]) >= lengths_B[:, None]
        assert set(shift_BT[~tape_BT]) == {0}
        assert (np.ptp(np.where(tape_BT, shift_BT, shift_BT[:, -1:]), axis=1) == 0).all()  # one shift per string
        assert set(shift_BT[:, -1]) == set(range(widest + 1))
        assert batch.positions_BT.max() < task.positions
    assert task.batch(np.random.default_rng(0), 5, 100).positions_BT is None


def transferred(folder: Path, **first) -> params.Params:
    """Write params with a tiny recipe whose second arm learns another function first."""
    content = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
    recipe = content["recipes"]["induction"] | {"task": "iteration", "main": "scratch"}
    recipe["train"] |= {"steps": 2, "batch": 4, "seeds": 1, "checkpoints": {"even": 1}}
    recipe["train"]["arguments"] = {"function": "parity", "shortest": 4, "longest": 5, "beyond": 5}
    arguments = recipe["train"]["arguments"] | {"function": "polynomial"} | first
    before = {"arguments": arguments | {"function": "copy"}, "steps": 2}
    recipe["arms"] = {"scratch": {}, "after": {"first": {"arguments": arguments, "steps": 3, "first": before}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content | {"recipes": {"parity": recipe}}))
    return params.load(folder / "params.yaml")


def test_what_is_learned_first_is_where_the_arm_starts(tmp_path):
    settings = transferred(tmp_path)
    for arm in ("scratch", "after"):
        train.one_run(settings, "parity", arm, 0, tmp_path)
    scratch, start = (read(tmp_path / f"{arm}-0" / "000000") for arm in ("scratch", "after"))
    arm, naive = settings.recipes["parity"].arm("after"), scratch.train().requires_grad_(True)
    for number, (function, steps) in enumerate((("copy", 2), ("polynomial", 3))):
        task = create("parity", settings.recipes["parity"], arm.first.arguments | {"function": function})
        rng = stream(settings.seed, f"recipes/parity/0/first/{number}")
        train_alone(naive, task, arm.model_copy(update={"steps": steps}), rng, lambda step, loss: None)
    torch.use_deterministic_algorithms(False)
    for (name, one), other in zip(naive.named_parameters(), start.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name
    before = files(tmp_path / "scratch-0")["000000/model.safetensors"]
    assert files(tmp_path / "after-0")["000000/model.safetensors"] != before


def test_a_model_learns_first_only_what_fits_it(tmp_path, monkeypatch):
    transferred(tmp_path, longest=9, beyond=9)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"parity\.arms\.after\.first\.arguments need 20 positions; .* has 12"):
        train.main("parity")


def test_queries_keys_and_embeddings_may_start_smaller_or_larger():
    shape = {"type": "gpt2", "layers": 2, "heads": 1, "width": 64, "inner": 8, "initializer_range": 0.1}
    model = build(Architecture(**shape, embedding_range=0.4, attention_range=0.01), 50, 16)
    queries_DD, keys_DD, values_DD = model.transformer.h[1].attn.c_attn.weight.split(64, dim=1)
    found = [float(weight.detach().std()) for weight in (queries_DD, keys_DD, values_DD, model.transformer.wte.weight)]
    assert found == pytest.approx([0.01, 0.01, 0.1, 0.4], rel=0.1)
    with pytest.raises(ValueError, match="of gpt2, not of llama"):
        Architecture(**shape | {"type": "llama"}, embedding_range=0.4)


def test_shapes_and_means_that_no_model_can_have_are_refused():
    llama = {"type": "llama", "layers": 1, "heads": 2, "width": 6, "inner": 0, "initializer_range": 0.1}
    with pytest.raises(ValueError, match="width: 6 / heads: 2 is odd; llama turns pairs"):
        Architecture(**llama)
    with pytest.raises(ValueError, match="less than or equal to 10"):
        Architecture(**llama | {"width": 8, "initializer_range": 1e300})
    rates = {"learning_rate": 0.1, "schedule": "constant", "warmup": 0, "decay": 0.0, "clip": 1.0}
    with pytest.raises(ValueError, match="less than 1"):
        Optimizer(**rates, betas=(0.9, 1.0))


def test_the_run_that_is_pictured_is_the_best_one_on_split_a_at_the_last_checkpoint():
    rows = pd.DataFrame(
        [
            ("main", seed, step, "accuracy", "", f"{sequence:04d}", value, np.nan, 1.0)
            for seed, ends in enumerate([(0.5, 1.0), (0.9, 0.0), (0.9, 0.5)])
            for step in (0, 10)
            for sequence in range(8)
            for value in [ends[sequence % 2] if step else 1.0 - seed]
        ],
        columns=dynamics.RAW,
    )
    assert findings.leader(rows, "accuracy", falls=False) == 1
    assert findings.leader(rows, "accuracy", falls=True) == 0


def test_an_arm_that_is_ahead_is_told_by_onset_and_by_when_it_is_solved():
    task = Iteration(function="parity", shortest=4, longest=5, beyond=5)
    both = {}
    for arm, at in (("scratch", 500), ("after", 300)):
        values_SCP, steps_C = curves(at, 0.9)
        rng, levels = np.random.default_rng(0), {"accuracy": 0.9}
        both[arm] = onset.locate({"accuracy": values_SCP}, set(), steps_C, 200, 300, rng, levels)
    found = pd.DataFrame(findings.compared(both, dict.fromkeys(both, task)), columns=findings.FINDINGS)
    found = found[found.seed == ""].set_index(["finding", "arm"])
    for finding in ("onset later", "solved later"):
        row = found.loc[(finding, "after")]
        assert row.versus == "scratch" and row.low <= row.value <= row.high < -100 and abs(row.value + 200) < 60
    assert 500 < found.loc[("solved", "scratch"), "value"] < 650


def test_a_rise_is_a_share_of_the_range_of_its_own_arm():
    """The loss of another arm leapt up at one checkpoint, and this one's fall was no onset any more."""
    rows = [(arm, seed, step, measure, "", 1, value) for arm, losses in {"a": [3.5, 2.9], "b": [3.5, 9.0]}.items()
            for seed in range(3) for step, value in enumerate(losses) for measure in ("loss", "accuracy")]  # fmt: skip
    curve = pd.DataFrame(rows, columns="arm seed step measure head best value".split())
    ranges = findings.spans(curve, {"loss"})
    assert ranges == {("a", "loss"): 3.5, ("b", "loss"): 9.0, ("a", "accuracy"): 1.0, ("b", "accuracy"): 1.0}
    table = [(finding, arm, "loss", "", seed, value, low, high) for arm in "ab" for seed in ("", 0, 1, 2)
             for finding, value, low, high in (("onset", 100.0, 90.0, 110.0), ("rise", -0.5, -0.6, -0.4),
                                               ("final", 2.9, 2.8, 3.0))]  # fmt: skip
    found = pd.DataFrame(table, columns=findings.FINDINGS)
    said = findings.told(found.assign(seed=pd.to_numeric(found.seed)), curve, findings.guessed({}), {"loss"}, 3)
    assert set(said[said.finding == "onset"].arm) == {"a"}


def test_a_mean_onset_with_a_run_that_does_not_jump_is_in_no_metrics():
    """The page left it out; `<measure>_onset` of metrics.json held it."""
    curve = pd.DataFrame(
        [("a", 0, 0, "induction", "", 1, 0.1)], columns="arm seed step measure head best value".split()
    )
    for last, there in ((0.15, True), (0.05, False)):
        rises = ["", 0.2], [0, 0.3], [1, 0.15], [2, last]
        table = [(finding, "a", "induction", "", seed, value, 0.14, 0.3) for seed, rise in rises
                 for finding, value in (("onset", 400.0), ("rise", rise), ("final", 0.9))]  # fmt: skip
        found = pd.DataFrame(table, columns=findings.FINDINGS)
        found = found.assign(seed=pd.to_numeric(found.seed))
        whole = findings.told(found, curve, findings.guessed({}), frozenset(), 8)
        assert ("induction_onset" in findings.metrics(whole, {"a": 8})) == there


def test_a_run_that_never_reaches_the_level_has_no_step_and_no_mean():
    steps_C = np.array([0, 10, 20])
    assert onset.reached(np.array([[0.0, 0.99, 0.5], [0.0, 0.5, 0.98]]), steps_C, 0.99)[0] == 10
    values_SCP = np.stack([np.full((3, 8), 0.1), np.full((3, 8), 1.0), np.full((3, 8), 1.0)])
    found = onset.locate({"a": values_SCP}, set(), steps_C, 10, 200, np.random.default_rng(0), {"a": 0.5})["a"]
    assert np.isnan(found.solved_S).tolist() == [True, False, False]
    assert np.isnan(found.solved_R).mean() == pytest.approx(1 - (2 / 3) ** 3, abs=0.1)  # the resamples that draw it


ECHO = '''"""The same token all the time: what came before."""
from typing import ClassVar

import numpy as np

from stages.families import FAMILIES
from stages.families.family import Tokens
from stages.recipes.lesson import IGNORED, Batch, Lesson, Watched


class Echo(Lesson):
    """Sequences of one token."""

    length: int

    watched: ClassVar[dict] = {"previous": Watched("previous")}
    onsets: ClassVar[tuple] = ("previous", "accuracy")
    symbols: ClassVar[int] = 9
    positions: ClassVar[int] = 12

    def batch(self, rng, size, step):
        ids_BT = np.repeat(rng.integers(0, 8, (size, 1)), self.length, axis=1)
        return Batch(ids_BT, np.pad(ids_BT[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED))

    def held_out(self, rng, count):
        none, target = np.zeros(self.length, dtype=bool), np.arange(1, self.length)
        return [Tokens(f"{n:04d}", "test", np.full(self.length, n % 8), none, target) for n in range(count)]

    def relation(self, name, tokens):
        return FAMILIES[name].relation(tokens)

    def outcomes(self, tokens, logprob, top):
        return {"loss": -logprob.mean(), "accuracy": top.mean()}

    def chance(self, count):
        return {"accuracy": 1 / 8}


LESSON = Echo
'''
PAGE = """
from pathlib import Path
from stages.page import recipes
from stages.store import params
(section,) = recipes.sections({Path(): params.load_studies()})
print(section.title, [card.label for block in section.blocks if block.kind == "figure" for card in block.charts])
"""


def test_a_recipe_is_one_file_and_one_entry_and_shows_up_in_results_and_page(tmp_path):
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "stages/recipes/echo.py").write_text(ECHO)
    recipe = yaml.safe_load((ROOT / "params.quick.yaml").read_text())["recipes"]["induction"] | {
        "task": "echo",
        "families": "stages/families",
    }
    recipe["train"] |= {"arguments": {"length": 8}, "steps": 4, "batch": 4, "seeds": 1, "checkpoints": {"even": 2}}
    recipe["study"] |= {"sequences": 8, "bootstrap": 200}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"seed": 17, "recipes": {"echo": recipe}}))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    for arguments in (["-m", "stages.train", "echo"], ["-m", "stages.dynamics", "echo"], ["-c", PAGE]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Heads that emerge: echo")
    assert all(label in done.stdout for label in ("Accuracy", "Previous-token score", "L0H0"))
    names = ("curve.csv", "findings.csv", "learning.csv", "metrics.json", "params.json", "picture.csv", "states.csv")
    assert sorted(path.name for path in (tmp_path / paths.study("echo")).iterdir()) == list(names)


def test_the_longer_studies_are_the_same_stages_one_folder_down():
    default, longer = (yaml.safe_load((ROOT / file).read_text())["stages"] for file in ("dvc.yaml", "full/dvc.yaml"))
    assert set(longer) == {"train", "dynamics", "deeper"}  # the last: tests/test_deeper.py, tests/test_dag.py
    for name in ("train", "dynamics"):
        expected, body = default[name]["do"], longer[name]["do"]
        assert body["cmd"] == f"PYTHONPATH=.. {expected['cmd']}"
        assert sorted(dep.removeprefix("../") for dep in body["deps"]) == sorted(expected["deps"])
        assert all(body[key] == expected[key] for key in ("params", "plots"))
        outs, same = (
            [next(iter(out)) if isinstance(out, dict) else out for out in of["outs"]] for of in (body, expected)
        )
        assert outs == same
        assert body.get("metrics") == expected.get("metrics")


def test_a_clone_can_check_out_without_the_weights_of_the_longer_studies():
    stages = yaml.safe_load((ROOT / "full/dvc.yaml").read_text())["stages"]
    bodies = [stage.get("do", stage) for stage in stages.values()]
    outs = [out for body in bodies for kind in ("outs", "metrics", "plots") for out in body.get(kind, [])]
    assert all(isinstance(out, dict) and next(iter(out.values()))["cache"] is False for out in outs)


def test_the_committed_lock_of_the_longer_studies_is_that_of_their_files():
    stages = yaml.safe_load((ROOT / "full/dvc.lock").read_text())["stages"]
    for name, stage in stages.items():
        for out in stage["outs"]:
            if out["path"].startswith("reports/"):
                assert dvc_hash(ROOT / "full" / out["path"]) == out["md5"], f"{name}: {out['path']}"


def dvc_hash(path: Path) -> str:
    """DVC's hash of a file, or of a folder: that of the list of its files."""
    if path.is_file():
        return md5(path.read_bytes()).hexdigest()
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    listed = [{"md5": dvc_hash(file), "relpath": file.relative_to(path).as_posix()} for file in inside]
    return md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"
