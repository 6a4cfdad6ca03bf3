"""What a benchmark computed, kept as .npz files: each is written whole or not at all, by one process alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["kept", "make", "mine", "store", "stored"]


def kept(path: Path, figures: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What a file holds, made first where it is missing; None while another process makes it."""
    make(path, figures)
    return stored(path)


def stored(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    with np.load(path) as file:
        return {name: file[name] if file[name].ndim else file[name].item() for name in file.files}


def store(path: Path, figures: dict[str, Any]) -> None:
    """Writes the file whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, **figures)
    os.replace(part, path)


@contextmanager
def mine(path: Path) -> Iterator[bool]:
    """Whether this process may make the file: it is missing, and no other process is at it.

    The system takes the lock back from a process that was killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield not path.exists()


def make(path: Path, figures: Callable[[], dict[str, Any]]) -> None:
    """Make a file, unless it is there or another process makes it."""
    with mine(path) as free:
        if free:
            store(path, figures())
