"""Spans become tokens in one place: whatever the tokenizer, the tokens of a span spell the span."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from tiny import IDS, LETTERS, SMALL, WORDS, make
from tokenizers import Tokenizer, models, pre_tokenizers

from stages.families.family import Tokens
from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.tokens import beginning, encode, first_answering, fitting, longest, ordinary, starts_as, token_name
from stages.store.errors import UserError
from stages.tasks.prompt import Prompt, Span

DECODER, ENCODER = make("gpt2"), make("bert")


def row(**fields) -> SimpleNamespace:
    return SimpleNamespace(**asdict(Prompt(**({"id": "t/g/0", "condition": "g", "cluster": "c"} | fields))))


def spell(loaded, tokens, at) -> str:
    return loaded.tokenizer.decode(tokens.ids[at], clean_up_tokenization_spaces=False)


words = st.lists(st.sampled_from([*WORDS, *LETTERS, "éa", "xyz"]), min_size=2, max_size=12)


@given(words, words, st.sampled_from([DECODER, ENCODER]))
def test_targets_and_spans_spell_themselves(first, second, loaded):
    text, target = " ".join(first), " " + " ".join(second)
    whole = text + target
    span = Span("r", len(text) + 1, len(whole), 0, len(first[0]))
    tokens = encode(loaded, row(text=text, targets=(target,), relations=(span,)))
    assert spell(loaded, tokens, tokens.target) == target
    ((query, key),) = tokens.spans["r"]
    assert spell(loaded, tokens, query).strip() == target.strip()
    assert spell(loaded, tokens, key) == first[0]
    assert tokens.special[0] and (tokens.ids[0] == 1)


ANSWERS = [([" ", "1", "8"], 1), ([" 18"], 0), (["\n", " ", "x"], 2), ([" "], 0)]


@pytest.mark.parametrize(("answer", "number"), ANSWERS)
def test_a_blank_is_not_an_answer(answer, number):
    tokenizer = SimpleNamespace(decode=lambda ids: answer[ids[0]])
    tokens = Tokens("p", "", np.arange(len(answer)), np.zeros(len(answer), bool), np.arange(len(answer)))
    assert first_answering(SimpleNamespace(tokenizer=tokenizer), tokens) == number
    assert beginning(SimpleNamespace(tokenizer=tokenizer), tokens) == tuple(range(number + 1))


def test_what_is_predicted_starts_as_an_answer_where_its_blanks_were_read():
    number = encode(DECODER, row(text="A :", targets=(" 18",)))
    word, blank, one, eight = DECODER.tokenizer.convert_tokens_to_ids(["Ġcat", "Ġ", "1", "8"])
    assert number.ids[number.target].tolist() == [blank, one, eight] and beginning(DECODER, number) == (blank, one)
    best = np.array([word, eight, one])
    asked = [starts_as(number, best, begun) for begun in ((word,), (blank,), (blank, eight), (blank, one), (word, one))]
    assert asked == [True, False, True, False, None]
    assert starts_as(encode(DECODER, row(text="A :", targets=(" cat",))), best[:1], (blank, one)) is None
    only = encode(DECODER, row(text="A :", targets=(" ",)))
    assert starts_as(only, best[:1], (blank, one)) is None  # what follows its blank was not asked


def test_a_token_of_control_characters_is_named_by_what_is_printed():
    """They move a terminal's cursor and are no HTML: a tokenizer's special tokens may hold any."""
    loaded = make("gpt2")
    loaded.tokenizer.add_special_tokens({"bos_token": "\x00<s>\x1b[31m\r\u202e"})
    assert token_name(loaded, loaded.tokenizer.bos_token_id) == r"\x00<s>\x1b[31m\r\u202e"
    names = [token_name(loaded, index) for index in range(len(loaded.tokenizer))]
    assert all(name and name.isprintable() for name in names)
    assert {"·the", "⏎", "⇥", r"\x00", "<eos>"} <= set(names)


def test_bos_can_be_left_out_and_cuts_keep_the_separator():
    assert not encode(DECODER, row(text="the cat", bos=False)).special.any()
    cut = encode(ENCODER, row(text="the cat sees the dog of the house", tokens=5))
    assert len(cut) == 5 and cut.special.tolist() == [True, False, False, False, True]
    assert len(encode(DECODER, row(text="the cat sees the dog", tokens=4))) == 4


def test_without_a_bos_the_first_token_is_not_scored():
    tokens = encode(DECODER, row(targets=(" the cat sees",), bos=False))
    assert tokens.target.tolist() == [1, 2]
    assert encode(DECODER, row(targets=(" the cat sees",))).target.tolist() == [1, 2, 3]


@pytest.mark.parametrize("loaded", [DECODER, ENCODER])
def test_random_prompts_are_ordinary_words(loaded):
    tokens = encode(loaded, row(ordinals=(5, 2**31 - 1, 5)))
    body = tokens.ids[~tokens.special]
    assert len(body) == 3 and body[0] == body[2] != body[1]
    assert set(body) <= set(ordinary(loaded.tokenizer))
    spelled = [loaded.tokenizer.decode([index]).strip() for index in ordinary(loaded.tokenizer)]
    assert all(word.isalpha() and len(word) > 1 for word in spelled) and "house" in spelled
    assert np.diff(ordinary(loaded.tokenizer)).min() > 0


@given(words, st.sampled_from(["<bos>", "<eos>", "<pad>", "<mask>"]), words)
@pytest.mark.parametrize("loaded", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_control_tokens_that_a_text_spells_are_text(loaded, before, control, after):
    text = " ".join([*before, control, *after])
    span = Span("word", text.index(control), text.index(control) + len(control), 0, 1)
    tokens = encode(loaded, row(text=text, relations=(span,)))
    body = tokens.ids[~tokens.special]
    assert spell(loaded, tokens, ~tokens.special) == text
    assert not set(body) & set(loaded.tokenizer.all_special_ids)
    assert tokens.special.sum() == (1 if loaded is DECODER else 2)
    ((word,), _) = tokens.words, tokens.arcs
    assert spell(loaded, tokens, word).strip() == control


def test_a_tokenizer_that_drops_letters_is_refused():
    """A vocabulary without some letters and without <unk>: the model would read another text, and nobody knew."""
    model = make("gpt2")
    core = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate("Ġabc")}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lacking = replace(model, tokenizer=hf.PreTrainedTokenizerFast(tokenizer_object=core))
    assert len(encode(lacking, row(text="a cab\u00e9"))) == 5
    with pytest.raises(UserError, match=r"makes no token of 'd' in 'a cad', so that another text would be read"):
        encode(lacking, row(text="a cad"))


def test_a_vocabulary_that_holds_control_tokens_spells_them():
    """Unigram (XLM-R, T5, ALBERT) finds `</s>` among its pieces whether special tokens are looked for or not."""
    pieces = ["<s>", "</s>", "<unk>", "▁a", "▁b", "▁", "<", "/", "s", ">"]
    core = Tokenizer(models.Unigram([(piece, 0.0 if piece[-1] == ">" else -3.0) for piece in pieces], 2))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    loaded = Loaded(DECODER.model, tokenizer, DECODER.anatomy, "decoder")
    tokens = encode(loaded, row(text="a </s> b", relations=(Span("r", 2, 6, 0, 1),)))
    assert tokenizer.convert_ids_to_tokens(tokens.ids) == ["<s>", "▁a", "▁", "<", "/", "s", ">", "▁b"]
    assert tokens.special.tolist() == [True] + [False] * 7
    ((query, key),) = tokens.spans["r"]
    assert query.tolist() == [3, 4, 5, 6] and key.tolist() == [1]
    unknown = encode(loaded, row(text="a z b"))
    assert tokenizer.unk_token_id in unknown.ids  # a character that it does not know stays <unk>


POSITIONS = {**SMALL, **IDS, "max_position_embeddings": 40}
LIMITED = {
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**POSITIONS | {"pad_token_id": 1})),
    "xlm_roberta": lambda: hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**POSITIONS | {"pad_token_id": 3})),
    "mpnet": lambda: hf.MPNetForMaskedLM(hf.MPNetConfig(**POSITIONS)),
    "esm": lambda: hf.EsmForMaskedLM(hf.EsmConfig(**POSITIONS, position_embedding_type="absolute")),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**POSITIONS)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            hidden_size=32,
            num_attention_heads=4,
            num_hidden_layers=2,
            ffn_dim=48,
            word_embed_proj_dim=32,
            max_position_embeddings=40,
            **IDS,
        )
    ),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_head=4, n_layer=2, n_positions=40, **IDS)),
}


@pytest.mark.parametrize("name", LIMITED)
def test_longest_is_what_the_model_reads_and_one_more_is_too_long(name):
    model = LIMITED[name]().eval()
    limit = longest(SimpleNamespace(model=model))
    with torch.no_grad():
        model(input_ids=torch.full((1, limit), 7))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 7))


def test_longest_is_found_in_the_text_config():
    text = hf.LlamaConfig(**SMALL, **IDS, max_position_embeddings=77)
    vision = hf.CLIPVisionConfig(**SMALL, image_size=16, patch_size=4)
    config = hf.LlavaConfig(text_config=text, vision_config=vision, image_token_index=9)
    assert longest(SimpleNamespace(model=hf.LlavaForConditionalGeneration(config))) == 77
    mpt = hf.MptConfig(d_model=32, n_heads=4, n_layers=1, max_seq_len=33, vocab_size=IDS["vocab_size"])
    assert longest(SimpleNamespace(model=hf.MptForCausalLM(mpt))) == 33


def test_a_prompt_fits_where_each_of_its_targets_does():
    limited = make("gpt2")
    limited.model.config.n_positions = 7
    rows = [
        row(text="the cat", targets=targets) for targets in ((" sees",), (" sees", " a dog"), (" sees", " a a a a a"))
    ]
    sizes = [[len(encode(limited, each, n)) for n in range(len(each.targets))] for each in rows]
    assert sizes == [[6], [6, 7], [6, 10]]
    assert fitting(limited, rows)[0] == rows[:2]


def test_no_text_is_so_long_that_positions_turn_at_another_rate():
    """LongRoPE: one text past the original length, and all texts beside it are read otherwise."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": 80,
    }
    sizes = SMALL | {"max_position_embeddings": 512, "original_max_position_embeddings": 80}
    torch.manual_seed(0)
    model = hf.Phi3ForCausalLM(hf.Phi3Config(**sizes, **IDS, rope_parameters=rope)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(4)
    loaded = Loaded(model, DECODER.tokenizer, DECODER.anatomy, "decoder")
    limit = longest(loaded)
    assert limit == 80
    ids = np.random.default_rng(0).integers(5, 60, limit + 1)
    short, at = ids[:40], np.arange(40)
    alone = forward(loaded, [short], [at])
    for length, same in ((limit, True), (limit + 1, False)):
        beside = forward(loaded, [short, ids[:length]], [at, at[:1]])[:40]
        assert torch.allclose(beside, alone, atol=1e-4) is same
    of_types = SimpleNamespace(rope_parameters={"full": rope, "sliding": {"rope_type": "default"}})
    config = SimpleNamespace(get_text_config=lambda: of_types)
    nothing = SimpleNamespace(config=config, modules=list, get_input_embeddings=lambda: None)
    assert longest(SimpleNamespace(model=nothing)) == 80
