"""Sentence scores of models that fill gaps: the pseudo-log-likelihood of Salazar+ ACL 2020 (arXiv 1910.14659).

    PLL(s) = sum over ordinary tokens t of log P(s_t | s with t masked)

One copy of the sentence per token, with that token alone masked; special tokens are neither masked nor scored. Copies
of several sentences run together, and the LM head reads one row of each: (N, V), never (B, T, V). Equal copies run
once: the sentences of a pair that differ in one token share the copy that masks it, and sentences of the same tokens
(all that an uncased vocabulary sees of some pairs) tie exactly.

A PLL ranks sentences but is no probability: it does not sum to 1 over them, and a rare word cut into pieces scores
high because its pieces give each other away. The variant of Kauf & Ivanova ACL 2023 (arXiv 2305.10588), their l2r,
masks with each token those to its right in the same word as well (`within_word`); a word is what the tokenizer cuts
apart before it cuts words into pieces.

Legend: T token, N masked copy, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stages.families.family import Tokens
from stages.model.cost import Work
from stages.model.forward import batches, forward
from stages.model.load import Loaded
from stages.model.outcome import outcome
from stages.model.score import Scored, score_rows
from stages.model.tokens import encode

PAIRS = 32  # minimal pairs of similar length whose copies are made together: thousands of tokens, many batches at most


def outcomes(
    loaded: Loaded, rows: Sequence[Any], max_tokens: int, within_word: bool = False
) -> Iterator[tuple[Any, dict[str, float]]]:
    """Yield (row, measures) of pairs, short ones first; what is measured is up to the task, the first part of an id."""
    pairs = [_pair(loaded, row) for row in rows]
    order = sorted(range(len(rows)), key=lambda index: (max(map(len, pairs[index])), rows[index].id))
    for start in range(0, len(order), PAIRS):
        chosen = order[start : start + PAIRS]
        words = [_words(loaded, rows[i], target) for i in chosen for target in (0, 1)] if within_word else None
        scored = score(loaded, [sentence for index in chosen for sentence in pairs[index]], max_tokens, words)
        for index, both in zip(chosen, zip(scored[::2], scored[1::2], strict=True), strict=True):
            task, _, _ = rows[index].id.partition("/")
            yield rows[index], outcome(task, pairs[index], both)


def score(
    loaded: Loaded, sentences: Sequence[Tokens], max_tokens: int, words: Sequence[np.ndarray] | None = None
) -> list[Scored]:
    """Return, per sentence, log P of each ordinary token with it alone masked, and whether the model would fill it in.

    words: per sentence, the number of the word that each token belongs to (T,); then what stands to the right of a
    token in its word is masked with it.
    At most `max_tokens` padded tokens (one copy at least) and 512 rows of the LM head run at once. Raises `ValueError`
    where the model has no LM head for gaps or its tokenizer no mask token.
    """
    mask = loaded.tokenizer.mask_token_id
    if loaded.kind != "masked" or mask is None:
        raise ValueError(f"{type(loaded.model).__name__}: no masked-language-model head, or no mask token")
    readers: dict[tuple[int, bytes], list[int]] = {}  # masked position and copy -> sentences that it is a copy of
    copies: list[Tokens] = []  # in the same order; `target` is the masked position
    for number, sentence in enumerate(sentences):
        for place in np.flatnonzero(~sentence.special):
            ids = sentence.ids.copy()
            ids[place] = mask
            if words is not None:
                ids[place:][words[number][place:] == words[number][place]] = mask
            key = (int(place), ids.tobytes())
            if key not in readers:
                copies.append(Tokens(sentence.prompt, "masked", ids, sentence.special, np.array([place])))
            readers.setdefault(key, []).append(number)
    reading = list(readers.values())
    logprob = [np.zeros(len(sentence), dtype=np.float32) for sentence in sentences]
    top = [np.zeros(len(sentence), dtype=bool) for sentence in sentences]
    for batch in batches(copies, max_tokens, [len(numbers) for numbers in reading]):
        logits_NV = forward(loaded, [copies[index].ids for index in batch], [copies[index].target for index in batch])
        asked = [(row, number) for row, index in enumerate(batch) for number in reading[index]]
        targets = [copies[batch[row]].target for row, _ in asked]
        scores = score_rows(logits_NV[[row for row, _ in asked]], [sentences[n].ids for _, n in asked], targets)
        for (_, number), target, scored in zip(asked, targets, scores, strict=True):
            logprob[number][target], top[number][target] = scored.logprob, scored.top
    return [
        Scored(values[~sentence.special], hits[~sentence.special])
        for sentence, values, hits in zip(sentences, logprob, top, strict=True)
    ]


def work(loaded: Loaded, rows: Sequence[Any]) -> Work:
    """Return the work of the copies of all pairs: one for each token that is hidden."""
    sentences = [sentence for row in rows for sentence in _pair(loaded, row)]
    hidden = [int((~sentence.special).sum()) for sentence in sentences]
    return Work(sum(len(sentence) * copies for sentence, copies in zip(sentences, hidden, strict=True)), sum(hidden))


def _pair(loaded: Loaded, row: Any) -> tuple[Tokens, Tokens]:
    return encode(loaded, row, 0), encode(loaded, row, 1)


def _words(loaded: Loaded, row: Any, target: int) -> np.ndarray:
    """Return the number of the word that each token of a sentence belongs to (T,); -1 for special tokens."""
    coded = loaded.tokenizer(row.text + row.targets[target], split_special_tokens=True, verbose=False)
    return np.array([-1 if word is None else word for word in coded.word_ids()])
