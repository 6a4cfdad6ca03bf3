"""The rule of the default solver: which answers a step is made of, so that no weight is out of proportion."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.integrate
from conftest import SCHEDULES, where_steps_begin

from pndm_solvers import DDIMSolver, PLMSSolver
from pndm_solvers.methods.adams import Weighing, exact_weights
from pndm_solvers.methods.multistep import STARTERS
from pndm_solvers.methods.ruled import bounded, even_knee, well_apart
from pndm_solvers.rule import RULE

LINEAR = SCHEDULES["linear"]
# The most that the absolute weights of a step may sum to: 7 with the rule's own starter, 100 with the others.
MOST = {starter: 7 if starter == "ramp" else 100 for starter in STARTERS}


def absolute_means(rows):
    """For each row that is a mean of ε, the sum of its absolute weights, divided by the weights' sum."""
    return [
        sum(abs(weight) for _, weight in row.answers) / abs(sum(weight for _, weight in row.answers))
        for row in rows
        if row.alpha > 0 and len(row.states) == 1 and row.answers
    ]


def correcting_none(plan, starter):
    """The rows that do not correct the step before too: for those see `test_a_correction_adds_little`."""
    return plan.rows[:1] + plan.rows[3:] if starter == "ramp" else plan.rows


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_step_weighs_answers_out_of_proportion(name):
    """Above all the last step does not, which reaches below the trained levels."""
    schedule = SCHEDULES[name]
    for steps in (1, 2, 3, 10, 60, *([333] if schedule == LINEAR else [])):
        for spacing in ("default", "balanced", "trailing"):
            times = where_steps_begin(schedule, steps, spacing=spacing)
            for starter, most in MOST.items():
                plan = PLMSSolver(schedule, starter=starter).plan(timesteps=times)
                means = absolute_means(correcting_none(plan, starter))
                assert max(means[-1:], default=1) <= 7 + 1e-9, (starter, steps, spacing)
                assert max(means, default=1) <= most + 1e-9, (starter, steps, spacing)


def gain(plan):
    """How far a sample is off when the picture is certain, and each answer has an independent error of deviation 1."""
    steps, rows = plan.model_calls, iter(range(plan.model_calls))

    def network(x, t):  # in sample i the answer of row i is off by 1
        row = next(rows)
        return x / plan.levels[row].sigma + np.eye(steps)[row][:, None]

    return np.linalg.norm(plan.run(network, np.zeros((steps, 1))))


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
def test_errors_of_answers_fade_where_the_picture_is_certain(name):
    """dx/d log ρ = x − x̂₀ is stiff: over long steps a method of high order would not let past errors fade."""
    schedule, shape = SCHEDULES[name], {"sample_shape": (64,)}
    for steps in (6, 7, 8, 10, 13, 16, 20, 30, 60):
        euler, two, own = (
            solver.plan(steps, **shape)
            for solver in (DDIMSolver(schedule), PLMSSolver(schedule, order=2), PLMSSolver(schedule))
        )
        assert gain(euler) == pytest.approx(euler.levels[-2].ratio)  # the last answer counts alone
        assert gain(two) < 0.35
        assert gain(own) < 0.7


