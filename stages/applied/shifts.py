"""Is a function one offset, added to whatever is there?

Writes offsets (pairs (x, y) of every steered function in embedding and state space: stages/statistics/offsets.py),
readings (the most likely tokens of every function vector, read through the model's last norm and unembedding, beside
random vectors of its length) and shifts: prompts without demonstrations that ask about x, and others about y = f(x),
answered under a vector v, 2 v and -v. If v were the offset from x to y, then -v would lead from y back to x, and v from
y on, beyond all pairs; if v says which function to apply, v leads from y to f(y), which is x where f is its own
inverse.
    added           the most accurate of function, layerwise and layer_average on split a (see stages/steer.py)
    heads           the top heads' mean outputs in place, times 1, 2 or -1
    demonstrations  nothing written, the demonstrations of split b before the question: what the model does itself
                    (asked about y only where f is its own inverse: elsewhere f(y) is nothing in particular)
Layer, strength and heads were chosen on split a, whose prompts the vectors come from. Pairs are of split b, and none of
their words stands, as x or as y, in a prompt of split a or in a demonstration.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.statistics import offsets
from stages.statistics.vector_heads import ADDED
from stages.store import params, tables
from stages.tasks.icl.pairs import Frame, own_inverse
from stages.tasks.prompt import stream

if TYPE_CHECKING:
    import torch

    from stages.model.intervene import Edit, Head
    from stages.model.load import Loaded

log = logging.getLogger(__name__)
TASK = "icl"
READ = ("function", "layer_average")  # stored vectors that are one
FACTORS = (1.0, 2.0, -1.0)
LISTED = 8  # tokens of a reading
TABLES = (tables.SHIFTS, tables.OFFSETS, tables.READINGS)


def measure(slot: str, settings: params.Params, model: "Callable[[], Loaded]") -> None:
    """Measure every steered function, or say why there is none; model: loads it, or returns it again."""
    if why := settings.left_out("shifts") or tables.STEERING.reason(slot):
        return _write_empty(slot, why)
    from stages.applied.stored import exported
    from stages.engine.local import each
    from stages.engine.means import solved_means
    from stages.model.cost import Work, announce
    from stages.model.tokens import fitting

    loaded = model()
    steered = tables.STEERING.read(slot)
    vectors = exported(slot)
    prompts = tables.ASKED.read(TASK)
    asked = prompts[(prompts.split == "b") & prompts.role.isin(["zero_shot", "clean"])]
    rows, encoded = fitting(loaded, list(asked.itertuples()))
    fits = {row.id for row in rows}
    shown, means = tables.SOLVED.read(slot, TASK), solved_means(slot, TASK)
    functions = sorted(steered.function.unique())
    bare = [tokens for row, tokens in zip(rows, encoded, strict=True) if row.role == "zero_shot"]
    count = len(functions) * settings.shifts.pairs * 2  # both members of a pair
    length, answer = (sum(map(len, of)) / max(1, len(bare)) for of in (bare, [tokens.target for tokens in bare]))
    edited = Work(answer, answer) * (count * (1 + 2 * len(FACTORS)))
    log.info(announce(f"shifts {slot}", count, Work(length * count) + edited, loaded))

    def measured(function: str) -> tuple[list[dict], list[dict], pd.DataFrame, int]:
        """Return rows of answers and of geometry, the pairs, and how many answers were asked for."""
        whole = prompts[prompts.condition == function]
        of_function = whole[whole.id.isin(fits)]
        frame = Frame(settings.tasks.icl.template)
        pairs = asked_pairs(of_function, frame).head(settings.shifts.pairs)
        chosen = chosen_settings(steered[steered.function == function])
        rng = stream(settings.seed, f"shifts/{slot}/{function}")
        layer = next(setting.layer for setting in chosen.values() if setting.vector == "function")
        geometry = [{"function": function} | row for row in in_spaces(loaded, pairs, frame, layer, rng)]
        edits = {}
        for label, setting in (("added", best_added(steered[steered.function == function], chosen)),
                               ("heads", chosen["heads"])):  # fmt: skip
            edits |= {
                (label, setting.vector, factor): edit(means[function, ""], vectors, setting, factor)
                for factor in FACTORS
            }
        unseen = pairs[~seen(pairs, whole, frame)]
        known = {"function": function, "inverse": own_inverse(whole.category.iloc[0], known_pairs(whole, frame))}
        solved = shown[shown.condition == function].set_index("prompt").solved.to_dict()
        rows = answered(loaded, unseen, of_function, solved, frame, edits, known["inverse"])
        demonstrated = _demonstrated(unseen, of_function, solved, known["inverse"])
        number = 2 * len(unseen) * 3 + sum(map(sum, demonstrated))  # of x and y: none, added, heads
        return [known | row for row in rows], geometry, pairs, number

    every = tqdm(each(measured, functions, loaded), desc="shifts", total=len(functions), unit="function")
    made = dict(zip(functions, every, strict=True))
    answers, geometry = ([row for of in made.values() for row in of[place]] for place in (0, 1))
    pairs_of = {function: pairs for function, (_, _, pairs, _) in made.items()}
    asked_of = [
        sum(number for *_, number in made.values()),
        2 * sum(len(of) >= offsets.FEW for of in pairs_of.values()),
    ]
    read = readings(loaded, vectors, pairs_of, settings, slot)
    kept = [name for name in vectors if name.rpartition(".")[0] in pairs_of and name.rpartition(".")[2] in READ]
    asked_of += [len(kept) * (1 + settings.shifts.random)]
    for table, of_table, number in zip(TABLES, (answers, geometry, read), asked_of, strict=True):
        table.write(pd.DataFrame(of_table), slot, asked=number, otherwise="no function has pairs enough")


def asked_pairs(prompts: pd.DataFrame, frame: Frame) -> pd.DataFrame:
    """Return id, cluster, x and y per pair that split b asks for without demonstrations; prompts: of a function."""
    asked = prompts[(prompts.role == "zero_shot") & (prompts.split == "b")].sort_values("id").drop_duplicates("text")
    words = {"x": asked.text.map(frame.word), "y": asked.targets.map(lambda targets: targets[0].strip())}
    return asked[["id", "cluster"]].assign(**words)


def known_pairs(prompts: pd.DataFrame, frame: Frame) -> list[tuple[str, str]]:
    """Return all pairs that a function's clean prompts demonstrate or ask for."""
    clean = prompts[prompts.role == "clean"]
    shown = [pair for text in clean.text for pair in frame.shown(text)]
    return shown + [(frame.word(row.text), row.targets[0].strip()) for row in clean.itertuples()]


