"""Stochastic plans against float64 transcriptions of the published updates, with the same noise."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import published_stochastic as published
import pytest

from pndm_solvers import (
    DPMMultistepSolver,
    Grid,
    Level,
    NoiseSchedule,
    PLMSSolver,
    PRKSolver,
    Restart,
    SASolver,
    make_grid,
)
from pndm_solvers.noise import NoiseSource

VE = NoiseSchedule.ve(0.002, 200.0)
VP = NoiseSchedule.cosine()
EVEN, UNEVEN = np.geomspace(20.0, 0.05, 9), np.array([35.0, 20.0, 19.0, 8.0, 3.0, 1.4, 0.6, 0.3, 0.05])
STEPS = len(EVEN) - 1


@dataclass(frozen=True)
class Given(NoiseSource):
    """The noise of each row."""

    values: Any = None

    def draw(self, row, like, span=None):
        return self.values[row]


def denoise(x, sigma):
    """Some smooth picture that follows x and the level, far from linear."""
    return np.tanh(x / np.hypot(1, sigma)) + 0.2 * np.sin(3 * x / (1 + sigma))


def draws(seed, rows=64):
    return np.random.default_rng(seed).standard_normal((rows, 3, 4))


def run(solver, grid, x, z):
    """The end of a run whose network answers `denoise` of x/α at σ/α."""
    plan = solver.plan_on(grid)
    state = replace(plan.start(x, prediction="sample"), noise=Given(values=z))
    while not state.done:
        _, alpha, sigma = plan.levels[state.row]
        state = plan.advance(state, denoise(state.x / alpha, sigma / alpha))
    return state.x


def check(solver, sampler, levels, tolerance=1e-10, zs=None, **options):
    x, z = levels[0].sigma * draws(0)[0] + 0.4, draws(1) if zs is None else zs
    found = run(solver, Grid(solver.schedule, tuple(levels), False), x, z)
    alphas, sigmas = [level.alpha for level in levels], [level.sigma for level in levels]
    if solver.schedule is VP:
        options["alphas"] = alphas

    def picture(y, sigma):
        alpha = alphas[sigmas.index(sigma)]
        return denoise(y / alpha, sigma / alpha)

    expected = sampler(picture, x, sigmas, lambda i, kind: z[i], **options)
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)


def grids(schedule, sigmas, to_zero=True):
    levels = [schedule.level_at(float(ratio)) for ratio in sigmas]
    return [*levels, *([schedule.clean] if to_zero else [])]


@pytest.mark.parametrize("sigmas", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("schedule", [VE, VP], ids=["ve", "vp"])
@pytest.mark.parametrize("to_zero", [True, False])
def test_sde_dpm_solver(schedule, sigmas, to_zero):
    levels = grids(schedule, sigmas, to_zero)
    for order in (1, 2):
        for kind in ("midpoint", "heun"):
            for lower in (True, False):
                options = {"order": order, "solver_type": kind, "lower_order_final": lower}
                check(DPMMultistepSolver(schedule, tau=1.0, **options), published.sde_dpm_solver, levels, **options)
                if not to_zero:  # the published step to σ = 0 keeps its noise
                    solver = DPMMultistepSolver(schedule, space="epsilon", tau=1.0, **options)
                    check(solver, published.sde_dpm_solver, levels, prediction="epsilon", **options)
    three = DPMMultistepSolver(schedule, 3, solver_type="heun", lower_order_final=False, tau=1.0)
    options = {"order": 3, "third": "k-diffusion", "lower_order_final": False, "solver_type": "heun"}
    check(three, published.sde_dpm_solver, levels, **options)
    # Exact weights of three answers, which no program has.
    exact = PLMSSolver(schedule, 3, space="sample", coordinate="log_ratio", tau=1.0)
    check(exact, published.sde_dpm_solver, levels, **{**options, "third": "lagrange"})


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0, 1.3])
@pytest.mark.parametrize("schedule", [VE, VP], ids=["ve", "vp"])
def test_sa_solver(schedule, tau):
    """Predictor orders 1 to 4, corrector orders 0 to 4, with and without the authors' change to order 2."""
    for sigmas, to_zero in ((EVEN, True), (UNEVEN, False)):
        levels = grids(schedule, sigmas, to_zero)
        for p in (1, 2, 3, 4):
            for c in (0, 1, 2, 3, 4):
                for variant in ("bh1", "exact"):
                    options = {"lower_order_final": variant == "bh1"}
                    solver = SASolver(schedule, p, c, tau, variant=variant, **options)
                    options |= {"predictor": p, "corrector": c, "tau": tau, "modified": variant == "bh1"}
                    check(solver, published.sa_solver, levels, **options)
                if not to_zero and max(p, c) < 4:
                    solver = SASolver(schedule, p, c, tau, "epsilon")
                    options = {"predictor": p, "corrector": c, "tau": tau, "prediction": "epsilon"}
                    check(solver, published.sa_solver, levels, **options)


def test_er_sde_solver():
    levels = grids(VE, EVEN, False)
    for order in (1, 2, 3):
        solver = PLMSSolver(VE, order, coordinate="ratio", tau="er_sde")
        check(solver, published.er_sde, levels, order=order, exact=order == 3)


