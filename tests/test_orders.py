"""Task `orders`, and its part of `apply`: answers are right, nothing gives them away; what is said holds."""

from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import make

from stages import tasks
from stages.applied import orders
from stages.model.forward import forward
from stages.model.score import LastTokens
from stages.model.tokens import encode, encode_all
from stages.model.vectors import in_place
from stages.page import inputs
from stages.page.sections import orders as section
from stages.statistics import orders as statistics
from stages.statistics.control import NONE, Pool
from stages.statistics.vector_heads import Ranking, Setting
from stages.store import tables
from stages.tasks.extrapolation.prompts import real_words
from stages.tasks.icl.pairs import Frame
from stages.tasks.orders.settings import Settings
from stages.tasks.orders.task import BACKWARDS, KNOWN, MADE_UP, NOT_STATED, SHUFFLED

FRAME = Frame("Q: {x}\nA: {y}\n\n")


def settings(**changed) -> Settings:
    same = {"path": "stages/sources/words", "known": 3, "made_up": 8, "length": 13, "shots": 10}
    return Settings(**same | {"statement": "Order: {words}\n\n", "template": FRAME.template} | changed)


@pytest.fixture(scope="module")
def prompts():
    return tasks.of("orders").build(settings(), 17)


def stated(prompt) -> list[str]:
    """Return the words of the order that a prompt states, in their order."""
    first = prompt.text.split("\n", 1)[0]
    return first.removeprefix("Order: ").split(", ") if first.startswith("Order: ") else []


def test_answers_are_the_next_words_of_what_is_stated_or_known(prompts):
    for prompt in prompts:
        word, (right, *rival) = FRAME.word(prompt.text), [target.strip() for target in prompt.targets]
        row, known = stated(prompt), dict(pairwise(KNOWN.get(prompt.condition, ())))
        steps = dict(pairwise(row))
        if prompt.category == BACKWARDS:
            assert steps[right] == word and rival == [steps[word]]
        elif prompt.category == SHUFFLED:
            assert steps[word] == right and rival == [known[word]] != [right]
            assert not any(known.get(x) == y for x, y in pairwise(row)) and set(row) <= set(KNOWN[prompt.condition])
        elif row:
            assert steps[word] == right and steps[rival[0]] == word
        else:
            assert not rival and (prompt.condition == MADE_UP or known[word] == right)
        span = prompt.relations[0]
        text = prompt.text + prompt.targets[0]
        assert (text[span.key_start : span.key_end], text[span.query_start : span.query_end]) == (word, right)


def test_demonstrations_follow_the_same_rule_and_show_no_word_of_an_answer(prompts):
    for prompt in (prompt for prompt in prompts if prompt.role == "clean"):
        shown = FRAME.shown(prompt.text[prompt.text.index("Q: ") :])
        every = pairwise(stated(prompt)) if stated(prompt) else chain(*map(pairwise, KNOWN.values()))
        steps = {} if prompt.condition == MADE_UP and not stated(prompt) else dict(every)
        for x, y in shown if steps else ():
            assert (steps[y] == x) if prompt.category == BACKWARDS else (steps[x] == y)
        words = {word for pair in shown for word in pair}
        assert not words & {FRAME.word(prompt.text), *(target.strip() for target in prompt.targets)}
        own = {"letters": 6, "numbers": 6, MADE_UP: 6, "months": 5, "weekdays": 2}[prompt.condition]
        known = prompt.category == NOT_STATED and prompt.condition != MADE_UP
        assert len(set(shown)) == len(shown) == (10 if known else own)
        if prompt.category == NOT_STATED and prompt.condition == MADE_UP:
            assert prompt.targets[0] not in prompt.text


def test_no_demonstration_of_split_a_holds_a_word_asked_in_b_or_its_answer(prompts):
    """What is learned on a is reported on b: 21 of the 27 steps asked there were demonstrated to the vector."""
    words = {"a": set(), "b": set()}
    for prompt in prompts:
        if prompt.condition in KNOWN and prompt.category == NOT_STATED:
            pairs = [(FRAME.word(prompt.text), prompt.targets[0].strip())]
            pairs = FRAME.shown(prompt.text) if prompt.split == "a" else pairs
            words[prompt.split] |= {word for pair in pairs for word in pair}
    assert words["a"] and words["b"] and not words["a"] & words["b"]


