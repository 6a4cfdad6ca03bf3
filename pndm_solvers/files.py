"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PARTIAL", "make_parent", "write_whole"]

# How the names end that files have while they are written. They begin with a dot.
PARTIAL = ".partial"


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """What `write` writes to the open file that it receives stands under `path`, all of it, or nothing changes.

    A reader finds the earlier file or this one, never a part. A symbolic link stays one. OSError names `path`.
    """
    # A name of its own, so that two writers to one path do not mix. A process killed with SIGKILL leaves it behind.
    path = type(path)(os.path.realpath(path))
    partial = path.with_name(f".{path.name[:50]}.{os.urandom(16).hex()}{PARTIAL}")  # names have at most 255 bytes
    try:
        with open(partial, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def make_parent(path: Path) -> None:
    """Make the folder of a file that is to be written, if there is none. ValueError where that fails."""
    folder = path.absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the folder {folder} for {path.name} cannot be made ({error.strerror}); pass another path"
        ) from error
