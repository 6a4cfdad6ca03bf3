"""Writing rows: a method calls the network with `ask` and moves states with `transfer`.

A moved state is only a linear form of earlier states and answers; it becomes numbers when the network is called at it.
An answer becomes a row of the table when a move first uses it. So a second question at the same state costs nothing,
and neither does an answer without effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from pndm_solvers.arguments import choice
from pndm_solvers.grid import Grid
from pndm_solvers.prediction import conversion
from pndm_solvers.schedule import Level
from pndm_solvers.sde import TauLike, forward_deviation, stochastic_weights
from pndm_solvers.table import SYMBOLS, Row, Table, Terms
from pndm_solvers.transfer import SPACES, transfer_weights

__all__ = ["Answer", "Form", "Mean", "Program"]


class Form(NamedTuple):
    """A state at a level, as a linear form: Σ weight·state + Σ weight·answer + noise·z."""

    level: Level
    states: Terms
    answers: Terms
    noise: float = 0.0
    draw: int = 0  # the number of the draw: forms of different draws hold different z
    stage: bool = False

    @property
    def numbers(self) -> tuple[Level, Terms, Terms, float, int]:
        """All but `stage`: what tells states apart."""
        return self[:5]


@dataclass(eq=False)
class Answer:
    """What the network answers at a state, as the prediction that the first move along it needs."""

    at: Form
    space: str = ""

    @property
    def level(self) -> Level:
        """The level of the state."""
        return self.at.level

    def become(self, space: str) -> None:
        """Fixes what rows combine: the prediction `space` where it determines the picture and tables know it, or ε."""
        if not self.space:
            self.space = space if space in SYMBOLS and space != "epsilon" else self.level.space


Made = TypeVar("Made", bound=Table)

# One answer, or answers with weights that sum to 1.
Mean = Answer | Mapping[Answer, float]


class Program:
    """The rows written so far on one grid.

    Attributes
    ----------
    grid:
        The levels to visit: all of them, or those of the part between two rises that is being written.
    start:
        The state that the run begins with.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.start = Form(grid.levels[0], ((0, 1.0),), ())
        self._answers: dict[tuple, Answer] = {}  # by the numbers of the form asked at
        self._rows: dict[Answer, int] = {}  # of the answers that are used, in order
        self._states: list[Form] = []  # by row: the form that names the state it asks at
        self._draws = 0

    def ask(self, x: Form) -> Answer:
        """The network's answer at `x`: one model call once a move uses it. A second question at `x` costs no call.

        The first question must be at `start`, and always costs a call.
        """
        answer = self._answers.setdefault(x.numbers, Answer(x))
        if not self._rows:
            if x.numbers != self.start.numbers:
                raise ValueError("a method asks first at the state that a run begins with, program.start")
            self._call(answer)
        if answer.at.stage and not x.stage:  # a stage that is also a step's end (first same as last) is no mere stage
            answer.at = answer.at._replace(stage=False)
        return answer

    def transfer(
        self,
        x: Form,
        mean: Mean,
        to: Level,
        *,
        space: str = "epsilon",
        sigma: float | None = None,
        noise: float = 0.0,
        tau: TauLike = 0.0,
        stage: bool = False,
        free: bool = False,
    ) -> Form:
        """φ(x, e, t, s), along a mean e of answers, plus noise·z.

        Parameters
        ----------
        x, to:
            The state to move, and the level to move it to.
        mean:
            An answer, or a dict from answers to weights that sum to 1.
        space:
            The prediction whose mean is taken, which stays the same on the way: one of `SPACES`. "epsilon" is the
            paper's eq. (9), "sample" the data space of DPM-Solver++. ε does not determine the picture at α = 0. There
            "sample" takes its place, which gives φ's limit.
        sigma:
            The weight of the predicted ε in the new state, by default the σ of `to`. Where fresh noise replaces a part
            it is √(σ² − noise²), DDIM's eq. (12).
        noise:
            The standard deviation of fresh noise.
        tau:
            Makes the move a step of the reverse SDE, whose noise takes the place of `sigma` and `noise`: `sde.py`.
        stage:
            Whether the new state is a Runge–Kutta stage, not a point of the solution.
        free:
            Whether the weights need not sum to 1, as those that were fitted. Otherwise ValueError where they do not.
        """
        weights = {mean: 1.0} if isinstance(mean, Answer) else mean
        if not free and abs(sum(weights.values()) - 1) > 1e-6 * sum(map(abs, weights.values())):
            raise ValueError(f"the weights of a mean sum to {sum(weights.values()):g}; they must sum to 1")
        if space not in SPACES:
            choice("space", space, SPACES)
        for answer in weights:
            if not answer.space:
                answer.become(space)
        level = x.level
        if SPACES[space].scale(level.alpha, level.sigma) == 0:
            space = level.space
        if tau == 0:
            p, q = transfer_weights(level, to if sigma is None else Level(to.t, to.alpha, sigma), space)
        else:
            p, q, noise = stochastic_weights(level, to, space, tau)
        size, parts = SPACES[space].size, []
        for answer, weight in weights.items():
            _, alpha, sigma = answer.at.level
            own = weight * q / size(alpha, sigma)
            both = (0.0, own) if answer.space == space else _weights(answer, {space: own})
            parts.append((answer, *both))
        return self._sum(x, p, parts, to, noise, stage)

    def combine(
        self,
        x: Form,
        scale: float,
        parts: Mapping[Answer, Mapping[str, float]],
        to: Level,
        *,
        noise: float = 0.0,
        stage: bool = False,
    ) -> Form:
        """scale·x + Σ weight·prediction + noise·z at the level `to`.

        `parts` holds the predictions and their weights for each answer, as {"sample": 0.5, "epsilon": -1.0}.
        """
        return self._sum(x, scale, [(a, *_weights(a, part)) for a, part in parts.items()], to, noise, stage)

    def _sum(
        self, x: Form, scale: float, parts: Sequence[tuple[Answer, float, float]], to: Level, noise: float, stage: bool
    ) -> Form:
        """`combine`, with the weights of each answer's state and of the answer itself."""
        rows = self._rows
        for answer, _, of_answer in parts:
            if answer not in rows and (of_answer or answer.at.noise):
                self._call(answer)
        written = self._written(x, self._answers.get(x.numbers))
        states = {index: scale * weight for index, weight in written.states}
        answers = {index: scale * weight for index, weight in written.answers}
        for answer, of_state, of_answer in parts:
            if of_state:
                at = self._written(answer.at, answer)
                for mine, terms in ((states, at.states), (answers, at.answers)):
                    for index, weight in terms:
                        mine[index] = mine.get(index, 0.0) + of_state * weight
            if of_answer:
                row = rows[answer]
                answers[row] = answers.get(row, 0.0) + of_answer
        # Two noises without a model call between them are one noise. Its variance is the sum of theirs.
        noise = math.hypot(scale * written.noise, noise)
        self._draws += noise > 0
        return Form(to, _terms(states), _terms(answers), noise, self._draws if noise else 0, stage)

    def diffused(self, x: Form, to: Level) -> Form:
        """`x` at the level `to`, above or at its own, by the forward process: α_t/α_s·x, and fresh noise."""
        if to == x.level:
            return x
        scale = to.alpha / x.level.alpha
        return self.combine(x, scale, {}, to, noise=forward_deviation(to, x.level))

    def rebase(self, x: Form, on: Form) -> Form:
        """`x` written in terms of `on`, a state at which the network was asked: x = on + (x − on).

        The terms that `x` and `on` share cancel. A corrected state shares its past with the state that it corrects.
        Without `rebase`, a row would have more terms with every step. Fresh noise of both counts as one z, which
        cancels too: the correction of a step has that step's noise. ValueError where the deviations differ.
        """
        if x.noise != on.noise:
            raise ValueError(
                f"the fresh noises of deviation {x.noise:g} and {on.noise:g} are not one: a row has one noise, not a "
                f"difference of two"
            )
        states, answers = dict(x.states), dict(x.answers)
        for mine, others in ((states, on.states), (answers, on.answers)):
            for index, weight in others:
                mine[index] = mine.get(index, 0.0) - weight
        row = self._call(self.ask(on))
        states[row] = states.get(row, 0.0) + 1.0
        return Form(x.level, _terms(states), _terms(answers), stage=x.stage)

    def table(self, end: Form, name: str, kind: Callable[..., Made] = Table) -> Made:
        """The table of a program whose last state is `end`. ValueError unless that is at the grid's last level."""
        if end.level != self.grid.levels[-1]:
            raise ValueError(
                f"{name} ends at t = {end.level.t:g}, not at the grid's end, t = {self.grid.levels[-1].t:g}"
            )
        asked = [answer.at for answer in self._rows]
        rows = tuple(
            Row.written(answer.level, *made[1:4], made.stage, answer.space)
            for answer, made in zip(self._rows, [*asked[1:], end], strict=False)
        )
        tabular = self.grid.schedule.num_train_timesteps is not None
        return kind(rows, end.level, tabular and all(row.t.is_integer() for row in rows), name)

    def _call(self, answer: Answer) -> int:
        """The row of the model call that gives the answer."""
        if answer not in self._rows:
            row = self._rows[answer] = len(self._rows)
            # From now on the state has a number. A question at the state under that number finds this answer too.
            self._states.append(Form(answer.level, ((row, 1.0),), ()))
            self._answers[self._states[row].numbers] = answer
        return self._rows[answer]

    def _written(self, x: Form, answer: Answer | None) -> Form:
        """`x` itself; once the network is called at it, with this `answer`, the form that names it as a state."""
        return x if answer not in self._rows else self._states[self._rows[answer]]


def _weights(answer: Answer, part: Mapping[str, float]) -> tuple[float, float]:
    """(p, q) such that p·x + q·answer is the sum of a part's predictions, each with its weight."""
    answer.become("epsilon")
    pairs = [(weight, *conversion(answer.space, name, *answer.level[1:])) for name, weight in part.items()]
    return sum(weight * p for weight, p, _ in pairs), sum(weight * q for weight, _, q in pairs)


def _terms(weights: Mapping[int, float]) -> Terms:
    return tuple([(index, float(weights[index])) for index in sorted(weights) if weights[index]])
