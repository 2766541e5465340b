"""Plain text under function vectors: next tokens equal plain passes, shares are ranked, sentences follow; the sweep."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_composed import stored
from tiny import make

from stages.applied.continued import written
from stages.applied.stored import Stored
from stages.model.continuation import next_tokens
from stages.model.forward import forward
from stages.model.intervene import Edit
from stages.page import applied
from stages.statistics import continued, sweep
from stages.store import tables
from stages.tasks.icl import continuation


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3", "jamba"])  # the last one's cache is not continued
def test_next_tokens_are_those_of_plain_passes_with_the_edit_by_hand(name):
    loaded = make(name, scale=3.0)
    rng = np.random.default_rng(0)
    texts = [rng.integers(4, 90, length) for length in (6, 9, 6)]
    layer = max(loaded.anatomy.layers)
    part = loaded.anatomy.layers[layer]
    written, added = torch.full((part.head_size,), 4.0), torch.linspace(-3, 3, 32)
    edits = [Edit(), Edit(heads={(layer, 1): written}), Edit(added={layer: added})]
    if name == "jamba":
        loaded = loaded.allowed({"caches": "not proven", "resumes": "not proven"})
    ids = next_tokens(loaded, texts, edits)
    assert ids.shape == (3, 3) and len(np.unique(ids, axis=0)) > 1
    for number, text in enumerate(texts):
        for row, kind in enumerate(("none", "heads", "added")):

            def write(module, args):
                args[0][:, -1, part.head_size : 2 * part.head_size] = written

            def add(module, args, output):
                (output[0] if isinstance(output, tuple) else output)[:, -1] += added

            projection, block = (loaded.model.get_submodule(path) for path in (part.projection, part.block))
            handle = projection.register_forward_pre_hook(write) if kind == "heads" else None
            handle = block.register_forward_hook(add) if kind == "added" else handle
            plain = forward(loaded, [text], [np.array([len(text) - 1])]).argmax(-1)
            if handle is not None:
                handle.remove()
            assert int(plain) == ids[row, number]


def test_random_vectors_are_as_long_as_the_functions_own():
    made = stored(make("llama_gqa"), ("capitalize", "other"))
    made = Stored(made.heads, {"capitalize": 2, "other": 3}, made.means, made.added)
    edits = written(made, "capitalize", 2, 17, "test")
    own, other = edits["heads", "own", "capitalize", 0].heads, edits["heads", "other", "other", 0].heads
    assert list(own) == list(other) == [(1, 2), (0, 1)]  # as many heads for all that stands beside it
    for draw in (1, 2):
        drawn = edits["heads", "random", "", draw].heads
        assert all(abs(float(drawn[head].norm() / own[head].norm()) - 1) < 1e-5 for head in own)
        (layer, vector), (same, added) = (
            made.added["capitalize"],
            next(iter(edits["function", "random", "", draw].added.items())),
        )
        assert layer == same and abs(float(added.norm() / vector.norm()) - 1) < 1e-5


def test_a_token_is_upper_by_its_first_letter():
    upper = continuation.SHOWS["capitalize"].there
    assert [upper(token) for token in (" Wood", "É", "\nThe", " wood", "iPhone", ".", " ", "\n", "3D", "")] == [
        True, True, True, False, False, False, False, False, False, False]  # fmt: skip
    assert continuation.bare(" Wood\n") == "wood"


def texts(source: str, upper: int, draw: int = 0, of: str = "", vector: str = "heads", seen: int = 0) -> list[dict]:
    """20 passages, of which `upper` are continued with a capital, `seen` of those with a word of the text."""
    same = {"function": "capitalize", "vector": vector, "source": source, "of": of, "draw": draw}
    return [
        same | {"prompt": f"p{n}", "cluster": f"p{n}", "token": " Tree" if n < upper else f" word{n}", "seen": n < seen,
                "shown": n < upper} for n in range(20)
    ]  # fmt: skip


def table(own: int, random: int, other: int) -> pd.DataFrame:
    rows = texts("", 1, vector="none") + texts("own", own, of="capitalize", seen=4) + texts("other", other, of="h")
    for draw in range(1, 20):
        rows += texts("random", random if draw == 2 else 0, draw)
    made = continued.table(pd.DataFrame(rows)[tables.CONTINUED.names])
    return made.assign(source=made.source.astype(str))


def test_the_share_is_ranked_among_random_vectors():
    made = table(own=12, random=0, other=2)
    own = made[made.source == "own"].iloc[0]
    assert (own.share, own.change, own.p, own.p_floor) == pytest.approx((0.6, 0.55, 0.05, 0.05))
    assert own.seen == own.seen_shown == pytest.approx(0.2)
    assert own.kept == pytest.approx(0.45) and own.kept_shown == pytest.approx(0.05)  # p0 said " Tree" before as well
    assert continued.metrics(made)["capitalize"] == {
        "intact": 0.05, "share": 0.6, "other": 0.1, "random": 0.0, "p": 0.05}  # fmt: skip


@pytest.mark.parametrize(
    ("own", "random", "other", "said", "never"),
    [
        (12, 0, 2, ["none of 19 random vectors as long gives as many (largest 0.00): rank p = 0.05, its floor. Of 1 "
                    "other functions' vectors none gives as many (largest: h, 0.10", "0.20 are words of the text read"],
         "not told"),
        (3, 9, 5, ["1 of 19 random vectors as long gives as many (largest 0.45): rank p = 0.10; not told apart from "
                   "them. Of 1 other functions' vectors 1 gives as many"], "its floor"),
        (0, 0, 0, ["19 of 19 random vectors as long give as many"], "of the text read so far"),
    ],
)  # fmt: skip
def test_sentences_say_what_ranks_say(own, random, other, said, never):
    slot = SimpleNamespace(continued=table(own, random, other), path=str, reasons={})
    text = applied.continued(slot, 0.05)[0].text
    assert all(part in text for part in said) and never not in text
    assert "in upper or title case, over 20 places in 20 passages; with nothing written 0.05" in text


def test_few_passages_are_not_ranked():
    rows = [row for row in texts("", 0, vector="none") + texts("own", 5, of="capitalize") if row["prompt"] < "p3"]
    made = continued.table(pd.DataFrame(rows)[tables.CONTINUED.names])
    assert made.p.isna().all() and made.note.str.contains("fewer than 20").all()


def test_the_sweep_shows_split_a_alone_and_rings_what_was_chosen():
    def tried(function, layer, strength, right, chosen=False, vector="function", heads=4):
        same = {"function": function, "vector": vector, "layer": layer, "strength": strength, "heads": heads, "draw": 0}
        same |= {"context": "zero_shot", "split": "b" if chosen else "a", "chosen": chosen, "names": "", "matching": ""}
        return [
            same | {"prompt": f"{function}{n}", "cluster": "c", "correct": n < right, "logprob": -1.0} for n in range(4)
        ]

    rows = tried("f", 0, 1.0, 1) + tried("f", 3, 1.0, 3) + tried("f", 3, 1.0, 0, chosen=True)
    rows += (
        tried("g", 0, 1.0, 2, heads=7) + tried("g", 3, 1.0, 1, heads=7) + tried("g", 0, 1.0, 4, chosen=True, heads=7)
    )
    rows += [row for heads in (4, 7) for row in tried("f", -1, 0.0, heads // 2, vector="heads", heads=heads)]
    made = sweep.table(pd.DataFrame(rows)[tables.STEERING.names])
    each = made[made.vector == "function"].set_index(["function", "layer"])
    assert each.accuracy.to_dict() == {("all", 0): 0.375, ("all", 3): 0.5, ("f", 0): 0.25, ("f", 3): 0.75,
                                       ("g", 0): 0.5, ("g", 3): 0.25}  # fmt: skip
    assert each.chosen.to_dict() == {("all", 0): 1, ("all", 3): 1, ("f", 0): 0, ("f", 3): 1, ("g", 0): 1, ("g", 3): 0}
    heads = made[(made.vector == "heads") & (made.function == "all")]
    assert heads.heads.tolist() == [4, 7] and heads.accuracy.tolist() == [0.5, 0.75]
    assert pd.isna(each.heads["all", 0])  # functions differ
    slot = SimpleNamespace(sweep=made, path=str)
    figure, numbers = applied.sweep(slot)
    assert "on 4 prompts per function of one half" in figure.says and "nothing is claimed from these" in figure.says
    assert len(figure.charts) == 3 and numbers.text.endswith("by the number of heads: 4 0.50 and 7 0.75.")
    assert applied.sweep(SimpleNamespace(sweep=made.head(0), path=str)) == []
