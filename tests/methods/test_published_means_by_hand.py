"""The means of DPM-Solver, DEIS and UniPC on a few levels, by hand; their defaults, names and ends."""

import math

import numpy as np
import pytest
from conftest import SCHEDULES, assert_refused
from scipy.integrate import quad

from pndm_solvers import DEISSolver, DPMMultistepSolver, DPMSinglestepSolver, PLMSSolver, UniPCSolver, make_grid
from pndm_solvers.program import Program
from pndm_solvers.transfer import transfer_weights

VE, FLOW, LINEAR = SCHEDULES["ve"], SCHEDULES["rectified_flow"], SCHEDULES["linear"]
TIMES = [40.0, 16.0, 5.0, 2.0]  # σ; no step is as long in λ as another
PICTURES = (DPMMultistepSolver, DPMSinglestepSolver, UniPCSolver)


def means(solver, times=TIMES, stop=0.7, schedule=VE):
    """The mean of each row: the weights of its answers over that of φ along one answer."""
    plan = solver.plan(timesteps=times, stop=stop)
    space = getattr(solver, "space", "epsilon")
    assert {row.space for row in plan.rows} == {space}
    found = []
    for row, there in zip(plan.rows, plan.levels[1:], strict=True):
        _, q = transfer_weights(row.level, there, space)
        found.append([weight / q for _, weight in row.answers])
    return found


def slope(k, times, stop, share):
    """Weights of m_0 + share·(m_0 − m_1)/r_0 in step k, the oldest first."""
    h, h0 = math.log(times[k] / ([*times, stop][k + 1])), math.log(times[k - 1] / times[k])
    return [-share * h / h0, 1 + share * h / h0]


def test_two_answers_are_taken_at_the_middle():
    expected = [[1.0], *(slope(k, TIMES, 0.7, 0.5) for k in (1, 2, 3))]
    for space in ("sample", "epsilon"):
        for got, right in zip(
            means(DPMMultistepSolver(VE, space=space, lower_order_final=False)), expected, strict=True
        ):
            np.testing.assert_allclose(got, right, rtol=1e-12)


def test_heun_is_the_mean_of_the_straight_line():
    """Over e^{−λ}dλ in noise space and e^λ dλ in data space: c_1 = 1/k − 1/(e^k − 1), k = ±h."""
    for space, sign in (("sample", -1), ("epsilon", 1)):
        found = means(DPMMultistepSolver(VE, 2, space, "heun", lower_order_final=False))
        for k in (1, 2, 3):
            h = sign * math.log(TIMES[k] / [*TIMES, 0.7][k + 1])
            np.testing.assert_allclose(found[k], slope(k, TIMES, 0.7, 1 / h - 1 / math.expm1(h)), rtol=1e-9)


def test_bh1_weighs_the_slope_by_its_own_b():
    for space, sign in (("sample", -1), ("epsilon", 1)):
        plain = UniPCSolver(VE, 2, "bh1", space, lower_order_final=False, disable_corrector=range(9))
        found = means(plain)
        for k in (1, 2, 3):
            h = sign * math.log(TIMES[k] / [*TIMES, 0.7][k + 1])
            np.testing.assert_allclose(found[k], slope(k, TIMES, 0.7, h / math.expm1(h) / 2), rtol=1e-12)
    for variant in ("bh1", "bh2"):  # UniC-1 is the mean of two answers, but for B(h)
        h = -math.log(TIMES[0] / TIMES[1])
        share = (h / math.expm1(h) if variant == "bh1" else 1.0) / 2
        first, second = UniPCSolver(VE, 1, variant).plan(timesteps=TIMES[:2], stop=5.0).rows
        _, q = transfer_weights(first.level, second.level, "sample")
        p, q2 = transfer_weights(second.level, VE.level(5.0), "sample")
        np.testing.assert_allclose(dict(second.answers)[0], -p * q * share, rtol=1e-12)
        np.testing.assert_allclose(dict(second.answers)[1], q2 + p * q * share, rtol=1e-12)


def moment(h, power, space):
    """The mean of s^power over a step of length h in λ, s = (λ − λ_t)/h: du is e^λ dλ in data space, e^−λ dλ else."""
    sign = 1 if space == "sample" else -1
    parts = [quad(lambda s, p=p: s**p * math.exp(sign * h * s), 0, 1, epsabs=0, epsrel=1e-13)[0] for p in (power, 0)]
    return parts[0] / parts[1]


