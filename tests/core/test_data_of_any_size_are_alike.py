"""`data_range=` makes large data like others: a run for c times the data is c times the run. Small data: half-way."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pndm_solvers import DDIMSolver, NoiseSchedule, PLMSSolver, Problem, UniPCSolver, initial_noise
from pndm_solvers.analytic import Gaussian, GaussianMixture
from pndm_solvers.rule import NOISY_RULE, RULE

LOW, HIGH = 0.002, 80.0
SOLVERS = {
    "PLMS": PLMSSolver,
    "PLMS, order 2": lambda schedule: PLMSSolver(schedule, 2),
    "PLMS in data space": lambda schedule: PLMSSolver(schedule, space="sample"),
    "PLMS with noise": lambda schedule: PLMSSolver(schedule, tau=1.0),
    "DDIM": DDIMSolver,
    "UniPC": UniPCSolver,
}
RING = GaussianMixture.ring(modes=5)


def exploding(size: float = 1.0) -> NoiseSchedule:
    """Levels that are the same to data of that size: σ = t."""
    return NoiseSchedule.ve(size * LOW, size * HIGH)


@pytest.mark.parametrize("name", SOLVERS)
@given(size=st.floats(0, 8).map(math.exp), steps=st.integers(1, 60), own=st.booleans())
def test_a_plan_for_larger_data_is_the_plan_in_larger_units(name, size, steps, own):
    """On the default grid, and on times of the caller's own: σ and what multiplies ε grow, all else stays."""
    times = np.geomspace(HIGH, 2 * LOW, steps)
    plain = SOLVERS[name](exploding()).plan(**{"num_inference_steps": steps} if own else {"timesteps": times})
    options = {"num_inference_steps": steps} if own else {"timesteps": size * times}
    large = SOLVERS[name](exploding(size)).plan(**options, data_range=size)
    np.testing.assert_allclose([at.sigma for at in large.levels], [size * at.sigma for at in plain.levels], rtol=1e-6)
    for row, other in zip(plain.rows, large.rows, strict=True):
        unit = size if row.space == "epsilon" else 1.0
        assert [i for i, _ in row.answers] == [i for i, _ in other.answers]
        weights, others = ([weight for _, weight in one.answers] for one in (row, other))
        largest = max(map(abs, weights))
        np.testing.assert_allclose(others, np.multiply(unit, weights), rtol=1e-5, atol=1e-5 * unit * largest)
        np.testing.assert_allclose([w for _, w in other.states], [w for _, w in row.states], rtol=1e-5)
        assert other.noise == pytest.approx(size * row.noise, rel=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("size", [1.7, 30.0])
def test_samples_of_larger_data_are_the_samples_times_their_size(name, size):
    noise, model = initial_noise((64, 2), seed=0), RING.model(exploding())
    plain = SOLVERS[name](exploding()).sample(model, HIGH * noise, 9, seed=1)
    options = {"seed": 1, "data_range": size}
    large = SOLVERS[name](exploding(size)).sample(
        lambda x, t: model(x / size, t / size), size * HIGH * noise, 9, **options
    )
    np.testing.assert_allclose(large, size * plain, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("calls", [5, 10, 20])
def test_a_network_of_larger_data_is_solved_as_well(prediction, calls):
    """On one schedule, whose ends stay where they are. Each error is in units of the data."""
    schedule, noise = NoiseSchedule.linear(), initial_noise((128, 2), seed=2)

    def error(size: float, **said: float) -> float:
        covariances = [size**2 * (part.axes * part.variances) @ part.axes.T for part in RING.parts]
        data = GaussianMixture(RING.weights, [size * part.mean for part in RING.parts], covariances)
        plan = PLMSSolver(schedule).plan(calls, prediction=prediction, sample_shape=(2,), **said)
        first = plan.levels[0]
        x = noise * math.hypot(first.alpha, first.sigma)
        samples = plan.run(data.model(schedule, prediction), x, prediction=prediction)
        return float(np.median(np.abs(samples - data.flow(x, first, plan.end))) / size)

    assert error(10.0, data_range=10.0) < 2.5 * error(1.0)


def test_a_rule_keeps_its_shape():
    for rule, (data_range, unit) in itertools.product((RULE, NOISY_RULE), ((6.0, 6.0), (0.04, 0.2))):
        other = rule.of_range(data_range)
        for ratio in (0.01, 0.3, 5.0, 200.0):
            assert other.coordinate(unit * ratio) == pytest.approx(rule.coordinate(ratio))
            assert other.position(unit * ratio) == pytest.approx(rule.position(ratio))
            assert other.of(4).coordinate(unit * ratio) == pytest.approx(rule.of(4).coordinate(ratio))
        assert other.start_ratio(100) == pytest.approx(unit * rule.start_ratio(100))
        assert rule.of_range(1.0) is rule


@pytest.mark.parametrize("data_range", [0.003, 0.2, 5.0, 25.0])
def test_the_default_grid_for_data_of_any_size_draws_no_warning(data_range):
    for schedule in (NoiseSchedule.linear(), NoiseSchedule.rectified_flow(), exploding()):
        for steps in (3, 5, 10, 40):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                PLMSSolver(schedule).plan(steps, data_range=data_range, sample_shape=(2,))


@pytest.mark.parametrize("deviation", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_small_data_keep_their_deviation(prediction, deviation):
    """Where a run begins low, pure noise of the schedule would be too wide for the state of narrow data."""
    schedule, noise = NoiseSchedule.linear(), initial_noise((200, 64), seed=3)
    model = Gaussian(np.zeros(64), np.full(64, deviation**2)).model(schedule, prediction)
    options = {"prediction": prediction, "data_range": 2 * deviation}
    for calls in (10, 20):
        samples = PLMSSolver(schedule).sample(model, noise, calls, **options)
        assert np.std(samples) == pytest.approx(deviation, rel=0.2 if deviation < 0.05 else 0.03)


def test_noise_of_small_data_is_taken_around_zero():
    schedule, noise = NoiseSchedule.linear(), initial_noise((8, 2), seed=4)
    solver, model = PLMSSolver(schedule), Gaussian([0, 0], [0.01, 0.01]).model(schedule)
    options = {"data_range": 0.2, "sample_shape": (2,)}
    plan = solver.plan(8, **options)
    small = solver.sample(model, noise, 8, **options)
    np.testing.assert_allclose(small, plan.run(model, noise * plan.levels[0].sigma), rtol=1e-12)
    for start in ("top", 500):  # a state of that level: from an inversion, say
        of_state = solver.sample(model, noise, 8, start=start, **options)
        np.testing.assert_array_equal(of_state, solver.plan(8, start=start, **options).run(model, noise))
    problem = Problem.of(model, schedule, noise, data_range=0.2, progress=False)
    np.testing.assert_allclose(problem.starts(plan.levels[0].t), noise * plan.levels[0].sigma, rtol=1e-12)
