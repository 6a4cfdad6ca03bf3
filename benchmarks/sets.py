"""The sets of problems: "choosing" may guide the choice of a default, "testing" has no say in it.

A script measures one set at a time, and its result names the set. In the testing set exact problems have other
distributions, and every problem has other starts. A third set, "sizes", has data far smaller and far larger than 1. It
chose what the default makes of `data_range=`, and nothing else. A fourth, "large", has networks of pictures of 64×64,
which are dear: it has a say in the numbers of runs of few calls, and stands in no table of peers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import networks
import numpy as np
import packages
import torch
from network_recipes import NETWORKS, network_data

from pndm_solvers import Problem, initial_noise
from pndm_solvers.analytic import Distribution, Gaussian, GaussianMixture
from pndm_solvers.condition import rows_of
from pndm_solvers.problems import PROBLEMS, anisotropic_mixture, network_problem, power_law
from pndm_solvers.reference import load_network
from pndm_solvers.schedules import SCHEDULES

__all__ = ["SETS", "Entry", "deviation_of", "first_starts", "range_of", "shaped_target", "told"]

SEEDS = {"choosing": 1, "sizes": 1, "large": 1, "testing": 101}  # of the starts


@dataclass(frozen=True)
class Entry:
    """A problem of a set.

    Attributes
    ----------
    make:
        A function of the number of starts, their seed and options of `Problem.of`.
    starts:
        How many starts paired errors are measured on, half of them to pick a peer and half to compare.
    samples:
        How many samples distributions are compared with, again two halves.
    peers:
        Whether every peer is compared in distribution too: not where a call is dear.
    features:
        The classifier of networks.py whose features are compared too, or None.
    calls:
        The budgets of model calls.
    """

    name: str
    set: str
    make: Callable[..., Problem]
    starts: int
    samples: int
    peers: bool
    features: str | None = None
    calls: tuple[int, ...] = (5, 8, 10, 20)

    def sampled(self, folder: Path) -> Problem:
        """The problem on which distributions are compared; its fine runs are kept in the folder.

        Paired errors are measured on its first starts.
        """
        folder.mkdir(parents=True, exist_ok=True)
        saved = folder / f"{self.name}.npz"
        return self.make(self.samples, SEEDS[self.set], saved=saved, progress=True, name=self.name)


def first_starts(problem: Problem, count: int) -> Problem:
    """The problem with its first starts alone: its target and its floor are those of a set of that size."""
    saved = None if problem.saved is None else problem.saved.with_stem(f"{problem.saved.stem}-{count}")
    return replace(problem, x=problem.x[:count], condition=rows_of(problem.condition, slice(count)), saved=saved)


def shaped_target(problem: Problem) -> tuple[np.ndarray, tuple[int, ...]]:
    """The target's points in the shape of samples, and the axes of a mean by channel."""
    points = problem.target().points.reshape(-1, *problem.x.shape[1:])
    return points, (0, *range(2, points.ndim))


def deviation_of(problem: Problem) -> float:
    """The deviation of the target's numbers around the means of their channels."""
    points, axes = shaped_target(problem)
    return float(np.sqrt(np.mean((points - points.mean(axes, keepdims=True)) ** 2)))


def range_of(deviation: float) -> float:
    """What to say of data as `data_range`: up to twice their deviation; 1 from there down to 1."""
    return sorted((deviation, 1.0, 2 * deviation))[1]


def told(problem: Problem) -> Problem:
    """The same problem. Its runs know the mean and the size of its data."""
    points, axes = shaped_target(problem)
    said = {"data_mean": points.mean(axes, keepdims=True), "data_range": range_of(deviation_of(problem))}
    saved = None if problem.saved is None else problem.saved.with_stem(f"{problem.saved.stem}-said")
    return replace(problem, name=f"{problem.name}, said", saved=saved, **said)


# ---------------------------------------------------------------------- kinds of problem


def exact(distribution: Callable[[], Distribution], schedule: str, count: int, seed: int, **options: Any) -> Problem:
    return Problem.exact(distribution(), SCHEDULES[schedule](), count, seed, options["name"])


def trained(network: str, count: int, seed: int, **options: Any) -> Problem:
    """A network of networks.py with its training data and its condition."""
    found = networks.load(network)
    x = torch.from_numpy(initial_noise((count, *found.shape), seed)).float()
    condition = found.condition(count)
    options = {"prediction": found.prediction, "condition": condition, "data": found.data()} | options
    return Problem.of(networks.accelerated(found.network), found.schedule, x, **options)


@cache
def foreign_network(name: str) -> packages.Foreign:
    return packages.load(name)


def foreign(network: str, count: int, seed: int, **options: Any) -> Problem:
    """A network of packages.py. Its data are not public, so that samples are compared with those of a fine run."""
    found = foreign_network(network)
    x: Any = initial_noise((count, *found.shape), seed)
    x = torch.from_numpy(x).float() if network == "21cm" else x.astype(np.float32)
    options = {"prediction": found.prediction, "condition": found.condition(count) or None, "calls": 256} | options
    return Problem.of(found.model, found.schedule, x, **options)


def bundled(network: str, count: int, seed: int, **options: Any) -> Problem:
    """A bundled network with its training data."""
    data = getattr(network_data, network)()[0]
    problem = network_problem(found := load_network(network), count, seed, **{"data": data, "calls": 256} | options)
    return replace(problem, model=networks.accelerated(found.unet))


# ---------------------------------------------------------------------- the sets

