"""The plans of DPM-Solver, DEIS, UniPC and LMS are their published updates, transcribed here in λ = log(α/σ).

Each transcription is a loop on arrays with a list of past answers, in the notation of its paper, in float64.
"""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from conftest import SCHEDULES, where_steps_begin
from scipy.integrate import quad

from pndm_solvers import (
    DEISSolver,
    DPMMultistepSolver,
    DPMSinglestepSolver,
    PLMSSolver,
    UniPCSolver,
)

pytestmark = pytest.mark.filterwarnings("ignore:none of this plan's:UserWarning")  # coarse grids

START = np.random.default_rng(0).standard_normal((3, 4))
# Schedules, and where a run on them begins: a finite λ.
FINITE = {"linear": 999, "scaled_linear": 999, "cosine": 950, "vp": 1.0, "ve": 80.0, "rectified_flow": 0.98}
SPACINGS = ("balanced", "trailing", "quadratic", "linspace")
STEPS = (1, 2, 3, 5, 10, 27, 50)
# (steps, spacing, final): two spacings for each number of steps, one to the clean level.
GRIDS = [
    (steps, SPACINGS[(i + 2 * j) % 4], final)
    for i, steps in enumerate(STEPS)
    for j, final in enumerate(("clean", "first"))
]


def lam(level):
    return math.log(level.alpha / level.sigma)


class Network:
    """An ε-network whose answers depend on where and when it is called, read as ε or as x_0."""

    def __init__(self, schedule, space):
        self.schedule, self.space = schedule, space

    def epsilon(self, x, t):
        # Scaled, as networks scale their input: else each step would multiply rounding by its length in σ.
        t = np.ravel(t)[0]
        size = np.hypot(self.schedule.alpha(t), self.schedule.sigma(t))
        return np.sin(x / size + 3 * t / self.schedule.t_max)

    def __call__(self, x, level):
        epsilon = self.epsilon(x, level.t)
        return epsilon if self.space == "epsilon" else (x - level.sigma * epsilon) / level.alpha


def first_order(x, m, s, t, space):
    """DPM-Solver-1 from s to t; at σ_t = 0, where h is infinite, its limit."""
    if t.sigma == 0:
        return t.alpha * m if space == "sample" else t.alpha / s.alpha * (x - s.sigma * m)
    h = lam(t) - lam(s)
    if space == "sample":
        return t.sigma / s.sigma * x - t.alpha * math.expm1(-h) * m
    return t.alpha / s.alpha * x - t.sigma * math.expm1(h) * m


# ------------------------------------------------------------------ DPM-Solver, multistep


def dpm_multistep(levels, network, x, order, space, solver_type, lower_order_final=True):
    """Algorithm 2 of DPM-Solver++ and its third order, as in the authors' `multistep_dpm_solver_*_update`."""
    ms, ls = [], []
    for k, (s, t) in enumerate(itertools.pairwise(levels)):
        ms.insert(0, network(x, s))
        ls.insert(0, lam(s))
        here = min(order, k + 1, len(levels) - 1 - k) if lower_order_final else min(order, k + 1)
        if t.sigma == 0:
            here = 1
        base = first_order(x, ms[0], s, t, space)
        if here > 1:
            h, h0 = lam(t) - ls[0], ls[0] - ls[1]
            r0, d0 = h0 / h, (ms[0] - ms[1]) / (h0 / h)
            sign, scale = (-1, t.alpha) if space == "sample" else (1, t.sigma)
            phi1 = math.expm1(sign * h)
            phi2 = (phi1 / h + 1) if space == "sample" else (phi1 / h - 1)
        if here == 1:
            x = base
        elif here == 2 and solver_type == "midpoint":
            x = base - 0.5 * scale * phi1 * d0
        elif here == 2:
            x = base + (1 if space == "sample" else -1) * scale * phi2 * d0
        else:
            r1 = (ls[1] - ls[2]) / h
            d1_1 = (ms[1] - ms[2]) / r1
            d1 = d0 + r0 / (r0 + r1) * (d0 - d1_1)
            d2 = (d0 - d1_1) / (r0 + r1)
            phi3 = ((phi1 + h) / h**2 - 0.5) if space == "sample" else ((phi1 - h) / h**2 - 0.5)
            x = base + (1 if space == "sample" else -1) * scale * phi2 * d1 - scale * phi3 * d2
    return x


# ------------------------------------------------------------------ DPM-Solver, singlestep


