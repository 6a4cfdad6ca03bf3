"""The command line: `pndm-solvers sample` and `pndm-solvers plan`."""

from __future__ import annotations

import inspect
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pndm_solvers.base import Solver
from pndm_solvers.grid import DEFAULT_SPACING, SPACINGS
from pndm_solvers.noise import initial_noise
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.reference import NETWORK_NAMES, load_network
from pndm_solvers.schedule import SCHEDULES, NoiseSchedule
from pndm_solvers.solvers import SOLVERS

app = typer.Typer(
    help="Numerical solvers for diffusion models, compiled to plans.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

SolverName = Annotated[str, typer.Option("--solver", help=f"One of: {', '.join(SOLVERS)}.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the time grid. [default: as many as --calls allows]")]
Calls = Annotated[int | None, typer.Option(help="At most this many model calls. [default: 20]", min=1)]
SpacingName = Annotated[str, typer.Option("--spacing", help=f"One of: {', '.join(SPACINGS)}.")]
Order = Annotated[int | None, typer.Option(help="plms and pndm: the order of the formula.")]
Starter = Annotated[str | None, typer.Option(help="plms: ramp, heun or rk4.")]
Eta = Annotated[float | None, typer.Option(help="ddim: how much fresh noise, 0 to 1.")]
Variance = Annotated[str | None, typer.Option(help="ddpm: fixed_small or fixed_large.")]


@app.command()
def sample(
    network: Annotated[str, typer.Option(help=f"One of: {', '.join(NETWORK_NAMES)}.")] = "fashion",
    solver: SolverName = "plms",
    steps: Steps = None,
    calls: Calls = None,
    spacing: SpacingName = DEFAULT_SPACING,
    order: Order = None,
    starter: Starter = None,
    eta: Eta = None,
    variance: Variance = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="A class by name or number. [default: all in turn]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Scale of classifier-free guidance; 1 is none. [default: 2]")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Clip the predicted picture to ± this.")] = None,
    count: Annotated[int, typer.Option(help="How many images.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="The image grid to write.")] = Path("samples.png"),
    gif: Annotated[Path | None, typer.Option(help="Also write how the picture takes shape, as a .gif.")] = None,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
) -> None:
    """Draw images from a bundled network and write them as one picture."""
    import torch

    from pndm_solvers.images import check_writable, frames, grid_image

    check_writable(out)
    if gif is not None:
        check_writable(gif, animated=True)
        if gif.absolute() == out.absolute():
            raise ValueError(f"--out and --gif are both {gif}; one would overwrite the other")
    if guidance is not None and not math.isfinite(guidance):
        raise ValueError(f"--guidance is {guidance}; it is a finite number")
    try:
        loaded = load_network(network, device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device is {device!r}, which torch cannot use: {error}") from error
    plan = _plan(_solver(solver, loaded.schedule, order, starter, eta, variance), steps, calls, spacing)
    if any(row.stage for row in plan.rows) and plan.model_calls < 30:
        typer.echo(
            f"note: {plan.name} begins with Runge-Kutta steps, which want more than {plan.model_calls} calls; "
            f"--solver plms does not",
            err=True,
        )
    if not loaded.labels and (class_ is not None or guidance is not None):
        raise ValueError(f"the network {network!r} has no classes, so --class and --guidance mean nothing to it")
    label = torch.tensor(_labels(class_, loaded.labels, count), device=device) if loaded.labels else None
    x = torch.from_numpy(initial_noise((count, *loaded.shape), seed)).float().to(device)

    previews: list[Any] = []
    started = time.perf_counter()
    with torch.inference_mode():
        images = plan.run(
            loaded.model(label, 2.0 if guidance is None else guidance),
            x,
            prediction=Prediction(loaded.prediction, clip=clip),
            seed=seed,
            progress=True,
            callback=(lambda step: previews.append(step.x0.cpu().numpy())) if gif else None,
        )
    seconds = time.perf_counter() - started
    # In the picture class by class; image i itself is the same for any --count.
    by_class = list(range(count)) if label is None else sorted(range(count), key=label.tolist().__getitem__)
    images = images.cpu().numpy()[by_class]
    grid_image(images).save(out)
    if gif is not None:
        first, *rest = frames([*(preview[by_class] for preview in previews), images])
        first.save(gif, save_all=True, append_images=rest, duration=[120] * len(previews) + [2000], loop=0)
    files = f"{out}" if gif is None else f"{out}, {gif}"
    typer.echo(f"{network} · {plan.name} · {plan.cost()} · {seconds:.1f} s · {files}")


@app.command("plan")
def print_plan(
    solver: SolverName = "plms",
    steps: Steps = None,
    calls: Calls = None,
    spacing: SpacingName = DEFAULT_SPACING,
    order: Order = None,
    starter: Starter = None,
    eta: Eta = None,
    variance: Variance = None,
    schedule: Annotated[
        str, typer.Option(help=f"One of: {', '.join(SCHEDULES)}; or a diffusers scheduler config file.")
    ] = "linear",
    final: Annotated[str, typer.Option(help="Where it ends: clean, or first (the lowest trained level).")] = "clean",
    start: Annotated[float | None, typer.Option(help="Begin at this time.")] = None,
    stop: Annotated[float | None, typer.Option(help="End at this time; above --start for an inversion.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Print the table to which a solver compiles, without running anything."""
    if schedule in SCHEDULES:
        noise_schedule = SCHEDULES[schedule]()
    elif Path(schedule).exists():
        noise_schedule = NoiseSchedule.from_config(schedule)
    else:
        raise ValueError(f"schedule is {schedule!r}; it is {', '.join(SCHEDULES)}, or the path of a scheduler config")
    made = _solver(solver, noise_schedule, order, starter, eta, variance)
    plan = _plan(made, steps, calls, spacing, final=final, start=start, stop=stop)
    typer.echo(plan.to_json(indent=2) if json else str(plan))


def _solver(
    name: str,
    schedule: NoiseSchedule,
    order: int | None,
    starter: str | None,
    eta: float | None,
    variance: str | None,
) -> Solver:
    if name not in SOLVERS:
        raise ValueError(f"--solver is {name!r}; known are {', '.join(SOLVERS)}")
    asked = {"order": order, "starter": starter, "eta": eta, "variance": variance}
    options = {key: value for key, value in asked.items() if value is not None}
    known = inspect.signature(SOLVERS[name]).parameters
    for key in options:
        if key not in known or key in (getattr(SOLVERS[name], "keywords", None) or {}):
            raise ValueError(f"--{key} is not an option of the solver {name!r}")
    return SOLVERS[name](schedule, **options)


def _plan(solver: Solver, steps: int | None, calls: int | None, spacing: str, **cut: Any) -> Plan:
    if steps is not None and calls is not None:
        raise ValueError("pass --steps or --calls, not both")
    if steps is not None:
        return solver.plan(steps, spacing=spacing, **cut)
    return solver.plan(max_model_calls=calls or 20, spacing=spacing, **cut)


def _labels(wanted: str | None, labels: tuple[str, ...], count: int) -> list[int]:
    """One label an image: the wanted one for all, or all in turn."""
    if wanted is None:
        return [i % len(labels) for i in range(count)]
    names = {name.lower(): i for i, name in enumerate(labels)} | {str(i): i for i in range(len(labels))}
    if wanted.lower() not in names:
        raise ValueError(f"--class is {wanted!r}; known are {', '.join(f'{i} {n}' for i, n in enumerate(labels))}")
    return [names[wanted.lower()]] * count


def main() -> None:
    """The entry point: our own errors are one line, not a traceback."""
    try:
        app()
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"pndm-solvers: {error}")
