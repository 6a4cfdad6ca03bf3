"""Tables of β by diffusers' names: the variance that each step of the forward process adds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.arguments import real, reals, whole

__all__ = ["BETAS", "WITH_ENDS", "cosine", "linear", "scaled_linear", "table_of", "table_of_betas"]

Float64 = NDArray[np.float64]


def linear(num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Float64:
    """β rises linearly: Ho et al. (2020), section 4."""
    return np.linspace(*_ends(beta_start, beta_end), _count(num_train_timesteps))


def scaled_linear(num_train_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Float64:
    """√β rises linearly: latent diffusion."""
    first, last = _ends(beta_start, beta_end)
    return np.linspace(first**0.5, last**0.5, _count(num_train_timesteps)) ** 2


def sigmoid(num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Float64:
    """β rises as the logistic function from −6 to 6: Xu et al. (2022), GeoDiff."""
    first, last = _ends(beta_start, beta_end)
    return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, _count(num_train_timesteps))))


def cosine(num_train_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Float64:
    """√ᾱ follows a cosine: Nichol and Dhariwal (2021), eq. (17); β is capped at `max_beta`."""
    offset = real("offset", offset, "in [0, 1), and is 0.008 in the paper", lambda offset: 0 <= offset < 1)
    cap = real("max_beta", max_beta)
    return _of(lambda t: np.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2, num_train_timesteps, cap)


def exponential(num_train_timesteps: int = 1000) -> Float64:
    """ᾱ = e^(−12·t), diffusers' "exp"."""
    return _of(lambda t: np.exp(-12 * t), num_train_timesteps)


def laplace(num_train_timesteps: int = 1000) -> Float64:
    """Log-SNR as a Laplace distribution: Hang et al. (2024), as diffusers has it, with the root of their ᾱ."""

    def alphas_cumprod(t: Float64) -> Float64:
        snr = np.exp(-0.5 * np.copysign(1, 0.5 - t) * np.log(1 - 2 * np.abs(0.5 - t) + 1e-6))
        return np.sqrt(snr / (1 + snr))

    return _of(alphas_cumprod, num_train_timesteps)


def table_of(name: str, values: ArrayLike, last: float) -> Float64:
    """`values` as a table. ValueError unless it is 1-D, not empty and inside (0, 1); its last entry may be `last`."""
    table = reals(name, values).astype(np.float64)
    if table.ndim != 1 or table.size == 0:
        raise ValueError(f"{name} must be a non-empty 1-D table, not one of shape {table.shape}")
    inside = (table > 0) & (table < 1)
    inside[-1] |= table[-1] == last and len(table) > 1
    if not inside.all():
        worst = int(np.argmin(inside))
        raise ValueError(f"{name} must lie in (0, 1); {name}[{worst}] is {table[worst]:g}")
    return table


def table_of_betas(betas: ArrayLike) -> Float64:
    """`betas` as a table; ValueError also for one that falls as ᾱ does."""
    table = table_of("betas", betas, last=1)
    if len(table) >= 10 and table[0] > 0.9 and np.all(np.diff(table) < 0):
        raise ValueError(
            f"betas fall from {table[0]:g} to {table[-1]:g}, as ᾱ does; if the table is alphas_cumprod, pass it to "
            f"from_alphas_cumprod"
        )
    return table


# By the name in a config: a function of the length, and where β has ends of them.
BETAS: dict[str, Callable[..., Float64]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "squaredcos_cap_v2": cosine,
    "sigmoid": sigmoid,
    "exp": exponential,
    "laplace": laplace,
}


def _of(alphas_cumprod: Callable[[Float64], Float64], num_train_timesteps: int, cap: float = 0.999) -> Float64:
    """The β of a function ᾱ(t), t from 0 to 1."""
    count = _count(num_train_timesteps)
    values = alphas_cumprod(np.arange(count + 1) / count)
    return np.minimum(1 - values[1:] / values[:-1], cap)


# Those with a first and a last β.
WITH_ENDS = ("linear", "scaled_linear", "sigmoid")

_count = partial(whole, "num_train_timesteps")


def _ends(beta_start: float, beta_end: float) -> tuple[float, float]:
    ends = real("beta_start", beta_start), real("beta_end", beta_end)
    if not 0 < min(ends) <= max(ends) < 1:
        raise ValueError(f"betas must lie in (0, 1); beta_start is {ends[0]:g} and beta_end is {ends[1]:g}")
    return ends
