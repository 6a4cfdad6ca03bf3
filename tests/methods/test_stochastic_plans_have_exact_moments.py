"""On Gaussian data every plan is linear, so the moments of its states are numbers: an order shows without a draw."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from published_stochastic import er_sde_5

from pndm_solvers import (
    DDIMSolver,
    DDPMSolver,
    DPMMultistepSolver,
    Grid,
    NoiseSchedule,
    PLMSSolver,
    SASolver,
)
from pndm_solvers.analytic import Gaussian
from pndm_solvers.methods import SOLVERS
from pndm_solvers.noise import NoiseSource
from pndm_solvers.sde import TAUS, er_sde, forward_deviation, stochastic_weights
from pndm_solvers.transfer import SPACES, transfer_weights

SCHEDULES = {
    "linear": NoiseSchedule.linear(),
    "cosine": NoiseSchedule.cosine(),
    "flow": NoiseSchedule.rectified_flow(),
    "ve": NoiseSchedule.ve(0.01, 80.0),
}
COSINE = SCHEDULES["cosine"]
DATA = Gaussian([0.5, -1.0], [[0.3, 0.1], [0.1, 0.05]])


def even(solver, steps):
    """The plan of even steps in time, away from both ends."""
    times = np.linspace(0.9 * solver.schedule.t_max, 0.2 * solver.schedule.t_max, steps + 1)
    return solver.plan(timesteps=times[:-1], stop=times[-1])


def marginal(data, level):
    """The mean and the covariance of α·x_0 + σ·z."""
    covariance = (data.axes * (level.alpha**2 * data.variances + level.sigma**2)) @ data.axes.T
    return level.alpha * data.mean, covariance


def errors(plan, data=DATA, rows=(-1,)):
    """The largest error of the mean and of the covariance, over the rows."""
    moments = data.moments(plan)
    pairs = [(moments[row], marginal(data, plan.levels[row])) for row in rows]
    return [max(np.abs(found[i] - right[i]).max() for found, right in pairs) for i in (0, 1)]


def observed(solver, lengths, rows=lambda plan: (-1,), part=1):
    found = []
    for steps in lengths:
        plan = even(solver, steps)
        found.append(errors(plan, rows=rows(plan))[part])
    return -np.polyfit(np.log(lengths), np.log(found), 1)[0]


# ---------------------------------------------------------------------- the instrument


def test_moments_are_those_of_the_linear_map_that_a_run_is():
    """The weight of the start and of each noise, found by runs that are given one of them alone."""

    class Unit(NoiseSource):
        def draw(self, row, like, span=None):
            return np.full(like.shape, float(row == self.seed))

    plan = SASolver(COSINE, 3, 3, lower_order_final=False).plan(6, start=900, stop=100)
    data, first = Gaussian([0.0], [0.7]), plan.levels[0]

    def run(x, row):
        state = replace(plan.start(np.array([[x]]), seed=row), noise=Unit(seed=row))
        while not state.done:
            state = plan.advance(state, data.model(COSINE)(state.x, state.t))
        return float(state.x[0, 0])

    weights = [run(0.0, row) for row in range(plan.model_calls)]
    start = run(1.0, 10**6) * math.sqrt(0.7 * first.alpha**2 + first.sigma**2)
    _, covariance = data.moments(plan)[-1]
    assert covariance.item() == pytest.approx(np.sum(np.square([start, *weights])), rel=1e-10)
    assert sum(weight != 0 for weight in weights) == plan.model_calls


# ---------------------------------------------------------------------- steps


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0, "er_sde", np.arctan])
@pytest.mark.parametrize("space", SPACES)
def test_a_step_solves_its_sde_while_the_prediction_stays(space, tau):
    """Against a fine integration of dy = (1 + τ²)·ε dρ and of the variance's equation, e constant."""
    here, there = COSINE.level(700), COSINE.level(400)
    of = TAUS.get(tau, tau) if isinstance(tau, str) else tau
    rate = (lambda ratio: float(of(ratio)) ** 2) if callable(of) else (lambda ratio: of**2)
    scale, e = SPACES[space].scale, 0.7
    step = 1e-6

    def derivative(ratio, values):
        y, variance = values
        growth = (scale(1, ratio + step) - scale(1, ratio - step)) / (2 * step)
        slope = (1 + rate(ratio)) / scale(1, ratio)
        return np.array([slope * (e + growth * y), 2 * slope * growth * variance - 2 * ratio * rate(ratio)])

    ratios = np.geomspace(here.ratio, there.ratio, 4001)
    values = np.array([1.3 / here.alpha, 0.0])
    for first, last in pairwise(ratios):
        h, middle = last - first, (first + last) / 2
        k1 = derivative(first, values)
        k2 = derivative(middle, values + h / 2 * k1)
        k3 = derivative(middle, values + h / 2 * k2)
        values = values + h / 6 * (k1 + 2 * k2 + 2 * k3 + derivative(last, values + h * k3))
    p, q, c = stochastic_weights(here, there, space, tau)
    # `transfer.py` counts "sample" up to the sign.
    sign = -1 if space == "sample" else 1
    assert p * 1.3 + sign * q * e == pytest.approx(there.alpha * values[0], rel=1e-8)
    assert c == pytest.approx(there.alpha * math.sqrt(values[1]), rel=1e-8)


