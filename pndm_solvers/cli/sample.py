"""`pndm-solvers sample`: images from a bundled network or a diffusers checkpoint, as one picture and as arrays."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pndm_solvers.cli.batches import Drawing, draw, levels_of_states, pilot_noise
from pndm_solvers.cli.command import COMPUTED, DRAWN, SOLVED, WRITTEN
from pndm_solvers.cli.networks import (
    Class,
    Clip,
    Device,
    Folder,
    Guidance,
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
from pndm_solvers.files import make_parent, write_whole
from pndm_solvers.generation.network import advise, data_of
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction

BATCH = 64
MOST_IMAGES = 100_000  # that one picture shows
PILOT_IMAGES = 8


@grouped
def sample(
    *,
    network: Network = None,
    model: Folder = None,
    class_: Class = None,
    guidance: Guidance = None,
    clip: Clip = None,
    count: Annotated[
        int,
        typer.Option(
            help="How many images. `generate` draws more, into many files.",
            metavar="N",
            min=1,
            max=MOST_IMAGES,
            rich_help_panel=DRAWN,
        ),
    ] = 64,
    seed: Annotated[
        int,
        typer.Option(
            help="The same seed gives the same images: image i is the same for any --count.",
            metavar="N",
            min=0,
            rich_help_panel=DRAWN,
        ),
    ] = 0,
    options: SolverOptions,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Instead of --calls and --steps: the error that each image may have, as the root mean square over its "
            f"pixels, which lie in [-1, 1]; 0.02 say. A pilot run on {PILOT_IMAGES} images finds the number of calls.",
            metavar="X",
            rich_help_panel=SOLVED,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="The picture with all images, class by class; the extension names its format.",
            metavar="FILE",
            rich_help_panel=WRITTEN,
        ),
    ] = Path("samples.png"),
    npz: Annotated[
        Path | None,
        typer.Option(
            help="Also write the images as arrays for numpy.load: samples (N, C, H, W), float32 as the network draws "
            "them; and label (N,), where the network has classes.",
            metavar="FILE.npz",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    trajectory: Annotated[
        Path | None,
        typer.Option(
            help="Also write all states of the run, S + 1 for S steps, as arrays: states (S + 1, N, C, H, W), and "
            "their t, alpha and sigma (S + 1,); and label (N,), where the network has classes.",
            metavar="FILE.npz",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    gif: Annotated[
        Path | None,
        typer.Option(
            help="Also write an animation of the picture that the network sees at each model call.",
            metavar="FILE.gif",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            help="How many images are drawn at once: fewer take less memory.",
            metavar="N",
            min=1,
            rich_help_panel=COMPUTED,
        ),
    ] = BATCH,
    device: Device = "cpu",
) -> None:
    """Draw images from a bundled network, or a network of your own, and write them as one picture."""
    if tolerance is not None and (options.steps is not None or options.calls is not None):
        raise ValueError("pass --tolerance or a number of --steps or --calls, not both")
    options.check()
    files = {"--out": out, "--npz": npz, "--trajectory": trajectory, "--gif": gif}
    files = {option: path for option, path in files.items() if path is not None}
    _check_files(files)

    import torch  # takes seconds, which a mistake above should not

    loaded = load_network_of(network, model, device)
    check_picture(loaded)
    label = labels_of(loaded, class_, guidance, count, device)
    scale = scale_of(loaded, guidance)
    prediction = prediction_of(loaded, clip)
    with torch.inference_mode():
        if tolerance is None:
            plan = plan_of(options, loaded, scale, prediction)
        else:
            few = min(PILOT_IMAGES, count)
            x = pilot_noise(loaded, few, seed, device)
            plan = _plan_within(tolerance, options, loaded, label, scale, x, prediction)
        started = time.perf_counter()
        drawing = draw(
            plan,
            loaded,
            label,
            scale,
            prediction,
            count=count,
            batch=batch,
            seed=seed,
            device=device,
            previews=gif is not None,
            states=trajectory is not None,
        )
    seconds = time.perf_counter() - started
    numbers = None if label is None else label.cpu().numpy()
    _write(drawing, plan, numbers, files)
    advise(loaded, drawing.samples, plan)
    told = ", ".join(map(str, files.values()))
    typer.echo(f"{loaded.name} · {plan.name} · {plan.cost()} · {seconds:.1f} s · {told}")


def _check_files(files: Mapping[str, Path]) -> None:
    """ValueError, before the work, unless each file can be written; its folder is made."""
    from pndm_solvers.images import check_writable

    for option, path in files.items():
        if option in ("--out", "--gif"):
            try:
                check_writable(path, animated=option == "--gif")
            except ValueError as error:
                raise ValueError(f"{option}: {error}") from error
        elif path.suffix.lower() != ".npz" or path.is_dir():
            raise ValueError(f"{option} is {path}; pass the path of a file that ends in .npz")
        else:
            make_parent(path)
    for (one, path), (other, same) in combinations(files.items(), 2):
        if path.absolute() == same.absolute():
            raise ValueError(f"{one} and {other} are both {path}; one would overwrite the other")


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
    solver = options.make_solver(loaded.schedule)
    pilot = loaded.model(None if label is None else label[: len(x)], scale)
    typer.echo("pilot run for the number of calls …", err=True)
    facts = {"prediction": prediction, "spacing": options.spacing, **data_of(loaded)._asdict()}
    plan = solver.plan_within(tolerance, pilot, x, **facts)
    note_on(plan)
    return plan


def _write(drawing: Drawing, plan: Plan, label: Any, files: Mapping[str, Path]) -> None:
    """Write the files of the options; `label` is `(N,)`, or None."""
    from pndm_solvers.images import frames, grid_image

    # The pictures show the images class by class. In the arrays they stand in the order of their numbers.
    order = np.arange(len(drawing.samples)) if label is None else np.argsort(label, kind="stable")
    labels = {} if label is None else {"label": label}
    if path := files.get("--npz"):
        write_whole(path, lambda file: np.savez(file, samples=drawing.samples, **labels))
    if path := files.get("--trajectory"):
        t, alpha, sigma = np.array(levels_of_states(plan), float).T
        states: Any = drawing.states
        write_whole(path, lambda file: np.savez(file, states=states, t=t, alpha=alpha, sigma=sigma, **labels))
    grid_image(drawing.samples[order]).save(files["--out"])
    if path := files.get("--gif"):
        first, *rest = frames(batch[order] for batch in (*drawing.previews, drawing.samples))
        first.save(path, save_all=True, append_images=rest, duration=[120] * len(rest) + [2000], loop=0)
