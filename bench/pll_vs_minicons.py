"""Our pseudo-log-likelihoods against minicons 0.3.39's, sentence by sentence.

    python -m bench.pll_vs_minicons ../shared/data/blimp --pairs 10   # writes its row of bench/peers.csv

No masked language model comes in a package, so a small random BERT is made here, with word pieces of the text written
for this project. Its weights are wide (std 0.1, not 0.02), so that every token's score hangs on all others and a mask
in the wrong place shows; its accuracy means nothing. (Trained for some hundred steps, such a model learns word
frequencies only, and the many pairs of the same words in another order become ties.) minicons' summed
`PLL_metric="original"` is our definition; both run the same float32 weights.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from bench.peer import ROOT, record, run
from stages.model.load import open_folder
from stages.model.pseudo import score
from stages.model.tokens import encode
from stages.tasks.blimp import prompts as blimp
from stages.tasks.blimp.settings import Settings
from stages.tasks.prompt import read_text

TEXT = ROOT / "stages/sources/english"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def main() -> None:
    """Score the pairs with both; print agreement, the largest difference of sentence scores, seconds."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="folder of BLiMP *.jsonl")
    parser.add_argument("--pairs", type=int, default=10, help="pairs per paradigm")
    parser.add_argument("--vocabulary", type=int, default=8000, help="word pieces, at most")
    options = parser.parse_args()
    settings = Settings(source="path", path=options.folder, pairs=options.pairs, leading_space=False, bos=True)
    prompts = blimp.build(settings, 0)
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), options.vocabulary)
        loaded = open_folder(Path(name))
        start = time.perf_counter()
        sentences = [encode(loaded, prompt, target) for prompt in prompts for target in (0, 1)]
        ours = np.array([one.logprob.sum(dtype=np.float64) for one in score(loaded, sentences, 2048)])
        scoring = time.perf_counter() - start
        question = {"model": name, "sentences": [text for prompt in prompts for text in prompt.targets]}
        packages = ["minicons==0.3.39", "transformers==4.57.*"]  # it calls what transformers 5 has removed
        theirs, whole = run("minicons-0.3.39", packages, "minicons_pll.py", question)
    peer = np.array(theirs["scores"])
    mine, other = (values[::2] - values[1::2] for values in (ours, peer))
    unequal = np.sign(mine) != np.sign(other)
    margins = f"smallest margin {np.abs(mine).min():.1e} nats, median {np.median(np.abs(mine)):.1f}"
    print(f"random BERT of {loaded.model.config.vocab_size} word pieces; {margins}")
    print(
        f"{len(prompts)} pairs of {len({p.condition for p in prompts})} paradigms; equal decisions: {(~unequal).sum()}"
    )
    print(f"accuracy: ours {np.mean((mine > 0) + (mine == 0) / 2):.4f}, ties: {np.sum(mine == 0)}; minicons "
          f"{np.mean((other > 0) + (other == 0) / 2):.4f}, ties: {np.sum(other == 0)}")  # fmt: skip
    print(f"sentence scores from {ours.min():.1f} to {ours.max():.1f} nats; largest difference "
          f"{np.abs(ours - peer).max():.2e}")  # fmt: skip
    for index in np.flatnonzero(unequal):
        print(f"  {prompts[index].id}: ours {mine[index]:+.6f}, minicons {other[index]:+.6f}")
    print(f"seconds: ours {scoring:.1f}; minicons {theirs['seconds']:.1f}, {whole:.1f} with start and loading")
    counted = {"cases": len(prompts), "equal": int((~unequal).sum()), "largest_difference": np.abs(ours - peer).max()}
    rates = {"ours": len(prompts) / scoring, "peers": len(prompts) / theirs["seconds"], "unit": "pairs per second"}
    record(__file__, "minicons 0.3.39", "pseudo-log-likelihoods of pairs", **counted, **rates)


def make(folder: Path, vocabulary: int) -> None:
    """Save a small random BERT and its tokenizer."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(read_text(TEXT), trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=SPECIAL))
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    hf.PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)
    config = folder / "tokenizer_config.json"  # transformers 4 does not know the name that 5 gives this class
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
    ids = {"vocab_size": core.get_vocab_size(), "pad_token_id": 0, "initializer_range": 0.1}
    hf.BertForMaskedLM(hf.BertConfig(**sizes, **ids)).save_pretrained(folder)


if __name__ == "__main__":
    main()
