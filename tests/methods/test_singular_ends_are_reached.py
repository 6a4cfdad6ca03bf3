"""Where α or σ is 0, or σ is very large, a run ends at the right sample or is refused, and nothing is infinite."""

import numpy as np
import pytest
import torch
from conftest import (
    SCHEDULES,
    all_solvers,
    assert_refused,
    deterministic_solvers,
    named,
    pseudo_solvers,
    relative_error,
    where_steps_begin,
)

from pndm_solvers import DDIMSolver, DDPMSolver, NoiseSchedule, initial_noise
from pndm_solvers.prediction import PREDICTIONS, conversion
from pndm_solvers.problems import random_gaussian

GAUSSIAN = random_gaussian(3)
START = initial_noise((16, 3), seed=0)
PURE_NOISE = {name: schedule for name, schedule in SCHEDULES.items() if schedule.alpha(schedule.t_max) == 0}
VE = NoiseSchedule.ve(sigma_max=1e4)


@pytest.fixture(autouse=True)
def _nothing_infinite():
    with np.errstate(all="raise"):
        yield


def sample(plan, schedule, x, prediction):
    """The sample of the perfect network, with a check of every answer and every state."""
    return plan.run(GAUSSIAN.model(schedule, prediction), x, prediction=prediction, check_finite=True, seed=0)


def determines_pure_noise(name):
    """Whether a prediction determines the picture at α = 0."""
    try:
        conversion(name, "sample", 0.0, 1.0)
    except ValueError:
        return False
    return True


AT_PURE_NOISE = [name for name in PREDICTIONS if determines_pure_noise(name)]


def cases(solvers, schedules):
    return [pytest.param(s, name, id=f"{named(s)}-{name}") for name in schedules for s in solvers(schedules[name])]


# ------------------------------------------------------------------ from α = 0


@pytest.mark.parametrize(("solver", "name"), cases(deterministic_solvers, PURE_NOISE))
def test_from_pure_noise_to_the_exact_sample(solver, name):
    """α = 0 at the first call and σ = 0 at the end: the more steps, the nearer to the exact flow."""
    schedule, errors = PURE_NOISE[name], []
    for steps in (10, 80):
        plan = solver.plan(steps, start="top")
        assert plan.rows[0].alpha == 0
        assert plan.end[1:] == (1, 0)
        exact = GAUSSIAN.flow(START, plan.levels[0], plan.end)
        first, *others = (sample(plan, schedule, START, prediction) for prediction in AT_PURE_NOISE)
        for other in others:
            assert relative_error(other, first) < 1e-10
        errors.append(relative_error(first, exact))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.02


@pytest.mark.parametrize("name", PURE_NOISE)
def test_a_constant_picture_is_solved_exactly_from_pure_noise(name):
    """Where α = 0 at the start, the picture that the network predicts takes the part of ε."""
    schedule, picture = PURE_NOISE[name], START[::-1]
    for solver in pseudo_solvers(schedule):
        for steps in (1, 2, 5, 20):
            plan = solver.plan(steps, spacing="linspace", stop=schedule.t_max * 0.25)
            result = plan.run(lambda x, t: picture, START, prediction="sample")
            exact = plan.end.alpha * picture + plan.end.sigma * START
            assert relative_error(result, exact) < 1e-12, (solver.name, steps)


def test_a_prediction_that_does_not_determine_pure_noise_is_refused_before_the_first_call():
    """ε and the score are among these predictions, while v, x_0 and flow are not."""
    refused = PREDICTIONS.keys() - set(AT_PURE_NOISE)
    assert refused >= {"epsilon", "score"}
    assert set(AT_PURE_NOISE) >= {"sample", "v_prediction", "flow"}

    def model(x, t):
        raise AssertionError("the model was called")

    for prediction in refused:
        message = f"at t = .*: prediction is '{prediction}', which does not determine '(sample|flow|v_.*)' at α = 0"
        assert_refused(
            (
                lambda solver=solver, kind=prediction: solver.plan(10, start="top").run(
                    model, START, prediction=kind, seed=0
                ),
                ValueError,
                message,
            )
            for schedule in PURE_NOISE.values()
            for solver in all_solvers(schedule)
        )


