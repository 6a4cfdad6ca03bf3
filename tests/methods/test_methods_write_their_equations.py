"""Each method writes the equations of its paper: reference loops, constant ε, moments of the stochastic methods."""

from itertools import pairwise

import numpy as np
import pytest
from conftest import SCHEDULES, all_solvers, assert_refused, named, pseudo_solvers, relative_error, spacings_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pndm_solvers import (
    TABLEAUX,
    DDIMSolver,
    DDPMSolver,
    FONSolver,
    PLMSSolver,
    PNDMSolver,
    Prediction,
    PRKSolver,
    UniPCSolver,
    transfer,
)
from pndm_solvers.methods import SOLVERS

# Every spacing on every schedule, also those that are coarse on it.
pytestmark = pytest.mark.filterwarnings("ignore:none of this plan's:UserWarning")

LINEAR = SCHEDULES["linear"]
WITH_A_PICTURE = [name for name, schedule in SCHEDULES.items() if schedule.alpha(schedule.t_max) > 0]
GENERATOR = np.random.default_rng(0)
START, NOISE = GENERATOR.standard_normal((2, 3, 5))


# ------------------------------------------------------------------ PNDM's algorithm 2

ALPHAS_CUMPROD = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
EVEN_STEPS = range(960, -1, -80)


def curved(x, t):
    """A network whose answers depend on the state and on the time in a way that no method solves exactly."""
    return np.sin(2 * x + np.asarray(t, float).reshape(-1, 1) / 200)


def phi(x, epsilon, t, s):
    """Equation (9) of the paper."""
    a_t, a_s = ALPHAS_CUMPROD[t], ALPHAS_CUMPROD[s]
    divisor = a_t**0.5 * (((1 - a_s) * a_t) ** 0.5 + ((1 - a_t) * a_s) ** 0.5)
    return (a_s / a_t) ** 0.5 * x - (a_s - a_t) / divisor * epsilon


def by_the_paper(x, times, order, starter):
    """Algorithm 2 of the paper (`starter="rk4"`), and its variants that start as S-PNDM or with lower orders."""
    old = []
    for t, s in pairwise(times):
        middle = (t + s) // 2
        e = e1 = curved(x, t)
        old = [e1, *old][:order]
        if starter == "rk4" and len(old) < order:  # equation (13)
            e2 = curved(phi(x, e1, t, middle), middle)
            e3 = curved(phi(x, e2, t, middle), middle)
            e4 = curved(phi(x, e3, t, s), s)
            e = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        elif starter == "heun" and len(old) == 1:  # improved Euler
            e = (e1 + curved(phi(x, e1, t, s), s)) / 2
        elif len(old) == 2:
            e = (3 * old[0] - old[1]) / 2
        elif len(old) == 3:
            e = (23 * old[0] - 16 * old[1] + 5 * old[2]) / 12
        elif len(old) == 4:  # equation (12)
            e = (55 * old[0] - 59 * old[1] + 37 * old[2] - 9 * old[3]) / 24
        x = phi(x, e, t, s)
    return x


@pytest.mark.parametrize(
    ("solver", "order", "starter"),
    [
        pytest.param(PNDMSolver(LINEAR), 4, "rk4", id="F-PNDM"),
        pytest.param(PNDMSolver(LINEAR, 2), 2, "heun", id="S-PNDM"),
        pytest.param(PLMSSolver(LINEAR, 4, "heun", "classical"), 4, "heun", id="latent diffusion's PLMS"),
        pytest.param(PLMSSolver(LINEAR, 4, "ramp", "classical"), 4, "ramp", id="iPNDM"),
        pytest.param(PLMSSolver(LINEAR, 3, "rk4", "classical"), 3, "rk4", id="PLMS 3"),
        pytest.param(DDIMSolver(LINEAR), 1, "ramp", id="DDIM"),
    ],
)
def test_algorithm_2_of_the_paper(solver, order, starter):
    *visited, last = EVEN_STEPS
    plan = solver.plan(timesteps=visited, stop=last)
    expected = by_the_paper(START, EVEN_STEPS, order, starter)
    assert relative_error(plan.run(curved, START), expected) < 1e-10


