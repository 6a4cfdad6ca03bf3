"""A run gives the same bits in another process, and beside others on many threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import pytest
import torch
from conftest import all_solvers, named
from runs import LINEAR, smooth

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver, initial_noise
from pndm_solvers.adapters.diffusers import DDPMScheduler, PLMSScheduler

SOLVERS = [*all_solvers(LINEAR), DDPMSolver(LINEAR, "fixed_large"), DDIMSolver(LINEAR, eta=0.5)]


def digest():
    """The SHA-256 of one sample by each solver."""
    start = initial_noise((4, 3), seed=0)
    samples = [solver.sample(smooth, start, 8, seed=range(4)) for solver in SOLVERS]
    return sha256(np.stack(samples).tobytes()).hexdigest()


def test_another_process_gives_the_same_bits():
    code = f"from {__name__} import digest; print(digest())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == digest(), run.stderr


@contextmanager
def switching_often():
    """Threads change places a thousand times as often as they would."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("solver", [PLMSSolver(LINEAR), DDPMSolver(LINEAR)], ids=named)
def test_64_runs_on_8_threads_over_one_solver(solver):
    """The runs are of different lengths, with a model in which threads change places."""

    def model(x, t):
        return x.sin() + t[:, None] / 1000

    def run(seed):
        x = initial_noise((3, 50), seed, like=torch.empty(3, 50))
        return solver.sample(model, x, 4 + seed % 5, seed=seed)

    alone = [run(seed) for seed in range(64)]
    with switching_often(), ThreadPoolExecutor(8) as threads:
        together = list(threads.map(run, range(64)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("make", [PLMSScheduler, DDPMScheduler])
def test_64_runs_on_8_threads_over_one_scheduler_of_diffusers(make):
    """Each thread is a pipeline's loop: it sets the same times, then steps, each time from the sample it got back."""

    def run(scheduler, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 50, generator=generator)
        scheduler.set_timesteps(6)
        options = {"generator": generator} if make is DDPMScheduler else {}
        for t in scheduler.timesteps:
            x = scheduler.step(x.sin(), t, x, **options).prev_sample
        return x

    alone = [run(make(), seed) for seed in range(64)]
    scheduler = make()
    with switching_often(), ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda seed: run(scheduler, seed), range(64)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
