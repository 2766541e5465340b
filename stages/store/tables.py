"""All Parquet tables: what one row is, column by column, each with its unit and meaning.

They stand in the files' own metadata as well: `pq.read_schema(path)` documents a file. What a table can do:
`stages.store.table`. A new table is one more entry here.
"""

from dataclasses import replace

import pyarrow as pa

from stages.store.table import Table


def _schema(**fields: tuple[pa.DataType, str]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"meaning": meaning}) for name, (kind, meaning) in fields.items()])


def _table(place: str, about: str, key: str, /, **fields: tuple[pa.DataType, str]) -> Table:
    """Return a table; key: columns that name a row, with a star where the stage knows all names before it measures."""
    prompts, plan = PROMPTS if "prompt" in fields else None, PLANS if "intervention" in fields else None
    names = key.split()
    asked = tuple(name.removesuffix("*") for name in names if name.endswith("*"))
    named = tuple(name.removesuffix("*") for name in names)
    return Table(place, about, _schema(**fields), named, asked, prompts=prompts, plan=plan)


def _of_runs(
    place: str, about: str, key: str, alike: str, /, unit: str = "prompt", **fields: tuple[pa.DataType, str]
) -> Table:
    return replace(_table(place, about, key, **fields), alike=tuple(alike.split()), unit=unit)


def _of_heads(place: str, about: str, key: str, /, **fields: tuple[pa.DataType, str]) -> Table:
    return replace(_table(place, about, f"{key} layer head", **fields), every_head=True)


_SPAN = pa.struct(
    [
        ("name", pa.string()),
        ("query_start", pa.int32()),
        ("query_end", pa.int32()),
        ("key_start", pa.int32()),
        ("key_end", pa.int32()),
    ]
)

PROMPTS = _table(
    "data/prompts/{}.parquet",
    "Prompts of a task, one row each",
    "id*",
    id=(pa.string(), "unique name <task>/<condition>/<number>[#<role>]"),
    split=(pa.string(), "'a' (choices are made here) or 'b' (and reported here); a cluster lies in one"),
    role=(pa.string(), "variant: long, short (text); clean, shuffled, zero_shot (icl); test (all others)"),
    condition=(pa.string(), "what results are broken down by: paradigm, function, length and depth ..."),
    category=(pa.string(), "coarser: BLiMP phenomenon, kind of function; '' where there is none"),
    cluster=(pa.string(), "unit of independence that intervals and tests count: prompts sharing text share it"),
    text=(pa.string(), "what the model reads; '' if `ordinals` are given or only targets are scored"),
    targets=(pa.list_(pa.string()), "continuations of text to score; the first is the right one"),
    relations=(pa.list_(_SPAN), "annotated relations, character spans [start, end) in text + targets[0]"),
    ordinals=(pa.list_(pa.int32()), "random-token prompts: ranks in the model's own ordinary vocabulary"),
    tokens=(pa.int32(), "cut to this many tokens, special ones included; 0 = whole"),
    bos=(pa.bool_(), "give a BOS wherever the tokenizer has one"),
)

# What stages after `extract` read: a change of prompts that are only looked at, such as parsed sentences, silences and
# steers nothing again.
ASKED = replace(
    PROMPTS,
    place="data/asked/{}.parquet",
    about="The same prompts where they are scored, else none",
    prompts=PROMPTS,
)
PICTURES = replace(ASKED, place="data/pictures/{}.parquet", about="The same prompts where they are images, else none")

