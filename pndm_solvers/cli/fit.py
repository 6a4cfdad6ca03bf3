"""`pndm-solvers fit`: a plan fitted to a bundled network or a diffusers checkpoint, written as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pndm_solvers.cli.networks import (
    Clip,
    Device,
    Folder,
    Network,
    is_picture,
    labels_of,
    load_network_of,
    prediction_of,
)
from pndm_solvers.files import make_parent
from pndm_solvers.fit import Fit, Pilot
from pndm_solvers.fit.pilot import LEVELS
from pndm_solvers.noise import initial_noise


def fit(
    *,
    network: Network = None,
    model: Folder = None,
    calls: Annotated[int, typer.Option(help="At most this many model calls.", min=1)] = 10,
    out: Annotated[Path, typer.Option(help="The file to write, with the plan's JSON.")] = Path("plan.json"),
    samples: Annotated[
        int, typer.Option(help="How many samples: half of them are fitted to, and half judge.", min=2)
    ] = 64,
    levels: Annotated[int, typer.Option(help="Model calls of the fine run.", min=8)] = LEVELS,
    pilot: Annotated[
        Path | None,
        typer.Option(help="An .npz file of the fine run: written, or where it exists read, so that it is made once."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Samples a call of the network. [default: all]", min=1)] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Scale of classifier-free guidance; 1 is none. [default: 2; --model: 1]")
    ] = None,
    clip: Clip = None,
    seed: Annotated[int, typer.Option(help="Of the noise.", min=0)] = 0,
    note: Annotated[str | None, typer.Option(help="Free text for the plan. [default: the network, the scale]")] = None,
    device: Device = "cpu",
) -> None:
    """Fit a plan to a network: levels and weights with which its samples err least.

    Ctrl-C keeps the best plan so far, once the pilot is recorded.
    """
    make_parent(out)
    loaded = load_network_of(network, model, device)
    prediction = prediction_of(loaded, clip)
    scale = guidance if guidance is not None else 2.0 if model is None and loaded.labels else 1.0
    guided: Any = loaded.guided(scale) if scale != 1 else loaded
    if pilot is not None and pilot.exists():
        recorded = Pilot.load(pilot, device)
        _check_same(recorded, loaded, prediction, pilot)
        count = sum(start.states[0].shape[0] for start in recorded.starts)
        typer.echo(f"note: {pilot} has {count} samples and {recorded.plan.model_calls} levels", err=True)
    else:
        recorded = _record(loaded, guided, samples, levels, batch, guidance, prediction, seed, device)
        if pilot is not None:
            recorded.save(pilot)
    note = f"{loaded.name}, guidance {scale:g}" if note is None else note
    found: Fit = recorded.fit(guided, calls, progress=True, note=note)
    out.write_text(found.plan.to_json(indent=1) + "\n", encoding="utf-8")
    typer.echo(str(found))
    which = f"--model {model}" if model is not None else f"--network {loaded.name}"
    which += f" --guidance {scale:g}" if loaded.labels and model is None else ""
    which += f" --clip {clip:g}" if clip is not None else ""
    command = "sample" if is_picture(loaded) else "generate --num-images 1000 --out set"
    typer.echo(f"written: {out}; draw with it: pndm-solvers {command} {which} --plan {out}")


def _record(
    loaded: Any,
    guided: Any,
    samples: int,
    levels: int,
    batch: int | None,
    guidance: float | None,
    prediction: Any,
    seed: int,
    device: str,
) -> Pilot:
    import torch

    x = torch.from_numpy(initial_noise((samples, *loaded.shape), seed)).float().to(device)
    # In pairs, since every other sample judges: so every class is on both sides.
    label = labels_of(loaded, None, guidance, -(-samples // 2), device)
    condition = None if label is None else {"label": label.repeat_interleave(2)[:samples]}
    return Pilot.record(
        guided,
        loaded.schedule,
        x,
        prediction=prediction,
        condition=condition,
        levels=levels,
        batch_size=batch,
        progress=True,
    )


def _check_same(pilot: Pilot, loaded: Any, prediction: Any, path: Path) -> None:
    own = {"schedule": loaded.schedule, "prediction": prediction, "shape": tuple(loaded.shape)}
    theirs = {
        "schedule": pilot.schedule,
        "prediction": pilot.starts[0].prediction,
        "shape": tuple(pilot.starts[0].states[0].shape[1:]),
    }
    if different := [name for name, value in own.items() if theirs[name] != value]:
        raise ValueError(
            f"--pilot is {path}, which is of another network: it differs in {', '.join(different)}; pass another file"
        )
