"""`pndm-solvers fit`: a plan fitted to a bundled network or a diffusers checkpoint, written as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pndm_solvers.cli.batches import pilot_noise
from pndm_solvers.cli.command import COMPUTED, INTERRUPTED, SOLVED, WRITTEN
from pndm_solvers.cli.networks import (
    Clip,
    Device,
    Folder,
    Guidance,
    Network,
    is_picture,
    labels_of,
    load_network_of,
    prediction_of,
    scale_of,
)
from pndm_solvers.files import make_parent, write_whole
from pndm_solvers.fit import Fit, Pilot
from pndm_solvers.fit.fitted import FINER
from pndm_solvers.fit.pilot import LEAST, LEVELS
from pndm_solvers.generation.network import data_of


def fit(
    *,
    network: Network = None,
    model: Folder = None,
    guidance: Guidance = None,
    clip: Clip = None,
    calls: Annotated[
        int,
        typer.Option(help="At most this many model calls in the plan.", metavar="N", min=1, rich_help_panel=SOLVED),
    ] = 10,
    samples: Annotated[
        int,
        typer.Option(
            help="How many samples are drawn: half of them are fitted to, and half judge.",
            metavar="N",
            min=LEAST,
            rich_help_panel=SOLVED,
        ),
    ] = 64,
    levels: Annotated[
        int,
        typer.Option(
            help="Model calls of the pilot: the fine run that shows where each sample should end.",
            metavar="N",
            min=8,
            rich_help_panel=SOLVED,
        ),
    ] = LEVELS,
    seed: Annotated[int, typer.Option(help="Of the samples' noise.", metavar="N", min=0, rich_help_panel=SOLVED)] = 0,
    out: Annotated[Path, typer.Option(help="The plan, as JSON.", metavar="FILE.json", rich_help_panel=WRITTEN)] = Path(
        "plan.json"
    ),
    note: Annotated[
        str | None,
        typer.Option(
            help="Free text that the plan keeps. [default: the network and the guidance]",
            metavar="TEXT",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    pilot: Annotated[
        Path | None,
        typer.Option(
            help="Keeps the pilot: where the file exists it is read, else written. So plans of several --calls share "
            "one pilot.",
            metavar="FILE.npz",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="How many samples the network gets at once. [default: all]",
            metavar="N",
            min=1,
            rich_help_panel=COMPUTED,
        ),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Fit a plan to a network: levels and weights with which its samples err least.

    A pilot of many model calls comes first, and then the fit, for some minutes. Ctrl-C during the fit keeps the best
    plan so far.
    """
    for path in filter(None, (out, pilot)):
        make_parent(path)
        if path.is_dir():
            raise ValueError(f"{'--out' if path is out else '--pilot'} is {path}, a folder; pass the path of a file")
    loaded = load_network_of(network, model, device)
    prediction = prediction_of(loaded, clip)
    scale = scale_of(loaded, guidance)
    guided: Any = loaded.guided(scale) if scale != 1 else loaded
    if pilot is not None and pilot.exists():
        recorded = Pilot.load(pilot, device)
        _check_same(recorded, loaded, prediction, pilot)
        count = sum(start.states[0].shape[0] for start in recorded.starts)
        typer.echo(f"note: {pilot} has {count} samples and {recorded.plan.model_calls} levels", err=True)
    elif levels < FINER * calls:  # said before the pilot is made, not after
        raise ValueError(f"--levels is {levels}, and --calls {calls} needs {FINER * calls} at least")
    else:
        try:
            recorded = _record(loaded, guided, samples, levels, batch, guidance, prediction, seed, device)
        except KeyboardInterrupt:
            typer.echo("interrupted during the pilot: nothing is written", err=True)
            raise
        if pilot is not None:
            recorded.save(pilot)
    note = f"{loaded.name}, guidance {scale:g}" if note is None else note
    found: Fit = recorded.fit(guided, calls, progress=True, note=note)
    text = found.plan.to_json(indent=1) + "\n"
    write_whole(out, lambda file: file.write(text.encode()))
    typer.echo(str(found))
    which = f"--model {model}" if model is not None else f"--network {loaded.name}"
    which += f" --guidance {scale:g}" if loaded.labels and model is None else ""
    which += f" --clip {clip:g}" if clip is not None else ""
    command = "sample" if is_picture(loaded) else "generate --num-images 1000 --out set"
    typer.echo(f"written: {out}; draw with it: pndm-solvers {command} {which} --plan {out}")
    if found.interrupted:
        raise typer.Exit(INTERRUPTED)


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
    # In pairs, since every other sample judges: so every class is on both sides.
    label = labels_of(loaded, None, guidance, -(-samples // 2), device)
    condition = None if label is None else {"label": label.repeat_interleave(2)[:samples]}
    return Pilot.record(
        guided,
        loaded.schedule,
        pilot_noise(loaded, samples, seed, device),
        prediction=prediction,
        **data_of(loaded)._asdict(),
        condition=condition,
        levels=levels,
        batch_size=batch,
        progress=True,
    )


def _check_same(pilot: Pilot, loaded: Any, prediction: Any, path: Path) -> None:
    mean, size = data_of(loaded)
    start = pilot.starts[0]
    own = {
        "schedule": loaded.schedule,
        "prediction": prediction,
        "shape": tuple(loaded.shape),
        "data_mean": mean,
        "data_range": size,
    }
    theirs = {
        "schedule": pilot.schedule,
        "prediction": start.prediction,
        "shape": tuple(start.states[0].shape[1:]),
        "data_mean": pilot.data_mean,
        "data_range": pilot.options.get("data_range", 1.0),
    }
    if own["shape"] == theirs["shape"]:
        for facts in (own, theirs):
            facts["data_mean"] = _filled(facts["data_mean"], own["shape"])
    if different := [name for name, value in own.items() if not np.array_equal(theirs[name], value)]:
        raise ValueError(
            f"--pilot is {path}, which is of another network: it differs in {', '.join(different)}; pass another file"
        )


def _filled(mean: Any, shape: tuple[int, ...]) -> Any:
    """A mean as one number for each of a sample's, in single precision: so -0.9 equals a tensor of it."""
    return None if mean is None else np.broadcast_to(mean, (1, *shape)).astype(np.float32)
