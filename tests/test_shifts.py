"""Functions as shifts: pairs from prompts, v and -v on both members, readings; summaries and what the page says."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from tiny import make
from tokenizers import Tokenizer, decoders, models, normalizers

from stages.applied import shifts as stage
from stages.model.forward import forward
from stages.model.intervene import Edit, editing
from stages.model.readout import embedded, likeliest, read_out, standing
from stages.model.tokens import encode
from stages.page import inputs
from stages.page.section import Context
from stages.page.sections.shifts import SECTION
from stages.statistics import shifts
from stages.store import tables
from stages.tasks.icl.pairs import Frame, own_inverse

FRAME = Frame("Q: {x}\nA: {y}\n\n")


def prepending(name: str = "gpt2"):
    """A tiny model with a tokenizer that begins every text with '▁', as Llama 2's: ' cat' alone is '▁', '▁cat'."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "\n", ":", *map(chr, range(65, 123))]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    merges = []
    for word in ("cat", "dog", "A", "Q"):
        piece = "▁"
        for letter in word:
            merges.append((piece, letter))
            piece += letter
            vocabulary.setdefault(piece, len(vocabulary))
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges)), unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return replace(make(name), tokenizer=hf.PreTrainedTokenizerFast(tokenizer_object=core, **names))


def asked(loaded, word: str, answer: str):
    """The tokens of a question without demonstrations, with its answer."""
    (row,) = stage._prompts(pd.DataFrame({"id": ["p"]}), [FRAME.question(word)], [f" {answer}"])
    return encode(loaded, row)


