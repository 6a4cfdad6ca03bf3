"""docs/how-to/extending.md runs, and each of its additions has the properties that the page claims."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import spacings_of
from registries import REGISTRIES, registered_for_now

from pndm_solvers import DDIMSolver, DDPMSolver, NoiseSchedule, PLMSSolver, PRKSolver, Solver
from pndm_solvers.analytic import Gaussian, GaussianMixture
from pndm_solvers.libraries import LIBRARIES, ArrayLibrary
from pndm_solvers.methods import SOLVERS
from pndm_solvers.schedules import SCHEDULES

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "extending.md"
SHIPPED = {name: dict(registry) for name, registry in REGISTRIES.items()}

VP = NoiseSchedule.vp()
START = np.random.default_rng(0).standard_normal((8, 2))
GAUSSIAN = Gaussian([0.3, -0.5], [[0.1, 0.05], [0.05, 0.25]])
MIXTURE = GaussianMixture([0.3, 0.7], [[0.5, -0.5], [-0.2, 0.6]], [[0.09, 0.16], [0.0625, 0.1225]])
POINT = Gaussian([0.5, -0.3], [0.0, 0.0])


@pytest.fixture(scope="module")
def page():
    """The names that the page defines. What it registers is registered while this module's tests run."""
    namespace = {}
    with registered_for_now():
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
            exec(compile(block, PAGE.name, "exec"), namespace)
        yield namespace


def added(name):
    """The keys that the page sets in a registry, whether or not the library ships such an entry."""
    return [key for key, entry in REGISTRIES[name].items() if entry is not SHIPPED[name].get(key)]


@pytest.fixture
def schedules(page):
    """Every registered schedule, the page's own among them, and one that begins at pure noise."""
    made = {name: make() for name, make in SCHEDULES.items()}
    return {**made, "zero_terminal_snr": NoiseSchedule.linear().rescale_zero_terminal_snr()}


@pytest.fixture
def methods(page):
    """The methods that the page adds, as functions of the schedule."""
    return [SOLVERS[name] for name in added("SOLVERS")]


def observed_order(solver, distribution, steps=(50, 100, 200, 400)):
    """The slope of the error over the number of steps, even in log-SNR, against the exact flow."""
    model, errors = distribution.model(solver.schedule), []
    plans = [solver.plan(n, spacing="log_snr", final="first") for n in steps]
    exact = distribution.flow(START, plans[0].levels[0], plans[0].end)
    for plan in plans:
        errors.append(np.sqrt(np.mean((plan.run(model, START) - exact) ** 2)))
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@dataclass(frozen=True)
class OneAnswer(Solver):
    """Each step one transfer along one answer, in any space."""

    schedule: NoiseSchedule
    space: str
    name = "one answer"
    convergence_order = 1

    def write(self, program, x):
        for _, there in program.grid.steps:
            x = program.transfer(x, program.ask(x), there, space=self.space)
        return x


def test_the_page_adds_to_every_registry(page):
    for name in REGISTRIES:
        assert added(name), name


# ------------------------------------------------------------------------ orders


@pytest.mark.parametrize("distribution", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("name", ["TwoAnswerSolver", "TrapezoidSolver", "in_data_space"])
def test_the_declared_order_is_observed(page, name, distribution):
    solver = page[name] if isinstance(page[name], Solver) else page[name](VP)
    assert observed_order(solver, distribution) == pytest.approx(solver.convergence_order, abs=0.15)


def test_a_registered_tableau_has_its_classical_order(page):
    for name in added("TABLEAUX"):
        solver = PRKSolver(VP, name, fractions="ratio")
        assert observed_order(solver, MIXTURE) == pytest.approx(solver.convergence_order, abs=0.15)


def test_the_fifth_order_is_observed(page):
    assert observed_order(page["fifth"], GAUSSIAN) == pytest.approx(5, abs=0.2)


# ----------------------------------------------------------------------- methods


def test_one_answer_is_ddim_in_every_space_whose_picture_and_noise_stay(schedules):
    """v alone turns on the way, and so does EDM's, its relative: there picture and noise do not stay."""
    for name, schedule in schedules.items():
        for steps in (1, 2, 7):
            ddim = DDIMSolver(schedule).plan(steps)
            x = START * ddim.levels[0].sigma
            model = GAUSSIAN.model(schedule, "v_prediction")
            expected = ddim.run(model, x, prediction="v_prediction")
            for space in ("epsilon", "sample", "flow"):
                found = OneAnswer(schedule, space).plan(steps).run(model, x, prediction="v_prediction")
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11, err_msg=f"{name}, {space}")


