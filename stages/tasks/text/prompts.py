"""Plain English passages: long ones for positions and windows, short ones for sinks (T = 64 in Gu+ ICLR 2025).

Prompts know no tokenizer, so a passage is as long as it must be in any of them (6 characters a token; English has
about 4.5 in most) and `tokens` says where the model side cuts it.
"""

import re
from pathlib import Path

from stages.store.errors import UserError
from stages.tasks.prompt import Prompt, read_text, stream
from stages.tasks.text.settings import Settings

CHARACTERS = 6  # per token, at most, in what tokenizers make of English


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build `passages` long and `short_passages` short prompts from all over the text at `settings.path`.

    No two long ones share a paragraph, nor two short ones. Asking for more keeps the first ones.
    Raises `UserError` where the text is too short, with the words it has and needs.
    """
    paragraphs = read_text(Path(settings.path))
    prompts = []
    for role, count, tokens in (
        ("long", settings.passages, settings.tokens),
        ("short", settings.short_passages, settings.short_tokens),
    ):
        passages = list(dict.fromkeys(cut(paragraphs, tokens * CHARACTERS)))  # each once: it lies in one split
        if len(passages) < count:
            words = sum(len(paragraph.split()) for paragraph in paragraphs)
            needed = -(-words * count // len(passages)) if passages else count * tokens * CHARACTERS // 5
            raise UserError(
                f"{settings.path}: {words:,} words give {len(passages)} {role} passages of {tokens} tokens; tasks.text "
                f"asks for {count}, about {needed:,} words (a passage ends where a paragraph or a sentence does)"
            )
        order = stream(seed, f"text/{role}").permutation(len(passages))
        for number, place in enumerate(order[:count]):
            name = f"text/{role}/{number:04d}"
            prompts.append(
                Prompt(id=name, role=role, condition=role, cluster=name, text=passages[place], tokens=tokens)
            )
    return prompts


def cut(paragraphs: list[str], characters: int) -> list[str]:
    """Join consecutive paragraphs to passages of at least `characters`; what is left at the end is dropped.

    A paragraph that is itself longer than two passages (books whose lines are paragraphs) is taken by the sentence.
    """
    passages: list[str] = []
    current = ""
    for paragraph in paragraphs:
        pieces = [paragraph] if len(paragraph) <= 2 * characters else re.split(r"(?<=[.!?])\s+", paragraph)
        for piece in pieces:
            current = f"{current} {piece}" if current else piece
            if len(current) >= characters:
                passages.append(current)
                current = ""
    return passages
