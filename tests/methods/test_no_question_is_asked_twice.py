"""A model call is spent once: no two rows of a plan stand at the same state, and no answer is made for nothing."""

import random
from functools import partial
from itertools import product

import numpy as np
import pytest

from pndm_solvers import (
    SPACINGS,
    TABLEAUX,
    ButcherTableau,
    DDIMSolver,
    DDPMSolver,
    NoiseSchedule,
    PLMSSolver,
    PNDMSolver,
    PRKSolver,
)
from pndm_solvers.methods import SOLVERS
from pndm_solvers.methods.multistep import STARTERS
from pndm_solvers.schedules import SCHEDULES

# Its last stage stands at the end of the step, which is the first stage of the next (Bogacki and Shampine, 1989).
FIRST_SAME_AS_LAST = ButcherTableau(
    "bogacki-shampine",
    c=[0, "1/2", "3/4", 1],
    a=[[], ["1/2"], [0, "3/4"], ["2/9", "1/3", "4/9"]],
    b=["2/9", "1/3", "4/9", 0],
)
# Both stages of its second row stand at one state, and its last stage has no weight.
REPEATED = ButcherTableau(
    "repeated",
    c=[0, "1/2", "1/2", 1],
    a=[[], ["1/2"], ["1/2", 0], [0, "1/2", "1/2"]],
    b=[0, "1/2", "1/2", 0],
)

METHODS = {
    **SOLVERS,
    **{
        f"prk-{tableau.name}-{fractions}": partial(PRKSolver, tableau=tableau, fractions=fractions)
        for tableau, fractions in product([*TABLEAUX.values(), FIRST_SAME_AS_LAST, REPEATED], ("time", "ratio"))
    },
    **{
        f"plms-{order}-{starter}-{weights}": partial(PLMSSolver, order=order, starter=starter, weights=weights)
        for order, starter, weights in product((1, 2, 3, 4, 6), STARTERS, ("exact", "classical"))
    },
    "pndm-2": partial(PNDMSolver, order=2),
    "ddim-0.5": partial(DDIMSolver, eta=0.5),
    "ddim-1": partial(DDIMSolver, eta=1.0),
    "ddpm-large": partial(DDPMSolver, variance="fixed_large"),
}

# Small tables too, where stages that are rounded to trained times fall together.
TABLES = {
    "twelve levels": NoiseSchedule.linear(12, 0.01, 0.3),
    "two levels": NoiseSchedule.linear(2, 0.1, 0.5),
    "zero terminal SNR": NoiseSchedule.linear().rescale_zero_terminal_snr(),
    "twelve levels, zero terminal SNR": NoiseSchedule.linear(12, 0.01, 0.3).rescale_zero_terminal_snr(),
}
LEVELS = {**{name: make() for name, make in SCHEDULES.items()}, **TABLES}


GRIDS = list(product(SPACINGS, (1, 2, 3, 5, 12), ("clean", "first")))


def plans(schedule):
    """Plans of every method, each on grids drawn from all of them, on a cut one and on one that runs upwards."""
    draw, table = random.Random(0), schedule.num_train_timesteps
    grids = [
        (spacing, steps, final)
        for spacing, steps, final in GRIDS
        if steps <= (table or steps) and (schedule.alpha(schedule.t_max) or spacing not in ("log_snr", "karras"))
    ]
    middle = schedule.t_min + 0.5 * (schedule.t_max - schedule.t_min)
    middle = float(round(middle)) if table else middle
    for name, make in METHODS.items():
        solver = make(schedule)
        for spacing, steps, final in draw.sample(grids, 4):
            yield name, solver.plan(steps, spacing=spacing, final=final)
        yield name, solver.plan(10, start=middle)
        if solver.convergence_order is not None:  # a stochastic solver does not run upwards
            yield name, solver.plan(10, start=schedule.t_min, stop=middle)


def states_of(plan):
    """The states of a run in float64, for answers and noise that are drawn at random."""
    draw = np.random.default_rng(0).standard_normal
    states, answers = [draw(4)], []
    for row in plan.rows:
        answers.append(draw(4))
        new = sum(weight * states[i] for i, weight in row.states) + row.noise * draw(4)
        states.append(new + sum(weight * answers[j] for j, weight in row.answers))
    return states


def asked_twice(plan):
    """The first two rows that stand at one state, at one level; None where each has its own."""
    states, met = states_of(plan), {}
    for k, level in enumerate(plan.levels[:-1]):
        for earlier in met.setdefault(level, []):
            if np.allclose(states[k], states[earlier], rtol=1e-9, atol=0):
                return earlier, k
        met[level].append(k)
    return None


def asked_in_vain(plan):
    """The rows whose answers do not reach the sample."""
    needed_states, needed_answers = {plan.model_calls}, set()
    for k, row in reversed(list(enumerate(plan.rows))):
        if k + 1 in needed_states:
            needed_states |= {i for i, _ in row.states} | {j for j, _ in row.answers}
            needed_answers |= {j for j, _ in row.answers}
    return set(range(plan.model_calls)) - needed_answers


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.filterwarnings("ignore:none of this plan:UserWarning", "ignore:this plan begins:UserWarning")
def test_no_two_rows_stand_at_one_state_and_every_answer_reaches_the_sample(name):
    wrong, tried = [], 0
    for method, plan in plans(LEVELS[name]):
        tried += 1
        if (rows := asked_twice(plan)) is not None:
            wrong.append(f"{method}: rows {rows} stand at one state\n{plan}")
        if rows := asked_in_vain(plan):
            wrong.append(f"{method}: no use is made of the answers of rows {sorted(rows)}\n{plan}")
    assert tried
    assert not wrong, f"{len(wrong)} of {tried} plans:\n" + "\n".join(wrong[:10])
