"""The same bits again: in any batch, order, process, library and thread."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, all_solvers, deterministic_solvers, named

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver, initial_noise
from pndm_solvers.adapters.diffusers import DDPMScheduler, PLMSScheduler
from pndm_solvers.noise import NoiseSource

LINEAR = SCHEDULES["linear"]
STOCHASTIC = [DDPMSolver(LINEAR), DDPMSolver(LINEAR, "fixed_large"), DDIMSolver(LINEAR, eta=0.5)]
START = initial_noise((16, 3), seed=0)


def smooth(x, t):
    """Elementwise, in operations that IEEE 754 rounds alike everywhere: NumPy and torch give the same bits."""
    return x / (1 + x * x) + x**0 * t[:, None] / 1000


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("solver", deterministic_solvers(LINEAR), ids=named)
def test_a_sample_does_not_depend_on_its_batch(solver, convert):
    plan = solver.plan(8)
    start = convert(START)
    together = plan.run(smooth, start)
    for part in (slice(0, 1), slice(5, 6), slice(3, 10), slice(None, None, 3)):
        assert (plan.run(smooth, start[part]) == together[part]).all()
    order = np.random.default_rng(0).permutation(16)
    assert (plan.run(smooth, start[order]) == together[order]).all()


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("solver", STOCHASTIC, ids=named)
def test_a_sample_with_its_own_seed_does_not_depend_on_its_batch(solver, convert):
    plan, seeds = solver.plan(8), np.arange(100, 116)
    start = convert(START)
    together = plan.run(smooth, start, seed=seeds)
    for part in (slice(0, 1), slice(5, 6), slice(3, 10), slice(None, None, 3)):
        assert (plan.run(smooth, start[part], seed=seeds[part]) == together[part]).all()
    order = np.random.default_rng(0).permutation(16)
    assert (plan.run(smooth, start[order], seed=seeds[order]) == together[order]).all()
    assert not (plan.run(smooth, start, seed=seeds[order]) == together).all()  # the noise does matter


def test_noise_has_an_address():
    """By seed and row alone: not what was drawn before, and each address has numbers of its own."""
    source, like = NoiseSource.of(7, None), np.empty((4, 5))
    first = source.draw(3, like)
    source.draw(2, like)
    assert np.array_equal(source.draw(3, like), first)
    draws = {
        source.draw(row, like).tobytes()
        for source in (NoiseSource.of(seed, None) for seed in range(5))
        for row in range(-1, 20)
    }
    assert len(draws) == 5 * 21
    streams = NoiseSource.of(7, None).draw(0, np.empty((50, 5)))
    assert len(np.unique(streams[:, 0])) == 50
    # fewer numbers of the same stream are its first: a larger picture begins with the noise of a smaller one
    assert np.array_equal(source.draw(3, np.empty((2, 5))), first[:2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_noise_of_another_dtype_is_the_same_noise_rounded(dtype):
    exact = NoiseSource.of([3, 4], None).draw(5, torch.empty(2, 6, dtype=torch.float64))
    assert torch.equal(NoiseSource.of([3, 4], None).draw(5, torch.empty(2, 6, dtype=dtype)), exact.to(dtype))


def test_libraries_agree_to_the_last_bit():
    for solver in all_solvers(LINEAR):
        plan = solver.plan(6)
        x = plan.run(smooth, START, seed=3)
        # A fused multiply-add rounds once where a product and a sum round twice: 157·ε is as near as they come.
        np.testing.assert_allclose(plan.run(smooth, torch.from_numpy(START), seed=3).numpy(), x, rtol=1e-12, atol=1e-13)
    for row in range(-1, 10):
        noise = [
            NoiseSource.of([5, 6], None).draw(row, like) for like in (np.empty((2, 9)), torch.empty(2, 9).double())
        ]
        assert np.array_equal(noise[0], noise[1].numpy())


def digest():
    """Of the samples of all solvers, each by its seed."""
    samples = [solver.sample(smooth, START, 8, seed=range(16)) for solver in all_solvers(LINEAR) + STOCHASTIC]
    return sha256(np.stack(samples).tobytes()).hexdigest()


def test_another_process_gives_the_same_bits():
    code = "from test_reproducibility import digest; print(digest())"
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.stdout.strip() == digest(), run.stderr


@pytest.mark.parametrize("solver", [PLMSSolver(LINEAR), STOCHASTIC[0]], ids=named)
def test_64_runs_on_8_threads_over_one_solver(solver):
    """Of different lengths, on one solver object, with a model in which threads change places."""

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
    """Each thread a pipeline's loop: it sets the same times, then steps, each time from the sample it got back."""

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


class switching_often:  # noqa: N801 — read as a word
    """Threads change places a thousand times as often as they would."""

    def __enter__(self):
        self.interval = sys.getswitchinterval()
        sys.setswitchinterval(5e-6)

    def __exit__(self, *_):
        sys.setswitchinterval(self.interval)
