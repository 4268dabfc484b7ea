"""From a picture to a network's input: as Caffe does it for ImageNet, and as torchvision's recipes do."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from clipq.data.image_options import Preprocessing
from clipq.errors import DataError

#: Of torchvision's random resized crop: share of the area, and width / height.
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
#: A picture's longer side is at most so many times the shorter one, which sets the scale: memory grows with it.
LONGEST = 100


def prepare(
    image: Image.Image, options: Preprocessing, mean: np.ndarray, rng: np.random.Generator | None = None
) -> torch.Tensor:
    """The network's input for a picture.

    Args:
        image: RGB.
        mean: [3], or [size, size, 3] of a mean image, in the order of ``options.channels``.
        rng: for augmentation; None prepares the picture as for a test.

    Returns:
        float32 [3, crop, crop].
    Raises:
        DataError: the picture is smaller than the crop, or too thin to be scaled by its shorter side.
    """
    if rng is not None and options.augmentation == "resized_crop":
        pixels = np.asarray(random_resized_crop(image, options.crop, rng))
    else:
        pixels = resized(image, options)
    if rng is not None and options.pad:
        pixels = np.pad(pixels, ((options.pad, options.pad), (options.pad, options.pad), (0, 0)))
    top, left = (_offset(length, options, rng) for length in pixels.shape[:2])
    window = np.s_[top : top + options.crop, left : left + options.crop]
    pixels = pixels[window] if options.channels == "RGB" else pixels[window][..., ::-1]
    x = (pixels.astype(np.float32) - (mean[window] if mean.ndim == 3 else mean)) / np.asarray(options.std, np.float32)
    if rng is not None and options.augmentation != "none" and rng.random() < 0.5:
        x = x[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1), dtype=np.float32))


def resized(image: Image.Image, options: Preprocessing) -> np.ndarray:
    """uint8 [height, width, 3] after ``options.resize``."""
    if options.resize == "warp":
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        x = functional.interpolate(x, (options.size, options.size), mode="bilinear", align_corners=False)
        return x[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    if options.resize == "shorter_side":
        width, height = image.size
        short = min(width, height)
        if max(width, height) > LONGEST * short:
            raise DataError(
                f"expected a picture at most {LONGEST} times as long as wide, got {width} x {height} pixels"
            )
        size = (options.size * width // short, options.size * height // short)
        image = image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image)


def random_resized_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A part of the picture of random area and aspect, scaled to size x size; the middle of it where ten draws did not
    fit into the picture."""
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*AREA)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            break
    else:
        aspect = min(max(width / height, ASPECT[0]), ASPECT[1])
        w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
        left, top = (width - w) // 2, (height - h) // 2
    return image.crop((left, top, left + w, top + h)).resize((size, size), Image.Resampling.BILINEAR)


def _offset(length: int, options: Preprocessing, rng: np.random.Generator | None) -> int:
    """Where the crop starts; in the middle as Caffe rounds it (down), or torchvision (to the nearest)."""
    spare = length - options.crop
    if spare < 0:
        raise DataError(f"expected a picture of {options.crop} pixels or more after resizing, got {length}")
    if rng is not None and options.augmentation == "crop":
        return int(rng.integers(spare + 1))
    return round(spare / 2) if options.resize == "shorter_side" else spare // 2