@pytest.mark.parametrize("space", SPACES)
def test_the_step_of_little_noise_is_the_transfer(space):
    here, there = COSINE.level(700), COSINE.level(400)
    p, q, c = stochastic_weights(here, there, space, 1e-7)
    assert (p, q) == pytest.approx(transfer_weights(here, there, space), rel=1e-12)
    assert 0 < c < 1e-6


def test_ends_are_limits():
    top, below, low = COSINE.level(900)._replace(alpha=0.0, sigma=1.0), COSINE.level(500), COSINE.level(0)
    assert stochastic_weights(top, below, "sample", 1.0) == (0.0, below.alpha, below.sigma)
    assert stochastic_weights(low, COSINE.clean, "sample", 1.0) == (0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="a stochastic solver runs from noise to data, not from t = 0 to 500"):
        stochastic_weights(low, below, "sample", 1.0)


def test_ddims_eta_is_another_measure_of_tau():
    for name, schedule in SCHEDULES.items():
        for tau in (0.2, 0.7, 1.0):
            plan = even(PLMSSolver(schedule, 1, tau=tau), 5)
            for row, here, there in zip(plan.rows, plan.levels, plan.levels[1:], strict=False):
                r = there.ratio / here.ratio
                eta = math.sqrt((1 - r ** (2 * tau**2)) / (1 - r**2))
                grid = Grid(schedule, (here, there), False)
                ddim = DDIMSolver(schedule, min(eta, 1.0)).plan_on(grid).rows[0]
                assert row.noise == pytest.approx(ddim.noise, rel=1e-9), name


def test_the_noise_scale_of_er_sde_is_its_tau():
    ratios, step = np.geomspace(1e-3, 200, 50), 1e-6
    growth = (np.log(er_sde_5(ratios * (1 + step))) - np.log(er_sde_5(ratios * (1 - step)))) / (2 * step)
    assert 1 + er_sde(ratios) ** 2 == pytest.approx(growth, rel=1e-8)


# ---------------------------------------------------------------------- known methods