def icl(pairs: list, shown: list, split: str = "b", kind: str = "form") -> pd.DataFrame:
    """Prompts of a function: each pair asked after demonstrations and without."""
    context = "".join(f"Q: {x}\nA: {y}\n\n" for x, y in shown)
    rows = [
        {"id": f"icl/f/{split}-{number:02}#{role}", "role": role, "condition": "f", "category": kind, "split": split,
         "cluster": f"f/{x}", "text": before + FRAME.question(x), "targets": (f" {y}",)}
        for number, (x, y) in enumerate(pairs)
        for role, before in (("clean", context), ("zero_shot", ""))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_frame_reads_what_it_writes():
    text = "Q: up\nA: down\n\nQ: new york\nA: old york\n\nQ: hot\nA:"
    assert FRAME.shown(text) == [("up", "down"), ("new york", "old york")] and FRAME.word(text) == "hot"
    assert FRAME.instead(text, "cold") == text.replace("hot", "cold")
    assert FRAME.question("hot") == "Q: hot\nA:" and FRAME.word(FRAME.question("hot")) == "hot" and FRAME.white == " "
    arrow = Frame("{x} -> {y}\n")
    assert arrow.word("up -> down\nhot ->") == "up -> down\nhot" or arrow.question("hot") == "hot ->"


def test_a_function_is_its_own_inverse_where_its_lexicon_or_its_pairs_say_so():
    assert own_inverse("involution", [("hot", "cold")])
    words = [(f"a{n}", f"b{n}") for n in range(5)]
    both = words + [(y, x) for x, y in words]
    assert own_inverse("", both) and not own_inverse("", words)
    assert not own_inverse("", both[:7])  # too few whose y is asked as well
    ring = [(str(n), str(n + 1)) for n in range(20)]
    assert not own_inverse("", ring) and not own_inverse("", [(w, w) for w, _ in ring])


def test_pairs_with_a_word_that_the_vector_or_a_demonstration_has_seen_are_left_out():
    asked = icl([("hot", "cold"), ("up", "down"), ("in", "out"), ("big", "small")], [("wet", "dry"), ("on", "in")])
    known = icl([("tall", "down")], [("wet", "dry")], split="a")
    prompts = pd.concat([asked, known])
    pairs = stage.asked_pairs(prompts, FRAME)
    assert list(zip(pairs.x, pairs.y, strict=True)) == [
        ("hot", "cold"),
        ("up", "down"),
        ("in", "out"),
        ("big", "small"),
    ]
    assert stage.seen(pairs, prompts, FRAME).tolist() == [False, True, True, False]


def test_both_members_are_answered_as_in_full_passes():
    loaded = make("gemma3", scale=3.0)
    pairs = pd.DataFrame({"id": ["icl/f/b-00#zero_shot", "icl/f/b-01#zero_shot"], "cluster": ["f/dog", "f/cat"],
                          "x": ["dog", "cat"], "y": ["the", "big"]})  # fmt: skip
    prompts = icl([("dog", "the"), ("cat", "big")], [("tree", "house")])
    vector_D = torch.randn(32, generator=torch.Generator().manual_seed(1))
    edits = {("heads", "heads", factor): Edit(added={1: 4 * factor * vector_D}) for factor in (1.0, -1.0)}
    solved = {"icl/f/b-00#clean": True, "icl/f/b-01#clean": False}
    rows = pd.DataFrame(stage.answered(loaded, pairs, prompts, solved, FRAME, edits, True))
    assert len(rows) == 2 * 2 * 3 + 2 + 2
    for row in rows[rows.vector != "demonstrations"].itertuples():
        pair = pairs[pairs.id == row.prompt].iloc[0]
        word, other = (pair.x, pair.y) if row.asked == "x" else (pair.y, pair.x)
        prompt = stage._prompts(pairs.head(1), [FRAME.question(word)], [f" {other}"])[0]
        tokens = encode(loaded, prompt)
        edit = edits.get((row.vector, row.kind, row.factor), Edit())
        with editing(loaded, [edit], int(tokens.target[0]) - 1):
            best = forward(loaded, [tokens.ids], [tokens.target - 1]).argmax(1).numpy()
        assert row.other == (best == tokens.ids[tokens.target]).all()
        assert row.echo == (best[0] == loaded.tokenizer(f" {word}").input_ids[0])
    demonstrated = rows[rows.vector == "demonstrations"]
    assert demonstrated[demonstrated.asked == "x"].other.tolist() == [True, False]
    assert set(demonstrated[demonstrated.asked == "y"].prompt) == set(pairs.id)
    rest = list(stage.answered(loaded, pairs, prompts, solved, FRAME, {}, False))
    assert {row["asked"] for row in rest if row["vector"] == "demonstrations"} == {"x"}


def test_an_echo_is_told_by_what_follows_the_blank():
    """' 12' and ' 34' both begin with a blank, so that neither was told; ' the' has none, and any blank was an echo."""
    loaded = make("gemma3", scale=3.0)
    pairs = pd.DataFrame({"id": ["a", "b"], "cluster": ["a", "b"], "x": ["12", "12"], "y": ["34", "the"]})
    vector_D = torch.randn(32, generator=torch.Generator().manual_seed(1))
    edits = {("heads", "heads", float(n)): Edit(added={1: 9 * n * vector_D}) for n in range(-3, 4)}
    rows = pd.DataFrame(stage._asked(loaded, pairs.assign(text=pairs.x.map(FRAME.question), asked="x"), FRAME, edits))
    echoes = []
    for row in rows[rows.prompt == "a"].itertuples():
        tokens, token = asked(loaded, "12", "34"), loaded.tokenizer.convert_tokens_to_ids("1")
        with editing(loaded, [edits[row.vector, row.kind, row.factor]], int(tokens.target[0]) - 1):
            best = forward(loaded, [tokens.ids], [tokens.target - 1]).argmax(1).tolist()
        echoes.append(best[1] == token)
    assert rows[rows.prompt == "a"].echo.tolist() == echoes
    assert rows[rows.prompt == "b"].echo.isna().all()  # nobody asked what follows a blank


def test_tokens_are_those_of_an_answer_where_it_stands():
    loaded = prepending()
    pairs = pd.DataFrame({"id": ["a", "b"], "x": ["cat", "dog"], "y": ["dog", "cat"]})
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.tokenizer(" dog").input_ids) == ["▁", "▁dog"]
    cat, dog = loaded.tokenizer.convert_tokens_to_ids(["▁cat", "▁dog"])
    assert [stage._first_tokens(loaded, pairs, column, FRAME) for column in "xy"] == [[cat, dog], [dog, cat]]
    table = loaded.model.get_input_embeddings().weight
    assert torch.equal(embedded(loaded, [asked(loaded, "cat", "dog")]), table[[dog]])
    digits = make("gpt2")  # ' 18': 'Ġ', '1', '8'
    numbers = pd.DataFrame({"id": ["a"], "x": ["18"], "y": ["81"]})
    one, eight = digits.tokenizer.convert_tokens_to_ids(["1", "8"])
    assert [stage._first_tokens(digits, numbers, column, FRAME) for column in "xy"] == [[one], [eight]]
    table = digits.model.get_input_embeddings().weight
    torch.testing.assert_close(embedded(digits, [asked(digits, "18", "81")])[0], table[[one, eight]].mean(0))