def dpm_singlestep(schedule, levels, network, x, order, space, solver_type):
    """Algorithms 1 and 2 of DPM-Solver (r_1 = 1/2; 1/3 and 2/3), and algorithm 1 of DPM-Solver++."""
    for s, t in itertools.pairwise(levels):
        m0 = network(x, s)
        if order == 1 or t.sigma == 0:
            x = first_order(x, m0, s, t, space)
            continue
        h = lam(t) - lam(s)
        sign = -1 if space == "sample" else 1

        def scale(level):
            return level.alpha if space == "sample" else level.sigma

        def phi2(h, sign=sign):
            """(e^h − 1)/h − 1 in noise space, (e^{−h} − 1)/h + 1 in data space."""
            return math.expm1(sign * h) / h - sign

        r1, r2 = (1 / 2, None) if order == 2 else (1 / 3, 2 / 3)
        s1 = schedule.level(schedule.time_at(2 * (lam(s) + r1 * h)))
        m1 = network(first_order(x, m0, s, s1, space), s1)
        base = first_order(x, m0, s, t, space)
        if order == 2 and solver_type == "midpoint":
            x = base - scale(t) * math.expm1(sign * h) / (2 * r1) * (m1 - m0)
        elif order == 2:
            x = base - sign * scale(t) * phi2(h) / r1 * (m1 - m0)
        else:
            s2 = schedule.level(schedule.time_at(2 * (lam(s) + r2 * h)))
            x2 = first_order(x, m0, s, s2, space) - sign * scale(s2) * r2 / r1 * phi2(r2 * h) * (m1 - m0)
            m2 = network(x2, s2)
            if solver_type == "midpoint":
                x = base - sign * scale(t) * phi2(h) / r2 * (m2 - m0)
            else:
                d1_0, d1_1 = (m1 - m0) / r1, (m2 - m0) / r2
                d1 = (r2 * d1_0 - r1 * d1_1) / (r2 - r1)
                d2 = 2 * (d1_1 - d1_0) / (r2 - r1)
                phi3 = (math.expm1(sign * h) - sign * h) / h**2 - 0.5
                x = base - sign * scale(t) * phi2(h) * d1 - scale(t) * phi3 * d2
    return x


# ------------------------------------------------------------------ DEIS and LMS


def lagrange(places, j, at):
    return math.prod((at - places[i]) / (places[j] - places[i]) for i in range(len(places)) if i != j)


def adams(levels, network, x, orders, place, limits):
    """x_t = α_t·(x_s/α_s + Σ_j ε_j·∫ L_j dρ), the integrals by SciPy's quadrature in a variable of its own."""
    epsilons, places = [], []
    for k, (s, t) in enumerate(itertools.pairwise(levels)):
        epsilons.insert(0, network(x, s))
        places.insert(0, place(s.sigma / s.alpha))
        most = min(orders[k], k + 1)
        total = 0.0
        for j in range(most):
            used = places[:most]
            weight, _ = quad(
                lambda v, j=j, used=used: lagrange(used, j, place(limits[1](v))) * limits[2](v),
                *(limits[0](level.sigma / level.alpha) for level in (s, t)),
                epsabs=0,
                epsrel=1e-12,
                limit=400,
            )
            total = total + weight * epsilons[j]
        x = t.alpha * (x / s.alpha + total)
    return x


def deis(levels, network, x, order, lower_order_final=True):
    """The closed form of diffusers' and the authors' "logrho": ∫ of a polynomial in log ρ, for orders 1 to 3."""
    epsilons, rhos = [], []
    for k, (s, t) in enumerate(itertools.pairwise(levels)):
        epsilons.insert(0, network(x, s))
        rhos.insert(0, s.sigma / s.alpha)
        here = min(order, k + 1, len(levels) - 1 - k) if lower_order_final else min(order, k + 1)
        end = t.sigma / t.alpha

        def antiderivative(rho, j, here=here):
            if rho == 0:
                return 0.0
            b, others = math.log(rhos[j]), [math.log(rhos[i]) for i in range(here) if i != j]
            u = math.log(rho)
            if not others:
                return rho
            if len(others) == 1:
                return rho * (u - 1 - others[0]) / (b - others[0])
            c, d = others
            return rho * (u * u - 2 * u + 2 - (c + d) * (u - 1) + c * d) / ((b - c) * (b - d))

        total = sum((antiderivative(end, j) - antiderivative(rhos[0], j)) * epsilons[j] for j in range(here))
        x = t.alpha * (x / s.alpha + total)
    return x


# ------------------------------------------------------------------ UniPC


def unipc(levels, network, x, order, variant, space, lower_order_final=True, disable_corrector=()):
    """Algorithms 1 and 2 of UniPC, with its linear system R·ρ = b and the simplified ρ = 1/2 of two answers."""
    ms, ls, last = [], [], None

    def combined(x, m0, h, s, t, rs, differences, simplified, take):
        hh = -h if space == "sample" else h
        phi1 = math.expm1(hh)
        base = first_order(x, m0, s, t, space)
        if not differences:
            return base
        b_h = hh if variant == "bh1" else phi1
        matrix, b, phi, factorial = [], [], phi1 / hh - 1, 1
        for i in range(1, take + 1):
            matrix.append([r ** (i - 1) for r in rs[:take]])
            b.append(phi * factorial / b_h)
            factorial *= i + 1
            phi = phi / hh - 1 / factorial
        rhos = [0.5] if simplified else np.linalg.solve(matrix, b)
        scale = t.alpha if space == "sample" else t.sigma
        return base - scale * b_h * sum(rho * d for rho, d in zip(rhos, differences, strict=True))

    for k, (s, t) in enumerate(itertools.pairwise(levels)):
        new = network(x, s)
        if last and k - 1 not in disable_corrector:
            before, s0, p = last
            h = lam(s) - ls[0]
            rs = [(ls[i] - ls[0]) / h for i in range(1, p)] + [1.0]
            differences = [(ms[i] - ms[0]) / r for i, r in zip(range(1, p), rs, strict=False)] + [new - ms[0]]
            x = combined(before, ms[0], h, s0, s, rs, differences, p == 1, p)
        ms.insert(0, new)
        ls.insert(0, lam(s))
        p = min(order, k + 1, len(levels) - 1 - k) if lower_order_final else min(order, k + 1)
        last = x, s, p
        if t.sigma == 0:
            x = first_order(x, ms[0], s, t, space)
            continue
        h = lam(t) - ls[0]
        rs = [(ls[i] - ls[0]) / h for i in range(1, p)]
        differences = [(ms[i] - ms[0]) / r for i, r in zip(range(1, p), rs, strict=True)]
        x = combined(x, ms[0], h, s, t, rs, differences, p == 2, p - 1)
    return x


