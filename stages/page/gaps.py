"""What a slot has no number for, and why: said once."""

from stages.page import grammar_rows, head_maps, rows, sentences
from stages.page.head_maps import PREFIX
from stages.page.inputs import Slot
from stages.page.page import Note, Section, Table
from stages.page.section import Context
from stages.page.sentences import TASKS
from stages.tasks import of

KINDS = {
    "encoder": "An encoder without a language-model head predicts no word: what its heads look at can be measured, "
    "what they are for cannot, here.",
    "vision": "A model of images reads no text and is asked no question here: what its heads look at is measured, what "
    "they are for is not.",
    "masked": "A masked language model fills gaps: it can score whole sentences (pseudo-log-likelihood), but continues "
    "no prompt.",
}


def limits(slot: Slot, parts: list[Section], predicting: set[str]) -> list[Section]:
    """Put one section in the place of those that have nothing to show, in models that are no decoders.

    predicting: anchors of the sections that need a model that predicts words.
    """
    asked = [] if slot.decoder else [part for part in parts if part.anchor in predicting]
    empty = [part for part in asked if all(block.kind == "note" for block in part.blocks)]
    if not empty:
        return parts
    titles = sentences.listed(f"'{part.title}'" for part in empty)
    says = KINDS.get(slot.model.get("kind"), "Not everything can be asked of this model.")
    note = Note(f"{says} Left out for that: {titles}. The reasons stand under 'Not measurable'.")
    first = parts.index(empty[0])
    kept = [part for part in parts if part not in empty]
    return [*kept[:first], Section("limits", "What it cannot show", [note]), *kept[first:]]


def missing(slot: Slot, context: Context) -> list:
    """List what has no number, and why; what has the same reason stands in one row."""
    families, tasks = context.families, context.tasks
    why = {what: reason for what, reason in sorted(slot.reasons.items()) if not what.startswith(PREFIX)}
    scored = {name for name, _ in head_maps.by_family(slot.heads, families)}
    kind = slot.model.get("kind", "")
    foreign = {name for name in TASKS if name not in tasks and of(name).refuses(kind)}  # neither asked nor possible
    for task in TASKS:
        if task not in tasks and task not in foreign:
            why.setdefault(task, "the task is not in params.yaml")
    for family in families:
        if family not in scored and not family.startswith(PREFIX) and families[family].task not in foreign:
            task = families[family].task
            why.setdefault(family, f"no score in {slot.path('heads.csv')}" + (f"; see {task}" if task in why else ""))
    if relations := grammar_rows.unmeasured(slot):
        why["grammar"] = relations
    elif grammar_rows.measured(slot.grammar).empty:
        why["grammar"] = f"no score in {slot.path('grammar.csv')}" + (
            f"; see {grammar_rows.TASK}" if grammar_rows.TASK in why else ""
        )
    together: dict[tuple[str, str], list[str]] = {}
    for name, reason in why.items():
        kind = "task" if name in TASKS else "family" if name in families or name == "grammar" else "stage"
        together.setdefault((kind, reason), []).append(name)
    table = [[", ".join(names), kind, reason] for (kind, reason), names in together.items()]
    table += _controls(slot, context)
    if not table:
        return [Note("Every task, family and control of this run has a number.")]
    return [Table(["what", "kind", "why"], table, "", slot.path("model.json"))]


def _controls(slot: Slot, context: Context) -> list[list[str]]:
    """Return a row per family that no control sets stand beside."""
    silenced = rows.silenced(slot.effects, context.families)
    alone = silenced[silenced["claim"] & silenced["p"].isna()]
    table = []
    for family, part in alone.groupby("family", sort=False):
        said = dict.fromkeys(filter(None, [*part["note"]])) or dict.fromkeys(filter(None, [*part["matching"]]))
        cells = sentences.listed(dict.fromkeys(sentences.measured(r.task, r.measure) for r in part.itertuples()))
        table.append([f"{family} against control sets", "control", f"{'; '.join(said) or 'none were run'} ({cells})"])
    return table
