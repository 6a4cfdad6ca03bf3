"""`pndm-solvers sample`: images from a bundled network or a diffusers checkpoint, written as one picture."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pndm_solvers.cli.options import SolverOptions, grouped
from pndm_solvers.noise import initial_noise
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.reference import NETWORK_NAMES, load_network

# All images are one batch. The bundled fashion network takes half a megabyte per image, so that these take 5 GB.
MOST_IMAGES = 10_000
PILOT_IMAGES = 8


@grouped
def sample(
    *,
    network: Annotated[
        str | None, typer.Option(help=f"A bundled network: {', '.join(NETWORK_NAMES)}. [default: fashion]")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --network: a folder that a diffusers pipeline was saved to, with a UNet2DModel and a "
            "scheduler. Only the scheduler's betas, prediction type and clipping are used."
        ),
    ] = None,
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
    clip: Annotated[
        float | None,
        typer.Option(help="Clip the predicted picture to ± this; inf turns clipping off. [default: as in --model]"),
    ] = None,
    count: Annotated[int, typer.Option(help="How many images, all in one batch.", min=1, max=MOST_IMAGES)] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="The image grid to write.")] = Path("samples.png"),
    gif: Annotated[Path | None, typer.Option(help="Also write the stages of the picture, as an animated .gif.")] = None,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
) -> None:
    """Draw images from a bundled network, or a diffusers checkpoint, and write them as one picture."""
    import torch

    if tolerance is not None and (options.steps is not None or options.calls is not None):
        raise ValueError("pass --tolerance or a number of --steps or --calls, not both")
    _check_pictures(out, gif)
    loaded = _load(network, model, device)
    label = _labels(loaded, class_, guidance, count, device)
    scale = guidance if guidance is not None else 2.0 if model is None else 1.0
    x = torch.from_numpy(initial_noise((count, *loaded.shape), seed)).float().to(device)
    prediction = _prediction(loaded, clip)
    with torch.inference_mode():
        plan = _plan(options, tolerance, loaded, label, scale, x, prediction)
        previews: list[Any] = []
        started = time.perf_counter()
        images = plan.run(
            loaded.model(label, scale),
            x,
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


def _load(name: str | None, folder: Path | None, device: str) -> Any:
    """The network to draw from, a `ReferenceNetwork` or a saved one with the same attributes, on the device."""
    import torch

    if name is not None and folder is not None:
        raise ValueError("pass --network or --model, not both")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device is {device!r}, which torch cannot use: {error}") from error
    if folder is None:
        return load_network("fashion" if name is None else name, device)
    from pndm_solvers.adapters.diffusers.networks import load_saved_network

    loaded = load_saved_network(folder, device)
    if loaded.shape[0] not in (1, 3):
        raise ValueError(
            f"the network {loaded.name!r} draws images of {loaded.shape[0]} channels, and a picture has 1 or 3; "
            f"images of 4 channels are most often latents, which need the decoder of their own pipeline"
        )
    return loaded


def _labels(loaded: Any, wanted: str | None, guidance: float | None, count: int, device: str) -> Any:
    """One label per image `(count,)`, of the wanted class or of all classes in turn; None without classes."""
    import torch

    if guidance is not None and not math.isfinite(guidance):
        raise ValueError(f"--guidance is {guidance}; it is a finite number")
    if not loaded.labels:
        if wanted is not None or guidance is not None:
            raise ValueError(f"the network {loaded.name!r} has no classes, so leave --class and --guidance out")
        return None
    if wanted is None:
        return torch.arange(count, device=device) % len(loaded.labels)
    numbers = {name.lower(): i for i, name in enumerate(loaded.labels)}
    numbers |= {str(i): i for i in range(len(loaded.labels))}
    if wanted.lower() not in numbers:
        named = ", ".join(f"{i} {name}" for i, name in enumerate(loaded.labels) if name != str(i))
        raise ValueError(f"--class is {wanted!r}; known are {named or f'0 to {len(loaded.labels) - 1}'}")
    return torch.full((count,), numbers[wanted.lower()], device=device)


def _prediction(loaded: Any, clip: float | None) -> Prediction:
    prediction = loaded.prediction if isinstance(loaded.prediction, Prediction) else Prediction(loaded.prediction)
    if clip is not None:
        return Prediction(prediction.type, clip=clip)
    if prediction.clip is not None or prediction.threshold is not None:
        typer.echo("note: the predicted picture is clipped as in the checkpoint; --clip inf turns that off", err=True)
    return prediction


def _plan(
    options: SolverOptions,
    tolerance: float | None,
    loaded: Any,
    label: Any,
    scale: float,
    x: Any,
    prediction: Prediction,
) -> Plan:
    """The plan of a number of steps or calls, or of as many calls as a pilot run finds for the tolerance."""
    solver = options.make_solver(loaded.schedule)
    if tolerance is None:
        plan = options.make_plan(solver, prediction=prediction, sample_shape=loaded.shape)
    else:
        typer.echo("pilot run for the number of calls …", err=True)
        pilot = loaded.model(None if label is None else label[:PILOT_IMAGES], scale)
        plan = solver.plan_within(tolerance, pilot, x[:PILOT_IMAGES], prediction=prediction, spacing=options.spacing)
    if any(row.stage for row in plan.rows) and plan.model_calls < 30:
        typer.echo(
            f"note: {plan.name} begins with Runge-Kutta steps, which rarely give good samples at {plan.model_calls} "
            f"calls; --solver plms does",
            err=True,
        )
    return plan


def _write(batches: list[Any], out: Path, gif: Path | None) -> None:
    """Write the last batch of images as a picture, and all of them as an animation."""
    from pndm_solvers.images import frames, grid_image

    grid_image(batches[-1]).save(out)
    if gif is not None:
        first, *rest = frames(batches)
        first.save(gif, save_all=True, append_images=rest, duration=[120] * len(rest) + [2000], loop=0)
