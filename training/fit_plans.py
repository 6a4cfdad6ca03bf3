"""The plans that are shipped with the bundled networks: `python training/fit_plans.py fashion --guidance 2`.

Each is written to `pndm_solvers/reference/plans` once it is fitted, and one that is there is kept: a run that was
stopped goes on. Delete a file to fit its plan anew. The first seven of fashion's ten classes are fitted to, so that the
benchmarks can judge on the others.

Searches from other defaults end in other minima. So a plan is replaced only by one whose held-out samples err less.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pndm_solvers import Pilot, initial_noise
from pndm_solvers.fit import search
from pndm_solvers.reference import NETWORK_NAMES, PLANS, load_network

CALLS = (4, 5, 6, 8, 10, 15, 20)
CLASSES = 7
SEED = 2026
# A plan that is shipped may cost twice what a user's does.
search.BETTER, search.ROUNDS, search.LAST_ROUNDS, search.LEAST_GAIN = 4, 4, 16, 0.003


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("network", choices=NETWORK_NAMES)
    parser.add_argument("--guidance", type=float, default=1.0, help="scale of classifier-free guidance; 1 is none")
    parser.add_argument("--samples", type=int, default=128, help="half of them are fitted to, half judge")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the network")
    parser.add_argument("--folder", type=Path, default=PLANS)
    arguments = parser.parse_args()

    torch.backends.cudnn.allow_tf32 = False  # full float32 on any device
    network = load_network(arguments.network, arguments.device)
    guidance, count = arguments.guidance, arguments.samples
    # In pairs, since every other sample judges: both halves have every class.
    label = torch.arange(count, device=arguments.device) // 2 % CLASSES
    condition = {"label": label} if network.labels else None
    model = network.guided(guidance)
    x = torch.from_numpy(initial_noise((count, *network.shape), SEED)).float().to(arguments.device)
    pilot, note = None, f"{network.name}, guidance {guidance:g}"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for calls in arguments.calls:
        path = arguments.folder / f"{network.name}-{guidance:g}-{calls}.json"
        if path.exists():
            continue
        if pilot is None:
            pilot = Pilot.record(
                model, network.schedule, x, prediction=network.prediction, condition=condition, progress=True
            )
        fit = pilot.fit(model, calls, progress=True, note=note)
        print(f"{network.name}, {fit}\n", flush=True)
        if fit.interrupted:
            break
        path.write_text(fit.plan.to_json(indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