# ------------------------------------------------------------------ the comparison


@cache
def times(name, steps, spacing, final):
    """The times of a grid, found once for all solvers."""
    return where_steps_begin(SCHEDULES[name], steps, spacing=spacing, start=FINITE[name], final=final)


def both(solver, transcribed, name, *grid):
    """(the plan's sample, the transcription's) on one grid."""
    schedule = solver.schedule
    plan = solver.plan(timesteps=times(name, *grid), final=grid[-1])
    x = START * math.hypot(*plan.levels[0][1:])
    stages = [False, *(row.stage for row in plan.rows)]
    levels = [level for level, stage in zip(plan.levels, stages, strict=True) if not stage]
    space = getattr(solver, "space", "epsilon")
    network = Network(schedule, space)
    return plan.run(network.epsilon, x), transcribed(levels, network, x)


def assert_written(make, transcribe, grids=GRIDS, schedules=FINITE):
    worst = []
    for name in schedules:
        for grid in grids:
            found, expected = both(make(SCHEDULES[name]), transcribe, name, *grid)
            worst.append((np.abs(found - expected).max() / np.abs(expected).max(), name, *grid))
    assert max(worst)[0] <= 1e-10, sorted(worst)[-3:]


@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("space", ["sample", "epsilon"])
@pytest.mark.parametrize(("order", "solver_type"), [(1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")])
def test_dpm_solver_multistep(order, solver_type, space, lower_order_final):
    assert_written(
        lambda schedule: DPMMultistepSolver(schedule, order, space, solver_type, lower_order_final),
        lambda *a: dpm_multistep(*a, order, space, solver_type, lower_order_final),
    )


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("space", ["sample", "epsilon"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_singlestep(order, space, solver_type):
    for name in FINITE:
        assert_written(
            lambda schedule: DPMSinglestepSolver(schedule, order, space, solver_type),
            lambda *a, name=name: dpm_singlestep(SCHEDULES[name], *a, order, space, solver_type),
            schedules=[name],
            grids=[grid for grid in GRIDS if grid[0] <= 10],
        )


@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order, lower_order_final):
    assert_written(
        lambda schedule: DEISSolver(schedule, order, lower_order_final=lower_order_final),
        lambda *a: deis(*a, order, lower_order_final),
    )


@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("space", ["sample", "epsilon"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order, variant, space, lower_order_final):
    assert_written(
        lambda schedule: UniPCSolver(schedule, order, variant, space, lower_order_final),
        lambda *a: unipc(*a, order, variant, space, lower_order_final),
    )


def test_unipc_with_a_corrector_that_is_switched_off():
    assert_written(
        lambda schedule: UniPCSolver(schedule, 3, disable_corrector=(0, 2, 700)),
        lambda *a: unipc(*a, 3, "bh2", "sample", disable_corrector=(0, 2, 700)),
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
def test_lms(steps):
    """k-diffusion's `linear_multistep_coeff`: Lagrange's polynomials in σ, here in σ/α."""
    same = (lambda r: r, lambda v: v, lambda v: 1.0)
    assert_written(
        lambda schedule: PLMSSolver(schedule, coordinate="ratio"),
        lambda levels, network, x: adams(levels, network, x, [4] * 99, lambda r: r, same),
        grids=[(steps, "balanced", "clean"), (steps, "quadratic", "first")],
    )


@pytest.mark.parametrize("name", ["vp", "rectified_flow"])
def test_deis_in_time(name):
    """tAB-DEIS: Lagrange's polynomials in t, which here is a function of ρ, integrated by SciPy."""
    schedule = SCHEDULES[name]

    def time(ratio):
        return float(schedule.time_at(-2 * math.log(ratio)))

    log = (math.log, math.exp, math.exp)
    network = Network(schedule, "epsilon")
    for steps in (3, 6):
        plan = DEISSolver(schedule, 3, "time", lower_order_final=False).plan(steps, start=FINITE[name], final="first")
        expected = adams(plan.levels, network, START, [3] * steps, time, log)
        np.testing.assert_allclose(plan.run(network.epsilon, START), expected, atol=1e-10 * np.abs(expected).max())
