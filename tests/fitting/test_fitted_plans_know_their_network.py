"""A fitted plan carries what it was fitted to, is refused elsewhere, and runs wherever a solver is asked for."""

import json
import warnings

import numpy as np
import pytest
from conftest import assert_refused
from problems import noise, recorded, ring

from pndm_solvers import FittedSolver, NoiseSchedule, Pilot, Plan, PLMSSolver, Problem, add_noise, fit_plan
from pndm_solvers.measure import compare

LINEAR, FLOW = NoiseSchedule.linear(), NoiseSchedule.rectified_flow()


@pytest.fixture(scope="module")
def plans():
    pilot = recorded(LINEAR)
    return [pilot.fit(ring(LINEAR), calls, note="ring").plan for calls in (4, 6)]


@pytest.fixture
def solver(plans):
    return FittedSolver(LINEAR, tuple(plans))


def test_the_json_says_what_a_plan_was_fitted_to(plans):
    document = json.loads(plans[0].to_json())
    assert document["fitted"] == {
        "schedule": repr(LINEAR),
        "prediction": "epsilon",
        "model_calls": 4,
        "date": document["fitted"]["date"],
        "version": document["fitted"]["version"],
        "note": "ring",
    }
    again = Plan.from_json(plans[0].to_json())
    assert again == plans[0]
    assert again.fitted == plans[0].fitted
    assert "fitted" not in json.loads(PLMSSolver(LINEAR).plan(4).to_json())


def test_it_is_refused_where_it_does_not_belong(plans, solver, tmp_path):
    (tmp_path / "none.json").write_text("{}")
    broken = json.loads(plans[0].to_json())
    broken["fitted"]["model_calls"] = "4"
    recorded(LINEAR, levels=12).save(tmp_path / "pilot.npz")
    x = noise(LINEAR, 2)
    cases = [
        (lambda: plans[0].run(ring(LINEAR), x, prediction="v_prediction"), ValueError, "fitted to .* 'epsilon' .ring."),
        (lambda: solver.sample(ring(LINEAR), x, 4, prediction="sample"), ValueError, "fitted to .* 'epsilon'"),
        (lambda: solver.sample(ring(LINEAR), x, 4, prediction="epsilom"), ValueError, "is 'epsilom'; known are"),
        (lambda: FittedSolver(NoiseSchedule.cosine(), tuple(plans)), ValueError, "another schedule, <NoiseSchedule"),
        (lambda: FittedSolver(NoiseSchedule.vp(), tuple(plans)), ValueError, "another schedule"),
        (lambda: FittedSolver(LINEAR, ()), TypeError, "one at least"),
        (lambda: solver.sample(ring(LINEAR), x, tolerance=0.1), ValueError, "tolerance is 0.1"),
        (lambda: FittedSolver.load(LINEAR, tmp_path / "pilot.npz"), ValueError, "is no text"),
        (lambda: FittedSolver.load(LINEAR, tmp_path / "none.json"), ValueError, "none.json.: not .* no format"),
        (lambda: FittedSolver.load(LINEAR, tmp_path / "absent.json"), OSError, "absent"),
        (lambda: solver.plan(5), ValueError, "4, 6 model calls"),
        (lambda: solver.plan(max_model_calls=3), ValueError, "4, 6 model calls"),
        (lambda: solver.plan(), ValueError, "exactly one"),
        (lambda: solver.plan(4, spacing="karras"), ValueError, "spacing is 'karras'"),
        (lambda: solver.plan(4, start=500.0), ValueError, "start is 500"),
        (lambda: solver.plan(timesteps=np.array([900, 500])), ValueError, "timesteps is"),
        (lambda: solver.plan(4, final="first"), ValueError, "final is 'first'"),
        (lambda: Plan.from_json(json.dumps(broken)), ValueError, "model_calls"),
    ]
    assert_refused(cases)


def test_it_stands_where_a_solver_is_asked_for(plans, solver):
    x = noise(LINEAR, 8, seed=3)
    assert solver.plan(4) == plans[0] == FittedSolver(LINEAR, plans[0]).plan(4)
    assert np.array_equal(FittedSolver(LINEAR, plans[0]).sample(ring(LINEAR), x), plans[0].run(ring(LINEAR), x))
    assert solver.plan(max_model_calls=5) == plans[0]
    assert solver.plan(max_model_calls=50) == plans[1]
    assert np.array_equal(solver.sample(ring(LINEAR), x, 6), plans[1].run(ring(LINEAR), x))
    problem = Problem.of(ring(LINEAR), LINEAR, noise(LINEAR, 16, seed=4), calls=64, progress=False)
    fitted, default = compare(problem, [solver, PLMSSolver(LINEAR)], calls=(3, 4, 6))
    assert fitted.value[0] == np.inf
    assert all(mine < theirs for mine, theirs in zip(fitted.value[1:], default.value[1:], strict=True))


