"""The noise of a run is a function of seed, sample and row, or comes from the generators that are handed in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES, numbers, same
from runs import LINEAR, ONE_OF_EACH_KIND, START, smooth

from pndm_solvers import DDIMSolver, DDPMSolver, initial_noise
from pndm_solvers.noise import NoiseSource

DDPM = DDPMSolver(LINEAR).plan(6)


def test_noise_has_an_address():
    """It does not depend on what was drawn before, and each address has numbers of its own."""
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
    # Fewer numbers of the same stream are its first: a larger picture begins with the noise of a smaller one.
    assert np.array_equal(source.draw(3, np.empty((2, 5))), first[:2])


def test_noise_is_the_same_in_every_library_and_rounded_to_every_dtype():
    for row in (-1, 5):
        exact = NoiseSource.of([3, 4], None).draw(row, np.empty((2, 6)))
        for library in LIBRARIES:
            for dtype in library.dtypes:
                noise = NoiseSource.of([3, 4], None).draw(row, library.array(np.zeros((2, 6)), dtype))
                assert same(noise, library.array(exact, dtype))


def test_noise_is_standard_normal():
    draws = np.concatenate([NoiseSource(seed=0).draw(row, np.empty((50, 400))) for row in range(5)])
    assert abs(draws.mean()) < 4 / draws.size**0.5
    assert abs(draws.var() - 1) < 4 * (2 / draws.size) ** 0.5
    assert abs(np.corrcoef(draws[:50].ravel(), draws[50:100].ravel())[0, 1]) < 0.03


def test_each_row_adds_its_own_noise():
    """A stochastic run is repeated by hand, from the numbers of the plan and the noise of each row."""
    for solver in (DDPMSolver(LINEAR), DDPMSolver(LINEAR, "fixed_large"), DDIMSolver(LINEAR, eta=0.7)):
        plan = solver.plan(7)
        x = START
        for k, row in enumerate(plan.rows):
            z = NoiseSource(seed=9).draw(k, like=x)
            epsilon = smooth(x, np.full(4, row.t))
            x = row.states[0][1] * x + row.answers[0][1] * epsilon + row.noise * z
        np.testing.assert_allclose(plan.run(smooth, START, seed=9), x, rtol=1e-12)


def test_one_seed_for_the_batch_gives_each_sample_its_own_stream():
    together = DDPM.run(smooth, START, seed=5)
    assert np.array_equal(DDPM.run(smooth, START[:2], seed=5), together[:2])
    assert not np.any(DDPM.run(smooth, START, seed=6) == together)


def test_initial_noise_is_the_noise_of_no_row():
    like = np.float32(START)
    start = initial_noise(like.shape, seed=0, like=like)
    assert start.dtype == np.float32
    assert not np.any([start == NoiseSource(seed=0).draw(row, like) for row in range(3)])
    assert np.array_equal(initial_noise((2, 3), seed=np.int64(0)), START[:2])
    for message, options in (
        ("2 entries for a batch of 4", {"seed": [1, 2]}),
        ("like has", {"seed": 0, "like": like.T}),
    ):
        with pytest.raises(ValueError, match=message):
            initial_noise(like.shape, **options)


def test_plans_without_noise_draw_nothing():
    generator = torch.Generator().manual_seed(0)
    before, global_before = generator.get_state(), torch.get_rng_state()
    for solver in ONE_OF_EACH_KIND[:2]:
        solver.sample(smooth, torch.from_numpy(START), 5, generator=generator)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), global_before)


def test_generators_decide_the_noise():
    """One of torch or of NumPy for the batch, one for each sample, or torch's global one."""
    x = torch.from_numpy(START)

    def run(generator):
        return DDPM.run(smooth, x, generator=generator)

    assert torch.equal(run(torch.Generator().manual_seed(3)), run(torch.Generator().manual_seed(3)))
    assert not torch.equal(run(torch.Generator().manual_seed(3)), run(torch.Generator().manual_seed(4)))
    several = run([torch.Generator().manual_seed(i) for i in range(4)])
    alone = DDPM.run(smooth, x[2:3], generator=torch.Generator().manual_seed(2))
    assert torch.equal(several[2:3], alone)
    for library in LIBRARIES:
        if library.dtypes[-1] == "float64":
            samples = [
                DDPM.run(smooth, array, generator=np.random.default_rng(1)) for array in (START, library.array(START))
            ]
            np.testing.assert_allclose(numbers(samples[1]), samples[0], rtol=1e-12)
    torch.manual_seed(0)
    first = DDPM.run(smooth, x)
    torch.manual_seed(0)
    assert torch.equal(first, DDPM.run(smooth, x))


@pytest.mark.parametrize("kind", ["independent", "brownian"])
def test_a_part_of_the_samples_has_their_noise(kind):
    """In any order of drawing, so what a path keeps of its draws belongs to its sample."""
    span = DDPMSolver(LINEAR).plan(5).spans[2]
    like = np.empty((6, 3))
    whole = NoiseSource(7, kind=kind).draw(2, like, span)
    for first in (0, 2, 5):
        part = NoiseSource(7, kind=kind, first=first).draw(2, like[first:], span)
        np.testing.assert_array_equal(part, whole[first:])


def test_a_part_cannot_be_saved(tmp_path):
    state = DDPMSolver(LINEAR).plan(5).start(np.ones((2, 3)), seed=7)
    with pytest.raises(ValueError, match="the run begins at sample 3 of its seed, and a file holds the seed alone"):
        replace(state, noise=NoiseSource(7, first=3)).save(tmp_path / "run.safetensors")
