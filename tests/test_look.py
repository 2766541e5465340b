"""The page of one text shows the model's own attention and predictions, and says what it cannot show."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny import make, save, tokenizer

from stages import fetch, look
from stages.page import look as page
from stages.page.look import LEVELS
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
TEXT = " the cat sees the dog and the cat likes the dog"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def looked(name: str, text: str = TEXT, heads=(), **options):
    loaded = make(name, scale=4.0, **options)
    return loaded, look.looked(loaded, "a", text, heads)


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="look">(.*?)</script>', html, re.S)[1])


def unpacked(data: dict) -> np.ndarray:
    """Attention (heads, T, T) as the script reads it."""
    size = len(data["tokens"])
    steps = np.frombuffer(base64.b64decode(data["values"]), dtype=np.uint8)
    heads = sum(layer["heads"] for layer in data["layers"])
    weights = np.zeros((heads, size, size))
    query, key = np.tril_indices(size) if data["causal"] else np.indices((size, size)).reshape(2, -1)
    weights[:, query, key] = steps.reshape(heads, -1) / data["levels"]
    return weights


def ids_of(loaded) -> torch.Tensor:
    if loaded.kind == "decoder":
        return torch.tensor([[1, *loaded.tokenizer(TEXT, add_special_tokens=False).input_ids]])
    return torch.tensor([loaded.tokenizer(TEXT).input_ids])


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "bloom", "qwen3_next", "bert", "modernbert", "deberta_v2"])
def test_attention_is_the_models_own_and_written_to_half_a_step(name):
    loaded, seen = looked(name)
    with torch.no_grad():
        attentions = loaded.model(input_ids=ids_of(loaded), output_attentions=True).attentions
    attentions = [weights[0].numpy() for weights in attentions if weights is not None]
    for weights, layer in zip(attentions, loaded.anatomy.layers, strict=True):
        np.testing.assert_allclose(seen.attention[layer], weights, atol=1e-5)  # products by oneDNN, and by MKL
    data = data_of(seen.html())
    assert data["causal"] == (loaded.kind == "decoder") and data["tokens"][:3] == ["<bos>", "·the", "·cat"]
    assert np.abs(unpacked(data) - np.concatenate(attentions)).max() <= 0.5 / LEVELS + 1e-5


def test_a_decoder_says_what_comes_next():
    loaded, seen = looked("llama_gqa")
    with torch.no_grad():
        likely = loaded.model(input_ids=ids_of(loaded)).logits[0, -1].softmax(0)
    assert [p for _, p in seen.continuation] == pytest.approx(likely.topk(look.NEXT).values.tolist(), rel=1e-4)
    assert seen.continuation[0][0] == look.token_name(loaded, int(likely.argmax()))


def test_a_masked_model_fills_the_last_token_and_an_encoder_says_that_it_fills_none():
    loaded, seen = looked("bert")
    ids = ids_of(loaded)
    ids[0, -2] = loaded.tokenizer.mask_token_id
    with torch.no_grad():
        likely = loaded.model(input_ids=ids).logits[0, -2].softmax(0)
    assert [p for _, p in seen.continuation] == pytest.approx(likely.topk(look.NEXT).values.tolist(), rel=1e-4)
    assert "last token, ·dog, with it masked" in seen.comes
    seen = look.looked(replace(loaded, kind="encoder"), "a", TEXT)
    assert seen.continuation == [] and "predicts no token" in seen.html()


def test_relations_are_the_shares_of_attention_on_their_targets():
    _, seen = looked("gpt2")
    ids = [seen.names.index(name) for name in seen.names]  # equal tokens, equal numbers
    for layer, head in seen.heads:
        weights = seen.attention[layer][head]
        after, first = [], []
        for query in range(1, len(ids)):
            targets = [key + 1 for key in range(1, query) if ids[key] == ids[query]]
            after += [weights[query, targets].sum()] if targets else []
        first = weights[1:, 0].mean()
        assert seen.means["induction"]["mass"][layer, head] == pytest.approx(np.mean(after), abs=1e-5)
        assert seen.means["sink"]["mass"][layer, head] == pytest.approx(first, abs=1e-5)
    assert len(seen.relations["induction"].queries) == 5  # the, the, cat, the, dog


def test_what_a_text_cannot_show_is_said():
    _, seen = looked("gpt2", " the cat sees a dog")
    html = seen.html()
    assert "induction" not in seen.relations and "previous" in seen.relations
    assert "duplicate: no position of this text has it (t → earlier occurrences of the same token)." in html
    assert "local: the text is too short" in html and "grammar: it is marked in the prompts of its task" in html
    assert "function: it is an effect of the head" in html
    assert "same_patch" not in html


def test_of_members_it_says_what_the_reports_say_of_this_very_model(tmp_path):
    folder = save("gpt2", tmp_path / "model", scale=4.0)
    (tmp_path / "params.yaml").write_text("{}")
    record = {"name": "tiny", "stored": "float32", "files": {"a": "1"}}
    paths = tmp_path / "data/models/a.json", tmp_path / "reports/slots/a/model.json"
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))
    heads = ["layer,head,family,score,score_a,score_b,score_null,baseline,low,high,q,member,member_a,prompts,note"]
    heads += [f"{n // 4},{n % 4},induction,0.5{n},.5,.5,0.04,,.4,.6,.001,{int(n == 6)},0,9," for n in range(12)]
    paths[1].with_name("heads.csv").write_text("\n".join(heads))
    assert folder.is_dir()
    _, seen = looked("gpt2", heads=["L1H2"])
    family = next(family for family in data_of(seen.html())["families"] if family["name"] == "induction")
    assert family["members"] == [6] and family["score"][6] == 0.56 and family["chance"][0] == 0.04
    assert seen.title == "tiny (float32)" and seen.unjudged == ""
    paths[1].write_text(json.dumps(record | {"files": {"a": "2"}}))
    _, seen = looked("gpt2")
    assert "is of another model" in seen.html()
    assert not any(family["members"] for family in data_of(seen.html())["families"])


def test_no_text_of_a_user_becomes_markup():
    _, seen = looked("gpt2", "</script><img src=x onerror=alert(1)> the cat")
    html = seen.html()
    assert "<img" not in html and html.count("</script>") == 2
    assert "<img" not in seen._repr_html_() and seen._repr_html_().startswith("<iframe ")


@pytest.mark.parametrize(
    "text, heads, says",
    [
        ("", [], "the text is empty"),
        (" the" * 300, [], r"the text has \d+ tokens in a; at most \d+ are shown"),
        (TEXT, ["L3H0"], r"--heads: a has no head 'L3H0'; its heads are L0H0 to L2H3"),
        (TEXT, ["5.1"], r"--heads: a has no head '5\.1'"),
        (TEXT, [f"L{'9' * 5000}H0"], "--heads: a has no head 'L999"),
        (TEXT, "L3H0", "--heads: a has no head 'L3H0'"),
        ("the \udce9 cat", [], r"the text is not UTF-8: character 4 is '\\udce9'"),
        (None, [], "the text is NoneType; expected str"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_in_one_line(text, heads, says):
    with pytest.raises(UserError, match=says) as error:
        looked("llama_gqa", text, heads)
    assert "\n" not in str(error.value)


def test_budgets_keep_the_file_below_5_mb():
    assert page.longest(72, True, 10**6) == page.TOKENS and page.longest(4, True, 100) == 100
    for heads in (72, 384, 1024, 16128):
        for causal in (True, False):
            size = page.longest(heads, causal, 10**6)
            assert size > 10 and heads * (size * (size + 1) / 2 if causal else size**2) * 4 / 3 < 4.5e6


@pytest.fixture
def slot(tmp_path, monkeypatch) -> Path:
    """A repository with one fetched slot, `a`."""
    save("gpt2", tmp_path / "model", scale=4.0)
    content = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
    content["models"] = {"a": {"source": "path", "name": "model"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    fetch.main("a")
    return tmp_path


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "stages.look", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_command_writes_the_page_that_the_function_returns(slot):
    done = command(slot, "a", TEXT, "--heads", "L1H2", "L0H3", "--out", "somewhere/else.html")
    assert done.returncode == 0, done.stderr
    html = (slot / "somewhere/else.html").read_text()
    assert html == look.look("a", TEXT, ["L1H2", "L0H3"]).html()
    assert data_of(html)["enlarged"] == ["L1H2", "L0H3"]
    assert data_of(html)["marked"] in ("duplicate", "induction")
    marked = data_of(look.look("a", " the cat sees a dog").html())  # no token twice: only relations of place
    assert marked["marked"] in ("previous", "self", "sink") and len(marked["enlarged"]) == 1
    for arguments, says in (
        (("b", TEXT), "error: no slot 'b' in params.yaml; there are a"),
        (("a",), "error: the following arguments are required: text; usage: python -m stages.look"),
        (("a", TEXT, "--out", "model"), "error: 'model': cannot be written; expected the name of a file"),
        (("a", TEXT, "--out", ""), "error: '': cannot be written; expected the name of a file"),
        (("a", TEXT, "--out", "params.yaml/x.html"), "error: params.yaml/x.html: cannot be written"),
    ):
        done = command(slot, *arguments)
        assert done.returncode == 1 and done.stderr.startswith(says) and done.stderr.count("\n") == 1


def test_a_damaged_record_of_the_results_is_named(slot):
    report = slot / "reports/slots/a/model.json"
    report.parent.mkdir(parents=True)
    for content, says in (('{"name": ', "not JSON"), ("[]", "expected a JSON object")):
        report.write_text(content)
        done = command(slot, "a", TEXT)
        assert done.returncode == 1 and done.stderr.startswith(f"error: reports/slots/a/model.json: {says}")
        assert done.stderr.count("\n") == 1 and not (slot / "reports/look.html").exists()


CLICKS = """<script>
document.getElementById("L2H1").click();
document.getElementById("family").value = "induction";
document.getElementById("family").dispatchEvent(new Event("change"));
const map = document.querySelector("#L2H1-panel .map");
map.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown"}));
document.querySelector("#L1H2-panel button").click();
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the page is not opened in a browser")
def test_the_page_opens_from_disk_without_an_error_and_answers_to_clicks_and_keys(tmp_path):
    _, seen = looked("gpt2", heads=["L1H2"])
    html = seen.html()
    file = tmp_path / "look.html"
    file.write_text(html.replace("</body>", CLICKS))
    options = f"--headless --no-sandbox --disable-gpu --enable-logging=stderr --user-data-dir={tmp_path}/profile"
    line = [CHROMIUM, *options.split(), "--virtual-time-budget=2000", "--dump-dom", file.as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert "CONSOLE" not in done.stderr
    dom = done.stdout
    assert dom.count('<button type="button" aria-pressed') == 12
    assert 'id="L2H1-panel"' in dom and 'id="L1H2-panel"' not in dom
    value = unpacked(data_of(html))[9, -1, 0]
    shown = "below 0.01" if value < 0.005 else f"{value:.2f}"
    assert f"{len(seen.names) - 1} “{seen.names[-1]}” looks at 0 “&lt;bos&gt;”: {shown}" in dom
    mass = seen.means["induction"]["mass"][2, 1]
    assert re.search(rf'id="L2H1"[^>]*aria-label="L2H1, {mass:.2f}"', dom)


def test_bytes_that_are_no_character_keep_their_own_name():
    loaded = make("gpt2")
    assert loaded.tokenizer.decode(tokenizer()("é").input_ids[:1]) == "\N{REPLACEMENT CHARACTER}"
    seen = look.looked(loaded, "a", "é\nthe")
    assert seen.names[:4] == ["<bos>", "Ã", "©", "⏎"]