def test_words_of_a_split_are_not_asked_in_the_other_and_made_up_ones_exist_nowhere(prompts):
    asked = {split: {(p.condition, FRAME.word(p.text)) for p in prompts if p.split == split} for split in "ab"}
    assert asked["a"] and not asked["a"] & asked["b"] and MADE_UP not in {condition for condition, _ in asked["a"]}
    rows = {prompt.cluster: stated(prompt) for prompt in prompts if prompt.category == "stated"}
    words = [word for row in rows.values() for word in row]
    assert len(rows) == 8 and len(words) == len(set(words)) == 8 * 13
    assert not set(words) & real_words(Path("stages/sources/words"))
    per_cell = pd.Series([p.category for p in prompts if p.role == "clean" and p.split == "b"]).value_counts()
    assert per_cell.min() >= 20


def test_more_orders_leave_the_first_ones_as_they_are(prompts):
    more = {prompt.id: prompt for prompt in tasks.of("orders").build(settings(known=4, made_up=9), 17)}
    assert len(more) > len(prompts) and all(more[prompt.id] == prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [("template", "{y} {x}", "must come before"), ("template", "{x}", "must contain {x} once and {y} once"),
     ("statement", "Order:", "must contain {words} once")],
)  # fmt: skip
def test_wrong_templates_say_what_is_wrong(key, text, said):
    with pytest.raises(ValueError, match=said):
        settings(**{key: text})


@pytest.fixture(scope="module")
def loaded():
    return make("llama_gqa")


def as_rows(prompts) -> list:
    spans = ("name", "query_start", "query_end", "key_start", "key_end")
    rows = [vars(p) | {"relations": [{name: getattr(s, name) for name in spans} for s in p.relations]} for p in prompts]
    return list(pd.DataFrame(rows).itertuples())


def test_the_vector_is_the_mean_over_right_answers_of_orders_that_are_solved(monkeypatch, loaded, prompts):
    """Months: 3 of 3 right, outputs 1; numbers: 5 of 9, outputs 9; letters: 4 of 9, which a bar of 0.5 keeps out."""
    planted = {"months": (3, 1.0), "numbers": (5, 9.0), "letters": (4, 100.0), "weekdays": (0, None)}

    def planting(_, tokens, begins):
        number, output = planted[tokens[0].prompt.split("/")[1].split("-")[0]]
        return [at < number for at in range(len(tokens))], {(0, 1): torch.full((2,), output)} if number else {}

    monkeypatch.setattr("stages.model.demonstrated.demonstrated", planting)
    clean = as_rows(prompt for prompt in prompts if prompt.role == "clean" and prompt.split == "a")
    answers, means = orders.learned(loaded, clean, 0.5)
    assert len(answers) == len(clean)
    assert means[0, 1].tolist() == pytest.approx([(3 * 1.0 + 5 * 9.0) / 8] * 2)
    assert orders.learned(loaded, clean, 1.01)[1] == {}
    assert sum(row["correct"] for row in answers) == 12


def test_right_and_rival_answers_are_those_of_prompts_scored_alone(loaded, prompts):
    rows = as_rows(prompt for prompt in prompts if prompt.cluster == "made_up-00" and prompt.category == BACKWARDS)
    tokens = [encode_all(loaded, rows), [encode(loaded, row, 1) for row in rows]]
    best = [forward(loaded, [t.ids[:-1]], [t.target - 1]).argmax(-1) for of_target in tokens for t in of_target]
    naive = [
        bool((ids.numpy() == t.ids[t.target]).all())
        for ids, t in zip(best, [t for of_target in tokens for t in of_target], strict=True)
    ]
    told = orders.shown(loaded, rows)
    assert [row["correct"] for row in told] + [row["rival"] for row in told] == naive


def test_the_setting_under_which_most_words_are_right_is_chosen(loaded, prompts):
    """Of heads that write nothing new and heads that write what the model writes anyway, likelier answers decide."""
    rows = as_rows(prompt for prompt in prompts if prompt.role == "zero_shot" and prompt.condition == "months")
    size = loaded.anatomy.layers[0].head_size
    means = {(0, 0): torch.zeros(size), (0, 1): torch.full((size,), 50.0)}
    number, merits = orders.chosen(loaded, rows, means, [(0, 0), (0, 1)], [1, 2, 9]), {}
    for many in (1, 2):
        edit = in_place(means, [(0, 0), (0, 1)][:many])
        scored = LastTokens(loaded, encode_all(loaded, rows)).edited([[edit]] * len(rows))
        merits[many] = np.mean([of_row[0].logprob.mean() for of_row in scored])
    assert merits[number] == max(merits.values()) > min(merits.values())


