"""How near do our schedulers come on a flow's own levels, beside FlowMatchEuler's? On exact distributions.

Each row is a distribution, a shift and a number of steps. All methods are asked at the same σ: those that
`FlowMatchEulerDiscreteScheduler` makes, or FLUX's, evenly from 1 to 1/N before the shift. The columns are the root mean
square of Euler's error, and the other methods' errors as shares of it.

    python benchmarks/flow_matching.py
"""

import argparse
from itertools import product

import diffusers
import numpy as np
import torch
from tables import heading, table
from tqdm import tqdm

from pndm_solvers import NoiseSchedule
from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.problems import PROBLEMS, exact_problem

METHODS = {
    "PLMS": (ours.PLMSScheduler, {}),
    "PLMS of order 2": (ours.PLMSScheduler, {"multistep_order": 2}),
    "DPM-Solver++ 2M": (ours.DPMSolverMultistepScheduler, {}),
    "UniPC": (ours.UniPCMultistepScheduler, {}),
    "DEIS": (ours.DEISMultistepScheduler, {}),
}


def error(problem, exact, kind, sigmas, **options):
    """Of samples from the given σ, which are shifted already."""
    scheduler = kind(shift=1.0, prediction_type=problem.prediction.type, **options)
    scheduler.set_timesteps(sigmas=sigmas)
    x = torch.from_numpy(problem.x)
    for t in scheduler.timesteps:
        answer = problem.model(x.numpy(), np.full(len(x), float(t) / 1000))
        x = scheduler.step(torch.from_numpy(answer), t, x).prev_sample
    return float((x - exact).square().mean().sqrt())


def levels(shift, steps):
    """σ as FlowMatchEuler makes them, and as FLUX's pipeline passes them."""
    own = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    own.set_timesteps(steps)
    even = np.linspace(1.0, 1 / steps, steps)
    return {"own": own.sigmas[:-1].double().numpy(), "FLUX": shift * even / (1 + (shift - 1) * even)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--starts", type=int, default=64)
    options = parser.parse_args()
    rows = []
    for name in tqdm(options.problems, desc="problems"):
        problem = exact_problem(name, NoiseSchedule.rectified_flow(t_min=1e-6), starts=options.starts)
        exact = torch.from_numpy(problem.reference().ends)
        for shift, steps in product((1.0, 3.0), (10, 20)):
            for kind, sigmas in levels(shift, steps).items():
                euler = error(problem, exact, ours.DDIMScheduler, sigmas, clip_sample=False)
                shares = [error(problem, exact, method, sigmas, **own) / euler for method, own in METHODS.values()]
                rows.append([name, f"{shift:g}", steps, kind, f"{euler:.2g}", *(f"{share:.2f}" for share in shares)])
    print(heading("torch", "diffusers"))
    print(table(["problem", "shift", "steps", "σ", "Euler's error", *METHODS], rows))


if __name__ == "__main__":
    main()
