"""Paradigms of what moves and what licenses: fillers and gaps, islands, negative polarity."""

from functools import partial

from stages.tasks.blimp.grammar import paradigm
from stages.tasks.blimp.words import Draw

# Filler-gap dependencies


@paradigm("filler_gap_dependency")
def wh_questions_object_gap(d: Draw) -> str:
    """After 'what' the clause must lack its object."""
    verb, matrix, subject = d.verb("strict"), d.verb("perceive"), d.someone()
    kind = d.either(*verb.objects)
    item = f"the {d.noun(kind).forms[d.number()]}"
    clause = f"{d.someone()} {d.before(verb)}"
    wh = "who" if kind == "person" else "what"
    return f"{subject} {d.tense(subject.number)(matrix)} [{item} that {clause}|{wh} {clause} {item}]"


@paradigm(
    "filler_gap_dependency",
    wh_questions_subject_gap={"far": False},
    wh_questions_subject_gap_long_distance={"far": True},
)
def wh_questions_subject(d: Draw, far: bool) -> str:
    """After 'who' the clause must lack a noun phrase."""
    subject, matrix, verb = d.someone(), d.verb("perceive"), d.verb("strict")
    item = str(d.person())
    if far:
        item += f" that {d.someone()} {d.before(d.verb('strict', kind='person'))}"
    return f"{subject} {d.tense(subject.number)(matrix)} [{item} that|who {item}] {d.before(verb)} {d.object(verb)}"


@paradigm(
    "filler_gap_dependency",
    wh_vs_that_no_gap={"gap": False, "far": False},
    wh_vs_that_no_gap_long_distance={"gap": False, "far": True},
    wh_vs_that_with_gap={"gap": True, "far": False},
    wh_vs_that_with_gap_long_distance={"gap": True, "far": True},
)
def wh_vs_that(d: Draw, gap: bool, far: bool) -> str:
    """A clause with a gap starts with a wh-word, one without starts with 'that'."""
    subject, matrix, verb = d.someone(), d.verb("know"), d.verb("strict")
    kind = d.either(*verb.objects)
    wh = "who" if kind == "person" else "what"
    inner = str(d.person())
    if far:
        action, rest = d.action()
        inner += f" {d.either('who', 'that')} {d.before(action)} {rest}"
    start, end = (f"[{wh}|that]", "") if gap else (f"[that|{wh}]", d.phrase(kind))
    return f"{subject} {d.tense(subject.number)(matrix)} {start} {inner} {d.before(verb)} {end}"


# Islands


@paradigm("island_effects")
def adjunct_island(d: Draw) -> str:
    """Nothing can be asked out of an adjunct clause."""
    aux, form = d.question()
    kind = d.either("person", *d.words.things)
    verbs = [d.verb("strict", "plain", kind=kind, progressive=True) for _ in "12"]
    clause, other = f"{d.either('before', 'after', 'while', 'without')} {verbs[1].ing}", d.phrase(kind)
    wh = "who" if kind == "person" else "what"
    return f"{wh} {aux} {d.someone()} {form(verbs[0])} [{clause} {other}|{other} {clause}]?"


@paradigm("island_effects")
def complex_NP_island(d: Draw) -> str:
    """Nothing can be asked out of a relative clause."""
    aux, form = d.question()
    inner, outer = (d.verb("strict", kind="person") for _ in "12")
    island, other, verb = f"{d.person()} {d.either('who', 'that')} {d.before(inner)}", d.someone(), form(outer)
    return f"who {aux} [{island} {other} {verb}|{other} {verb} {island}]?"


@paradigm("island_effects")
def coordinate_structure_constraint_complex_left_branch(d: Draw) -> str:
    """A wh-determiner cannot leave its noun, not even out of two clauses at once."""
    kind = d.either(*d.words.things)
    noun, wh, be = d.noun(kind).forms[1], d.either("which", "whose", "what"), d.either("is", "was")
    first, second = (d.verb("strict", "plain", kind=kind, progressive=True).ing for _ in "12")
    asked = f"{be} {d.either(d.name(), d.person(0))} {first}"
    return f"{wh} [{noun} {asked}|{asked} {noun}] and {d.name()} {second}?"