def seen(pairs: pd.DataFrame, prompts: pd.DataFrame, frame: Frame) -> np.ndarray:
    """Tell for each pair whether one of its words stands in a prompt of split a, or in any demonstration."""
    clean = prompts[prompts.role == "clean"]
    words = {word for pair in known_pairs(clean[clean.split == "a"], frame) for word in pair}
    words |= {word for text in clean.text for pair in frame.shown(text) for word in pair}
    return (pairs.x.isin(words) | pairs.y.isin(words)).to_numpy()


def chosen_settings(steered: pd.DataFrame) -> dict[str, Any]:
    """Return the row of each vector's chosen setting; steered: a function's rows of STEERING."""
    chosen = steered[steered.chosen.astype(bool) & (steered.context == "zero_shot")]
    return {row.vector: row for row in chosen.drop_duplicates("vector").itertuples()}


def best_added(steered: pd.DataFrame, chosen: Mapping[str, Any]) -> Any:
    """Return the added vector's setting that was most accurate on split a; among equals, with the likeliest answers."""
    tried = steered[(steered.split == "a") & (steered.context == "zero_shot")]

    def merit(setting: Any) -> tuple[float, float]:
        same = tried[(tried.vector == setting.vector) & (tried.layer == setting.layer)
                     & (tried.strength == setting.strength) & (tried.heads == setting.heads)]  # fmt: skip
        return same.correct.mean(), same.logprob.mean()

    return max((chosen[name] for name in ADDED if name in chosen), key=merit)


