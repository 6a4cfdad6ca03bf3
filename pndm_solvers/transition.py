"""What a row with noise does to its state: a draw from a normal distribution, with a probability."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pndm_solvers.arrays import check_together, library

if TYPE_CHECKING:
    from pndm_solvers.plan import State
    from pndm_solvers.run_options import Model
    from pndm_solvers.table import Table

__all__ = ["Transition", "check_trajectory", "replay"]


@dataclass(frozen=True, eq=False, repr=False)
class Transition:
    """The distribution N(mean, deviation²·I) of the state that a row makes.

    Attributes
    ----------
    row:
        Which row makes it.
    mean:
        `(B, …)`, of the states' dtype. It holds the gradients of the network's answers, where the library records them.
    deviation:
        The row's `noise`, above 0.
    """

    row: int
    mean: Any
    deviation: float

    def __repr__(self) -> str:
        return f"<Transition of row {self.row}, deviation {self.deviation:g}, mean {tuple(self.mean.shape)}>"

    def log_prob(self, x: Any) -> Any:
        """The logarithm of the density at the states `x` `(B, …)`: `(B,)`, summed over all dimensions of a sample.

        Raises TypeError or ValueError for an `x` of another shape, library or device.
        """
        check_together("x", x, "the mean", self.mean)
        ours, count = library(self.mean), math.prod(self.mean.shape[1:])
        away = ours.combine([x, self.mean], [1.0, -1.0], ours.wide(self.mean).dtype)
        constant = count * (math.log(self.deviation) + math.log(2 * math.pi) / 2)
        return ours.sum_of_squares(away) * (-0.5 / self.deviation**2) - constant


def check_trajectory(plan: Table, trajectory: Sequence[Any]) -> None:
    """ValueError unless a run of `plan` draws noise, and has as many points as `trajectory`."""
    points = 1 + sum(not row.stage for row in plan.rows)
    if not plan.is_stochastic:
        raise ValueError(f"{plan!r} draws no noise, so a run of it has no probability")
    if len(trajectory) != points:
        raise ValueError(f"trajectory has {len(trajectory)} points; {plan!r} has {points}: run(…, trajectory=True)")


def replay(state: State, model: Model, points: Sequence[Any]) -> Iterator[tuple[Transition, Any]]:
    """Runs a plan through the `points` of a trajectory: each transition, and the point to which it led.

    The states of rows without noise are computed anew.
    """
    following = iter(points)
    while not state.done:
        k, row = state.row, state.plan.rows[state.row]
        point = None if row.stage else next(following)
        answer = model(state.x, state.t, **state.condition)
        if not row.noise:
            state = state.plan.advance(state, answer)
            continue
        if point is None:
            raise ValueError(f"row {k} adds noise to a Runge–Kutta stage, which no trajectory holds")
        yield state.plan.transition(state, answer), point
        state = state.plan.advance(state, answer, to=point)
