"""Measured orders and errors are right where the figures are known."""

import sys

import numpy as np
import pytest
from conftest import SCHEDULES

from pndm_solvers import DDIMSolver, DDPMSolver, NoiseSchedule, PLMSSolver, PNDMSolver, Solver
from pndm_solvers.flow import Reference
from pndm_solvers.measure import Curve, compare
from pndm_solvers.methods import SOLVERS
from pndm_solvers.methods.classical import classical_move
from pndm_solvers.orders import GRIDS, ObservedOrder, deterministic_solvers, observed_order
from pndm_solvers.prediction import Prediction
from pndm_solvers.problem import Problem
from pndm_solvers.problems import PROBLEMS, exact_problem

LINEAR = SCHEDULES["linear"]
FEW = (20, 40, 80)


class HalfAStepLate(Solver):
    """A first-order method: Euler steps of the raw ODE along the mean of the last two answers."""

    name, convergence_order = "hand-made", 1

    def __init__(self, schedule):
        self.schedule = schedule

    def write(self, program, x):
        before = None
        for _, there in program.grid.steps:
            e = program.ask(x)
            x = classical_move(program, x, {e: 0.5, before: 0.5} if before else {e: 1.0}, there)
            before = e
        return x


@pytest.mark.parametrize("solver", [DDIMSolver(LINEAR), HalfAStepLate(LINEAR)], ids=lambda solver: solver.name)
def test_a_first_order_method_has_observed_order_one(solver):
    for grid in GRIDS.values():
        found = observed_order(solver, exact_problem("gaussian", LINEAR, 16), grid=grid, steps=FEW)
        assert found.observed == pytest.approx(1, abs=0.2)
        assert (found.name, found.declared, found.steps) == (solver.name, 1, FEW)


def test_the_observed_order_is_the_slope_of_the_errors():
    found = observed_order(PNDMSolver(LINEAR), exact_problem("gaussian", LINEAR, 16), steps=(40, 80))
    assert found.observed == pytest.approx(np.log2(found.errors[0] / found.errors[1]))


@pytest.mark.parametrize("make", GRIDS.values(), ids=GRIDS)
def test_a_grid_has_its_ends_and_steps_of_one_sign(make):
    for first, last in ((900.0, 200.0), (0.1, 0.8)):
        times = make(first, last, 50)
        assert len(times) == 51
        assert (times[0], times[-1]) == (first, last)
        assert np.all(np.diff(times) * np.sign(last - first) > 0)


def test_the_graded_grid_is_smooth_and_the_perturbed_grid_is_rough():
    """The sizes of graded steps change by 1/N a step. The perturbed grid is equally rough for every N."""
    for steps in (100, 400):
        graded, perturbed = (np.diff(GRIDS[name](0, 1, steps)) * steps for name in ("graded", "perturbed"))
        assert np.abs(np.diff(graded)).max() < 0.7 / steps
        assert graded[[0, -1]] == pytest.approx([1.3, 0.7], abs=0.01)
        assert perturbed.min() < 0.5
        assert perturbed.max() > 1.5
        assert np.abs(perturbed - 1).max() <= 0.7


def test_the_problems_are_as_their_docstrings_describe():
    ring, power_law, kernel = (PROBLEMS[name]() for name in ("ring", "power-law", "digits-kernel"))
    assert np.hypot(*ring.sample(2000).T).mean() == pytest.approx(0.8, abs=0.02)
    np.testing.assert_allclose(np.sort(power_law.variances)[::-1], np.arange(1, 65) ** -2.0, atol=1e-12)
    assert kernel.data.shape == (1797, 64)
    assert (kernel.data.min(), kernel.data.max()) == (-1, 1)
    deviations = np.sqrt([part.variances for part in PROBLEMS["mixture"]().parts])
    assert 0.05 <= deviations.min() < 0.06
    assert 0.4 < deviations.max() <= 0.5


@pytest.mark.parametrize(("name", "schedule"), [*(("ring", name) for name in SCHEDULES), ("power-law", "linear")])
def test_starts_and_ends_are_joined_by_the_flow(name, schedule):
    """The flow carries the ends back to the starts, and a fine plan leads from the starts to the ends."""
    schedule = SCHEDULES[schedule]
    problem, distribution = exact_problem(name, schedule, starts=4), PROBLEMS[name]()
    level = schedule.level(schedule.t_max)
    scale = np.hypot(level.alpha, level.sigma)
    back = distribution.flow(problem.reference(final="first").ends, schedule.level(schedule.t_min), level)
    np.testing.assert_allclose(back, problem.x, atol=1e-5 * scale)
    for final in ("clean", "first"):
        plan = DDIMSolver(schedule).plan(200, spacing="quadratic", final=final)
        result = plan.run(problem.model, problem.x, prediction=problem.prediction)
        assert problem.reference(final=final).errors(result).max() < 0.03


def test_the_first_starts_do_not_depend_on_the_number_of_starts():
    few, more = (exact_problem("power-law", LINEAR, starts=n) for n in (2, 5))
    np.testing.assert_array_equal(few.x, more.x[:2])
    assert few.x.dtype == few.reference().ends.dtype == np.float64