def shares(solver, steps, **options):
    """For each row, the share of its oldest answer's weight that the answer before it has taken, as the rule says."""
    without = replace(solver, rule=solver.rule.everywhere(share=0.0, last_share=0.0)).plan(steps, **options)
    found = []
    for row, alone in zip(solver.plan(steps, **options).rows, without.rows, strict=True):
        weights, before = dict(row.answers), dict(alone.answers)
        oldest = min(before)
        share = weights.get(oldest - 1, 0.0) / before[oldest]
        assert weights == pytest.approx(
            before | {oldest: (1 - share) * before[oldest]} | ({oldest - 1: share * before[oldest]} if share else {})
        )
        found.append(round(share, 9))
    return found


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (3, {}, [0, 0, 0.7]),
        (3, {"final": "first"}, [0, 0, 0.8]),
        (4, {}, [0, 0, 0.65, 0.45]),
        (5, {}, [0, 0, 0.165, 0.165, 0.5]),
        (6, {}, [0, 0, 0, 0, 0, 0.5]),
        (6, {"start": 400}, [0, 0, 0, 0, 0.5]),  # a part of a grid has the whole one's numbers
        (6, {"start": 50}, [0, 0, 0.7]),  # unless it is so short that it might be any grid's
        (5, {"data_range": 8.0}, [0, 0, 0.165, 0.165, 0.5]),
        (7, {}, [0, 0, 0, 0, 0, 0, 0.72]),
        (8, {}, [0] * 8),
        (20, {}, [0] * 20),
        (6, {"spacing": "trailing"}, [0] * 6),
    ],
)
def test_in_short_runs_the_oldest_answer_shares_its_weight_with_the_one_before(steps, options, expected):
    assert shares(PLMSSolver(LINEAR), steps, **{"sample_shape": (2,)} | options) == expected


def test_an_answer_at_pure_noise_takes_no_share():
    assert shares(PLMSSolver(SCHEDULES["rectified_flow"]), 4, sample_shape=(2,)) == [0, 0, 0, 0.45]


@pytest.mark.parametrize("options", [{"order": 1}, {"order": 2}, {"starter": "heun"}, {"starter": "rk4"}])
def test_other_orders_and_starters_share_nothing(options):
    assert not any(shares(PLMSSolver(LINEAR, **options), 5))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("spacing", ["default", "balanced", "trailing", "quadratic"])
def test_a_correction_adds_little(name, spacing):
    """Weights of a row that corrects the step before too: those of its own step, and twice the other one's at most."""
    for steps in (4, 10, 60):
        plan = PLMSSolver(SCHEDULES[name]).plan(timesteps=where_steps_begin(SCHEDULES[name], steps, spacing=spacing))
        ratios = [level.ratio for level in plan.levels]
        for row in (1, 2):
            before, here, there = ratios[row - 1 : row + 2]
            if not np.isinf(before):
                most = 7 + 2 * (before - here) / (here - there)
                assert sum(absolute_means(plan.rows[row : row + 1])) <= most


@pytest.mark.parametrize("starter", STARTERS)
def test_a_long_step_after_short_ones_does_not_either(starter):
    """The last four answers would extrapolate to it with weights of some hundreds."""
    plan = PLMSSolver(LINEAR, starter=starter).plan(timesteps=[700.0, 650.0, 600.0, 550.0, 100.0], stop=50.0)
    assert max(absolute_means(plan.rows)) <= MOST[starter]


def above(ratio):
    """The float32 number next above a ratio, as a rounded level may have it."""
    return float(np.nextafter(np.float32(ratio), np.float32(99)))


@pytest.mark.parametrize(
    ("ratios", "order"),
    [
        ([1.0, 1.28], 4),  # a short step: log(1.28) < 0.25
        ([1.0, 1.29], 3),
        ([33.0, 60.0], 2),
        ([31.0, 60.0], 3),
        ([0.016, 0.06], 3),
        ([0.014, 0.06], 4),
        ([32.0, 60.0], 3),
        ([0.015, 0.06], 4),
        ([above(32), 60.0], 3),  # at a bound, apart from its rounding
        ([above(0.015), 0.06], 4),
    ],
)
def test_the_order_of_a_step_follows_its_ratio_and_its_length(ratios, order):
    """Two answers above σ/α = 32, three down to 0.015, four below and wherever steps are short.

    After a longer step the weights are bounded tighter. Why: docs/explanation/default-rule.md.
    """
    assert RULE.limits([*ratios, 100.0, 110.0], 4) == (order, 7 if ratios[1] < 1.285 * ratios[0] else 5)


