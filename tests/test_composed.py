"""Composed functions: which pairs the lexicon permits, what is written for them, and how sums are ranked."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from tiny import make

from stages import extract, tasks
from stages.applied.composed import sums
from stages.applied.stored import Stored
from stages.model.demonstrated import demonstrated
from stages.model.forward import forward, remembering
from stages.model.intervene import capturing
from stages.model.tokens import encode_all
from stages.page import applied
from stages.statistics import composed
from stages.store import tables
from stages.store.errors import UserError
from stages.tasks.composed.prompts import compositions
from stages.tasks.composed.settings import Settings
from stages.tasks.composed.task import COPY, parts

LEXICON = "stages/sources/words/functions.yaml"


def settings(**changed) -> Settings:
    same = {"path": LEXICON, "pairs": (), "shots": 10, "sets": 2, "words": 20, "least": 16}
    return Settings(**same | {"template": "Q: {x}\nA: {y}\n\n"} | changed)


def test_answers_are_both_functions_and_no_answer_begins_another():
    known = {"double": [*((f"w{n}", f"W{n}x") for n in range(8)), ("keep", "keep")]}
    known |= {"small": [(f"A{n}", f"a{n}") for n in range(4)], "next": [("W1x", "z1"), ("W2x", "w2z"), ("W3x", "w3z")]}
    asked = settings(shots=2, least=1)
    made = compositions(known, asked, 17)
    assert set(made) == {("double", "small")}  # few words of `next`; `small` is a rule, and undoes nothing of its own
    words = dict(pair for pairs in made["double", "small"].values() for pair in pairs)
    assert words == {f"w{n}": f"w{n}x" for n in range(8)}  # `keep` would be right for copying as well


def test_prompts_ask_words_that_chose_nothing_and_demonstrate_others():
    prompts = tasks.of("composed").build(settings(), 17)
    assert "capitalize of singular-plural" in {prompt.condition for prompt in prompts}
    single = {p.id: p for p in tasks.of("icl").build(icl_settings(), 17)}
    chosen = {
        p.text.rpartition("Q: ")[2] for p in single.values() if p.condition == "singular-plural" and p.split == "a"
    }
    plurals = [p for p in prompts if p.condition == "capitalize of singular-plural"]
    asked = {(p.role, p.split): {q.text.rpartition("Q: ")[2] for q in plurals if (q.role, q.split) == (p.role, p.split)}
             for p in plurals}  # fmt: skip
    assert not asked["zero_shot", "b"] & chosen and asked["zero_shot", "b"] == asked["clean", "b"]
    assert not asked["clean", "a"] & asked["clean", "b"]
    for prompt in plurals:
        if prompt.role == "clean":
            assert prompt.text.count("Q: ") == 11 and "\nA:" + prompt.targets[0] + "\n" not in prompt.text
        assert (
            prompt.targets[0][1].isupper()
            and (prompt.text + prompt.targets[0])[prompt.relations[0].query_start : prompt.relations[0].query_end]
            == prompt.targets[0].strip()
        )
    copied = [p for p in prompts if p.condition == COPY]
    assert all(p.text.rpartition("Q: ")[2] == f"{p.targets[0].strip()}\nA:" for p in copied)
    assert parts("capitalize of singular-plural") == ("singular-plural", "capitalize")


def icl_settings():
    kind = tasks.of("icl").settings
    return kind(path=LEXICON, functions=(), shots=10, sets=8, queries=6, template="Q: {x}\nA: {y}\n\n")


def test_an_unknown_pair_is_a_one_line_error():
    with pytest.raises(
        UserError,
        match=r"tasks.composed.pairs = 'rhyme of antonym': allowed: lowercase of",
    ):
        tasks.of("composed").build(settings(pairs=("rhyme of antonym",)), 17)
    with pytest.raises(UserError, match="no two functions leave"):
        tasks.of("composed").build(settings(least=99), 17)


def stored(loaded, functions=("f", "g", "h")) -> Stored:
    generator = torch.Generator().manual_seed(1)

    def drawn(size):
        return torch.randn(size, generator=generator)

    size = loaded.anatomy.layers[0].head_size
    means = {name: {head: drawn(size) for head in loaded.anatomy.heads} for name in functions}
    added = {name: (place % 2, drawn(32)) for place, name in enumerate(functions)}
    return Stored(((1, 2), (0, 1), (2, 0)), {"f": 1, "g": 2, "h": 3}, means, added)


def test_sums_are_written_head_by_head():
    loaded = make("llama_gqa")
    made, zero = stored(loaded), dict.fromkeys(loaded.anatomy.heads, torch.zeros(8))
    copy = {head: torch.ones(loaded.anatomy.layers[0].head_size) for head in zero}
    edits = sums(made, "f", "g", copy, {}, 3, 17, "test")
    assert {key[0] for key in edits} == {"none", "inner", "outer", "sum", "analogy", "other", "random", "added"}
    f, g, h = (made.means[name] for name in "fgh")
    for head in ((1, 2), (0, 1)):  # as many heads as the larger vector holds
        torch.testing.assert_close(edits["sum", 0, "", 2].heads[head], f[head] + g[head])
        torch.testing.assert_close(edits["analogy", 0, "", 2].heads[head], f[head] + g[head] - 1)
        torch.testing.assert_close(edits["other", 1, "h", 2].heads[head], f[head] + h[head] - 1)
        drawn = [edits["random", draw, "", 2].heads[head] - f[head] for draw in (1, 2, 3)]
        assert all(abs(float(step.norm() / (g[head] - 1).norm()) - 1) < 1e-5 for step in drawn)
        assert not torch.allclose(drawn[0], drawn[1])
    assert set(edits["sum", 0, "", 2].heads) == {(1, 2), (0, 1)}
    assert set(edits["added", 0, "", 0].added) == {0, 1}
    torch.testing.assert_close(sums(made, "f", "h", {}, {}, 3, 17, "t")["added", 0, "", 0].added[0],
                               made.added["f"][1] + made.added["h"][1])  # fmt: skip
    assert "analogy" not in {key[0] for key in sums(made, "f", "g", {}, {}, 3, 17, "test")}  # copying unsolved


def test_mean_outputs_of_demonstrations_are_those_of_plain_passes_over_solved_prompts():
    loaded = make("llama_gqa", scale=3.0)
    texts = ["Q: the\nA: a\n\nQ: dog\nA:", "Q: the\nA: a\n\nQ: house\nA:", "Q: on\nA:"]
    same = {"role": "clean", "targets": [" x"], "relations": [], "ordinals": [], "tokens": 0, "bos": True}
    rows = [SimpleNamespace(id=text, text=text, **same) for text in texts]
    best = [int(forward(loaded, [t.ids[: t.target[0]]], [np.array([t.target[0] - 1])]).argmax())
            for t in encode_all(loaded, rows)]  # fmt: skip
    prompts = encode_all(loaded, rows)
    for number in (0, 2):  # the model's own next token: these two are right, the other is not
        prompts[number].ids[prompts[number].target[0]] = best[number]
    prompts = [type(p)(p.prompt, p.role, p.ids[: p.target[0] + 1], p.special[: p.target[0] + 1], p.target[:1], p.spans,
                       p.words, p.arcs) for p in prompts]  # fmt: skip
    solved, means = demonstrated(loaded, prompts, ["same", "same", "other"])
    assert solved == [True, False, True]
    naive, after = [], []
    for number in (0, 2):
        with capturing(loaded) as outputs, remembering(loaded, after=True) as residuals:
            forward(loaded, [prompts[number].ids], headless=True)
        naive.append(outputs[1][0, int(prompts[number].target[0]) - 1])
        after.append(residuals[2][0, int(prompts[number].target[0]) - 1])
    size = loaded.anatomy.layers[1].head_size
    torch.testing.assert_close(means[1, 2], torch.stack(naive).mean(0)[2 * size : 3 * size], atol=1e-5, rtol=1e-4)
    assert demonstrated(loaded, prompts[1:2], ["same"]) == ([False], {})
    named = [extract.Named(row.id, "a", "clean", "f", f"f/{number}") for number, row in enumerate(rows)]
    answered, sums = extract._answered(loaded, named[:2], prompts[:2], "icl")
    answered_alone, sums_alone = extract._answered(loaded, named[2:], prompts[2:], "icl")
    assert [row["solved"] for row in answered + answered_alone] == solved
    made = extract._Sums()
    for of_shard in (sums, sums_alone):
        made.add(pa.Table.from_pylist(of_shard, extract.SUMS))
    for half, number in (("0", 0), ("1", 1)):  # sets 0 and 2; set 1's prompt is not answered right
        group = extract.Group("a", "clean", "f", half)
        for what, layer, expected in (("output", 1, naive[number]), ("residual", 2, after[number])):
            count, mean = made.means(group, what)[layer]
            assert count == 1
            np.testing.assert_allclose(mean, expected.numpy(), atol=1e-5, rtol=1e-4)


def outcomes(function: str, vector: str, right: int, draw: int = 0, beside: str = "", context: str = "zero_shot"):
    same = {"function": function, "split": "b", "context": context, "vector": vector, "heads": 4, "draw": draw}
    same |= {"beside": beside, "logprob": -1.0}
    return [same | {"prompt": f"{function}/{n}", "cluster": f"{function}/{n}", "correct": n < right} for n in range(20)]


def runs(analogy: int, random: int) -> pd.DataFrame:
    rows = []
    for function in ("u of f", "u of g"):
        rows += outcomes(function, "none", 0) + outcomes(function, "none", 18, context="clean")
        rows += outcomes(function, "analogy", analogy) + outcomes(function, "sum", 1) + outcomes(function, "inner", 2)
        rows += outcomes(function, "outer", 0) + outcomes(function, "own", 12) + outcomes(function, "added", 0)
        rows += outcomes(function, "other", 6, 1, "h") + outcomes(function, "other", 0, 2, "i")
        for draw in range(1, 20):
            rows += outcomes(function, "random", random if draw == 3 and function == "u of f" else 0, draw)
    return pd.DataFrame(rows)[tables.COMPOSED.names]


def test_the_sum_is_ranked_among_random_vectors_per_function_and_over_functions():
    made = composed.table(runs(analogy=10, random=10), {"u of k": "accuracy 0.10 after demonstrations"})
    rows = made[made.beside == ""].set_index(["function", "context", "vector"])
    ranked = rows.xs(("zero_shot", "analogy"), level=("context", "vector"))
    assert ranked.p.to_dict() == pytest.approx({"all": 1 / 20, "u of f": 2 / 20, "u of g": 1 / 20})
    assert ranked.accuracy.eq(0.5).all() and ranked.control_largest.to_dict() == {
        "all": 0.25,
        "u of f": 0.5,
        "u of g": 0,
    }
    assert (
        rows.accuracy["all", "zero_shot", "other"] == pytest.approx(0.15) and rows.trials["all", "clean", "none"] == 40
    )
    numbers = composed.metrics(made)
    assert numbers["analogy"] == 0.5 and numbers["demonstrations"] == 0.9 and numbers["p"] == 0.05
    left = made[made.note.str.startswith(composed.LEFT_OUT)]
    assert left.function.tolist() == ["u of k"]


OTHERS = "Of 4 pairs with another function in the second one's place, "


@pytest.mark.parametrize(
    ("analogy", "random", "said", "others", "never"),
    [
        (10, 0, "none of 19 draws is as accurate: rank p = 0.05, its floor. ",
         "none does as well; nearest comes h for u of f (0.30 beside 0.50).", "not told"),
        (2, 8, "1 of 19 draws is as accurate: rank p = 0.10; not told apart from them. ",
         "2 do as well (h for u of f; h for u of g).", "its floor"),
    ],
)  # fmt: skip
def test_sentences_follow_the_rank(analogy, random, said, others, never):
    made = composed.table(runs(analogy, random), {})
    slot = SimpleNamespace(composed=made.assign(vector=made.vector.astype(str)), path=str, reasons={})
    text = applied.composed(slot, 0.05)[0].text
    assert said + OTHERS + others in text and never not in text and "over 40 words" in text


def test_functions_that_were_not_measured_say_why():
    made = composed.table(runs(1, 1).head(0), {"u of k": "accuracy 0.10 after demonstrations"})
    slot = SimpleNamespace(composed=made.assign(vector=made.vector.astype(str)), path=str, reasons={})
    assert applied.composed(slot, 0.05)[0].text == (
        "No composed function was measured: u of k (accuracy 0.10 after demonstrations)."
    )
    slot = SimpleNamespace(composed=made.head(0), path=str, reasons={"composed": "an encoder writes no continuation"})
    assert applied.composed(slot, 0.05)[0].text == "No composed function was asked: an encoder writes no continuation."
