"""`pndm-solvers sample`: images from a bundled network or a diffusers checkpoint, written as one picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pndm_solvers.cli.networks import (
    Clip,
    Device,
    Folder,
    Network,
    check_picture,
    labels_of,
    load_network_of,
    note_on,
    plan_of,
    prediction_of,
    scale_of,
)
from pndm_solvers.cli.options import SolverOptions, grouped
from pndm_solvers.generation.network import noise_size
from pndm_solvers.noise import initial_noise
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction

# All images are one batch. The bundled fashion network takes half a megabyte per image, so that these take 5 GB.
MOST_IMAGES = 10_000
PILOT_IMAGES = 8


@grouped
def sample(
    *,
    network: Network = None,
    model: Folder = None,
    options: SolverOptions,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help=f"Instead of --steps and --calls: the target error per pixel. A pilot run on {PILOT_IMAGES} images "
            "finds the number of calls."
        ),
    ] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="A class by name or number. [default: all in turn]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Scale of classifier-free guidance; 1 is none. [default: 2; --model: 1]")
    ] = None,
    clip: Clip = None,
    count: Annotated[int, typer.Option(help="How many images, all in one batch.", min=1, max=MOST_IMAGES)] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="The image grid to write.")] = Path("samples.png"),
    gif: Annotated[Path | None, typer.Option(help="Also write the stages of the picture, as an animated .gif.")] = None,
    device: Device = "cpu",
) -> None:
    """Draw images from a bundled network, or a diffusers checkpoint, and write them as one picture."""
    import torch

    if tolerance is not None and (options.steps is not None or options.calls is not None):
        raise ValueError("pass --tolerance or a number of --steps or --calls, not both")
    _check_pictures(out, gif)
    loaded = load_network_of(network, model, device)
    check_picture(loaded)
    label = labels_of(loaded, class_, guidance, count, device)
    scale = scale_of(loaded, guidance)
    x = torch.from_numpy(initial_noise((count, *loaded.shape), seed)).float().to(device)
    prediction = prediction_of(loaded, clip)
    with torch.inference_mode():
        plan = (
            plan_of(options, loaded, scale, prediction)
            if tolerance is None
            else _plan_within(tolerance, options, loaded, label, scale, x, prediction)
        )
        previews: list[Any] = []
        started = time.perf_counter()
        images = plan.run(
            loaded.model(label, scale),
            x * noise_size(plan.levels[0]),
            prediction=prediction,
            seed=seed,
            progress=True,
            callback=(lambda step: previews.append(step.x0.cpu().numpy())) if gif else None,
        )
    seconds = time.perf_counter() - started
    # The picture shows the images class by class. Image i itself is the same for any --count.
    by_class = list(range(count)) if label is None else sorted(range(count), key=label.tolist().__getitem__)
    _write([batch[by_class] for batch in (*previews, images.cpu().numpy())], out, gif)
    files = f"{out}" if gif is None else f"{out}, {gif}"
    typer.echo(f"{loaded.name} · {plan.name} · {plan.cost()} · {seconds:.1f} s · {files}")


def _check_pictures(out: Path, gif: Path | None) -> None:
    from pndm_solvers.images import check_writable

    check_writable(out)
    if gif is not None:
        check_writable(gif, animated=True)
        if gif.absolute() == out.absolute():
            raise ValueError(f"--out and --gif are both {gif}; one would overwrite the other")


def _plan_within(
    tolerance: float,
    options: SolverOptions,
    loaded: Any,
    label: Any,
    scale: float,
    x: Any,
    prediction: Prediction,
) -> Plan:
    """The plan of as many calls as a pilot run finds for the tolerance."""
    solver, top = options.make_solver(loaded.schedule), loaded.schedule.level(loaded.schedule.t_max)
    typer.echo("pilot run for the number of calls …", err=True)
    pilot = loaded.model(None if label is None else label[:PILOT_IMAGES], scale)
    start = x[:PILOT_IMAGES] * noise_size(top)
    plan = solver.plan_within(tolerance, pilot, start, prediction=prediction, spacing=options.spacing)
    note_on(plan)
    return plan


def _write(batches: list[Any], out: Path, gif: Path | None) -> None:
    """Write the last batch of images as a picture, and all of them as an animation."""
    from pndm_solvers.images import frames, grid_image

    grid_image(batches[-1]).save(out)
    if gif is not None:
        first, *rest = frames(batches)
        first.save(gif, save_all=True, append_images=rest, duration=[120] * len(rest) + [2000], loop=0)