RELATIONS = _of_heads(
    "data/activations/{}/{}.relations.parquet",
    "Attention masses per (prompt, layer, head, relation)",
    "prompt* relation*",
    prompt=(pa.string(), "id of the prompt"),
    split=(pa.string(), "split of the prompt"),
    cluster=(pa.string(), "cluster of the prompt"),
    layer=(pa.int16(), "attention layer, from 0"),
    head=(pa.int16(), "query head, from 0"),
    relation=(pa.string(), "name of the relation"),
    queries=(pa.int32(), "query positions that have the relation"),
    mass=(pa.float32(), "share of attention on the target keys, mean over queries, 0..1"),
    hits=(
        pa.float32(),
        "share of queries whose most attended visible key is a target, 0..1; null where no family of the task asks",
    ),
    over_half=(
        pa.float32(),
        "share of queries with more than half of the attention on the target keys; null where no family asks",
    ),
    hits_word=(pa.float32(), "hits over words, self and special tokens removed (grammar); null elsewhere"),
    sink=(pa.float32(), "attention of the queries to first and special tokens, 0..1 (grammar); null elsewhere"),
    sink_elsewhere=(pa.float32(), "the same of the prompt's words without the relation; null where there are none"),
    mass_null=(pa.float32(), "mass that visible, non-special, non-target keys get, per target key; mean over queries"),
    over_half_null=(
        pa.float32(),
        "share of queries with more than half on one other key, per target key; as `mass_null`; null where none asks",
    ),
    baseline=(pa.float32(), "share of queries that the task's best fixed offset would hit, 0..1"),
    best_offset=(
        pa.int32(),
        "that offset: query - key, in tokens (grammar: in words); null where there is no baseline",
    ),
    baseline_a=(pa.float32(), "as `baseline`, of the offset that is the best on split a alone: for `member_a`"),
    recalled=(pa.float32(), "share of target tokens that are the intact model's argmax, 0..1; null without a target"),
)


OUTPUTS = _of_heads(
    "data/activations/{}/{}.outputs.parquet",
    "Mean head outputs per (split, role, condition, half, layer, head)",
    "split* role* condition* half*",
    split=(pa.string(), "split of the prompts"),
    role=(pa.string(), "role of the prompts"),
    condition=(pa.string(), "function; '' for the mean over all"),
    half=(pa.string(), "half of the split's sets of demonstrations, '0' or '1'; '' where there are none"),
    prompts=(
        pa.int64(),
        "how many the mean is over; with demonstrations, of those that the model answers right",
    ),
    layer=(pa.int16(), "attention layer, from 0"),
    head=(pa.int16(), "query head, from 0"),
    output=(
        pa.list_(pa.float32()),
        "the head's output z before W_O: at the last prompt token, or the mean over ordinary positions; null of none",
    ),
)

RESIDUALS = _table(
    "data/activations/{}/{}.residuals.parquet",
    "Mean residuals at the last prompt token per (split, role, condition, half, layer), of the same prompts",
    "split* role* condition* half* layer*",
    split=(pa.string(), "split of the prompts"),
    role=(pa.string(), "role of the prompts"),
    condition=(pa.string(), "function"),
    half=(pa.string(), "half of the split's sets of demonstrations, '0' or '1'"),
    prompts=(pa.int64(), "how many the mean is over: those that the intact model answers right"),
    layer=(pa.int16(), "attention layer, from 0"),
    residual=(pa.list_(pa.float32()), "the residual after the layer's block; null of none"),
)

SOLVED = _table(
    "data/activations/{}/{}.solved.parquet",
    "Whether each prompt with demonstrations is answered right",
    "prompt*",
    prompt=(pa.string(), "id of the prompt"),
    split=(pa.string(), "split of the prompt"),
    condition=(pa.string(), "function"),
    cluster=(pa.string(), "cluster of the prompt"),
    solved=(pa.bool_(), "the intact model's argmax is right at every target token"),
)

INDIRECT = _of_heads(
    "data/indirect/{}.parquet",
    "Indirect effects per (function, prompt, layer, head)",
    "function* prompt*",
    function=(pa.string(), "in-context function"),
    prompt=(pa.string(), "id of the shuffled prompt"),
    split=(pa.string(), "split of the prompt"),
    cluster=(pa.string(), "cluster of the prompt"),
    layer=(pa.int16(), "attention layer, from 0"),
    head=(pa.int16(), "query head, from 0"),
    base=(
        pa.float32(),
        "probability, in the shuffled prompt, of the answer's first token that is not white space, 0..1",
    ),
    effect=(
        pa.float32(),
        "probability gained when the head's last-token output is its clean mean, over other demonstration sets",
    ),
)

