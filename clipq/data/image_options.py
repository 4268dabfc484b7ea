"""The options of preparing pictures; ``clipq.data.preprocessing`` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipq.errors import SettingError


@dataclass(frozen=True)
class Preprocessing:
    """What is done with a picture; the input is (pixel - mean) / std, pixels 0 .. 255.

    resize: ``warp`` to size x size as Caffe's tools do (OpenCV's bilinear, no antialiasing), ``shorter_side`` to size
        as torchvision does (Pillow's bilinear, antialiased), or ``none``.
    size: pixels, >= crop.
    pad: black pixels put around before cropping, in training only, >= 0.
    crop: rows and columns of the input, >= 1; in the middle, or at a random place in training.
    channels: their order, ``BGR`` (Caffe's) or ``RGB``.
    mean: of each channel, in that order, 0 .. 255.
    mean_file: Caffe's mean image (``.binaryproto``, BGR, size x size), in place of ``mean``; empty: none.
    std: of each channel, > 0; 1 leaves Caffe's scale.
    augmentation: in training, ``crop`` (a random place), ``resized_crop`` (torchvision's, 8 to 100 % of the area), each
        with a mirror image half of the time, or ``none``.
    skip_corrupt: leave out images that cannot be read, with a warning that names them; otherwise they are an error.  A
        run without it may go on with it, to the result that it would have had with it from the start.
    """

    resize: Literal["warp", "shorter_side", "none"] = "warp"
    size: int = 256
    pad: int = 0
    crop: int = 224
    channels: Literal["BGR", "RGB"] = "BGR"
    mean: tuple[float, ...] = (104.0, 117.0, 123.0)
    mean_file: str = ""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    augmentation: Literal["crop", "resized_crop", "none"] = "crop"
    skip_corrupt: bool = False

    def __post_init__(self) -> None:
        limits = (
            ("crop", self.crop >= 1, ">= 1"),
            ("size", self.resize == "none" or self.size >= self.crop, f">= crop = {self.crop}"),
            ("pad", self.pad >= 0, ">= 0"),
            ("mean", len(self.mean) == 3, "three numbers"),
            ("std", len(self.std) == 3 and min(self.std) > 0, "three numbers > 0"),
            ("mean_file", not self.mean_file or self._keeps_place(),
             "none, or channels = BGR, resize = warp, pad = 0 and augmentation other than resized_crop"),
        )  # fmt: skip
        for name, holds, expected in limits:
            if not holds:
                raise SettingError(f"preprocessing option {name}: expected {expected}, got {getattr(self, name)!r}")

    def _keeps_place(self) -> bool:
        """Whether a pixel of the input has its place in a mean image."""
        return self.channels == "BGR" and self.resize == "warp" and not self.pad and self.augmentation != "resized_crop"