def test_control_sets_are_written_in_the_same_way_where_the_heads_are_ever_right(monkeypatch, loaded, prompts):
    """Heads that are right in known orders alone: sets of other heads, as many, are written on those words only."""
    known, made_up = (
        as_rows(p for p in prompts if p.role == "zero_shot" and p.split == "b" and p.condition == name)[:3]
        for name in ("weekdays", MADE_UP)
    )
    heads = [(0, 1), (1, 2), (2, 0)]
    pool = Pool(tuple(loaded.anatomy.heads), dict.fromkeys(loaded.anatomy.layers, "global"), {"function": set(heads)})
    order, size = Ranking(heads, pool, 3, 17, "orders/decoder"), loaded.anatomy.layers[0].head_size
    means = {head: torch.full((size,), float(place)) for place, head in enumerate(loaded.anatomy.heads)}
    asked: list = []

    class Planned:
        def __init__(self, _, encoded):
            self.right = [row.condition == "weekdays" for row in asked.pop()]

        def edited(self, edits):
            written.extend(edits[0])
            best = np.zeros(99, int)  # of more tokens than any answer has
            return [[SimpleNamespace(solved=right and bool(edit.heads), best=best) for edit in edits[0]]
                    for right in self.right]  # fmt: skip

    written: list = []
    monkeypatch.setattr("stages.model.score.LastTokens", Planned)
    monkeypatch.setattr("stages.model.tokens.encode_all", lambda of, rows: asked.append(rows) or encode_all(of, rows))
    told = pd.DataFrame(orders.written(loaded, known + made_up, means, order, 2))
    counts = told.groupby(["ordering", "vector"]).size()
    assert counts.to_dict() == {("weekdays", "none"): 3, ("weekdays", "heads"): 3, ("weekdays", "control"): 9,
                                (MADE_UP, "none"): 3, (MADE_UP, "heads"): 3}  # fmt: skip
    assert [list(edit.heads) for edit in written] == [[], heads[:2], *map(list, order.control_sets(2))]
    assert all(edit.heads[head] is means[head] for edit in written for head in edit.heads)
    sets = told[told.vector == "control"].drop_duplicates("draw")
    assert not sets.names.str.contains("L0H1|L1H2|L2H0").any() and (sets.matching.str.startswith(("0", "1", "2"))).all()
    assert set(told[told.vector == "heads"].names) == {"L0H1 L1H2"}


@pytest.mark.parametrize(("said", "learned"), [("M", True), ("7", False)])
def test_a_blank_is_no_word_of_a_known_order(monkeypatch, loaded, prompts, said, learned):
    """Here ' March' is a blank and letters: the blank alone was a word that was learned."""
    rows = as_rows(p for p in prompts if p.role == "zero_shot" and p.condition == "months")
    rows = [row for row in rows if row.targets[0][:2] != " A"]  # ' A' is one token
    best = np.array(loaded.tokenizer.convert_tokens_to_ids(["Ġ", said, *"z" * 30]))
    every = [[SimpleNamespace(solved=False, best=best)]] * len(rows)
    monkeypatch.setattr("stages.model.score.LastTokens", lambda *of: SimpleNamespace(edited=lambda edits: every))
    order = SimpleNamespace(of=lambda setting: [], matching=lambda setting: "")
    told = orders.under(loaded, rows, {}, [Setting("none")], order)
    assert [row["learned"] for row in told] == [learned] * len(rows)


def test_the_edits_reach_the_answers(loaded, prompts):
    rows = as_rows(p for p in prompts if p.role == "zero_shot" and p.condition == "months")
    pool = Pool(tuple(loaded.anatomy.heads), dict.fromkeys(loaded.anatomy.layers, "global"), {"function": {(0, 0)}})
    order, size = Ranking([(0, 0)], pool, 2, 17, "orders/decoder"), loaded.anatomy.layers[0].head_size
    means = dict.fromkeys(loaded.anatomy.heads, torch.full((size,), 50.0))
    settings = [Setting("none"), Setting("heads", heads=1), Setting("control", heads=1, draw=2)]
    told = orders.under(loaded, rows, means, settings, order)
    edits = [in_place(means, order.of(setting)) for setting in settings]
    scored = LastTokens(loaded, encode_all(loaded, rows)).edited([edits] * len(rows))
    assert [row["correct"] for row in told] == [one.solved for of_row in scored for one in of_row]
    first = [[int(one.best[0]) for one in of_row] for of_row in scored]
    assert any(len(set(of_row)) > 1 for of_row in first)  # what is written decides