HEADS = _of_heads(
    "data/heads/{}.parquet",
    "Scores and verdicts per (layer, head, family)",
    "family*",
    layer=(pa.int16(), "attention layer, from 0"),
    head=(pa.int16(), "query head, from 0"),
    family=(pa.string(), "head family"),
    score=(pa.float32(), "the family's statistic, mean over prompts"),
    score_a=(pa.float32(), "the same on split a: what choices are made by"),
    score_b=(pa.float32(), "the same on split b"),
    score_null=(
        pa.float32(),
        "attention that the same queries give an average other key, 0..1 (iteration: share of queries that give "
        "it more than half); 0 for effects; = baseline for grammar, whose score is an accuracy",
    ),
    baseline=(pa.float32(), "accuracy of the best fixed offset (content families); null elsewhere"),
    low=(pa.float32(), "2.5 % bound of the score, t over clusters of prompts; null below 8 clusters"),
    high=(pa.float32(), "97.5 % bound"),
    p=(pa.float32(), "one-sided sign-flip p-value of score - score_null; null where not tested"),
    q=(pa.float32(), "Benjamini-Hochberg within the family over heads"),
    member=(
        pa.bool_(),
        "score >= threshold, q < alpha, score - score_null >= margin, low > baseline (content families)",
    ),
    member_a=(pa.bool_(), "the same verdict from split a alone: which heads are silenced is chosen by it"),
    lead_a=(pa.float32(), "score_a beyond the baseline of split a alone (score_null where there is none): for ranks"),
    prompts=(pa.int32(), "prompts behind the score"),
    note=(pa.string(), "'' or why the verdict is special, such as 'by architecture'"),
)

PLANS = _table(
    "data/plans/{}.parquet",
    "All interventions of a slot: which heads are silenced, how, on which tasks",
    "id*",
    id=(pa.string(), "name of the intervention: <purpose>/<family>/<k>/<kind>/<draw>, or single/<head>/<kind>"),
    purpose=(
        pa.string(),
        "'single' (one head), 'family' (its best heads), 'control' (matched heads), 'sweep' (best heads that are not "
        "another family's) or 'sweep_control'",
    ),
    family=(pa.string(), "family, or name of the families silenced together; '' for single heads"),
    k=(pa.int16(), "heads silenced"),
    kind=(pa.string(), "what is written in their place: a kind of stages/model/silence.py, such as 'mean'"),
    draw=(pa.int16(), "number of the control set, from 1; 0 elsewhere"),
    heads=(pa.string(), "the heads silenced, such as 'L5H1 L11H2'"),
    members=(pa.int16(), "how many of them are members of the family, judged on split a alone"),
    tasks=(pa.list_(pa.string()), "tasks on whose prompts of split b it is run"),
    condition=(pa.string(), "the condition of prompts that it is run on; '' for all"),
    matching=(pa.string(), "how well a control set is matched; why there is none; '' elsewhere"),
)

EFFECTS = _of_runs(
    "data/effects/{}/effects.parquet",
    "Raw paired values of every ablation",
    "intervention* task* prompt* measure",
    "task purpose family measure",
    intervention=(pa.string(), "id of the plan's row; 'none' for the intact model"),
    purpose=(pa.string(), "purpose of the plan's row; 'none' for the intact model"),
    family=(pa.string(), "family of the plan's row"),
    k=(pa.int16(), "heads silenced; 0 for 'none'"),
    kind=(pa.string(), "what is written in their place, as in the plan; '' for 'none'"),
    draw=(pa.int16(), "number of the control set, from 1; 0 elsewhere"),
    heads=(pa.string(), "the heads silenced, such as 'L5H1 L11H2'"),
    task=(pa.string(), "task"),
    condition=(pa.string(), "condition of the prompt"),
    category=(pa.string(), "category of the prompt"),
    cluster=(pa.string(), "cluster of the prompt"),
    prompt=(pa.string(), "id of the prompt"),
    measure=(pa.string(), "accuracy, margin, recall, logprob (nats per answer token) or loss (nats per token)"),
    value=(pa.float32(), "value under the intervention"),
    intact=(pa.float32(), "value of the intact model on the same prompt"),
)

FIRST_ORDER = _of_heads(
    "data/effects/{}/first_order.parquet",
    "First-order effects of every head by gradients, per prompt",
    "kind* task* prompt* measure*",
    layer=(pa.int16(), "attention layer, from 0"),
    head=(pa.int16(), "query head, from 0"),
    kind=(pa.string(), "what would be written in the head's place: 'mean' or 'zero'"),
    task=(pa.string(), "task"),
    cluster=(pa.string(), "cluster of the prompt"),
    prompt=(pa.string(), "id of the prompt"),
    measure=(pa.string(), "the task's differentiable measure: margin, logprob or loss"),
    change=(pa.float32(), "first-order estimate of the measure's change when the head is silenced"),
)

