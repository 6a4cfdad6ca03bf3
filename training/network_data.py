"""The training data of the bundled networks, from package registries."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["FASHION_FOLDER", "digits", "fashion"]

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 1,797 handwritten digits of scikit-learn: images `(1797, 1, 8, 8)` in [-1, 1], labels `(1797,)`.

    UCI "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak (1998).
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32), np.asarray(labels, np.int64)


def fashion(folder: Path = FASHION_FOLDER, split: str = "train") -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Fashion-MNIST: images `(60000, 1, 28, 28)` in [-1, 1] and labels `(60000,)`; split "t10k" has 10,000.

    Xiao, Rasul and Vollgraf (2017), © Zalando SE, MIT licence. Raises FileNotFoundError if the data set is not
    installed.
    """
    images, labels = (folder / f"{split}-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1"))
    if not images.exists():
        raise FileNotFoundError(
            f"{images} is missing; on Debian and Ubuntu: apt-get install dataset-fashion-mnist, "
            f"elsewhere pass the folder that holds the four files of Fashion-MNIST"
        )
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
    classes = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    return (pixels.reshape(-1, 1, 28, 28) / 127.5 - 1).astype(np.float32), classes.astype(np.int64)