def test_pairs_are_laid_out_by_what_their_words_are_in_the_prompt(monkeypatch):
    loaded, given = prepending(), []
    monkeypatch.setattr(stage.offsets, "rows", lambda *of: given.append(of[:2]) or [])
    pairs = pd.DataFrame({"id": ["p"] * 30, "x": ["cat"] * 30, "y": ["dog"] * 30})
    assert list(stage.in_spaces(loaded, pairs, FRAME, 1, np.random.default_rng(0))) == []
    table, (embedding, state) = loaded.model.get_input_embeddings().weight.detach().numpy(), given
    for word, rows_PD in zip(("▁cat", "▁dog"), embedding, strict=True):
        assert np.array_equal(rows_PD, table[[loaded.tokenizer.convert_tokens_to_ids(word)] * 30])
    assert state[0].shape == (30, 32) and not np.allclose(*state)


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "llama_gqa"])
def test_a_vector_is_read_by_the_last_norm_and_the_unembedding(name):
    loaded = make(name, scale=3.0)
    vectors_ND = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    norm = next(m for n, m in loaded.model.named_modules() if n in ("model.norm", "transformer.ln_f"))
    with torch.no_grad():
        expected_NV = loaded.model.get_output_embeddings()(norm(vectors_ND))
    logits_NV = read_out(loaded, vectors_ND)
    torch.testing.assert_close(logits_NV, expected_NV, atol=1e-4, rtol=1e-4)
    assert likeliest(loaded, logits_NV, 2)[0][0] == loaded.tokenizer.decode([int(expected_NV[0].argmax())])
    below = [np.mean([(row < row[token]).float().mean() for token in (5, 9)]) for row in expected_NV]
    np.testing.assert_allclose(standing(logits_NV, [5, 9]), below, atol=0.01)
    table = loaded.model.get_input_embeddings()
    with torch.no_grad():
        ids = torch.tensor(loaded.tokenizer(" dog").input_ids)
        torch.testing.assert_close(embedded(loaded, [asked(loaded, "cat", "dog")])[0], table(ids).mean(0))


def test_the_vector_that_was_most_accurate_on_split_a_is_added_and_times_factor():
    rows = [
        {"function": "f", "vector": name, "layer": layer, "strength": 2.0, "heads": 1, "names": "L1H2", "split": split,
         "context": "zero_shot", "chosen": split == "b", "correct": correct, "logprob": -1.0}
        for name, layer, a, b in (("function", 1, 0.0, 1.0), ("layer_average", 2, 1.0, 0.0), ("heads", -1, 1.0, 1.0))
        for split, correct in (("a", a), ("b", b))
    ]  # fmt: skip
    steered = pd.DataFrame(rows)
    chosen = stage.chosen_settings(steered)
    best = stage.best_added(steered, chosen)
    assert best.vector == "layer_average"
    vector_D, means = torch.ones(4), {(1, 2): torch.full((3,), 5.0)}
    added = stage.edit(means, {"f.layer_average": {2: vector_D, 3: 3 * vector_D}}, best, -1.0).added
    assert torch.equal(added[2], -2 * vector_D) and torch.equal(added[3], -6 * vector_D)
    assert torch.equal(stage.edit(means, {}, chosen["heads"], 2.0).heads[1, 2], torch.full((3,), 10.0))


def answers(back: int, minus: int, pairs: int = 24, inverse: bool = True, there: int = 20) -> pd.DataFrame:
    """Raw answers: v leads from x to y in 20 pairs, from y to x in `back`, minus v from y to x in `minus`."""
    right = {("x", 1.0): there, ("x", -1.0): 0, ("y", 1.0): back, ("y", -1.0): minus, ("x", 2.0): 5}
    right |= {("x", 0.0): 0, ("y", 0.0): 0}
    rows = [
        {"function": "opposite", "inverse": inverse, "prompt": f"p{n}", "cluster": f"w{n}", "asked": asked,
         "vector": "heads" if factor else "none", "kind": "heads", "factor": factor, "other": n < count,
         "echo": None if n == 0 else False}
        for (asked, factor), count in right.items()
        for n in range(pairs)
    ]  # fmt: skip
    return pd.DataFrame(rows)[tables.SHIFTS.names]


