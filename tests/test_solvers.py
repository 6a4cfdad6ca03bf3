"""The methods: the field's check values, constant ε, and the moments of the stochastic ones."""

import numpy as np
import pytest
from conftest import SCHEDULES, all_solvers, named, pseudo_solvers, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from pndm_solvers import (
    SPACINGS,
    DDIMSolver,
    DDPMSolver,
    FONSolver,
    PLMSSolver,
    PNDMSolver,
    Prediction,
    PRKSolver,
    make_grid,
    transfer,
)
from pndm_solvers.problems import random_gaussian
from pndm_solvers.solvers import SOLVERS, careful_order, well_apart
from pndm_solvers.tableaux import coordinate

# Every spacing on every schedule, also those that are no good on it.
pytestmark = pytest.mark.filterwarnings("ignore:none of this plan's:UserWarning")

LINEAR = SCHEDULES["linear"]
GENERATOR = np.random.default_rng(0)
START, NOISE = GENERATOR.standard_normal((2, 3, 5))


class TestStandardDummyLoop:
    """The dummy model of diffusers' own scheduler tests: 10 steps, leading, final at ᾱ_0."""

    sample = (np.arange(768).reshape(3, 8, 8, 4) / 768).transpose(3, 0, 1, 2)

    @staticmethod
    def model(x, t):
        return x * (t / (t + 1))[:, None, None, None]

    @pytest.mark.parametrize(
        ("solver", "rows", "total"),
        [(PNDMSolver(LINEAR), 18, 198.1318), (PLMSSolver(LINEAR, starter="heun", weights="classical"), 10, 197.7155)],
        ids=["F-PNDM", "PLMS"],
    )
    def test_sum_of_the_last_state(self, solver, rows, total):
        plan = solver.plan(10, spacing="leading", final="first")
        assert plan.model_calls == rows
        assert np.abs(plan.run(self.model, self.sample)).sum() == pytest.approx(total, abs=1e-3)

    def test_ddim_with_a_clipped_picture(self):
        plan = DDIMSolver(LINEAR).plan(10, spacing="leading")
        result = plan.run(self.model, self.sample, prediction=Prediction(clip=1.0))
        assert np.abs(result).sum() == pytest.approx(172.0067, abs=1e-3)


def constant(x, t):
    return NOISE


@pytest.mark.parametrize(
    ("name", "spacing"),
    [("linear", spacing) for spacing in SPACINGS]
    + [(name, "trailing") for name in ("scaled_linear", "cosine", "vp", "ve")],
)
def test_constant_epsilon_is_solved_exactly(name, spacing):
    """Every row's ε-weights act as a mean, so every pseudo method then is one transfer, as DDIM is."""
    schedule = SCHEDULES[name]
    for solver in pseudo_solvers(schedule):
        for steps in (2, 5, 20):
            for final in ("clean", "first"):
                plan = solver.plan(steps, spacing=spacing, final=final)
                exact = transfer(START, NOISE, schedule.level(plan.rows[0].t), plan.end)
                assert relative_error(plan.run(constant, START), exact) < 1e-12, (solver.name, steps)


@settings(deadline=None)  # the first example compiles for all schedules
@given(
    st.sampled_from(["linear", "cosine", "vp", "ve"]),
    st.lists(st.floats(0, 1), min_size=1, max_size=12, unique=True),
    st.booleans(),
)
def test_constant_epsilon_on_any_grid(name, fractions, upwards):
    schedule = SCHEDULES[name]
    times = schedule.t_min + (schedule.t_max - schedule.t_min) * np.sort([*fractions, 0.0 if upwards else 1.0])
    times = np.unique(times) if upwards else np.unique(times)[::-1]
    if len(times) < 2:
        return
    *visited, stop = times
    exact = transfer(START, NOISE, schedule.level(visited[0]), schedule.level(stop))
    for solver in pseudo_solvers(schedule):
        result = solver.plan(timesteps=visited, stop=stop).run(constant, START)
        assert relative_error(result, exact) < 1e-12, solver.name