def test_a_clipped_picture_is_the_one_that_ddim_goes_on_with():
    """ε is derived anew from the clipped x̂_0."""
    *visited, last = EVEN_STEPS
    x = START
    for t, s in pairwise(EVEN_STEPS):
        (_, alpha, sigma), (_, alpha_s, sigma_s) = LINEAR.level(t), LINEAR.level(s)
        picture = np.clip((x - sigma * curved(x, t)) / alpha, -0.5, 0.5)
        x = alpha_s * picture + sigma_s * (x - alpha * picture) / sigma
    plan = DDIMSolver(LINEAR).plan(timesteps=visited, stop=last)
    assert relative_error(plan.run(curved, START, prediction=Prediction(clip=0.5)), x) < 1e-10


@pytest.mark.parametrize(
    ("solver", "more"),
    [
        (DDIMSolver(LINEAR), 0),
        (DDPMSolver(LINEAR), 0),
        (PLMSSolver(LINEAR), 0),
        (PLMSSolver(LINEAR, 4, "heun"), 1),
        (PLMSSolver(LINEAR, 3, "rk4"), 6),
        (PNDMSolver(LINEAR, 2), 1),
        (PNDMSolver(LINEAR), 9),
        (FONSolver(LINEAR), 9),
        (PRKSolver(LINEAR, "heun"), 11),
    ],
    ids=named,
)
def test_a_method_makes_as_many_calls_as_it_declares(solver, more):
    """N calls for N steps, and those of the starter; the last step of Runge–Kutta, into σ = 0, is one call."""
    assert solver.plan(12).model_calls == 12 + more


# ------------------------------------------------------------------ constant ε


def constant(x, t):
    return NOISE


@pytest.mark.parametrize("name", WITH_A_PICTURE)
def test_constant_epsilon_is_solved_exactly(name):
    """The ε-weights of every row act as a mean, so that every pseudo method is then one transfer, as DDIM is."""
    schedule = SCHEDULES[name]
    for solver in pseudo_solvers(schedule):
        for spacing in spacings_of(schedule) if name == "linear" else ("trailing",):
            for steps, final in ((2, "clean"), (7, "first")):
                plan = solver.plan(steps, spacing=spacing, final=final)
                exact = transfer(START, NOISE, schedule.level(plan.rows[0].t), plan.end)
                assert relative_error(plan.run(constant, START), exact) < 1e-12, (solver.name, spacing, steps)


@settings(deadline=None, max_examples=200)  # the first example compiles for all schedules
@given(
    st.sampled_from([solver for name in WITH_A_PICTURE for solver in pseudo_solvers(SCHEDULES[name])]),
    # Nearer times have levels that differ by rounding alone, and rounding then decides the weights.
    st.lists(st.integers(0, 10**9).map(lambda k: k / 10**9), min_size=1, max_size=12, unique=True),
    st.booleans(),
)
def test_constant_epsilon_is_solved_exactly_on_any_grid(solver, fractions, upwards):
    schedule = solver.schedule
    times = schedule.t_min + (schedule.t_max - schedule.t_min) * np.sort([*fractions, 0.0 if upwards else 1.0])
    times = np.unique(times) if upwards else np.unique(times)[::-1]
    if len(times) < 2:
        return
    *visited, stop = times
    exact = transfer(START, NOISE, schedule.level(visited[0]), schedule.level(stop))
    plan = solver.plan(timesteps=visited, stop=stop)
    # Rounding grows with the weights where a polynomial is extrapolated far beyond two answers that are next to each
    # other. A singlestep method's stages multiply it within a step. Every row carries that of the rows before on.
    steps = [1.0]
    for row in plan.rows:
        steps[-1] *= max(1.0, sum(abs(weight) for _, weight in row.states + row.answers))
        steps += [] if row.stage else [1.0]
    bound = max(1e-12 * max(steps), 8 * rounding(plan))
    assert relative_error(plan.run(constant, START), exact) < bound