def said(table: pd.DataFrame, readings: pd.DataFrame | None = None) -> str:
    read = readings if readings is not None else pd.DataFrame(columns=shifts.READ)
    steering = pd.DataFrame(columns=inputs.COLUMNS["steering"].split())
    slot = SimpleNamespace(shifts=table, readings=read, steering=steering, reasons={"shifts": "no function is solved"},
                           path=lambda file: file)  # fmt: skip
    return " ".join(block.text for block in SECTION.build(slot, Context({}, [])) if block.kind == "note")


def offset_rows() -> pd.DataFrame:
    rows = [
        {"function": name, "space": space, "layer": -1, "measure": measure, "value": value, "low": None, "high": None,
         "value_null": 0.0, "p": 0.01, "pairs": 24}
        for name, value in (("opposite", 0.02), ("upper", 0.5))
        for space in ("embedding", "state")
        for measure in ("cosine", "axis", "dimensions", "parallelogram", "nearest")
    ]  # fmt: skip
    return pd.DataFrame(rows)[tables.OFFSETS.names]


def test_an_instruction_leads_back_with_its_own_sign_and_an_offset_with_the_other():
    table = shifts.table(answers(20, 0), offset_rows())
    row = table[(table.function == "opposite") & (table.measure == "plus_less_minus")].iloc[0]
    assert row.value == pytest.approx(20 / 24) and row.low > 0 and row.inverse == 1 and row.trials == 24
    echo = table[(table.function == "opposite") & (table.measure == "echo")].iloc[0]
    assert echo.trials == 23 and echo.value == 0
    page = said(table)
    assert "v leads both ways with one sign, as no offset does. Under −v no answer at all is a member of a pair" in page
    assert "an offset does neither" in said(shifts.table(answers(20, 4), offset_rows()))
    assert "from 0.02 for opposite" in page
    assert "to 0.50 for upper" in page and "−v does not undo what v does. Under −v" in page
    assert "as for an offset" in said(shifts.table(answers(0, 20), offset_rows()))
    assert "leads back is not told apart" in said(shifts.table(answers(6, 6), offset_rows()))
    assert "too few pairs to tell" in said(shifts.table(answers(10, 0, pairs=10), offset_rows()))
    assert "so that nothing follows" in said(shifts.table(answers(20, 0, there=0), offset_rows()))
    assert "None of the functions is its own inverse." in said(
        shifts.table(answers(20, 0, inverse=False), offset_rows())
    )
    assert shifts.metrics(table)["opposite"] == {
        "cosine_embedding": 0.02, "cosine_state": 0.02, "v_on_x": pytest.approx(20 / 24, abs=1e-5),
        "minus_v_on_y": 0.0, "v_on_y": pytest.approx(20 / 24, abs=1e-5),
    }  # fmt: skip


def test_what_was_not_measured_is_said():
    empty = [pd.DataFrame(columns=table.names) for table in (tables.SHIFTS, tables.OFFSETS, tables.READINGS)]
    table = shifts.table(*empty[:2])
    assert table.empty and shifts.read(empty[2]).empty and shifts.metrics(table) == {}
    assert said(table) == "No function was looked at as an offset: no function is solved."


def test_readings_are_ranked_among_random_vectors():
    rows = [
        {"function": "f", "vector": "function", "draw": draw, "norm": 2.0, "answers": 0.9 if draw == 0 else 0.5,
         "inputs": 0.5, "elsewhere": 0.6, "tokens": [" a", "b|", "\n"]}
        for draw in range(20)
    ]  # fmt: skip
    read = shifts.read(pd.DataFrame(rows))
    assert read.p.tolist() == [0.05] and read.random.tolist() == [0.5] and read.tokens.tolist() == [" a|b\\x7c|\\n"]
    page = said(shifts.table(answers(20, 0), offset_rows()), read)
    assert "1 of 1 of kind function (f)" in page
