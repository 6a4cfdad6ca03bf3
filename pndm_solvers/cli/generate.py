"""`pndm-solvers generate` and `verify`: a set of many images in a folder, also by many processes under torchrun."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pndm_solvers.arguments import choice
from pndm_solvers.cli.command import WRITTEN, in_options
from pndm_solvers.cli.networks import (
    is_picture,
    labels_of,
    load_network_of,
    plan_of,
    prediction_of,
    scale_of,
)
from pndm_solvers.cli.options import SolverOptions, grouped
from pndm_solvers.cli.set_options import BATCH, DTYPES, SHARD_IMAGES, SHARDS, DeviceOf, Wanted
from pndm_solvers.generation.draw import Drawer, type_of
from pndm_solvers.generation.folder import Found, kept, look
from pndm_solvers.generation.job import Job, locked, open_folder, progress_bar, seen_by_all
from pndm_solvers.generation.manifest import MANIFEST, Settings, read_manifest
from pndm_solvers.generation.network import parameters_digest, said_of_data
from pndm_solvers.generation.shards import shard_name, unfinished_name
from pndm_solvers.generation.stop import Stopped, stoppable
from pndm_solvers.generation.team import RankZeroError, Team
from pndm_solvers.prediction import Prediction
from pndm_solvers.version import __version__

EXPECTED = (ValueError, ImportError, OSError, FloatingPointError)  # whose message is enough
TOGETHER = 10.0  # seconds in which the processes of a job make the same mistake


@grouped
def generate(
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="The folder to write. For a folder that was begun, --out alone is enough to go on.",
            metavar="DIR",
            rich_help_panel=WRITTEN,
        ),
    ],
    wanted: Wanted,
    options: SolverOptions,
    device: DeviceOf = None,
) -> None:
    """Draw any number of images into a folder of .npz files, with as many processes as torchrun starts.

    A command that was stopped or killed goes on when it is given again, also with another number of processes. The
    images are the same to the last bit.
    """
    with _reported(out) as team:
        _draw(out, team, wanted, options, device)


def verify(
    folder: Annotated[Path, typer.Argument(help="The folder that generate wrote.", metavar="DIR")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged, and make it and what is missing again.")
    ] = False,
    device: DeviceOf = None,
) -> None:
    """Read every byte of a set that `generate` wrote, and list the files that are missing, damaged or of another job.

    The exit status is 0 for a set that is whole, else 1.
    """
    with _reported(folder) as team:
        settings = _manifest(folder)
        if team.rank == 0:
            found = look(folder, settings)
            typer.echo(_told(found, folder, repair))
            if not repair or found.foreign:
                team.fail("verify found what it cannot repair")
                raise typer.Exit(0 if found.whole else 1)
        elif not repair:
            return
        _draw(folder, team, Wanted(), SolverOptions(), device)


def _draw(out: Path, team: Team, wanted: Wanted, options: SolverOptions, device: str | None) -> None:
    """Make what is missing in the folder, by the options or, without any, by its manifest."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out is {out}, which is a file; pass the path of a folder")
    device = _own_device(device)
    alone = wanted.empty and options == SolverOptions()
    there = _manifest(out) if alone else read_manifest(out)
    loaded = _load(wanted, there, device)
    if team.rank != 0:
        job = Job(out, seen_by_all(out, *team.follow()), team)
        _check_network(job.settings, loaded, device)
        job.run(Drawer(job.settings, loaded, device))
        return
    if alone and there is not None:
        _check_network(there, loaded, device)
        settings = there
    else:
        settings = _settings(wanted, options, loaded, device, there)
    settings = open_folder(out, settings, _made(device), _note)
    with locked(out):
        job = Job(out, settings, team)
        found, draw = job.clean(), Drawer(settings, loaded, device)
        if len(found.wanted) < team.size and found.wanted:
            _note(f"{len(found.wanted)} shards are to be made by {team.size} processes, so some have nothing to do")
        if short := job.room():
            _note(f"{short}; make room before it is full, or stop and choose another disk")
        team.publish(settings.job, found.wanted)
        began = time.perf_counter()
        with progress_bar(settings, found, loaded.name) as bar:
            job.run(draw, bar)
    seconds, made = time.perf_counter() - began, settings.num_images - found.images
    what = f"{settings.count_of_all} in {out} · {loaded.name} · {draw.plan.name} · {draw.plan.cost()}"
    rate = f"{made / seconds:,.{0 if made > 10 * seconds else 2}f} {settings.noun}/s" if made else "all were there"
    typer.echo(f"{what} · {rate} · check them: pndm-solvers verify {out}")


