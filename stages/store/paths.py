"""Where every artifact lies: the only module that knows file names. All paths are relative to the repository."""

from pathlib import Path

PARAMS = Path("params.yaml")
FULL = Path("full")  # the longer studies: a pipeline of its own, with its params.yaml, data/ and reports/
PAGE = Path("reports/index.html")
FIGURES = Path("reports/figures")
NGRAM = Path("data/ngram.parquet")  # what counting alone makes of every prompt
COUNTING = Path("reports/baselines/ngram.csv")  # its git-tracked summary


def prompts(task: str) -> Path:
    """Prompts of a task, one row each."""
    return Path(f"data/prompts/{task}.parquet")


def asked(task: str) -> Path:
    """The same prompts where they are scored, else none: what stages after `extract` read.

    A change of prompts that are only looked at, such as parsed sentences, silences and steers nothing again.
    """
    return Path(f"data/asked/{task}.parquet")


def pictures(task: str) -> Path:
    """The same prompts where they are images, else none: what a stage reads of them alone."""
    return Path(f"data/pictures/{task}.parquet")


def model(slot: str) -> Path:
    """Provenance and anatomy of the model in a slot."""
    return Path(f"data/models/{slot}.json")


def relations(slot: str, task: str) -> Path:
    """Attention masses per (prompt, layer, head, relation)."""
    return Path(f"data/activations/{slot}/{task}.relations.parquet")


def outputs(slot: str, task: str) -> Path:
    """Last-token head outputs per (prompt, layer, head)."""
    return Path(f"data/activations/{slot}/{task}.outputs.parquet")


def answers(slot: str) -> Path:
    """What the intact model answers to usual, rare and made-up words, per prompt."""
    return Path(f"data/answers/{slot}.parquet")


def indirect(slot: str) -> Path:
    """Indirect effects per (function, prompt, layer, head)."""
    return Path(f"data/indirect/{slot}.parquet")


def heads(slot: str) -> Path:
    """Scores and verdicts per (layer, head, family)."""
    return Path(f"data/heads/{slot}.parquet")


def plan(slot: str) -> Path:
    """All interventions of a slot: which heads are silenced, how, on which tasks."""
    return Path(f"data/plans/{slot}.parquet")


def first_order(slot: str) -> Path:
    """First-order effects of every head by gradients, per prompt."""
    return Path(f"data/effects/{slot}/first_order.parquet")


def effects(slot: str) -> Path:
    """Raw paired values of every ablation."""
    return Path(f"data/effects/{slot}/effects.parquet")


def shards(slot: str) -> Path:
    """Folder of what an unfinished ablate has finished; gone when the stage ends."""
    return Path(f"data/shards/{slot}")


def vectors(slot: str) -> Path:
    """Function vectors (safetensors)."""
    return Path(f"data/vectors/{slot}/vectors.safetensors")


def control_vectors(slot: str) -> Path:
    """Folder of the same function vectors as llama.cpp reads them, one GGUF file each."""
    return Path(f"data/vectors/{slot}/control")


def steering(slot: str) -> Path:
    """Raw outcomes of every steering run."""
    return Path(f"data/vectors/{slot}/steering.parquet")


def composed(slot: str) -> Path:
    """How prompts of composed functions are answered under sums of function vectors."""
    return Path(f"data/applied/{slot}/composed.parquet")


def continued(slot: str) -> Path:
    """What plain text is continued with under function vectors."""
    return Path(f"data/applied/{slot}/continued.parquet")


def shifts(slot: str) -> Path:
    """Raw answers to both members of pairs under a function vector, twice it and minus it."""
    return Path(f"data/applied/{slot}/shifts.parquet")


def offsets(slot: str) -> Path:
    """Whether a function is one offset, in the model's spaces of vectors."""
    return Path(f"data/applied/{slot}/offsets.parquet")


def readings(slot: str) -> Path:
    """What function vectors say, read through the model's last norm and unembedding."""
    return Path(f"data/applied/{slot}/readings.parquet")


def orders(slot: str) -> Path:
    """What the model says comes next in orders that it knows or is told, and under the vector of such a step."""
    return Path(f"data/applied/{slot}/orders.parquet")


def circuit(slot: str) -> Path:
    """What induction heads look at when paths into their keys are patched."""
    return Path(f"data/circuits/{slot}/circuit.parquet")


def composition(slot: str) -> Path:
    """What the weights say of the same paths."""
    return Path(f"data/circuits/{slot}/composition.parquet")


def neighbours(slot: str) -> Path:
    """Answers to labelled demonstrations, and what their nearest neighbours say."""
    return Path(f"data/neighbours/{slot}/answers.parquet")


def neighbours_silenced(slot: str) -> Path:
    """The same answers with induction heads, or control sets, silenced."""
    return Path(f"data/neighbours/{slot}/silenced.parquet")


def gates(slot: str) -> Path:
    """What is lost when heads, one at a time, see only sinks and a window, per prompt."""
    return Path(f"data/gates/{slot}/gates.parquet")


def cache(slot: str) -> Path:
    """What is lost when some key heads keep all and the others sinks and a window, per prompt."""
    return Path(f"data/gates/{slot}/cache.parquet")


def streaming(slot: str) -> Path:
    """Loss on text when every head sees only some sinks and a window, per passage."""
    return Path(f"data/gates/{slot}/streaming.parquet")


def cache_policy(slot: str) -> Path:
    """Which key heads keep all and which stream, as a serving engine reads it (git-tracked)."""
    return report(slot) / "cache.json"


def sink_heads(slot: str) -> Path:
    """Where every head looks and what it writes, on natural, random and repeated input and on texts begun otherwise."""
    return Path(f"data/sinks/{slot}/heads.parquet")


def sink_tokens(slot: str) -> Path:
    """Residual norms of the same prompts' tokens, and the attention that they receive."""
    return Path(f"data/sinks/{slot}/tokens.parquet")


def probes(slot: str) -> Path:
    """What linear probes read from one token's state, layer by layer."""
    return Path(f"data/sinks/{slot}/probes.parquet")


def norms(slot: str) -> Path:
    """Norms of the tokens of images, per layer, and the attention that they get."""
    return Path(f"data/sinks/{slot}/norms.parquet")


def memory(slot: str) -> Path:
    """What the MLPs hold: looked up, inserted, missed, per prompt."""
    return Path(f"data/memory/{slot}/memory.parquet")


def adapters(slot: str) -> Path:
    """Folder of inserted facts as LoRA adapters that peft reads, one folder each."""
    return Path(f"data/memory/{slot}/adapters")


def report(slot: str) -> Path:
    """Folder of a slot's git-tracked summaries: metrics.json, heads.csv, effects.csv, steering.csv ..."""
    return Path(f"reports/slots/{slot}")


def checkpoints(recipe: str) -> Path:
    """Folder of a recipe's checkpoints: <arm>-<seed>/<step>/{config.json, model.safetensors}."""
    return Path(f"data/checkpoints/{recipe}")


def checkpoint(recipe: str, arm: str, seed: int, step: int) -> Path:
    """One checkpoint, in Hugging Face format."""
    return checkpoints(recipe) / f"{arm}-{seed}" / f"{step:06d}"


def revision(recipe: str, arm: str, step: int) -> Path:
    """Where a revision of a pretrained model comes from and the sha256 of its files: its weights are not kept here."""
    return checkpoint(recipe, arm, 0, step) / "model.json"


def study(recipe: str) -> Path:
    """Folder of a recipe's git-tracked results: curve.csv, findings.csv, learning.csv, metrics.json, params.json ..."""
    return Path(f"reports/recipes/{recipe}")
