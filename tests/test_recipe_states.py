"""Recipes about states: data with the right facts, probes that read planted ones only, edits that are what they say."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages import train
from stages.page import recipe_design, recipe_states
from stages.recipes.lesson import IGNORED
from stages.recipes.patches import NONE, Patches
from stages.recipes.registers import BITS, FILLERS, Registers
from stages.recipes.settings import Architecture, Training
from stages.recipes.states import REGISTER, STUDIED
from stages.statistics.probes import probe
from stages.store import params, paths
from stages.store.errors import UserError
from stages.training import states, tagger
from stages.training.build import save

ROOT = Path(__file__).parents[1]
LESSON = Registers(asks="majorities", length=20)
BACK = Registers(asks="back_copy", length=20)
SHAPE = {"layers": 2, "heads": 2, "width": 16, "inner": 16, "initializer_range": 0.3, "registers": 3}


def trained(kind: str, **changes) -> Training:
    optimizer = {"learning_rate": 1e-3, "schedule": "constant", "warmup": 0, "decay": 0.0, "betas": (0.9, 0.98)}
    shape = SHAPE | {"type": kind} | changes
    return Training(arguments={}, architecture=shape, optimizer=optimizer | {"clip": 1.0}, steps=1, batch=4, seeds=1,
                    checkpoints={"even": 1})  # fmt: skip


def model_of(lesson, training: Training):
    torch.manual_seed(0)
    model = tagger.build(training.architecture, lesson).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    return model


def test_the_label_is_the_xor_of_two_majorities_and_every_content_token_is_asked_it_with_its_own_variant():
    held = LESSON.held_out(np.random.default_rng(0), 400)
    for ids, labels, label in zip(held.inputs, held.labels_NT, held.classes["label"], strict=True):
        content = ids[ids >= FILLERS] - FILLERS
        group, bit = content // (BITS * 8), content // 8 % BITS
        counts = [(bit[group == g].sum(), (group == g).sum()) for g in range(2)]
        assert sum(2 * ones > count for ones, count in counts) % 2 == label
        answers = labels[labels != IGNORED] - FILLERS - 4 * 8
        assert (labels != IGNORED).tolist() == (ids >= FILLERS).tolist()
        assert answers.tolist() == [label * 8 + variant for variant in content % 8]
    assert 0.4 < held.classes["label"].mean() < 0.6
    assert held.labels_NT.max() < LESSON.symbols


def test_after_a_trigger_comes_the_token_before_it_and_only_that_is_scored():
    held = BACK.held_out(np.random.default_rng(0), 200)
    for ids, labels in zip(held.inputs, held.labels_NT, strict=True):
        triggers = np.flatnonzero(ids[1:-1] < BACK.triggers) + 1
        assert (ids[triggers + 1] == ids[triggers - 1]).all() and len(triggers)
        assert np.flatnonzero(labels != IGNORED).tolist() == triggers.tolist()
        assert labels[triggers].tolist() == ids[triggers + 1].tolist()


def test_held_out_digits_are_never_trained_on_and_every_patch_is_asked_what_lies_on_it():
    lesson = Patches(asks="patches", pixels=True, noise=0.0)
    held = lesson.held_out(np.random.default_rng(0), 700)
    batch = lesson.batch(np.random.default_rng(0), 2000, 0)

    def prints(canvas):
        return {tuple(np.sort(image[image > 0])) for image in canvas}

    assert len(prints(held.inputs)) > 690 and not prints(held.inputs) & prints(batch.ids_BT)
    for canvas, labels, kinds, digit in zip(
        held.inputs, held.labels_NT, held.kinds_NT, held.classes["digit"], strict=True
    ):
        ink = canvas.reshape(5, 4, 5, 4).sum((1, 3)).flatten()
        assert (labels[ink > 0] == digit).all() and set(labels.tolist()) == {digit, NONE}
        assert ((labels != NONE) == (kinds == "object patch")).all() and (labels != NONE).sum() == 4
    assert np.allclose(batch.pixels_BTP[:, 6], batch.ids_BT[:, 4:8, 4:8].reshape(-1, 16))  # row 1, column 1


def test_contrast_is_of_what_the_model_sees_and_not_of_what_it_gives_back():
    plain, strong = (Patches(asks="digit", pixels=True, contrast=contrast) for contrast in (1.0, 5.0))
    one, other = (lesson.batch(np.random.default_rng(0), 8, 0) for lesson in (plain, strong))
    assert np.allclose(5 * one.ids_BT, other.ids_BT) and (one.pixels_BTP == other.pixels_BTP).all()
    one, other = (lesson.held_out(np.random.default_rng(0), 8) for lesson in (plain, strong))
    assert np.allclose(5 * one.inputs, other.inputs)
    assert (one.values["own pixels"] == other.values["own pixels"]).all()


def test_images_of_a_layout_have_the_same_edited_patches_and_kinds():
    held = Patches(asks="digit").held_out(np.random.default_rng(0), 300)
    for layout in np.unique(held.layout_N):
        rows = held.layout_N == layout
        assert (held.kinds_NT[rows] == held.kinds_NT[rows][0]).all()
        for name, places_NK in held.edited.items():
            assert (places_NK[rows] == places_NK[rows][0]).all()
            kind = name.split(" ", 1)[1].replace("patches", "patch")
            assert (np.take_along_axis(held.kinds_NT, places_NK, 1) == kind).all()


def test_a_probe_reads_a_planted_fact_and_nothing_else():
    rng, rows_N = np.random.default_rng(0), np.arange(600)
    states_ND = rng.normal(size=(600, 12))
    facts = {"planted": (states_ND[:, 0] + states_ND[:, 1] > 0).astype(int), "none": rng.integers(0, 2, 600)}
    facts |= {
        "own": states_ND[:, :3] / np.linalg.norm(states_ND, axis=1, keepdims=True),
        "no": rng.normal(size=(600, 3)),
    }
    read = probe(states_ND, facts, rows_N, rng, 20)
    planted, none = read["planted"], read["none"]
    assert planted.value > 0.93 and abs(planted.shuffled - 0.5) < 0.1
    assert planted.low > planted.majority and none.low < max(none.majority, none.shuffled)
    assert read["own"].low > 0.99 and read["no"].high < 0.1


def test_off_constant_states_only_the_commonest_answer_is_read():
    rng = np.random.default_rng(0)
    noise_ND = 1e-7 * rng.normal(size=(500, 12))  # of rounding
    class_N = rng.integers(0, 3, 500)
    read = probe(np.ones((500, 12)) + noise_ND, {"label": class_N}, np.arange(500), rng, 20)["label"]
    assert read.value == read.majority


@pytest.mark.parametrize(("lesson", "kind"), [(LESSON, "bert"), (LESSON, "gpt2"), (Patches(asks="digit"), "vit")])
def test_an_edit_of_no_token_changes_nothing_and_one_of_states_by_themselves_neither(lesson, kind):
    training = trained(kind)
    model, held = model_of(lesson, training), lesson.held_out(np.random.default_rng(0), 24)
    run = states.intact(model, held, 3)
    nothing = np.empty((24, 0), dtype=np.int64)
    for edit in states.KINDS:
        scores, labels = states.edit(model, held, run, 3, nothing, edit, np.zeros(24))
        assert torch.allclose(scores, run.scores_NSQ[:, 3:], atol=1e-5), edit
        assert (labels == held.labels_NT).all()
    with states.states(model, lambda layer, state: run.states_LNSD[layer]):
        again, _ = tagger.answers(model, held.inputs, 3)
    assert torch.allclose(again, run.scores_NSQ, atol=1e-5)
    some = np.tile([3, 5], (24, 1))
    changed, labels = states.edit(model, held, run, 3, some, "zero", held.layout_N)
    assert (changed - run.scores_NSQ[:, 3:]).abs().max() > 1e-3 and (labels[:, [0, 2]] == IGNORED).all()


@pytest.mark.parametrize(("lesson", "kind"), [(LESSON, "bert"), (BACK, "gpt2"), (Patches(asks="patches"), "vit")])
def test_a_dropped_token_is_looked_at_by_nobody(lesson, kind):
    """The same as a mask over it, in the eyes of the attention: a key that no query gives weight to."""
    training = trained(kind)
    model, held = model_of(lesson, training), lesson.held_out(np.random.default_rng(0), 6)
    run = states.intact(model, held, 3)
    gone = np.tile([0, 7], (6, 1))
    scores, _ = states.edit(model, held, run, 3, gone, "drop", held.layout_N)
    from torch.nn import functional

    softmax = functional.softmax

    def masked(scores_BHTS, *args, **named):
        scores_BHTS = scores_BHTS.clone()
        if scores_BHTS.dim() == 4 and scores_BHTS.shape[-1] == run.scores_NSQ.shape[1]:
            scores_BHTS[..., [0, 7]] = -1e9
        return softmax(scores_BHTS, *args, **named)

    functional.softmax = masked
    torch.nn.functional.softmax = masked
    try:
        naive, _ = tagger.answers(model, held.inputs, 3)
    finally:
        functional.softmax = torch.nn.functional.softmax = softmax
    others = [place for place in range(run.scores_NSQ.shape[1] - 3) if place != 4]
    assert torch.allclose(scores[:, others], naive[:, 3:][:, others], atol=1e-4)


def test_registers_of_a_causal_model_are_constants_that_mean_and_shuffle_leave_alone():
    training = trained("gpt2")
    model, held = model_of(LESSON, training), LESSON.held_out(np.random.default_rng(0), 200)
    run = states.intact(model, held, 3)
    rows = states.studied(model, LESSON, held, training, run, np.random.default_rng(0))
    table = pd.DataFrame(list(rows), columns=STUDIED).set_index(["question", "tokens", "what"])
    assert table.loc[("spread", REGISTER, "spread"), "value"].max() < 1e-5
    used = table.loc[("used", REGISTER)]
    assert used.loc[["mean", "shuffle"], "value"].abs().max() < 1e-5 < used.loc["zero", "value"].abs().max()
    label = table.loc[("holds", REGISTER, "label")]
    assert (label["value"] == label["control"]).all()
    own = table.loc[("holds", "first content token", "variant of the first content token")]
    assert (own["value"] - own["control"]).min() > 0.2  # the probe can read what is there
    uniform = table.loc[("attention", REGISTER, "mass"), "control"].iloc[0]
    assert uniform == pytest.approx(np.mean([3 / (4 + t) for t in range(20)]), abs=1e-5)


def test_nothing_is_asked_of_a_sequence_that_has_nobody_to_exchange_with():
    training = trained("bert")
    model, held = model_of(LESSON, training), LESSON.held_out(np.random.default_rng(0), 6)
    run, layout_N = states.intact(model, held, 3), np.array([0, 1, 0, 0, 1, 2])
    for edit, asked in (("shuffle", 5), ("mean", 5), ("zero", 6), ("drop", 6)):
        _, labels = states.edit(model, held, run, 3, np.tile([4], (6, 1)), edit, layout_N)
        assert (labels != IGNORED).any(1).sum() == asked, edit


def test_mean_and_shuffle_stay_within_a_layout_and_a_position():
    states_LNSD = torch.arange(2 * 4 * 3 * 1.0).reshape(2, 4, 3, 1)
    layout_N = np.array([0, 1, 0, 1])
    mean, other = (states.replacements(states_LNSD, layout_N, kind) for kind in ("mean", "shuffle"))
    assert torch.equal(mean[:, 0], (states_LNSD[:, 0] + states_LNSD[:, 2]) / 2) and torch.equal(mean[:, 1], mean[:, 3])
    assert torch.equal(other[:, 0], states_LNSD[:, 2]) and torch.equal(other[:, 3], states_LNSD[:, 1])


def test_a_checkpoint_of_a_vit_is_read_back_and_opens_as_what_it_is(tmp_path):
    from transformers import AutoModel

    lesson, training = Patches(asks="digit"), trained("vit")
    model, held = model_of(lesson, training), lesson.held_out(np.random.default_rng(0), 8)
    save(model, tmp_path)
    again = tagger.read(tmp_path, training.architecture)
    assert torch.allclose(tagger.answers(again, held.inputs, 3)[0], tagger.answers(model, held.inputs, 3)[0], atol=1e-5)
    body = AutoModel.from_pretrained(tmp_path).eval()
    assert body.config.num_register_tokens == 3
    out = body(torch.from_numpy(held.inputs)[:, None]).last_hidden_state  # class token, registers, patches
    scores = again.head(out)[:, [1, 2, 3, 0, *range(4, 29)]]
    assert torch.allclose(scores, tagger.answers(again, held.inputs, 3)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("lesson", "kind", "said"),
    [
        (LESSON, "vit", "type = 'vit': the lesson has text"),
        (Patches(asks="digit"), "bert", "type = 'bert': the lesson has images"),
        (None, "gpt2", "registers = 3: allowed: 0"),
    ],
)
def test_a_model_that_does_not_suit_a_lesson_is_refused(lesson, kind, said):
    from stages.recipes.induction import Induction

    lesson = lesson or Induction(vocabulary=20, length=24, triggers=3, density=0.8)
    with pytest.raises(UserError, match=said):
        train._suits("x", lesson, Architecture(**SHAPE, type=kind))


def rows(**changes) -> pd.DataFrame:
    base = {"arm": "encoder", "seed": 0, "question": "holds", "layer": 2, "tokens": REGISTER, "what": "label",
            "measure": "accuracy", "value": 0.98, "low": 0.96, "high": 0.99, "control": 0.5, "shuffled": 0.5,
            "trials": 500}  # fmt: skip
    return pd.DataFrame([base | changes, base | changes | {"seed": 1}])


def test_what_is_read_in_one_run_of_two_is_said_to_be():
    assert "holds the label: 0.98 (0.98 to 0.98), without the state" in recipe_states.held(rows(), "encoder")
    mixed = rows()
    mixed.loc[1, "low"] = 0.4
    assert "holds the label in 1 of 2 runs" in recipe_states.held(mixed, "encoder")
    assert "is not shown to hold" in recipe_states.held(rows(low=0.4), "encoder")
    assert "is not shown to hold" in recipe_states.held(rows(shuffled=0.97), "encoder")
    pixels = {"tokens": "patch", "what": "own pixels", "measure": "R2", "control": 0.0, "shuffled": 0.0}
    assert "is not shown to hold" in recipe_states.held(rows(**pixels, value=0.12, low=0.08, high=0.2), "encoder")
    assert "holds its own pixels" in recipe_states.held(rows(**pixels, value=0.2, low=0.12, high=0.3), "encoder")


def test_what_other_tokens_hold_as_well_stands_beside_a_register():
    """One register holds the label: so did every other token, which only a folded table said."""
    both = pd.concat([rows(), rows(tokens="filler", value=0.9)], ignore_index=True)
    assert "holds the label: 0.98 (0.98 to 0.98), without the state 0.50 (one filler 0.90)." in (
        recipe_states.held(both, "encoder")
    )


def test_variants_that_are_asked_something_else_are_told_apart():
    """Of two variants whose patches are asked, the page said that patches are asked nothing."""
    study = params.load_studies(ROOT / "full/params.yaml").recipes["patches"]
    said = recipe_design.asked(study)
    first, _, others = said.partition(" Of variants dumps and no dumps: ")
    assert "patches are asked nothing" in first and "those of the background answer `none`" in others
    assert re.search(r"Always giving the commonest answer is right in 0\.7\d of them", others)
    assert said.endswith("Every patch also gives back its own pixels in dumps, no dumps and pixels.")
    assert " Of variant" not in recipe_design.asked(params.load_studies(ROOT / "full/params.yaml").recipes["registers"])


def test_kinds_and_runs_are_told_apart_run_by_run():
    table = pd.concat([
        rows(tokens="background patch", what="digit", value=0.8, low=0.75, high=0.85),
        rows(tokens="object patch", what="digit", value=0.6, low=0.5, high=0.7),
        rows(tokens="class token", what="digit", value=0.9, low=0.85, high=0.95),
        rows(question="used", what="shuffle", value=-0.2),
        rows(question="used", what="shuffle", tokens="ordinary tokens", value=-0.3),
    ], ignore_index=True)  # fmt: skip
    table.loc[3, "low"] = 0.6  # second run of object patches: 0.6 to 0.7
    table.loc[1, ["low", "high"]] = 0.69, 0.85
    table.loc[[7, 9], "value"] = -0.02, -0.05
    said = recipe_states.apart(table, "encoder")
    assert "class token 0.90 / 0.90; background patch 0.80 / 0.80; object patch 0.60 / 0.60" in said
    assert "better than one object patch in 1 of 2 runs, worse in 0" in said
    assert "Exchanging registers, harm run by run: +0.20 / +0.02; as many ordinary tokens: +0.30 / +0.05." in said
    table.loc[[8, 9], "value"] = -0.01, -0.05
    assert "(the run" not in recipe_states.apart(table, "encoder")


def test_edits_are_told_apart_from_zero_run_by_run():
    table = pd.concat([
        rows(question="used", what="drop", value=0.0, low=-0.01, high=0.01),
        rows(question="used", what="shuffle", value=-0.2, low=-0.25, high=-0.15),
        rows(question="used", what="drop", measure="loss", value=0.15, low=0.1, high=0.2),
        rows(question="used", what="zero", measure="loss", value=0.6, low=0.5, high=0.7),
    ])  # fmt: skip
    said = recipe_states.edits(table, "encoder")
    assert "none when dropped" in said and "+0.20 (+0.20 to +0.20) when exchanged" in said
    assert "Zero is not absence: it does harm +0.60" in said
    assert "The registers, harm to the loss of the others (nats): +0.15 (+0.15 to +0.15) when dropped and +0.60" in said


def test_outliers_are_said_to_be_there_or_not():
    values = (("longest", 1.3), ("beyond", 0.0))
    lengths = [rows(question="norms", tokens="filler", what=what, value=value) for what, value in values]
    assert "no outliers form here" in recipe_states.norms(pd.concat(lengths))
    lengths[1] = rows(question="norms", tokens="filler", what="beyond", value=0.02)
    assert "no outliers form here" in recipe_states.norms(pd.concat(lengths))  # far, but not long
    lengths[0] = rows(question="norms", tokens="filler", what="longest", value=4.0)
    assert "up to 2.0 %" in recipe_states.norms(pd.concat(lengths))
    assert "not measured" in recipe_states.norms(pd.concat(lengths).assign(tokens=REGISTER))


def test_committed_results_are_within_the_bounds_that_make_the_recipe_worth_having():
    """Every seed; see the page's paragraphs, which are made from these numbers."""
    file = ROOT / paths.FULL / paths.study("registers") / "states.csv"
    assert params.load_studies(ROOT / paths.FULL / paths.PARAMS).recipes["registers"]
    table = pd.read_csv(file).set_index(["arm", "question", "tokens", "what"]).sort_index()
    last = table["layer"].max()
    encoder, causal = (table.loc[(arm, "holds", REGISTER, "label")] for arm in ("encoder", "causal"))
    assert encoder[encoder["layer"] == last]["value"].min() >= 0.9
    local = table.loc[("encoder", "holds", REGISTER, "variant of the first content token")].query("layer == @last")
    assert (local["value"] - local["control"]).max() <= 0.12  # of 0.88 that could be read; 0.08 to 0.115
    middle = table.loc[("encoder", "holds", REGISTER, "token in the middle")].query("layer == @last")
    assert (middle["value"] - middle["control"]).max() <= 0.06
    used = table.loc[("encoder", "used", REGISTER, "shuffle")].query("measure == 'accuracy'")
    assert used["value"].max() <= -0.05 and used["control"].min() >= 0.95
    assert (causal["value"] == causal["control"]).all()
    for arm in ("causal", "back_copy"):
        assert table.loc[(arm, "spread", REGISTER, "spread"), "value"].max() < 1e-5
        assert table.loc[(arm, "used", REGISTER)].loc[["mean", "shuffle"], "value"].abs().max() < 1e-5
    mass = table.loc[("back_copy", "attention", REGISTER, "mass")].query("layer == 0")
    assert (mass["value"] / mass["control"]).min() >= 1.5
    zero, drop = (
        table.loc[("back_copy", "used", REGISTER, edit)].query("measure == 'loss'") for edit in ("zero", "drop")
    )
    assert zero["value"].min() >= 0.3 and drop["value"].abs().max() <= 0.02