STEERING = _of_runs(
    "data/vectors/{}/steering.parquet",
    "Raw outcomes of every steering run",
    "function* prompt* context* vector layer strength heads draw chosen",
    "function context split",
    function=(pa.string(), "in-context function"),
    prompt=(pa.string(), "id of the prompt"),
    split=(pa.string(), "split of the prompt"),
    cluster=(pa.string(), "cluster of the prompt"),
    context=(
        pa.string(),
        "zero_shot, shuffled or natural; clean: the intact model with demonstrations, the same queries; of other "
        "tasks' prompts their category",
    ),
    vector=(pa.string(), "none, heads, held_out, function, layerwise, layer_average, random or control"),
    layer=(pa.int16(), "block whose output the vector is added to; -1 where none is"),
    strength=(pa.float32(), "factor on the added vector; 0 where none is added"),
    heads=(pa.int16(), "number of heads in the vector; 0 where none"),
    draw=(pa.int16(), "number of the control set or random vector, from 1; 0 elsewhere"),
    names=(pa.string(), "the heads in the vector, such as 'L5H1 L11H2'; '' where none"),
    matching=(pa.string(), "how well a control set is matched; '' elsewhere"),
    chosen=(pa.bool_(), "this setting was chosen on split a"),
    correct=(pa.bool_(), "every answer token is the argmax, teacher-forced"),
    logprob=(pa.float32(), "mean log-probability of the answer's tokens, nats; null in clean prompts"),
)

COMPOSED = _of_runs(
    "data/applied/{}/composed.parquet",
    "How prompts of composed functions are answered under sums of function vectors",
    "function* prompt* context* vector heads draw beside",
    "function context",
    function=(pa.string(), "composed function, <outer> of <inner>"),
    prompt=(pa.string(), "id of the prompt"),
    split=(pa.string(), "split of the prompt"),
    cluster=(pa.string(), "the word, with its function"),
    context=(pa.string(), "zero_shot; clean: the intact model with demonstrations of the composed function"),
    vector=(
        pa.string(),
        "none; mean outputs in place: inner, outer, sum, analogy (sum - copy), own (of the composed function itself), "
        "as controls random and other (in the outer one's place); added: two stored vectors, each after its layer",
    ),
    heads=(pa.int16(), "number of heads written; 0 where none"),
    draw=(pa.int16(), "number of the random or other vector, from 1; 0 elsewhere"),
    beside=(pa.string(), "the function in the outer one's place; '' elsewhere"),
    correct=(pa.bool_(), "every token of the composed answer is the argmax, teacher-forced"),
    logprob=(pa.float32(), "mean log-probability of the answer's tokens, nats"),
)

CONTINUED = _of_runs(
    "data/applied/{}/continued.parquet",
    "What plain text is continued with under function vectors",
    "function* prompt* vector* source* of* draw*",
    "function",
    function=(pa.string(), "in-context function that says what a plain continuation under it shows"),
    prompt=(pa.string(), "id of the passage, and the number of its tokens that were read"),
    cluster=(pa.string(), "cluster of the passage"),
    vector=(pa.string(), "none, heads (mean outputs in place) or function (their sum added after one layer)"),
    source=(pa.string(), "what is written: own, other (another function's) or random; '' for none"),
    of=(pa.string(), "the function whose vector it is; '' for none and random"),
    draw=(pa.int16(), "number of the random vector, from 1; 0 elsewhere"),
    token=(pa.string(), "text of the likeliest next token"),
    seen=(pa.bool_(), "it is, but for case and white space, one of the tokens that were read"),
    shown=(pa.bool_(), "it is as the function says"),
)

SHIFTS = _of_runs(
    "data/applied/{}/shifts.parquet",
    "Raw answers to both members of pairs under a function vector, twice it and minus it",
    "function* prompt* asked* vector* kind factor",
    "function asked vector",
    function=(pa.string(), "in-context function"),
    inverse=(pa.bool_(), "it is its own inverse: its lexicon's kind says so, or its pairs do"),
    prompt=(pa.string(), "id of the prompt that asks for the pair's x"),
    cluster=(pa.string(), "cluster of that prompt: the word"),
    asked=(pa.string(), "the member of the pair that is asked about: x, or y = f(x)"),
    vector=(pa.string(), "none, added (function, layerwise or layer_average), heads (in place) or demonstrations"),
    kind=(pa.string(), "which vector is added, chosen on split a; = vector elsewhere"),
    factor=(pa.float32(), "times the chosen strength: 1, 2 or -1; 0 where there is no vector"),
    other=(pa.bool_(), "the answer is the pair's other member: every token is the argmax, teacher-forced"),
    echo=(pa.bool_(), "the answer begins with the first token of the word asked about; null where both begin alike"),
)