@pytest.mark.parametrize("name", PURE_NOISE)
def test_stochastic_solvers_from_pure_noise_have_the_moments_of_the_data(name):
    schedule, generator = PURE_NOISE[name], np.random.default_rng(0)
    x = generator.standard_normal((4000, 3))
    model = GAUSSIAN.model(schedule, "v_prediction")
    spread = GAUSSIAN.axes @ np.diag(GAUSSIAN.variances) @ GAUSSIAN.axes.T
    solvers = [DDIMSolver(schedule, eta=0.5), DDPMSolver(schedule), DDPMSolver(schedule, "fixed_large")]
    for solver in solvers:
        found = solver.sample(model, x, 400, prediction="v_prediction", generator=generator, check_finite=True)
        np.testing.assert_allclose(found.mean(0), GAUSSIAN.mean, rtol=0, atol=5 * (spread.max() / 4000) ** 0.5)
        np.testing.assert_allclose(np.cov(found.T), spread, rtol=0, atol=5 * spread.max() * (2 / 4000) ** 0.5)


@pytest.mark.parametrize("name", PURE_NOISE)
def test_an_inversion_may_end_at_pure_noise(name):
    schedule = PURE_NOISE[name]
    pictures = GAUSSIAN.sample(16)
    for solver in deterministic_solvers(schedule):
        if getattr(solver, "coordinate", "") == "ratio":
            continue  # polynomials in σ/α itself are extrapolated to infinity
        plan = solver.plan(60, start=schedule.t_min, stop=schedule.t_max)
        assert plan.end.alpha == 0
        exact = GAUSSIAN.flow(pictures, plan.levels[0], plan.end)
        assert relative_error(sample(plan, schedule, pictures, "v_prediction"), exact) < 0.1, solver.name


# ------------------------------------------------------------------ to σ = 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_ends_without_noise(name):
    """In few steps and in many; where the pictures are a single point, that point is found."""
    schedule = SCHEDULES[name]
    point = type(GAUSSIAN)(GAUSSIAN.mean, np.zeros(3))
    prediction = "v_prediction" if schedule.alpha(schedule.t_max) < 1 else "epsilon"
    model = point.model(schedule, prediction)
    grids = [where_steps_begin(schedule, steps) for steps in (1, 2, 7, 30)]
    exact = [*pseudo_solvers(schedule), DDPMSolver(schedule)]  # where x_0 and ε stay
    for solver in all_solvers(schedule):
        for times in grids:
            plan = solver.plan(timesteps=times)
            assert plan.end.sigma == 0
            assert min(row.sigma for row in plan.rows) > 0
            x = point.mean * plan.levels[0].alpha + START * plan.levels[0].sigma
            result = plan.run(model, x, prediction=prediction, check_finite=True, seed=0)
        if solver in exact:
            # In few steps from σ/α = 2e4 each Runge–Kutta stage multiplies a rounding by that; in thirty none does.
            expected = np.broadcast_to(point.mean, x.shape)
            np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10, err_msg=solver.name)


# ------------------------------------------------------------------ from very large σ


@pytest.mark.parametrize("solver", deterministic_solvers(VE), ids=named)
def test_variance_exploding_to_ten_thousand(solver):
    plan = solver.plan(80)
    x = 1e4 * START
    exact = GAUSSIAN.flow(x, plan.levels[0], plan.end)
    for prediction in PREDICTIONS:
        assert relative_error(sample(plan, VE, x, prediction), exact) < 0.1, prediction


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_variance_exploding_on_few_bits(dtype):
    """σ = 1e4 is within float16's range, and a sample still comes out finite."""
    answer = GAUSSIAN.model(VE)

    def model(x, t):
        return torch.from_numpy(answer(x.double().numpy(), t.double().numpy())).to(dtype)

    for solver in all_solvers(VE):
        plan = solver.plan(20)
        result = plan.run(model, (1e4 * torch.from_numpy(START)).to(dtype), check_finite=True, seed=0)
        assert result.dtype == dtype, solver.name