def _settings(
    wanted: Wanted, options: SolverOptions, loaded: Any, device: str, there: Settings | None = None
) -> Settings:
    """The settings that the options say; what they do not say is as in the job that is there."""
    import json

    import torch

    num_images = wanted.num_images or (there and there.num_images)
    if num_images is None:
        raise ValueError("pass --num-images, the number of images to draw")
    shape, kind = tuple(loaded.shape), torch.device(device).type
    one = labels_of(loaded, wanted.class_, wanted.guidance, 1, "cpu")
    prediction, scale = prediction_of(loaded, wanted.clip), scale_of(loaded, wanted.guidance)
    batch = wanted.batch or BATCH
    most = -(-num_images // batch) // SHARDS
    plan = plan_of(options, loaded, scale, prediction)
    default = Prediction(prediction.type)
    told = {name: value for name, value in vars(prediction).items() if value != getattr(default, name)}
    source = f"--network {loaded.name}" if wanted.model is None else f"--model {_lasting(wanted.model)}"
    settings = Settings(
        num_images=num_images,
        batch=batch,
        shard_batches=wanted.shard_batches or max(1, min(round(SHARD_IMAGES / batch), most)),
        seed=wanted.seed or 0,
        source=source,
        parameters=parameters_digest(loaded),
        shape=shape,
        classes=len(loaded.labels),
        plan=json.loads(plan.to_json()),
        prediction={"type": prediction.type} | told,
        guidance=float(scale),
        class_=None if wanted.class_ is None else int(one[0]),
        dtype=choice("--dtype", wanted.dtype or DTYPES[0], DTYPES),
        compile=wanted.compile_,
        device=kind,
        threads=(wanted.threads or 1) if kind == "cpu" else None,
        values="uint8" if is_picture(loaded) and not wanted.as_float else "float32",
        data=said_of_data(loaded),
    )
    if there is None:
        return settings
    said = {one.name.strip("_") for one in fields(wanted) if getattr(wanted, one.name) not in (None, False)}
    unsaid = {"batch", "shard_batches", "seed", "dtype", "compile", "threads"} - said
    unsaid |= set() if "as_float" in said else {"values"}
    if settings.source == there.source:  # else these are the other network's own
        unsaid |= {"guidance"} - said
        unsaid |= set() if "class" in said else {"class_"}
        unsaid |= set() if "clip" in said else {"prediction"}
        unsaid |= {"plan"} if options == SolverOptions() else set()
    return replace(settings, **{name: getattr(there, name) for name in unsaid})


def _load(wanted: Wanted, there: Settings | None, device: str) -> Any:
    if there is None or wanted.network is not None or wanted.model is not None:
        return load_network_of(wanted.network, wanted.model, device, pictures=False)
    option, _, value = there.source.partition(" ")
    if option == "--network":
        return load_network_of(value, None, device)
    return load_network_of(None, Path(value), device, pictures=False)


def _check_network(settings: Settings, loaded: Any, device: str) -> None:
    """ValueError unless the network, which this process loaded, is the one of the settings, on the same device."""
    import torch

    if torch.device(device).type != settings.device:
        raise ValueError(
            f"the images of this job are drawn on {settings.device}, and this process has --device {device}; other "
            f"devices round otherwise, so begin a new job in another folder"
        )
    if settings.parameters is not None and parameters_digest(loaded) != settings.parameters:
        raise ValueError(
            f"the parameters of {settings.source} have changed since the job was begun; restore them, or begin a new "
            f"job in another folder"
        )
    if (said := said_of_data(loaded)) != settings.data:
        raise ValueError(
            f"{settings.source} says of its data {said or 'nothing'}, and when the job was begun "
            f"{dict(settings.data) or 'nothing'}; restore that, or begin a new job in another folder"
        )


def _manifest(folder: Path) -> Settings:
    settings = read_manifest(folder)
    if settings is None:
        raise ValueError(
            f"there is no {folder / MANIFEST} to go on with; begin with --num-images and the other options of generate"
        )
    return settings


def _lasting(model: Path) -> str:
    """The path of a folder from anywhere; the name of a function as it is."""
    return str(model.resolve()) if model.exists() else str(model)


def _own_device(given: str | None) -> str:
    """The device of this process. Where several processes of a node are to use its GPUs, each has its own."""
    import torch

    if given not in (None, "cuda"):
        return str(given)
    if given is None and not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def _made(device: str) -> dict[str, str]:
    import torch

    versions = {"pndm_solvers": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return versions | {"device": type_of(device), "date": str(datetime.date.today())}


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)


def _told(found: Found, folder: Path, repair: bool) -> str:
    """What `verify` prints."""
    settings = found.settings
    if found.whole:
        return f"{settings.count_of_all} in {folder}, all digests right"
    lines = [f"{span}: missing" for span in _spans([n for n in found.missing if n not in found.unfinished])]
    lines += [f"{name}: damaged: {why}" for name, why in found.damaged.items()]
    lines += [f"{name}: of another job: {why}" for name, why in found.foreign.items()]
    for number, images in found.unfinished.items():
        first, end = settings.span(number)
        lines.append(f"{unfinished_name(number)}: unfinished, {images} of {end - first} {settings.noun}")
    lines += [f"{name}: left over, not needed" for name in found.left_over]
    told = f"{len(found.intact)} of {settings.shards} shards in {folder} are intact"
    if found.foreign:
        then = "; move the files of another job away first"
    else:
        then = "" if repair else f"; make the others: pndm-solvers verify {folder} --repair"
    return "\n".join([*sorted(lines), told + then])


def _spans(numbers: Sequence[int]) -> Iterator[str]:
    """The names of shards, those that follow each other as one entry."""
    # Numbers that follow each other are as far ahead of their places in the list.
    for _, group in groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        first, *_, last = [shard_name(number) for _, number in group] * 2
        yield first if first == last else f"{first} to {last}"


@contextmanager
def _reported(folder: Path) -> Iterator[Team]:
    """Within, this process is one of a team, and signals end it so that nothing is lost.

    Rank 0 speaks for all. Another process reports an error unless rank 0 has failed in the same way.
    """
    team: Team | None = None
    try:
        with stoppable():
            team = Team()
            try:
                yield team
            except typer.Exit:
                raise
            except Exception as error:
                _report(error, team)
                raise
    except Stopped as stopped:
        if team is None or team.rank == 0:
            typer.echo(f"stopped: {_kept(folder)}; give the same command again to go on", err=True)
        raise typer.Exit(stopped.status) from stopped


def _report(error: Exception, team: Team) -> None:
    """Raises typer.Exit where an error needs no report beside those that are printed here."""
    text = in_options(error)
    if memory := type(error).__name__ == "OutOfMemoryError":  # torch's own, a RuntimeError
        text = f"a batch does not fit into the device's memory; pass a smaller --batch and another folder ({text})"
    if team.rank == 0:
        with suppress(OSError):  # of a store that is gone
            team.fail(text)
        if not memory:
            return
    elif isinstance(error, RankZeroError) or _same_on_rank_0(team, text):
        raise typer.Exit(1) from error
    if memory or isinstance(error, EXPECTED):
        typer.echo(f"pndm-solvers: {f'rank {team.rank}: ' if team.rank else ''}{text}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"pndm-solvers: rank {team.rank} failed:", err=True)


def _same_on_rank_0(team: Team, text: str) -> bool:
    """Whether rank 0 ends with the same error, as all processes do after a mistake in the command."""
    end = time.monotonic() + TOGETHER
    with suppress(OSError):
        while time.monotonic() < end and not team.began():
            if team.failure() == text:
                return True
            time.sleep(0.1)
        return team.failure() == text
    return False


def _kept(folder: Path) -> str:
    with suppress(OSError, ValueError):
        settings = read_manifest(folder)
        if settings is not None:
            return kept(folder, settings)
    return "nothing was drawn yet"