def rounding(plan):
    """How far rounding may move the end of a run with a constant ε, relative to its size, where weights are exact.

    Rows multiply the errors of earlier states, and a picture (x − σε)/α has those of x divided by α. In the flow's
    space weights are differences of σ/(α + σ), which round the more the nearer the two are to each other.
    """
    unit = 2.0**-53
    states, answers = [(START, 0.0)], []
    for row, there in zip(plan.rows, [*plan.rows[1:], plan.end], strict=True):
        x, off = states[-1]
        answer, of_terms = (NOISE, 0.0), unit
        if row.space != "epsilon":
            picture = (x - row.sigma * NOISE) / row.alpha
            off = (off + 2 * unit * (abs(x).max() + row.sigma * abs(NOISE).max())) / row.alpha
            answer = picture, off
        if row.space == "flow":
            answer = NOISE - picture, off + unit * abs(NOISE).max()
            shares = [level.sigma / (level.alpha + level.sigma) for level in (row, there)]
            of_terms = unit * max(shares) / abs(shares[0] - shares[1])
        answers.append(answer)
        terms = [(w, *states[i]) for i, w in row.states] + [(w, *answers[i]) for i, w in row.answers]
        moved = sum(abs(w) * (own + of_terms * abs(value).max()) for w, value, own in terms)
        states.append((sum(w * value for w, value, _ in terms), moved))
    end, moved = states[-1]
    return moved / abs(end).max()


@pytest.mark.parametrize(("steps", "low", "high"), [(10, 5e-3, 2e-2), (20, 5e-4, 2e-3), (40, 4e-5, 2e-4)])
def test_fon_solves_a_constant_epsilon_only_in_the_limit(steps, low, high):
    """The classical method is off by this much, where the others are exact to 1e-12."""
    visited = np.linspace(999, 100, steps + 1)[:-1]
    plan = FONSolver(LINEAR).plan(timesteps=visited, stop=100)
    exact = transfer(START, NOISE, LINEAR.level(999), LINEAR.level(100))
    assert low < relative_error(plan.run(constant, START), exact) < high


# ------------------------------------------------------------------ stochastic methods


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_equation_12_of_ddim(eta):
    """x_s = α_s·x̂_0 + √(σ_s² − c²)·ε + c·z with c = η·√((1 − ᾱ_s)/(1 − ᾱ_t))·√(1 − ᾱ_t/ᾱ_s)."""
    plan = DDIMSolver(LINEAR, eta).plan(7, spacing="quadratic")
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
    plan = DDIMSolver(SCHEDULES["zero_terminal_snr"], eta=0.6).plan(5, start="top")
    row, after = plan.rows[:2]
    assert row.alpha == 0
    weights = row.states[0][1], row.answers[0][1], row.noise
    assert weights == pytest.approx((0.8 * after.sigma, after.alpha, 0.6 * after.sigma), rel=1e-12)


def test_ddim_with_eta_1_writes_the_plan_of_ddpm():
    assert DDIMSolver(LINEAR, eta=1.0).plan(20) == DDPMSolver(LINEAR).plan(20)


def test_equation_7_of_ddpm():
    """On adjacent levels: mean √ᾱ_{t−1}·β/(1 − ᾱ_t)·x̂_0 + √(1 − β)·(1 − ᾱ_{t−1})/(1 − ᾱ_t)·x_t, variance β̃ or β."""
    solvers = DDPMSolver(LINEAR, "fixed_small"), DDPMSolver(LINEAR, "fixed_large")
    for t in (999, 500, 10, 1):
        beta, before, at = np.linspace(1e-4, 0.02, 1000)[t], ALPHAS_CUMPROD[t - 1], ALPHAS_CUMPROD[t]
        picture = before**0.5 * beta / (1 - at)
        state = (1 - beta) ** 0.5 * (1 - before) / (1 - at)
        small, large = (solver.plan(timesteps=[t], stop=t - 1).rows[0] for solver in solvers)
        assert small.states[0][1] == pytest.approx(state + picture / at**0.5, rel=1e-9)
        assert small.answers[0][1] == pytest.approx(-picture * ((1 - at) / at) ** 0.5, rel=1e-9)
        assert small.noise**2 == pytest.approx(beta * (1 - before) / (1 - at), rel=1e-9)
        assert large.noise**2 == pytest.approx(beta, rel=1e-9)
        assert (large.states, large.answers) == (small.states, small.answers)
    assert [solver.plan(timesteps=[0]).rows[-1].noise for solver in solvers] == [0, 0]