OFFSETS = _of_runs(
    "data/applied/{}/offsets.parquet",
    "Whether a function is one offset, in the model's spaces of vectors",
    "function* space* layer measure",
    "space",
    unit="measure",
    function=(pa.string(), "in-context function"),
    space=(pa.string(), "embedding (input embeddings) or state (residual at the last token of a zero-shot prompt)"),
    layer=(pa.int16(), "block after which the state is read: where the function's vector is added; -1 for embedding"),
    measure=(
        pa.string(),
        "cosine, axis, dimensions, parallelogram, nearest, minus or again: see statistics/offsets.py",
    ),
    value=(pa.float32(), "its value"),
    low=(pa.float32(), "95 % bounds, of shares of pairs"),
    high=(pa.float32(), "95 % bounds, of shares of pairs"),
    value_null=(pa.float32(), "its mean where the y are dealt out anew"),
    p=(pa.float32(), "rank among such dealings, in the direction of one offset"),
    pairs=(pa.int32(), "pairs x, y behind it (split b)"),
)

READINGS = _table(
    "data/applied/{}/readings.parquet",
    "What function vectors say, read through the model's last norm and unembedding",
    "function* vector* draw*",
    function=(pa.string(), "in-context function"),
    vector=(pa.string(), "function or layer_average"),
    draw=(pa.int16(), "0: the vector; from 1: a random vector of its length"),
    norm=(pa.float32(), "its length, without the strength"),
    answers=(
        pa.float32(),
        "share of the vocabulary less likely than answers' first tokens (split b): 0.5 by chance",
    ),
    inputs=(pa.float32(), "the same of the words asked about"),
    elsewhere=(pa.float32(), "the answers' share under other functions' vectors of this kind, mean; null for draws"),
    tokens=(pa.list_(pa.string()), "the likeliest tokens, most likely first"),
)

ANSWERS = _table(
    "data/answers/{}.parquet",
    "What the intact model answers to usual, rare and made-up words, per prompt",
    "prompt*",
    prompt=(pa.string(), "id of the prompt"),
    function=(pa.string(), "in-context function"),
    category=(pa.string(), "class of the word: usual, irregular, rare, made_up or copied (stages/tasks/extrapolation)"),
    split=(pa.string(), "split of the prompt"),
    cluster=(pa.string(), "the word, with its function"),
    word_tokens=(pa.int16(), "tokens of the word asked about, in the prompt"),
    answer_tokens=(pa.int16(), "tokens of the answer, without what ends it"),
    correct=(pa.bool_(), "the text that greedy decoding writes begins with the answer"),
    ended=(pa.bool_(), "and ends there: right, and the next character is the one that ends an answer"),
    forced=(pa.bool_(), "every token of answer and end is the argmax, teacher-forced, in the tokenizer's own split"),
)

ORDERS = _of_runs(
    "data/applied/{}/orders.parquet",
    "What the model says comes next in orders that it knows or is told, and under the vector of such a step",
    "prompt* context vector heads draw",
    "context ordering category",
    prompt=(pa.string(), "id of the prompt"),
    ordering=(pa.string(), "kind of order: letters, numbers, months, weekdays or made_up"),
    category=(pa.string(), "how the order is given: not_stated, stated, shuffled or backwards (stages/tasks/orders)"),
    split=(pa.string(), "split of the prompt"),
    cluster=(pa.string(), "the order, or the run of its words that is asked"),
    context=(pa.string(), "clean (with demonstrations) or zero_shot"),
    vector=(pa.string(), "none, heads (mean outputs in place, from known orders of split a) or control"),
    heads=(pa.int16(), "number of heads written; 0 where none"),
    draw=(pa.int16(), "number of the control set, from 1; 0 elsewhere"),
    names=(pa.string(), "the heads written, such as 'L5H1 L11H2'; '' where none"),
    matching=(pa.string(), "how well a control set is matched; '' elsewhere"),
    correct=(pa.bool_(), "every token of the answer is the argmax, teacher-forced"),
    learned=(pa.bool_(), "the argmax is the first token of a word of a known order; null with demonstrations"),
    rival=(pa.bool_(), "so it is of the rival answer; null where none is asked about"),
)

