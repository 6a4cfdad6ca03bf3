"""Images in [-1, 1] as pictures for people (Pillow)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pndm_solvers.files import make_parent

__all__ = ["check_writable", "frames", "grid_image", "pixels"]


def pixels(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """`(B, C, H, W)` images in [-1, 1] as `(B, H, W, C)` bytes, clipped and rounded."""
    return np.clip(np.rint((images + 1) * 127.5), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def grid_image(images: NDArray[np.floating], side: int = 720) -> Image.Image:
    """`(B, C, H, W)` images in [-1, 1], C 1 or 3, in a near-square grid of about `side` pixels."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, side // (columns * width))
    gap = 1
    page = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 96, np.uint8)
    for i, image in enumerate(pixels(images)):
        y, x = (gap + index * (size + gap) for index, size in zip(divmod(i, columns), (height, width), strict=True))
        page[y : y + height, x : x + width] = image
    picture = Image.fromarray(page[:, :, 0] if channels == 1 else page)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def check_writable(path: Path, animated: bool = False) -> None:
    """Raise ValueError unless a picture can be written to `path`. Its folder is made, if there is none."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass the path of a file, such as {path / 'samples.png'}")
    if animated and path.suffix.lower() != ".gif":
        raise ValueError(f"{path.name} is the path of an animation; its extension must be .gif")
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(
            f"{path.name} has no extension of a picture that Pillow can write; pass a name such as {path.stem}.png"
        )
    make_parent(path)


def frames(batches: Iterable[NDArray[np.floating]]) -> Iterator[Image.Image]:
    """One image grid per batch, in the palette mode of a GIF."""
    return (grid_image(batch, side=480).convert("P") for batch in batches)
