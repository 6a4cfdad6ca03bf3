"""`Problem.of` makes a problem of any network: its references come from fine runs, whose error is estimated."""

import numpy as np
import pytest
import torch
from conftest import SCHEDULES

from pndm_solvers import DDIMSolver, PLMSSolver, Prediction, PRKSolver, initial_noise
from pndm_solvers.analytic import Gaussian
from pndm_solvers.measure import MEASURES, Curve, compare, difference, estimate
from pndm_solvers.orders import NETWORK_STEPS, observed_order
from pndm_solvers.plots import plot_curves
from pndm_solvers.problem import Problem
from pndm_solvers.problems import PROBLEMS, exact_problem, network_problem

LINEAR = SCHEDULES["linear"]
GAUSSIAN = Gaussian([0.5, -0.5], [[1.0, 0.8], [0.8, 1.0]])
X = initial_noise((32, 2), seed=0)
QUIET = {"progress": False, "calls": 64}


def gaussian(schedule=LINEAR, x=X, prediction="epsilon", model=None, **options):
    model = model or GAUSSIAN.model(schedule, Prediction.of(prediction).type)
    return Problem.of(model, schedule, x, prediction=prediction, **QUIET | options)


def test_a_network_s_end_is_where_more_calls_lead():
    problem = network_problem("digits", starts=3, calls=200, progress=False)
    (curve,) = compare(problem, [DDIMSolver(problem.schedule)], ["quadratic"], [10, 40])
    assert curve.limit < curve.value[1] < curve.value[0] / 2 < 0.1


