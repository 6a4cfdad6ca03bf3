"""What a folder of shards holds: which are intact, missing, damaged or of another job, and what killed writers left."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pndm_solvers.files import PARTIAL
from pndm_solvers.generation.manifest import MANIFEST, Settings
from pndm_solvers.generation.shards import Stamp, shard_name, stamp_of, unfinished_name

__all__ = ["Found", "begun", "kept", "look"]

NAME = re.compile(r"shard-(\d{5,})(\.unfinished)?\.npz")


@dataclass
class Found:
    """What `look` found. Names are those of files in the folder.

    Attributes
    ----------
    intact, missing:
        The numbers of shards whose every byte is right, and of those without a file.
    damaged, foreign:
        By the name of the file, what is wrong with it: its bytes, or that it belongs to another job.
    unfinished:
        By the number of a shard that is not complete, how many of its images are kept.
    left_over:
        Files that nobody needs: of writers that were killed, and the beginnings of complete shards.
    """

    settings: Settings
    intact: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    unfinished: dict[int, int] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether the folder holds every shard intact, and nothing else of a job."""
        return not (self.missing or self.damaged or self.foreign or self.unfinished or self.left_over)

    @property
    def wanted(self) -> list[int]:
        """The numbers of the shards that must be made."""
        return [number for number in range(self.settings.shards) if number not in set(self.intact)]

    @property
    def images(self) -> int:
        """How many images the intact shards hold."""
        return sum(end - first for first, end in map(self.settings.span, self.intact))


def look(folder: Path, settings: Settings) -> Found:
    """Read every file of a job's folder, to the last byte."""
    found = Found(settings)
    names = {path.name for path in folder.iterdir()}
    for number in range(settings.shards):
        if shard_name(number) not in names:
            found.missing.append(number)
        elif _check(folder / shard_name(number), found, Stamp(settings.job, *settings.span(number))):
            found.intact.append(number)
    intact = set(found.intact)
    for name in sorted(names):
        if name.startswith((".shard-", f".{MANIFEST}.")) and name.endswith(PARTIAL):
            found.left_over.append(name)
        elif matched := NAME.fullmatch(name):
            number = int(matched[1])
            if number >= settings.shards:
                found.foreign[name] = f"this job has {settings.shards} shards"
            elif matched[2] and number in intact:
                found.left_over.append(name)
            elif matched[2] and (count := begun(folder, settings, number, found)):
                found.unfinished[number] = count
    return found


def kept(folder: Path, settings: Settings) -> str:
    """How far a job has come, for messages. It looks at names alone."""
    names, numbers = set(os.listdir(folder)), range(settings.shards)
    whole = sum(shard_name(number) in names for number in numbers)
    some = sum(unfinished_name(number) in names for number in numbers)
    told = f"{whole} of {settings.shards} shards are complete in {folder}"
    return f"{told}, and the finished batches of {some} more are kept" if some else told


def begun(folder: Path, settings: Settings, number: int, found: Found | None = None) -> int:
    """How many images of a shard its unfinished file holds; 0 without such a file, or for one that is damaged."""
    path, (first, end) = folder / unfinished_name(number), settings.span(number)
    try:
        stamp = stamp_of(path.read_bytes())
    except FileNotFoundError:
        return 0
    except ValueError as error:
        if found is not None:
            found.damaged[path.name] = str(error)
        return 0
    count = stamp.end - first
    if stamp[:2] == (settings.job, first) and count % settings.batch == 0 and 0 < count < end - first:
        return count
    if found is not None:
        found.foreign[path.name] = "its images are of another job"
    return 0


def _check(path: Path, found: Found, wanted: Stamp) -> bool:
    """Whether a shard's file is intact; else it is entered in `found`."""
    try:
        stamp = stamp_of(path.read_bytes())
    except ValueError as error:
        found.damaged[path.name] = str(error)
        return False
    if stamp.job != wanted.job:
        found.foreign[path.name] = "its images are of another job"
    elif stamp != wanted:
        found.damaged[path.name] = f"it holds the images from {stamp.first}, so it was renamed"
    return stamp == wanted
