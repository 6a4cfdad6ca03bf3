"""Does a run that is killed at any moment end, when it is resumed, with the bits of one that never was?

50 trials for a deterministic and for a stochastic plan, on the digits network: a process samples with `checkpoint=`,
gets SIGKILL after a random time, and another process makes the same call. Prints one Markdown row a plan: how many
samples were bit-identical, and in which phase the kills fell.

    python benchmarks/kill_and_resume.py [TRIALS]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hashlib
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path

from tables import heading
from tqdm import tqdm

from pndm_solvers import DDPMSolver, PNDMSolver, State

RUNS = {
    "F-PNDM, 12 steps": (PNDMSolver, {"num_inference_steps": 12}, None),
    "DDPM, 20 steps, seed 7": (DDPMSolver, {"num_inference_steps": 20, "spacing": "trailing"}, 7),
}
PHASES = ["before the first file", "in a write", "between writes", "when done"]


def sample(name: str, path: str | None, pipe) -> None:
    """Tells when it begins, then how many calls it made and the sample's digest."""
    pipe.send("begins")
    import torch

    from pndm_solvers import initial_noise
    from pndm_solvers.reference import load_network

    torch.set_num_threads(1)
    network, calls = load_network("digits"), []

    def model(x, t):
        calls.append(t)
        return network(x, t)

    make, options, seed = RUNS[name]
    x = initial_noise((16, *network.shape), seed=0, like=torch.empty(16, *network.shape))
    with torch.no_grad():
        x0 = make(network.schedule).sample(
            model, x, prediction=network.prediction, seed=seed, checkpoint=path, **options
        )
    pipe.send((len(calls), hashlib.sha256(x0.numpy().tobytes()).hexdigest()))


def launched(context, name: str, path: Path | None):
    """A process that is about to sample, and its end of the pipe."""
    mine, its = context.Pipe()
    process = context.Process(target=sample, args=(name, path and str(path), its))
    process.start()
    its.close()
    assert mine.recv() == "begins"
    return process, mine


def finished(context, name: str, path: Path | None):
    """(calls, digest), and the seconds that it took."""
    process, pipe = launched(context, name, path)
    begin = time.perf_counter()
    result = pipe.recv()
    seconds = time.perf_counter() - begin
    process.join()
    return result, seconds


def killed(context, name: str, path: Path, delay: float) -> str:
    """The phase in which SIGKILL found the run."""
    process, pipe = launched(context, name, path)
    time.sleep(delay)
    process.kill()
    process.join()
    pipe.close()
    if list(path.parent.glob(".*.partial")):
        return "in a write"
    if not path.exists():
        return "before the first file"
    return "when done" if State.load(path).done else "between writes"


def main(trials: int) -> None:
    print(f"{heading()}\n")
    print("| run | calls | bit-identical | calls made again | " + " | ".join(f"killed {p}" for p in PHASES) + " |")
    print("|---|" + "---|" * (3 + len(PHASES)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pndm_solvers.reference.unet"])
    clock, failed = random.Random(0), 0
    for name in RUNS:
        (calls, digest), _ = finished(context, name, None)
        with tempfile.TemporaryDirectory() as folder:
            (_, kept), seconds = finished(context, name, Path(folder, "whole"))
        identical, again, phases = 0, 0, dict.fromkeys(PHASES, 0)
        for _ in tqdm(range(trials), leave=False):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "run")
                phases[killed(context, name, path, clock.uniform(0, 1.05 * seconds))] += 1
                row = State.load(path).row if path.exists() else 0
                (rest, resumed), _ = finished(context, name, path)
                identical += resumed == digest == kept
                again += rest != calls - row
        failed += trials - identical + again
        cells = [str(calls), f"{identical} of {trials}", str(again), *map(str, phases.values())]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
