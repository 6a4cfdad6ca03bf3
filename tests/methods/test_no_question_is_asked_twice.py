"""A model call is spent once: no two rows of a plan stand at the same state, and no answer is made for nothing."""

from functools import partial
from itertools import product

import numpy as np
import pytest
from conftest import spacings_of

from pndm_solvers import (
    TABLEAUX,
    ButcherTableau,
    DDIMSolver,
    DDPMSolver,
    NoiseSchedule,
    PLMSSolver,
    PNDMSolver,
    PRKSolver,
    make_grid,
)
from pndm_solvers.methods import SOLVERS
from pndm_solvers.methods.multistep import STARTERS
from pndm_solvers.program import Program
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
# Its last stage is in the middle: where that is rounded to the step's start, it stands at a state that has been used
# (Shu and Osher, 1988).
SSP3 = ButcherTableau("ssp3", c=[0, 1, "1/2"], a=[[], [1], ["1/4", "1/4"]], b=["1/6", "1/6", "2/3"])

METHODS = {
    **SOLVERS,
    **{
        f"prk-{tableau.name}-{fractions}": partial(PRKSolver, tableau=tableau, fractions=fractions)
        for tableau, fractions in product([*TABLEAUX.values(), FIRST_SAME_AS_LAST, REPEATED, SSP3], ("time", "ratio"))
    },
    **{
        f"plms-{order}-{starter}-{weights}": partial(PLMSSolver, order=order, starter=starter, weights=weights)
        for order, starter, weights in product((2, 4), STARTERS, ("exact", "classical"))
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


def grids(schedule):
    """Few steps and many, to both ends, on every spacing; a cut, and a run upwards from picture to noise."""
    table = schedule.num_train_timesteps
    for spacing, final, steps in product(spacings_of(schedule), ("clean", "first"), (1, 2, 3, 12)):
        if steps <= (table or steps):
            yield make_grid(schedule, steps, spacing=spacing, final=final)
    middle = schedule.t_min + 0.5 * (schedule.t_max - schedule.t_min)
    middle = float(round(middle)) if table else middle
    yield make_grid(schedule, 10, start=middle)
    yield make_grid(schedule, 10, start=schedule.t_min, stop=middle)


def tables(schedule):
    """Every method's table on the grids that differ; methods that draw noise do not run upwards.

    On short tables, where rounded times fall together, each method has every grid; elsewhere one of six, in turn.
    """
    different = list({grid.levels: grid for grid in grids(schedule)}.values())
    stride = 1 if (schedule.num_train_timesteps or 1000) < 100 else 6
    for turn, (name, make) in enumerate(METHODS.items()):
        solver = make(schedule)
        for grid in different[turn % stride :: stride]:
            if solver.convergence_order is not None or grid.levels[0].ratio > grid.levels[-1].ratio:
                program = Program(grid)
                yield program.table(solver.write(program, program.start), name)


def states_of(table):
    """The states of a run in float64, for answers and noise that are drawn at random."""
    draw = np.random.default_rng(0).standard_normal
    states, answers = [draw(4)], []
    for row in table.rows:
        answers.append(draw(4))
        new = sum(weight * states[i] for i, weight in row.states) + row.noise * draw(4)
        states.append(new + sum(weight * answers[j] for j, weight in row.answers))
    return states


def asked_twice(table):
    """The first two rows that stand at one state, at one level; None where each has its own."""
    states, met = states_of(table), {}
    for k, level in enumerate(table.levels[:-1]):
        for earlier in met.setdefault(level, []):
            if np.allclose(states[k], states[earlier], rtol=1e-9, atol=0):
                return earlier, k
        met[level].append(k)
    return None


def asked_in_vain(table):
    """The rows whose answers do not reach the sample."""
    needed_states, needed_answers = {table.model_calls}, set()
    for k, row in reversed(list(enumerate(table.rows))):
        if k + 1 in needed_states:
            needed_states |= {i for i, _ in row.states} | {j for j, _ in row.answers}
            needed_answers |= {j for j, _ in row.answers}
    return set(range(table.model_calls)) - needed_answers


@pytest.mark.parametrize("name", LEVELS)
def test_no_two_rows_stand_at_one_state_and_every_answer_reaches_the_sample(name):
    wrong, tried = [], 0
    for table in tables(LEVELS[name]):
        tried += 1
        if (rows := asked_twice(table)) is not None:
            wrong.append(f"rows {rows} stand at one state\n{table}")
        if rows := asked_in_vain(table):
            wrong.append(f"no use is made of the answers of rows {sorted(rows)}\n{table}")
    assert tried
    assert not wrong, f"{len(wrong)} of {tried} tables:\n" + "\n".join(wrong[:10])
