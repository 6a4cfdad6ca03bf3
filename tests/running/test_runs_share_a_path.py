"""noise="brownian": runs of one seed follow one path, whatever their number of steps."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from pndm_solvers import DDIMSolver, DDPMSolver, DPMMultistepSolver, NoiseSchedule, PLMSSolver, Restart, SASolver
from pndm_solvers.analytic import GaussianMixture
from pndm_solvers.noise import NoiseSource, initial_noise
from pndm_solvers.plan import State

COSINE = NoiseSchedule.cosine()
RING = GaussianMixture.ring(width=0.3)


def even(solver, steps):
    times = np.linspace(900.0, 150.0, steps + 1)
    return solver.plan(timesteps=times[:-1], stop=times[-1])


def ring(x, t):
    """A hundred points of the plane, as one sample: their paths cost one address."""
    points = x.reshape(-1, 2)
    return RING.model(COSINE)(points, np.full(len(points), t[0])).reshape(x.shape)


def end(solver, steps, kind="brownian", seed=0):
    return even(solver, steps).run(ring, initial_noise((1, 200), 7), seed=seed, noise=kind)


def distance(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_runs_of_more_steps_converge_with_the_declared_strong_order(tau):
    for solver in (PLMSSolver(COSINE, 2, tau=tau), SASolver(COSINE, tau=tau), DPMMultistepSolver(COSINE, tau=tau)):
        lengths = (20, 40, 80, 160)
        ends = [end(solver, steps) for steps in (*lengths, 320)]
        errors = [distance(a, b) for a, b in pairwise(ends)]
        observed = -np.polyfit(np.log(lengths), np.log(errors), 1)[0]
        assert observed == pytest.approx(solver.strong_order, abs=0.25), (solver.name, errors)


def test_ddpm_and_ddim_follow_the_path_too():
    for solver in (DDPMSolver(COSINE), DDIMSolver(COSINE, 1.0)):
        lengths = (40, 80, 160, 320)
        ends = [end(solver, steps) for steps in (*lengths, 640)]
        errors = [distance(a, b) for a, b in pairwise(ends)]
        assert -np.polyfit(np.log(lengths), np.log(errors), 1)[0] == pytest.approx(1, abs=0.25), solver.name


def test_twenty_and_forty_steps_make_one_picture():
    """Nearer than those of another seed by far; with noise by row they are as far apart as two seeds."""
    solver = PLMSSolver(COSINE, tau=1.0)
    near = distance(end(solver, 20), end(solver, 40))
    assert near < 0.2 * distance(end(solver, 20), end(solver, 40, seed=1))
    assert distance(end(solver, 20, "independent"), end(solver, 40, "independent")) > 4 * near


def test_a_constant_picture_is_reached_by_one_path_exactly():
    """Where x̂_0 stays, τ = 1 has no error at all: every grid leads to the same state, by the additivity of the path."""
    ends = []
    for steps in (3, 7, 50):
        plan = even(PLMSSolver(COSINE, 1, tau=1.0), steps)
        ends.append(
            plan.run(lambda x, t: np.full_like(x, 0.3), np.ones((4, 5)), prediction="sample", seed=3, noise="brownian")
        )
    np.testing.assert_allclose(ends[1], ends[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ends[2], ends[0], rtol=0, atol=1e-12)


def test_the_path_is_addressed_by_seed_and_level_alone():
    plan = PLMSSolver(COSINE, tau=1.0).plan(8)
    x = initial_noise((4, 3), [5, 6, 7, 8])

    def model(x, t):
        return 0.4 * x

    whole = plan.run(model, x, seed=[5, 6, 7, 8], noise="brownian")
    for k, seed in enumerate((5, 6, 7, 8)):
        alone = plan.run(model, x[k : k + 1], seed=seed if k == 0 else [seed], noise="brownian")
        np.testing.assert_allclose(alone[0], whole[k], rtol=0, atol=1e-13)
    tensor = plan.run(model, torch.from_numpy(x), seed=[5, 6, 7, 8], noise="brownian")
    np.testing.assert_allclose(tensor.numpy(), whole, rtol=0, atol=1e-12)
    # A run that begins further down meets the noise that the whole run meets there.
    lower = PLMSSolver(COSINE, tau=1.0).plan(timesteps=plan.times[3:])
    for row, other in zip(lower.spans, plan.spans[3:], strict=True):
        assert row == other


def test_a_restarted_run_has_a_new_path_and_rises_are_addressed_by_row():
    plan = DDPMSolver(COSINE).plan(6, spacing="log_snr", restarts=[Restart(100, 800, 3, 2)])
    ratios = [level.ratio for level in plan.levels]
    rises = [k for k in range(plan.model_calls) if ratios[k + 1] > ratios[k]]
    assert rises
    for k, span in enumerate(plan.spans):
        if k in rises:
            assert span is None
        elif plan.rows[k].noise:
            assert span.fall == sum(rise < k for rise in rises)
    source, like = NoiseSource.of(3, None, "brownian"), np.empty((2, 4))
    row = NoiseSource.of(3, None)
    np.testing.assert_array_equal(source.draw(rises[0], like, None), row.draw(rises[0], like))
    assert not np.allclose(source.draw(0, like, plan.spans[0]), row.draw(0, like))


def test_a_stage_and_its_step_begin_at_one_level():
    plan = DDPMSolver(COSINE).plan(3)
    assert [span.fall for span in plan.spans[:-1]] == [0, 0]
    assert plan.spans[0].end == plan.spans[1].begin == pytest.approx(plan.levels[1].ratio ** -2)
    assert plan.spans[-1] is None  # to σ = 0, where the clock is infinite


def test_a_path_needs_a_seed_and_is_saved(tmp_path):
    plan, x = PLMSSolver(COSINE, tau=1.0).plan(4), np.ones((2, 3))
    with pytest.raises(ValueError, match=r"noise is 'brownian', a path that is addressed by seed; pass seed="):
        plan.run(lambda x, t: x, x, noise="brownian")
    with pytest.raises(ValueError, match=r"^noise is 'white'; known are 'independent', 'brownian'"):
        plan.run(lambda x, t: x, x, seed=0, noise="white")
    state = plan.start(x, seed=4, noise="brownian")
    state = plan.advance(state, 0.5 * x)
    state.save(tmp_path / "state")
    found = State.load(tmp_path / "state")
    assert found.noise == state.noise
    np.testing.assert_array_equal(plan.advance(found, x).x, plan.advance(state, x).x)
    path = tmp_path / "run"
    plan.run(lambda x, t: 0.5 * x, x, seed=4, noise="brownian", checkpoint=path)
    with pytest.raises(ValueError, match=r"differs in noise \('brownian', not 'independent'\)"):
        plan.run(lambda x, t: 0.5 * x, x, seed=4, checkpoint=path)
