"""How a model of images reads them: which of its tokens are patches, measured, and which are its own.

A vision transformer cuts an image into patches, row by row, and puts tokens of its own before them: class tokens and,
in some, registers (Darcet+ ICLR 2024, https://arxiv.org/abs/2309.16588). Which tokens are patches, and of which pixels,
is seen at the first block's input by changing pixels patch by patch; which of the others are registers, only the
config can say (`num_register_tokens`, the last ones).

Legend: B row, C channel, H height, W width, T token, D residual width.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from stages.families.family import CLASS, REGISTER, Tokens
from stages.model import placed
from stages.model.observe import SAME
from stages.store.errors import UserError

if TYPE_CHECKING:  # loaded where images are read only
    from PIL.Image import Image
    from transformers import BaseImageProcessor


@dataclass(frozen=True)
class Images:
    """How images are read: by which processor, in patches of so many pixels, after which tokens.

    size: of what the processor gives, height and width in pixels; patch: of a patch.
    """

    processor: BaseImageProcessor
    size: tuple[int, int]
    patch: tuple[int, int]
    class_tokens: int
    registers: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.patch[0], self.size[1] // self.patch[1]

    def recorded(self) -> dict[str, Any]:
        """Return what data/models/<slot>.json says of it."""
        named = {"size": list(self.size), "patch": list(self.patch), "grid": list(self.grid)}
        return named | {"class_tokens": self.class_tokens, "registers": self.registers}

    def encode(self, prompt: Any) -> Tokens:
        """Return the tokens of a row of the prompts table whose text is an image, and its pixels."""
        if not prompt.text.startswith("data:image/"):
            raise UserError(f"{prompt.id}: no image: a model of images reads no text")
        pixels_CHW = _pixels(self.processor, picture(prompt.text))
        rows, columns = self.grid
        if pixels_CHW.shape[1:] != self.size:
            raise UserError(
                f"{prompt.id}: the image processor makes {pixels_CHW.shape[1:]} of it, {self.size} of others"
            )
        ids = np.r_[[CLASS] * self.class_tokens, [REGISTER] * self.registers, np.arange(rows * columns)].astype(int)
        return Tokens(prompt.id, prompt.role, ids, ids < 0, pixels=pixels_CHW, columns=columns)


def picture(uri: str) -> Image:
    """Return the picture of a data URI, in colours."""
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def _pixels(processor: BaseImageProcessor, image: Image) -> np.ndarray:
    return np.asarray(processor(images=[image], return_tensors="np")["pixel_values"][0], dtype=np.float32)


@torch.no_grad()
def layout(model: PreTrainedModel, block: str, processor: BaseImageProcessor) -> Images:
    """Find which tokens are the patches of an image as the processor makes it.

    block: path of the first block. Row b + 1 of a batch changes the patches p with bit b set in p + 1, so that the rows
    in which a token changes spell the patch that it reads. Raises `UserError` unless each patch is read by one token,
    in order, after tokens that read none.
    """
    from PIL import Image

    name, config = type(model).__name__, model.config
    try:
        pixels_CHW = _pixels(processor, Image.new("RGB", (256, 256), "gray"))
    except Exception as error:  # each processor stumbles in its own way over what its file says
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{name}: its image processor makes no pixels of a picture ({reason})") from error
    size, patch = pixels_CHW.shape[1:], _pair(getattr(config, "patch_size", 0))
    if not all(patch) or size[0] % patch[0] or size[1] % patch[1]:
        raise UserError(f"{name}: patches of {patch} pixels (its config) do not fill images of {size} (its processor)")
    number_HW = np.arange(size[0] // patch[0] * (size[1] // patch[1])).reshape(size[0] // patch[0], -1)
    number_HW = number_HW.repeat(patch[0], 0).repeat(patch[1], 1)
    count = int(number_HW.max()) + 1
    bits = count.bit_length()
    change_CHW = np.random.default_rng(0).normal(size=pixels_CHW.shape).astype(np.float32)
    rows = [pixels_CHW, *(pixels_CHW + change_CHW * ((number_HW + 1) >> bit & 1) for bit in range(bits))]
    kept: list[torch.Tensor] = []

    def stop(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        kept.append(args[0] if args else kwargs["hidden_states"])
        raise _Stopped

    handle = model.get_submodule(block).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(pixel_values=torch.from_numpy(np.stack(rows).astype(np.float32)).to(placed.device(model), model.dtype))
    except _Stopped:
        pass
    except Exception as error:  # each model says in its own way that it reads images of another size
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{name}: it does not run on what its image processor gives ({reason})") from error
    finally:
        handle.remove()
    token_T = np.array([])
    if kept and kept[0].dim() == 3:
        change_bT = (kept[0][1:] - kept[0][:1]).abs().amax(2).cpu().numpy()
        token_T = ((change_bT > SAME * change_bT.max()) * 2 ** np.arange(bits)[:, None]).sum(0) - 1
    own = len(token_T) - count
    if own < 0 or not np.array_equal(token_T, np.r_[np.full(own, -1), np.arange(count)]):
        raise UserError(f"{name}: its tokens are not the patches of the image, row by row, after tokens of its own")
    registers = getattr(config, "num_register_tokens", 0) or 0
    if registers > own:
        raise UserError(f"{name}: {registers} registers (its config), but {own} tokens that are no patches")
    return Images(processor, size, patch, own - registers, registers)


class _Stopped(Exception):
    """The first block was reached: nothing more is needed."""


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, list | tuple) else (value, value)
    return int(height), int(width)
