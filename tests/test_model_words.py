"""Attention between words against a naive reference: loops over words, on full attention matrices."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from stages.families import FAMILIES
from stages.families.family import WORD
from stages.families.offset import best_offset, offset_accuracy
from stages.model import measure as measuring
from stages.model.measure import measure
from stages.model.tokens import encode

LABELS = ("obj", "det", "nsubj")
DIRECTIONS = ("dep-to-head", "head-to-dep")


def sentence(rng: np.random.Generator, number: int) -> SimpleNamespace:
    """A sentence with a random tree: words of one token, words of many, and words that touch (zebra's)."""
    text, places = "", []
    for place in range(rng.integers(3, 14)):
        word = str(rng.choice([*tiny.WORDS, "zebra", "whistling", "Qoph"]))
        text += " " * (place > 0 and rng.random() < 0.9) + word
        places.append((len(text) - len(word), len(text)))
    relations = [(WORD, place, place) for place in places]
    root = rng.integers(len(places))
    for dependent in range(len(places)):
        if dependent != root:
            head, label = rng.choice([at for at in range(len(places)) if at != dependent]), rng.choice(LABELS)
            relations.append((f"grammar:{label}:dep-to-head", places[dependent], places[head]))
            relations.append((f"grammar:{label}:head-to-dep", places[head], places[dependent]))
    keys = ("name", "query_start", "query_end", "key_start", "key_end")
    spans = [dict(zip(keys, (name, *query, *key), strict=True)) for name, query, key in relations]
    return SimpleNamespace(
        id=f"{number:03d}", role="test", text=text, targets=(), relations=spans, ordinals=(), tokens=0, bos=True
    )


def attention(loaded, ids: np.ndarray) -> np.ndarray:
    """Return full attention (L, H, T, T) as the model itself returns it."""
    found = loaded.model(torch.from_numpy(ids)[None], output_attentions=True).attentions
    return torch.stack([layer[0] for layer in found]).double().numpy()


def mean_of_numbers(values: list[np.ndarray]) -> np.ndarray:
    counts = np.sum(~np.isnan(values), axis=0)
    return np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)


def naive(loaded, prompt) -> dict[str, dict[str, np.ndarray]]:
    """Return relation -> statistic -> (L, H), word by word."""
    tokens, causal = encode(loaded, prompt), loaded.kind == "decoder"
    weights = attention(loaded, tokens.ids)
    coded = loaded.tokenizer(prompt.text, return_offsets_mapping=True, add_special_tokens=not causal)
    offsets = [(0, 0)] * causal + coded["offset_mapping"]
    spans = sorted({(r["query_start"], r["query_end"]) for r in prompt.relations if r["name"] == WORD})
    pieces = {span: [t for t, (a, b) in enumerate(offsets) if a < b and a < span[1] and b > span[0]] for span in spans}
    sinks = [t for t in range(len(tokens)) if t == 0 or tokens.special[t]]

    def seen(query, key):
        return not set(pieces[query]) & set(pieces[key]) and (not causal or pieces[key][-1] < pieces[query][0])

    def between(query, key):
        return np.mean([weights[:, :, q, pieces[key]].sum(-1) for q in pieces[query]], axis=0)

    def sunk(query):
        return np.mean([weights[:, :, q, sinks].sum(-1) for q in pieces[query]], axis=0)

    found = {}
    for label in LABELS:
        for direction in DIRECTIONS:
            golden: dict[tuple, set] = {}
            for r in prompt.relations:
                query, key = (r["query_start"], r["query_end"]), (r["key_start"], r["key_end"])
                if r["name"] == f"grammar:{label}:{direction}" and seen(query, key):
                    golden.setdefault(query, set()).add(key)
            if not golden:
                continue
            mass, hits, null, sink = [], [], [], []
            for query, keys in golden.items():
                others = [word for word in spans if seen(query, word)]
                scores = np.stack([between(query, word) for word in others])  # (words, L, H)
                inside = np.array([word in keys for word in others])
                mass.append(scores[inside].sum(0))
                hits.append(inside[scores.argmax(0)])
                shown = scores.max(2, keepdims=True) > 0  # (words, L, 1): not beyond the layer's window
                number = shown[~inside].sum(0)
                average = scores[~inside].sum(0) / np.maximum(number, 1) * shown[inside].sum(0)
                null.append(np.where(number > 0, average, np.nan))
                sink.append(sunk(query))
            rest = [sunk(w) for w in spans if w not in golden and any(seen(w, other) for other in spans)]
            found[f"grammar:{label}:{direction}"] = {
                "mass": np.mean(mass, axis=0),
                "hits_word": np.mean(hits, axis=0),
                "mass_null": mean_of_numbers(null),
                "sink": np.mean(sink, axis=0),
                "sink_elsewhere": np.mean(rest, axis=0) if rest else np.full(weights.shape[:2], np.nan),
            }
    return found


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama_gqa", "gemma3", "bloom"])
@pytest.mark.parametrize("block", [1 << 26, 600])
def test_scores_of_100_sentences_equal_loops_over_words(name, block, monkeypatch):
    monkeypatch.setattr(measuring, "BLOCK", block)  # small: a sentence's queries come in several blocks
    loaded = tiny.make(name, scale=4.0 if name != "gemma3" else 8.0)
    rng = np.random.default_rng(5)
    prompts = [sentence(rng, number) for number in range(100 if block > 600 else 12)]
    counted = 0
    for start in range(0, len(prompts), 20):
        tokens = [encode(loaded, prompt) for prompt in prompts[start : start + 20]]
        families = [FAMILIES[f"grammar:{label}:{direction}"] for label in LABELS for direction in DIRECTIONS]
        relations = [{f.name: r for f in families if (r := f.relation(one)) is not None} for one in tokens]
        for prompt, found in zip(prompts[start : start + 20], measure(loaded, tokens, relations).means, strict=True):
            wanted = naive(loaded, prompt)
            assert set(wanted) == set(found)
            for relation, values in wanted.items():
                means = found[relation].values
                assert np.array_equal(means["hits_word"], values["hits_word"].astype(np.float32)), relation
                for statistic in ("mass", "mass_null", "sink", "sink_elsewhere"):
                    np.testing.assert_allclose(means[statistic], values[statistic], atol=2e-6, err_msg=statistic)
                counted += 1
    assert counted > len(prompts)


def test_a_causal_model_has_only_arcs_whose_key_word_has_ended():
    prompt = sentence(np.random.default_rng(1), 0)
    for name, causal in (("llama_gqa", True), ("bert", False)):
        tokens = encode(tiny.make(name), prompt)
        arcs = [arc for found in tokens.arcs.values() for arc in found]
        assert arcs and (all(key < query for query, key in arcs) == causal)


def test_the_best_word_offset_weighs_query_words_equally():
    loaded = tiny.make("bert")
    rng = np.random.default_rng(2)
    tokens = [encode(loaded, sentence(rng, number)) for number in range(40)]
    relations = [r for one in tokens if (r := FAMILIES["grammar:det:dep-to-head"].relation(one)) is not None]
    pairs = [(q - k, len(r.queries)) for r in relations for q, row in zip(r.queries, r.keys, strict=True)
             for k in np.flatnonzero(row)]  # fmt: skip
    counts = {d: sum(offset == d for offset, _ in pairs) for d, _ in pairs}
    offset = best_offset(relations)
    assert counts[offset] == max(counts.values())
    hits = sum(offset_accuracy(r, offset) * len(r.queries) for r in relations)
    assert hits == pytest.approx(counts[offset])
