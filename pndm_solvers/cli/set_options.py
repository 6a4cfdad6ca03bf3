"""The options of `pndm-solvers generate`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

import typer

from pndm_solvers.cli.command import COMPUTED, DRAWN, WRITTEN
from pndm_solvers.cli.networks import Class, Clip, Folder, Guidance, Network

__all__ = ["BATCH", "DTYPES", "SHARDS", "SHARD_IMAGES", "DeviceOf", "Wanted"]

BATCH, SHARD_IMAGES, SHARDS = 64, 1000, 48  # by default: a shard holds so many images, where there are so many shards
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Wanted:
    """The options of `generate` that determine the images, all but those of the plan."""

    num_images: Annotated[
        int | None,
        typer.Option(help="How many images; needed for a new folder.", metavar="N", min=1, rich_help_panel=DRAWN),
    ] = None
    network: Network = None
    model: Folder = None
    class_: Class = None
    guidance: Guidance = None
    clip: Clip = None
    seed: Annotated[
        int | None,
        typer.Option(
            help="Image i is drawn from this seed plus i. [default: 0]", metavar="N", min=0, rich_help_panel=DRAWN
        ),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option(
            help=f"How many images the network draws at once. [default: {BATCH}]",
            metavar="N",
            min=1,
            rich_help_panel=COMPUTED,
        ),
    ] = None
    shard_batches: Annotated[
        int | None,
        typer.Option(
            help=f"Batches in one file. [default: some {SHARD_IMAGES:,} images, fewer in small sets]",
            metavar="N",
            min=1,
            rich_help_panel=WRITTEN,
        ),
    ] = None
    as_float: Annotated[
        bool,
        typer.Option(
            "--float",
            help="Write float32 as the network draws it. [default: bytes, for pictures]",
            rich_help_panel=WRITTEN,
        ),
    ] = False
    dtype: Annotated[
        str | None,
        typer.Option(
            help=f"In which the network computes: {' or '.join(DTYPES)}. [default: {DTYPES[0]}]",
            metavar="NAME",
            rich_help_panel=COMPUTED,
        ),
    ] = None
    compile_: Annotated[
        bool,
        typer.Option("--compile", help="Compile the network with torch.compile.", rich_help_panel=COMPUTED),
    ] = False
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of each process on the CPU. [default: 1]", metavar="N", min=1, rich_help_panel=COMPUTED
        ),
    ] = None

    @property
    def empty(self) -> bool:
        """Whether none of them was given."""
        return all(getattr(self, option.name) in (None, False) for option in fields(self))


DeviceOf = Annotated[
    str | None,
    typer.Option(
        help="A torch device. [default: the GPU of each process where there are some, else cpu]",
        metavar="DEVICE",
        rich_help_panel=COMPUTED,
    ),
]