def test_bad_calls_of_a_fit_are_refused(tmp_path):
    model, x = ring(LINEAR), noise(LINEAR)
    pilot = recorded(LINEAR, levels=16)
    (tmp_path / "text").write_text("no pilot")
    own = Pilot.record(model, LINEAR, x, spacing=lambda schedule, steps, end: np.linspace(900, 1, steps), levels=16)
    cases = [
        (lambda: fit_plan("model", LINEAR, x, 4), TypeError, "model"),
        (lambda: fit_plan(model, "linear", x, 4), TypeError, "schedule"),
        (lambda: fit_plan(model, LINEAR, x[:1], 4), ValueError, "1 samples"),
        (lambda: fit_plan(model, LINEAR, [[0.0]], 4), TypeError, "x_T"),
        (lambda: fit_plan(model, LINEAR, x, 4, timesteps=[900, 100]), ValueError, "timesteps"),
        (lambda: fit_plan(model, LINEAR, x, 4, levels=2), ValueError, "levels"),
        (lambda: fit_plan(model, LINEAR, x, 4, batch_size=0), ValueError, "batch_size"),
        (lambda: fit_plan(model, LINEAR, x, 4, speed=1), TypeError, "speed"),
        (lambda: fit_plan(model, LINEAR, x, 4, condition={"y": x[:3]}), ValueError, "'y'"),
        (lambda: pilot.fit(model, 0), ValueError, "max_model_calls"),
        (lambda: pilot.fit(None, 4), TypeError, "model"),
        (lambda: pilot.fit(model, 5), ValueError, "levels=20 at least"),
        (lambda: pilot.fit(lambda x, t: 0.9 * model(x, t), 4), ValueError, "answers otherwise"),
        (lambda: pilot.fit(lambda x, t: x * np.nan, 4), ValueError, "answers otherwise"),
        (lambda: fit_plan(lambda x, t: x * np.nan, LINEAR, x, 4), FloatingPointError, "not finite"),
        (lambda: own.save(tmp_path / "own"), ValueError, "of your own"),
        (lambda: Pilot.load(tmp_path / "text"), ValueError, "as a pilot.*not a zip file"),
        (lambda: Pilot.load(tmp_path / "absent"), OSError, "absent"),
    ]
    assert_refused(cases)


@pytest.mark.parametrize(
    ("schedule", "prediction", "taken_for"),
    [
        (LINEAR, "epsilon", "v_prediction"),
        (LINEAR, "epsilon", "sample"),
        (LINEAR, "epsilon", "score"),
        (LINEAR, "v_prediction", "epsilon"),
        (LINEAR, "sample", "epsilon"),
        (FLOW, "flow", "v_prediction"),
        (FLOW, "v_prediction", "flow"),
    ],
)
def test_a_network_that_predicts_something_else_warns(schedule, prediction, taken_for):
    model, x = ring(schedule, prediction), noise(schedule)
    with pytest.warns(UserWarning, match=f"does not predict '{taken_for}'"):
        Pilot.record(model, schedule, x, prediction=taken_for, levels=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pilot.record(model, schedule, x, prediction=prediction, levels=64)


def test_what_is_rarely_meant_warns():
    model, x = ring(LINEAR), noise(LINEAR)
    with pytest.warns(UserWarning, match="x_T has a root mean square of 9.53"):
        Pilot.record(model, LINEAR, 10 * x, levels=16)
    with pytest.warns(UserWarning, match="does not predict 'score'"):
        Pilot.record(model, LINEAR, x, prediction="score", levels=16)
    with pytest.warns(UserWarning, match="data_mean="):
        Pilot.record(lambda x, t: model(x - 5 * LINEAR.alpha(t)[:, None], t), LINEAR, x, levels=64)
    with pytest.warns(UserWarning, match="only 8 samples judge"):
        Pilot.record(model, LINEAR, x[:16], levels=64).fit(model, 4)


def test_a_run_from_a_later_level_is_fitted_from_there():
    x0 = np.zeros((64, 2))
    x = add_noise(LINEAR, x0, np.random.default_rng(0).standard_normal((64, 2)), t=500)
    fit = Pilot.record(ring(LINEAR), LINEAR, x, start=500.0, levels=64).fit(ring(LINEAR), 5)
    assert fit.plan.levels[0].t == 500
    assert fit.gain < 0.5