CIRCUIT = _of_runs(
    "data/circuits/{}/circuit.parquet",
    "What induction heads look at when paths into their keys are patched",
    "target* prompt* direction purpose sources draw",
    "target split",
    target=(pa.string(), "the induction head whose keys are patched, such as 'L5H1'"),
    place=(pa.int16(), "its place among the targets by split-a score, from 1"),
    split=(pa.string(), "split of the prompt"),
    cluster=(pa.string(), "cluster of the prompt"),
    prompt=(pa.string(), "id of the prompt"),
    direction=(
        pa.string(),
        "noising (intact keys, contribution corrupted), denoising (the reverse); '' for both whole",
    ),
    purpose=(pa.string(), "intact, keys (all keys corrupted), single, feeders, others or control"),
    sources=(pa.string(), "whose contribution to the keys is exchanged: heads, 'L2.rest' (MLP, biases), 'embedding'"),
    draw=(pa.int16(), "number of the control set, from 1; 0 elsewhere"),
    score=(pa.float32(), "the target's attention on the tokens after earlier occurrences, mean over queries, 0..1"),
    loss=(pa.float32(), "loss on the last copy, nats per token, with only this head's output changed; null elsewhere"),
)

COMPOSITION = _table(
    "data/circuits/{}/composition.parquet",
    "What the weights say of the same paths",
    "target* layer* head* measure*",
    target=(pa.string(), "the induction head that could read what the head writes; '' for copying"),
    layer=(pa.int16(), "attention layer, from 0"),
    head=(pa.int16(), "query head, from 0"),
    measure=(pa.string(), "k_composition (norm of the product over product of norms) or copying (eigenvalues, -1..1)"),
    value=(pa.float32(), "its value, from weights alone; gains of norms folded in, scales not"),
)

NEIGHBOURS = _table(
    "data/neighbours/{}/answers.parquet",
    "Answers to labelled demonstrations, and what their nearest neighbours say",
    "prompt*",
    prompt=(pa.string(), "id of the prompt"),
    split=(pa.string(), "split of the prompt"),
    condition=(pa.string(), "kind of items"),
    category=(pa.string(), "language: english or japanese"),
    cluster=(pa.string(), "set of demonstrations"),
    role=(pa.string(), "given, or swapped: the two labels exchanged throughout"),
    right_label=(pa.string(), "the right label"),
    answer=(pa.string(), "the label that the model finds likelier; '' for a tie"),
    accuracy=(pa.float32(), "1 where that is the right one, 1/2 for a tie, 0"),
    margin=(pa.float32(), "log-probability of the right label minus that of the other, nats"),
    majority_right=(pa.bool_(), "most demonstrations have the right label"),
    last_right=(pa.bool_(), "the last demonstration has the right label"),
    first_label_right=(pa.bool_(), "the right label is the first of the two in alphabetical order"),
    nearest_right=(pa.bool_(), "the vote of the nearest demonstrations is the right label (layer, number: metadata)"),
    shared_like=(pa.float32(), "share of demonstrations with the right label that share a token with the query, 0..1"),
    shared_unlike=(pa.float32(), "the same of the others"),
    attention_like=(
        pa.float32(),
        "attention of the induction heads, before they answer, to a right label; mean over "
        "demonstrations and heads, 0..1; null without such heads",
    ),
    attention_unlike=(pa.float32(), "the same to a label that is not right"),
)

NEIGHBOURS_ATTENTION = _table(
    "data/neighbours/{}/attention.parquet",
    "Attention of the control sets of heads to labels of demonstrations",
    "prompt* draw*",
    prompt=(pa.string(), "id of the prompt"),
    draw=(pa.int16(), "number of the control set of the induction family, from 1 (see the plan)"),
    attention_like=(pa.float32(), "as in answers.parquet, of this set's heads"),
    attention_unlike=(pa.float32(), "the same to a label that is not right"),
)

NEIGHBOURS_SILENCED = replace(
    EFFECTS,
    place="data/neighbours/{}/silenced.parquet",
    about="The same answers with induction heads, or control sets, silenced",
)

