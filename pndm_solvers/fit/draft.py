"""A multistep method whose numbers are free: the levels that it visits, and the weights of its history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pndm_solvers.grid import Grid
from pndm_solvers.methods.adams import adams_bashforth
from pndm_solvers.plan import Plan
from pndm_solvers.program import Program
from pndm_solvers.schedule import Float64, Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.transfer import transfer_weights

__all__ = ["HISTORY", "Draft"]

HISTORY = 4  # the answers that a row combines, at most


@dataclass(frozen=True)
class Draft:
    """Row k is the transfer of its state along Σ w·ε, over the last answers, with weights of its own.

    Attributes
    ----------
    levels:
        Where the network is called, and the end.
    weights:
        Each row's, the newest answer first. They need not sum to 1.
    integral:
        Whether the network takes whole times alone. Then the levels stay where they are.
    """

    schedule: NoiseSchedule
    levels: tuple[Level, ...]
    weights: tuple[tuple[float, ...], ...]
    integral: bool = False

    @staticmethod
    def on(schedule: NoiseSchedule, levels: Sequence[Level], *, integral: bool = False) -> Draft:
        """Adams–Bashforth's weights of order 2 on the levels, and room for a longer history."""
        weights = []
        for k in range(len(levels) - 1):
            own = [float(weight) for weight in adams_bashforth(min(k + 1, 2))]
            weights.append((*own, *[0.0] * (min(k + 1, HISTORY) - len(own))))
        return Draft(schedule, tuple(levels), tuple(weights), integral)

    @staticmethod
    def of(plan: Plan, schedule: NoiseSchedule) -> Draft:
        """The draft of a plan whose rows are transfers along means of ε, cut to the draft's history."""
        weights = []
        for k, (row, (here, there)) in enumerate(zip(plan.rows, pairwise(plan.levels), strict=True)):
            _, q = transfer_weights(here, there, here.space)
            own = {j: weight / q for j, weight in row.answers}
            if k and not plan.rows[0].alpha:  # there ε is the state itself, by σ
                own[0] = dict(row.states).get(0, 0.0) * plan.rows[0].sigma / q
            weights.append(tuple(own.get(j, 0.0) for j in range(k, max(-1, k - HISTORY), -1)))
        return Draft(schedule, plan.levels, tuple(weights), plan.integer_times)

    def plan(self, name: str = "fitted") -> Plan:
        """The draft as a plan."""
        program = Program(Grid(self.schedule, self.levels, self.integral))
        x, history = program.start, []
        for weights, there in zip(self.weights, self.levels[1:], strict=True):
            history.insert(0, program.ask(x))
            x = program.transfer(x, dict(zip(history, weights, strict=False)), there, free=True)
        return Plan.of(program.table(x, name))

    @property
    def free_levels(self) -> int:
        """How many of the last `numbers` are levels."""
        return 0 if self.integral else len(self.levels) - 2

    @property
    def numbers(self) -> Float64:
        """Every free number: the weights, row after row, then log σ/α of the inner levels."""
        logs = [math.log(level.ratio) for level in self.levels[1 : self.free_levels + 1]]
        return np.concatenate([*self.weights, logs])

    @property
    def touched(self) -> list[int]:
        """For each of the `numbers`, the first row that makes another state with it."""
        return [k for k, weights in enumerate(self.weights) for _ in weights] + list(range(self.free_levels))

    def at(self, numbers: Float64) -> Draft | None:
        """The draft with other numbers; None where its levels would not lie in order, within the schedule."""
        weights, first = [], 0
        for own in self.weights:
            weights.append(tuple(numbers[first : first + len(own)].tolist()))
            first += len(own)
        levels = list(self.levels)
        for k, log in enumerate(numbers[first:].tolist(), 1):
            if log != math.log(levels[k].ratio):
                levels[k] = self.schedule.level_at(math.exp(log))
        steps = np.diff([level.t for level in levels])
        in_order = np.all(steps < 0) or np.all(steps > 0)
        return replace(self, levels=tuple(levels), weights=tuple(weights)) if in_order else None