def edit(
    means: "Mapping[Head, torch.Tensor]",
    vectors: "Mapping[str, Mapping[int, torch.Tensor]]",
    setting: Any,
    factor: float,
) -> "Edit":
    """Return the edit of a chosen setting, `factor` times it; means: of heads (K,); vectors: as steer kept them."""
    from stages.model.intervene import Edit

    if setting.vector == "heads":
        heads = [tuple(map(int, name[1:].split("H"))) for name in setting.names.split()]
        return Edit(heads={head: factor * means[head] for head in heads})
    added = vectors[f"{setting.function}.{setting.vector}"]
    return Edit(added={layer: factor * setting.strength * x_D for layer, x_D in added.items()})


def in_spaces(
    loaded: "Loaded", pairs: pd.DataFrame, frame: Frame, layer: int, rng: np.random.Generator
) -> Iterable[dict]:
    """Yield rows of OFFSETS but their function: pairs in embedding and in state space."""
    from stages.model.readout import embedded
    from stages.model.score import residuals_after
    from stages.model.tokens import encode

    if len(pairs) < offsets.FEW:
        return
    read = []
    for words in (pairs.x, pairs.y):
        rows = _prompts(pairs, [frame.question(word) for word in words], [frame.white + word for word in words])
        read.append([encode(loaded, row) for row in rows])
    for space, at, both in (
        ("embedding", -1, [embedded(loaded, encoded) for encoded in read]),
        ("state", layer, [residuals_after(loaded, encoded)[layer] for encoded in read]),
    ):
        for row in offsets.rows(*(words_PD.float().cpu().numpy() for words_PD in both), rng):
            yield {"space": space, "layer": at} | row


def answered(
    loaded: "Loaded",
    pairs: pd.DataFrame,
    prompts: pd.DataFrame,
    solved: Mapping[str, bool],
    frame: Frame,
    edits: "Mapping[tuple, Edit]",
    inverse: bool,
) -> Iterable[dict]:
    """Yield rows of SHIFTS but their function: both members of pairs, under edits and after demonstrations.

    prompts: the function's rows of the prompts table; solved: what `extract` saw of clean prompts that ask about x;
    edits: by vector, kind and factor; inverse: the function is its own inverse.
    """
    from stages.model.intervene import Edit

    every = {("none", "none", 0.0): Edit(), **edits}
    sides = {"x": pairs, "y": pairs.assign(x=pairs.y, y=pairs.x)}
    both = pd.concat([side.assign(asked=name) for name, side in sides.items()])
    yield from _asked(loaded, both.assign(text=both.x.map(frame.question)), frame, every)
    texts = prompts[prompts.role == "clean"].set_index("id").text
    clean = _with_demonstrations(pairs)
    shown = {("demonstrations", "demonstrations", 0.0): Edit()}
    of_x, of_y = _demonstrated(pairs, prompts, solved, inverse)
    for pair, name in zip(pairs[of_x].itertuples(), clean[of_x], strict=True):
        row = {"prompt": pair.id, "cluster": pair.cluster, "asked": "x", "vector": "demonstrations"}
        yield row | {"kind": "demonstrations", "factor": 0.0, "other": bool(solved[name]), "echo": None}
    there = sides["y"].assign(asked="y", clean=clean)[of_y]
    instead = [frame.instead(texts[name], word) for name, word in zip(there.clean, there.x, strict=True)]
    yield from _asked(loaded, there.assign(text=instead), frame, shown)


def _with_demonstrations(pairs: pd.DataFrame) -> pd.Series:
    return pairs.id.str.replace("#zero_shot", "#clean", regex=False)


def _demonstrated(
    pairs: pd.DataFrame, prompts: pd.DataFrame, solved: Mapping[str, bool], inverse: bool
) -> tuple[pd.Series, pd.Series]:
    """Tell of which pairs x, and y, is asked about after demonstrations; arguments: see `answered`."""
    clean = _with_demonstrations(pairs)
    return clean.isin(list(solved)), clean.isin(prompts.id[prompts.role == "clean"]) & inverse


