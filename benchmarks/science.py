"""Other people's science in few calls: power spectra of the 21-cm line, and galaxies.

Both kinds of networks come from packages whose authors trained and published them (packages.py). The authors of
21cmPSDenoiser draw with SciPy's RK45, and their own code is run here. The galaxies are compared with a fine run.

    python benchmarks/science.py              both; writes docs/development/science.md and its pictures
    python benchmarks/science.py spectra      one of them

What was computed is kept in .cache/science, each run by itself: after Ctrl-C or a kill the command goes on.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networks
import numpy as np
import packages
import torch
from kept import kept
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tables import fill_page, heading, table
from tqdm import tqdm

from pndm_solvers import DDIMSolver, Pilot, Plan, PLMSSolver, initial_noise

CACHE = networks.CACHE / "science"
DOCS = Path(__file__).parents[1] / "docs"

# Spectra that the fit has seen, and the others, on which all figures are measured; and samples of each of those.
FITTED, TESTED, OF_EACH = 24, 6, 8
SPECTRA_CALLS, GALAXY_CALLS = (8, 10, 12), (5, 8, 10)
SPECTRA_FITS = (8,)  # with 8 calls a fitted plan is as near as the authors' own run is exact
GALAXIES = {"hsc-32": 64, "ztf-32": 64}  # and the samples of each pilot
TEST_GALAXIES, FINE = 16, 256
BOUND = 0.05  # of the samples' spread

Float64 = NDArray[np.float64]


def ran(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns, arrays and numbers, from a file where it was made before."""
    found = kept(CACHE / f"{name}.npz", make)
    if found is None:
        raise SystemExit(f"another process makes {name}; start this one again later")
    return found


def fitted_plan(name: str, calls: int, model: Any, network: packages.Foreign, x: Any, **options: Any) -> Plan:
    """A plan of so many calls, fitted to the starts x."""

    def record() -> Pilot:
        path = CACHE / f"pilot-{name}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Pilot.record(model, network.schedule, x, progress=True, prediction=network.prediction, **options).save(path)
        return Pilot.load(path, like=x)

    def fit() -> dict[str, Any]:
        found = record().fit(model, calls, progress=True, note=name)
        print(found, flush=True)
        return {"plan": found.plan.to_json()}

    return Plan.from_json(str(ran(f"plan-{name}-{calls}", fit)["plan"]))


# --------------------------------------------------------------------- spectra


@functools.cache
def spectra() -> tuple[packages.Foreign, torch.Tensor]:
    """The network, and the noisy spectra."""
    network = packages.load("21cm")
    return network, network.condition(FITTED + TESTED)["noisy_spectrum"]


def starts(i: int) -> torch.Tensor:
    """Pure noise for the samples of one spectrum."""
    return torch.from_numpy(initial_noise((OF_EACH, 1, 32, 16), 1000 + i)).float()


def authors_run(i: int) -> dict[str, Any]:
    """The samples of one spectrum by the authors' code: RK45 with their tolerance, and their last step."""
    from psdenoiser.sample_pytorch import GetODESampler
    from psdenoiser.sde import VPSDE

    network, noisy = spectra()
    x, calls = starts(i), 0

    class Counted(torch.nn.Module):
        """The network as their code calls it."""

        def forward(self, x: torch.Tensor, t: torch.Tensor, x_cdn: torch.Tensor, cdn: None) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return network.model(x, t / 999, noisy_spectrum=x_cdn)

    began = time.perf_counter()
    sampler = GetODESampler(VPSDE(beta_min=0.1, beta_max=20.0), tuple(x.shape), denoise=True, device="cpu")
    result = sampler.ode_sampler(Counted(), z=x, x_cdn=noisy[i])
    return {"x": result.numpy(), "calls": calls, "seconds": time.perf_counter() - began}


def ours(i: int, plan: Plan) -> dict[str, Any]:
    network, noisy = spectra()
    began = time.perf_counter()
    condition = {"noisy_spectrum": noisy[i].expand(OF_EACH, -1, -1, -1)}
    with torch.no_grad():
        result = plan.run(network.model, starts(i), prediction=network.prediction, condition=condition)
    return {"x": result.numpy(), "calls": plan.model_calls, "seconds": time.perf_counter() - began}


def spectra_plans() -> dict[str, Plan]:
    """Each from pure noise at the very top, so that one start leads every method to one sample."""
    network, noisy = spectra()
    grid = {"start": "top", "prediction": network.prediction, "sample_shape": (1, 32, 16)}
    plans = {}
    for calls in SPECTRA_CALLS:
        plans[f"DDIM, {calls}"] = DDIMSolver(network.schedule).plan(calls, **grid)
        plans[f"default, {calls}"] = PLMSSolver(network.schedule).plan(calls, **grid)
    x = torch.from_numpy(initial_noise((FITTED, 1, 32, 16), 21)).float()
    options = {"start": "top", "condition": {"noisy_spectrum": noisy[:FITTED]}}
    for calls in SPECTRA_FITS:
        plans[f"fitted, {calls}"] = fitted_plan("21cm", calls, network.model, network, x, **options)
    return plans