@pytest.mark.parametrize(
    "solver", [DDPMSolver(LINEAR), DDPMSolver(LINEAR, "fixed_large"), DDIMSolver(LINEAR, 0.5)], ids=named
)
def test_stochastic_solvers_sample_the_gaussian(solver):
    """The moments of the sample are propagated through the plan itself, so that no sampling noise remains."""
    mean, variance = 0.7, 0.3
    plan = solver.plan(1000, spacing="leading")
    # For Gaussian data ε = gain·(x − α·mean), so the plan is linear in x_0 and each z.
    m, v = 0.0, 1.0
    for row in plan.rows:
        gain = row.sigma / (row.alpha**2 * variance + row.sigma**2)
        (_, a), (_, b) = row.states[0], row.answers[0]
        m = (a + b * gain) * m - b * gain * row.alpha * mean
        v = (a + b * gain) ** 2 * v + row.noise**2
    assert m == pytest.approx(mean, rel=0.02)
    assert v == pytest.approx(variance, rel=0.02)


def test_stochastic_solvers_only_run_down():
    assert_refused(
        (lambda solver=solver: solver.plan(timesteps=[0], stop=999), ValueError, "from noise to data")
        for name in ("linear", "zero_terminal_snr")
        for solver in (DDPMSolver(SCHEDULES[name]), DDIMSolver(SCHEDULES[name], eta=0.5))
    )


# ------------------------------------------------------------------ solvers themselves


def test_solvers_are_values():
    solvers, twins = all_solvers(LINEAR), all_solvers(LINEAR)
    assert solvers == twins
    assert len(set(solvers + twins)) == len(solvers)
    assert len({solver.name for solver in solvers}) == len(solvers)


def test_no_order_of_convergence_is_above_the_formula_s():
    """Where a solver has a formula's order of its own; a stochastic one has neither."""
    for solver in all_solvers(LINEAR):
        order = solver.convergence_order
        corrected = isinstance(solver, UniPCSolver) or getattr(solver, "corrector", False)
        assert order is None or 1 <= order <= getattr(solver, "order", order) + corrected, solver.name


def test_stages_stand_at_fractions_of_the_time_or_of_the_ratio():
    """RK4's middle stages, on a grid without rounding; the end of the step is the same."""
    here, there = LINEAR.level(700.5), LINEAR.level(100.5)
    middles = {"time": LINEAR.level(400.5), "ratio": LINEAR.level_at((here.ratio + there.ratio) / 2)}
    for fractions, middle in middles.items():
        solver = PRKSolver(LINEAR, fractions=fractions)
        assert (solver.tableau, solver.name) == (
            TABLEAUX["rk4"],
            "PRK (rk4)" if fractions == "time" else "PRK (rk4, ratio)",
        )
        assert (solver.order, solver.convergence_order) == (4, 2 if fractions == "time" else 4)
        plan = solver.plan(timesteps=[here.t], stop=there.t)
        assert plan.levels == (here, middle, middle, there, there)
        assert [row.stage for row in plan.rows] == [True, True, True, False]
    assert PRKSolver(LINEAR) == PRKSolver(LINEAR, "rk4", "time")
    assert_refused(
        [
            (lambda: PRKSolver(LINEAR, fractions="t"), ValueError, "^fractions is 't'; known are 'time', 'ratio'"),
            (lambda: PRKSolver(LINEAR, tableau="rk5"), ValueError, "^tableau is 'rk5'; known are"),
            (lambda: PRKSolver(LINEAR, tableau=None), TypeError, "^tableau is None; known are"),
        ]
    )


def test_a_pseudo_tableau_is_of_second_order_at_most():
    """The paper's theorem: weights for steps in t leave second order where φ steps in σ/α."""
    for tableau in TABLEAUX.values():
        solver = PRKSolver(SCHEDULES["vp"], tableau)
        assert (solver.order, solver.convergence_order) == (tableau.order, min(tableau.order, 2))


def test_bad_options_are_refused():
    table = np.linspace(1e-4, 0.02, 1000)
    assert_refused((lambda make=make: make(table), TypeError, "from_betas") for make in SOLVERS.values())
    assert_refused(
        (make, ValueError, message)
        for make, message in (
            (lambda: DDIMSolver(LINEAR, eta=1.5), "eta"),
            (lambda: DDIMSolver(LINEAR, eta=float("nan")), "eta"),
            (lambda: DDPMSolver(LINEAR, variance="learned"), "variance is 'learned'"),
            (lambda: PRKSolver(LINEAR, tableau="rk5"), "tableau is 'rk5'"),
            (lambda: PLMSSolver(LINEAR, order=0), "order is 0"),
            (lambda: PLMSSolver(LINEAR, starter="euler"), "starter is 'euler'"),
            (lambda: PNDMSolver(LINEAR, order=3), "order is 3"),
        )
    )
