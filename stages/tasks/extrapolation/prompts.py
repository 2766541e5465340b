"""Usual, rare and made-up words after demonstrations of a function, and the same words without (Task `extrapolation`).

    usual      words of task icl's questions; of functions with regular endings, those that take one, and more of them
    irregular  common words that do not: of those questions as well, and more of them
    rare       rare real words, right answers from rare.yaml, the longest first: they have more tokens, as
               made-up ones have; of the successor, two- and three-digit numbers
    made_up    words that do not exist (`invented.py`), right answers by the rule; of the successor, six-digit numbers
    copied     the same where no rule gives an answer: there is no right one. The target is the word itself: what is
               asked is how often it is echoed

Demonstrations are pairs that task icl demonstrates with as well; they hold no word that is asked. Words of a class
take the sets of demonstrations in turn, so that classes see the same ones. Every word gives a `clean` prompt and a
`zero_shot` one. After `clean` the answer has to end: the target goes on with what follows an answer in the template.
Nothing says so without demonstrations: the target ends with the first character of that, a newline as a rule. Usual
words keep icl's split, so that vectors which split a chose are not reported on words that chose them; all others are b:
nothing is chosen on them. The relation `asked` goes from the answer to the word: which tokens they are, in any model.
"""

from itertools import islice
from pathlib import Path

from stages.store import paths
from stages.store.errors import UserError
from stages.tasks.extrapolation import invented
from stages.tasks.extrapolation.functions import FUNCTIONS, Function
from stages.tasks.extrapolation.settings import Settings
from stages.tasks.extrapolation.task import ASKED, COPIED, IRREGULAR, MADE_UP, RARE, USUAL
from stages.tasks.icl.pairs import Frame
from stages.tasks.icl.prompts import Pair, demonstrated, from_lexicon, parted
from stages.tasks.lexicon import Entry, read
from stages.tasks.prompt import Prompt, Span, few_enough, read_text, stream

NUMBERS = 21, 1000  # rare ones for the successor: the usual ones end at 20


