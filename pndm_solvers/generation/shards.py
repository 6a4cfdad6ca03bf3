"""Shards: some thousand images as one .npz file, which NumPy reads, and which shows every changed byte.

The comment of the zip archive says which job's images these are, and ends with the SHA-256 of all bytes before it.
"""

from __future__ import annotations

import re
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.files import write_whole

__all__ = ["Shard", "encode", "read_shard", "shard_name", "stamp_of", "unfinished_name", "write_shard"]

FORMAT = "pndm_solvers.shard/1"
UNKNOWN = b"0" * 64  # stands for the digest while it is computed
STAMP = re.compile(rb"pndm_solvers\.shard/1 job=([0-9a-f]{64}) first=(\d{1,18}) end=(\d{1,18}) sha256=([0-9a-f]{64})\Z")
LONGEST_STAMP = 256


class Stamp(NamedTuple):
    """What the comment of a shard says: its job, and the numbers of its first image and of the one after its last."""

    job: str
    first: int
    end: int


class Shard(NamedTuple):
    """Some images with consecutive numbers.

    Attributes
    ----------
    images:
        `(n, H, W, C)` uint8, or `(n, …)` float32 in the network's own shape.
    label:
        `(n,)` int64, or None for a network without classes.
    first:
        The number of the first image.
    """

    images: NDArray[Any]
    label: NDArray[np.int64] | None
    first: int


def shard_name(number: int) -> str:
    """The file name of a shard."""
    return f"shard-{number:05}.npz"


def unfinished_name(number: int) -> str:
    """The file name of a shard's first batches."""
    return f"shard-{number:05}.unfinished.npz"


def encode(shard: Shard, job: str) -> memoryview:
    """The bytes of a shard's file. They hold no clock: equal images give equal bytes."""
    arrays: dict[str, Any] = {"images" if shard.images.dtype == np.uint8 else "samples": shard.images}
    if shard.label is not None:
        arrays["label"] = shard.label
    buffer = BytesIO()
    np.savez(buffer, **arrays, first=np.int64(shard.first))
    with ZipFile(buffer, "a") as archive:
        text = f"{FORMAT} job={job} first={shard.first} end={shard.first + len(shard.images)} sha256="
        archive.comment = text.encode() + UNKNOWN
    raw = buffer.getbuffer()
    end = len(raw) - len(UNKNOWN)
    raw[end:] = sha256(raw[:end]).hexdigest().encode()
    return raw


def write_shard(path: Path, shard: Shard, job: str) -> None:
    """Write a shard's file whole or not at all. OSError where that fails, a full disk say."""
    raw = encode(shard, job)
    write_whole(path, lambda file: file.write(raw))


def stamp_of(raw: bytes) -> Stamp:
    """What the comment of a file says. ValueError where any byte of the file is not as it was written."""
    found = STAMP.search(raw[-LONGEST_STAMP:])
    if found is None:
        raise ValueError("it was cut short, or altered at its end")
    job, first, end, digest = found.groups()
    if sha256(memoryview(raw)[: len(raw) - len(digest)]).hexdigest().encode() != digest:
        raise ValueError("its SHA-256 does not match its bytes")
    return Stamp(job.decode(), int(first), int(end))


def read_shard(path: Path) -> Shard:
    """The images in a file, where its digest is right. ValueError for a damaged file, OSError for no file."""
    raw = Path(path).read_bytes()
    try:
        stamp_of(raw)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no whole shard: {error}; pndm-solvers verify finds such files") from error
    with np.load(BytesIO(raw), allow_pickle=False) as file:
        images = file["images" if "images" in file.files else "samples"]
        return Shard(images, file["label"] if "label" in file.files else None, int(file["first"]))