def test_committed_results_of_patches_show_what_the_page_says_of_them():
    """In every seed: the bounds that were set before any of them was trained."""
    file = ROOT / paths.FULL / paths.study("patches") / "states.csv"
    table = pd.read_csv(file).set_index(["arm", "question", "tokens", "what"]).sort_index()
    holds = table.loc[("digit", "holds")].query("layer == 4")["value"]
    background, objects = (table.loc[("digit", "holds", f"{kind} patch", "digit")] for kind in ("background", "object"))
    background, objects = (of.query("layer == 4").set_index("seed")["value"] for of in (background, objects))
    assert background.min() >= 0.85 and objects.min() >= 0.65 and (background - objects).min() >= 0.04
    assert holds.loc[("background patch", "own pixels")].max() <= 0.25 < holds.loc[("object patch", "own pixels")].min()
    assert holds.loc[("class token", "digit")].min() >= 0.85
    used = table.loc[("digit", "used")].query("measure == 'accuracy'")
    assert used["control"].min() >= 0.93 and used.loc[("4 background patches", "drop"), "value"].abs().max() <= 0.05
    if "dumps" in table.index.get_level_values("arm"):
        mass = table.loc[("dumps", "attention", REGISTER, "mass")].query("layer == 0")
        assert (mass["value"] / mass["control"]).min() >= 1.2
        edits = table.loc[("dumps", "used", REGISTER)].query("measure == 'accuracy'")
        assert edits.loc[["mean", "shuffle"], "value"].abs().max() <= 0.03