class Shifted(torch.nn.Module):
    """The exact network of data around a label, in torch, with weights that could record gradients."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.calls = []

    def forward(self, x, t, label):
        self.calls.append(len(x))
        alpha, sigma = (torch.tensor(f(float(t[0]))) for f in (LINEAR.alpha, LINEAR.sigma))
        return self.scale * sigma * (x - alpha * label[:, None]) / (0.25 * alpha**2 + sigma**2)


@pytest.mark.parametrize("name", ["linear", "cosine", "vp", "rectified_flow", "ve"])
@pytest.mark.parametrize("final", ["clean", "first"])
def test_a_fine_run_is_the_flow_within_its_estimated_error(name, final):
    schedule = SCHEDULES[name]
    top = schedule.level(schedule.t_max)
    x = np.hypot(top.alpha, top.sigma) * X
    problem = gaussian(schedule, x, "epsilon" if top.alpha else "v_prediction")
    reference = problem.reference(final=final)
    end = schedule.clean if final == "clean" else schedule.level(schedule.t_min)
    exact = GAUSSIAN.flow(x, top, end)
    error = np.median(reference.errors(exact))
    assert 0 < error < 5 * reference.error
    assert reference.error < 50 * error
    assert reference.calls == 64


def test_the_error_falls_as_the_calls_double():
    errors = [gaussian(calls=calls).reference().error for calls in (64, 128, 256)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_a_reference_begins_at_any_level():
    problem = gaussian()
    for t in (999, 700, 123.4):
        reference = problem.reference(t)
        exact = GAUSSIAN.flow(reference.begin, LINEAR.level(t), LINEAR.clean)
        assert np.median(reference.errors(exact)) < 1e-2
        np.testing.assert_allclose(reference.begin, X)
    ve = SCHEDULES["ve"]
    assert np.std(gaussian(ve, ve.sigma(ve.t_max) * X).starts(3.0)) == pytest.approx(np.hypot(3, 1) * X.std(), rel=0.02)


def test_a_reference_is_made_once():
    network, label = Shifted(), torch.arange(32.0) / 32
    problem = Problem.of(network, LINEAR, torch.from_numpy(X).float(), condition={"label": label}, **QUIET)
    assert not network.calls
    first = problem.reference()
    assert network.calls == [32] * (64 + 32)
    assert problem.reference() is first
    assert len(network.calls) == 96
    assert not first.ends.requires_grad


@pytest.mark.filterwarnings("ignore:distributions are compared")
def test_a_conditional_network_is_measured_with_its_condition():
    network, label = Shifted(), torch.arange(32.0) - 16
    problem = Problem.of(network, LINEAR, torch.from_numpy(X).float(), condition={"label": label}, **QUIET)
    distance = problem.reference().ends.mean(1) - label
    assert distance.abs().max() < 3
    for measure in MEASURES:
        (curve,) = compare(problem, [PLMSSolver(LINEAR)], calls=[10, 20], measure=measure)
        assert np.isfinite(curve.value).all()


def test_three_lines_lead_to_a_plot(tmp_path):
    curves = compare(gaussian(name="mine"), calls=[5, 10])
    assert {curve.problem for curve in curves} == {"mine"}
    assert len(curves) == 6
    assert all(0 < curve.limit < 0.01 for curve in curves)
    plot_curves(curves).savefig(tmp_path / "mine.png")


def test_its_curves_are_those_of_the_exact_flow():
    problem, exact = gaussian(calls=1024), Problem.exact(GAUSSIAN, LINEAR, 32, seed=0)
    np.testing.assert_array_equal(problem.x, exact.x * (X / exact.x))
    solvers = [PLMSSolver(LINEAR), DDIMSolver(LINEAR)]
    for one, other in zip(*(compare(p, solvers, calls=[5, 10]) for p in (problem, exact)), strict=True):
        np.testing.assert_allclose(one.value, other.value, rtol=0.02)


def test_orders_are_observed_on_a_network():
    """The fine run is of order 2, so it is exact enough for a method of order 2 with few steps."""
    problem = gaussian(calls=1024)
    for solver, order in ((DDIMSolver(LINEAR), 1), (PLMSSolver(LINEAR, order=2), 2)):
        found = observed_order(solver, problem)
        assert found.steps == NETWORK_STEPS
        assert found.observed == pytest.approx(order, abs=0.3)
        assert 0 < found.limit < found.errors[-1] / 10


def test_without_data_sets_are_compared_with_another_fine_run():
    x = initial_noise((400, 2), seed=1)
    with_data, without = gaussian(x=x, data=GAUSSIAN.sample(2000, seed=5)), gaussian(x=x)
    for problem in (with_data, without):
        assert len(problem.target().points) == 400
        good = estimate(problem, problem.reference().ends, problem.reference(), "sliced-wasserstein")
        bad = estimate(problem, 0.5 * problem.reference().ends, problem.reference(), "sliced-wasserstein")
        assert abs(good.value) < 0.1 < bad.value


# ------------------------------------------------------------------ files


def test_references_are_read_from_their_file(tmp_path):
    path, calls = tmp_path / "mine.npz", []

    def model(x, t):
        calls.append(1)
        return GAUSSIAN.model(LINEAR)(x, t)

    def make():
        return Problem.of(model, LINEAR, X, saved=path, **QUIET)

    one = make()
    references = [one.reference(), one.reference(700.0), one.reference(500.0, 100.0), one.reference(final="first")]
    floor = one.floor()
    made = len(calls)
    other = make()
    again = [other.reference(), other.reference(700), other.reference(500, 100), other.reference(final="first")]
    assert other.floor() == floor
    assert len(calls) == made
    for a, b in zip(references, again, strict=True):
        np.testing.assert_array_equal(a.ends, b.ends)
        np.testing.assert_array_equal(a.begin, b.begin)
        assert (a.error, a.calls) == (b.error, b.calls)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.npz"]


def test_a_file_of_another_problem_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    gaussian(saved=path).reference()
    for name, other in {
        "starts": {"x": X + 1},
        "schedule": {"schedule": SCHEDULES["cosine"]},
        "prediction": {"prediction": "sample"},
        "condition": {"condition": {"label": np.zeros(32)}},
        "calls": {"calls": 32},
    }.items():
        with pytest.raises(ValueError, match=f"references of another problem: it differs in {name}"):
            gaussian(saved=path, **other)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="no whole file of references; pass another"):
        gaussian(saved=path)


def test_a_torch_problem_is_read_as_torch(tmp_path):
    path = tmp_path / "mine.npz"
    x = torch.from_numpy(X).to(torch.bfloat16)

    def make():
        model = lambda x, t: torch.from_numpy(GAUSSIAN.model(LINEAR)(x.double().numpy(), t.numpy())).to(x.dtype)  # noqa: E731
        return Problem.of(model, LINEAR, x, saved=path, **QUIET)

    ends = make().reference().ends
    again = make().reference().ends
    assert again.dtype == torch.bfloat16
    assert torch.equal(ends, again)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x_T is"),
        ({"prediction": "noise"}, ValueError, "prediction"),
        ({"condition": {"label": np.zeros(3)}}, ValueError, "condition 'label' is of shape"),
        ({"data": np.zeros((5, 3))}, ValueError, "beyond the batch they must be alike"),
        ({"calls": 4}, ValueError, "calls is 4; it must be a whole number of at least 8"),
        ({"saved": 3}, TypeError, "saved is 3"),
        ({"saved": "nowhere/mine.npz"}, ValueError, "there is no folder"),
    ],
)
def test_what_is_no_problem_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        gaussian(**options)


def test_a_measure_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match="measure is 'fid'; known are 'paired', 'sliced-wasserstein'"):
        compare(gaussian(), calls=[5], measure="fid")


def test_the_error_of_a_fine_run_is_printed(capsys):
    gaussian(name="mine", progress=True).reference()
    assert "mine: a reference of 64 model calls from t = 999 to -1, its own error about" in capsys.readouterr().err


def test_exact_problems_have_data_of_their_distribution():
    problem = exact_problem("power-law", LINEAR, 8)
    assert problem.data.shape == (4096, 64)
    np.testing.assert_allclose(np.cov(problem.data.T), np.cov(PROBLEMS["power-law"]().sample(4096, 9).T), atol=0.1)


def test_one_solver_grid_or_budget_may_stand_alone_and_solvers_have_names():
    problem = gaussian()
    (one,) = compare(problem, PLMSSolver(LINEAR), "default", 10)
    assert compare(problem, ["plms"], ["default"], [10]) == [one] == compare(problem, "plms", calls=[10])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: compare(PLMSSolver(LINEAR), p), TypeError, "problem is a PLMSSolver; make one of your network"),
        (lambda p: compare(p, [p]), TypeError, "solver is a Problem"),
        (lambda p: compare(p, "plsm"), ValueError, "solver is 'plsm'"),
        (lambda p: compare(p, calls=[0]), ValueError, "calls is 0"),
        (lambda p: observed_order(p, PLMSSolver(LINEAR)), TypeError, "solver is a Problem"),
        (lambda p: difference(p, p.x, p.x[:3]), ValueError, "a has 32 samples and b has 3"),
        (lambda p: plot_curves([]), ValueError, "curves are 0"),
        (lambda p: plot_curves([curve("paired"), curve("frechet")]), ValueError, "one measure at a time"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(gaussian())


def curve(measure):
    return Curve("mine", "a", "trailing", measure, (5,), (1.0,), (1.0,), (1.0,))


def test_a_network_taken_for_another_kind_is_warned_of():
    with pytest.warns(UserWarning, match="does not predict 'epsilon', or the schedule"):
        compare(gaussian(x=X, model=lambda x, t: -1e3 * x), "ddim", calls=5)
    with pytest.raises(ValueError, match="samples that are not finite"):
        gaussian(model=lambda x, t: x * np.nan).reference()


def test_small_sets_are_warned_of():
    with pytest.warns(UserWarning, match="compared by 32 samples, where chance dominates"):
        compare(gaussian(), "ddim", calls=5, measure="frechet")


def test_a_set_s_limit_is_what_the_flow_itself_has():
    problem = gaussian(x=initial_noise((200, 2), seed=3), data=GAUSSIAN.sample(2000, seed=5))
    (found,) = compare(problem, "plms", calls=20, measure="nearest-data")
    assert found.limit == estimate(problem, problem.draws(), None, "nearest-data").value
    assert found.value[0] == pytest.approx(found.limit, rel=0.5)


def test_starts_lie_around_the_mean_of_the_data(tmp_path):
    """As `sample` begins with `data_mean=`: the fine run from there is the flow, and the default comes near to it."""
    far = Gaussian([6.0, -4.0], [0.25, 0.25])
    problem = Problem.of(far.model(LINEAR), LINEAR, X, data_mean=far.mean, **QUIET)
    solver = PLMSSolver(LINEAR)
    plan = solver.plan(10, **problem.grid_options)
    sample = problem.run(plan, problem.starts(plan.levels[0].t))
    np.testing.assert_array_equal(sample, solver.sample(far.model(LINEAR), X, 10, data_mean=far.mean))
    (curve,) = compare(problem, [solver], calls=[5, 20])
    (lost,) = compare(Problem.of(far.model(LINEAR), LINEAR, X, data=far.sample(500), **QUIET), [solver], calls=[20])
    assert curve.value[1] < curve.value[0] < 0.02
    assert np.abs(sample.mean(0) - far.mean).max() < 0.3
    assert lost.value[0] < 0.02  # near to its own flow, which begins elsewhere
    assert problem.starts(seed=3).mean() == pytest.approx(X.mean(), abs=0.5)  # at the top the mean has drowned

    saved = Problem.of(far.model(LINEAR), LINEAR, X, data_mean=far.mean, saved=tmp_path / "fine.npz", **QUIET)
    saved.reference(plan.levels[0].t)
    with pytest.raises(ValueError, match="holds references of another problem: it differs in data_mean"):
        Problem.of(far.model(LINEAR), LINEAR, X, data_mean=[6.0, 0.0], saved=tmp_path / "fine.npz", **QUIET)
    with pytest.raises(ValueError, match=r"data_mean is of shape \(3,\), which does not broadcast"):
        Problem.of(far.model(LINEAR), LINEAR, X, data_mean=[1.0, 2.0, 3.0], **QUIET)
    with pytest.raises(ValueError, match="data_range is 0"):
        Problem.of(far.model(LINEAR), LINEAR, X, data_range=0, **QUIET)


def test_a_curve_holds_the_calls_that_are_made():
    problem = exact_problem("gaussian", LINEAR, 8)
    (curve,) = compare(problem, [PRKSolver(LINEAR, "heun")], calls=[1, 10])
    made = [PRKSolver(LINEAR, "heun").plan(max_model_calls=budget).model_calls for budget in (1, 10)]
    assert curve.calls == (1, 10)
    assert list(curve.made) == made
    assert made[1] < 10
    (line,) = [line for line in plot_curves(curve).axes[0].get_lines() if line.get_label() == curve.name]
    assert list(line.get_xdata()) == made