def exact_run(i: int) -> dict[str, Any]:
    """The same flow to its very end, finely: RK45 leaves out what lies below its last time."""
    network, _ = spectra()
    return ours(i, PLMSSolver(network.schedule).plan(FINE, start="top", prediction="epsilon"))


def spectra_part() -> Iterator[str]:
    """Power spectra of the 21-cm line"""
    runs: dict[str, list[dict[str, Any]]] = {}
    ways: dict[str, Callable[[int], dict[str, Any]]] = {"RK45 of the authors": authors_run, "fine": exact_run}
    jobs = [(name, i) for name in ways for i in range(FITTED, FITTED + TESTED)]
    for name, i in tqdm(jobs, desc="references", unit="spectrum"):
        runs.setdefault(name, []).append(ran(f"21cm-{name}-{i}", functools.partial(ways[name], i)))
    for name, plan in spectra_plans().items():
        for i in range(FITTED, FITTED + TESTED):
            runs.setdefault(name, []).append(ran(f"21cm-{name}-{i}", functools.partial(ours, i, plan)))
    samples = {name: np.stack([run["x"] for run in found]).astype(np.float64) for name, found in runs.items()}
    theirs, fine = samples["RK45 of the authors"], samples["fine"]
    spread = float(theirs.std(axis=(0, 1)).mean())
    own = np.sqrt(theirs.var(axis=1).mean(axis=(1, 2, 3)))
    yield (
        f"{TESTED} noisy spectra that no plan was fitted to, {OF_EACH} samples of each. In the network's units the "
        f"samples' spread is {spread:.3f} over all spectra, and {own.min():.4f} to {own.max():.4f} for a given one: "
        f"the network is nearly sure of its answer."
    )
    rows = []
    for name, x in samples.items():
        near, exact = distance(x, theirs), distance(x, fine)
        seconds = np.median([run["seconds"] for run in runs[name]])
        calls = sorted({int(run["calls"]) for run in runs[name]})
        within = "yes" if near.max() <= BOUND * spread else "**no**"
        few = calls[-1] <= 12
        rows.append(
            [
                name,
                f"{calls[0]}" if len(calls) == 1 else f"{calls[0]} to {calls[-1]}",
                f"{seconds:.2f}",
                f"{100 * np.median(near) / spread:.2f} %",
                f"{100 * near.max() / spread:.2f} %",
                within if few else "",
                f"{np.median(exact / own):.2f}",
                f"{np.median(median_off(x, theirs)):.2f} %",
            ]
        )
    yield table(
        (
            "method, calls",
            "calls",
            "seconds for a spectrum",
            "to RK45, of the spread: median spectrum",
            "worst spectrum",
            f"every one below {100 * BOUND:.0f} %?",
            "to the fine run, of the spectrum's own spread",
            "median of the samples, in mK², off RK45's",
        ),
        rows,
    )
    picture_of_spectra(samples)
    yield (
        "![A noisy spectrum, the mean of its samples by the authors' RK45, by the default in ten calls and by the "
        "fitted plan in eight, and what these two leave out](../images/science-spectra.png)"
    )


def distance(x: Float64, to: Float64) -> Float64:
    """Of each spectrum, the root mean square over its samples."""
    return np.sqrt(np.mean((x - to) ** 2, axis=(1, 2, 3, 4)))


def in_mk2(x: Float64) -> Float64:
    """The network's numbers as mK², by the package's constants."""
    home, _ = packages.network_file("psdenoiser", "model.py")
    with np.load(home / "constants.npz") as constants:
        return 10 ** ((x + 1) / 2 * constants["mean_std"] + constants["mean_mean"])


def median_off(x: Float64, to: Float64) -> Float64:
    """What astronomers use is the median of the samples in mK²: its deviation in per cent, the median over the bins."""
    one, other = np.median(in_mk2(x), axis=1), np.median(in_mk2(to), axis=1)
    return 100 * np.median(np.abs(one / other - 1), axis=(1, 2, 3))


def picture_of_spectra(samples: dict[str, Float64]) -> None:
    _, noisy = spectra()
    reference = samples["RK45 of the authors"][0, :, 0].mean(0)
    names = [f"default, {SPECTRA_CALLS[1]}", f"fitted, {SPECTRA_FITS[0]}"]
    shown = {"noisy spectrum": noisy[FITTED, 0].numpy(), "RK45 of the authors": reference}
    shown |= {f"{name} calls": samples[name][0, :, 0].mean(0) for name in names}
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(shown) + len(names))
    low, high = reference.min(), reference.max()
    for ax, (name, values) in zip(axes, shown.items(), strict=False):
        drawn = ax.imshow(values, origin="lower", vmin=low, vmax=high, aspect="auto")
        ax.set_title(name, fontsize=9)
    figure.colorbar(drawn, ax=list(axes[: len(shown)]), location="bottom", label="log power, the network's units")
    for ax, name in zip(axes[len(shown) :], names, strict=True):
        off = samples[name][0, :, 0].mean(0) - reference
        drawn = ax.imshow(off, origin="lower", cmap="RdBu", vmin=-0.01, vmax=0.01, aspect="auto")
        ax.set_title(f"{name} − RK45", fontsize=9)
    figure.colorbar(drawn, ax=list(axes[len(shown) :]), location="bottom", label="difference")
    for ax in axes:
        ax.set(xlabel="k∥, bin", xticks=[0, 8, 15])
        ax.set_yticks([0, 16, 31])
    axes[0].set_ylabel("k⊥, bin")
    figure.savefig(DOCS / "images" / "science-spectra.png", dpi=110, metadata={"Software": None})


