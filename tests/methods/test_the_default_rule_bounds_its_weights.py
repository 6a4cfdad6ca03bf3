"""The rule of the default solver: which answers a step is made of, so that no weight is out of proportion."""

import numpy as np
import pytest
from conftest import SCHEDULES, where_steps_begin

from pndm_solvers import PLMSSolver
from pndm_solvers.methods.multistep import STARTERS
from pndm_solvers.methods.ruled import well_apart
from pndm_solvers.rule import RULE

LINEAR = SCHEDULES["linear"]
# The most that the absolute weights of a step may sum to: 7 with the rule's own starter, 100 with the others.
MOST = {starter: 7 if starter == "ramp" else 100 for starter in STARTERS}


def absolute_means(plan):
    """For each row that is a mean of ε, the sum of its absolute weights, divided by the weights' sum."""
    return [
        sum(abs(weight) for _, weight in row.answers) / abs(sum(weight for _, weight in row.answers))
        for row in plan.rows
        if row.alpha > 0 and len(row.states) == 1 and row.answers
    ]


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_step_weighs_answers_out_of_proportion(name):
    """Above all the last step does not, which reaches below the trained levels."""
    schedule = SCHEDULES[name]
    for steps in (1, 2, 3, 10, 60, *([333] if schedule == LINEAR else [])):
        for spacing in ("default", "balanced", "trailing"):
            times = where_steps_begin(schedule, steps, spacing=spacing)
            for starter, most in MOST.items():
                plan = PLMSSolver(schedule, starter=starter).plan(timesteps=times)
                assert max(absolute_means(plan)[-1:], default=1) <= 7 + 1e-9, (starter, steps, spacing)
                assert max(absolute_means(plan), default=1) <= most + 1e-9, (starter, steps, spacing)


@pytest.mark.parametrize("starter", STARTERS)
def test_a_long_step_after_short_ones_does_not_either(starter):
    """The last four answers would extrapolate to it with weights of some hundreds."""
    plan = PLMSSolver(LINEAR, starter=starter).plan(timesteps=[700.0, 650.0, 600.0, 550.0, 100.0], stop=50.0)
    assert max(absolute_means(plan)) <= MOST[starter]


def above(ratio):
    """The float32 number next above a ratio, as a rounded level may have it."""
    return float(np.nextafter(np.float32(ratio), np.float32(99)))


@pytest.mark.parametrize(
    ("ratios", "order"),
    [
        ([1.0, 1.10], 4),  # a short step: log(1.10) < 0.1
        ([1.0, 1.11], 3),
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
    """Two answers above σ/α = 32, three down to 0.015, four below and wherever steps are short: docs/theory.md."""
    assert RULE.order([*ratios, 100.0, 110.0], 4) == order


def test_a_step_takes_answers_apart_where_the_last_ones_would_weigh_too_much():
    near = [0.030, 0.031, 0.032, 0.04, 0.062, 0.1]
    assert list(well_apart(near, 0.028, 3, bound=8)) == [0, 1, 2]
    assert list(well_apart(near, 0.0, 3, bound=8)) == [0, 5]
    assert list(well_apart(near, 0.0, 3, bound=1e9)) == [0, 1, 2]