GATES = _table(
    "data/gates/{}/gates.parquet",
    "What is lost when heads, one at a time, see only sinks and a window, per prompt",
    "prompt* layer* head* key_head*",
    prompt=(pa.string(), "id of the needle prompt"),
    split=(pa.string(), "split of the prompt"),
    cluster=(pa.string(), "cluster of the prompt"),
    layer=(pa.int16(), "attention layer, from 0"),
    head=(pa.int16(), "query head that alone sees sinks and window; -1: all that read one key head do"),
    key_head=(pa.int16(), "key head that it reads, from 0"),
    change=(pa.float32(), "length of the change of the last hidden state over its length, mean over scored rows"),
    logprob=(pa.float32(), "change of the answer's log-probability, nats per token"),
    mass=(pa.float32(), "attention to keys that are cut, 0..1: mean over queries that lose some; null for key heads"),
    mass_answer=(pa.float32(), "the same over the positions that predict the answer"),
)

CACHE = _of_runs(
    "data/gates/{}/cache.parquet",
    "What is lost when some key heads keep all and the others sinks and a window, per prompt",
    "task* measure method* share* draw* prompt*",
    "task measure",
    task=(pa.string(), "task"),
    measure=(pa.string(), "recall (share of answer tokens that are the argmax), logprob or loss (nats per token)"),
    method=(pa.string(), "what says which key heads keep all: gate, retrieval, first, random; full or none"),
    share=(pa.float32(), "share of key heads that keep all, asked for"),
    kept=(pa.int32(), "and how many these are"),
    draw=(pa.int16(), "number of the random set; 0 for other methods"),
    kept_heads=(pa.string(), "the key heads that keep all, such as L5K0"),
    entries=(pa.float32(), "entries of the cache that are kept at the prompt's end over those that the model keeps"),
    prompt=(pa.string(), "id of the prompt"),
    cluster=(pa.string(), "cluster of the prompt"),
    value=(pa.float32(), "value on the prompt"),
)

STREAMING = _of_runs(
    "data/gates/{}/streaming.parquet",
    "Loss on text when every head sees only some sinks and a window, per passage",
    "prompt* sinks* positions length",
    "",
    prompt=(pa.string(), "id of the passage"),
    cluster=(pa.string(), "cluster of the passage"),
    sinks=(pa.int16(), "first tokens that every head sees beside its window; -1: full attention"),
    positions=(pa.string(), "of the sinks: as in the text, or re-counted in the cache"),
    length=(pa.int32(), "the loss is over scored tokens from the length before up to this one, in tokens"),
    tokens=(pa.int32(), "how many these are"),
    loss=(pa.float32(), "mean loss, nats per token"),
)

SINK_HEADS = _of_heads(
    "data/sinks/{}/heads.parquet",
    "Where every head looks and what it writes, on natural, random and repeated input and on texts begun otherwise",
    "prompt* input*",
    prompt=(pa.string(), "id of the short passage"),
    split=(pa.string(), "its split"),
    input=(pa.string(), "'natural', 'random', 'repeated', 'moved' or 'without' (stages/model/sink_inputs.py)"),
    layer=(pa.int16(), "attention layer, from 0"),
    head=(pa.int16(), "query head, from 0"),
    first=(pa.float32(), "attention to position 0, mean over the queries from it on, 0..1 (Gu+: alpha)"),
    second=(pa.float32(), "the same for position 1: where `moved` has the first token"),
    later=(pa.float32(), "the largest alpha of a token of words or punctuation that at least 8 queries can see"),
    special=(pa.float32(), "attention to special tokens other than position 0, mean over queries, 0..1"),
    punctuation=(pa.float32(), "attention to tokens of punctuation marks alone, mean over queries, 0..1"),
    punctuation_even=(pa.float32(), "what they would get if words and punctuation shared theirs evenly, 0..1"),
    learned=(pa.float32(), "attention that a learned sink takes, mean over queries, 0..1"),
    value=(pa.float32(), "norm of the first position's value over the median of the others; null out of reach"),
    said=(pa.float32(), "share of what the head writes that is from position 0, by norms, 0..1; null out of reach"),
    output=(pa.float32(), "norm of what the head writes at ordinary tokens, over its mean over the layer's heads"),
)

