"""Paradigms of structure: arguments, binding, control and raising, ellipsis."""

from functools import partial

from stages.tasks.blimp.grammar import paradigm
from stages.tasks.blimp.words import BE, NOT_BE, Draw, Phrase

# Argument structure


@paradigm("argument_structure")
def animate_subject_trans(d: Draw) -> str:
    """Some verbs want a subject that thinks."""
    number, verb = d.number(), d.verb("strict", sentient=True)
    actor, thing = d.noun("person").forms[number], d.noun("device", "garment", "fruit", "pastry", "meal").forms[number]
    return f"the [{actor}|{thing}] {d.tense(number)(verb)} {d.object(verb)}"


@paradigm("argument_structure")
def animate_subject_passive(d: Draw) -> str:
    """The same verbs want the noun after 'by' to think."""
    number, verb = d.number(), d.verb("strict", sentient=True)
    actor, thing = d.noun("person").forms[number], d.noun("device", "garment", "fruit", "pastry", "meal").forms[number]
    patient = d.object(verb)
    return f"{patient} {d.passive(patient.number)} {verb.participle} by the [{actor}|{thing}]"


@paradigm("argument_structure")
def causative(d: Draw) -> str:
    """Only some intransitive verbs can be given a causer."""
    verb, never, subject = d.verb("alternating"), d.verb("unaccusative"), d.someone()
    tense, number = d.tense(subject.number, progressive=True), d.number()
    theme = d.words.inflect(d.pick(verb.themes)).forms[number]
    return f"{subject} [{tense(verb)}|{tense(never)}] {d.either(('the', 'the'), *d.words.determiners)[number]} {theme}"


@paradigm("argument_structure")
def inchoative(d: Draw) -> str:
    """Only some transitive verbs describe a change without its causer."""
    verb, number = d.verb("alternating"), d.number()
    never = d.pick([strict for strict in d.words.strict if strict.base in d.words.never_inchoative])
    theme = d.words.inflect(d.pick(verb.themes)).forms[number]
    tense = d.tense(number, progressive=never.progressive)
    return f"{d.either(('the', 'the'), *d.words.determiners)[number]} {theme} [{tense(verb)}|{tense(never)}]"


@paradigm("argument_structure", drop_argument={"free": "droppable"}, intransitive={"free": "intransitive"})
def missing_object(d: Draw, free: str) -> str:
    """Some verbs cannot leave their object out."""
    subject, verb, strict = d.someone(), d.verb(free), d.verb("strict")
    tense = d.tense(subject.number, progressive=strict.progressive)
    return f"{subject} [{tense(verb)}|{tense(strict)}]"


@paradigm("argument_structure")
def transitive(d: Draw) -> str:
    """Some verbs cannot have an object."""
    subject, verb, never = d.someone(), d.verb("strict"), d.verb("intransitive")
    tense = d.tense(subject.number, progressive=verb.progressive)
    return f"{subject} [{tense(verb)}|{tense(never)}] {d.object(verb)}"


@paradigm("argument_structure", passive_1={"by": True}, passive_2={"by": False})
def passive(d: Draw, by: bool) -> str:
    """Only a verb with an object has a passive."""
    subject, verb, never = d.someone(), d.verb("strict", "plain", kind="person"), d.verb("intransitive")
    agent = f"by {d.someone()}" if by else ""
    return f"{subject} {d.passive(subject.number)} [{verb.participle}|{never.participle}] {agent}"


# Binding


@paradigm("binding")
def principle_A_c_command(d: Draw) -> str:
    """A reflexive is bound by the subject, not by a noun inside the subject's relative clause."""
    number, gender = d.number(), d.either("feminine", "masculine")
    head = d.person(number, None if number else gender)
    inside = d.name("masculine" if gender == "feminine" else "feminine")
    inner, verb = d.verb("strict", "plain", kind="person"), d.verb("strict", "plain", reflexive=True)
    clause = f"{d.either('who', 'that')} {d.before(inner)} {inside}"
    return f"{head} {clause} {d.tense(number)(verb)} [{head.reflexive}|{inside.reflexive}]"


@paradigm("binding")
def principle_A_case_1(d: Draw) -> str:
    """The subject of a finite clause is no reflexive."""
    subject = d.either(d.gendered, partial(d.person, 1))()
    matrix, verb = d.verb("believe"), d.verb("strict", "plain")
    pronouns = f"[{subject.pronouns[0]}|{subject.reflexive}]"
    return f"{subject} {d.tense(subject.number)(matrix)} that {pronouns} {d.before(verb)} {d.object(verb)}"


@paradigm("binding")
def principle_A_case_2(d: Draw) -> str:
    """A reflexive is the subject of a gerund, not of a finite verb."""
    subject = d.either(d.gendered, partial(d.person, 1))()
    matrix, verb = d.verb("picture"), d.verb("strict", "plain", "droppable", progressive=True)
    finite = d.either(verb.past, verb.present[subject.number])
    return f"{subject} {d.tense(subject.number)(matrix)} {subject.reflexive} [{verb.ing}|{finite}] {d.object(verb)}"


