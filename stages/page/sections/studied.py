"""Where the model comes from, under what terms, and what it is made of."""

from stages.page import sentences
from stages.page.inputs import Slot
from stages.page.page import Note, Table
from stages.page.section import Context, SlotSection


def studied(slot: Slot, context: Context) -> list:
    """Return the model's facts and the checksums of its weights."""
    model = slot.model
    architecture = f"{model.get('architecture')} ({model.get('kind')}), {model.get('parameters', 0):,} parameters"
    facts = [
        ["model", " ".join(filter(None, [model.get("name"), model.get("revision")])) + f" ({model.get('source')})"],
        ["architecture", architecture],
        ["weights", f"{model.get('stored')}; computed in {model.get('dtype')}"],
        ["licence", str(model.get("licence"))],
        ["software", ", ".join(f"{name} {version}" for name, version in sorted(model.get("versions", {}).items()))],
    ]  # fmt: skip
    if "images" in model:
        facts.append(["images", _images(model["images"])])
    elif "bos" in model:
        facts.append(
            ["first token", model["bos"] or "none: the tokenizer has no BOS, a prompt begins with its first word"]
        )
    if "proof" in model:
        facts.append(["proof", proved(model["proof"])])
    files = [[name, digest] for name, digest in sorted(model.get("files", {}).items())]
    blocks = [Note(f"{model.get('origin', '')} {sentences.anatomy(model)}"), Table([], facts)]
    if files:
        folded = f"Checksums of the weights ({len(files)} file{'s' * (len(files) > 1)})"
        blocks.append(Table(["file", "sha256"], files, folded=folded))
    return blocks


def _images(images: dict) -> str:
    """Say how a model of images reads them."""
    (height, width), (rows, columns), patch = images["size"], images["grid"], images["patch"]
    own = [f"{images[name]} {word}{'s' * (images[name] != 1)}" for name, word in
           (("class_tokens", "class token"), ("registers", "register"))]  # fmt: skip
    return (
        f"{width} x {height} pixels, in {columns} x {rows} patches of {patch[1]} x {patch[0]}; before them "
        f"{own[0]}, {own[1]}"
    )


def proved(proof: dict[str, str]) -> str:
    """Say which checks hold, and which shortcuts are not used, and why (stages/model/proof.py)."""
    holds = ", ".join(name for name, outcome in proof.items() if outcome == "ok")
    rest = "; ".join(f"{name}: {outcome}" for name, outcome in proof.items() if outcome != "ok")
    return "; ".join(filter(None, [f"at fetch, two ways agree: {holds}", rest]))


SECTION = SlotSection("model", "What was studied", 120, studied, seen=1)
