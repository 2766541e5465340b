"""Say where the prompts of every task come from: `python -m stages.prompts` writes reports/prompts.csv."""

import logging
import sys
from typing import Any

import pandas as pd

from stages import tasks
from stages.store import files, params, paths, tables
from stages.store.errors import run

log = logging.getLogger(__name__)
LONGEST = 280  # characters of an example; what is more is cut from its middle


def main() -> None:
    """Write a row per task of params: source, prompts of each split, and one of them."""
    rows = [described(name, source, tables.PROMPTS.read(name)) for name, source in params.load().tasks if source]
    files.write_text(paths.SOURCES, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    log.info("%s: %d tasks", paths.SOURCES, len(rows))


def described(name: str, source: Any, prompts: pd.DataFrame) -> dict[str, Any]:
    """Return a task's row; source: its section of params; prompts: its table PROMPTS.

    The example is the first prompt of split b, by id.
    """
    split = prompts.split.value_counts()
    shown = prompts[prompts.split == "b"].sort_values("id").head(1)
    return {
        "task": name,
        "source": source.source,
        "place": getattr(source, "hub", "") if source.source == "hub" else source.path,
        "prompts": len(prompts),
        "a": split.get("a", 0),
        "b": split.get("b", 0),
        "clusters": prompts.cluster.nunique(),
        "conditions": prompts.condition.nunique(),
        "prompt": "".join(shown.id),
        "example": "".join(example(row, tasks.of(name).reads) for row in shown.itertuples()),
    }


def example(prompt: Any, reads: str) -> str:
    """Return a prompt as one line: what is scored stands in « », a rival of it behind a |, a line's end as ⏎.

    prompt: a row of PROMPTS; where nothing is scored, its first annotated relation follows.
    """
    if reads == "image":
        return "a picture"
    if len(prompt.ordinals):
        codes, _ = pd.factorize(pd.Series(prompt.ordinals))  # numbered as they come
        return _cut("random tokens, equal ones by one number: " + " ".join(map(str, codes + 1)))
    scored = "".join(f"«{target}»" for target in prompt.targets[:1])
    text = _cut((prompt.text + scored).replace("\n", "⏎"))
    rivals = "".join(f" | {rival.strip()}" for rival in prompt.targets[1:])
    return text + rivals + ("" if len(prompt.targets) else _relation(prompt))


def _cut(text: str) -> str:
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} [...] {text[-half:]}"


def _relation(prompt: Any) -> str:
    """Return the first relation between two places of a text, as words; '' where there is none."""
    for span in prompt.relations:
        query, key = (prompt.text[span[f"{end}_start"] : span[f"{end}_end"]] for end in ("query", "key"))
        if query != key:
            return f" ({span['name']}: «{query}» → «{key}»)"
    return ""


if __name__ == "__main__":
    run(main, *sys.argv[1:])