def outcomes(order: str, category: str, right: int, rival: int | None, vector: str = "none", learned: int = 0, of=24):
    context = "zero_shot" if learned or vector != "none" else "clean"
    same = {"ordering": order, "category": category, "split": "b", "context": context, "vector": vector, "heads": 14}
    same |= {"draw": 0, "names": "", "matching": ""}
    return [
        same | {"prompt": f"orders/{order}-{n % 8:02d}/{category}-{n // 8}#{context}"}
        | {"cluster": f"{order}-{n % 8:02d}", "correct": n < right}
        | {"rival": None if rival is None else of - rival <= n}
        | {"learned": n < learned if context == "zero_shot" else None}
        for n in range(of)
    ]  # fmt: skip


ALIKE = "1 of 2 in the same layers, 2 of 2 of the same attention kind"


def drawn(order: str, category: str, right: int, sets: int = 19) -> list[dict]:
    """Outcomes of control sets, the first of which answers `right` words, the others none."""
    return [
        row | {"draw": draw, "names": f"L0H{draw} L1H{draw}", "matching": ALIKE, "learned": False}
        for draw in range(1, sets + 1)
        for row in outcomes(order, category, right if draw == 1 else 0, None, "control")
    ]


def runs(
    stated: int, back: int, on: int, told: int, known: int, steps: int, learned: int, other: int = 0, sets: int = 19
) -> pd.DataFrame:
    """other: words that the first control set answers in a known order; sets: how many control sets there are."""
    rows = outcomes("letters", "not_stated", 4, None, of=12) + outcomes("numbers", "not_stated", 12, None, of=12)
    rows += outcomes("letters", "shuffled", told, known)
    rows += outcomes(MADE_UP, "not_stated", 0, None) + outcomes(MADE_UP, "stated", stated, 0)
    rows += outcomes(MADE_UP, "backwards", back, on)
    for vector, right in (("none", 0), ("heads", 20 * (learned == 0))):
        rows += [row | {"context": "zero_shot", "learned": False}
                 for row in outcomes("numbers", "not_stated", right, None, vector)]  # fmt: skip
    rows += drawn("numbers", "not_stated", other, sets) if learned == 0 else []
    rows += drawn(MADE_UP, "stated", 0, sets) if steps else []
    for vector, right, words in (("none", 0, 0), ("heads", steps, learned)):
        rows += [
            row | {"context": "zero_shot", "learned": row["learned"] or False}
            for row in outcomes(MADE_UP, "stated", right, None, vector, words)
        ]
    return pd.DataFrame(rows)[tables.ORDERS.names]


