"""One text through one model, as a page: attention of all heads, families of heads on this text, what comes next.

No measurement: relations are measured on the task's prompts, with null, interval and q-value (`classify`); here the
same statistic (`stages.model.measure`) is taken from the few positions of one text that have the relation. Attention is
written in steps of 1/255: what is shown of a weight is off by at most half a step, 0.002.

Legend: H head, T query token, S key token, L block.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages import tasks
from stages.families import FAMILIES
from stages.families.family import Family, Relation, Tokens
from stages.page.head_maps import head_name
from stages.page.page import save, script_json
from stages.page.sentences import STATISTICS, listed, number

HERE = Path(__file__).parent
LEVELS = 255  # attention is written as a whole number of 1/255
TOKENS = 256  # a map of more tokens cannot be read
BYTES = 3_300_000  # attention weights of one file, a byte each: 4.4 MB as text
ROLES = ("long", "short")  # passages that families are measured on (stages/tasks/text)
LONG = np.arange(512)  # token ids of a long text without repeats
REPEATING = LONG % 7  # with every relation that ids alone can have
ANNOTATED = "it is marked in the prompts of its task ({}), and a plain text has no such marks"


@dataclass(frozen=True)
class Place:
    """One attention layer of the model: its block number, number of heads, and what it can see, in words."""

    layer: int
    heads: int
    sees: str


@dataclass(frozen=True)
class Look:
    """What one text looks like from inside a model; shown by a notebook, or saved as one HTML file.

    names, special: per token, (T,); attention: by block (H, T, S); relations: of the families that this text has, and
    `means` of each, mass and null by (L, H), see `stages.model.measure`; missing: why it has not the others.
    continuation: the likeliest tokens and their probabilities; comes: what they are, or why there are none.
    judged: the slot's heads table; unjudged: why it is empty. enlarged: heads that are large at first.
    """

    slot: str
    title: str
    names: list[str]
    special: np.ndarray
    layers: list[Place]
    attention: Mapping[int, np.ndarray]
    relations: Mapping[str, Relation]
    means: Mapping[str, Mapping[str, np.ndarray]]
    missing: Mapping[str, str]
    continuation: list[tuple[str, float]]
    comes: str
    judged: pd.DataFrame
    unjudged: str = ""
    enlarged: tuple[tuple[int, int], ...] = ()

    @property
    def heads(self) -> list[tuple[int, int]]:
        """All (layer, head), in order."""
        return [(place.layer, head) for place in self.layers for head in range(place.heads)]

    @property
    def causal(self) -> bool:
        """Whether no token looks at a later one, in any head."""
        return not any(np.triu(weights_HTS, 1).any() for weights_HTS in self.attention.values())

    def html(self) -> str:
        """Return the page: one file that loads nothing."""
        environment = Environment(
            loader=FileSystemLoader(HERE),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("look.html.j2").render(
            look=self,
            rows=[self._summary(FAMILIES[name]) for name in self.relations],
            absent=self._absent(),
            data=script_json(self._data()),
            style=Markup((HERE / "look.css").read_text(encoding="utf-8")),
            script=Markup((HERE / "look.js").read_text(encoding="utf-8")),
            number=number,
            widest=max(place.heads for place in self.layers),
        )

    def _repr_html_(self) -> str:
        """Show the page in a notebook, in a frame of its own."""
        title, page = escape(f"Attention of {self.title} on one text"), escape(self.html())
        return f'<iframe title="{title}" srcdoc="{page}" style="width: 100%; height: 56rem; border: 0"></iframe>'

    def save(self, path: str | Path) -> Path:
        """Write the page; raises `UserError` where that is not possible."""
        return save(path, self.html())

    def _families(self) -> list[Family]:
        """Return families with a number or a reason, in display order."""
        return [family for name, family in FAMILIES.items() if name in self.relations or name in self.missing]

    def _here(self, family: Family, statistic: str) -> list[float]:
        """Return a relation's statistic on this text, of every head in order."""
        values_LH = self.means[family.name][statistic]
        return [float(values_LH[head]) for head in self.heads]

    def _summary(self, family: Family) -> dict[str, Any]:
        """Return a row of the table of families: how many positions have it, and the three heads with most of it."""
        mass, null = self._here(family, "mass"), self._here(family, "mass_null")
        best = sorted(range(len(mass)), key=lambda index: (-mass[index], index))[:3]
        top = [f"{head_name(*self.heads[i])} {number(mass[i])} ({number(null[i])})" for i in best]
        return {"family": family, "positions": len(self.relations[family.name].queries), "top": top}

    def _absent(self) -> list[tuple[str, str]]:
        """Return what cannot be seen in this text, families that share a reason together, and why."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.missing.items():
            kind = name.split(":")[0]  # grammar and iteration are named once
            if kind not in reasons.setdefault(why, []):
                reasons[why].append(kind)
        return [(listed(names), why) for why, names in reasons.items()]

    def _data(self) -> dict[str, Any]:
        """Return what the script reads."""
        layers = [{"layer": place.layer, "heads": place.heads, "sees": place.sees} for place in self.layers]
        shown = [self._family(family) for family in self._families()]
        marked, telling = self._telling()
        return {
            "tokens": self.names,
            "special": self.special.tolist(),
            "causal": self.causal,
            "layers": layers,
            "levels": LEVELS,
            "values": packed(self.attention, self.causal),
            "families": [family for family in shown if family["here"] or family["members"]],
            "enlarged": [head_name(*head) for head in self.enlarged or telling],
            "marked": marked,
            "unjudged": self.unjudged,
        }

    def _family(self, family: Family) -> dict[str, Any]:
        """Return one family as the script reads it: on this text, and on the run's prompts."""
        common = {"name": family.name, "says": family.relation_text, "statistic": STATISTICS[family.statistic]}
        if family.name in self.missing:
            return common | {"here": None, "why": self.missing[family.name], **self._run(family)}
        relation = self.relations[family.name]
        pairs = zip(relation.queries.tolist(), relation.dense, strict=True)
        here = {
            "positions": len(relation.queries),
            "targets": [[query, np.flatnonzero(keys_S).tolist()] for query, keys_S in pairs],
            **{statistic: _rounded(self._here(family, statistic)) for statistic in ("mass", "mass_null")},
        }
        return common | {"here": here, "why": "", **self._run(family)}

    def _run(self, family: Family) -> dict[str, Any]:
        """Return the family's columns of the heads table, in order of the heads, and which heads are members."""
        rows = self.judged[self.judged.family == family.name].set_index(["layer", "head"])
        rows = rows.reindex(pd.MultiIndex.from_tuples(self.heads)) if len(rows) else rows
        return {
            "score": _rounded(rows.score),
            "chance": _rounded(rows["score_null"]),
            "members": np.flatnonzero(rows.member == 1).tolist(),
        }

    def _telling(self) -> tuple[str, list[tuple[int, int]]]:
        """Return the family to mark at first, and the head that does most of it beyond what an average token gets.

        Relations of content come before those of place, which any text has. Of the first head asked for, where one is.
        """
        families = [FAMILIES[name] for name in self.relations]
        families = [family for family in families if family.content] or families
        beyond = [
            (mass - np.nan_to_num(null), family.name, head)
            for family in families
            for head, mass, null in zip(
                self.heads, self._here(family, "mass"), self._here(family, "mass_null"), strict=True
            )
            if head in self.enlarged[:1] or not self.enlarged
        ]
        _, name, head = max(beyond, key=lambda triple: triple[0], default=(0, "", self.heads[0]))
        return name, [head]