@pytest.mark.parametrize("name", ["zero_terminal_snr", "rectified_flow"])
def test_constant_picture_is_solved_exactly_from_pure_noise(name):
    """Where α = 0 at the start, the network's picture takes the part of ε."""
    schedule = SCHEDULES[name]
    for solver in pseudo_solvers(schedule):
        for steps in (1, 2, 5, 20):
            plan = solver.plan(steps, spacing="linspace", stop=schedule.t_max * 0.25)
            result = plan.run(lambda x, t: NOISE, START, prediction="sample")
            exact = plan.end.alpha * NOISE + plan.end.sigma * START
            assert relative_error(result, exact) < 1e-12, (solver.name, steps)


@pytest.mark.parametrize(("steps", "low", "high"), [(10, 5e-3, 2e-2), (20, 5e-4, 2e-3), (40, 4e-5, 2e-4)])
def test_fon_does_not_solve_a_constant_epsilon(steps, low, high):
    """The classical method does so only in the limit: here is by how much it fails, where the others have 1e-12."""
    visited = np.linspace(999, 100, steps + 1)[:-1]
    plan = FONSolver(LINEAR).plan(timesteps=visited, stop=100)
    exact = transfer(START, NOISE, LINEAR.level(999), LINEAR.level(100))
    assert low < relative_error(plan.run(constant, START), exact) < high


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("spacing", ["trailing", "quadratic"])
def test_equation_12_of_ddim(eta, spacing):
    """x_s = α_s·x̂_0 + √(σ_s² − c²)·ε + c·z with c = η·√((1 − ᾱ_s)/(1 − ᾱ_t))·√(1 − ᾱ_t/ᾱ_s)."""
    plan = DDIMSolver(LINEAR, eta).plan(7, spacing=spacing)
    ends = [*plan.rows[1:], None]
    for row, after in zip(plan.rows, ends, strict=True):
        a_t, a_s = row.alpha**2, after.alpha**2 if after else 1.0
        c = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)) ** 0.5
        assert row.noise == pytest.approx(c, abs=1e-12)
        assert row.states[0][1] == pytest.approx((a_s / a_t) ** 0.5, rel=1e-12)
        direction = (1 - a_s - c**2) ** 0.5 - (a_s / a_t * (1 - a_t)) ** 0.5
        assert row.answers[0][1] == pytest.approx(direction, rel=1e-9)


def test_equation_12_of_ddim_from_pure_noise():
    """There ε = x_t and c = η·σ_s: x_s = α_s·x̂_0 + √(1 − η²)·σ_s·x_t + η·σ_s·z."""
    plan = DDIMSolver(SCHEDULES["zero_terminal_snr"], eta=0.6).plan(5)
    row, after = plan.rows[:2]
    assert row.alpha == 0
    weights = row.states[0][1], row.answers[0][1], row.noise
    assert weights == pytest.approx((0.8 * after.sigma, after.alpha, 0.6 * after.sigma), rel=1e-12)


def test_ddim_with_eta_1_is_ddpm():
    assert DDIMSolver(LINEAR, eta=1.0).plan(20) == DDPMSolver(LINEAR).plan(20)


