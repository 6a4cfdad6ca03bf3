"""How near to the right end do our samplers come on grids that other programs choose?

ComfyUI's nine schedulers, at full denoise and at half, hand 20 steps to our samplers and to ComfyUI's (`comfyui.py`).
The models are exact mixtures in four forms: ε and v on Stable Diffusion's schedule, called at the nearest trained time
as in ComfyUI; flow with Stable Diffusion 3's shift; flow with Flux's. The error of a sample is its root-mean-square
distance to the end of the exact flow from the same start. A full denoise begins at pure noise, a half at a noised
draw. Then the script counts on how many of the 18 grids one sampler is nearer than another, and in which share of them
`plms` is at or below ComfyUI's samplers.

    python benchmarks/given_grids.py
    python benchmarks/given_grids.py --steps 10 20 30 --seed 101

With --network the model is a bundled network in k-diffusion's form, on the sigmas of its own table, and the ends are
those of a fine run from the same start: PLMS of order 2, 300 steps. A half denoise begins at a noised sample of the
network.

    python benchmarks/given_grids.py --network digits

With --diffusers the grids are diffusers' spacings (`diffusers_grids.py`), which are first compared with diffusers' own
schedulers. Our solvers run on their times, and on the default grid from the same start.

    python benchmarks/given_grids.py --diffusers
"""

import argparse
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfyui
import diffusers_grids
import numpy as np
import torch
from tables import heading, table
from tqdm import tqdm

from pndm_solvers import DDIMSolver, DPMMultistepSolver, NoiseSchedule, PLMSSolver
from pndm_solvers.adapters import k_diffusion
from pndm_solvers.analytic import Distribution
from pndm_solvers.noise import initial_noise
from pndm_solvers.prediction import conversion
from pndm_solvers.problems import PROBLEMS
from pndm_solvers.reference import NETWORK_NAMES, load_network
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import SCHEDULES
from pndm_solvers.solver import Solver

CLEAN = Level(0.0, 1.0, 0.0)
DENOISE = (1.0, 0.5)
STARTS = {"exact": 64, "digits": 16, "fashion": 8}

# Samplers with one call a step, or one more. Our `ddim` is ComfyUI's `euler`, our `dpmpp_2m` is its `dpmpp_2m`.
OURS = ("plms", "plms_classical", "lms", "deis", "dpmpp_3m", "uni_pc", "uni_pc_bh2")
SAMPLERS: dict[str, Callable] = {
    **{f"ComfyUI {name}": sampler for name, sampler in comfyui.SAMPLERS.items()},
    **{name: partial(k_diffusion.SAMPLERS[name], disable=True) for name in OURS},
}
COUNTED = (
    *(("plms", f"ComfyUI {name}") for name in comfyui.SAMPLERS),
    ("plms_classical", "plms"),
    *(("plms_classical", f"ComfyUI {name}") for name in comfyui.SAMPLERS),
)
Rows = dict[str, dict[str, float]]  # grid -> sampler -> median error


@dataclass(frozen=True)
class Family:
    """A model in ComfyUI's form, and the end to which its flow carries a state `(B, …)` at a sigma."""

    name: str
    sampling: comfyui.Sampling
    model: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    end: Callable[[torch.Tensor, float], torch.Tensor]
    pictures: torch.Tensor
    noise: torch.Tensor


# ------------------------------------------------------------------ families


def level(sigma: float, flow: bool) -> Level:
    """The level of ComfyUI's states at `sigma`."""
    return Level(sigma, 1 - sigma if flow else 1.0, sigma)