def test_errors_are_root_mean_squares_of_each_sample():
    end = np.arange(12.0).reshape(2, 2, 3)
    shift = np.array([3.0, 0.0])[:, None, None]
    np.testing.assert_allclose(Reference(end, end).errors(end + shift), [3, 0])
    np.testing.assert_allclose(Reference(end, end).errors(np.float32(end + shift * [1, 0, 0])), [3**0.5, 0])


def test_compare_is_the_plan_by_hand():
    problem = exact_problem("ring", LINEAR, starts=5)
    solvers = [DDIMSolver(LINEAR), PNDMSolver(LINEAR)]
    curves = compare(problem, solvers, ["trailing", "karras"], [7, 12], final="first")
    assert [curve.name for curve in curves] == ["DDIM, trailing", "DDIM, karras", "F-PNDM, trailing", "F-PNDM, karras"]
    plan = solvers[1].plan(max_model_calls=12, spacing="karras", final="first")
    errors = problem.reference(final="first").errors(plan.run(problem.model, problem.x))
    names = {"problem": "ring", "solver": "F-PNDM", "spacing": "karras", "measure": "paired", "limit": 0.0}
    assert {name: getattr(curves[3], name) for name in names} == names
    assert curves[3].value[1] == np.median(errors)
    assert curves[3].low[1] <= np.median(errors) <= curves[3].high[1]


def test_the_error_is_infinite_where_no_plan_fits_the_budget():
    schedule = SCHEDULES["zero_terminal_snr"]
    problem = exact_problem("ring", schedule, starts=2)
    log_snr, trailing = compare(problem, [DDIMSolver(schedule)], ["log_snr", "trailing"], [4])
    assert log_snr.value == log_snr.high == (np.inf,)
    assert np.isfinite(trailing.value).all()


def test_the_error_of_a_run_that_overflows_is_infinite():
    end = np.zeros((2, 1))
    problem = Problem(
        "own", LINEAR, lambda x, t: x * np.inf, Prediction(), end + 1, lambda problem, x, here, there: Reference(x, end)
    )
    (curve,) = compare(problem, [DDIMSolver(LINEAR)], ["trailing"], [2])
    assert curve.value == curve.high == (np.inf,)


def test_a_stochastic_solver_or_another_schedule_is_refused():
    problem = exact_problem("power-law", LINEAR, starts=2)
    stochastic = DDPMSolver(LINEAR)
    with pytest.raises(ValueError, match="stochastic"):
        observed_order(stochastic, problem)
    with pytest.raises(ValueError, match="stochastic"):
        compare(problem, [stochastic], ["trailing"], [3])
    with pytest.raises(ValueError, match="but the problem has"):
        compare(problem, [DDIMSolver(NoiseSchedule.cosine())], ["trailing"], [3])
    with pytest.raises(ValueError, match="but the problem has"):
        observed_order(DDIMSolver(NoiseSchedule.cosine()), problem)
    with pytest.raises(ValueError, match="'log_snr', 'exponential', 'karras'"):
        compare(problem, [DDIMSolver(LINEAR)], ["even"], [3])
    with pytest.raises(ValueError, match="known are gaussian"):
        exact_problem("cats", LINEAR)


def test_every_registered_solver_with_an_order_is_measured_once():
    solvers = deterministic_solvers(LINEAR)
    assert len(set(solvers)) == len({solver.name for solver in solvers}) == len(solvers)
    left_out = {make(LINEAR) for make in SOLVERS.values()} - set(solvers)
    assert DDPMSolver(LINEAR) in left_out
    assert {solver.convergence_order for solver in left_out} == {None}  # they draw noise
    assert PLMSSolver(LINEAR, 2, "heun", "classical") in solvers


def test_plots_show_the_measured_figures(tmp_path):
    from pndm_solvers.plots import plot_curves, plot_orders

    orders = [ObservedOrder("a", 2, 1.98, (10, 20), (1e-2, 2.5e-3))]
    figures = {"value": (0.1, np.inf), "low": (0.05, np.inf), "high": (0.2, np.inf)}
    curve = Curve("own", "a", "trailing", "paired", (5, 10), **figures, limit=0.01)
    below_zero = Curve("own", "b", "trailing", "sliced-wasserstein", (5, 10), (1e-2, -1e-4), (0, -1e-3), (2e-2, 0))
    for figure, measured in (
        (plot_orders(orders, "orders"), orders[0].errors),
        (plot_curves([curve]), (0.1, np.nan)),
        (plot_curves([curve], "curves", "error"), (0.01, 0.01)),
        (plot_curves([below_zero]), below_zero.value),
    ):
        figure.savefig(tmp_path / "plot.png")
        drawn = [line.get_ydata() for line in figure.axes[0].get_lines()]
        assert any(np.array_equal(line, measured, equal_nan=True) for line in drawn)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.delitem(sys.modules, "pndm_solvers.plots", raising=False)
    with pytest.raises(ImportError, match=r"pndm_solvers\[analysis\]"):
        import pndm_solvers.plots  # noqa: F401 — its import is what is tested
