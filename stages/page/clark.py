"""What Clark+ 2019 measured for BERT-base on Penn Treebank WSJ (dev) with Stanford labels, to stand beside our numbers.

Source: the printed output of Syntax_Analysis.ipynb in github:clarkkev/attention-analysis at commit
b609cfc898d1bcf7b4fd957c1bc9cd418efc0ec3, behind Table 1 of arXiv 1906.04341. The paper's table differs from it in two
rows: `all` 34.5 (26.3), and `auxpass` 82.5 (40.5), which are the notebook's baselines of auxpass and cop.
Offsets are those of the source: positive = the head word is to the right. Layers and heads count from 0, as printed.
All these rows look from the dependent to its head; `prep`, `pobj` and others have no counterpart among UD's labels.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One printed line: accuracy and baseline in per cent, over `arcs` dependents."""

    label: str
    arcs: int
    layer: int
    head: int
    accuracy: float
    baseline: float
    offset: int


COUNTERPARTS = {  # Universal Dependencies -> Stanford Dependencies
    "nsubj": Published("nsubj", 2804, 7, 1, 58.5, 45.5, 1),
    "nsubj:pass": Published("nsubjpass", 254, 6, 5, 57.5, 43.7, 2),
    "obj": Published("dobj", 1591, 7, 9, 86.8, 40.0, -2),
    "det": Published("det", 3337, 7, 10, 94.3, 51.7, 1),
    "amod": Published("amod", 2505, 3, 9, 75.6, 68.3, 1),
    "nummod": Published("num", 1091, 7, 10, 67.4, 56.4, 1),
    "nmod:poss": Published("poss", 708, 6, 5, 80.5, 47.7, 1),
    "advmod": Published("advmod", 1241, 6, 5, 48.8, 40.2, 1),
    "compound": Published("nn", 3192, 3, 9, 70.4, 70.2, 1),
    "compound:prt": Published("prt", 116, 5, 6, 99.1, 91.4, -1),
    "appos": Published("appos", 272, 6, 0, 30.5, 28.3, -3),
    "aux": Published("aux", 1237, 3, 9, 81.1, 71.5, 1),
    "aux:pass": Published("auxpass", 286, 3, 9, 94.1, 82.5, 1),
    "cop": Published("cop", 353, 6, 5, 72.2, 40.5, 1),
    "mark": Published("mark", 420, 7, 1, 50.7, 14.5, 2),
    "cc": Published("cc", 995, 6, 4, 47.8, 41.2, -1),
    "xcomp": Published("xcomp", 433, 4, 6, 57.3, 47.1, -2),
    "ccomp": Published("ccomp", 557, 7, 0, 48.8, 12.4, -2),
    "advcl": Published("advcl", 285, 4, 3, 29.5, 4.6, -3),
    "acl": Published("partmod", 216, 7, 4, 59.3, 56.5, -1),
    "acl:relcl": Published("rcmod", 286, 8, 10, 40.9, 26.6, -3),
    "conj": Published("conj", 995, 6, 0, 53.3, 26.8, -2),
}
ALL = Published("all", 0, 6, 5, 34.7, 26.7, 1)  # one head for all labels
