"""Random tokens, repeated: on them a head can only attend by position or by token, never by meaning (Olsson+ 2022).

A prompt is given as ordinals, not as text: integers in [0, 2**31) that the model side maps to its own vocabulary,

    token = ordinary[ordinal % len(ordinary)],

`ordinary` being the model's tokens that are neither special nor bytes nor unused, in id order. So the same prompts
serve any model. Ordinals of a sequence are distinct; two may still meet in one token (60 of 200,000: in 1 % of the
sequences). The length L is drawn per prompt, so that no fixed offset t -> t - L + 1 fits all.
"""

from stages.tasks.prompt import LONGEST, Prompt, few_enough, stream
from stages.tasks.repeats.settings import Settings

ORDINALS = 2**31


def build(settings: Settings, seed: int) -> list[Prompt]:
    """Build `prompts` sequences of `shortest` to `longest` ordinals, each `copies` times in a row."""
    sizes = f"tasks.repeats.prompts = {settings.prompts}, longest = {settings.longest}, copies = {settings.copies}"
    few_enough(sizes, settings.prompts)
    few_enough(sizes, settings.prompts * settings.longest * settings.copies, "tokens", LONGEST)
    prompts = []
    for number in range(settings.prompts):
        name = f"repeats/random/{number:04d}"
        rng = stream(seed, name)
        length = rng.integers(settings.shortest, settings.longest, endpoint=True)
        sequence = tuple(rng.choice(ORDINALS, size=length, replace=False).tolist())
        prompts.append(Prompt(id=name, condition="random", cluster=name, ordinals=sequence * settings.copies))
    return prompts
