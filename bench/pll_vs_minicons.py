"""Our pseudo-log-likelihoods against minicons 0.3.39's, sentence by sentence.

    python -m bench.pll_vs_minicons ../shared/data/blimp --pairs 10

No masked language model comes in a package, so a small BERT is trained here, a few minutes on the text and the good
sentences of the minimal pairs written for this project: it need not know grammar, but the context must matter to it.
minicons' `PLL_metric="original"`, summed, is our definition; both run the same float32 weights.
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

from bench.peer import ROOT, run
from stages.model.load import open_folder
from stages.model.pseudo import score
from stages.model.tokens import encode
from stages.prompts import blimp
from stages.prompts.prompt import read_text
from stages.store.params import Blimp

LEXICON = ROOT / "stages/prompts/lexicon"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LENGTH, BATCH, MASKED = 64, 16, 0.15  # tokens of a training sequence, sequences in a step, share of masked tokens


def main() -> None:
    """Score the pairs with both; print agreement, the largest difference of sentence scores, seconds."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="folder of BLiMP *.jsonl")
    parser.add_argument("--pairs", type=int, default=10, help="pairs per paradigm")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the small BERT")
    parser.add_argument("--vocabulary", type=int, default=8000, help="its word pieces, at most")
    options = parser.parse_args()
    settings = Blimp(source="path", path=options.folder, pairs=options.pairs, leading_space=False, bos=True)
    prompts = blimp.build(settings, 0)
    with tempfile.TemporaryDirectory() as name:
        loss, frequencies = train(Path(name), options.steps, options.vocabulary)
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
    size = loaded.model.config.vocab_size
    print(f"BERT of {size} word pieces: masked loss {loss:.2f} nats (word frequencies alone: {frequencies:.2f})")
    print(f"{len(prompts)} pairs of {len({p.group for p in prompts})} paradigms; equal decisions: {(~unequal).sum()}")
    print(f"accuracy: ours {np.mean((mine > 0) + (mine == 0) / 2):.4f}, ties: {np.sum(mine == 0)}; minicons "
          f"{np.mean((other > 0) + (other == 0) / 2):.4f}, ties: {np.sum(other == 0)}")  # fmt: skip
    print(f"sentence scores from {ours.min():.1f} to {ours.max():.1f} nats; largest difference "
          f"{np.abs(ours - peer).max():.2e}")  # fmt: skip
    for index in np.flatnonzero(unequal):
        print(f"  {prompts[index].id}: ours {mine[index]:+.6f}, minicons {other[index]:+.6f}")
    print(f"seconds: ours {scoring:.1f}; minicons {theirs['seconds']:.1f}, {whole:.1f} with start and loading")


def train(folder: Path, steps: int, vocabulary: int) -> tuple[float, float]:
    """Train a small BERT and save it; return the mean of its last losses, and the loss of knowing frequencies only."""
    torch.manual_seed(0)
    pairs = blimp.build(Blimp(path=str(LEXICON / "blimp.yaml"), pairs=30, leading_space=False, bos=True), 1)
    paragraphs = [*read_text(LEXICON / "english"), *(pair.targets[0] for pair in pairs)]
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(paragraphs, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=SPECIAL))
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    hf.PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)
    config = folder / "tokenizer_config.json"  # transformers 4 does not know the name that 5 gives this class
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
    model = hf.BertForMaskedLM(hf.BertConfig(vocab_size=core.get_vocab_size(), pad_token_id=0, **sizes))
    stream = torch.tensor([index for text in paragraphs for index in core.encode(text, add_special_tokens=False).ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50)
        starts = torch.randint(len(stream) - LENGTH, (BATCH,))
        ids_BT = torch.nn.functional.pad(stream[starts[:, None] + torch.arange(LENGTH)], (1, 0), value=2)  # [CLS]
        ids_BT = torch.nn.functional.pad(ids_BT, (0, 1), value=3)  # [SEP]
        hidden_BT = (torch.rand(ids_BT.shape) < MASKED) & (ids_BT > 4)
        labels_BT = ids_BT.masked_fill(~hidden_BT, -100)
        loss = model(input_ids=ids_BT.masked_fill(hidden_BT, 4), labels=labels_BT).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.save_pretrained(folder)
    share = torch.bincount(stream).double() / len(stream)
    return float(np.mean(losses[-20:])), -float(torch.xlogy(share, share).sum())


if __name__ == "__main__":
    main()