@pytest.mark.parametrize("space", ["sample", "epsilon"])
def test_three_answers_have_half_of_the_curvature(space):
    """m_0 + c_1·D_1 + c_2·D_2, with c_1 the mean of s and c_2 half of that of s²."""
    found = means(DPMMultistepSolver(VE, 3, space, lower_order_final=False))
    for k in (2, 3):
        h = math.log(TIMES[k] / [*TIMES, 0.7][k + 1])
        nodes = [math.log(TIMES[k] / TIMES[k - j]) / h for j in range(3)]  # s of m_0, m_1 and m_2
        inverse = np.linalg.inv(np.vander(nodes, 3, increasing=True))  # rows: m_0, D_1 and D_2 by the three answers
        expected = np.array([1, moment(h, 1, space), moment(h, 2, space) / 2]) @ inverse
        np.testing.assert_allclose(found[k], expected[::-1], rtol=1e-9)


@pytest.mark.parametrize("space", ["sample", "epsilon"])
def test_stages_are_polynomials_through_the_stages_before(space):
    """Where each stage stands in λ, and the polynomial through the answers that it takes."""
    h = math.log(40.0 / 3.0)
    tables = {
        (1, "midpoint"): [(1, [0])],
        (1, "heun"): [(1, [0])],
        (2, "midpoint"): [(1 / 2, [0]), (1, [1 / 2])],
        (2, "heun"): [(1 / 2, [0]), (1, [0, 1 / 2])],
        (3, "midpoint"): [(1 / 3, [0]), (2 / 3, [0, 1 / 3]), (1, [0, 2 / 3])],
        (3, "heun"): [(1 / 3, [0]), (2 / 3, [0, 1 / 3]), (1, [0, 1 / 3, 2 / 3])],
    }
    for (order, kind), stages in tables.items():
        plan = DPMSinglestepSolver(VE, order, space, kind).plan(timesteps=[40.0], stop=3.0)
        assert len(plan.rows) == len(stages)
        for row, level, (fraction, nodes) in zip(plan.rows, plan.levels[1:], stages, strict=True):
            assert level.sigma == pytest.approx(40.0 * math.exp(-fraction * h), rel=1e-12)
            assert row.stage == (fraction < 1)
            inverse = np.linalg.inv(np.vander([node / fraction for node in nodes], len(nodes), increasing=True))
            expected = np.array([moment(fraction * h, power, space) for power in range(len(nodes))]) @ inverse
            _, q = transfer_weights(VE.level(40.0), level, space)
            # A stage moves from the step's first state. In a row it moves from the newest, through what these share.
            made = dict(row.answers)
            mean = [made.get(round(node * (len(stages) if order > 1 else 1)), 0.0) / q for node in nodes]
            np.testing.assert_allclose(mean, expected, rtol=1e-9)
            assert [i for i, _ in row.states] == [0]


def counts(solver, **options):
    """How many answers each row combines."""
    return [len(row.answers) for row in solver.plan(timesteps=[*TIMES, 1.5], **options).rows]


def test_the_last_steps_lower_their_order():
    low, high = {"lower_order_final": True}, {"lower_order_final": False}
    assert counts(DPMMultistepSolver(VE, 3, **low), stop=0.7) == [1, 2, 3, 2, 1]
    assert counts(DPMMultistepSolver(VE, 3, **high), stop=0.7) == [1, 2, 3, 3, 3]
    assert counts(DPMMultistepSolver(VE, 3, euler_at_final=True, **high), stop=0.7) == [1, 2, 3, 3, 1]
    assert counts(DPMMultistepSolver(VE, 3, **high)) == [1, 2, 3, 3, 1]  # to σ = 0
    assert counts(DEISSolver(VE, 3, **low), stop=0.7) == counts(DEISSolver(VE), stop=0.7) == [1, 2, 3, 2, 1]
    assert counts(DEISSolver(VE, 3, **high)) == [1, 2, 3, 3, 3]  # polynomials in log ρ reach σ = 0
    assert counts(UniPCSolver(VE, 3, disable_corrector=range(9), **low), stop=0.7) == [1, 2, 3, 2, 1]
    assert counts(UniPCSolver(VE, 3, disable_corrector=range(9), **high)) == [1, 2, 3, 3, 1]
    assert counts(UniPCSolver(VE, 2, disable_corrector=[1], **high), stop=0.7) == [1, 2, 2, 3, 3]
    assert counts(DPMSinglestepSolver(VE, 3)) == [1, 2, 2] * 4 + [1]