class Lexicon(Entry):
    """Rare words, with right answers where no rule gives them, and more common ones of functions with endings."""

    nouns: str
    verbs: str
    adjectives: str
    regular_nouns: tuple[Pair, ...]
    irregular_nouns: tuple[Pair, ...]
    regular_verbs: tuple[Pair, ...]
    irregular_verbs: tuple[Pair, ...]
    antonyms: tuple[Pair, ...]
    translations: tuple[Pair, ...]
    capitals: tuple[Pair, ...]


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build two prompts (clean, zero_shot) per function, class and word; more words leave the first ones as they are.

    Of classes whose words lie in both splits, as many again are asked without demonstrations alone.

    Raises `UserError` where a function is unknown, its lexicon is missing or has too few pairs to demonstrate.
    """
    for name in settings.functions:
        if name not in FUNCTIONS:
            raise UserError(
                f"{paths.PARAMS}: tasks.extrapolation.functions = {name!r}: allowed: {', '.join(FUNCTIONS)}"
            )
    folder = Path(settings.path)
    path = folder / "functions.yaml"
    known, lexicon = from_lexicon(path), read(folder / "rare.yaml", Lexicon, "task extrapolation")
    taken = _taken(known, lexicon, folder)
    names = dict.fromkeys(settings.functions or FUNCTIONS)
    asked_for = f"tasks.extrapolation.words = {settings.words}"
    few_enough(f"{asked_for}, of {len(names)} functions, asked twice", 2 * settings.words * len(names))
    for name in names:
        invented.enough(FUNCTIONS[name].invented, settings.words, asked_for)
    used = min(settings.sets, 2 * settings.words)  # sets that words of a class come to, in turn
    prompts: list[Prompt] = []
    for name in names:
        function = FUNCTIONS[name]
        if function.like not in known:
            raise UserError(f"{path}: no function {function.like}, which {name} of task extrapolation is shown with")
        pairs = [(x, x if name == "copy" else y) for x, y in known[function.like][1]]
        shown, asked = parted(function.like, len(pairs), seed)
        contexts = [_context(function, [pairs[item] for item in shown], number, settings, seed)
                    for number in range(used)]  # fmt: skip
        usual = [(*pairs[item], "ab"[place % 2]) for place, item in enumerate(asked)]
        for kind, words in classes(function, usual, lexicon, taken, settings.words, seed).items():
            for number, (x, y, split) in enumerate(words):
                context = contexts[number % used]
                both = _asked(f"{name}/{kind}-{number:03d}", name, kind, x, y, split, context, settings.template)
                prompts += both[number >= settings.words :]
    return prompts


def classes(
    function: Function, usual: list[tuple[str, str, str]], lexicon: Lexicon, taken: set[str], most: int, seed: int
) -> dict[str, list[tuple[str, str, str]]]:
    """Return class -> (word, answer, split) of at most `most` words, or twice as many of classes in both splits.

    usual: the words that task icl asks; taken: all words, in lower case, that are not made up.
    """

    def drawn(pairs: list[Pair], kind: str) -> list[tuple[str, str, str]]:
        order = stream(seed, f"extrapolation/{function.name}/{kind}").permutation(len(pairs))
        return [(*pairs[item], "b") for item in order]

    words = {USUAL: usual}
    if function.regular:
        for kind, takes, common in zip((USUAL, IRREGULAR), (True, False), function.common, strict=True):
            words[kind] = [word for word in usual if function.regular(*word[:2]) == takes]
            words[kind] += drawn(list(getattr(lexicon, common)), kind)
    rare = drawn(_rare(function, lexicon), RARE)
    words[RARE] = sorted(rare, key=lambda word: -len(word[0])) if function.rare else rare
    made_up = invented.words(function.invented, stream(seed, f"extrapolation/{function.name}/made_up"), taken)
    answer = function.answer or (lambda word: word)
    words[MADE_UP if function.answer else COPIED] = [
        (x, answer(x), "b") for x in map(_cased(function), range(most), islice(made_up, most))
    ]
    asked = {kind: of_kind[: 2 * most if kind in (USUAL, IRREGULAR) else most] for kind, of_kind in words.items()}
    return asked  # twice as many of those that lie in both splits: vectors are reported on one of them


def _rare(function: Function, lexicon: Lexicon) -> list[Pair]:
    if function.answer is None:
        return list(getattr(lexicon, function.rare))
    words = getattr(lexicon, function.rare).split() if function.rare else [str(number) for number in range(*NUMBERS)]
    cased = (_cased(function)(number, word) for number, word in enumerate(words))
    return [(word, function.answer(word)) for word in cased]


def _cased(function: Function):
    """Return how a word is written that a function gets: `lowercase` is given Hotel and OFFICE in turn."""
    if function.name != "lowercase":
        return lambda number, word: word
    return lambda number, word: word.upper() if number % 2 else word.capitalize()


def real_words(folder: Path) -> set[str]:
    """Return all words, in lower case, that a folder of words knows to exist: made-up words must be others."""
    return _taken(from_lexicon(folder / "functions.yaml"), read(folder / "rare.yaml", Lexicon, "made-up words"), folder)


def _taken(known: dict[str, tuple[str, list[Pair]]], lexicon: Lexicon, folder: Path) -> set[str]:
    real = " ".join(read_text(folder / "real.txt"))
    pairs = [pair for _, of_function in known.values() for pair in of_function]
    pairs += [pair for part in dict(lexicon).values() if not isinstance(part, str) for pair in part]
    words = {word for pair in pairs for answer in pair for word in answer.lower().split()}
    return words.union(*(text.split() for text in (lexicon.nouns, lexicon.verbs, lexicon.adjectives, real)))


def _context(function: Function, pairs: list[Pair], number: int, settings: Settings, seed: int) -> str:
    """Return a set of demonstrations, written one after the other."""
    order = stream(seed, f"extrapolation/{function.name}/{number}").permutation(len(pairs))
    shown = demonstrated(order, pairs, settings.shots)
    if len(shown) < settings.shots:
        raise UserError(
            f"{settings.path}: {function.like}: {len(shown)} of {len(pairs)} pairs fit in one prompt; "
            f"tasks.extrapolation.shots = {settings.shots} needs more"
        )
    return "".join(Frame(settings.template).demonstration(*pairs[item]) for item in shown)


def _asked(
    name: str, function: str, kind: str, x: str, y: str, split: str, context: str, template: str
) -> list[Prompt]:
    """Return the two prompts of one word."""
    before, _, rest = template.partition("{x}")
    middle, _, after = rest.partition("{y}")
    colon = middle.rstrip()  # the query ends here; the answer starts with the white space that follows
    prompts = []
    for role, shown, end in (("clean", context, after), ("zero_shot", "", after[:1])):
        text = shown + before + x + colon
        start, answer = len(shown + before), len(text) + len(middle) - len(colon)
        span = Span(ASKED, answer, answer + len(y), start, start + len(x))
        prompts.append(
            Prompt(
                id=f"extrapolation/{name}#{role}",
                role=role,
                condition=function,
                category=kind,
                cluster=f"{function}/{x}",
                split=split,
                text=text,
                targets=(middle[len(colon) :] + y + end,),
                relations=(span,),
            )
        )
    return prompts
