"""Images: what background patches of a ViT come to hold, and registers as dumps.

A canvas of noise with one of scikit-learn's handwritten digits (8 x 8 pixels) on it. Two questions to the patches:

    digit    the class token says the digit, patches are asked nothing: those of the background have nothing of their
             own to keep and may come to hold what is global (Darcet+ ICLR 2024, arXiv 2309.16588, of large models)
    patches  there is no class token: object patches say the digit, background patches `none`, every patch its pixels

Training and held-out digits are different ones of the 1,797; every held-out digit occurs once, on one of the places
that all digits share, so that split a and b have no digit in common.

Legend: B image, T token (class token, if any, and patches), P pixel of a patch.
"""

from functools import cache
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from sklearn.datasets import load_digits

from stages.recipes.lesson import IGNORED, Batch
from stages.recipes.states import Held, States
from stages.store.section import Count, Natural

DIGIT = 8  # pixels
CLASSES = 10
NONE = CLASSES
BLANK = 1e-3  # of an object patch, at least so much ink


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images (1797, 8, 8) in 0..1 and classes, in one fixed random order.

    Settings were tried with the order the other way round: what is held out now was then for training.
    """
    loaded = load_digits()
    order = np.random.default_rng(0).permutation(len(loaded.target))[::-1]
    return loaded.images[order] / 16, loaded.target[order].astype(np.int64)


class Patches(States):
    """Canvases of `canvas` x `canvas` pixels, cut into patches of `patch` x `patch`; noise: standard deviation.

    contrast: the model sees pixels times this; 5 brings them near standard deviation 1, as ViTs are used to. Smaller
    ones start as a small part of the states: their patches keep less of their own, and background learns less.
    jitter: the digit lies on the patch grid, moved by up to so many pixels.
    pixels: every patch also gives its own pixels back. learned: share of the digits that are for training.
    edited: background patches that are edited beside as many registers; as many as there are object patches are, too.
    """

    asks: Literal["digit", "patches"]
    canvas: Annotated[Count, Field(ge=12)] = 20
    patch: Annotated[Count, Field(ge=2)] = 4
    noise: float = Field(default=0.05, ge=0)
    contrast: float = Field(default=1.0, gt=0)
    jitter: Natural = 0
    pixels: bool = False
    learned: float = Field(default=0.6, gt=0, lt=1)
    edited: Count = 4

    @model_validator(mode="after")
    def _fits(self) -> "Patches":
        if self.canvas % self.patch or DIGIT % self.patch:
            raise ValueError(f"patch: {self.patch} divides canvas: {self.canvas} or a digit of {DIGIT} not evenly")
        return self

    @property
    def symbols(self) -> int:
        """Number of answers: the digits, and none."""
        return CLASSES + 1

    @property
    def positions(self) -> int:
        """Number of tokens: the patches, and the class token."""
        return self._across**2 + self.pooled

    @property
    def paints(self) -> int:
        """Pixels that each token reproduces."""
        return self.patch**2 if self.pixels else 0

    @property
    def side(self) -> tuple[int, int]:
        """Side of an image and of a patch, pixels."""
        return self.canvas, self.patch

    @property
    def pooled(self) -> bool:
        """Whether there is a class token."""
        return self.asks == "digit"

    @property
    def _across(self) -> int:
        return self.canvas // self.patch

    def batch(self, rng: np.random.Generator, size: int, step: int) -> Batch:
        """Draw training digits on canvases."""
        images, classes = digits()
        chosen_B = rng.integers(0, self._first, size)
        canvas_BHW, object_BT, _ = self._canvases(rng, images[chosen_B])
        labels_BT = self._labels(classes[chosen_B], object_BT)
        pixels_BTP = self._patches(canvas_BHW) if self.pixels else None
        return Batch(self.contrast * canvas_BHW, labels_BT, pixels_BTP=self._led(pixels_BTP) if self.pixels else None)

    def held_out(self, rng: np.random.Generator, count: int) -> Held:
        """Put held-out digits on canvases, each once; `count` of them, or as many as there are."""
        images, classes = digits()
        images, class_B = images[self._first :][:count], classes[self._first :][:count]
        canvas_BHW, object_BT, layout_B = self._canvases(rng, images)
        kinds_BT = np.where(object_BT, "object patch", "background patch")
        own_BTP = self._patches(canvas_BHW)
        if self.pooled:
            kinds_BT = np.concatenate([np.full((len(images), 1), "class token"), kinds_BT], axis=1)
            own_BTP = self._led(own_BTP)
        facts = {"digit": class_B}
        edited = {}
        number, most = (int((kinds_BT == f"{kind} patch").sum(1).min()) for kind in ("object", "background"))
        sizes = {"object patch": [number], "background patch": sorted({number, min(self.edited, most), most})}
        for kind, size in ((kind, size) for kind, of_kind in sizes.items() for size in of_kind):
            edited[f"{size} {kind}es"] = self._some(kinds_BT == kind, size, layout_B)
        return Held(
            self.contrast * canvas_BHW,
            self._labels(class_B, object_BT),
            kinds_BT,
            layout_B,
            facts,
            {"own pixels": own_BTP},
            edited,
        )

    def chance(self, count: int) -> dict[str, float]:
        """Return what guessing a digit gets; what the commonest answer of a patch gets depends on the canvas."""
        return {"accuracy": 1 / CLASSES} if self.pooled else {}

    @property
    def _first(self) -> int:
        """The first held-out digit."""
        return int(self.learned * len(digits()[1]))

    def _canvases(self, rng: np.random.Generator, images_BHW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return canvases, which patches (B, T) have ink of a digit, and a number per placement (B,)."""
        size, places = len(images_BHW), self._across - DIGIT // self.patch + 1
        slack = (self.canvas - DIGIT) if self.jitter else 0
        canvas_BHW = rng.normal(0, self.noise, (size, self.canvas, self.canvas))
        corner_B2 = rng.integers(0, places, (size, 2)) * self.patch
        if self.jitter:
            corner_B2 = np.clip(corner_B2 + rng.integers(-self.jitter, self.jitter + 1, (size, 2)), 0, slack)
        ink_BHW = np.zeros_like(canvas_BHW)
        rows_B1, columns_B1 = (corner_B2[:, [axis]] + np.arange(DIGIT) for axis in (0, 1))
        ink_BHW[np.arange(size)[:, None, None], rows_B1[:, :, None], columns_B1[:, None, :]] = images_BHW
        inked_BT = self._patches(ink_BHW).mean(-1) > BLANK
        if not self.jitter:  # the whole square counts: every canvas has as many object patches
            square_BHW = np.zeros_like(ink_BHW)
            square_BHW[np.arange(size)[:, None, None], rows_B1[:, :, None], columns_B1[:, None, :]] = 1
            inked_BT = self._patches(square_BHW).mean(-1) > 0
        layout_B = corner_B2[:, 0] * self.canvas + corner_B2[:, 1]
        return (canvas_BHW + ink_BHW).astype(np.float32), inked_BT, layout_B

    def _patches(self, canvas_BHW: np.ndarray) -> np.ndarray:
        """Cut into patches, (B, T, P), row by row as a ViT does."""
        size, n, p = len(canvas_BHW), self._across, self.patch
        return canvas_BHW.reshape(size, n, p, n, p).transpose(0, 1, 3, 2, 4).reshape(size, n * n, p * p)

    def _led(self, own_BTP: np.ndarray) -> np.ndarray:
        """Put the class token before the patches; its own pixels are 0."""
        return np.pad(own_BTP, ((0, 0), (int(self.pooled), 0), (0, 0))).astype(np.float32)

    def _labels(self, class_B: np.ndarray, object_BT: np.ndarray) -> np.ndarray:
        if not self.pooled:
            return np.where(object_BT, class_B[:, None], NONE)
        return np.concatenate([class_B[:, None], np.full(object_BT.shape, IGNORED)], axis=1)

    def _some(self, there_BT: np.ndarray, number: int, layout_B: np.ndarray) -> np.ndarray:
        """Return `number` positions of a kind per image, the same in all images of a layout that have it there."""
        rank_T = np.random.default_rng(1).permutation(there_BT.shape[1])
        return np.sort(np.argsort(np.where(there_BT, rank_T, 10_000), axis=1)[:, :number], axis=1)

    @property
    def remarks(self) -> str:
        """What the images are."""
        asked = (
            "The class token is asked the digit, patches are asked nothing"
            if self.pooled
            else "Patches with a part of the digit are asked which it is, those of the background answer `none`"
        )
        return (
            f"Canvases of {self.canvas} x {self.canvas} pixels of noise with one of scikit-learn's handwritten digits, "
            f"patches of {self.patch} x {self.patch}. {asked}. Digits of training, of probes' fit and of what is "
            "reported are different ones. Edits exchange states between images with the digit in the same place."
        )


LESSON = Patches