def test_data_of_one_point_are_solved_exactly(methods, schedules):
    """There ε and x̂_0 stay the same along the flow, so any mean of answers is exact at any step length.

    A run begins at pure noise, or where σ/α is 50 at most: rounding grows with σ/α.
    """
    for make in methods:
        for name, schedule in schedules.items():
            model = POINT.model(schedule, "v_prediction")
            start = schedule.level_at(50).t if schedule.alpha(schedule.t_max) else None
            for steps in (1, 2, 3, 10, 25):
                for final in ("clean", "first"):
                    plan = make(schedule).plan(steps, final=final, start=start)
                    x = START * plan.levels[0].sigma
                    end = plan.run(model, x, prediction="v_prediction")
                    exact = POINT.flow(x, plan.levels[0], plan.end)
                    np.testing.assert_allclose(end, exact, rtol=1e-9, atol=1e-10, err_msg=f"{plan} on {name}")


def test_a_step_costs_one_model_call(page, schedules):
    for solver in (page["TwoAnswerSolver"], page["TrapezoidSolver"]):
        for schedule in schedules.values():
            model, called = GAUSSIAN.model(schedule, "v_prediction"), []

            def counted(x, t, model=model, called=called):
                called.append(t[0])
                return model(x, t)

            for steps in (1, 2, 20):
                called.clear()
                plan = solver(schedule).plan(steps)
                plan.run(counted, START * plan.levels[0].sigma, prediction="v_prediction")
                assert len(called) == plan.model_calls == steps


def test_stored_arrays_do_not_grow_with_the_number_of_steps(methods, schedules):
    """The history that a row refers to is bounded, a corrected state's too."""
    for make in [*methods, partial(PLMSSolver, coordinate="log_ratio", corrector=True)]:
        for schedule in schedules.values():
            few, more, many = (make(schedule).plan(steps) for steps in (15, 40, 160))
            assert few.max_stored == more.max_stored == many.max_stored
            assert max(len(row.states) + len(row.answers) for row in many.rows) <= many.max_stored


def test_a_method_of_ones_own_runs_upwards_and_back(methods):
    """From a picture to its noise and back: the same flow, so the picture returns."""
    picture = GAUSSIAN.sample(8)
    model = GAUSSIAN.model(VP)
    for make in methods:
        noise = make(VP).plan(300, spacing="log_snr", start=0.01, stop=0.9).run(model, picture)
        back = make(VP).plan(300, spacing="log_snr", start=0.9, stop=0.01).run(model, noise)
        np.testing.assert_allclose(back, picture, atol=1e-3)


# ------------------------------------------------- schedules, predictions, arrays


def test_a_registered_schedule_has_levels_grids_and_runs(page):
    for name in added("SCHEDULES"):
        schedule = SCHEDULES[name]()
        times = np.linspace(schedule.t_min, schedule.t_max, 50)
        np.testing.assert_allclose(schedule.time_at(schedule.log_snr(times)), times, rtol=1e-9)
        for t in times[1:-1]:
            slopes = [(f(t + 1e-6) - f(t - 1e-6)) / 2e-6 for f in (schedule.alpha, schedule.sigma)]
            np.testing.assert_allclose(schedule.rates(t), slopes, rtol=1e-6, atol=1e-8)
        for spacing in spacings_of(schedule):
            plan = PLMSSolver(schedule).plan(100, spacing=spacing, final="first")
            end = plan.run(MIXTURE.model(schedule), START)
            np.testing.assert_allclose(end, MIXTURE.flow(START, plan.levels[0], plan.end), atol=2e-2)
        assert observed_order(PLMSSolver(schedule, order=2), MIXTURE) == pytest.approx(2, abs=0.15)


def test_a_registered_prediction_gives_the_same_sample(schedules):
    for prediction in added("PREDICTIONS"):
        for schedule in schedules.values():
            plan = PLMSSolver(schedule).plan(10)
            x = START * plan.levels[0].sigma
            sample, expected = (
                plan.run(MIXTURE.model(schedule, name), x, prediction=name) for name in (prediction, "v_prediction")
            )
            np.testing.assert_allclose(sample, expected, rtol=1e-9, atol=1e-10)


