"""The network that a command draws from, its classes, its prediction and its plan, as its options say."""

from __future__ import annotations

import importlib
import math
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pndm_solvers import generation
from pndm_solvers.advice import raised_here
from pndm_solvers.arguments import shown
from pndm_solvers.cli.command import COMPUTED, DRAWN
from pndm_solvers.cli.options import SolverOptions
from pndm_solvers.generation.network import data_of
from pndm_solvers.grid import default_start
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.reference import NETWORK_NAMES, ReferenceNetwork, load_network
from pndm_solvers.rule import SHORT

__all__ = [
    "Class",
    "Clip",
    "Device",
    "Folder",
    "Guidance",
    "Network",
    "check_picture",
    "labels_of",
    "load_network_of",
    "note_on",
    "plan_of",
    "prediction_of",
    "scale_of",
]

FITTED_CALLS = 10  # of the plan by default

Network = Annotated[
    str | None,
    typer.Option(
        help=f"A bundled network: {', '.join(NETWORK_NAMES)}. [default: fashion]", metavar="NAME", rich_help_panel=DRAWN
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        help="Instead of --network: a folder that a diffusers pipeline was saved to, with a UNet2DModel and a "
        "scheduler, of which only the betas, prediction type and clipping are used; or module:function, a function "
        "of your own that returns a pndm_solvers.generation.Network.",
        metavar="FOLDER|MODULE:FUNCTION",
        rich_help_panel=DRAWN,
    ),
]
Class = Annotated[
    str | None,
    typer.Option(
        "--class", help="A class by name or number. [default: all in turn]", metavar="CLASS", rich_help_panel=DRAWN
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Scale of classifier-free guidance; 1 is none. [default: 2 for a bundled network with classes, else 1]",
        metavar="X",
        rich_help_panel=DRAWN,
    ),
]
Clip = Annotated[
    float | None,
    typer.Option(
        help="Clip the predicted picture to ± this at each call; inf turns clipping off. [default: as in --model]",
        metavar="X",
        rich_help_panel=DRAWN,
    ),
]
Device = Annotated[
    str, typer.Option(help="A torch device, such as cpu or cuda.", metavar="DEVICE", rich_help_panel=COMPUTED)
]


def load_network_of(name: str | None, folder: Path | None, device: str, *, pictures: bool = True) -> Any:
    """The network to draw from, a `ReferenceNetwork` or another one with the same attributes, on the device.

    A saved network must draw pictures, unless `pictures` is False. ValueError for one that cannot be loaded.
    """
    import torch

    if name is not None and folder is not None:
        raise ValueError("pass --network or --model, not both")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device is {device!r}, which torch cannot use: {error}") from error
    if folder is None:
        return load_network("fashion" if name is None else name, device)
    if not folder.exists() and (named := re.fullmatch(r"([\w.]+):([\w.]+)", str(folder))):
        return _made_by(named[1], named[2], device)
    if not folder.exists():
        raise ValueError(
            f"--model is {folder}, and there is no such folder; pass one that a diffusers pipeline was saved to, or "
            f"module:function, a function of your own that returns a network"
        )
    from pndm_solvers.adapters.diffusers.networks import load_saved_network

    loaded = load_saved_network(folder, device)
    if pictures:
        check_picture(loaded)
    return loaded


def is_picture(loaded: Any) -> bool:
    """Whether the network draws pictures, of 1 channel or 3 and, for all that it says of its data, in [-1, 1]."""
    return len(loaded.shape) == 3 and loaded.shape[0] in (1, 3) and not _beyond(loaded)


def _beyond(loaded: Any) -> bool:
    """Whether the network says that its data reach beyond ±1; its range is up to two deviations."""
    mean, size = data_of(loaded)
    return size > 2 or (mean is not None and np.abs(mean).max() > 1)


def check_picture(loaded: Any) -> None:
    """ValueError unless the network draws pictures."""
    if is_picture(loaded):
        return
    if len(loaded.shape) != 3:
        raise ValueError(
            f"the network {loaded.name!r} draws samples of shape {tuple(loaded.shape)}, and a picture is (channels, "
            f"height, width); generate writes any shape"
        )
    if _beyond(loaded):
        raise ValueError(
            f"the network {loaded.name!r} says that its data reach beyond ±1, where a picture ends; generate writes "
            f"any numbers"
        )
    raise ValueError(
        f"the network {loaded.name!r} draws images of {loaded.shape[0]} channels, and a picture has 1 or 3; images of "
        f"4 channels are most often latents, which need the decoder of their own pipeline"
    )