def as_read(made: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The table as the page reads it."""
    made.to_csv(folder / "orders.csv", index=False)
    return inputs.frame(folder / "orders.csv", inputs.COLUMNS["orders"].split())


def test_shares_leads_and_metrics_of_a_table_are_counted():
    made = statistics.table(runs(12, 2, 10, 6, 12, 0, 24), {}, 13)
    at = made.set_index(["ordering", "category", "context", "vector"])
    assert at.accuracy["known", "not_stated", "clean", "none"] == pytest.approx(16 / 24)
    assert at.trials["known", "not_stated", "clean", "none"] == 24
    assert "12 words: fewer than 20" in at.note["letters", "not_stated", "clean", "none"]
    back = at.loc[MADE_UP, "backwards", "clean", "none"]
    assert (back.accuracy, back.rival, back.lead) == pytest.approx((2 / 24, 10 / 24, -8 / 24))
    assert at.guess[MADE_UP, "stated", "clean", "none"] == pytest.approx(1 / 12)
    assert pd.isna(at.guess[MADE_UP, "not_stated", "clean", "none"])
    assert back.lead_low < back.lead < back.lead_high < 0 and back.clusters == 8
    assert statistics.metrics(made) == {
        "known": {"not_stated": 0.66667, "shuffled": 0.25, "shuffled_known": 0.5},
        "made_up": {"not_stated": 0.0, "stated": 0.5, "backwards": 0.08333, "backwards_next": 0.41667},
        "vector": {"known_not_stated": 0.0, "made_up_stated": 0.0},
    }
    assert statistics.made_up_order(made) == 0.5 and statistics.made_up_order(made.head(0)) is None


def test_the_heads_are_ranked_among_control_sets_on_the_same_words():
    made = statistics.table(runs(12, 2, 10, 6, 12, 18, 0, other=20), {}, 13)
    at = made.set_index(["ordering", "category", "vector"])
    for order in ("known", "numbers"):  # one of 19 sets does as well: (1 + 1) / (1 + 19)
        row = at.loc[order, "not_stated", "heads"]
        assert (row.controls, row.p, row.p_floor, row.overlap) == (19, pytest.approx(0.1), pytest.approx(0.05), 0)
        assert row.control_accuracy == pytest.approx(20 / 24 / 19)
        assert row.matching == f"{ALIKE}; no set holds a head tried for the vector"
    controls = at.loc["known", "not_stated", "control"]
    assert controls.accuracy == pytest.approx(20 / 24 / 19) and controls.trials == 24 and pd.isna(controls.p)
    assert at.p[MADE_UP, "stated", "heads"] == pytest.approx(0.05)
    none = statistics.table(runs(12, 2, 10, 6, 12, 0, 24), {}, 13).set_index(["ordering", "category", "vector"])
    assert none.controls[MADE_UP, "stated", "heads"] == 0 and pd.isna(none.p[MADE_UP, "stated", "heads"])
    assert none.matching[MADE_UP, "stated", "heads"] == statistics.NOT_RUN
    few = statistics.table(runs(12, 2, 10, 6, 12, 18, 0, sets=0), {}, 13).set_index(["ordering", "category", "vector"])
    assert few.matching[MADE_UP, "stated", "heads"] == NONE


@pytest.mark.parametrize(
    ("other", "sets", "said", "never"),
    [
        (0, 19, "none of 19 control sets is as accurate: rank p = 0.05, its floor. So what is written", "not told"),
        (20, 19, "1 of 19 control sets is as accurate: rank p = 0.10; not told apart from other heads.", "next word"),
        (0, 4, "cannot fall below 0.20, so that they are not told apart", "next word"),
        (0, 0, "no control set was run (no control possible: too few other heads), so that this may be", "next word"),
    ],
)
def test_that_the_step_carries_is_said_only_where_other_heads_do_not_carry_it(tmp_path, other, sets, said, never):
    made = statistics.table(runs(18, 2, 20, 20, 2, 0, 0, other, sets), {}, 13)
    made = as_read(made, tmp_path)
    text = section.vector(made[made.context == "zero_shot"], {}, 0.05)
    text = text[text.index("In known orders, together") :]
    assert said in text and never not in text


OF_KNOWN, OF_STATED = ("known", "not_stated"), (MADE_UP, "stated")


@pytest.mark.parametrize(
    ("where", "cells", "said", "never"),
    [
        (OF_KNOWN, {"control_accuracy": 0.7}, "held; under as many other heads 0.70 of the words", "not told"),
        (OF_KNOWN, {"accuracy": 0.0, "low": 0.0, "high": 0.1}, "24 words: fewer than with nothing", "not told"),
        (OF_STATED, {"p": 0.3}, "by guessing; 5 of 19 control sets are as accurate: rank p = 0.30; not", "no step"),
        (OF_STATED, {"p": np.nan, "controls": 0, "matching": NONE}, "by guessing; no control set was run", "no step"),
        (OF_STATED, {"p": 0.5, "p_floor": 0.5, "controls": 1}, "the only control set is not as accurate", "none of"),
    ],
)
def test_what_is_seen_is_said_though_other_heads_may_do_the_same(tmp_path, where, cells, said, never):
    """A step that is not told apart from other heads was called unseen, and sets that carry part of it nothing."""
    read = as_read(statistics.table(runs(18, 2, 20, 20, 2, 18, 0), {}, 13), tmp_path)
    read = read[read.context == "zero_shot"].set_index(["ordering", "category", "vector"]).sort_index()
    read.loc[(*where, "heads"), list(cells)] = list(cells.values())
    read.loc[(*OF_KNOWN, "none"), "accuracy"] = 0.3
    text = section.vector(read.reset_index(), {}, 0.05)
    parts = dict(zip((OF_KNOWN, OF_STATED), text.split("In known orders")[1].split(" In made-up orders"), strict=True))
    assert said in parts[where] and never not in parts[where]


@pytest.mark.parametrize(
    ("numbers", "said", "never"),
    [
        ((18, 2, 20, 20, 2, 0, 24),
         ["is found more often than by guessing, though it does not exist", "what followed is copied more often",
          "need be no more than such copying", "what is stated counts more", "with the vector come those words"],
         "counts more is not told apart"),
        ((18, 20, 2, 2, 20, 18, 0),
         ["the step is taken the way it is demonstrated", "what may be known counts more", "it steps on",
          "that none of these held"], "copied"),
        ((0, 0, 0, 6, 6, 0, 0),
         ["no step to the next word is seen", "which of the two counts more is not told apart",
          "that none of these held", "next words that the model knows, is not settled"],
         "than by guessing"),
    ],
)  # fmt: skip
def test_sentences_follow_the_table(tmp_path, numbers, said, never):
    made = statistics.table(runs(*numbers), {}, 13)
    slot = SimpleNamespace(orders=as_read(made, tmp_path), path=str, reasons={})
    blocks = section.orders(slot, SimpleNamespace(alpha=0.05))
    text = " ".join(block.text for block in blocks[2:] if block.kind == "note")
    assert all(sentence in text for sentence in said) and never not in text


@pytest.mark.parametrize(
    ("high", "shown", "said"),
    [
        (0.2, (0.5, 0.3, 0.7), "are right, after demonstrations 0.50 [0.30, 0.70]. It calls up next words that"),
        (0.4, (0.5, 0.3, 0.7), "more than 0.40 is excluded, but after demonstrations, too, only 0.50 [0.30, 0.70] are"),
        (0.4, None, "no step is seen that it adds."),
    ],
)
def test_that_no_step_is_taken_is_said_only_where_demonstrations_would_take_more(high, shown, said):
    """A vector as good as demonstrations was hardly excluded, and the verdict was that it takes no step."""

    def row(accuracy, low, high, **more):
        rest = {"trials": 24, "p": 0.05, "guess": 0.1, "learned_low": 0.0, "learned_high": 0.2}
        return rest | {"accuracy": accuracy, "low": low, "high": high} | more

    none, known = row(0.0, 0.0, 0.1), [row(0.8, 0.6, 0.9), row(0.0, 0.0, 0.1)]
    text = section._steps(row(0.0, 0.0, high), none, shown and row(*shown), known, 0.05)
    assert said in text


def test_what_was_not_measured_says_why(tmp_path):
    made = statistics.table(runs(18, 2, 18, 18, 2, 0, 24).query("context == 'clean'"), {"vector": "none is solved"}, 13)
    slot = SimpleNamespace(orders=as_read(made, tmp_path), path=str, reasons={})
    texts = [block.text for block in section.orders(slot, SimpleNamespace(alpha=0.05)) if block.kind == "note"]
    assert "The vector of the step was not measured: none is solved." in texts
    empty = statistics.table(tables.ORDERS.schema.empty_table().to_pandas(), {}, 2)
    assert empty.empty and list(empty.columns) == statistics.COLUMNS and statistics.metrics(empty) == {}
    slot = SimpleNamespace(orders=made.head(0), path=str, reasons={"orders": "an encoder writes no continuation"})
    (note,) = section.orders(slot, None)
    assert note.text == "No order was asked about: an encoder writes no continuation."


def test_a_model_that_reads_no_demonstrations_is_asked_nothing(tmp_path, monkeypatch, loaded, prompts):
    monkeypatch.chdir(tmp_path)
    bare = [row for row in as_rows(prompts) if row.role == "zero_shot"]
    monkeypatch.setattr("stages.model.tokens.fitting", lambda loaded, rows: (bare, [None] * len(bare)))
    monkeypatch.setattr("stages.store.table.Table.read", lambda self, *of: pd.DataFrame(bare))
    monkeypatch.setattr("stages.store.records.read", lambda slot: {"kind": "decoder"})
    monkeypatch.setattr("stages.tasks.unasked", lambda *asked: "")
    orders.measure("a", SimpleNamespace(left_out=lambda name: "", tasks=None), lambda: loaded)
    assert tables.ORDERS.reason("a") == "no prompt with demonstrations fits the model"
