"""Diffusion networks that others trained, from packages that a user installs; none is shipped with this library.

- galaxygrad: seven scores of single galaxies in log brightness (Sampson et al., arXiv 2401.07313), in JAX. It states no
  licence.
- 21cmPSDenoiser: one ε-network for the mean of the power spectrum of the 21-cm line, given one noisy realisation
  (Breitman et al., 2025), in torch, under the MIT licence.

The packages' own modules import much more than their networks do, so each network's file is loaded by path.
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pndm_solvers import NoiseSchedule

__all__ = ["FOREIGN", "INSTALL", "Foreign", "load", "network_file"]

INSTALL = (
    "pip install --no-deps galaxygrad==0.1.9 21cmPSDenoiser==1.0.2 "
    "equinox einops jaxtyping wadler-lindig typing-extensions"
)

# Each galaxy network's file, the side of its pictures, and how many of them it takes at once. On one core these were
# the fastest per picture: larger batches leave the cache.
GALAXIES = {
    "hsc-32": ("eqx_hsc_ScoreNet32.eqx", 32, 32),
    "ztf-32": ("eqx_ZTF_ScoreNet32.eqx", 32, 32),
    "hsc-64": ("eqx_hsc_ScoreNet64.eqx", 64, 8),
    "ztf-64": ("eqx_ZTF_ScoreNet64.eqx", 64, 8),
    "lsst-60": ("eqx_lsst_ScoreNet60.eqx", 60, 8),
    "quasar-72": ("eqx_quasar_lens72.eqx", 72, 4),
    "hsc-log-32": ("eqx_hsc_LogNet32.eqx", 32, 32),  # of logarithms of galaxies
    "hsc-log-64": ("eqx_hsc_LogNet64.eqx", 64, 8),
}


@dataclass(frozen=True)
class Foreign:
    """A network with its schedule.

    Attributes
    ----------
    model:
        `model(x, t, **condition)`: x `(B, *shape)`, t `(B,)`; the answer has x's dtype. The galaxies' models take
        NumPy arrays, "21cm" takes torch tensors. All compute in float32.
    schedule, prediction:
        What the network was trained with, and what it returns.
    shape:
        Of one sample.
    condition:
        From a count to the model's further arguments, each with the batch first: `{}` for the galaxies. The first
        entries do not depend on the count.
    """

    name: str
    model: Callable[..., Any]
    schedule: NoiseSchedule
    prediction: str
    shape: tuple[int, ...]
    condition: Callable[[int], dict[str, Any]]


def load(name: str) -> Foreign:
    """The network of that name in `FOREIGN`.

    Raises ImportError with the command that installs what is missing, ValueError for another name.
    """
    if name not in FOREIGN:
        raise ValueError(f"name is {name!r}; it must be one of {', '.join(FOREIGN)}")
    try:
        return FOREIGN[name]()
    except ImportError as error:
        raise ImportError(
            f"the network {name!r} needs a package that is missing ({error}). Run: {INSTALL}; "
            "the galaxies need jax as well, and 21cm needs torch"
        ) from error


def network_file(package: str, file: str) -> tuple[Path, ModuleType]:
    """The folder of an installed package, and one of its modules, without importing the package itself."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ImportError(f"No module named {package!r}")
    path = Path(found.origin).with_name(file)
    spec = importlib.util.spec_from_file_location(f"{package}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return path.parent, module


def _galaxies(name: str) -> Foreign:
    import equinox
    import jax

    file, side, chunk = GALAXIES[name]
    home, models = network_file("galaxygrad", "models_eqx.py")
    empty = models.ScoreNet((1, side, side), 4, 64, 512, 512, 4, 10.0, key=jax.random.PRNGKey(0))
    network = equinox.tree_deserialise_leaves(home / file, empty)
    batched = jax.jit(jax.vmap(lambda x, t: network(x, 10 * t)))  # compiled once for each size up to `chunk`
    jax.config.update("jax_default_matmul_precision", "highest")  # an accelerator's default is less than float32
    accelerated = jax.default_backend() != "cpu"
    chunk = 128 if accelerated else chunk

    def model(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        narrow, times = np.asarray(x, np.float32), np.asarray(t, np.float32)
        if accelerated:  # few sizes, since each is compiled for half a minute
            more = -len(x) % (16 if len(x) <= 16 else 64 if len(x) <= 64 else chunk)
            narrow, times = (np.concatenate([part, np.repeat(part[:1], more, 0)]) for part in (narrow, times))
        parts = [batched(narrow[i : i + chunk], times[i : i + chunk]) for i in range(0, len(x), chunk)]
        return np.concatenate(parts)[: len(x)].astype(x.dtype, copy=False)

    # The package's β is 1 at its times 0 to 10, so it is 10 here, at times up to 1.
    return Foreign(name, model, NoiseSchedule.vp(10.0, 10.0), "score", (1, side, side), lambda count: {})


def _spectra(constants: Any, count: int) -> np.ndarray:
    """Noisy power spectra `(count, 32, 16)` in mK², over the package's bins of k⊥ and k∥.

    The package has no examples. These are power laws in k of random height and slope, raised along the line of sight by
    peculiar velocities (Kaiser, 1987), with the scatter of a mean over as many modes as each bin holds. Their medians
    differ from the power laws by 9 %; after the network, by 2 to 10 %.
    """
    across, along = constants["kperp"][:, None], constants["kpar"]
    # Half of a real field's modes are independent. A few bins have none; those are filled like the least sampled ones.
    modes = np.maximum(constants["Nmodes"], 4) / 2
    k = np.hypot(across, along)
    spectra = []
    for i in range(count):
        rng = np.random.default_rng((21, i))
        height, slope, growth = rng.uniform((-0.5, 0.0, 0.0), (3.0, 1.2, 1.0))
        mean = 10**height * (k / 0.2) ** slope * (1 + growth * (along / k) ** 2) ** 2
        spectra.append(mean * rng.gamma(modes) / modes)
    return np.stack(spectra)


def _power_spectra(name: str) -> Foreign:
    import torch
    from networks import accelerated

    with torch.random.fork_rng(devices=[]):  # the module sets torch's seed when it is imported
        home, module = network_file("psdenoiser", "model.py")
        network = module.UNet(dim=(32, 16))
    network.load_state_dict(torch.load(home / "denoiser_model.pt", map_location="cpu", weights_only=True))
    answer = accelerated(network.eval().requires_grad_(False))
    with np.load(home / "constants.npz") as file:
        constants = dict(file)

    def model(x: Any, t: Any, *, noisy_spectrum: Any) -> Any:
        with torch.no_grad():
            return answer(x.float(), 999 * t.float(), x_cdn=noisy_spectrum).to(x.dtype)

    def condition(count: int) -> dict[str, Any]:
        # As the package does it: log10 of mK², brought to [−1, 1].
        unit = (np.log10(_spectra(constants, count)) - constants["noisy_mean"]) / constants["noisy_std"]
        return {"noisy_spectrum": torch.from_numpy(2 * unit - 1).float()[:, None]}

    return Foreign(name, model, NoiseSchedule.vp(0.1, 20.0), "epsilon", (1, 32, 16), condition)


FOREIGN: dict[str, Callable[[], Foreign]] = {
    **{name: functools.partial(_galaxies, name) for name in GALAXIES},
    "21cm": functools.partial(_power_spectra, "21cm"),
}
