"""What silencing the best heads of each family does, beside control sets of other heads."""

import pandas as pd

from stages.page import charts, rows, verdicts
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Fold, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import capital, decimals, lost, number, p_value


def effects(slot: Slot, context: Context) -> list:
    """Return a chart per task, a verdict per claim and a table of everything."""
    silenced = rows.silenced(slot.effects, context.families)
    silenced = silenced[~silenced["measure"].isin(rows.BESIDE)]
    path = slot.path("effects.csv")
    if silenced.empty:
        why = capital(slot.reasons.get("ablation", "")) or f"{path} has no such rows"
        return [Note(f"No family was silenced. {why}.")]
    claims = silenced[silenced["claim"]]
    how = (
        "The best heads of a family, chosen on one half of the prompts, are replaced by "
        f"{verdicts.method(rows.main_kind(slot.effects))} on prompts of the other half, and so are control sets: as "
        "many other heads, from the same or nearest layers. A verdict is the family's rank among its control sets; an "
        "interval is over prompts and for these heads only. Each cell has few prompts, so that its intact value is not "
        "that of all prompts under 'What the intact model can do'."
    )
    said = [Note(text) for text in _verdicts(silenced, context.alpha)]
    folded = Fold(f"Each of {len(said)} families in words", said)
    legend = [(charts.BLUE, "diamond", f"the family's best heads, rank p at most {context.alpha:g}"),
              (charts.BLUE, "hollow diamond", "not told apart, no harm, or no control set"),
              (charts.GREY, "circle", "one control set each")]  # fmt: skip
    says = ["Right of 0 is worse. Lines: 95 % intervals for these heads over prompts.", verdicts.controls(claims)]
    says = " ".join(filter(None, [*says, verdicts.over_all(claims, context.alpha)]))
    cards = _cards(slot, claims, context)
    figure = [Figure(cards, says, path, "cards", legend)] if cards else []
    tables = _tables(silenced, rows.other_kinds(slot.effects), context, path)
    return [Note(how), *figure, folded, *tables, *_longer(slot, context)]


def _longer(slot: Slot, context: Context) -> list[Fold]:
    """Return what a longer study of this slot adds, in a list: the claims among more control sets; [] without it."""
    claims = rows.more_claims(slot, context.families)
    if claims.empty:
        return []
    study = slot.longer["plan"]
    said = f"{verdicts.over_all(claims, context.alpha)} {verdicts.controls(claims)}"
    table = _table(claims, [], context, "As in the table above.", study.slot.path("effects.csv"), "")
    return [study.fold("every claim among more control sets", [Note(said), table])]


def _cards(slot: Slot, claims: pd.DataFrame, context: Context) -> list[Chart]:
    controls = rows.control_sets(slot.effects, claims)
    cards = []
    for (task, measure), part in claims.groupby(["task", "measure"], sort=False):
        same = controls[(controls["task"] == task) & (controls["measure"] == measure)]
        drawn = rows.dots(part, same, context.alpha)
        if len(drawn):
            chart = charts.effects(drawn, lost(task, measure), list(dict.fromkeys(part["family"])))
            cards.append(Chart(chart, capital(f"{context.task(task)}: {measure}")))
    return cards


def _verdicts(silenced: pd.DataFrame, alpha: float) -> list[str]:
    """Return a paragraph per family: its claims, then what else its heads do."""
    texts = []
    for _, part in silenced.groupby("family", sort=False):
        claims = [
            verdicts.claim(row, alpha, again=place > 0) for place, row in enumerate(part[part["claim"]].itertuples())
        ]
        elsewhere = part[part["whole"] & ~part["home"] & (part["measure"] == part["task"].map(rows.MAIN))]
        texts.append(" ".join([*claims, verdicts.specificity(elsewhere)]).strip())
    return [text for text in texts if text]


def _tables(silenced: pd.DataFrame, besides: list[str], context: Context, path: str) -> list[Table]:
    whole, parts = silenced[silenced["whole"]], silenced[~silenced["whole"] & silenced["home"]]
    says = (
        "Intact: on the same prompts. Harm: + is worse. Mean of controls: the mean harm of the control sets. As "
        "harmful: control sets that do as much harm or more. "
        "Rank p = (1 + as harmful) / (1 + control sets). Tasks without control sets are checks of specificity."
    )
    tables = [_table(whole, besides, context, says, path, "")]
    if len(parts):
        tables.append(
            _table(parts, besides, context, "", "", f"By condition of prompts ({len(parts)} rows; few prompts each)")
        )
    return tables


def _table(silenced: pd.DataFrame, besides: list[str], context: Context, says: str, path: str, folded: str) -> Table:
    cells = []
    for row in silenced.itertuples():
        digits = decimals(row.measure)
        where = context.task(row.task) + (f", {row.condition}" if folded else "")
        cells.append([
            row.family, f"{where}: {row.measure}", number(row.intact, digits), number(row.value, digits),
            verdicts.harm(row), *(_other(row, kind, digits) for kind in besides),
            number(row.control_harm, digits, True),
            verdicts.rank(row), p_value(row.p), p_value(row.q), f"{int(row.trials)} ({int(row.clusters)})", row.note,
        ])  # fmt: skip
    others = [f"harm, {verdicts.method(kind)} in place" for kind in besides]
    columns = ["family", "task: measure", "intact", "silenced", "harm", *others, "mean of controls", "as harmful",
               "rank p", "q", "prompts (clusters)", "note"]  # fmt: skip
    return Table(columns, cells, says, path, tuple(range(2, len(columns) - 1)), folded=folded)


def _other(row, kind: str, digits: int) -> str:
    return number(row.besides[kind].value, digits, True) if kind in row.besides else "–"


SECTION = SlotSection("effects", "What happens without them", 45, effects, predicts=True, seen=2)
