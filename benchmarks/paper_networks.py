"""The networks of the papers' table: `python benchmarks/paper_networks.py` trains those that are missing.

The bundled digits network knows linear betas. Two more have its architecture and its recipe,
`training/train_networks.py digits`, with 6,000 steps, on scaled-linear and on cosine betas. A run that was interrupted
or killed goes on when it is started again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import networks
import numpy as np
import torch
from network_recipes import network_data
from numpy.typing import NDArray
from safetensors import safe_open

from pndm_solvers import NoiseSchedule
from pndm_solvers.fit import FittedSolver
from pndm_solvers.reference import load_network
from pndm_solvers.reference.unet import UNet

sys.path.append(str(Path(__file__).parents[1] / "training"))
import train_networks

# Each with the config of its betas, as latent diffusion and Nichol and Dhariwal (2021) have them.
TRAINED: dict[str, dict[str, Any]] = {
    "digits-scaled-linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "digits-cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
STEPS, BATCH, RATE, AVERAGE, SEED = 6000, 128, 1e-3, 0.999, 0


@dataclass(frozen=True)
class Case:
    """A network with all that a cell of the table needs. Its classes, if any, are taken in turn."""

    name: str
    unet: UNet = field(repr=False)
    schedule: NoiseSchedule
    prediction: str
    classes: int
    data: NDArray[np.float32] = field(repr=False)
    count: int  # samples of a cell
    batch: int
    features: Callable[[Any], NDArray[np.float64]] = field(repr=False)
    fitted: FittedSolver | None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.unet.channels, self.unet.size, self.unet.size


def bundled(title: str, name: str, data: NDArray[np.float32], count: int, batch: int) -> Case:
    found = load_network(name)
    return Case(
        title, fast(found.unet), found.schedule, found.prediction, len(found.labels), data, count, batch,
        networks.load_features(name), found.fitted(),
    )  # fmt: skip


def own(name: str, data: NDArray[np.float32], count: int, batch: int) -> Case:
    """A network that `main` trained."""
    path = networks.WEIGHTS / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; `python benchmarks/paper_networks.py {name}` trains it")
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["network"])
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 — no mapping
    unet = UNet(**facts["architecture"]).eval()
    unet.load_state_dict(weights)
    return Case(
        name, fast(unet), NoiseSchedule.from_config(facts["schedule"]), facts["prediction"], 0, data, count, batch,
        networks.load_features("digits"), None,
    )  # fmt: skip


def fast(unet: UNet) -> UNet:
    """The same network, a third faster on a CPU."""
    return unet.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


# Of each network: how to load it with some number of samples, and that number.
CASES: dict[str, tuple[Callable[[int], Case], int]] = {
    "digits-linear": (
        lambda count: bundled("digits-linear", "digits", network_data.digits()[0], count, 100), 2000
    ),
    **{
        name: (partial(lambda name, count: own(name, network_data.digits()[0], count, 100), name), 2000)
        for name in TRAINED
    },
    "fashion": (lambda count: bundled("fashion", "fashion", network_data.fashion()[0], count, 50), 500),
}  # fmt: skip


def train(name: str) -> bool:
    """Train a network by the recipe of the bundled digits; False where it was stopped before its end."""
    facts = copy.deepcopy(train_networks.NETWORKS["digits"])
    train_networks.NETWORKS["digits"] = {**facts, "schedule": TRAINED[name]}
    out, checkpoint = networks.WEIGHTS / f"{name}.safetensors", networks.CACHE / f"{name}.ckpt"
    checkpoint.parent.mkdir(exist_ok=True)
    options = argparse.Namespace(
        network="digits", steps=STEPS, batch=BATCH, rate=RATE, average=AVERAGE, seed=SEED, device="cpu", data=None,
        checkpoint=checkpoint, out=out.with_suffix(".part"),
    )  # fmt: skip
    # Processors without bfloat16 emulate it, at a twentieth of the speed.
    whole = mock.patch("torch.autocast", return_value=contextlib.nullcontext())
    try:
        with whole:
            train_networks.train(options)
    finally:
        train_networks.NETWORKS["digits"] = facts
    if not options.out.exists():
        return False
    options.out.replace(out)
    checkpoint.unlink()
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TRAINED)} (default: the missing ones)")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in TRAINED]:
        parser.error(f"unknown: {', '.join(unknown)}; the networks are {', '.join(TRAINED)}")
    torch.set_num_threads(1)
    missing = [name for name in TRAINED if not (networks.WEIGHTS / f"{name}.safetensors").exists()]
    for name in options.names or missing:
        if not train(name):
            break


if __name__ == "__main__":
    main()