def exact_family(
    name: str, distribution: Distribution, sampling: comfyui.Sampling, prediction: str, seed: int
) -> Family:
    """The perfect network of a distribution; `prediction` is what it answers."""

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        now = float(sigma[0])
        if sampling.flow:
            return torch.from_numpy(distribution.posterior(x.numpy(), 1 - now, now)[0])
        # The network sees x/√(1 + σ²) beside the nearest trained time, and D follows with σ itself.
        alpha, scaled = 1 / np.hypot(1, now), now / np.hypot(1, now)
        near = sampling.sigma(sampling.timestep(now))
        x_0, epsilon = distribution.posterior(alpha * x.numpy(), 1 / np.hypot(1, near), near / np.hypot(1, near))
        answer = {"epsilon": epsilon, "v_prediction": (epsilon - near * x_0) / np.hypot(1, near)}[prediction]
        p, q = conversion(prediction, "sample", alpha, scaled)
        return p * alpha * x + q * torch.from_numpy(answer)

    def end(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.from_numpy(distribution.flow(x.numpy(), level(sigma, sampling.flow), CLEAN))

    pictures = torch.from_numpy(distribution.sample(STARTS["exact"], seed=seed + 1))
    return Family(name, sampling, model, end, pictures, torch.from_numpy(initial_noise(tuple(pictures.shape), seed)))


def exact_families(problem: str, seed: int = 1) -> list[Family]:
    distribution, stable = PROBLEMS[problem](), comfyui.discrete(NoiseSchedule.scaled_linear())
    return [
        exact_family("ε", distribution, stable, "epsilon", seed),
        exact_family("v", distribution, stable, "v_prediction", seed),
        exact_family("flow, shift 3", distribution, comfyui.discrete_flow(), "flow", seed),
        exact_family("Flux", distribution, comfyui.flux(), "flow", seed),
    ]


def network_family(name: str, seed: int = 1, steps: int = 300) -> Family:
    """A bundled network, which accepts real times, with its classes in turn."""
    network = load_network(name)
    schedule, prediction = network.schedule, network.prediction
    label = torch.arange(STARTS[name]) % len(network.labels) if network.labels else None
    answer = network.model(label)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        at = schedule.level_at(float(sigma[0]))
        p, q = conversion(prediction, "sample", at.alpha, at.sigma)
        return p * at.alpha * x + q * answer(at.alpha * x, torch.full((len(x),), at.t, dtype=x.dtype))

    def end(x: torch.Tensor, sigma: float) -> torch.Tensor:
        at = schedule.level_at(sigma)
        plan = PLMSSolver(schedule, order=2).plan(steps, spacing="quadratic", start=at.t)
        return plan.run(answer, at.alpha * x, prediction=prediction)

    def noise(seed: int) -> torch.Tensor:
        return torch.from_numpy(initial_noise((STARTS[name], *network.shape), seed)).float()

    sampling = comfyui.discrete(schedule)
    top = float(sampling.sigmas[-1])
    pictures = end(comfyui.noised(sampling, 0, noise(seed + 1), top), top)
    return Family(name, sampling, model, end, pictures, noise(seed))


# ------------------------------------------------------------------ measuring


def median_error(result: Any, end: Any) -> float:
    """The median over the samples of their root-mean-square distance."""
    difference = (np.asarray(result, np.float64) - np.asarray(end, np.float64)).reshape(len(end), -1)
    return float(np.median(np.sqrt((difference**2).mean(1))))


def runs(family: Family, steps: int) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of every scheduler's grid its name, start, sigmas and end."""
    ends: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}
    grids = list(itertools.product(DENOISE, comfyui.SCHEDULERS))
    for denoise, scheduler in tqdm(grids, desc=family.name, leave=False):
        given = comfyui.given_sigmas(family.sampling, scheduler, steps, denoise)
        sigmas, top = torch.from_numpy(np.ascontiguousarray(given)).to(family.noise.dtype), float(given[0])
        key = denoise, round(top, 12)
        if key not in ends:
            picture = 0 if denoise == 1 else family.pictures
            x = comfyui.noised(family.sampling, picture, family.noise, top)
            ends[key] = x, family.end(x, top)
        x, end = ends[key]
        yield f"{scheduler}, {denoise:g}", x, sigmas, end


def measure(family: Family, steps: int) -> Rows:
    """The errors of every sampler on every scheduler's grid, from one start and to one end for each grid."""
    return {
        grid: {name: median_error(sample(family.model, x, sigmas), end) for name, sample in SAMPLERS.items()}
        for grid, x, sigmas, end in runs(family, steps)
    }


SOLVERS: dict[str, Callable[[NoiseSchedule], Solver]] = {
    "DDIM": DDIMSolver,
    "DPM-Solver++ 2M": lambda schedule: DPMMultistepSolver(schedule, 2, lower_order_final=False),
    "plms": PLMSSolver,
    "plms, classical": lambda schedule: PLMSSolver(schedule, weights="classical"),
    "plms, order 2": lambda schedule: PLMSSolver(schedule, order=2),
}


def measure_spacings(problem: str, schedule: NoiseSchedule, steps: int) -> Rows:
    """The errors of our solvers on diffusers' times, and of the default on its own grid from the same start."""
    distribution, rows = PROBLEMS[problem](), {}
    model = distribution.model(schedule)
    noise = initial_noise((STARTS["exact"], distribution.sample(1).shape[1]), 1)
    ends: dict[float, Any] = {}
    for name, rule in diffusers_grids.GRIDS.items():
        times = rule(schedule, steps)
        first = float(times[0])
        if first not in ends:
            ends[first] = distribution.flow(noise, schedule.level(first), schedule.clean)
        plans = {solver: make(schedule).plan(timesteps=times) for solver, make in SOLVERS.items()}
        plans["plms, default grid"] = PLMSSolver(schedule).plan(max_model_calls=steps, start=first)
        rows[name] = {solver: median_error(plan.run(model, noise), ends[first]) for solver, plan in plans.items()}
    return rows