EXACT = {
    "choosing": ("ring", "mixture", "digits-kernel", "power-law"),
    "sizes": ("small-mixture", "small-law", "large-mixture", "large-law"),
    "testing": ("five-modes", "mixture-24", "steep"),
}
SCHEDULE_NAMES = {
    "choosing": ("linear", "scaled_linear", "cosine"),
    "sizes": ("linear", "rectified_flow"),
    "testing": ("linear", "cosine", "rectified_flow"),
}
# (starts, samples, whether every peer is compared in distribution), by what a call costs.
CHEAP, MIDDLE, DEAR, DEAREST = (128, 512, True), (48, 256, False), (24, 128, False), (8, 96, False)
MORE_CALLS, FEWER_CALLS = (5, 8, 10, 20, 50), (5, 10)
SIZES = {"digits-kernel": MIDDLE, "audio": DEAR, "digits-conv": DEAR}


def scaled(distribution: Gaussian | GaussianMixture, factor: float) -> GaussianMixture:
    """The distribution of factor·x."""
    parts = [distribution] if isinstance(distribution, Gaussian) else distribution.parts
    weights = [1.0] if isinstance(distribution, Gaussian) else distribution.weights
    covariances = [factor**2 * (part.axes * part.variances) @ part.axes.T for part in parts]
    return GaussianMixture(weights, [factor * part.mean for part in parts], covariances)


def lattice() -> GaussianMixture:
    """25 narrow modes on a square."""
    places = 0.6 * np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3)])
    return GaussianMixture(np.full(25, 1 / 25), places, np.tile(0.08**2 * np.eye(2), (25, 1, 1)))


def tails() -> GaussianMixture:
    """Parts of very unequal width over one another."""
    places = [[0, 0, 0], [0.3, 0, 0], [0, -0.5, 0.2]]
    return GaussianMixture([0.5, 0.3, 0.2], places, [width**2 * np.eye(3) for width in (0.05, 0.4, 1.0)])


def field(dimension: int, exponent: float, rms: float) -> Gaussian:
    """Many numbers of a mean square, whose variances fall as 1/k^exponent: pictures, latents, fields, nearly noise."""
    variances = np.arange(1.0, dimension + 1) ** -exponent
    return Gaussian(np.zeros(dimension), rms**2 * variances / variances.mean())


DISTRIBUTIONS: dict[str, Callable[[], Distribution]] = {
    **PROBLEMS,
    # In the choosing set of choose_default.py.
    "narrow-ring": partial(GaussianMixture.ring, modes=3, radius=0.9, width=0.03),
    "wide-ring": partial(GaussianMixture.ring, modes=12, radius=1.6, width=0.15),
    "lattice": lattice,
    "mixture-6": partial(anisotropic_mixture, dimension=6, parts=12, seed=7),
    "mixture-40": partial(anisotropic_mixture, dimension=40, parts=4, seed=8),
    "small-mixture": lambda: scaled(anisotropic_mixture(10, 5, 9), 0.4),
    "flat-law": partial(power_law, dimension=32, exponent=1.2, seed=4),
    "small-law": lambda: scaled(power_law(48, 2.4, 5), 0.3),
    "tails": tails,
    "picture-field": partial(field, dimension=768, exponent=2.0, rms=0.5),
    "faint-field": partial(field, dimension=768, exponent=2.0, rms=0.15),
    "field": partial(field, dimension=1024, exponent=1.0, rms=1.0),
    "latent-field": partial(field, dimension=1024, exponent=0.5, rms=1.0),
    "noise-field": partial(field, dimension=256, exponent=0.2, rms=0.7),
    # In the set of sizes, with two of the above.
    "large-mixture": lambda: scaled(anisotropic_mixture(10, 5, 9), 10.0),
    "large-law": lambda: scaled(power_law(48, 2.4, 5), 30.0),
    # In the testing set.
    "five-modes": partial(GaussianMixture.ring, modes=5, radius=1.2, width=0.05),
    "mixture-24": partial(anisotropic_mixture, dimension=24, parts=9, seed=5),
    "steep": partial(power_law, dimension=48, exponent=3.0, seed=3),
}


def _entries(name: str) -> list[Entry]:
    found = [
        Entry(f"{data}, {schedule}", name, partial(exact, DISTRIBUTIONS[data], schedule), *SIZES.get(data, CHEAP))
        for data in EXACT.get(name, ())
        for schedule in SCHEDULE_NAMES[name]
    ]
    for network, recipe in NETWORKS.items():
        digits = "digits" in network
        size = SIZES.get(network, MIDDLE if digits or recipe.given else CHEAP)
        size = DEAREST if name == "large" else size
        if recipe.set == name:
            found.append(Entry(network, name, partial(trained, network), *size, "digits" if digits else None))
    if name == "choosing":
        found += [
            Entry("digits", name, partial(bundled, "digits"), 24, 384, False, "digits"),
            Entry("fashion", name, partial(bundled, "fashion"), 8, 96, False, "fashion"),
            *(Entry(galaxy, name, partial(foreign, galaxy), 24, 192, False) for galaxy in ("hsc-32", "ztf-32")),
        ]
    if name == "testing":
        few = {"calls": FEWER_CALLS}
        galaxies = {"hsc-64": {}, "ztf-64": {}, "lsst-60": {}, "quasar-72": few}
        found += [Entry(g, name, partial(foreign, g), 8, 48, False, **kind) for g, kind in galaxies.items()]
        # Without a word on the mean a run warns: see the table `mean` of check_default.py.
        logs = (partial(foreign, log, data_mean=-3.0) for log in ("hsc-log-32", "hsc-log-64"))
        found += [Entry(make.args[0], name, make, 8, 48, False) for make in logs]
        found += [Entry("21cm", name, partial(foreign, "21cm"), 4, 32, False, calls=FEWER_CALLS)]
    return [replace(entry, calls=MORE_CALLS) if entry.peers else entry for entry in found]


SETS: dict[str, dict[str, Entry]] = {name: {entry.name: entry for entry in _entries(name)} for name in SEEDS}
