"""Paradigms of form: anaphors, determiners, irregular forms, quantifiers, subject and verb."""

from functools import partial

from stages.tasks.blimp.grammar import paradigm
from stages.tasks.blimp.words import BE, NOT_BE, Draw

# Anaphor agreement


@paradigm("anaphor_agreement")
def anaphor_gender_agreement(d: Draw) -> str:
    """A reflexive has the gender of its antecedent."""
    subject, verb = d.gendered(), d.verb("strict", "plain", reflexive=True)
    return f"{subject} {d.tense()(verb)} [{subject.reflexive}|{_other(subject.reflexive)}]"


def _other(reflexive: str) -> str:
    return {"herself": "himself", "himself": "herself"}[reflexive]


@paradigm("anaphor_agreement")
def anaphor_number_agreement(d: Draw) -> str:
    """A reflexive has the number of its antecedent."""
    subject = d.either(d.gendered, partial(d.person, 1))()
    wrong = d.either("himself", "herself") if subject.number else "themselves"
    verb = d.verb("strict", "plain", reflexive=True)
    return f"{subject} {d.tense(subject.number)(verb)} [{subject.reflexive}|{wrong}]"


# Determiner-noun agreement


@paradigm(
    "determiner_noun_agreement",
    determiner_noun_agreement_1={"changes": "noun"},
    determiner_noun_agreement_2={"changes": "determiner"},
    determiner_noun_agreement_irregular_1={"changes": "noun", "irregular": True},
    determiner_noun_agreement_irregular_2={"changes": "determiner", "irregular": True},
    determiner_noun_agreement_with_adjective_1={"changes": "noun", "adjective": True},
    determiner_noun_agreement_with_adj_2={"changes": "determiner", "adjective": True},
    determiner_noun_agreement_with_adj_irregular_1={"changes": "noun", "adjective": True, "irregular": True},
    determiner_noun_agreement_with_adj_irregular_2={"changes": "determiner", "adjective": True, "irregular": True},
)
def determiner_noun(d: Draw, changes: str, adjective: bool = False, irregular: bool = False) -> str:
    """This book, these books; the noun or the determiner is wrong."""
    subject, noun, number = d.someone(), d.noun(irregular=irregular), d.number()
    verb = d.verb("strict", "plain", kind=noun.kind)
    determiners, between = d.either(*d.words.determiners), d.adjective(noun.kind) if adjective else ""
    determiner, word = determiners[number], noun.forms[number]
    if changes == "noun":
        word = f"[{word}|{noun.forms[1 - number]}]"
    else:
        determiner = f"[{determiner}|{determiners[1 - number]}]"
    return f"{subject} {d.tense(subject.number)(verb)} {determiner} {between} {word}"


# Irregular forms


@paradigm("irregular_forms")
def irregular_past_participle_adjectives(d: Draw) -> str:
    """The participle is the adjective, not the past."""
    entry, number = d.pick(d.words.participles), d.number()
    noun = d.words.inflect(d.pick(entry.nouns)).forms[number]
    state = f"{d.either(*BE, *NOT_BE)[number]} {d.pick(d.words.state_adjectives)}"
    rest = d.either(state, f"belonged to {d.someone()}", f"{d.either('surprised', 'pleased')} {d.someone()}")
    return f"the [{entry.participle}|{entry.past}] {noun} {rest}"


@paradigm("irregular_forms")
def irregular_past_participle_verbs(d: Draw) -> str:
    """The past is the finite verb, not the participle."""
    verbs = (*d.words.strict, *d.words.plain, *d.words.droppable)
    verb = d.pick([verb for verb in verbs if verb.past != verb.participle])
    return f"{d.someone()} [{verb.past}|{verb.participle}] {d.object(verb)}"


# Quantifiers


