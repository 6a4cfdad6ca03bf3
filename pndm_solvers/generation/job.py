"""A job: the shards of a folder that are missing, made by the processes of a team."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from pndm_solvers.generation.folder import Found, begun, kept, look
from pndm_solvers.generation.manifest import MANIFEST, Settings, made_with, read_manifest, write_manifest
from pndm_solvers.generation.shards import Shard, encode, read_shard, shard_name, unfinished_name, write_shard
from pndm_solvers.generation.team import Team

__all__ = ["Job", "locked", "open_folder", "progress_bar", "seen_by_all"]

EVERY = 60.0  # seconds between the writes of an unfinished shard
PATIENCE = 600.0  # seconds without a new image, after which rank 0 makes itself what others have taken
SHARED = 60.0  # seconds in which a network's file system must show a file of another node
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_folder(folder: Path, wanted: Settings, made: Mapping[str, str], note: Callable[[str], None]) -> Settings:
    """The settings of the job in a folder, its manifest written where it has none; on rank 0 alone.

    ValueError for a job with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    theirs = read_manifest(folder)
    if theirs is None:
        with _explained(folder / MANIFEST, lambda: 4096, lambda: "nothing is lost"):
            write_manifest(folder, wanted, made)
        return wanted
    if different := list(wanted.differences(theirs)):
        told = ", ".join(f"{name} ({_shown(other)} there, {_shown(ours)} here)" for name, ours, other in different)
        cannot = "a job's number of images cannot change; " if wanted.num_images != theirs.num_images else ""
        raise ValueError(
            f"{folder} holds a job with other settings: {told}; {cannot}to go on with it give --out {folder} alone, to "
            f"begin a new one pass another folder"
        )
    before = {name: was for name, was in made_with(folder).items() if name in made and name != "date"}
    if others := [f"{name} {was}, now {made[name]}" for name, was in before.items() if made[name] != was]:
        note(f"the folder was begun with {'; '.join(others)}: later images may differ in their last bits")
    return theirs


def seen_by_all(folder: Path, job: str, host: str) -> Settings:
    """The settings that rank 0 wrote, as the other processes see them. ValueError where they do not."""
    end = time.monotonic() + SHARED
    while True:
        theirs = read_manifest(folder)
        if theirs is not None and theirs.job == job:
            return theirs
        if time.monotonic() > end:
            there = "is missing here" if theirs is None else "is of another job here"
            raise ValueError(
                f"{folder.absolute() / MANIFEST} {there}, but rank 0 wrote it on {host}; all nodes need one shared "
                f"folder under the same path"
            )
        time.sleep(0.5)