@paradigm("island_effects")
def coordinate_structure_constraint_object_extraction(d: Draw) -> str:
    """One half of a coordination cannot be asked for."""
    (aux, form), verb = d.question(), d.verb("strict", kind="person")
    first, second = d.name(), d.someone()
    return f"who {aux} {first} [and {second} {form(verb)}|{form(verb)} and {second}]?"


@paradigm(
    "island_effects",
    left_branch_island_echo_question={"echo": True},
    left_branch_island_simple_question={"echo": False},
)
def left_branch_island(d: Draw, echo: bool) -> str:
    """A wh-determiner cannot leave its noun."""
    aux, form = d.question()
    aux = "will" if echo and aux == "did" else aux  # outside a question 'did' is emphatic
    noun = d.noun(*d.words.things)
    verb, wh = form(d.verb("strict", "plain", kind=noun.kind)), d.either("which", "whose")
    subject, word = d.someone(), noun.forms[d.number()]
    good = f"{subject} {aux} {verb} {wh} {word}" if echo else f"{wh} {word} {aux} {subject} {verb}"
    return f"[{good}|{wh} {aux} {subject} {verb} {word}]?"


@paradigm("island_effects")
def sentential_subject_island(d: Draw) -> str:
    """Nothing can be asked out of a clause that is the subject."""
    (aux, form), verb = d.question(), d.verb("strict", kind="person", progressive=True)
    event, other, upset = f"{d.someone(0)}'s {verb.ing}", d.someone(), form(d.verb("upset"))
    return f"who {aux} {event} [{other} {upset}|{upset} {other}]?"


@paradigm("island_effects")
def wh_island(d: Draw) -> str:
    """Nothing can be asked out of an embedded question."""
    aux, form = d.question()
    subject = d.either(d.gendered, partial(d.person, 1))()
    matrix, verb = form(d.verb("know")), d.before(d.verb("strict", kind="person"))
    return f"who {aux} {subject} {matrix} [{subject.pronouns[0]}|who] {verb}?"


# Negative polarity items


def _perfect(d: Draw) -> tuple[str, str]:
    """An auxiliary that suits a singular subject, and the rest of the predicate."""
    (verb, rest), aux = d.action(), d.either("has", "had", *d.words.modals)
    return aux, f"{verb.participle if aux in ('has', 'had') else verb.base} {rest}"


@paradigm("npi_licensing")
def matrix_question_npi_licensor_present(d: Draw) -> str:
    """A question allows 'ever', a statement does not."""
    subject, (aux, rest) = d.someone(0), _perfect(d)
    return f"[{aux} {subject}|{subject} {aux}] ever {rest}[?|.]"


@paradigm("npi_licensing", npi_present_1={"even": "even"}, npi_present_2={"even": ""})
def npi_present(d: Draw, even: str) -> str:
    """'Ever' needs a licensor; 'even' is none."""
    subject, (aux, rest) = d.someone(0), _perfect(d)
    return f"{even} {subject} {aux} [{d.pick(d.words.adverbs)}|ever] {rest}"


@paradigm("npi_licensing")
def only_npi_licensor_present(d: Draw) -> str:
    """'Only' allows 'ever', 'even' does not."""
    subject, (aux, rest) = d.someone(0), _perfect(d)
    return f"[only|even] {subject} {aux} ever {rest}"


@paradigm("npi_licensing")
def only_npi_scope(d: Draw) -> str:
    """'Only' must have 'ever' in its scope."""
    subject, inner, (aux, rest) = d.person(0), d.someone(), _perfect(d)
    link = f"{subject} {d.either('who', 'that')}"
    return f"[only {link}|{link} only] {inner} {d.before(d.verb('strict', kind='person'))} {aux} ever {rest}"


@paradigm("npi_licensing")
def sentential_negation_npi_licensor_present(d: Draw) -> str:
    """Negation allows 'ever', an adverb does not."""
    subject, (aux, rest) = d.someone(0), _perfect(d)
    return f"{subject} {aux} [not|{d.pick(d.words.sentence_adverbs)}] ever {rest}"


@paradigm("npi_licensing")
def sentential_negation_npi_scope(d: Draw) -> str:
    """Negation inside a relative clause does not reach 'ever' outside it."""
    subject, inner, (aux, rest) = d.person(0), d.someone(), _perfect(d)
    link, verb = f"{subject} {d.either('who', 'that')} had", d.verb("strict", kind="person").participle
    return f"{link} [{verb} {inner} {aux} not|not {verb} {inner} {aux}] ever {rest}"