# ------------------------------------------------------------------ tables


def error_table(head: str, rows: Rows) -> str:
    """Each grid's errors, the lowest in bold."""

    def entry(error: float, least: float) -> str:
        return f"**{error:.1e}**" if error == least else f"{error:.1e}"

    names = list(next(iter(rows.values())))
    lines = ([grid, *(entry(errors[name], min(errors.values())) for name in names)] for grid, errors in rows.items())
    return table((head, *names), lines)


def count_table(measured: dict[str, Rows], pairs: Iterable[tuple[str, str]]) -> str:
    """On how many grids the first sampler of each pair is nearer than the second."""

    def count(rows: Rows, better: str, other: str) -> str:
        return f"{sum(errors[better] < errors[other] for errors in rows.values())} of {len(rows)}"

    lines = ([f"{a} before {b}", *(count(rows, a, b) for rows in measured.values())] for a, b in pairs)
    return table(("grids on which", *measured), lines)


def share_table(measured: dict[tuple[str, int], Rows]) -> str:
    """Of `plms`: the shares of rows at or below ComfyUI's samplers, for each family and number of steps, and in all."""
    everything: list[dict[str, float]] = [errors for rows in measured.values() for errors in rows.values()]
    groups = {f"{family}, {steps}": list(rows.values()) for (family, steps), rows in measured.items()}
    lines = []
    for name, rows in {**groups, "all": everything}.items():
        mine = np.array([errors["plms"] for errors in rows])
        theirs = {peer: np.array([errors[f"ComfyUI {peer}"] for errors in rows]) for peer in comfyui.SAMPLERS}
        best = np.min(list(theirs.values()), 0)
        figures = [f"{np.mean(mine <= theirs[peer]):.0%}" for peer in ("ipndm", "dpmpp_2m")]
        figures += [f"{np.max(mine / theirs['euler']):.2f}", f"{np.mean(mine <= 1.5 * best):.0%}"]
        lines.append([name, len(rows), *figures, f"{np.exp(np.log(mine / best).mean()):.2f}"])
    heads = ("plms, steps", "rows", "at or below ipndm", "dpmpp_2m", "worst / Euler", "within 1.5 of the best", "mean")
    return table(heads, lines)


def report_comfyui(titles: dict[str, list[Family]], budgets: list[int]) -> None:
    """The tables of ComfyUI's grids for the families of each problem."""
    shares: dict[tuple[str, int], Rows] = {}
    for (title, families), steps in itertools.product(titles.items(), budgets):
        measured = {}
        for family in families:
            measured[family.name] = rows = shares[f"{title}, {family.name}", steps] = measure(family, steps)
            print(
                f"\n### {title}, {family.name}, {steps} steps\n\n{error_table('scheduler, denoise', rows)}", flush=True
            )
        print(f"\n### {title}, counts, {steps} steps\n\n{count_table(measured, COUNTED)}", flush=True)
    print(f"\n### Shares\n\n{share_table(shares)}", flush=True)


def report_diffusers(problem: str, steps: int) -> None:
    """The tables of diffusers' spacings for one problem, after their check."""
    measured = {}
    for name in ("linear", "scaled_linear", "cosine"):
        schedule = SCHEDULES[name]()
        diffusers_grids.check(schedule, steps)
        measured[name] = rows = measure_spacings(problem, schedule, steps)
        print(f"\n### {problem}, {name} betas\n\n{error_table('spacing', rows)}")
    others = "DDIM", "DPM-Solver++ 2M", "plms, classical", "plms, order 2", "plms, default grid"
    print(f"\n### {problem}, counts\n\n{count_table(measured, (('plms', other) for other in others))}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--network", choices=NETWORK_NAMES, help="a bundled network in the place of the mixtures")
    kind.add_argument("--diffusers", action="store_true", help="diffusers' spacings in the place of ComfyUI's")
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["mixture", "smooth-mixture"])
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument(
        "--seed", type=int, default=1, help="of the starts: 1 is the choosing set's, 101 the testing set's"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # our own advice against such grids
    print(f"{heading('torch')}\n\nMedian errors; the lowest of each grid is bold.")
    with torch.inference_mode():
        if arguments.diffusers:
            for problem, steps in itertools.product(arguments.problems, arguments.steps):
                report_diffusers(problem, steps)
        elif arguments.network:
            family = network_family(arguments.network, arguments.seed)
            report_comfyui({"bundled network": [family]}, arguments.steps)
        else:
            families = {problem: exact_families(problem, arguments.seed) for problem in arguments.problems}
            report_comfyui(families, arguments.steps)


if __name__ == "__main__":
    main()
