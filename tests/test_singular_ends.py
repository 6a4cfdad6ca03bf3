"""Where α or σ is 0, or σ is very large: the right answer or a refusal before the first call, and nothing infinite."""

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, all_solvers, deterministic_solvers, named, relative_error

from pndm_solvers import DDIMSolver, DDPMSolver, NoiseSchedule, initial_noise
from pndm_solvers.problems import random_gaussian

GAUSSIAN = random_gaussian(3)
START = initial_noise((16, 3), seed=0)
PURE_NOISE = {name: SCHEDULES[name] for name in ("zero_terminal_snr", "rectified_flow")}
VE = NoiseSchedule.ve(sigma_max=1e4)


@pytest.fixture(autouse=True)
def _nothing_infinite():
    with np.errstate(all="raise"):
        yield


def sample(plan, schedule, x, prediction, **options):
    """The sample of the perfect network; every answer and every state is looked at."""
    return plan.run(
        GAUSSIAN.model(schedule, prediction), x, prediction=prediction, check_finite=True, seed=0, **options
    )


def cases(solvers, schedules):
    return [pytest.param(s, name, id=f"{named(s)}-{name}") for name in schedules for s in solvers(schedules[name])]


@pytest.mark.parametrize(("solver", "name"), cases(deterministic_solvers, PURE_NOISE))
@pytest.mark.parametrize("prediction", ["v_prediction", "sample", "flow"])
def test_from_pure_noise_to_the_exact_sample(solver, name, prediction):
    """α = 0 at the first call, σ = 0 at the end; to the exact flow, the nearer the more steps."""
    schedule, errors = PURE_NOISE[name], []
    for steps in (20, 80):
        plan = solver.plan(steps)
        assert plan.rows[0].alpha == 0
        assert plan.end[1:] == (1, 0)
        exact = GAUSSIAN.flow(START, plan.levels[0], plan.end)
        errors.append(relative_error(sample(plan, schedule, START, prediction), exact))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.02


@pytest.mark.parametrize(("solver", "name"), cases(all_solvers, PURE_NOISE))
@pytest.mark.parametrize("prediction", ["epsilon", "score"])
def test_what_tells_no_picture_is_refused_before_the_first_call(solver, name, prediction):
    def model(x, t):
        raise AssertionError("was asked")

    message = f"at t = .*: prediction is '{prediction}', which does not determine 'sample' at α = 0"
    with pytest.raises(ValueError, match=message):
        solver.plan(10).run(model, START, prediction=prediction, seed=0)


@pytest.mark.parametrize(("solver", "name"), cases(all_solvers, SCHEDULES))
def test_to_no_noise_at_all(solver, name):
    """σ = 0 at the end of every schedule, in few steps and many; where the pictures are a point, it is found."""
    schedule = SCHEDULES[name]
    point = type(GAUSSIAN)(GAUSSIAN.mean, np.zeros(3))
    for steps in (1, 2, 7, 30):
        plan = solver.plan(steps)
        assert plan.end.sigma == 0
        assert min(row.sigma for row in plan.rows) > 0
        x = point.mean * plan.levels[0].alpha + START * plan.levels[0].sigma
        prediction = "v_prediction" if schedule.alpha(schedule.t_max) < 1 else "epsilon"
        result = plan.run(point.model(schedule, prediction), x, prediction=prediction, check_finite=True, seed=0)
    if solver.name != "FON":  # which does not solve a constant ε exactly
        # In few steps from σ/α = 2e4 each Runge–Kutta stage multiplies a rounding by that; in thirty none does.
        np.testing.assert_allclose(result, np.broadcast_to(point.mean, x.shape), rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", deterministic_solvers(VE), ids=named)
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "score", "flow"])
def test_variance_exploding_to_ten_thousand(solver, prediction):
    plan = solver.plan(80)
    x = 1e4 * START
    exact = GAUSSIAN.flow(x, plan.levels[0], plan.end)
    error = relative_error(sample(plan, VE, x, prediction), exact)
    assert error < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_variance_exploding_on_few_bits(dtype):
    """σ = 1e4 is within float16's range, and a sample still comes out finite."""
    answer = GAUSSIAN.model(VE)

    def model(x, t):
        return torch.from_numpy(answer(x.double().numpy(), t.double().numpy())).to(dtype)

    for solver in all_solvers(VE):
        plan = solver.plan(20)
        result = plan.run(model, (1e4 * torch.from_numpy(START)).to(dtype), check_finite=True, seed=0)
        assert result.dtype == dtype


@pytest.mark.parametrize(("solver", "name"), cases(deterministic_solvers, PURE_NOISE))
def test_upwards_into_pure_noise(solver, name):
    """Inversion may end where α = 0."""
    schedule = PURE_NOISE[name]
    pictures = GAUSSIAN.sample(16)
    plan = solver.plan(60, start=schedule.t_min, stop=schedule.t_max)
    assert plan.end.alpha == 0
    exact = GAUSSIAN.flow(pictures, plan.levels[0], plan.end)
    error = relative_error(sample(plan, schedule, pictures, "v_prediction"), exact)
    assert error < 0.1


@pytest.mark.parametrize("name", PURE_NOISE)
def test_stochastic_solvers_from_pure_noise(name):
    """The samples have the data's mean and spread."""
    schedule, generator = PURE_NOISE[name], np.random.default_rng(0)
    x = generator.standard_normal((4000, 3))
    model = GAUSSIAN.model(schedule, "v_prediction")
    spread = GAUSSIAN.axes @ np.diag(GAUSSIAN.variances) @ GAUSSIAN.axes.T
    solvers = [DDIMSolver(schedule, eta=0.5), DDPMSolver(schedule), DDPMSolver(schedule, "fixed_large")]
    for solver in solvers:
        found = solver.sample(model, x, 400, prediction="v_prediction", generator=generator, check_finite=True)
        np.testing.assert_allclose(found.mean(0), GAUSSIAN.mean, rtol=0, atol=5 * (spread.max() / 4000) ** 0.5)
        np.testing.assert_allclose(np.cov(found.T), spread, rtol=0, atol=5 * spread.max() * (2 / 4000) ** 0.5)
