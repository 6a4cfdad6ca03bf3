"""What a row comes to where nothing but its sum is asked for: the weights are laid down before the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from torch import Tensor

from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.table import Terms

__all__ = ["Arrays", "Course", "Line"]

Arrays = Mapping[int, Any]
Weights = tuple[float, float]


class Line(NamedTuple):
    """A row without noise, for a network of one kind whose picture is left as it is.

    Attributes
    ----------
    row:
        Its number.
    picture, used:
        (p, q) of x̂_0 = p·x + q·answer, and of what the row combines; None for the answer itself.
    states, answers:
        The states and the earlier answers of the row's sum, with their weights.
    newest:
        The weight of the row's own answer, which is the last term; None where the sum does without.
    keeps_state, keeps_answer:
        Whether later rows need this row's state, and its answer.
    older_states, older_answers:
        The earlier ones that later rows need.
    """

    row: int
    picture: Weights | None
    used: Weights | None
    states: Terms
    answers: Terms
    newest: float | None
    keeps_state: bool
    keeps_answer: bool
    older_states: tuple[int, ...]
    older_answers: tuple[int, ...]

    def step(self, x: Tensor, answer: Tensor, states: Arrays, answers: Arrays) -> tuple[Tensor, Tensor, Arrays, Arrays]:
        """The next sample, x̂_0, and the states and answers that later rows need.

        The sums are those of `converted` and `State.combined`, so every bit is the same. What is kept is a copy, since
        the caller may write into its tensors, and into those that it gets.
        """
        row, picture, used, state_terms, answer_terms, newest = self[:6]
        x0 = answer if picture is None else _sum([(x, picture[0]), (answer, picture[1])])
        own = x0 if used == picture else answer if used is None else _sum([(x, used[0]), (answer, used[1])])
        if self.keeps_answer and (own is x0 or own is answer):
            own = own.clone()
        terms = [(x if i == row else states[i], w) for i, w in state_terms]
        terms += [(answers[j], w) for j, w in answer_terms]
        if newest is not None:
            terms.append((own, newest))
        following = _sum(terms)
        states, answers = {i: states[i] for i in self.older_states}, {j: answers[j] for j in self.older_answers}
        if self.keeps_state:
            states[row] = x.clone()
        if self.keeps_answer:
            answers[row] = own
        return following, x0, states, answers


def _sum(terms: list[tuple[Tensor, float]]) -> Tensor:
    """Σ weight·array for arrays of one dtype, as `combine` makes it, without what that looks up for each array."""
    first, weight = terms[0]
    dtype = first.dtype
    wide = first if dtype.itemsize > 3 else first.float()
    total = wide * weight
    for array, weight in terms[1:]:
        total.add_(array, alpha=weight)
    return total if wide is first else total.to(dtype)


class Course:
    """A method on the times of a table from `begin` on.

    Attributes
    ----------
    plan:
        The method's plan.
    rows:
        The row of the plan for each of these times; None for a time whose answer is not used, since it comes again.
    """

    def __init__(self, plan: Plan, begin: int, rows: Sequence[int | None]) -> None:
        self.plan, self.begin, self.rows = plan, begin, rows
        self._lines: dict[str, list[Line | None]] = {}

    def line(self, entry: int, kind: str) -> Line | None:
        """What the row at an index of the table's times comes to; None where that is more than its sum."""
        lines = self._lines.get(kind)
        if lines is None:
            made = _lines(self.plan, kind)
            self._lines[kind] = lines = [None if row is None else made[row] for row in self.rows]
        return lines[entry - self.begin]


def _lines(plan: Plan, kind: str) -> list[Line | None]:
    """For each row of a plan its line, with a network that predicts `kind`."""
    prediction, lines = Prediction(kind), []
    states: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()
    for k, (row, (dead_states, dead_answers)) in enumerate(zip(plan.rows, plan.last_uses, strict=True)):
        keeps_state, keeps_answer = k not in dead_states, k not in dead_answers
        states = tuple(i for i in states if i not in dead_states)
        answers = tuple(j for j in answers if j not in dead_answers)
        earlier = tuple((j, w) for j, w in row.answers if j < k)
        newest = row.answers[-1][1] if len(earlier) < len(row.answers) else None
        line = None
        if not row.noise:
            with suppress(ValueError):  # left to the step, whose error it is
                ways = [prediction.conversions(space, row.alpha, row.sigma) for space in ("sample", row.space)]
                picture, used = (way[0] if way else None for way in ways)
                keeps = keeps_state, keeps_answer, states, answers
                line = Line(k, picture, used, row.states, earlier, newest, *keeps)
        lines.append(line)
        states, answers = states + (k,) * keeps_state, answers + (k,) * keeps_answer
    return lines