def test_a_step_takes_answers_apart_where_the_last_ones_would_weigh_too_much():
    near = [0.030, 0.031, 0.032, 0.04, 0.062, 0.1]

    def chosen(there, bound):
        return list(well_apart(Weighing(tuple(near), near[0], there), 3, bound, RULE.coordinate, "epsilon"))

    assert chosen(0.028, 8) == [0, 1, 2]
    assert chosen(0.0, 8) == [0, 5]
    assert chosen(0.0, 1e9) == [0, 1, 2]


@pytest.mark.parametrize("bound", [1.5, 3.0, 5.0, 1e9])
def test_weights_beyond_a_bound_are_mixed_with_those_of_a_lower_order(bound):
    """They still sum to 1, reach the bound where it binds, and are the exact ones where it does not."""
    ratios, there = [0.4, 1.1, 2.5, 10.0], 0.1
    step = Weighing(tuple(ratios), ratios[0], there)
    (mixed,) = bounded([step], [(4, bound)], lambda ratios, _: RULE.coordinate(ratios), "epsilon")
    weights = np.array(list(mixed.values()))
    exact = np.array(exact_weights(ratios, ratios[0], there))
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(weights).sum() == pytest.approx(min(bound, np.abs(exact).sum()), rel=1e-9)
    # A mixture of two neighbouring orders: the answers that the higher one adds have its weights, all in one share.
    higher = next(n for n in (2, 3, 4) if bound < np.abs(exact_weights(ratios[:n], ratios[0], there)).sum() or n == 4)
    share = weights[higher - 1] / exact_weights(ratios[:higher], ratios[0], there)[-1]
    assert 0 < share <= 1
    assert not weights[higher:].any()


# ------------------------------------------------------------------ the first steps


def end_of_two_steps(plan, e0, e1):
    """Where a plan's second step ends, from the state 0 with the answers e0 and e1."""
    answers = iter([e0, e1, 0.0])
    states = []

    def model(x, t):
        states.append(x.copy())
        return np.full_like(x, next(answers, 0.0))

    plan.run(model, np.zeros((1, 1)))
    return float(states[2].item() / plan.levels[2].alpha)


@pytest.mark.parametrize("schedule", ["linear", "vp"])
def test_the_second_answer_makes_the_first_step_a_trapezoid(schedule):
    """After two steps y = x/α has moved by the integral of the line through both answers over both steps."""
    levels = [SCHEDULES[schedule].level_at(ratio) for ratio in (2.0, 1.6, 1.3, 1.0, 0.8)]
    plan = PLMSSolver(SCHEDULES[schedule], order=2).plan(timesteps=[level.t for level in levels])
    high, middle, low = (level.ratio for level in plan.levels[:3])
    knee = even_knee(high, middle, low)
    of = PLMSSolver(SCHEDULES[schedule], order=2).rule.even_knees
    assert of[0] < knee < of[1]

    def integral(begin, end, e0, e1):
        ratio = np.linspace(begin, end, 20001)
        u = ratio / (ratio + knee)
        first, second = high / (high + knee), middle / (middle + knee)
        return scipy.integrate.trapezoid(e0 + (e1 - e0) * (u - first) / (second - first), ratio)

    for e0, e1 in ((1.0, 0.0), (0.0, 1.0), (0.3, -0.7)):
        found = end_of_two_steps(plan, e0, e1)
        assert found == pytest.approx(integral(high, low, e0, e1), rel=1e-6)


def test_only_the_ramp_of_the_rule_corrects_its_start():
    """Runs of one order, by other starters, in other coordinates and with classical weights stay as they were."""
    times = [700, 600, 450, 300, 200, 100]
    for options in ({"order": 1}, {"starter": "heun"}, {"coordinate": "time"}, {"weights": "classical"}):
        plan = PLMSSolver(LINEAR, **options).plan(timesteps=times)
        rows = plan.rows[:2] if options.get("starter") != "heun" else plan.rows[1:3]
        assert all(len(row.answers) <= 2 for row in rows)
    long = PLMSSolver(LINEAR).plan(5)  # its first step changes σ/α by more than a factor √e
    assert [len(row.answers) for row in long.rows[:2]] == [1, 2]