def test_edms_raw_network_is_a_prediction(page):
    """F of D = c_skip·x + c_out·F, on the schedule where the time is σ: Karras et al. (2022), table 1."""
    schedule, deviation = NoiseSchedule.ve(), 0.5

    def raw_network(x, t):
        sigma = t[0]
        denoised, _ = MIXTURE.posterior(x, 1.0, sigma)
        total = sigma**2 + deviation**2
        return (denoised - deviation**2 / total * x) / (sigma * deviation / np.sqrt(total))

    plan = PLMSSolver(schedule).plan(15)
    sample = plan.run(raw_network, 80 * START, prediction="edm")
    np.testing.assert_allclose(sample, plan.run(MIXTURE.model(schedule), 80 * START), rtol=1e-9)


def test_a_faster_sum_gives_the_same_bits(page):
    plan, model = DDPMSolver(VP).plan(20), MIXTURE.model(VP)
    in_place = plan.start(START, seed=1)
    assert in_place.library is LIBRARIES["numpy"]
    sample = plan.run(model, START, seed=1)
    fast = LIBRARIES.pop("numpy")
    try:
        assert plan.start(START, seed=1).library is not fast
        assert np.array_equal(plan.run(model, START, seed=1), sample)
    finally:
        LIBRARIES["numpy"] = fast


class Boxed:
    """An array that follows no standard: it can be added, and multiplied by a number."""

    def __init__(self, values):
        self.values = values

    shape = property(lambda self: self.values.shape)
    ndim = property(lambda self: self.values.ndim)
    dtype = property(lambda self: self.values.dtype)

    def __add__(self, other):
        return Boxed(self.values + other.values)

    def __mul__(self, number):
        return Boxed(self.values * number)


class BoxedLibrary(ArrayLibrary):
    """What a run needs of `Boxed`."""

    def name(self, x):
        return "boxed"

    def is_dense(self, x):
        return True

    def is_floating(self, x):
        return x.dtype.kind == "f"

    def is_finite(self, x):
        return bool(np.isfinite(x.values).all())

    def has_numbers(self, x):
        return True

    def wide(self, x, dtype=None):
        return x

    def cast(self, x, dtype):
        return Boxed(x.values.astype(dtype))

    def copy(self, x, dtype=None):
        return Boxed(x.values.astype(dtype or x.dtype))

    def times(self, x, t, dtype, *, integer):
        return np.full(x.shape[:1], t)

    def from_numpy(self, values, like):
        return Boxed(values)


@pytest.fixture
def boxed():
    """The library of `Boxed`, registered for one test."""
    LIBRARIES[Boxed.__module__] = BoxedLibrary()
    yield
    del LIBRARIES[Boxed.__module__]


def test_arrays_of_a_registered_library_run_as_numpys(boxed):
    model = MIXTURE.model(VP)
    for solver in (PLMSSolver(VP), PRKSolver(VP), DDPMSolver(VP)):
        plan = solver.plan(10)
        points = plan.run(
            lambda x, t: Boxed(model(x.values, t)), Boxed(START), seed=3, trajectory=True, check_finite=True
        )
        expected = plan.run(model, START, seed=3, trajectory=True)
        for point, same in zip(points, expected, strict=True):
            assert isinstance(point, Boxed)
            np.testing.assert_allclose(point.values, same, rtol=1e-13, atol=1e-13)


def test_arrays_of_no_registered_library_are_refused():
    with pytest.raises(TypeError, match="Boxed"):
        PLMSSolver(VP).plan(5).start(Boxed(START))


# ---------------------------------------------------------------------- adapters


def test_the_loop_of_a_host_gives_the_sample_of_a_run(page):
    schedule = NoiseSchedule.linear()
    model = MIXTURE.model(schedule)
    for make in SOLVERS.values():
        solver = make(schedule)
        if solver.convergence_order is None:
            continue
        scheduler, x = page["Scheduler"](solver), START
        scheduler.set_timesteps(8)
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, np.full(len(x), t)), x)
        assert np.array_equal(x, solver.plan(8).run(model, START)), solver.name