def test_equation_7_of_ddpm():
    """On adjacent levels: mean √ᾱ_{t−1}·β/(1 − ᾱ_t)·x̂_0 + √(1 − β)·(1 − ᾱ_{t−1})/(1 − ᾱ_t)·x_t, variance β̃ or β."""
    betas = np.linspace(1e-4, 0.02, 1000)
    alphas_cumprod = np.cumprod(1 - betas)
    small, large = (
        DDPMSolver(LINEAR, variance).plan(1000, spacing="leading") for variance in ("fixed_small", "fixed_large")
    )
    for t in (999, 500, 10, 1):
        k, beta, before, at = 999 - t, betas[t], alphas_cumprod[t - 1], alphas_cumprod[t]
        picture = before**0.5 * beta / (1 - at)
        state = (1 - beta) ** 0.5 * (1 - before) / (1 - at)
        row = small.rows[k]
        assert row.states[0][1] == pytest.approx(state + picture / at**0.5, rel=1e-9)
        assert row.answers[0][1] == pytest.approx(-picture * ((1 - at) / at) ** 0.5, rel=1e-9)
        assert row.noise**2 == pytest.approx(beta * (1 - before) / (1 - at), rel=1e-9)
        assert large.rows[k].noise ** 2 == pytest.approx(beta, rel=1e-9)
        assert (large.rows[k].states, large.rows[k].answers) == (row.states, row.answers)
    assert small.rows[-1].noise == large.rows[-1].noise == 0


@pytest.mark.parametrize(
    "solver", [DDPMSolver(LINEAR), DDPMSolver(LINEAR, "fixed_large"), DDIMSolver(LINEAR, 0.5)], ids=named
)
def test_stochastic_solvers_sample_the_gaussian(solver):
    """The moments of the sample, propagated through the plan itself: no sampling noise."""
    mean, variance = 0.7, 0.3
    plan = solver.plan(1000, spacing="leading")
    # For Gaussian data ε = gain·(x − α·mean): the plan is linear in x_0 and each z.
    m, v = 0.0, 1.0
    for row in plan.rows:
        gain = row.sigma / (row.alpha**2 * variance + row.sigma**2)
        (_, a), (_, b) = row.states[0], row.answers[0]
        m = (a + b * gain) * m - b * gain * row.alpha * mean
        v = (a + b * gain) ** 2 * v + row.noise**2
    assert m == pytest.approx(mean, rel=0.02)
    assert v == pytest.approx(variance, rel=0.02)


def test_inversion_and_back():
    """Up from the data to the noise by small steps, and down again by the same."""
    gaussian = random_gaussian()
    data = gaussian.sample(6)
    first, last = LINEAR.level(0), LINEAR.level(999)
    x0 = first.alpha * data
    for solver, tolerance in ((DDIMSolver(LINEAR), 0.03), (PNDMSolver(LINEAR, 2), 2e-3), (PRKSolver(LINEAR), 2e-3)):
        up = solver.plan(500, spacing="linspace", start=0, stop=999)
        assert up.end == last
        noise = up.run(gaussian.model(LINEAR), x0)
        assert relative_error(noise, gaussian.flow(x0, first, last)) < tolerance
        back = solver.plan(500, spacing="linspace", final="first").run(gaussian.model(LINEAR), noise)
        assert relative_error(back, x0) < tolerance


@pytest.mark.parametrize("name", ["linear", "zero_terminal_snr"])
def test_stochastic_solvers_only_run_down(name):
    for solver in (DDPMSolver(SCHEDULES[name]), DDIMSolver(SCHEDULES[name], eta=0.5)):
        with pytest.raises(ValueError, match="from noise to data"):
            solver.plan(timesteps=[0], stop=999)


def test_solvers_are_values():
    solvers, twins = all_solvers(LINEAR), all_solvers(LINEAR)
    assert solvers == twins
    assert len(set(solvers + twins)) == len(solvers)
    assert len({solver.name for solver in solvers}) == len(solvers)


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_both_orders_are_told(solver):
    if solver.convergence_order is None:
        assert solver.order is None
    else:
        assert 1 <= solver.convergence_order <= solver.order