def test_defaults_are_those_of_the_field():
    assert DPMMultistepSolver(VE) == DPMMultistepSolver(VE, 2, "sample", "midpoint", True, False)
    assert DPMSinglestepSolver(VE) == DPMSinglestepSolver(VE, 2, "sample", "midpoint")
    assert UniPCSolver(VE) == UniPCSolver(VE, 2, "bh2", "sample", True, ())
    assert DEISSolver(VE) == DEISSolver(VE, 3, "log_ratio", True)
    names = {
        "DPM-Solver++ 2M": DPMMultistepSolver(VE),
        "DPM-Solver 2M (heun)": DPMMultistepSolver(VE, 2, "epsilon", "heun"),
        "DPM-Solver++ 3M": DPMMultistepSolver(VE, 3, "sample", "heun"),
        "DPM-Solver++ 2S": DPMSinglestepSolver(VE),
        "DPM-Solver-3 (heun)": DPMSinglestepSolver(VE, 3, "epsilon", "heun"),
        "DPM-Solver-1": DPMSinglestepSolver(VE, 1, "epsilon", "heun"),
        "UniPC-2 (bh2)": UniPCSolver(VE),
        "UniPC-3 (bh1, noise space)": UniPCSolver(VE, 3, "bh1", "epsilon"),
        "DEIS 3": DEISSolver(VE),
        "DEIS 2 (time)": DEISSolver(VE, 2, "time"),
    }
    assert {solver.name: solver for solver in names.values()} == names
    orders = [DPMMultistepSolver(VE, order).convergence_order for order in (1, 2, 3)]
    orders += [DPMSinglestepSolver(VE, order).convergence_order for order in (1, 2, 3)]
    orders += [DEISSolver(VE, order).convergence_order for order in (1, 2, 3)]
    orders += [UniPCSolver(VE, order).convergence_order for order in (1, 2, 3)]
    orders += [UniPCSolver(VE, order, lower_order_final=False).convergence_order for order in (1, 2, 3)]
    assert orders == [1, 2, 2, 1, 2, 3, 1, 2, 2, 2, 2, 2, 2, 3, 3]
    assert DEISSolver(VE, 2.0) == DEISSolver(VE, 2)


def test_what_is_no_option_is_refused():
    assert_refused(
        (lambda kind=kind, options=options: kind(VE, **options), error, message)
        for kind, options, error, message in (
            (DPMMultistepSolver, {"order": 4}, ValueError, "^order is 4; it must be a whole number of at most 3"),
            (DPMMultistepSolver, {"space": "flow"}, ValueError, "^space is 'flow'; known are 'sample', 'epsilon'"),
            (DPMMultistepSolver, {"solver_type": "bh1"}, ValueError, "^solver_type is 'bh1'; known are 'midpoint'"),
            (DPMMultistepSolver, {"lower_order_final": 1}, TypeError, "^lower_order_final is 1; it must be True or"),
            (DPMMultistepSolver, {"euler_at_final": 1}, TypeError, "^euler_at_final is 1; it must be True or False"),
            (DPMSinglestepSolver, {"order": 4}, ValueError, "^order is 4; it must be a whole number of at most 3"),
            (DPMSinglestepSolver, {"space": "flow"}, ValueError, "^space is 'flow'"),
            (DPMSinglestepSolver, {"solver_type": "x"}, ValueError, "^solver_type is 'x'"),
            (UniPCSolver, {"order": 0}, ValueError, "^order is 0"),
            (UniPCSolver, {"variant": "bh3"}, ValueError, "^variant is 'bh3'; known are 'bh1', 'bh2'"),
            (UniPCSolver, {"space": "flow"}, ValueError, "^space is 'flow'"),
            (UniPCSolver, {"lower_order_final": None}, TypeError, "^lower_order_final is None"),
            (UniPCSolver, {"disable_corrector": [-1]}, ValueError, "^a step of disable_corrector is -1"),
            (DEISSolver, {"coordinate": "angle"}, ValueError, "^coordinate is 'angle'; known are 'log_ratio', 'time'"),
            (DEISSolver, {"lower_order_final": "no"}, TypeError, "^lower_order_final is 'no'"),
            (PLMSSolver, {"space": "score"}, ValueError, "^space is 'score'; known are 'epsilon', 'sample'"),
            (PLMSSolver, {"corrector": 1}, TypeError, "^corrector is 1; it must be True or False"),
        )
    )
    for kind in (*PICTURES, DEISSolver):
        with pytest.raises(TypeError, match="schedule is a str"):
            kind("linear")