def test_without_noise_the_rows_are_those_of_the_flow():
    for schedule in SCHEDULES.values():
        for make in (PLMSSolver, DPMMultistepSolver):
            assert make(schedule, tau=0.0).plan(7) == make(schedule).plan(7)
        assert not SASolver(schedule, tau=0.0).plan(7).is_stochastic
        for space, corrector in (("sample", False), ("v_prediction", True)):
            options: Any = {"order": 3, "space": space, "coordinate": "angle", "corrector": corrector}
            flow, near = (even(PLMSSolver(schedule, tau=tau, **options), 6) for tau in (0.0, 1e-7))
            for row, other in zip(flow.rows, near.rows, strict=True):
                assert dict(other.answers) == pytest.approx(dict(row.answers), rel=1e-9, abs=1e-9)
                assert dict(other.states) == pytest.approx(dict(row.states), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_with_the_reverse_sdes_noise_order_one_is_ddpm(name):
    schedule = SCHEDULES[name]
    for options in ({}, {"spacing": "log_snr"}, {"start": 0.8 * schedule.t_max, "stop": 0.1 * schedule.t_max}):
        ddpm = DDPMSolver(schedule).plan(9, **options)
        for solver in (
            PLMSSolver(schedule, 1, tau=1.0),
            SASolver(schedule, 1, 0),
            DPMMultistepSolver(schedule, 1, tau=1.0),
        ):
            plan = solver.plan(9, **options)
            for k, (row, theirs) in enumerate(zip(plan.rows, ddpm.rows, strict=True)):
                assert row.noise == pytest.approx(theirs.noise, rel=1e-9, abs=1e-14)
                # The same picture and noise in, the same state out: their spaces differ.
                x, e = 0.3 * row.alpha + 0.9 * row.sigma, {"sample": 0.3, "epsilon": 0.9, "flow": 0.6}
                made = [
                    sum(w for _, w in r.states) * x + sum(w * e[r.space] for _, w in r.answers) for r in (row, theirs)
                ]
                assert made[0] == pytest.approx(made[1], rel=1e-9, abs=1e-12), (solver.name, k)


# ---------------------------------------------------------------------- orders

FEW, MANY = (113, 160, 226), (640, 905, 1280)


def family(schedule, tau):
    return {
        "euler": (PLMSSolver(schedule, 1, tau=tau), FEW),
        "two answers": (PLMSSolver(schedule, 2, tau=tau), FEW),
        "log": (PLMSSolver(schedule, 2, tau=tau, coordinate="log_ratio"), FEW),
        "noise space": (PLMSSolver(schedule, 2, tau=tau, space="epsilon"), MANY),
        "v space": (PLMSSolver(schedule, 2, tau=tau, space="v_prediction"), FEW),
        "flow space": (PLMSSolver(schedule, 2, tau=tau, space="flow"), FEW),
        "2M": (DPMMultistepSolver(schedule, 2, tau=tau), FEW),
        "2M heun": (DPMMultistepSolver(schedule, 2, solver_type="heun", tau=tau), FEW),
        "2M noise space": (DPMMultistepSolver(schedule, 2, "epsilon", tau=tau), FEW),
        "3M": (DPMMultistepSolver(schedule, 3, tau=tau), FEW),
        "SA 1-0": (SASolver(schedule, 1, 0, tau), FEW),
        "SA 2-0": (SASolver(schedule, 2, 0, tau), FEW),
        "SA 1-1": (SASolver(schedule, 1, 1, tau), MANY),
        "SA 1-2": (SASolver(schedule, 1, 2, tau), FEW),
        "SA 2-2": (SASolver(schedule, 2, 2, tau), FEW),
    }


@pytest.mark.parametrize(("name", "tau"), [("linear", 0.3), ("cosine", 1.0), ("flow", "er_sde"), ("ve", 0.8)])
def test_the_declared_weak_orders_are_observed(name, tau):
    """Of the covariance: the mean has at least that order, and is exact where the mean of the noise is."""
    wrong = {}
    for kind, (solver, lengths) in family(SCHEDULES[name], tau).items():
        found = observed(solver, lengths)
        if abs(found - solver.weak_order) > 0.2:
            wrong[kind] = (solver.weak_order, found)
    assert wrong == {}


@pytest.mark.parametrize("tau", [0.6, 1.0])
def test_more_answers_or_a_corrector_keep_weak_order_two(tau):
    """The noise within a step is not seen, so the order stays at 2, with a small constant: it shows on fine grids."""
    for solver in (
        PLMSSolver(COSINE, 4, tau=tau),
        PLMSSolver(COSINE, 2, tau=tau, corrector=True),
        SASolver(COSINE, 3, 3, tau, lower_order_final=False),
    ):
        assert solver.weak_order == 2
        assert observed(solver, MANY) == pytest.approx(2, abs=0.2), solver.name


@pytest.mark.parametrize("tau", [0.3, 1.0, 1.5, "er_sde", np.arctan])
def test_the_covariance_is_right_at_every_row(tau):
    """Not only at the end: at every row from a quarter of the way, where the first step of order 1 counts less."""
    for solver in (PLMSSolver(COSINE, 2, tau=tau), SASolver(COSINE, 2, 2, tau), PLMSSolver(COSINE, 1, tau=tau)):
        found = observed(solver, (226, 320, 452), rows=lambda plan: range(len(plan.rows) // 4, len(plan.rows)))
        assert found == pytest.approx(solver.weak_order, abs=0.2), solver.name


def test_ddim_and_ddpm_are_of_weak_order_one():
    for solver in (
        DDPMSolver(COSINE),
        DDPMSolver(COSINE, "fixed_large"),
        DDIMSolver(COSINE, 0.5),
        DDIMSolver(COSINE, 1),
    ):
        assert (solver.weak_order, solver.strong_order, solver.convergence_order) == (1, 1, None)
        assert observed(solver, FEW) == pytest.approx(1, abs=0.2), solver.name


def test_every_registered_method_declares_its_orders():
    for name, make in SOLVERS.items():
        solver = make(COSINE)
        if solver.convergence_order is None:
            assert (solver.weak_order or 0) >= 1, name
            assert solver.strong_order == 1, name
        else:
            assert solver.weak_order == solver.strong_order == solver.convergence_order, name


# ---------------------------------------------------------------------- arguments


def test_what_tau_may_be():
    assert PLMSSolver(COSINE, tau=1).space == "sample"
    assert PLMSSolver(COSINE).space == "epsilon"
    assert PLMSSolver(COSINE, tau=1) == PLMSSolver(COSINE, space="sample", tau=1.0)
    assert PLMSSolver(COSINE, tau=1).name == "PLMS 4 (exact, ramp, τ = 1)"
    assert SASolver(COSINE, tau=np.arctan).name == "SA-Solver 2-2 (τ = arctan)"
    for make in (PLMSSolver, SASolver, DPMMultistepSolver):
        with pytest.raises(ValueError, match=r"^tau is -1; it must be a number from 0"):
            make(COSINE, tau=-1)
        with pytest.raises(ValueError, match=r"^tau is 'sde'; known are 'er_sde'"):
            make(COSINE, tau="sde")
    with pytest.raises(TypeError, match="tau is a function that fails for an array"):
        PLMSSolver(COSINE, tau=lambda ratio: 0.5 if ratio > 1 else 0.0).plan(3)
    with pytest.raises(ValueError, match="tau is a function that gives -1 to -1"):
        PLMSSolver(COSINE, tau=lambda ratio: -1.0).plan(3)
    with pytest.raises(ValueError, match="starter is 'heun', whose steps are deterministic"):
        PLMSSolver(COSINE, starter="heun", tau=1.0)
    with pytest.raises(ValueError, match="a stochastic solver runs from noise to data"):
        PLMSSolver(COSINE, tau=1.0).plan(5, start=100, stop=900)


def test_a_step_to_the_picture_draws_no_noise():
    for schedule in SCHEDULES.values():
        for space in SPACES:
            plan = PLMSSolver(schedule, tau=1.0, space=space).plan(8)
            assert plan.rows[-1].noise == 0
            assert all(row.noise > 0 for row in plan.rows[:-1])


def test_fresh_noise_is_that_of_the_forward_process():
    here, there = COSINE.level(300), COSINE.level(600)
    noise = forward_deviation(there, here)
    assert math.hypot(there.alpha / here.alpha * here.sigma, noise) == pytest.approx(there.sigma, rel=1e-14)