def applying(tokens: Tokens) -> tuple[dict[str, Relation], dict[str, str]]:
    """Return the relations between the tokens of a plain text, by family, and why it has not the others."""
    relations: dict[str, Relation] = {}
    missing: dict[str, str] = {}
    for name, family in FAMILIES.items():
        if tasks.of(family.task).reads != "text":
            continue
        relation = _relation(family, tokens)
        if relation is not None:
            relations[name] = relation
        elif family.relation is None:
            missing[name] = "it is an effect of the head's output, no way of looking"
        elif _relation(family, _plain(REPEATING)) is None:
            missing[name] = ANNOTATED.format(tasks.of(family.task).label)
        elif _relation(family, _plain(LONG)) is not None:
            missing[name] = f"the text is too short ({family.relation_text})"
        else:
            missing[name] = f"no position of this text has it ({family.relation_text})"
    return relations, missing


def _plain(ids: np.ndarray) -> Tokens:
    return Tokens("", "", ids, np.zeros(len(ids), dtype=bool))


def _relation(family: Family, tokens: Tokens) -> Relation | None:
    """Return the relation that a text has when it is read as one of the passages that the family is measured on."""
    relations = (family.relation(replace(tokens, role=role)) for role in ROLES if family.relation)
    return next((relation for relation in relations if relation is not None and not relation.words), None)


def longest(heads: int, causal: bool, limit: int) -> int:
    """Return how many tokens a text may have: of the model, of a map that can be read, and of a file below 5 MB."""
    room = BYTES // heads
    size = int((np.sqrt(1 + 8 * room) - 1) / 2) if causal else int(np.sqrt(room))
    return min(limit, TOKENS, size)


def packed(attention: Mapping[int, np.ndarray], causal: bool) -> str:
    """Return attention in steps of 1/255, a byte each, as base64: by block, head, query, key; causal: keys up to it."""
    parts = []
    for layer in sorted(attention):
        steps_HTS = np.rint(attention[layer].clip(0, 1) * LEVELS).astype(np.uint8)
        length = steps_HTS.shape[1]
        kept_N = np.tril_indices(length) if causal else np.unravel_index(np.arange(length**2), (length, length))
        parts.append(steps_HTS[:, *kept_N].ravel())
    return base64.b64encode(np.concatenate(parts).tobytes()).decode()


def _rounded(values: Any) -> list[float | None]:
    return [None if pd.isna(value) else round(float(value), 3) for value in values]