@contextmanager
def locked(folder: Path) -> Any:
    """Within, no other job may begin in the folder; the system ends that with the process. ValueError where one has."""
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return
    with open(folder / MANIFEST, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another command draws into {folder} at this moment; wait for its end or stop it, or pass another "
                f"folder"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield


class Job:
    """The shards of one job and the processes that make them.

    Attributes
    ----------
    folder, settings, team:
        Where the shards are, what they hold, and who makes them.
    found:
        What rank 0 found in the folder; None in other processes.
    """

    def __init__(self, folder: Path, settings: Settings, team: Team) -> None:
        self.folder, self.settings, self.team = folder, settings, team
        self.found: Found | None = None
        self.bar: Any = None

    def clean(self) -> Found:
        """Look at the folder, on rank 0, and remove what is damaged or left over. ValueError for others' files."""
        self.found = found = look(self.folder, self.settings)
        if found.foreign:
            told = ", ".join(f"{name} ({why})" for name, why in found.foreign.items())
            raise ValueError(
                f"{self.folder} holds files of another job: {told}; move them away, or pass another folder"
            )
        for name in (*found.damaged, *found.left_over):
            (self.folder / name).unlink(missing_ok=True)
        return found

    def room(self) -> str:
        """What to say before the work where the disk has not enough room; else nothing."""
        found = self.found or look(self.folder, self.settings)
        needed = (self.settings.num_images - found.images) * self.settings.image_bytes
        needed += len(found.wanted) * 2048 + (self.settings.num_images > found.images) * 4096
        free = shutil.disk_usage(self.folder).free
        if needed <= free:
            return ""
        return f"the images still to come take {needed:,} bytes, and the disk of {self.folder} has {free:,} free"

    def run(self, draw: Callable[[int], Shard], bar: Any = None) -> None:
        """Make shards until none is missing. `draw` makes a batch; the bar counts the images of all processes."""
        self.bar = bar
        while (number := self.team.take()) is not None:
            self.make(number, draw)
        if self.team.rank == 0:
            self._wait(draw)
        self._count(0)  # so that the bar ends at its end
        self.team.leave()

    def make(self, number: int, draw: Callable[[int], Shard]) -> None:
        """Make a shard, from where it was left; whatever ends this, the finished batches are kept."""
        first, end = self.settings.span(number)
        unfinished = self.folder / unfinished_name(number)
        parts: list[Shard] = []
        with suppress(FileNotFoundError):  # another process that made the same shard has removed it
            parts = [read_shard(unfinished)] if begun(self.folder, self.settings, number) else []
        done, written = sum(len(part.images) for part in parts), len(parts)
        self._count(done)
        at = time.monotonic()
        try:
            while done < end - first:
                parts.append(draw((first + done) // self.settings.batch))
                done += len(parts[-1].images)
                self._count(len(parts[-1].images))
                if done < end - first and time.monotonic() - at > EVERY:
                    self._write(unfinished, parts)
                    at, written = time.monotonic(), len(parts)
            self._write(self.folder / shard_name(number), parts)
        except BaseException:
            finished = parts if done < end - first else parts[:-1]
            if len(finished) > written:
                with suppress(OSError):
                    self._write(unfinished, finished)
            raise
        unfinished.unlink(missing_ok=True)

    def _wait(self, draw: Callable[[int], Shard]) -> None:
        """Wait until the others have made what they took. What they do not make, this process does.

        A shard that two processes make is the same twice, so that is safe. The folder decides, not the counter: it
        also knows of shards that were made before a restart.
        """
        seen, at = None, time.monotonic()
        while missing := self._missing():
            now = self._count(0), len(missing)
            if now != seen:
                seen, at = now, time.monotonic()
            if time.monotonic() - at > PATIENCE:
                for number in missing:
                    self.make(number, draw)
            time.sleep(0.3)

    def _missing(self) -> list[int]:
        names = set(os.listdir(self.folder))
        return [number for number in self.team.missing if shard_name(number) not in names]

    def _count(self, images: int) -> int:
        total = self.team.count(images)
        if self.bar is not None and not self.bar.disable:
            self.bar.update(min(self.bar.initial + total, self.bar.total) - self.bar.n)
        return total

    def _write(self, path: Path, parts: list[Shard]) -> None:
        labels = [part.label for part in parts if part.label is not None]
        images = np.concatenate([part.images for part in parts])
        shard = Shard(images, np.concatenate(labels) if labels else None, parts[0].first)
        job = self.settings.job
        with _explained(path, lambda: len(encode(shard, job)), lambda: kept(self.folder, self.settings)):
            write_shard(path, shard, job)


@contextmanager
def _explained(path: Path, needed: Callable[[], int], stays: Callable[[], str]) -> Any:
    """Within, a full disk is an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            f"{path} could not be written ({error.strerror}): it takes {needed():,} bytes, and the disk has {free:,} "
            f"free; {stays()}; make room, then give the same command again to go on"
        ) from error


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def progress_bar(settings: Settings, found: Found, name: str) -> Any:
    """A bar of the images of all processes. It moves every half minute where it is written to a file."""
    from tqdm.auto import tqdm

    seconds = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=settings.num_images,
        initial=found.images,
        unit="img",
        desc=name,
        mininterval=seconds,
        disable=not found.wanted,
    )