def test_exact_adams_of_a_function_of_the_level_is_sa_solver_where_that_is_constant():
    """A τ(ρ) that is constant gives the rows of the number."""
    for solver in (PLMSSolver(VP, 3, tau=0.7, coordinate="log_ratio"), SASolver(VP, 3, 3, 0.7, variant="exact")):
        of_level = replace(solver, tau=lambda ratio: 0.7 + 0 * ratio)
        for row, other in zip(solver.plan(8).rows, of_level.plan(8).rows, strict=True):
            assert other.noise == pytest.approx(row.noise, rel=1e-11, abs=1e-14)
            assert dict(other.answers) == pytest.approx(dict(row.answers), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("times", [1, 3])
def test_restart_sampling(times):
    """A1111's restart sampler, whose every step is Heun's: the same levels, the same noise."""
    sigmas = [20.0, 8.0, 3.0, 1.2, 0.5, 0.1, 0.0]
    levels = [Level(s, 1.0, s) for s in sigmas]
    way = [Level(s, 1.0, s) for s in (2.0, 0.9, 0.5)]
    grid = Grid(VE, (*levels[:5], *way * times, *levels[5:]), False)
    pairs = [(here.sigma, there.sigma) for here, there in zip(grid.levels, grid.levels[1:], strict=False)]
    falls = [pair for pair in pairs if pair[0] > pair[1]]
    z = draws(3)
    plan = PRKSolver(VE, "heun", "ratio").plan_on(grid)
    drawn = [row for row, it in enumerate(plan.rows) if it.noise]
    by_pair = {i: z[row] for i, row in zip(_after_rises(pairs), drawn, strict=True)}
    x = 20.0 * draws(0)[0] + 0.4
    expected = published.restart(denoise, x, falls, lambda i, kind: by_pair[i])
    np.testing.assert_allclose(run(PRKSolver(VE, "heun", "ratio"), grid, x, z), expected, rtol=0, atol=1e-12)
    assert len(drawn) == times


def _after_rises(pairs):
    """The numbers of the falling pairs that follow a rise."""
    falls = [i for i, (here, there) in enumerate(pairs) if here > there]
    return [number for number, i in enumerate(falls) if i and pairs[i - 1][0] < pairs[i - 1][1]]


def test_a_named_grid_restarts():
    """From the level nearest to `low`, and back to it by levels even in (σ/α)^(1/7)."""
    restarts = [Restart(100, 400, 3, 2), Restart(500, 700, 1)]
    plain, grid = make_grid(VP, 8).levels, make_grid(VP, 8, restarts=restarts)
    nearest = {
        t: min(plain[1:-1], key=lambda level: abs(math.log(level.ratio / VP.level(t).ratio))) for t in (100, 500)
    }
    starts = [(here, there) for here, there in grid.steps if here.ratio < there.ratio]
    assert starts == [(nearest[500], VP.level(700))] + 2 * [(nearest[100], VP.level(400))]
    assert [len(part.levels) for part in grid.parts][2:3] == [4]
    inner = np.array([level.ratio ** (1 / 7) for level in grid.parts[2].levels])
    np.testing.assert_allclose(np.diff(inner), np.diff(inner)[0], rtol=1e-6)
    plan = PLMSSolver(VP).plan(8, restarts=restarts)
    assert plan.model_calls == 8 + 2 * 3 + 1  # none where a part ends
    assert sum(row.noise > 0 for row in plan.rows) == 3
    whole = PLMSSolver(VP).plan(8, spacing="trailing", restarts=[Restart(100, 400, 3)])
    assert whole.integer_times
    assert not PLMSSolver(VP).plan(8, restarts=[]).is_stochastic
    budget = PLMSSolver(VP).plan(max_model_calls=40, restarts=[Restart(100, 400, 4, 2)])
    assert 36 <= budget.model_calls <= 40


def test_restarts_that_lead_nowhere_are_refused():
    solver = PLMSSolver(VP)
    for restart, message in (
        (Restart(600, 601, 2), "a restart up to t = 601 begins at t = .*; high must lie above it"),
        (Restart(100, 2000, 2), "a time of a restart"),
    ):
        with pytest.raises(ValueError, match=message):
            solver.plan(8, restarts=[restart])
    with pytest.raises(TypeError, match=r"^restarts is .*; it must be a list of Restart"):
        solver.plan(8, restarts=[(100, 300, 2)])
    with pytest.raises(ValueError, match="a run of one step has no level from which to restart"):
        solver.plan(1, restarts=[Restart(100, 300, 2)])
    with pytest.raises(ValueError, match=r"^low of a restart is 400; it must be below high, 100"):
        Restart(400, 100, 2)
    with pytest.raises(ValueError, match=r"^steps of a restart is 0"):
        Restart(100, 300, 0)
    a, b, c = (VP.level(t) for t in (800, 500, 200))
    for levels in ((b, a, c), (c, b, a, b), (a, b, a), (b, c, b, a, c)):
        with pytest.raises(ValueError, match="levels fall, and may rise between two falls"):
            Grid(VP, levels, True)
    with pytest.raises(TypeError, match=r"^grid is .*; it must be a Grid"):
        solver.plan_on([800, 500])
    with pytest.raises(ValueError, match="restarts draw noise"):
        solver.plan_within(0.1, lambda x, t: x, np.ones((2, 3)), restarts=[Restart(100, 300, 2)])