def _made_by(module: str, function: str, device: str) -> Any:
    """What a function of the caller's returns, with or without the device as its argument, as a network."""
    import inspect

    spec = f"--model is {module}:{function}"
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made: Any = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{spec}, but {module} cannot be imported ({error}); run the command in the folder that holds it, or "
            f"install it"
        ) from error
    for part in function.split("."):
        if not hasattr(made, part):
            raise ValueError(f"{spec}, but {module} has no {function}; define it, without arguments or with a device")
        made = getattr(made, part)
    if callable(made) and not hasattr(made, "schedule"):
        call: Any = made
        try:
            made = call(device) if inspect.signature(call).parameters else call()
        except (TypeError, ValueError) as error:
            if not raised_here(error):
                raise
            raise ValueError(f"{spec}: {error}") from error
    if all(hasattr(made, name) for name in ("model", "shape", "schedule", "prediction", "labels", "name")):
        return made
    if not callable(made) or not hasattr(made, "schedule") or not hasattr(made, "shape"):
        raise ValueError(
            f"{spec}, which gave {shown(made)}; return a pndm_solvers.generation.Network, or a module "
            f"with the attributes schedule and shape"
        )
    known = ("prediction", "labels", "unconditional", "name", "data_mean", "data_range")
    given = {name: value for name in known if (value := getattr(made, name, None)) is not None}
    network: Any = made
    try:
        return generation.Network(network, network.schedule, network.shape, **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{spec}: {error}") from error


def scale_of(loaded: Any, guidance: float | None) -> float:
    """The scale of guidance: 2 for a bundled network with classes, where nothing was said."""
    if guidance is not None:
        return guidance
    return 2.0 if isinstance(loaded, ReferenceNetwork) and loaded.labels else 1.0


def labels_of(loaded: Any, wanted: str | None, guidance: float | None, count: int, device: str) -> Any:
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


def prediction_of(loaded: Any, clip: float | None) -> Prediction:
    """What the network predicts, clipped as `--clip` says, or as its checkpoint does."""
    prediction = loaded.prediction if isinstance(loaded.prediction, Prediction) else Prediction(loaded.prediction)
    if clip is not None:
        if not clip > 0:
            raise ValueError(f"--clip is {clip:g}; it must be above 0, and inf turns clipping off")
        return Prediction(prediction.type, clip=clip)
    if prediction.clip is not None or prediction.threshold is not None:
        typer.echo("note: the predicted picture is clipped as in the checkpoint; --clip inf turns that off", err=True)
    return prediction


def plan_of(options: SolverOptions, loaded: Any, scale: float, prediction: Prediction) -> Plan:
    """The plan of a number of steps or calls.

    Where no method is named, it is the one that was fitted to a bundled network, if there is one of so many calls.
    """
    unsaid = options.steps is None and not options.plan and not options.named_method
    if unsaid and prediction == Prediction(prediction.type) and isinstance(loaded, ReferenceNetwork):
        calls = options.calls or FITTED_CALLS
        for plan in fitted.plans if (fitted := loaded.fitted(scale)) else ():
            if plan.model_calls == calls:
                return plan
    solver = options.make_solver(loaded.schedule)
    size = data_of(loaded).data_range
    facts: dict[str, Any] = {"prediction": prediction, "sample_shape": loaded.shape, "data_range": size}
    try:
        plan = options.make_plan(solver, **facts)
    except ValueError as error:
        if not options.plan:
            raise
        raise ValueError(
            f"--plan: {error}; the network is {loaded.name!r}, --network or --model names another"
        ) from error
    first = plan.levels[0].ratio
    if options.plan and size > 1 and first < default_start(loaded.schedule, **facts, steps=SHORT).ratio / 2:
        typer.echo(
            f"note: {plan.name} begins at σ/α = {first:.3g}, where data that reach ±{size:g} show through the noise; "
            f"fit a plan anew, now that the network says how far they reach",
            err=True,
        )
    note_on(plan)
    return plan


def note_on(plan: Plan) -> None:
    """Prints a note where a plan begins with Runge-Kutta steps and is short."""
    if any(row.stage for row in plan.rows) and plan.model_calls < 30:
        typer.echo(
            f"note: {plan.name} begins with Runge-Kutta steps, which rarely give good samples at {plan.model_calls} "
            f"calls; --solver plms does",
            err=True,
        )