@paradigm("quantifiers")
def existential_there_quantifiers_1(d: Draw) -> str:
    """'There is' takes weak quantifiers only."""
    number = d.number()
    which = "plural" if number else "singular"
    weak, strong = d.pick(d.words.weak_quantifiers[which]), d.pick(d.words.strong_quantifiers[which])
    noun, verb = d.noun("person").forms[number], d.verb("intransitive").ing
    return f"there {d.either(*BE)[number]} [{weak}|{strong}] {noun} {verb} in the {d.noun('place').forms[0]}"


@paradigm("quantifiers")
def existential_there_quantifiers_2(d: Draw) -> str:
    """A strong quantifier is fine where 'there' is a place."""
    number, be = d.number(), d.either(*BE)
    strong = d.pick(d.words.strong_quantifiers["plural" if number else "singular"])
    subject, verb = f"{strong} {d.noun('person').forms[number]}", d.verb("intransitive").ing
    return f"[{subject} {be[number]} there|there {be[number]} {subject}] {verb}"


def _counted(d: Draw, number: str) -> str:
    """Had borrowed ... two lamps, the quantifier left open."""
    noun = d.noun(*d.words.things)
    verb = d.tense(0)(d.verb("plain", "droppable", kind=noun.kind))
    return f"{verb} {number} {d.pick(d.words.cardinals)} {noun.forms[1]}"


@paradigm("quantifiers")
def superlative_quantifiers_1(d: Draw) -> str:
    """'At least' and 'at most' do not stand under 'no'; comparatives do."""
    number = d.either("[more than|at least]", "[fewer than|at most]")
    return f"no {d.noun('person').forms[0]} {_counted(d, number)}"


@paradigm("quantifiers")
def superlative_quantifiers_2(d: Draw) -> str:
    """'At least' and 'at most' stand under any other determiner."""
    determiner = d.either("every", "each", "the", "this", "that")
    return f"[{determiner}|no] {d.noun('person').forms[0]} {_counted(d, d.either('at least', 'at most'))}"


# Subject-verb agreement


@paradigm("subject_verb_agreement")
def distractor_agreement_relational_noun(d: Draw) -> str:
    """The verb agrees with the head, not with the noun next to it."""
    number = d.number()
    head, near = d.words.inflect(d.pick(d.words.relational)), d.person(1 - number)
    finite, rest = d.predicate("person")
    return f"the {head.forms[number]} of {near} [{finite[number]}|{finite[1 - number]}] {rest}"


@paradigm("subject_verb_agreement")
def distractor_agreement_relative_clause(d: Draw) -> str:
    """The verb agrees with the head, not with the noun in its relative clause."""
    number = d.number()
    # strict verbs only: "who saw the doctors sleep" and "who helped them sleep" want the bare form
    head, near, verb = d.person(number), d.person(1 - number), d.verb("strict", kind="person")
    finite, rest = d.predicate("person")
    clause = f"{d.either('who', 'that')} {d.before(verb)} {near}"
    return f"{head} {clause} [{finite[number]}|{finite[1 - number]}] {rest}"


@paradigm(
    "subject_verb_agreement",
    regular_plural_subject_verb_agreement_1={"changes": "verb", "irregular": False},
    regular_plural_subject_verb_agreement_2={"changes": "noun", "irregular": False},
    irregular_plural_subject_verb_agreement_1={"changes": "verb", "irregular": True},
    irregular_plural_subject_verb_agreement_2={"changes": "noun", "irregular": True},
)
def subject_verb(d: Draw, changes: str, irregular: bool) -> str:
    """The doctors sleep, the doctor sleeps; the noun or the verb is wrong."""
    noun, number = d.noun(irregular=irregular), d.number()
    finite, rest = d.predicate(noun.kind)
    if changes == "verb":
        determiner = d.either(("the", "the"), *d.words.determiners)[number]
        return f"{determiner} {noun.forms[number]} [{finite[number]}|{finite[1 - number]}] {rest}"
    return f"the [{noun.forms[number]}|{noun.forms[1 - number]}] {finite[number]} {rest}"
