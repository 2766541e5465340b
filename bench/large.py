"""What a model of 7B weights and texts of up to 32,768 tokens cost, stage by stage, on this machine's GPU or processor.

    python -m bench.large FOLDER                           32 layers of 32 heads, 6.98e9 weights in bfloat16
    python -m bench.large FOLDER --width 256 --inner 512   as many heads, thin ones: what a processor can do
    python -m bench.large FOLDER --parts fetch text-32768  only these parts, of a model that is there already

Weights are random: the numbers are costs and say nothing about heads. The model, its tokenizer (learned from
stages/sources/english) and all tables go to FOLDER. Each part is stages of the pipeline as they are, in this process;
its row is appended to bench/large.csv: seconds with loading, those of the processor, and the peak of memory (GB): of
what torch holds on the GPU, or on a processor of the process. A part that fails is shown, and the others run.
"""

import argparse
import csv
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.long_context import resident
from stages import ablate, answer, classify, extract, fetch, ngram, plan, prepare, trace
from stages.model import placed
from stages.store import records

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_suffix(".csv")
COLUMNS = "card dtype weights heads part seconds cpu_seconds peak_gb".split()
DEVICE = placed.chosen()
GPU = DEVICE.type == "cuda"
LONG = "text-"  # parts that read one text of so many tokens
SHORT = ("text", "repeats", "needle")  # tasks
SPECIAL = ("<pad>", "<bos>", "<eos>", "<mask>")


def make(folder: Path, asked: argparse.Namespace) -> None:
    """Save a random model, made where it is to run, with a tokenizer."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learned = trainers.BpeTrainer(vocab_size=8192, special_tokens=[*SPECIAL], initial_alphabet=alphabet)
    core.train([str(path) for path in sorted((ROOT / "stages/sources/english").glob("*.txt"))], learned)
    names = dict(zip(("pad_token", "bos_token", "eos_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=asked.width,
        intermediate_size=asked.inner,
        num_hidden_layers=asked.layers,
        num_attention_heads=asked.heads,
        num_key_value_heads=asked.heads // 4,
        head_dim=asked.width // asked.heads,
        max_position_embeddings=max(asked.lengths),
        initializer_range=asked.width**-0.5,  # what a matrix gives is as large as what it gets
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype=asked.dtype,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, asked.dtype))
    with DEVICE:
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)


def settings(folder: Path, dtype: str, tokens: int = 0) -> None:
    """Write params.yaml: the short tasks of a quick run, or one text of so many tokens."""
    params = yaml.safe_load((ROOT / "params.quick.yaml").read_text(encoding="utf-8"))
    params["models"] = {"big": {"source": "path", "name": "model", "dtype": dtype}}
    params["tasks"] = {name: params["tasks"][name] for name in SHORT}
    if tokens:
        long = {"source": "path", "path": "long.txt", "passages": 1, "tokens": tokens, "short_passages": 1}
        params["tasks"] = {"text": params["tasks"]["text"] | long}
    params |= {"plan": params["plan"] | {"specificity": [], "sweep": None}, "recipes": {}}
    asked = {key: {name: params["ablate"][key][name] for name in SHORT} for key in ("prompts", "single")}
    params["ablate"] |= asked
    if GPU:
        params["extract"]["batch_tokens"] = 16384
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def parts(folder: Path, asked: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return what can be run, by name, in order."""

    def long(tokens: int) -> None:
        settings(folder, asked.dtype, tokens)
        prepare.main("text")
        extracted("text")

    def extracted(task: str) -> None:
        shutil.rmtree("data/extracted", ignore_errors=True)  # else there is nothing to do
        extract.main("big", task)

    def fetched() -> None:
        fetch.main("big")
        print(json.dumps(records.read("big")["proof"]), flush=True)

    found: dict[str, Callable[[], None]] = {"make": lambda: make(folder / "model", asked), "fetch": fetched}
    found |= {f"{LONG}{tokens}": lambda tokens=tokens: long(tokens) for tokens in asked.lengths}
    found["prepare"] = lambda: [settings(folder, asked.dtype), *map(prepare.main, SHORT)]
    found |= {f"extract {task}": lambda task=task: extracted(task) for task in SHORT}
    after = {"answer": answer, "trace": trace, "classify": classify, "plan": plan, "ablate": ablate}
    return (
        found | {"ngram": ngram.main} | {name: lambda stage=stage: stage.main("big") for name, stage in after.items()}
    )


def run(name: str, part: Callable[[], None], asked: argparse.Namespace) -> None:
    """Run a part; append its row, and show it."""
    if GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start, worked = time.perf_counter(), time.process_time()
    try:
        part()
    except Exception:  # the others are worth their time on a card that is lent
        traceback.print_exc()
        return
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    peak = torch.cuda.max_memory_allocated() / 1e9 if GPU else resident("VmHWM")
    card = torch.cuda.get_device_name() if GPU else f"{torch.get_num_threads()} cores"
    layer = asked.width * (2.5 * asked.width + 3 * asked.inner)
    row = [card, asked.dtype, f"{asked.layers * layer:.3g}", asked.layers * asked.heads, name]
    row += [f"{seconds:.4g}", f"{worked:.4g}", f"{peak:.4g}"]
    new = not FILE.is_file()
    with FILE.open("a", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, row] if new else [row])
    print(dict(zip(COLUMNS, row, strict=True)), flush=True)


def main() -> None:
    """Run all parts, or those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, usual in {"layers": 32, "heads": 32, "width": 4096, "inner": 14336}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--parts", nargs="+")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    (folder / "model").mkdir(parents=True, exist_ok=True)
    if not (folder / "stages").exists():
        (folder / "stages").symlink_to(ROOT / "stages")  # what params.yaml names lies there
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "stages/sources/english").glob("*.txt"))]
    (folder / "long.txt").write_text("\n\n".join(texts * 3), encoding="utf-8")
    os.environ |= {"HEAD_ATLAS_CACHE": str(folder / "cache"), "HEAD_ATLAS_WORKERS": "1"}  # memory is this process's
    os.chdir(folder)
    settings(folder, asked.dtype)
    known = parts(folder, asked)
    for name in asked.parts or known:
        run(name, known[name], asked)


if __name__ == "__main__":
    main()
