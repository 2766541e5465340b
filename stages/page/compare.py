"""One page on two runs: what they have in common, their heads, metrics, effects and function vectors side by side."""

from collections.abc import Mapping

from stages.families.family import Family
from stages.page import compare_effects, compare_heads
from stages.page.compare_runs import ABSENT, Run, differing, other_code, same_model, same_prompts
from stages.page.page import Note, Section, Table, render
from stages.page.sentences import TASKS, listed

SHOWN = 300  # characters of a param that are shown
NAMED = 8  # params that a sentence names


def page(pairs: list[tuple[Run, Run]], families: Mapping[str, Family]) -> str:
    """Write the page: the sections of every pair of runs one after the other."""
    sections = [section for a, b in pairs for section in build(a, b, families, several=len(pairs) > 1)]
    a, b = pairs[0]
    title = f"{a.label} and {b.label}, compared"
    return render(title, [], {}, sections, template="compare.html.j2")


def build(a: Run, b: Run, families: Mapping[str, Family], several: bool = False) -> list[Section]:
    """Return the sections of one pair; of several, each is headed by its slot."""
    before, of = (f"{a.slot}-", f"{a.slot}: ") if several else ("", "")
    parts = [
        ("same", "What is compared", same(a, b, families)),
        ("intact", "What the intact models can do", compare_effects.intact(a, b)),
        ("heads", "Heads", compare_heads.heads(a, b, families)),
        ("effects", "What happens without them", compare_effects.effects(a, b, families)),
        ("steering", "Function vectors", compare_effects.steering(a, b)),
        ("metrics", "All other metrics", compare_effects.metrics(a, b)),
    ]
    return [Section(before + anchor, of + title if several else title, blocks) for anchor, title, blocks in parts]


def same(a: Run, b: Run, families: Mapping[str, Family]) -> list:
    """Return provenance and params that differ, and say what the runs share and what must be equal then."""
    params = differing(a.params, b.params)
    said = [
        weights(a, b),
        prompts(a, b),
        settings(a, b, params),
        code(a, b),
        expected(a, b, families),
    ]
    cells = [[name, *values] for name, *values in zip(_ROWS, _provenance(a), _provenance(b), strict=True)]
    blocks = [Note(" ".join(filter(None, said))), Table(["", a.label, b.label], cells)]
    if params:
        rows = [[f"`{key}`", *(_short(value) for value in values)] for key, *values in params]
        blocks.append(Table(["param", a.label, b.label], rows, folded=f"Params that differ ({len(params)})"))
    return blocks


_ROWS = ["revision", "commit", "slot", "model", "origin", "its revision", "licence", "architecture", "parameters",
         "stored", "dtype", "heads", "versions"]  # fmt: skip


def _provenance(run: Run) -> list[str]:
    model = run.model
    names = ("origin", "revision", "licence", "architecture", "parameters", "stored", "dtype")
    versions = ", ".join(f"{name} {version}" for name, version in model.get("versions", {}).items())
    shape = compare_heads.shape(run) if len(run.heads) else "–"
    known = [str(model[name]) if model.get(name) not in (None, "") else "–" for name in names]
    return [run.revision, f"`{run.commit}`", run.slot, model.get("name", "–"), *known, shape, versions or "–"]


def weights(a: Run, b: Run) -> str:
    """Say whether both runs read the same files."""
    if not a.model.get("files") or not b.model.get("files"):
        return "Whether both read the same weights is not recorded."
    if same_model(a, b):
        return "Both read the same model: every file has the same sha256, and the precision is the same."
    first, second = a.model["files"], b.model["files"]
    if a.model["files"] == b.model["files"]:
        return f"Both read the same files, in other precisions ({a.model.get('dtype')} and {b.model.get('dtype')})."
    shared = sum(first[name] == second[name] for name in set(first) & set(second))
    return (
        f"The models are not known to be the same: {shared} of {len(set(first) | set(second))} files that were read "
        f"are the same ({a.label}: {a.title}; {b.label}: {b.title})."
    )


def prompts(a: Run, b: Run) -> str:
    """Say which tasks asked the same prompts: two runs with different prompts are not the same measurement."""
    tasks = [name for name in TASKS if name in a.prompts or name in b.prompts]
    if not a.prompts or not b.prompts:
        return "Whether the prompts are the same is not recorded (no dvc.lock with prompts at both revisions)."
    groups = {answer: [name for name in tasks if same_prompts(a, b, name) is answer] for answer in (True, False, None)}
    said = []
    if groups[True]:
        every = not groups[False] and not groups[None]
        said.append(
            f"The prompts of {'all' if every else listed(groups[True])} {len(groups[True]) if every else ''}"
            f"{' tasks' if every else ''} are the same files.".replace("  ", " ")
        )
    if groups[False]:
        said.append(
            f"The files of prompts differ for {listed(groups[False])}: what is measured on them is not the same "
            "measurement in both, and a difference may be one of prompts."
        )
    for run in (a, b):
        if only := [name for name in groups[None] if name in run.prompts]:
            said.append(f"Asked in {run.label} alone: {listed(only)}.")
    if a.params.get("seed") != b.params.get("seed"):
        said.append(f"The seed is {a.params.get('seed', 'not known')} and {b.params.get('seed', 'not known')}.")
    return " ".join(said)


def settings(a: Run, b: Run, params: list[tuple[str, str, str]]) -> str:
    """Say how many params differ, and how they are known."""
    guessed = [run.label for run in (a, b) if not run.recorded]
    known = f" (those of {listed(guessed)} as in params.yaml; no dvc.lock says what was run)" if guessed else ""
    if not a.params or not b.params:
        return "The params of both are not known."
    if not params:
        return f"No param differs{known}."
    other = [key for key, *values in params if ABSENT not in values]
    alone = len(params) - len(other)
    said = [f"{len(other)} param{'s have' if len(other) > 1 else ' has'} another value: {listed(_keys(other))}"]
    said = said if other else ["No param has another value"]
    said += [f"{alone} {'are' if alone > 1 else 'is'} set in one alone"] if alone else []
    return f"{'; '.join(said)}{known}."


def _keys(keys: list[str]) -> list[str]:
    """Name the first keys, and say how many there are."""
    more = [f"{len(keys) - NAMED} more"] if len(keys) > NAMED else []
    return [f"`{key}`" for key in keys[:NAMED]] + more


def code(a: Run, b: Run) -> str:
    """Say which stages ran other code."""
    if not (a.recorded and b.recorded):
        return "Whether the code is the same is not recorded."
    other = other_code(a, b)
    return (
        f"The code of these stages differs: {listed(other)}." if other else "Stages that both ran have the same code."
    )


def expected(a: Run, b: Run, families: Mapping[str, Family]) -> str:
    """Say, of the same model on the same prompts, whether the scores are equal, as they should be."""
    tasks = {name: family.task for name, family in families.items()}
    equal, count, largest = compare_heads.equal_scores(a, b, tasks)
    if not count:
        return ""
    text = "Scores of heads of the same model on the same prompts should be equal"
    if equal == count:
        return f"{text}, and all {count} are."
    return (
        f"{text}: {equal} of {count} are; the largest difference is {largest:.5f}. What differs comes from the "
        "params, the code or the machine, not from the model or the prompts."
    )


def _short(value: str) -> str:
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