def test_a_solver_needs_a_schedule():
    for make in SOLVERS.values():
        with pytest.raises(TypeError, match="from_betas"):
            make(np.linspace(1e-4, 0.02, 1000))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIMSolver(LINEAR, eta=1.5), "eta"),
        (lambda: DDIMSolver(LINEAR).plan(3, stop=999), "pass start="),
        (lambda: DDIMSolver(LINEAR, eta=float("nan")), "eta"),
        (lambda: DDPMSolver(LINEAR, variance="learned"), "variance is 'learned'"),
        (lambda: PRKSolver(LINEAR, tableau="rk5"), "tableau is 'rk5'"),
        (lambda: PLMSSolver(LINEAR, order=5), "order is 5"),
        (lambda: PLMSSolver(LINEAR, starter="euler"), "starter is 'euler'"),
        (lambda: PNDMSolver(LINEAR, order=3), "order is 3"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def absolute_means(plan):
    """Of each row that is a mean of ε, what its absolute weights sum to."""
    return [
        sum(abs(weight) for _, weight in row.answers) / abs(sum(weight for _, weight in row.answers))
        for row in plan.rows
        if row.alpha > 0 and len(row.states) == 1 and row.answers
    ]


@pytest.mark.parametrize("starter", ["ramp", "heun", "rk4"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_no_step_weighs_answers_out_of_proportion(name, starter):
    """The absolute weights of a mean, above all of the last step's, which reaches below the trained levels."""
    schedule = SCHEDULES[name]
    for steps in (1, 2, 3, 10, 60, *([333] if schedule == LINEAR else [])):
        for spacing in ("balanced", "trailing"):
            plan = PLMSSolver(schedule, starter=starter).plan(steps, spacing=spacing)
            assert max(absolute_means(plan)[-1:], default=1) <= 8 + 1e-9
            assert max(absolute_means(plan), default=1) <= (8 if starter == "ramp" else 100) + 1e-9


@pytest.mark.parametrize(("starter", "most"), [("ramp", 8), ("heun", 100), ("rk4", 100)])
def test_nor_does_a_long_step_after_short_ones(starter, most):
    """To which the last four answers would extrapolate with weights of some hundreds."""
    plan = PLMSSolver(LINEAR, starter=starter).plan(timesteps=[700.0, 650.0, 600.0, 550.0, 100.0], stop=50.0)
    assert max(absolute_means(plan)) <= most


def test_the_default_rule_at_its_boundaries():
    """What docs/theory.md says of the order, of answers well apart, of the coordinate and of the grid."""
    for ratios, order in (
        ([1.0, 1.27], 4),  # short steps: log(1.27) < 0.25
        ([1.0, 1.29], 3),
        ([21.0, 60.0], 2),
        ([19.0, 60.0], 3),
        ([0.031, 0.06], 3),
        ([0.029, 0.06], 4),
        ([20.0, 60.0], 3),
        ([0.03, 0.06], 4),
        ([float(np.nextafter(np.float32(20), np.float32(99))), 60.0], 3),  # at a bound, but for how it was rounded
        ([float(np.nextafter(np.float32(0.03), np.float32(99))), 0.06], 4),
    ):
        assert careful_order([*ratios, 100.0, 110.0], 4) == order
    near = [0.030, 0.031, 0.032, 0.04, 0.062, 0.1]
    assert list(well_apart(near, 0.028, 3, bound=8)) == [0, 1, 2]
    assert list(well_apart(near, 0.0, 3, bound=8)) == [0, 5]
    assert list(well_apart(near, 0.0, 3, bound=1e9)) == [0, 1, 2]
    np.testing.assert_allclose(coordinate([0.0, 0.3, 1.0, 100.0]), [0, 0.52936, 0.85249, 1.30050], atol=1e-5)
    ratios = [level.ratio for level in make_grid(LINEAR, 4).levels[1:4]]
    np.testing.assert_allclose(ratios, [4.34, 0.5796, 0.1007], rtol=1e-3)


def test_upwards_to_pure_noise():
    for name in ("rectified_flow", "zero_terminal_snr"):
        schedule = SCHEDULES[name]
        for solver in pseudo_solvers(schedule):
            plan = solver.plan(12, start=schedule.t_min, stop=schedule.t_max)
            assert plan.end.alpha == 0
            assert np.isfinite(plan.run(lambda x, t: x, START)).all(), solver.name
