"""The command line: `pndm-solvers sample`, `plan`, `order` and `compare`."""

from __future__ import annotations

import inspect
import json as json_
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pndm_solvers.analysis import (
    GRIDS,
    ORDER_STEPS,
    PROBLEMS,
    Curve,
    compare,
    exact_problem,
    network_problem,
    observed_order,
)
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
Weights = Annotated[str | None, typer.Option(help="plms: exact or classical.")]
Eta = Annotated[float | None, typer.Option(help="ddim: how much fresh noise, 0 to 1.")]
Variance = Annotated[str | None, typer.Option(help="ddpm: fixed_small or fixed_large.")]
ScheduleName = Annotated[
    str, typer.Option(help=f"One of: {', '.join(SCHEDULES)}; or a diffusers scheduler config file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead; a picture only with --out.")]

SEVERAL = "several by commas or by repeating the option"
DETERMINISTIC = [name for name in SOLVERS if name != "ddpm"]
COMPARED = ("ddim", "plms", "plms-classical", "pndm")
CALLS = (5, 8, 10, 15, 20, 50)

T = TypeVar("T")


@app.command()
def sample(
    network: Annotated[
        str | None, typer.Option(help=f"A bundled one: {', '.join(NETWORK_NAMES)}. [default: fashion]")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="In the place of --network: a folder that a diffusers pipeline was saved to, of a UNet2DModel and a "
            "scheduler. Of the latter the betas, prediction type and clipping are used."
        ),
    ] = None,
    solver: SolverName = "plms",
    steps: Steps = None,
    calls: Calls = None,
    spacing: SpacingName = DEFAULT_SPACING,
    order: Order = None,
    starter: Starter = None,
    weights: Weights = None,
    eta: Eta = None,
    variance: Variance = None,
    tolerance: Annotated[
        float | None, typer.Option(help="As many calls as this error per pixel takes, by a pilot on 8 images.")
    ] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="A class by name or number. [default: all in turn]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Scale of classifier-free guidance; 1 is none. [default: 2; --model: 1]")
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(help="Clip the predicted picture to ± this; inf is not at all. [default: as --model says]"),
    ] = None,
    count: Annotated[int, typer.Option(help="How many images.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="The image grid to write.")] = Path("samples.png"),
    gif: Annotated[Path | None, typer.Option(help="Also write how the picture takes shape, as a .gif.")] = None,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
) -> None:
    """Draw images from a bundled network, or a diffusers checkpoint, and write them as one picture."""
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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device is {device!r}, which torch cannot use: {error}") from error
    loaded = _network(network, model, device)
    if not loaded.labels and (class_ is not None or guidance is not None):
        raise ValueError(f"the network {loaded.name!r} has no classes, so --class and --guidance mean nothing to it")
    label = torch.tensor(_labels(class_, loaded.labels, count), device=device) if loaded.labels else None
    scale = guidance if guidance is not None else 2.0 if model is None else 1.0
    answer, pilot = (loaded.model(of, scale) for of in (label, None if label is None else label[:8]))
    x = torch.from_numpy(initial_noise((count, *loaded.shape), seed)).float().to(device)
    prediction = loaded.prediction if isinstance(loaded.prediction, Prediction) else Prediction(loaded.prediction)
    if clip is not None:
        prediction = Prediction(prediction.type, clip=clip)
    elif prediction.clip is not None or prediction.threshold is not None:
        typer.echo("note: the predicted picture is clipped as the checkpoint says; --clip inf leaves it", err=True)

    made = _solver(solver, loaded.schedule, order, starter, weights, eta, variance)
    if tolerance is None:
        plan = _plan(made, steps, calls, spacing)
    elif steps is not None or calls is not None:
        raise ValueError("pass --tolerance or a number of --steps or --calls, not both")
    else:
        typer.echo("pilot run for the number of calls …", err=True)
        with torch.inference_mode():
            plan = made.plan_within(tolerance, pilot, x[:8], prediction=prediction, spacing=spacing)
    if any(row.stage for row in plan.rows) and plan.model_calls < 30:
        typer.echo(
            f"note: {plan.name} begins with Runge-Kutta steps, which want more than {plan.model_calls} calls; "
            f"--solver plms does not",
            err=True,
        )
    previews: list[Any] = []
    started = time.perf_counter()
    with torch.inference_mode():
        images = plan.run(
            answer,
            x,
            prediction=prediction,
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
    typer.echo(f"{loaded.name} · {plan.name} · {plan.cost()} · {seconds:.1f} s · {files}")


@app.command("plan")
def print_plan(
    solver: SolverName = "plms",
    steps: Steps = None,
    calls: Calls = None,
    spacing: SpacingName = DEFAULT_SPACING,
    order: Order = None,
    starter: Starter = None,
    weights: Weights = None,
    eta: Eta = None,
    variance: Variance = None,
    schedule: ScheduleName = "linear",
    final: Annotated[str, typer.Option(help="Where it ends: clean, or first (the lowest trained level).")] = "clean",
    start: Annotated[float | None, typer.Option(help="Begin at this time.")] = None,
    stop: Annotated[float | None, typer.Option(help="End at this time; above --start for an inversion.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Print the table to which a solver compiles, without running anything."""
    made = _solver(solver, _schedule(schedule), order, starter, weights, eta, variance)
    plan = _plan(made, steps, calls, spacing, final=final, start=start, stop=stop)
    typer.echo(plan.to_json(indent=2) if json else str(plan))


@app.command("order")
def print_orders(
    solver: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(DETERMINISTIC)}; {SEVERAL}. [default: all]")
    ] = None,
    problem: Annotated[str, typer.Option(help=f"One of: {', '.join(PROBLEMS)}.")] = "gaussian",
    schedule: ScheduleName = "linear",
    grid: Annotated[str, typer.Option(help=f"One of: {', '.join(GRIDS)}.")] = "uniform",
    steps: Annotated[
        list[str] | None,
        typer.Option(help=f"Numbers of steps; {SEVERAL}. [default: {','.join(map(str, ORDER_STEPS))}]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The plot to write. [default: order.png]")] = None,
    json: Json = False,
) -> None:
    """Measure how fast each solver's error falls with the number of steps, against an exact flow."""
    numbers = sorted(set(_numbers("--steps", steps))) or list(ORDER_STEPS)
    if len(numbers) < 2:
        raise ValueError(f"--steps is {numbers[0]}; an order is seen in two numbers of steps or more")
    _known("--problem", problem, PROBLEMS)
    _known("--grid", grid, GRIDS)
    noise_schedule = _schedule(schedule)
    names = _several(solver) or DETERMINISTIC
    for name in names:
        _known("--solver", name, DETERMINISTIC)
    solvers = [_solver(name, noise_schedule) for name in names]
    picture = _picture(out, "order.png", json)
    distribution = PROBLEMS[problem]()
    found = _finished(
        solvers, lambda solver: observed_order(solver, distribution, grid=GRIDS[grid], steps=numbers), problem
    )
    title = f"Distance to the exact flow of {problem} ({schedule} schedule, {grid} grid)"
    if picture is not None:
        from pndm_solvers.plots import plot_orders

        plot_orders(found, title).savefig(picture, dpi=150)
    if json:
        facts = {"problem": problem, "schedule": schedule, "grid": grid}
        typer.echo(json_.dumps(facts | {"solvers": [asdict(result) for result in found]}, indent=2, allow_nan=False))
        return
    typer.echo(f"{title}, root mean square, by number of steps")
    rows = [
        (result.name, str(result.declared), f"{result.observed:.2f}", *(f"{error:.1e}" for error in result.errors))
        for result in found
    ]
    typer.echo(_table([("solver", "declared", "observed", *map(str, numbers)), *rows]))
    typer.echo(f"observed: the slope of the errors in a log-log plot; {picture}")


@app.command("compare")
def print_comparison(
    solver: Annotated[
        list[str] | None,
        typer.Option(help=f"Of {', '.join(DETERMINISTIC)}; {SEVERAL}. [default: {','.join(COMPARED)}]"),
    ] = None,
    spacing: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(SPACINGS)}; {SEVERAL}. [default: {DEFAULT_SPACING}]")
    ] = None,
    calls: Annotated[
        list[str] | None,
        typer.Option(help=f"Budgets of model calls; {SEVERAL}. [default: {','.join(map(str, CALLS))}]"),
    ] = None,
    problem: Annotated[str, typer.Option(help=f"One of: {', '.join((*PROBLEMS, *NETWORK_NAMES))}.")] = "ring",
    schedule: Annotated[str | None, typer.Option(help="As in order; a network has its own. [default: linear]")] = None,
    starts: Annotated[int, typer.Option(help="From how many starts.", min=1)] = 32,
    out: Annotated[Path | None, typer.Option(help="The plot to write. [default: compare.png]")] = None,
    json: Json = False,
) -> None:
    """Measure the error of solvers on time grids against model calls, where the right end is known."""
    numbers = sorted(set(_numbers("--calls", calls))) or list(CALLS)
    _known("--problem", problem, (*PROBLEMS, *NETWORK_NAMES))
    if schedule is not None and problem in NETWORK_NAMES:
        raise ValueError(f"the network {problem!r} has its own schedule, so --schedule means nothing to it")
    spacings = _several(spacing) or [DEFAULT_SPACING]
    for name in spacings:
        _known("--spacing", name, SPACINGS)
    schedule = schedule or "linear"
    noise_schedule = _schedule(schedule)
    names = _several(solver) or COMPARED
    for name in names:
        _known("--solver", name, DETERMINISTIC)
    picture = _picture(out, "compare.png", json)
    if problem in NETWORK_NAMES:
        measured = network_problem(problem, starts, finals=["clean"], progress=True)
        schedule, what = None, f"the limit of the network {problem}"
    else:
        measured = exact_problem(problem, noise_schedule, starts)
        what = f"the exact end of {problem} ({schedule} schedule)"
    pairs = list(product([_solver(name, measured.schedule) for name in names], spacings))
    curves = _finished(pairs, lambda pair: compare(measured, [pair[0]], [pair[1]], numbers)[0], problem)
    title = f"Distance to {what}, median of {starts} starts"
    if picture is not None:
        from pndm_solvers.plots import plot_curves

        plot_curves(curves, title, "root-mean-square distance").savefig(picture, dpi=150)
    if json:
        facts = {"problem": problem, "schedule": schedule, "starts": starts}
        typer.echo(json_.dumps(facts | {"curves": [_finite(asdict(c)) for c in curves]}, indent=2, allow_nan=False))
        return
    typer.echo(f"{title}, root mean square, by model calls")
    typer.echo(_table([("solver, spacing", *map(str, numbers)), *_marked(curves)]))
    typer.echo(f"* the lowest of its column; {picture}")


def _network(name: str | None, folder: Path | None, device: str) -> Any:
    """What to draw from, with the surface of a `ReferenceNetwork`."""
    if folder is None:
        return load_network("fashion" if name is None else name, device)
    if name is not None:
        raise ValueError("pass --network or --model, not both")
    try:
        from pndm_solvers.adapters.diffusers.networks import load_saved_network
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise
        raise ImportError("--model needs diffusers: pip install 'pndm_solvers[demo,diffusers]'") from error
    loaded = load_saved_network(folder, device)
    if loaded.shape[0] not in (1, 3):
        raise ValueError(
            f"the network {loaded.name!r} draws images of {loaded.shape[0]} channels, and a picture has 1 or 3; "
            f"with 4 they are most often the latents of another pipeline, whose decoder must follow"
        )
    return loaded


def _schedule(name: str) -> NoiseSchedule:
    if name in SCHEDULES:
        return SCHEDULES[name]()
    if Path(name).exists():
        return NoiseSchedule.from_config(name)
    raise ValueError(f"schedule is {name!r}; it is {', '.join(SCHEDULES)}, or the path of a scheduler config")


def _solver(
    name: str,
    schedule: NoiseSchedule,
    order: int | None = None,
    starter: str | None = None,
    weights: str | None = None,
    eta: float | None = None,
    variance: str | None = None,
) -> Solver:
    _known("--solver", name, SOLVERS)
    asked = {"order": order, "starter": starter, "weights": weights, "eta": eta, "variance": variance}
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
        named = ", ".join(f"{i} {name}" for i, name in enumerate(labels) if name != str(i))
        raise ValueError(f"--class is {wanted!r}; known are {named or f'0 to {len(labels) - 1}'}")
    return [names[wanted.lower()]] * count


def _known(option: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"{option} is {value!r}; known are {', '.join(known)}")


def _several(values: Iterable[str] | None) -> list[str]:
    """Each once, whether given by commas or by repeating an option."""
    return list(dict.fromkeys(word.strip() for value in values or () for word in value.split(",")))


def _numbers(option: str, values: Iterable[str] | None) -> list[int]:
    words = _several(values)
    if not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(f"{option} is {','.join(words)!r}; it is whole numbers of at least 1, such as 5,8,10")
    return [int(word) for word in words]


def _picture(out: Path | None, default: str, json: bool) -> Path | None:
    """Where the plot goes, found writable before the work begins; nowhere where a machine asks for JSON alone."""
    if out is None and json:
        return None
    import pndm_solvers.plots  # noqa: F401 — says now what it would need later
    from pndm_solvers.images import check_writable

    out = Path(default) if out is None else out
    check_writable(out)
    return out


def _finished(jobs: Sequence[Any], work: Callable[[Any], T], title: str) -> list[T]:
    """What `work` makes of each job, with a bar on stderr; after Ctrl-C, of those that were finished."""
    from tqdm.auto import tqdm

    found: list[T] = []
    try:
        for job in tqdm(jobs, desc=title, leave=False):
            found.append(work(job))
    except KeyboardInterrupt:
        if not found:
            raise
        typer.echo(f"interrupted: {len(found)} of {len(jobs)} measured", err=True)
    return found


def _marked(curves: Sequence[Curve]) -> list[tuple[str, ...]]:
    lowest = [min(column) for column in zip(*(curve.median for curve in curves), strict=True)]
    return [
        (
            curve.name,
            *(f"{e:.1e}{'*' if e == least < math.inf else ' '}" for e, least in zip(curve.median, lowest, strict=True)),
        )
        for curve in curves
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    name, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join("  ".join([row[0].ljust(name), *map(str.rjust, row[1:], widths)]).rstrip() for row in rows)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Infinite errors as null, which is all that strict JSON has for them."""
    errors = {key: [error if math.isfinite(error) else None for error in values[key]] for key in ("median", "mean")}
    return values | errors


def main() -> None:
    """The entry point: our own errors and warnings are one line, without a traceback and a place in the code."""
    warnings.formatwarning = lambda message, *_, **__: f"pndm-solvers: {message}\n"
    try:
        app()
    except (ValueError, ImportError, OSError, FloatingPointError) as error:
        sys.exit(f"pndm-solvers: {error}")
