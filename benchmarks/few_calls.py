"""How far from the network's own limit is each solver, on each time grid, at a budget of model calls?

For each bundled network, the median over the starts of the root-mean-square distance between a
sample and the one that F-PNDM makes from the same start with 1,000 calls, in units of pixel values
in [-1, 1]. Prints a Markdown table; the lowest figure of each column is marked.

    python benchmarks/few_calls.py
"""

import datetime
import platform

import torch
from tqdm import tqdm

from pndm_solvers import SPACINGS, DDIMSolver, PLMSSolver, PNDMSolver, PRKSolver, initial_noise
from pndm_solvers.reference import NETWORK_NAMES, load_network

CALLS = (5, 8, 10, 15, 20, 50)
STARTS = {"digits": 64, "fashion": 32}


def main() -> None:
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}")
    for name in NETWORK_NAMES:
        network = load_network(name)
        schedule = network.schedule
        x = torch.from_numpy(initial_noise((STARTS[name], *network.shape), seed=1)).float()
        label = torch.arange(len(x)) % len(network.labels) if network.labels else None
        model = network.model(label)

        def sample(solver, calls, spacing, model=model, x=x, network=network):
            with torch.inference_mode():
                return solver.sample(model, x, max_model_calls=calls, spacing=spacing, prediction=network.prediction)

        limit = sample(PNDMSolver(schedule), 1000, "quadratic")
        solvers = (
            DDIMSolver(schedule),
            PRKSolver(schedule, "heun"),
            PLMSSolver(schedule, starter="heun"),
            PLMSSolver(schedule),
            PNDMSolver(schedule),
        )
        rows = [(solver, spacing) for solver in solvers for spacing in SPACINGS]
        errors = {
            row: [(sample(row[0], calls, row[1]) - limit).pow(2).mean((1, 2, 3)).sqrt().median() for calls in CALLS]
            for row in tqdm(rows, desc=name)
        }
        lowest = [min(float(column[i]) for column in errors.values()) for i in range(len(CALLS))]
        print(f"\n| {name} | " + " | ".join(map(str, CALLS)) + " |\n|---|" + "---|" * len(CALLS))
        for (solver, spacing), figures in errors.items():
            cells = [
                f"**{f:.1e}**" if float(f) == best else f"{f:.1e}" for f, best in zip(figures, lowest, strict=True)
            ]
            print(f"| {solver.name}, {spacing} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