SINK_TOKENS = _table(
    "data/sinks/{}/tokens.parquet",
    "Residual norms of the same prompts' tokens, and the attention that they receive",
    "prompt* input* layer* position*",
    prompt=(pa.string(), "id of the short passage"),
    split=(pa.string(), "its split"),
    input=(pa.string(), "as in the table of heads"),
    layer=(pa.int16(), "attention layer, from 0: residuals after its block"),
    position=(pa.int16(), "of the token, from 0"),
    mark=(pa.string(), "'first' (position 0), 'special', 'punctuation' or 'ordinary'"),
    norm=(pa.float32(), "norm of the residual over the median of the prompt's tokens"),
    channel=(pa.float32(), "its largest channel over the median size of all channels of the prompt"),
    received=(pa.float32(), "alpha of the token, mean over the layer's heads, 0..1"),
)

PROBES = _of_runs(
    "data/sinks/{}/probes.parquet",
    "What linear probes read from one token's state, layer by layer",
    "kind* target* layer",
    "",
    unit="layer",
    kind=(
        pa.string(),
        "whose state: 'first', 'attended', 'largest', 'ordinary', 'beside' (stages/model/token_states.py)",
    ),
    target=(
        pa.string(),
        "'token', 'position' (its own), 'next' (the token after it), 'topic', 'rest' (file, all other tokens)",
    ),
    layer=(pa.int16(), "residual after this layer's block; -1: before the first block"),
    value=(pa.float32(), "accuracy (topic) or R2 on unseen blocks; null where there is nothing to tell"),
    low=(pa.float32(), "2.5 % bound over blocks"),
    high=(pa.float32(), "97.5 % bound"),
    majority=(pa.float32(), "what a state gets that is the same in every prompt"),
    shuffled=(pa.float32(), "mean score of probes of shuffled targets"),
    guess=(pa.float32(), "what drawing a class at random gets; 0 for R2"),
    tokens=(pa.int32(), "tokens, one per passage"),
    blocks=(pa.int32(), "blocks of text that they are from"),
    spread=(pa.float32(), "distance of unit states from their mean, root mean square"),
    outliers=(pa.int32(), "of these tokens, those whose norm is an outlier in some layer (median + 5 MAD of its log)"),
    note=(pa.string(), "'' or why there is no value"),
)

NORMS = _table(
    "data/sinks/{}/norms.parquet",
    "Norms of the tokens of images, per layer, and the attention that they get",
    "prompt* layer* token*",
    prompt=(pa.string(), "id of the image"),
    cluster=(pa.string(), "cluster of the image"),
    layer=(pa.int16(), "attention layer, from 0"),
    token=(pa.int16(), "its place in the sequence, from 0"),
    kind=(pa.string(), "class, register or patch"),
    norm=(pa.float32(), "norm of its state after the layer's block"),
    attention=(
        pa.float32(),
        "attention that it gets in the next attention layer, mean over heads and over the patches that look, 0..1; "
        "null after the last",
    ),
    most=(pa.float32(), "the same of the head that gives it most"),
)

MEMORY = _table(
    "data/memory/{}/memory.parquet",
    "What the MLPs hold: looked up, inserted, missed, per prompt",
    "",
    part=(pa.string(), "lookup, insert or miss"),
    what=(pa.string(), "what was done: intact, mean, interchange ... (stages/model/lookup.py, rank_one.py, misses.py)"),
    layer=(pa.int16(), "layer that was changed or read, from 0; -1 where none"),
    condition=(pa.string(), "relation or condition of the prompt, or its class of subjects"),
    split=(pa.string(), "split of the prompt"),
    cluster=(pa.string(), "the subject; of text, the fact that was inserted"),
    measure=(pa.string(), "what was measured: own, donor, right, loss (nats per token), kl, entropy (nats) ..."),
    value=(pa.float32(), "its value on the prompt"),
)

NGRAM = _of_runs(
    "data/ngram.parquet",
    "What counting words alone makes of every prompt",
    "baseline task* prompt* measure",
    "task",
    baseline=(pa.string(), "ngram (the training text) or ngram_prompt (and the prompt so far)"),
    task=(pa.string(), "task"),
    condition=(pa.string(), "condition of the prompt"),
    category=(pa.string(), "category of the prompt"),
    cluster=(pa.string(), "cluster of the prompt"),
    prompt=(pa.string(), "id of the prompt"),
    measure=(
        pa.string(),
        "accuracy, ties (1 = both sentences equally likely), loss (nats per token), symbols or tapes (shares right)",
    ),
    value=(pa.float32(), "value on the prompt"),
)