@paradigm("binding")
def principle_A_domain_1(d: Draw) -> str:
    """A reflexive is bound within its own clause; a pronoun may reach out of it."""
    outer, inner = d.name("feminine"), d.name("masculine")
    outer, inner = d.either((outer, inner), (inner, outer))
    matrix, verb = d.verb("believe"), d.verb("strict", "plain", reflexive=True)
    return f"{outer} {d.tense()(matrix)} that {inner} {d.before(verb)} [{outer.pronouns[1]}|{outer.reflexive}]"


@paradigm("binding")
def principle_A_domain_2(d: Draw) -> str:
    """A reflexive agrees with the subject of its own clause, not with the one above."""
    outer = d.gendered()
    inner = d.either(partial(d.name, _opposite(outer)), partial(d.person, 1))()
    matrix, verb = d.verb("believe"), d.verb("strict", "plain", reflexive=True)
    return f"{outer} {d.tense()(matrix)} that {inner} {d.before(verb)} [{inner.reflexive}|{outer.reflexive}]"


def _opposite(phrase: Phrase) -> str:
    return "masculine" if phrase.gender == "feminine" else "feminine"


@paradigm("binding")
def principle_A_domain_3(d: Draw) -> str:
    """The same with the two subjects swapped."""
    outer = d.name()
    inner = d.name(_opposite(outer))
    link = f"{d.tense()(d.verb('believe'))} that"
    verb = d.before(d.verb("strict", "plain", reflexive=True))
    return f"[{outer} {link} {inner}|{inner} {link} {outer}] {verb} {inner.reflexive}"


@paradigm("binding")
def principle_A_reconstruction(d: Draw) -> str:
    """A clefted reflexive is the object of its clause, not the subject."""
    subject = d.either(d.gendered, partial(d.person, 1))()
    verb = d.before(d.verb("strict", "plain", reflexive=True))
    return f"it was {subject.reflexive} that [{subject} {verb}|{verb} {subject}]"


# Control and raising


def _there(d: Draw, number: int) -> str:
    """Who is where: no doctors in the museum."""
    quantifier = d.either(*d.words.weak_quantifiers["plural" if number else "singular"])
    return f"{quantifier} {d.noun('person').forms[number]} in the {d.noun('place').forms[0]}"


@paradigm("control_raising")
def existential_there_object_raising(d: Draw) -> str:
    """'There' can be raised, not persuaded."""
    subject, raising, control = d.someone(), d.verb("object_raising"), d.verb("object_control")
    tense = d.tense(subject.number)
    return f"{subject} [{tense(raising)}|{tense(control)}] there to be {_there(d, d.number())}"


@paradigm("control_raising")
def existential_there_subject_raising(d: Draw) -> str:
    """'There' can seem, not try."""
    number = d.number()
    if d.either(True, False):
        raising, control = d.verb("subject_raising"), d.verb("subject_control")
        good, bad = d.either((raising.past, control.past), (raising.present[number], control.present[number]))
    else:
        be = d.either(*BE)[number]
        good, bad = f"{be} {d.pick(d.words.raising_adjectives)}", f"{be} {d.pick(d.words.control_adjectives)}"
    return f"there [{good}|{bad}] to be {_there(d, number)}"


@paradigm("control_raising")
def expletive_it_object_raising(d: Draw) -> str:
    """'It' can be raised, not persuaded."""
    subject, raising, control = d.someone(), d.verb("object_raising"), d.verb("object_control")
    tense, (verb, rest) = d.tense(subject.number), d.action()
    fact = f"{d.pick(d.words.factual_adjectives)} that {d.someone()} {d.before(verb)} {rest}"
    return f"{subject} [{tense(raising)}|{tense(control)}] it to be {fact}"


@paradigm("control_raising")
def tough_vs_raising_1(d: Draw) -> str:
    """The subject of 'easy to' is the missing object of the infinitive."""
    verb = d.verb("strict")
    subject, be = d.object(verb), d.either(*BE, *NOT_BE)
    adjectives = f"[{d.pick(d.words.tough_adjectives)}|{d.pick(d.words.raising_adjectives)}]"
    return f"{subject} {be[subject.number]} {adjectives} to {verb.base}"


@paradigm("control_raising")
def tough_vs_raising_2(d: Draw) -> str:
    """The subject of 'likely to' is the subject of the infinitive."""
    subject, verb, be = d.someone(), d.verb("strict"), d.either(*BE, *NOT_BE)
    adjectives = f"[{d.pick(d.words.raising_adjectives)}|{d.pick(d.words.tough_adjectives)}]"
    return f"{subject} {be[subject.number]} {adjectives} to {verb.base} {d.object(verb)}"


# Ellipsis


@paradigm("ellipsis", ellipsis_n_bar_1={"moved": True}, ellipsis_n_bar_2={"moved": False})
def ellipsis_n_bar(d: Draw, moved: bool) -> str:
    """After a number the noun can be left out with its adjective, but not without it."""
    noun = d.noun(*d.words.things)
    verb = d.tense()(d.verb("plain", "droppable", kind=noun.kind))
    word, first, second = noun.forms[1], *(d.adjective(noun.kind) for _ in "12")
    two, three = d.pick(d.words.cardinals), d.pick((*d.words.cardinals, "several"))
    link = f"and {d.name()} {verb} {three}"
    good, bad = (
        (f"{first} {word} {link}", f"{word} {link} {first}")
        if moved
        else (f"{word} {link} {second} {word}", f"{first} {word} {link} {second}")
    )
    return f"{d.name()} {verb} {two} [{good}|{bad}]"
