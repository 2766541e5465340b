"""From prompts to tokens: the one place where character spans become token positions.

A BOS is given wherever the tokenizer has one (unless a prompt says otherwise); encoders get their own special tokens.
Control tokens that a text spells (`<eos>`, `[SEP]`) are read as the characters they are: nobody ended a text there.
Text and target are tokenised together, as the model would read them; a target's tokens are those that end after the
text does.

Legend: T token.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from stages.families.family import WORD, Tokens
from stages.model.load import Loaded
from stages.model.probe import LIMITS
from stages.store.errors import UserError, one_line

log = logging.getLogger(__name__)


def encode(loaded: Loaded, prompt: Any, target: int = 0) -> Tokens:
    """Tokenise a row of the prompts table with one of its targets (or none, where it has none).

    Raises `UserError` naming a prompt of whose text the tokenizer makes nothing, or a token without an embedding.
    """
    tokenizer, decoder = loaded.tokenizer, loaded.kind == "decoder"
    if loaded.images is not None:
        return loaded.images.encode(prompt)
    if len(prompt.ordinals):
        return _random(loaded, prompt)
    text = prompt.text + (prompt.targets[target] if len(prompt.targets) else "")
    ids, special, offsets = _coded(tokenizer, text, add_special_tokens=not decoder)
    if special.all():
        raise UserError(f"prompt {prompt.id}: the model's tokenizer makes no token of {text!r:.60}; leave it out")
    if (at := _unread(text, offsets)) is not None:
        raise UserError(
            f"prompt {prompt.id}: the model's tokenizer makes no token of {text[at]!r} in "
            f"{text[max(0, at - 20) :]!r:.60}, so that another text would be read; expected one that reads all letters"
        )
    if (rows := len(loaded.model.get_input_embeddings().weight)) <= ids.max():
        token = tokenizer.convert_ids_to_tokens(int(ids.max()))
        raise UserError(
            f"prompt {prompt.id}: the tokenizer reads {token!r:.80} as token {ids.max()}, the model has embeddings of "
            f"{rows}; leave it out, or take the token out of tokenizer.json"
        )
    if decoder and prompt.bos and tokenizer.bos_token_id is not None:
        ids = np.r_[tokenizer.bos_token_id, ids]
        special, offsets = np.r_[True, special], np.vstack([[0, 0], offsets])
    if prompt.tokens and len(ids) > prompt.tokens:
        keep = np.arange(prompt.tokens)
        if not decoder and special[-1]:
            keep[-1] = len(ids) - 1  # [SEP] stays last
        ids, special, offsets = ids[keep], special[keep], offsets[keep]
    words, arcs = _words(offsets, prompt.relations, causal=decoder)
    spans: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for span in () if words else prompt.relations:
        query = _within(offsets, span["query_start"], span["query_end"])
        spans.setdefault(span["name"], []).append((query, _within(offsets, span["key_start"], span["key_end"])))
    goal = np.flatnonzero(~special & (offsets[:, 1] > len(prompt.text))) if len(prompt.targets) else np.empty(0, int)
    return Tokens(prompt.id, prompt.role, ids, special, goal[goal > 0], spans, words, arcs)


def encode_all(loaded: Loaded, prompts: Iterable[Any]) -> list[Tokens]:
    """Tokenise prompts with their first targets."""
    return [encode(loaded, prompt) for prompt in prompts]


def fitting(loaded: Loaded, rows: Sequence[Any]) -> tuple[list[Any], list[Tokens]]:
    """Return the rows that the model can read whole, and their tokens; the number of others is logged."""
    encoded = encode_all(loaded, rows)
    if loaded.images is not None:
        return list(rows), encoded  # its processor makes every image fit
    limit = longest(loaded)
    kept = [pair for pair in zip(rows, encoded, strict=True) if _fits(loaded, *pair, limit)]
    if len(kept) < len(encoded):
        text = "%d of %d prompts are longer than the model's %d tokens and are left out"
        log.warning(text, len(encoded) - len(kept), len(encoded), limit)
    return [row for row, _ in kept], [tokens for _, tokens in kept]


def _fits(loaded: Loaded, row: Any, tokens: Tokens, limit: int) -> bool:
    """Return whether a prompt fits with each of its targets; tokens: with the first."""
    others = row.targets[1:]
    if len(tokens) > limit or all(len(tokens) + len(other.encode()) < limit for other in others):
        return len(tokens) <= limit  # no token is less than a byte
    return all(len(encode(loaded, row, 1 + number)) <= limit for number in range(len(others)))


def longest(loaded: Loaded) -> int:
    """Return how many tokens the model can read (a very large number where nothing limits it).

    What its config says it was trained for, even where nothing would stop it (rotary positions, ALiBi); what its table
    of positions holds; and no text so long that positions get other frequencies (LongRoPE,
    https://arxiv.org/abs/2402.13753): beside or after such a text a short one would be read otherwise.
    """
    config, words = loaded.model.config.get_text_config(), loaded.model.get_input_embeddings()
    said = [getattr(config, name, None) for name in LIMITS]
    limits = [limit for limit in said if isinstance(limit, int) and limit > 0]
    for module in loaded.model.modules():  # positions that count from a padding index (RoBERTa) end that much earlier
        padding, rows = getattr(module, "padding_idx", None), getattr(getattr(module, "weight", None), "shape", [0])[0]
        if padding is not None and module is not words and rows in limits:
            limits.append(rows - padding - 1)
    rotary = getattr(config, "rope_parameters", None) or {}
    for part in (rotary, *rotary.values()):  # those of all layers, or of each type of layer
        if isinstance(part, dict) and part.get("rope_type") == "longrope":
            limits.append(part["original_max_position_embeddings"])
    return min(limits, default=1 << 30)


def first_answering(loaded: Loaded, tokens: Tokens) -> int:
    """Return which of the target's tokens is the first that is not white space (0 where all are).

    Where numbers are cut into digits, ' 18' begins with a token that is a blank: it tells no answer from another.
    """
    texts = [loaded.tokenizer.decode([int(token)]) for token in tokens.ids[tokens.target]]
    return next((number for number, text in enumerate(texts) if text.strip()), 0)


def beginning(loaded: Loaded, tokens: Tokens) -> tuple[int, ...]:
    """Return the ids of the target up to its first token that is not white space: what tells it from other answers."""
    return tuple(tokens.ids[tokens.target[: first_answering(loaded, tokens) + 1]].tolist())


def starts_as(tokens: Tokens, best: np.ndarray, begun: tuple[int, ...]) -> bool | None:
    """Tell whether what is predicted begins as an answer does.

    best: the argmax at each token of the prompt's own target; begun: `beginning` of the answer. None: the answer begins
    with blanks that the prompt's own target lacks, so that what follows them was not asked.
    """
    *blanks, token = begun
    read = tokens.ids[tokens.target[:-1]][: len(blanks)].tolist()  # the target's last token is read by nothing
    return bool(best[len(blanks)] == token) if read == blanks else None


def token_name(loaded: Loaded, index: int) -> str:
    """Return a token as it is read, on one line: white space and control characters visible.

    By its own name where it is special or no character.
    """
    own = loaded.tokenizer.convert_ids_to_tokens(int(index))
    text = loaded.tokenizer.decode([int(index)], clean_up_tokenization_spaces=False)
    if not text or "\N{REPLACEMENT CHARACTER}" in text or index in loaded.tokenizer.all_special_ids:
        return one_line(str(own)) if own else f"id {index}"
    return one_line(text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥"))


@lru_cache(maxsize=4)
def ordinary(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Return the ids of ordinary tokens: whole words of ASCII letters, with their leading space where there is one."""
    size = len(tokenizer)
    special = set(tokenizer.all_special_ids)
    ids = [index for index in range(size) if index not in special]
    texts = tokenizer.backend_tokenizer.decode_batch([[index] for index in ids], skip_special_tokens=False)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    marked = [piece[:1] in "Ġ▁ " and len(piece) > 1 for piece in pieces]
    words = [
        (index, mark)
        for index, text, mark in zip(ids, texts, marked, strict=True)
        if len(text.strip()) >= 2 and text.strip().isascii() and text.strip().isalpha()
    ]
    some_marked = sum(mark for _, mark in words) > len(words) / 10
    return np.array([index for index, mark in words if mark or not some_marked] or ids, dtype=np.int64)


def _coded(
    tokenizer: PreTrainedTokenizerFast, text: str, add_special_tokens: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ids of a text, which of them the tokenizer added, and their characters as (T, 2) offsets.

    Unigram vocabularies find a control token that the text spells even where no special token is looked for; it is
    written character by character then.
    """
    coded = tokenizer(
        text,
        add_special_tokens=add_special_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        split_special_tokens=True,
        verbose=False,
    )
    control = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    tokens: list[tuple[int, int, int, int]] = []
    columns = (coded["input_ids"], coded["special_tokens_mask"], coded["offset_mapping"])
    for index, added, (start, end) in zip(*columns, strict=True):
        if not added and control.get(index) == text[start:end]:
            characters = tokenizer.convert_tokens_to_ids(list(text[start:end]))
            places = [(spelled, 0, start + at, start + at + 1) for at, spelled in enumerate(characters)]
            tokens += [place for place in places if place[0] is not None]  # no such character, and no <unk>
        else:
            tokens.append((index, added, start, end))
    table = np.array(tokens, dtype=np.int64).reshape(-1, 4)
    return table[:, 0].copy(), table[:, 1].astype(bool), table[:, 2:].copy()


def _unread(text: str, offsets: np.ndarray) -> int | None:
    """Return where the first English letter or digit stands that no token covers, None where all are read.

    Other characters may vanish: tokenizers leave out white space, control characters and accents as they were trained.
    """
    change = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(change, offsets[:, 0], 1)
    np.add.at(change, offsets[:, 1], -1)
    uncovered = np.flatnonzero(change.cumsum()[:-1] == 0)
    return next((int(at) for at in uncovered if text[at].isascii() and text[at].isalnum()), None)


def _random(loaded: Loaded, prompt: Any) -> Tokens:
    tokenizer, words = loaded.tokenizer, ordinary(loaded.tokenizer)
    body = words[np.asarray(prompt.ordinals, dtype=np.int64) % len(words)]
    before, after = (
        (tokenizer.bos_token_id, None) if loaded.kind == "decoder" else (tokenizer.cls_token_id, tokenizer.sep_token_id)
    )
    ids = np.r_[[] if before is None else [before], body, [] if after is None else [after]].astype(np.int64)
    special = np.zeros(len(ids), dtype=bool)
    special[: before is not None], special[len(ids) - (after is not None) :] = True, True
    return Tokens(prompt.id, prompt.role, ids, special)


def _words(offsets: np.ndarray, relations: Sequence[dict[str, Any]], causal: bool) -> tuple[tuple, dict[str, list]]:
    """Return the words' token positions, and arcs between words as pairs (query word, key word) by name.

    Words without tokens are left out, and arcs that no attention could show: between words that share a token and, in
    a causal model, to a key word that does not end before the query word begins.
    """
    at = {(span["query_start"], span["query_end"]) for span in relations if span["name"] == WORD}
    places = {span: found for span in sorted(at) if len(found := _within(offsets, *span))}
    index = {span: number for number, span in enumerate(places)}
    arcs: dict[str, list[tuple[int, int]]] = {}
    for span in relations:
        ends = (span["query_start"], span["query_end"]), (span["key_start"], span["key_end"])
        if span["name"] == WORD or not all(end in index for end in ends):
            continue
        query, key = (places[end] for end in ends)
        if key[-1] < query[0] or not (causal or np.intersect1d(query, key).size):
            arcs.setdefault(span["name"], []).append((index[ends[0]], index[ends[1]]))
    return tuple(places.values()), arcs


def _within(offsets: np.ndarray, start: int, end: int) -> np.ndarray:
    """Return the tokens that overlap characters [start, end); special tokens cover none."""
    return np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start) & (offsets[:, 0] < offsets[:, 1]))
