"""The bundled reference networks: *digits* (8×8) and *fashion* (28×28, with classes).

They are small enough for tests and a demonstration on a CPU. Loading them needs torch and safetensors; importing this
package does not. The model card beside the weights describes the data and the training of each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pndm_solvers.fit import FittedSolver
from pndm_solvers.guidance import classifier_free_guidance
from pndm_solvers.run_options import Model
from pndm_solvers.schedules import NoiseSchedule

if TYPE_CHECKING:
    import torch

    from pndm_solvers.reference.unet import UNet

__all__ = ["NETWORK_NAMES", "PLANS", "ReferenceNetwork", "load_network"]

NETWORK_NAMES = ("digits", "fashion")

# The folder of fitted plans, NAME-GUIDANCE-CALLS.json.
PLANS = Path(__file__).parent / "plans"


@dataclass(frozen=True)
class ReferenceNetwork:
    """A bundled network, with all that sampling needs.

    Attributes
    ----------
    unet:
        The torch module, in evaluation mode, float32.
    schedule, prediction:
        The schedule and the kind of prediction that it was trained with. Times may be real numbers.
    labels:
        The names of its classes; empty for a network without classes.
    """

    name: str
    unet: UNet = field(repr=False)
    schedule: NoiseSchedule
    prediction: str
    labels: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image: (channels, height, width)."""
        return self.unet.channels, self.unet.size, self.unet.size

    def fitted(self, guidance: float = 1.0) -> FittedSolver | None:
        """The plans that were fitted to the network, each for its number of calls at the nearest scale of guidance.

        Far above that scale a plan may err more than the default: docs/development/results-fitted.md. None where there
        are no plans.
        """
        nearest: dict[int, tuple[float, Path]] = {}
        for path in PLANS.glob(f"{self.name}-*.json"):
            scale, calls = path.stem.removeprefix(f"{self.name}-").split("-")
            found = abs(float(scale) - guidance), path
            nearest[int(calls)] = min(nearest.get(int(calls), found), found)
        return FittedSolver.load(self.schedule, *(path for _, path in nearest.values())) if nearest else None

    def __call__(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        """The answer, of x's shape, for `x` `(B, C, H, W)` at times `t` `(B,)` and classes `label` `(B,)`, if any."""
        return self.unet(x, t, label)

    def model(self, label: torch.Tensor | None = None, guidance: float = 1.0) -> Model:
        """A model for the classes `label` `(B,)`, by classifier-free guidance of scale `guidance`; 1 is no guidance.

        Raises ValueError for a label that is not a class of the network.
        """
        if label is None:
            return self
        if not self.labels:
            raise ValueError(f"the network {self.name!r} has no classes; leave label out")
        if label.min() < 0 or label.max() >= len(self.labels):
            raise ValueError(f"labels must lie in 0 to {len(self.labels) - 1}, not {label.tolist()}")

        guided = self.guided(guidance)
        return lambda x, t: guided(x, t, label=label)

    def guided(self, scale: float) -> Model:
        """The network with classifier-free guidance, one call a row: its classes are the condition "label" `(B,)`."""
        return classifier_free_guidance(self, {"label": len(self.labels)}, scale)


def load_network(name: str, device: Any = "cpu") -> ReferenceNetwork:
    """Load the network "digits" or "fashion" to a torch device.

    Raises ValueError for another name, and ImportError if torch or safetensors is not installed.
    """
    if name not in NETWORK_NAMES:
        raise ValueError(f"network is {name!r}; bundled are {', '.join(map(repr, NETWORK_NAMES))}")
    try:
        from safetensors import safe_open

        from pndm_solvers.reference.unet import UNet
    except ImportError as error:
        raise ImportError(
            "the reference networks need torch and safetensors: pip install 'pndm_solvers[demo]'"
        ) from error
    with (
        as_file(files("pndm_solvers.reference") / f"{name}.safetensors") as path,
        safe_open(path, framework="pt") as file,
    ):
        facts = json.loads(file.metadata()["network"])
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 — no mapping
    unet = UNet(**facts["architecture"]).eval()
    unet.load_state_dict(weights)
    unet.to(device)
    return ReferenceNetwork(
        name, unet, NoiseSchedule.from_config(facts["schedule"]), facts["prediction"], tuple(facts["labels"])
    )