def test_at_pure_noise_a_slope_in_lambda_has_no_weight():
    """From α = 0 the second step combines its own answer alone. Up to α = 0 the last one does."""
    plain = {"lower_order_final": False}
    for solver in (DPMMultistepSolver(FLOW, **plain), UniPCSolver(FLOW, disable_corrector=range(9), **plain)):
        rows = solver.plan(timesteps=[1.0, 0.7, 0.4], stop=0.1).rows
        assert [[i for i, _ in row.answers] for row in rows] == [[0], [1], [1, 2]]
    upwards = (
        DPMMultistepSolver(FLOW, **plain),
        UniPCSolver(FLOW, disable_corrector=range(9), **plain),
        DPMSinglestepSolver(FLOW),
    )
    for solver in upwards:
        rows = solver.plan(timesteps=[0.1, 0.4, 0.7], stop=1.0).rows
        assert [i for i, _ in rows[-1].answers] == [len(rows) - 1]
    corrected = UniPCSolver(FLOW, 1).plan(timesteps=[1.0, 0.7], stop=0.4)
    _, q = transfer_weights(FLOW.level(1.0), FLOW.level(0.7), "sample")
    p, _ = transfer_weights(FLOW.level(0.7), FLOW.level(0.4), "sample")
    assert dict(corrected.rows[1].answers)[0] == pytest.approx(-p * q / 2)  # UniC-1, whatever B(h)
    same = UniPCSolver(FLOW, 1, "bh1").plan(timesteps=[1.0, 0.7], stop=0.4)
    assert same.rows == corrected.rows


def test_steps_of_no_length_change_nothing():
    near = [16.0, np.nextafter(16.0, 0), 5.0, 2.0]
    for make in (*PICTURES, DEISSolver, lambda s: PLMSSolver(s, corrector=True)):
        found = make(VE).plan(timesteps=[40.0, *near], stop=0.7)
        weights = [abs(weight) for row in found.rows for _, weight in row.states + row.answers]
        assert max(weights) < 100
        network = lambda x, t: np.tanh(x / np.hypot(1, t[0]))  # noqa: E731
        x = 40.0 * np.ones((1, 2))
        exact = make(VE).plan(timesteps=[40.0, 16.0, 5.0, 2.0], stop=0.7).run(network, x, prediction="sample")
        np.testing.assert_allclose(found.run(network, x, prediction="sample"), exact, rtol=1e-6, atol=5e-2)


def test_a_later_step_keeps_the_numbers_of_disable_corrector():
    solver = UniPCSolver(VE, disable_corrector=(0, 3, 5))
    assert solver.from_step(3).disable_corrector == (0, 2)
    assert DEISSolver(VE).from_step(3) == DEISSolver(VE)
    assert UniPCSolver(VE, disable_corrector=[0, 9]).plan(timesteps=TIMES, stop=0.7).model_calls == 4


def test_v_is_averaged_at_the_length_of_its_level():
    """On a schedule where α² + σ² is not 1, v of each level is divided by √(α² + σ²)."""
    program = Program(make_grid(VE, timesteps=[3.0, 1.0], stop=0.5))
    first = program.ask(program.start)
    x = program.transfer(program.start, first, program.grid.levels[1], space="v_prediction")
    second = program.ask(x)
    end = program.transfer(x, {first: -0.5, second: 1.5}, program.grid.levels[2], space="v_prediction")
    _, q = transfer_weights(VE.level(1.0), VE.level(0.5), "v_prediction")
    assert dict(end.answers) == pytest.approx({0: -0.5 * q / math.hypot(1, 3), 1: 1.5 * q / math.hypot(1, 1)})
