"""Facts: the answer is in no word of the prompt, it has to be known (stage `memory` asks where, and edits it).

accuracy = every answer token is the argmax given the right ones before it, as in task icl.
"""

from stages.tasks.facts.settings import Settings
from stages.tasks.icl.task import answer_task, counted

ASKED = "asked"  # the relation from the answer to the subject: it says which tokens the subject has
KNOWN, RARE, LONG, INVENTED, WORD = "known", "rare", "long", "invented", "word"  # categories
MAIN, PREFIXED, PARAPHRASE, SHOWN = "main", "prefixed", "paraphrase", "shown"  # roles; numbered but `main`
COPY, CAPITALIZE = "copy", "capitalize"  # groups that need no knowledge

TASK = answer_task(
    name="facts",
    order=10,
    label="facts",
    unit="subjects",
    settings=Settings,
    roles=(MAIN,),
    part=("relation", "relations"),
    own_section=True,
    own_stage=True,
    counted=counted,
)