# -------------------------------------------------------------------- galaxies


def galaxy_part() -> Iterator[str]:
    """Galaxies"""
    rows, pictures = [], {}
    for name, count in GALAXIES.items():
        network = packages.load(name)
        test = initial_noise((TEST_GALAXIES, *network.shape), 5).astype(np.float32)
        begun = PLMSSolver(network.schedule).plan(8, prediction=network.prediction, sample_shape=network.shape)
        level = begun.levels[0]
        grid = {"prediction": network.prediction, "sample_shape": network.shape}

        def run(plan: Plan, network: Any = network, x: Any = test * level.sigma) -> dict[str, Any]:
            began = time.perf_counter()
            result = plan.run(network.model, x, prediction=network.prediction)
            return {"x": result, "seconds": time.perf_counter() - began}

        fine_plan = PLMSSolver(network.schedule).plan(FINE, **grid)
        assert fine_plan.levels[0] == level
        fine = ran(f"{name}-fine", functools.partial(run, fine_plan))
        pictures[name] = {f"fine, {FINE}": fine["x"]}
        x = initial_noise((count, *network.shape), 6).astype(np.float32)
        for calls in GALAXY_CALLS:
            plans = {
                "DDIM": DDIMSolver(network.schedule).plan(calls, **grid),
                "default": PLMSSolver(network.schedule).plan(calls, **grid),
                "fitted": fitted_plan(name, calls, network.model, network, x),
            }
            row = [name, calls]
            for method, plan in plans.items():
                found = ran(f"{name}-{method}-{calls}", functools.partial(run, plan))
                off = np.sqrt(np.mean((found["x"] - fine["x"]) ** 2, axis=(1, 2, 3), dtype=np.float64))
                row.append(f"{np.median(off):.4f} (worst {off.max():.3f})")
                pictures[name][f"{method}, {calls}"] = found["x"]
            rows.append([*row, f"{found['seconds'] / TEST_GALAXIES:.2f}"])
    yield (
        f"{TEST_GALAXIES} galaxies of each network: the median root mean square to a fine run of {FINE} calls from the "
        f"same noise. Their values are log brightness, with a deviation of about one. The fits saw other noise."
    )
    yield table(("network", "calls", "DDIM", "default", "fitted", "seconds a galaxy"), rows)
    picture_of_galaxies(pictures)
    yield (
        "![Galaxies of two surveys from the same noise: in five calls by DDIM, the default and the fitted plan, in "
        "ten by the fitted plan, and in 256](../images/science-galaxies.png)"
    )


def picture_of_galaxies(pictures: dict[str, dict[str, Any]]) -> None:
    columns = ["DDIM, 5", "default, 5", "fitted, 5", "fitted, 10", f"fine, {FINE}"]
    figure = Figure(figsize=(1.6 * len(columns), 3.3 * len(pictures)), layout="constrained")
    axes = figure.subplots(2 * len(pictures), len(columns), squeeze=False)
    rows = [(network, runs, i) for network, runs in pictures.items() for i in range(2)]
    for line, (network, runs, i) in zip(axes, rows, strict=True):
        low, high = np.quantile(runs[columns[-1]][i], (0.01, 0.999))
        for ax, column in zip(line, columns, strict=True):
            ax.imshow(runs[column][i, 0], cmap="magma", vmin=low, vmax=high)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(network, fontsize=9)
    for ax, column in zip(axes[0], columns, strict=True):
        ax.set_title(f"{column} calls", fontsize=9)
    figure.savefig(DOCS / "images" / "science-galaxies.png", dpi=110, metadata={"Software": None})


PARTS: dict[str, Callable[[], Iterator[str]]] = {"spectra": spectra_part, "galaxies": galaxy_part}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS], help="one part alone: prints it and writes no page")
    chosen = parser.parse_args().part
    texts = [heading("numpy", "torch", "scipy", "pndm_solvers")]
    for name in [chosen] if chosen else PARTS:
        texts += [f"### {PARTS[name].__doc__}", *PARTS[name]()]
    text = "\n\n".join(texts)
    print(text)
    if not chosen:
        fill_page(DOCS / "development" / "science.md", Path(__file__).name, text)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; the same command goes on from here") from None
