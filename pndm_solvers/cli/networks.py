"""The network that a command draws from, its classes and its prediction, as its options say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from pndm_solvers.prediction import Prediction
from pndm_solvers.reference import NETWORK_NAMES, load_network

__all__ = ["Clip", "Device", "Folder", "Network", "labels_of", "load_network_of", "prediction_of"]

Network = Annotated[str | None, typer.Option(help=f"A bundled network: {', '.join(NETWORK_NAMES)}. [default: fashion]")]
Folder = Annotated[
    Path | None,
    typer.Option(
        help="Instead of --network: a folder that a diffusers pipeline was saved to, with a UNet2DModel and a "
        "scheduler. Only the scheduler's betas, prediction type and clipping are used."
    ),
]
Clip = Annotated[
    float | None,
    typer.Option(help="Clip the predicted picture to ± this; inf turns clipping off. [default: as in --model]"),
]
Device = Annotated[str, typer.Option(help="A torch device.")]


def load_network_of(name: str | None, folder: Path | None, device: str) -> Any:
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
        return Prediction(prediction.type, clip=clip)
    if prediction.clip is not None or prediction.threshold is not None:
        typer.echo("note: the predicted picture is clipped as in the checkpoint; --clip inf turns that off", err=True)
    return prediction