def _asked(loaded: "Loaded", asked: pd.DataFrame, frame: Frame, edits: "Mapping[tuple, Edit]") -> Iterable[dict]:
    """Yield rows of prompts `text` that ask about `x` and whose pair's other member is `y`, under every edit.

    echo: None where the two begin alike, or where x begins with a blank that the other, which is read, lacks.
    """
    from stages.model.score import LastTokens
    from stages.model.tokens import beginning, encode, starts_as

    if asked.empty:
        return
    others, same = (
        [encode(loaded, row) for row in _prompts(asked, asked.text, [frame.white + word for word in words])]
        for words in (asked.y, asked.x)
    )
    scores = LastTokens(loaded, others).edited([list(edits.values())] * len(others))
    for pair, other, echo, of_pair in zip(asked.itertuples(), others, same, scores, strict=True):
        right, again = (beginning(loaded, tokens) for tokens in (other, echo))
        for (vector, kind, factor), scored in zip(edits, of_pair, strict=True):
            row = {"prompt": pair.id, "cluster": pair.cluster, "asked": pair.asked, "vector": vector, "kind": kind}
            row |= {"factor": factor, "other": scored.solved}
            yield row | {"echo": None if right == again else starts_as(other, scored.best, again)}


def readings(
    loaded: "Loaded",
    vectors: "Mapping[str, Mapping[int, torch.Tensor]]",
    pairs_of: Mapping[str, pd.DataFrame],
    settings: params.Params,
    slot: str,
) -> list[dict]:
    """Return rows of READINGS: every kept vector and random ones of its length."""
    import torch

    from stages.model.readout import likeliest, read_out, standing

    frame = Frame(settings.tasks.icl.template)
    first = {
        (function, column): _first_tokens(loaded, pairs, column, frame)
        for function, pairs in pairs_of.items()
        for column in ("x", "y")
    }
    rows = []
    for kind in READ:
        kept = {name.rpartition(".")[0]: of for name, of in sorted(vectors.items()) if name.endswith(f".{kind}")}
        kept = {function: next(iter(of.values())) for function, of in kept.items() if function in pairs_of}
        if not kept:
            continue
        own_FV = read_out(loaded, torch.stack(list(kept.values())))
        said = likeliest(loaded, own_FV, LISTED)
        for place, (function, vector_D) in enumerate(kept.items()):
            rng = stream(settings.seed, f"shifts/{slot}/{function}/{kind}/random")
            draws_ND = vector_D.new_tensor(rng.standard_normal((settings.shifts.random, len(vector_D))))
            drawn_NV = read_out(loaded, draws_ND * (vector_D.norm() / draws_ND.norm(dim=1, keepdim=True)))
            random = [(drawn_NV, number) for number in range(1, settings.shifts.random + 1)]
            answers_F = standing(own_FV, first[function, "y"])
            others = [value for at, value in enumerate(answers_F) if at != place]
            same = {"function": function, "vector": kind, "norm": float(vector_D.norm())}
            rows.append(same | {"draw": 0, "answers": answers_F[place], "tokens": said[place],
                                "inputs": standing(own_FV[place : place + 1], first[function, "x"])[0],
                                "elsewhere": float(np.mean(others)) if others else None})  # fmt: skip
            answers_N, inputs_N = (standing(drawn_NV, first[function, column]) for column in ("y", "x"))
            listed = likeliest(loaded, drawn_NV, LISTED)
            rows += [
                same | {"draw": number, "answers": answers_N[number - 1], "inputs": inputs_N[number - 1],
                        "tokens": listed[number - 1], "elsewhere": None}
                for _, number in random
            ]  # fmt: skip
    return rows


def _first_tokens(loaded: "Loaded", pairs: pd.DataFrame, column: str, frame: Frame) -> list[int]:
    """Return the first token that is no blank of each pair's x or y, as it stands where x is asked about."""
    from stages.model.tokens import beginning, encode

    rows = _prompts(pairs, pairs.x.map(frame.question), [frame.white + word for word in pairs[column]])
    return [beginning(loaded, encode(loaded, row))[-1] for row in rows]


def _prompts(pairs: pd.DataFrame, texts: Sequence[str], answers: Sequence[str]) -> list:
    """Return rows as of the prompts table, with other texts and answers."""
    same = {"role": "zero_shot", "relations": [[]] * len(pairs), "ordinals": [[]] * len(pairs), "tokens": 0}
    rows = pd.DataFrame({"id": list(pairs.id), "text": list(texts), "targets": [(answer,) for answer in answers]})
    return list(rows.assign(**same, bos=True).itertuples())


def _write_empty(slot: str, why: str) -> None:
    for table in TABLES:
        table.write_empty(slot, why=why)
