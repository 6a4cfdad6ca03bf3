"""k-diffusion's deterministic samplers and its grids of sigmas, from the package itself.

Its files `sampling.py` and `external.py` are loaded by path, since the package imports torchvision. They come from
PyPI; the samplers here need nothing else of what the package depends on:

    pip install --no-deps k-diffusion==0.1.1.post1
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

__all__ = ["COPIES", "GRIDS", "SAMPLERS", "Sampler", "module"]


@cache
def module(part: str) -> ModuleType:
    """k-diffusion's module `part`, "sampling" or "external". Raises ImportError if the package is not installed."""
    found = find_spec("k_diffusion")
    if found is None:
        raise ImportError("these peers need k-diffusion: pip install --no-deps k-diffusion==0.1.1.post1")
    name = "_k_diffusion"
    if name not in sys.modules:
        package, utils = ModuleType(name), ModuleType(f"{name}.utils")
        package.__path__, package.utils = list(found.submodule_search_locations), utils
        # The one function of utils.py that the two files call.
        utils.append_dims = lambda x, ndim: x.reshape(*x.shape, *(1,) * (ndim - x.ndim))
        sys.modules |= {name: package, utils.__name__: utils}
    # Stand-ins for imports that only stochastic samplers and the likelihood use.
    absent = [other for other in ("torchsde", "torchdiffeq") if find_spec(other) is None]
    for other in absent:
        sys.modules[other] = ModuleType(other)
        sys.modules[other].odeint = None
    try:
        return import_module(f"{name}.{part}")
    finally:
        for other in absent:
            del sys.modules[other]


# ------------------------------------------------------------------ grids: (table, steps) -> sigmas, 0 the last


def between(name: str, **options: float) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The function `get_sigmas_…` of that name, from the table's highest sigma to its lowest."""

    def grid(table: torch.Tensor, steps: int) -> torch.Tensor:
        make = getattr(module("sampling"), f"get_sigmas_{name}")
        return make(steps, float(table[0]), float(table[-1]), **options)

    return grid


def vp(table: torch.Tensor, steps: int, lowest: float = 1e-3) -> torch.Tensor:
    """`get_sigmas_vp`: log(1 + σ²) = β_d·t²/2 + β_min·t for even t from 1 to 1e-3.

    Its β_d = 19.9 and β_min = 0.1 belong to one schedule. They are replaced by the two with which the grid begins and
    ends at the table's ends.
    """
    last, first = (math.log1p(float(sigma) ** 2) for sigma in (table[0], table[-1]))
    slope = 2 * (first - last / lowest) / (1 - lowest)
    return module("sampling").get_sigmas_vp(steps, slope, first - slope / 2, lowest)


def discrete(table: torch.Tensor, steps: int) -> torch.Tensor:
    """`DiscreteSchedule.get_sigmas`: even places of the table, from its top to its lowest."""
    return module("external").DiscreteSchedule(table, quantize=False).get_sigmas(steps)


GRIDS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "karras": between("karras"),
    "exponential": between("exponential"),
    "polyexponential, rho 2": between("polyexponential", rho=2.0),  # with rho 1 it is exponential
    "vp": vp,
    "discrete": discrete,
}


# ------------------------------------------------------------------ samplers


@dataclass(frozen=True)
class Sampler:
    """A sampler of k-diffusion without noise, and the steps that a budget of model calls buys.

    A sampler with two calls a step makes one at the step into 0.
    """

    name: str
    calls_a_step: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def steps(self, calls: int) -> int:
        return calls if self.calls_a_step == 1 else (calls + 1) // 2

    def __call__(self, model: Callable, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        return getattr(module("sampling"), f"sample_{self.name}")(model, x, sigmas, disable=True, **self.options)

    def fast(self, model: Callable, x: torch.Tensor, low: float, high: float, calls: int) -> torch.Tensor:
        """dpm_fast, which makes its own grid, even in log σ, from `high` to `low`, and ends there."""
        return module("sampling").sample_dpm_fast(model, x, low, high, calls, disable=True)


def _silent(sigma: Any, sigma_next: Any) -> float:
    """The noise of a sampler that adds none of it: without it a Brownian tree would be made."""
    return 0.0


WITHOUT_NOISE = {"eta": 0.0, "noise_sampler": _silent}

SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler("euler"),
    "heun": Sampler("heun", 2),
    "dpm_2": Sampler("dpm_2", 2),
    "lms": Sampler("lms"),
    "dpmpp_2s_ancestral eta=0": Sampler("dpmpp_2s_ancestral", 2, WITHOUT_NOISE),
    "dpmpp_2m": Sampler("dpmpp_2m"),
    "dpmpp_2m_sde eta=0 heun": Sampler("dpmpp_2m_sde", options=WITHOUT_NOISE | {"solver_type": "heun"}),
    "dpmpp_3m_sde eta=0": Sampler("dpmpp_3m_sde", options=WITHOUT_NOISE),
}
# Samplers that are one of those above where no noise is added: they are checked, and are no peers.
COPIES: dict[str, tuple[Sampler, str]] = {
    "dpm_2_ancestral eta=0": (Sampler("dpm_2_ancestral", 2, WITHOUT_NOISE), "dpm_2"),
    "dpmpp_sde eta=0": (Sampler("dpmpp_sde", 2, WITHOUT_NOISE), "dpmpp_2s_ancestral eta=0"),
    "euler_ancestral eta=0": (Sampler("euler_ancestral", options=WITHOUT_NOISE), "euler"),
    "dpmpp_2m_sde eta=0": (Sampler("dpmpp_2m_sde", options=WITHOUT_NOISE), "dpmpp_2m"),
}
