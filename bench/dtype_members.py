"""Which verdicts on heads change with the dtype that a model runs in.

    python -m bench.dtype_members <float32 heads.parquet> <other heads.parquet>

The two are data/heads/<slot>.parquet of runs of fetch, extract (all tasks), trace and classify that differ in
`models.<slot>.dtype` alone. Writes bench/dtype_members.csv: a row per family, and one per head whose verdict changed,
with what it missed or met: how near each of its conditions was in both runs.
"""

import argparse

import pandas as pd

from stages.families import FAMILIES
from stages.store import params

NAMES = ["family", "layer", "head"]


def main() -> None:
    """Compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exact")
    parser.add_argument("coarse")
    asked = parser.parse_args()
    columns = [*NAMES, "score", "score_null", "low", "baseline", "q", "member"]
    exact, coarse = (pd.read_parquet(path, columns=columns) for path in (asked.exact, asked.coarse))
    both = exact.merge(coarse, on=NAMES, suffixes=("_float32", "_bfloat16"), validate="1:1")
    difference = (both.score_float32 - both.score_bfloat16).abs()
    settings, rows = params.load().classify, []
    for family, of in both.assign(difference=difference).groupby("family", sort=False):
        members = {f"members_{name}": int(of[f"member_{name}"].sum()) for name in ("float32", "bfloat16")}
        rows.append({"family": family, "difference": of.difference.max(), **members})
        for row in of[of.member_float32 != of.member_bfloat16].itertuples():
            near = [_conditions(row, name, settings, FAMILIES[family]) for name in ("float32", "bfloat16")]
            names = [name for name in near[0] if (near[0][name] > 0) != (near[1][name] > 0)]
            why = "; ".join(f"{name}: {near[0][name]:+.4f} and {near[1][name]:+.4f} from its bound" for name in names)
            own = {f"members_{name}": int(getattr(row, f"member_{name}")) for name in ("float32", "bfloat16")}
            change = abs(row.score_float32 - row.score_bfloat16)
            rows.append(
                {"family": family, "changed": f"L{row.layer}H{row.head}", "difference": change, **own, "why": why}
            )
    table = pd.DataFrame(rows)[["family", "changed", "members_float32", "members_bfloat16", "difference", "why"]]
    table.to_csv("bench/dtype_members.csv", index=False, float_format="%.4f")
    changed = int((both.member_float32 != both.member_bfloat16).sum())
    print(table.to_string())
    print(
        f"{changed} of {len(both)} verdicts change; scores by {difference.mean():.4f}, at most {difference.max():.4f}"
    )


def _conditions(row, dtype: str, settings, family) -> dict[str, float]:
    """Return how far a head is beyond each bound that makes a member: above 0 where it is met."""
    score, null, low, baseline, q = (
        getattr(row, f"{name}_{dtype}") for name in ("score", "score_null", "low", "baseline", "q")
    )
    bounds = {"score": score - settings.thresholds.get(family.name, family.threshold)}
    bounds |= {"q": settings.alpha - q} if family.tested else {}
    bounds |= {"margin": score - null - settings.margin} if family.statistic != "effect" else {}
    return bounds | ({"interval": low - baseline} if family.content else {})


if __name__ == "__main__":
    main()
